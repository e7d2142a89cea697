//! The copy lane: the source's own frames in new boxes.
//!
//! One pass over the source, strictly forward, so it keeps pace with a running upload and costs next to nothing. What it
//! yields is as good as the promises of the plan, so these are checked again on every frame: each cut at a frame that
//! decoders can start at, nothing shown before its cut, no change of the parameter sets. Where a promise is broken the
//! job fails with `not_copyable`, and the source has to be prepared again for encoding.

use crate::clock::Clock;
use crate::cmaf::aac;
use crate::cmaf::avc::{self, Framing, ParameterSets, Sps};
use crate::cmaf::init::{Track, init_segment};
use crate::cmaf::segment::Segment;
use crate::demux::{Demuxer, Depth};
use crate::error::{Code, Failure};
use crate::ffi;
use crate::grid::{Grid, SEGMENT_SECONDS_MAX};
use crate::job::{CopyJob, Outcome, Output, Sink, Source};
use crate::plan::{Cuts, Lane};
use crate::probe::sniff::Container;
use crate::recipe::{AudioRecipe, Recipe, VideoRecipe};
use crate::segment_limit::SEGMENT_BYTES_MAX;
use crate::sound_track::{SoundCuts, SoundFormat, SoundTrack};

pub(crate) fn run(job: &CopyJob, source: impl Source, sink: &mut dyn Sink) -> Outcome {
    let recipe = Recipe::decode(&job.recipe)?;
    let mut demuxer = Demuxer::open(source, Depth::Headers)?;
    let mut pictures = None;
    let mut sound = None;
    for rendition in &job.renditions {
        let audio = recipe.audio.as_ref().filter(|audio| audio.rendition == *rendition);
        match (audio, recipe.video.rungs.get(usize::from(*rendition))) {
            (Some(audio), _) if audio.lane == Lane::Copy => {
                let cuts = SoundCuts::new(
                    &job.cuts,
                    &recipe.video.clock,
                    audio.sample_rate,
                    recipe.video.cuts_itself,
                );
                sound = Some(Sound::Waiting(audio.clone(), cuts));
            }
            (None, Some(rung)) if rung.lane == Lane::Copy => {
                pictures =
                    Some(Pictures::begin(*rendition, &recipe.video, &job.cuts, &demuxer, sink)?);
            }
            _ => return Err(Failure::bad_job("The job names renditions that are not copied.")),
        }
    }
    if pictures.is_none() && sound.is_none() {
        return Err(Failure::bad_job("The job names no renditions."));
    }
    let video_stream = pictures.as_ref().map(|_| recipe.video.stream);
    let audio_stream = recipe.audio.as_ref().filter(|_| sound.is_some()).map(|audio| audio.stream);
    let selected: Vec<usize> = video_stream.into_iter().chain(audio_stream).collect();
    demuxer.select(&selected);
    while let Some(packet) = demuxer.next()? {
        // The last frame of a file that was cut off may be half a frame. In a transport stream the mark means less.
        if packet.is_corrupt() && demuxer.container != Container::MpegTs {
            continue;
        }
        if Some(packet.stream()) == video_stream
            && let Some(pictures) = &mut pictures
        {
            pictures.push(&packet, recipe.duration_ms_max, sink)?;
        } else if Some(packet.stream()) == audio_stream
            && let Some(waiting) = sound.take()
        {
            sound = Some(waiting.push(&packet, &demuxer, sink)?);
        }
    }
    if let Some(sound) = sound {
        sound.finish(sink)?;
    }
    pictures.map_or(Ok(()), |pictures| pictures.finish(sink))
}

fn not_copyable(detail: &str) -> Failure {
    Failure::new(Code::NotCopyable, detail)
}

fn put(sink: &mut dyn Sink, output: Output) -> Result<(), Failure> {
    sink.put(output).map_err(|error| crate::sink_closed(&error))
}

/// Where the pictures are cut.
enum PictureCuts {
    /// The remaining ones of the plan, the next one last.
    Known(Vec<u64>),
    /// Those found so far.
    Found(Vec<u64>),
}

struct Pictures {
    rendition: u16,
    clock: Clock,
    grid: Grid,
    sets: ParameterSets,
    framing: Framing,
    cuts: PictureCuts,
    segment: Segment,
    number: u32,
    start: u64,
    /// The tick at which the last frame so far ends.
    end: u64,
    frame_ticks: u64,
    started: bool,
}

impl Pictures {
    fn begin(
        rendition: u16,
        recipe: &VideoRecipe,
        cuts: &Cuts,
        demuxer: &Demuxer,
        sink: &mut dyn Sink,
    ) -> Result<Self, Failure> {
        let parameters = ffi::parameters(&demuxer.input, recipe.stream);
        let (sets, framing) = ParameterSets::parse(&parameters.extradata)
            .ok_or_else(|| not_copyable("The track has not exactly one pair of parameter sets."))?;
        let sps =
            Sps::parse(&sets.sps).ok_or_else(|| not_copyable("The parameter set is damaged."))?;
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let track = Track::Video {
            width: side(sps.width),
            height: side(sps.height),
            avcc: sets.to_avcc(),
            color: sps.color,
        };
        let bytes = init_segment(&track, recipe.clock.timescale);
        put(sink, Output::Init { rendition, bytes, codecs: sets.codecs() })?;
        let cuts = match cuts {
            Cuts::Known(cuts) => PictureCuts::Known(cuts.iter().skip(1).rev().copied().collect()),
            Cuts::Discovered => PictureCuts::Found(vec![0]),
        };
        let average = f64::from(recipe.clock.timescale) / recipe.frame_rate.as_f64();
        Ok(Self {
            rendition,
            clock: recipe.clock,
            grid: recipe.grid(),
            sets,
            framing,
            cuts,
            segment: Segment::default(),
            number: 0,
            start: 0,
            end: 0,
            frame_ticks: average.round() as u64,
            started: false,
        })
    }

    fn push(
        &mut self,
        packet: &ffmpeg_next::Packet,
        duration_ms_max: u64,
        sink: &mut dyn Sink,
    ) -> Result<(), Failure> {
        let data = packet.data().unwrap_or_default();
        // Half a frame, at the end of a file that was cut off.
        if !avc::is_whole(data, self.framing) {
            return Ok(());
        }
        // A recording may begin in the middle of a group of pictures.
        if !self.started && !packet.is_key() {
            return Ok(());
        }
        self.started = true;
        let shown = packet.pts().map(|pts| self.clock.ticks(pts));
        let shown = shown.ok_or_else(|| not_copyable("A frame has no time."))?;
        let shown = if self.segment.is_empty() && self.number == 0 { shown.max(0) } else { shown };
        let shown = u64::try_from(shown).ok().filter(|tick| *tick >= self.start);
        let shown =
            shown.ok_or_else(|| not_copyable("A frame is shown before the cut it follows."))?;
        if self.sets.contradicted_by(data, self.framing) {
            return Err(not_copyable("The parameter sets change on the way."));
        }
        if packet.is_key() && !self.segment.is_empty() && self.is_cut(shown, data)? {
            self.finish_segment(shown, sink)?;
        }
        let longest = SEGMENT_SECONDS_MAX * u64::from(self.clock.timescale);
        if shown > self.start + longest + self.frame_ticks {
            return Err(not_copyable("The keyframes are too far apart."));
        }
        let framing = self.framing;
        self.segment.push(shown, packet.is_key(), |out| avc::append_frame(out, data, framing));
        if self.segment.len() as u64 > SEGMENT_BYTES_MAX {
            return Err(not_copyable("A segment has too many bytes."));
        }
        if self.clock.millis(shown) > duration_ms_max {
            return Err(Failure::new(Code::TooLong, "The video is longer than allowed."));
        }
        let lasts = match self.clock.span(packet.duration()) {
            0 => self.frame_ticks,
            lasts => lasts,
        };
        self.end = self.end.max(shown + lasts);
        Ok(())
    }

    /// Whether a new segment begins with this keyframe.
    fn is_cut(&mut self, shown: u64, data: &[u8]) -> Result<bool, Failure> {
        let is_idr = avc::nals(data, self.framing).any(|nal| avc::nal_type(nal) == avc::NAL_IDR);
        match &mut self.cuts {
            PictureCuts::Known(cuts) => match cuts.last() {
                Some(cut) if shown == *cut && is_idr => {
                    cuts.pop();
                    Ok(true)
                }
                Some(cut) if shown >= *cut => {
                    Err(not_copyable("There is no fit keyframe at a planned cut."))
                }
                _ => Ok(false),
            },
            PictureCuts::Found(cuts) => {
                let target = self.grid.after(self.start, self.number as usize) - self.start;
                let is_far_enough = shown - self.start >= target - target / 4;
                if is_far_enough && is_idr {
                    cuts.push(shown);
                }
                Ok(is_far_enough && is_idr)
            }
        }
    }

    fn finish_segment(&mut self, end: u64, sink: &mut dyn Sink) -> Result<(), Failure> {
        let bytes = self.segment.finish(self.number, self.start, end);
        let output = Output::Segment {
            rendition: self.rendition,
            number: self.number,
            start: self.start,
            duration: end - self.start,
            bytes,
        };
        put(sink, output)?;
        put(sink, Output::Progress { media_ms: self.clock.millis(end) })?;
        self.number += 1;
        self.start = end;
        Ok(())
    }

    fn finish(mut self, sink: &mut dyn Sink) -> Result<(), Failure> {
        if self.segment.is_empty() {
            return Err(Failure::new(
                Code::CorruptMedia,
                "The source has no frame that can be shown.",
            ));
        }
        self.finish_segment(self.end, sink)?;
        if let PictureCuts::Found(cuts) = &self.cuts {
            put(sink, Output::Cuts(cuts.clone()))?;
        }
        put(sink, Output::SourceEnd { ticks: self.end })
    }
}

enum Sound {
    /// The first frame decides what comes before the video's beginning.
    Waiting(AudioRecipe, SoundCuts),
    Running {
        track: SoundTrack,
        clock: Clock,
    },
}

impl Sound {
    fn push(
        self,
        packet: &ffmpeg_next::Packet,
        demuxer: &Demuxer,
        sink: &mut dyn Sink,
    ) -> Result<Self, Failure> {
        let Some(timestamp) = packet.pts().or(packet.dts()) else { return Ok(self) };
        let data = aac::without_adts(packet.data().unwrap_or_default());
        if data.is_empty() {
            return Ok(self);
        }
        let (mut track, clock) = match self {
            Self::Running { track, clock } => (track, clock),
            Self::Waiting(audio, cuts) => Self::begin(&audio, cuts, timestamp, demuxer, sink)?,
        };
        let time = u64::try_from(clock.ticks(timestamp)).unwrap_or(0);
        track.push(time, u64::from(aac::FRAME_SAMPLES), data, sink)?;
        Ok(Self::Running { track, clock })
    }

    fn begin(
        audio: &AudioRecipe,
        cuts: SoundCuts,
        first: i64,
        demuxer: &Demuxer,
        sink: &mut dyn Sink,
    ) -> Result<(SoundTrack, Clock), Failure> {
        let extradata = ffi::parameters(&demuxer.input, audio.stream).extradata;
        let config = if extradata.is_empty() {
            aac::config(audio.sample_rate, audio.channels)
        } else {
            Some(extradata)
        };
        let config =
            config.ok_or_else(|| not_copyable("The sound's format cannot be written down."))?;
        // Frames are all alike; timestamps that are rounded to milliseconds are not.
        let mut clock = Clock {
            time_base: audio.time_base,
            origin: first,
            lead: 0,
            timescale: audio.sample_rate,
            snap: Some(aac::FRAME_SAMPLES),
        };
        let before = clock.span(audio.origin.saturating_sub(first));
        clock.lead = clock.span(first.saturating_sub(audio.origin));
        let format = SoundFormat {
            sample_rate: audio.sample_rate,
            channels: audio.channels,
            config,
            bit_rate: audio.bit_rate,
        };
        let track = SoundTrack::begin(audio.rendition, format, before, cuts, sink)?;
        Ok((track, clock))
    }

    fn finish(self, sink: &mut dyn Sink) -> Result<(), Failure> {
        match self {
            Self::Running { track, .. } => track.finish(sink),
            // A track that was declared and stayed empty is no reason to refuse the pictures.
            Self::Waiting(..) => Ok(()),
        }
    }
}
