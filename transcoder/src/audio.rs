//! The sound, encoded as one job: AAC-LC, stereo, 48 kHz.
//!
//! One job for the whole track, because two runs of an AAC encoder cannot be joined without a click: each frame overlaps
//! its neighbours. It runs some fifty times faster than the sound plays, so nothing is lost by that.
//!
//! Sound stays where the source has it: silence goes where the source has none, samples before the video's beginning are
//! cut off, and small drifts of the timestamps are evened out.

use ffmpeg_next::codec::{self, decoder, encoder, threading};
use ffmpeg_next::format::sample::{Sample, Type};
use ffmpeg_next::{ChannelLayout, Dictionary, Error, Packet, Rational, filter, frame};

use crate::demux::{Demuxer, Depth};
use crate::error::{Code, Failure};
use crate::ffi;
use crate::job::{AudioJob, Outcome, Output, Sink, Source};
use crate::plan::Lane;
use crate::probe::codecs::DECODERS;
use crate::recipe::{AudioRecipe, Recipe};
use crate::sound_track::{SoundCuts, SoundFormat, SoundTrack};

/// Gaps longer than this (in samples) are filled frame by frame; libswresample would collect the silence in memory.
const GAP_SAMPLES_MAX: u64 = 2 * 48_000;

const FORMAT: Sample = Sample::F32(Type::Planar);

pub(crate) fn run(job: &AudioJob, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    let recipe = Recipe::decode(&job.recipe)?;
    let audio = recipe.audio.as_ref();
    let audio =
        audio.filter(|audio| audio.rendition == job.rendition && audio.lane == Lane::Encode);
    let audio = audio.ok_or_else(|| Failure::bad_job("The job names no sound that is encoded."))?;
    let video = &recipe.video;
    let cuts = SoundCuts::new(&job.cuts, &video.clock, audio.sample_rate, video.cuts_itself);

    let mut demuxer = Demuxer::open(source, Depth::Headers)?;
    demuxer.select(&[audio.stream]);
    let mut decoder = open_decoder(&demuxer, audio)?;
    let samples_max = recipe.duration_ms_max.saturating_mul(u64::from(audio.sample_rate)) / 1000;
    let mut mixer = Mixer { audio: audio.clone(), graph: None, end: 0, samples_max };
    let mut encoder = SoundEncoder::open(audio, cuts, sink)?;
    let mut frames = 0u64;
    let mut ended = false;
    while !ended {
        match demuxer.next()? {
            Some(packet) if packet.stream() != audio.stream => continue,
            // A damaged packet leaves a gap, and gaps are filled.
            Some(packet) if decoder.send_packet(&packet).is_err() => continue,
            Some(_) => {}
            None => {
                ended = true;
                let _ = decoder.send_eof();
            }
        }
        let mut decoded = frame::Audio::empty();
        while decoder.receive_frame(&mut decoded).is_ok() {
            frames += 1;
            mixer.push(&mut decoded, &mut encoder, sink)?;
            decoded = frame::Audio::empty();
        }
    }
    if frames == 0 {
        return Err(Failure::new(Code::CorruptMedia, "No sound of the source can be decoded."));
    }
    mixer.finish(&mut encoder, sink)?;
    encoder.finish(sink)
}

fn open_decoder(demuxer: &Demuxer, audio: &AudioRecipe) -> Result<decoder::Audio, Failure> {
    let stream = demuxer.input.stream(audio.stream);
    let stream = stream.ok_or_else(|| Failure::bad_job("The source has no such track."))?;
    let parameters = stream.parameters();
    let codec = decoder::find(parameters.id()).ok_or_else(|| {
        Failure::new(Code::UnsupportedCodec, "There is no decoder for the sound.")
    })?;
    let failed = |error: Error| {
        Failure::new(Code::CorruptMedia, format!("The sound cannot be decoded: {error}."))
    };
    let mut context = codec::Context::from_parameters(parameters).map_err(failed)?;
    context.set_threading(threading::Config::count(1));
    let mut decoder = context.decoder();
    decoder.set_packet_time_base(stream.time_base());
    let mut options = Dictionary::new();
    options.set("codec_whitelist", DECODERS);
    decoder.open_as_with(codec, options).and_then(|opened| opened.audio()).map_err(failed)
}

/// Decoded frames of any kind become frames for the encoder.
struct Mixer {
    audio: AudioRecipe,
    graph: Option<(filter::Graph, Format)>,
    /// Output samples up to where the source's sound has come.
    end: u64,
    samples_max: u64,
}

/// What a filter graph was made for; a source may change it on the way.
type Format = (u32, Sample, u64);

impl Mixer {
    fn push(
        &mut self,
        frame: &mut frame::Audio,
        encoder: &mut SoundEncoder,
        sink: &mut dyn Sink,
    ) -> Result<(), Failure> {
        let rate = frame.rate().max(1);
        let base = self.audio.time_base;
        let position = frame.timestamp().map(|time| time.saturating_sub(self.audio.origin));
        let seconds = position.map(|position| position as f64 * base.as_f64());
        let start = seconds.map(|seconds| seconds * f64::from(self.audio.sample_rate));
        let lasts = frame.samples() as f64 / f64::from(rate) * f64::from(self.audio.sample_rate);
        let start = start.unwrap_or(self.end as f64);
        if start + lasts < 0.0 {
            return Ok(());
        }
        if start > self.samples_max as f64 {
            return Err(Failure::new(Code::TooLong, "The sound is longer than allowed."));
        }
        let layout = match frame.channel_layout().bits() {
            0 => ChannelLayout::default(i32::from(frame.channels())).bits(),
            bits => bits,
        };
        let format = (rate, frame.format(), layout);
        let gap = (start.max(0.0) as u64).saturating_sub(self.end);
        let is_other = self.graph.as_ref().is_some_and(|(_, known)| *known != format);
        if gap > GAP_SAMPLES_MAX || is_other {
            self.finish(encoder, sink)?;
            encoder.silence_until(start.max(0.0) as u64, sink)?;
        }
        if self.graph.is_none() {
            let graph = self.build(format, encoder.samples).map_err(|error| failed(&error))?;
            self.graph = Some((graph, format));
        }
        self.end = (start + lasts).max(0.0) as u64;
        let position =
            position.unwrap_or((start / f64::from(self.audio.sample_rate) / base.as_f64()) as i64);
        frame.set_pts(Some(position));
        let (graph, _) = self.graph.as_mut().expect("it was put there just now");
        let mut input = graph.get("in").expect("every graph has a source");
        input.source().add(frame).map_err(|error| failed(&error))?;
        self.drain(encoder, sink)
    }

    /// Brings out what the filters still hold, and forgets them.
    fn finish(&mut self, encoder: &mut SoundEncoder, sink: &mut dyn Sink) -> Result<(), Failure> {
        if let Some((graph, _)) = &mut self.graph {
            let mut input = graph.get("in").expect("every graph has a source");
            input.source().flush().map_err(|error| failed(&error))?;
            self.drain(encoder, sink)?;
        }
        self.graph = None;
        Ok(())
    }

    fn drain(&mut self, encoder: &mut SoundEncoder, sink: &mut dyn Sink) -> Result<(), Failure> {
        let Some((graph, _)) = &mut self.graph else { return Ok(()) };
        let mut output = graph.get("out").expect("every graph has a sink");
        loop {
            let mut frame = frame::Audio::empty();
            match output.sink().frame(&mut frame) {
                Ok(()) => encoder.push(frame, sink)?,
                Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    /// `first` is the output sample that this graph begins with.
    fn build(&self, (rate, sample, layout): Format, first: u64) -> Result<filter::Graph, Error> {
        let find = |name| filter::find(name).ok_or(Error::FilterNotFound);
        let mut graph = filter::Graph::new();
        let base = self.audio.time_base;
        let arguments = format!(
            "time_base={}/{}:sample_rate={rate}:sample_fmt={}:channel_layout=0x{layout:x}",
            base.num,
            base.den,
            sample.name()
        );
        graph.add(&find("abuffer")?, "in", &arguments)?;
        graph.add(&find("abuffersink")?, "out", "")?;
        let description = format!(
            "[in]aresample={}:async=1:first_pts={first},\
             aformat=sample_fmts=fltp:sample_rates={}:channel_layouts=stereo[out]",
            self.audio.sample_rate, self.audio.sample_rate
        );
        graph.output("in", 0)?.input("out", 0)?.parse(&description)?;
        graph.validate()?;
        graph.get("out").expect("it was added above").sink().set_frame_size(FRAME_SAMPLES);
        Ok(graph)
    }
}

/// Samples that the encoder takes at a time.
const FRAME_SAMPLES: u32 = crate::cmaf::aac::FRAME_SAMPLES;

struct SoundEncoder {
    encoder: encoder::Audio,
    track: SoundTrack,
    /// Samples that were put in.
    samples: u64,
    /// Samples that the encoder puts before them.
    delay: u64,
    sample_rate: u32,
    /// The rest that was shorter than a frame; only the last frame may be that.
    rest: Option<frame::Audio>,
}

impl SoundEncoder {
    fn open(audio: &AudioRecipe, cuts: SoundCuts, sink: &mut dyn Sink) -> Result<Self, Failure> {
        let codec = encoder::find_by_name("aac").ok_or_else(|| {
            Failure::new(Code::Internal, "libav was built without an AAC encoder.")
        })?;
        let mut context = codec::Context::new_with_codec(codec);
        context.set_flags(codec::Flags::GLOBAL_HEADER);
        let rate = i32::try_from(audio.sample_rate).unwrap_or(i32::MAX);
        context.set_time_base(Rational::new(1, rate));
        let mut settings = context.encoder().audio().map_err(|error| failed(&error))?;
        settings.set_rate(rate);
        settings.set_format(FORMAT);
        settings.set_channel_layout(ChannelLayout::STEREO);
        settings.set_bit_rate(audio.bit_rate as usize);
        let encoder = settings.open_as(codec).map_err(|error| failed(&error))?;
        let delay = u64::from(ffi::encoder_delay(&encoder));
        let format = SoundFormat {
            sample_rate: audio.sample_rate,
            channels: audio.channels,
            config: ffi::extradata(&encoder),
            bit_rate: audio.bit_rate,
        };
        let track = SoundTrack::begin(audio.rendition, format, delay, cuts, sink)?;
        Ok(Self { encoder, track, samples: 0, delay, sample_rate: audio.sample_rate, rest: None })
    }

    fn push(&mut self, mut frame: frame::Audio, sink: &mut dyn Sink) -> Result<(), Failure> {
        if frame.samples() < FRAME_SAMPLES as usize {
            self.rest = Some(frame);
            return Ok(());
        }
        let before = self.samples / u64::from(self.sample_rate);
        frame.set_pts(i64::try_from(self.samples).ok());
        self.samples += frame.samples() as u64;
        self.encoder.send_frame(&frame).map_err(|error| failed(&error))?;
        self.receive(sink)?;
        let seconds = self.samples / u64::from(self.sample_rate);
        // Sound is fast: said once per ten seconds of it.
        if seconds / 10 > before / 10 {
            let progress = Output::Progress { media_ms: seconds * 1000 };
            sink.put(progress).map_err(|error| crate::sink_closed(&error))?;
        }
        Ok(())
    }

    /// Fills up with silence, by whole frames. A rest before it is given up: twenty milliseconds next to a gap.
    fn silence_until(&mut self, target: u64, sink: &mut dyn Sink) -> Result<(), Failure> {
        self.rest = None;
        while self.samples + u64::from(FRAME_SAMPLES) <= target {
            let mut frame =
                frame::Audio::new(FORMAT, FRAME_SAMPLES as usize, ChannelLayout::STEREO);
            frame.set_rate(self.sample_rate);
            for plane in 0..frame.planes() {
                frame.plane_mut::<f32>(plane).fill(0.0);
            }
            self.push(frame, sink)?;
        }
        Ok(())
    }

    fn receive(&mut self, sink: &mut dyn Sink) -> Result<(), Failure> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    let time = packet.pts().unwrap_or(0).saturating_add_unsigned(self.delay);
                    let time = u64::try_from(time).unwrap_or(0);
                    let data = packet.data().unwrap_or_default();
                    self.track.push(time, u64::from(FRAME_SAMPLES), data, sink)?;
                }
                Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn finish(mut self, sink: &mut dyn Sink) -> Outcome {
        if let Some(mut rest) = self.rest.take() {
            rest.set_pts(i64::try_from(self.samples).ok());
            self.encoder.send_frame(&rest).map_err(|error| failed(&error))?;
        }
        self.encoder.send_eof().map_err(|error| failed(&error))?;
        self.receive(sink)?;
        self.track.finish(sink)
    }
}

fn failed(error: &Error) -> Failure {
    Failure::new(Code::Internal, format!("The sound cannot be encoded: {error}."))
}
