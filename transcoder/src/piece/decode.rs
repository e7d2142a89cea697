//! Decoded frames from a given tick on.

use std::collections::VecDeque;

use ffmpeg_next::codec::{self, decoder, threading};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, frame};

use crate::clock::Clock;
use crate::demux::{Demuxer, Depth};
use crate::error::{Code, Failure};
use crate::ffi;
use crate::job::Source;
use crate::probe::codecs::DECODERS;
use crate::probe::sniff::Container;
use crate::recipe::Recipe;

/// More threads than that only cost memory: decoding is a small part of the work.
const THREADS_MAX: u16 = 4;

/// Seeking is tried this often, each time twice as far before the target, before the source is read from its beginning.
const SEEKS_MAX: u32 = 5;

/// Packets looked at to see where a seek ended.
const PACKETS_LOOKED_AT: usize = 500;

/// See the module.
pub(crate) struct Frames {
    demuxer: Demuxer,
    stream: usize,
    clock: Clock,
    decoder: decoder::Video,
    /// Read when looking where a seek ended.
    ahead: VecDeque<Packet>,
    draining: bool,
    /// Ticks from frame to frame on average.
    frame_ticks: u64,
    last_tick: Option<i64>,
    /// Frames that came out.
    pub(crate) decoded: u64,
}

impl Frames {
    /// Opens the source such that the frame on the screen at `start` will be among those that come.
    pub(crate) fn open(
        source: impl Source,
        recipe: &Recipe,
        start: u64,
        threads: u16,
    ) -> Result<Self, Failure> {
        let video = &recipe.video;
        let mut demuxer = Demuxer::open(source, Depth::Headers)?;
        demuxer.select(&[video.stream]);
        // AVI has no presentation times: a frame gets the time of the packet that brought it out, as it does in the ffmpeg
        // program. With one thread that does not depend on how many there are.
        let threads = if demuxer.container == Container::Avi { 1 } else { threads };
        let decoder = open_decoder(&demuxer, recipe, threads)?;
        let mut frames = Self {
            demuxer,
            stream: video.stream,
            clock: video.clock,
            decoder,
            ahead: VecDeque::new(),
            draining: false,
            frame_ticks: (f64::from(video.clock.timescale) / video.frame_rate.as_f64()).round()
                as u64,
            last_tick: None,
            decoded: 0,
        };
        if start > video.clock.lead && frames.can_seek() {
            frames.go_before(start)?;
        }
        Ok(frames)
    }

    fn can_seek(&self) -> bool {
        match self.demuxer.container {
            Container::Mov | Container::Avi => true,
            Container::Matroska => self.demuxer.complete_len.is_some(),
            Container::MpegTs => false,
        }
    }

    /// Goes to a keyframe that is shown at `start` or before. What a demuxer calls the right place may be one too late
    /// (indices hold decoding times), so the first packet is looked at.
    fn go_before(&mut self, start: u64) -> Result<(), Failure> {
        let target = self.clock.timestamp(start);
        let second = self.clock.timestamp(start + u64::from(self.clock.timescale)) - target;
        let mut back = 0;
        for attempt in 0..SEEKS_MAX {
            if !self.demuxer.seek(self.stream, target.saturating_sub(back))? {
                break;
            }
            if self.look_ahead()?.is_some_and(|shown| shown <= target) {
                return Ok(());
            }
            back = second << attempt;
        }
        self.ahead.clear();
        let begin = self.clock.origin.min(0);
        if self.demuxer.seek(self.stream, begin)? {
            return Ok(());
        }
        Err(Failure::new(Code::CorruptMedia, "The source's index leads nowhere."))
    }

    /// When the first keyframe from here on is shown; decoding begins with it.
    fn look_ahead(&mut self) -> Result<Option<i64>, Failure> {
        self.ahead.clear();
        for _ in 0..PACKETS_LOOKED_AT {
            let Some(packet) = self.demuxer.next()? else { return Ok(None) };
            if packet.stream() != self.stream || !packet.is_key() {
                continue;
            }
            let shown = packet.pts().or(packet.dts());
            self.ahead.push_back(packet);
            return Ok(shown);
        }
        Ok(None)
    }

    /// The next frame with its tick and how many ticks it lasts, or `None` after the last one.
    pub(crate) fn next(&mut self) -> Result<Option<(i64, u64, frame::Video)>, Failure> {
        loop {
            let mut frame = frame::Video::empty();
            match self.decoder.receive_frame(&mut frame) {
                Ok(()) => {
                    self.decoded += 1;
                    let next = self
                        .last_tick
                        .map_or(0, |last| last.saturating_add_unsigned(self.frame_ticks));
                    let tick = frame.timestamp().map_or(next, |time| self.clock.ticks(time));
                    self.last_tick = Some(tick);
                    let lasts = match self.clock.span(ffi::frame_duration(&frame)) {
                        0 => self.frame_ticks,
                        lasts => lasts,
                    };
                    return Ok(Some((tick, lasts, frame)));
                }
                Err(Error::Eof) => return Ok(None),
                Err(Error::Other { errno: libc::EAGAIN }) => self.feed()?,
                Err(Error::Other { errno: libc::ENOMEM }) => {
                    return Err(Failure::new(Code::Internal, "Memory ran out while decoding."));
                }
                // A damaged frame; the ones after it may be whole.
                Err(_) => self.feed()?,
            }
        }
    }

    fn feed(&mut self) -> Result<(), Failure> {
        if self.draining {
            return Ok(());
        }
        loop {
            let packet = match self.ahead.pop_front() {
                Some(packet) => Some(packet),
                None => self.demuxer.next()?,
            };
            let Some(packet) = packet else {
                self.draining = true;
                let _ = self.decoder.send_eof();
                return Ok(());
            };
            if packet.stream() == self.stream && self.decoder.send_packet(&packet).is_ok() {
                return Ok(());
            }
        }
    }
}

fn open_decoder(
    demuxer: &Demuxer,
    recipe: &Recipe,
    threads: u16,
) -> Result<decoder::Video, Failure> {
    let stream = demuxer.input.stream(recipe.video.stream);
    let stream = stream.ok_or_else(|| Failure::bad_job("The source has no such track."))?;
    let parameters = stream.parameters();
    let codec = decoder::find(parameters.id()).ok_or_else(|| {
        Failure::new(Code::UnsupportedCodec, "There is no decoder for the pictures.")
    })?;
    let failed = |error: Error| {
        Failure::new(Code::CorruptMedia, format!("The pictures cannot be decoded: {error}."))
    };
    let mut context = codec::Context::from_parameters(parameters).map_err(failed)?;
    context.set_threading(threading::Config {
        kind: threading::Type::Frame,
        count: usize::from(threads.clamp(1, THREADS_MAX)),
        ..threading::Config::default()
    });
    let mut decoder = context.decoder();
    let base: Rational = stream.time_base();
    decoder.set_packet_time_base(base);
    let mut options = Dictionary::new();
    options.set("codec_whitelist", DECODERS);
    options.set("max_pixels", &recipe.pixels_max.to_string());
    decoder.open_as_with(codec, options).and_then(|opened| opened.video()).map_err(failed)
}
