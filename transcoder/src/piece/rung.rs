//! One encoder: frames of one size in, segments out.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender};

use ffmpeg_next::codec::{self, encoder, threading};
use ffmpeg_next::{Dictionary, Error, Packet, Rational, color, format, frame, picture};

use super::Feed;
use crate::cmaf::avc::{self, Framing, ParameterSets};
use crate::cmaf::init::{Track, init_segment};
use crate::cmaf::segment::Segment;
use crate::error::{Code, Failure};
use crate::ffi;
use crate::grid::SEGMENT_SECONDS_MAX;
use crate::job::{Outcome, Output};
use crate::recipe::{RungRecipe, VideoRecipe};
use crate::segment_limit::SEGMENT_BYTES_MAX;

/// Seconds from one IDR frame to the next inside a segment, so that players can jump inside long segments.
const IDR_SECONDS: u64 = 2;

/// An IDR frame is not worth its bits this shortly before a cut, which brings one anyway. In parts of a second.
const IDR_BEFORE_CUT: u64 = 1;

/// What an encoder's thread needs to know.
pub(super) struct Settings<'a> {
    pub(super) rendition: u16,
    pub(super) first_segment: u32,
    /// The known cuts and the end of the piece.
    pub(super) cuts: &'a [u64],
    pub(super) end: Option<u64>,
    pub(super) threads: u16,
    pub(super) video: &'a VideoRecipe,
    pub(super) rung: &'a RungRecipe,
}

/// Encodes until the feed ends; results go to `results`. When the feed breaks off, this just ends: whoever broke it off
/// has said why.
pub(super) fn encode(
    settings: &Settings<'_>,
    feed: &Receiver<Feed>,
    results: &SyncSender<Output>,
) -> Outcome {
    let mut rung = Rung::open(settings, results)?;
    while let Ok(fed) = feed.recv() {
        let go_on = match fed {
            Feed::Frame(frame) => rung.push(frame)?,
            Feed::End(tick) => return rung.finish(tick),
        };
        if !go_on {
            break;
        }
    }
    Ok(())
}

struct Rung<'a> {
    settings: &'a Settings<'a>,
    results: &'a SyncSender<Output>,
    encoder: encoder::Video,
    /// First ticks of the segments that have begun to be fed and not begun to come out.
    cuts: VecDeque<u64>,
    /// The last cut that was fed.
    cut: u64,
    /// How many of the slots that the frame rate allows since then have been filled.
    slots: u64,
    idrs: u64,
    segment: Segment,
    start: u64,
    number: u32,
}

impl<'a> Rung<'a> {
    fn open(settings: &'a Settings<'a>, results: &'a SyncSender<Output>) -> Result<Self, Failure> {
        let encoder = open_encoder(settings)?;
        let (sets, _) = ParameterSets::parse(&ffi::extradata(&encoder))
            .ok_or_else(|| Failure::new(Code::Internal, "The encoder wrote no parameter sets."))?;
        let side = |pixels: u32| u16::try_from(pixels).unwrap_or(u16::MAX);
        let (primaries, transfer, matrix) = settings.video.picture.color;
        let track = Track::Video {
            width: side(settings.rung.width),
            height: side(settings.rung.height),
            avcc: sets.to_avcc(),
            color: Some((primaries, transfer, matrix, false)),
        };
        let bytes = init_segment(&track, settings.video.clock.timescale);
        let init = Output::Init { rendition: settings.rendition, bytes, codecs: sets.codecs() };
        // Nobody there: the first frame will not come either.
        let _ = results.send(init);
        Ok(Self {
            settings,
            results,
            encoder,
            cuts: VecDeque::new(),
            cut: 0,
            slots: 0,
            idrs: 0,
            segment: Segment::default(),
            start: 0,
            number: settings.first_segment,
        })
    }

    fn push(&mut self, mut frame: frame::Video) -> Result<bool, Failure> {
        let Some(tick) = frame.pts().and_then(|pts| u64::try_from(pts).ok()) else {
            return Ok(true);
        };
        let is_cut = frame.kind() == picture::Type::I;
        if is_cut {
            self.cuts.push_back(tick);
            (self.cut, self.slots, self.idrs) = (tick, 0, 0);
        }
        if !self.has_slot(tick) {
            return Ok(true);
        }
        let kind =
            if is_cut || self.needs_idr(tick) { picture::Type::I } else { picture::Type::None };
        frame.set_kind(kind);
        self.encoder.send_frame(&frame).map_err(|error| failed(&error))?;
        self.receive()
    }

    /// Whether a frame at this tick fits the frame rate: the first one in each slot does. Slots are counted from the cut,
    /// so the answer does not depend on where the piece began.
    fn has_slot(&mut self, tick: u64) -> bool {
        let rate = self.settings.rung.frame_rate;
        if rate == self.settings.video.frame_rate {
            return true;
        }
        let timescale = u64::from(self.settings.video.clock.timescale);
        let per = u128::from(timescale) * u128::from(rate.den);
        // Half a tick, for timestamps that were rounded down.
        let scaled = (u128::from(tick - self.cut) * 2 + 1) * u128::from(rate.num);
        let slot = u64::try_from(scaled / (per * 2)).unwrap_or(u64::MAX);
        let is_free = slot >= self.slots;
        if is_free {
            self.slots = slot + 1;
        }
        is_free
    }

    fn needs_idr(&mut self, tick: u64) -> bool {
        let timescale = u64::from(self.settings.video.clock.timescale);
        let passed = (tick - self.cut) / (IDR_SECONDS * timescale);
        if passed <= self.idrs {
            return false;
        }
        let known = self.settings.cuts.iter().copied().chain(self.settings.end);
        let next = known.filter(|cut| *cut > tick).min();
        if next.is_some_and(|next| next - tick < timescale / IDR_BEFORE_CUT) {
            return false;
        }
        self.idrs = passed;
        true
    }

    fn receive(&mut self) -> Result<bool, Failure> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    if !self.take(&packet)? {
                        return Ok(false);
                    }
                }
                Err(Error::Eof | Error::Other { errno: libc::EAGAIN }) => return Ok(true),
                Err(error) => return Err(failed(&error)),
            }
        }
    }

    fn take(&mut self, packet: &Packet) -> Result<bool, Failure> {
        let tick = packet.pts().and_then(|pts| u64::try_from(pts).ok()).unwrap_or(self.start);
        if packet.is_key() && self.cuts.front() == Some(&tick) {
            self.cuts.pop_front();
            if !self.segment.is_empty() && !self.finish_segment(tick) {
                return Ok(false);
            }
            self.start = tick;
        }
        let data = packet.data().unwrap_or_default();
        self.segment
            .push(tick, packet.is_key(), |out| avc::append_frame(out, data, Framing::AnnexB));
        if self.segment.len() as u64 > SEGMENT_BYTES_MAX {
            return Err(Failure::new(Code::Internal, "An encoded segment has too many bytes."));
        }
        Ok(true)
    }

    fn finish_segment(&mut self, end: u64) -> bool {
        let output = Output::Segment {
            rendition: self.settings.rendition,
            number: self.number,
            start: self.start,
            duration: end.saturating_sub(self.start),
            bytes: self.segment.finish(self.number, self.start, end),
        };
        self.number += 1;
        self.results.send(output).is_ok()
    }

    fn finish(mut self, end: u64) -> Outcome {
        self.encoder.send_eof().map_err(|error| failed(&error))?;
        if self.receive()? && !self.segment.is_empty() {
            self.finish_segment(end);
        }
        Ok(())
    }
}

fn failed(error: &Error) -> Failure {
    Failure::new(Code::Internal, format!("The encoder failed: {error}."))
}

fn open_encoder(settings: &Settings<'_>) -> Result<encoder::Video, Failure> {
    let codec = encoder::find_by_name("libx264")
        .ok_or_else(|| Failure::new(Code::Internal, "libav was built without libx264."))?;
    let rung = settings.rung;
    let rate = rung.frame_rate;
    let mut context = codec::Context::new_with_codec(codec);
    context.set_flags(codec::Flags::GLOBAL_HEADER);
    context.set_time_base(rational(1, settings.video.clock.timescale));
    context.set_frame_rate(Some(rational(rate.num, rate.den)));
    context.set_threading(threading::Config {
        kind: threading::Type::Frame,
        count: usize::from(settings.threads),
        ..threading::Config::default()
    });
    let (primaries, transfer, matrix) = settings.video.picture.color;
    ffi::set_color(&mut context, primaries, transfer, matrix);
    let mut video = context.encoder().video().map_err(|error| failed(&error))?;
    video.set_width(rung.width);
    video.set_height(rung.height);
    video.set_format(format::Pixel::YUV420P);
    video.set_color_range(color::Range::MPEG);
    video.set_aspect_ratio(rational(1, 1));
    let longest_group = (rate.as_f64() * SEGMENT_SECONDS_MAX as f64).ceil() as u64;
    let mut options = Dictionary::new();
    options.set("preset", "veryfast");
    options.set("profile", "high");
    options.set("crf", &rung.crf.to_string());
    options.set("maxrate", &rung.cap.to_string());
    options.set("bufsize", &rung.cap.saturating_mul(2).to_string());
    options.set("bf", "2");
    // IDR frames are asked for where they are wanted; this only bounds what happens otherwise.
    options.set("g", &longest_group.max(1).to_string());
    options.set("forced-idr", "1");
    options.set("a53cc", "0");
    options.set("x264-params", "scenecut=0:open-gop=0:stitchable=1");
    video.open_as_with(codec, options).map_err(|error| failed(&error))
}

fn rational(num: u32, den: u32) -> Rational {
    let int = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
    Rational::new(int(num), int(den))
}
