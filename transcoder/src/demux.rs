//! Packets out of a source.
//!
//! Opening reads as little as the container allows, so that work can begin while the upload goes on:
//! - MP4 is opened for random access, but told not to look for anything behind the media data (`ignidx`). With the index
//!   in front, nothing beyond the frames asked for is read; with the index at the end, opening waits for the end.
//! - Matroska and WebM are read strictly forward until the upload is complete; then their cues may be used for seeking.
//! - Transport streams are always read forward: they have no index, and libav would look for their duration at the end.
//! - AVI has its index at the end and needs it.
//!
//! libav's exit codes are no proof of anything: a file cut off in the middle ends like a whole one. Callers count what
//! they get.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex};

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Dictionary, Error, Packet, media};

use crate::error::{Code, Failure};
use crate::ffi;
use crate::job::Source;
use crate::probe::codecs::DECODERS;
use crate::probe::mp4::{Index, find_index};
use crate::probe::sniff::{Container, HEAD_BYTES, sniff};

/// Bytes that libav reads at a time.
const BUFFER_BYTES: usize = 256 * 1024;

/// Packets that the demuxer may refuse in a row before the file counts as unreadable.
const REFUSALS_MAX: u32 = 1000;

/// How far libav reads ahead for the details of the tracks: bytes, and microseconds of media.
const PROBE_BYTES: &str = "5000000";
const PROBE_MICROSECONDS: &str = "5000000";

/// How thoroughly a source is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// All that libav can find out about the tracks; for deciding.
    Analyze,
    /// What the container's headers say, where that is enough for decoding.
    Headers,
}

/// An open source.
pub(crate) struct Demuxer {
    pub(crate) input: Input,
    pub(crate) container: Container,
    /// All bytes of the source, if they have all arrived.
    pub(crate) complete_len: Option<u64>,
    /// Milliseconds according to the container's headers.
    pub(crate) duration_ms: Option<u64>,
    watch: Watch,
    joints: Option<Joints>,
}

impl Demuxer {
    /// Recognizes and opens a source.
    ///
    /// # Errors
    /// `empty_file`, `not_a_video`, `unsupported_container`, `truncated`, `corrupt_media`, `source_unavailable`.
    pub(crate) fn open(mut source: impl Source, depth: Depth) -> Result<Self, Failure> {
        let unavailable =
            |error: io::Error| Failure::new(Code::SourceUnavailable, error.to_string());
        let container = sniff(&head(&mut source).map_err(unavailable)?).map_err(|code| {
            Failure::new(code, "The content is none of MP4, Matroska, WebM, AVI and MPEG-TS.")
        })?;
        if container == Container::Mov
            && find_index(&mut source).map_err(unavailable)? == Index::Missing
        {
            return Err(Failure::new(
                Code::Truncated,
                "The file ends before its index (the moov box).",
            ));
        }
        source.seek(SeekFrom::Start(0)).map_err(unavailable)?;
        let complete_len = source.len().filter(|_| source.is_complete());
        let random_access = match container {
            Container::Mov | Container::Avi => true,
            Container::Matroska => source.is_complete(),
            Container::MpegTs => false,
        };
        let watch = Watch::default();
        let watched = Watched { source, watch: watch.clone() };
        let io = if random_access {
            StreamIo::from_read_seek_with_capacity(watched, BUFFER_BYTES)
        } else {
            StreamIo::from_read_with_capacity(watched, BUFFER_BYTES)
        };
        let opened = io.and_then(|io| ffi::open_input(io, container.demuxer(), options(container)));
        let input = opened.map_err(|error| watch.explain(error, "The headers cannot be read"))?;
        let mut demuxer = Self {
            duration_ms: u64::try_from(input.duration())
                .ok()
                .map(|us| us / 1000)
                .filter(|ms| *ms > 0),
            input,
            container,
            complete_len,
            watch,
            joints: (container == Container::MpegTs).then(Joints::default),
        };
        if container == Container::MpegTs {
            demuxer.duration_ms = None;
        }
        // Only MP4 and Matroska have all that decoders need in their headers.
        let headers_suffice = matches!(container, Container::Mov | Container::Matroska);
        if depth == Depth::Analyze || !headers_suffice {
            ffi::find_stream_info(&mut demuxer.input)
                .map_err(|error| demuxer.watch.explain(error, "The tracks cannot be read"))?;
        }
        Ok(demuxer)
    }

    /// From now on only the packets of these streams.
    pub(crate) fn select(&mut self, streams: &[usize]) {
        // Where clocks may jump, all streams are needed to notice: see `Joints`.
        if self.joints.is_some() {
            return;
        }
        for stream in 0..self.input.nb_streams() as usize {
            ffi::set_wanted(&mut self.input, stream, streams.contains(&stream));
        }
    }

    /// The next packet of any selected stream, or `None` at the end.
    ///
    /// # Errors
    /// `source_unavailable`, `corrupt_media`.
    pub(crate) fn next(&mut self) -> Result<Option<Packet>, Failure> {
        for _ in 0..REFUSALS_MAX {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) => {
                    if let Some(joints) = &mut self.joints {
                        joints.mend(&mut packet, &self.input);
                    }
                    return Ok(Some(packet));
                }
                Err(Error::InvalidData) => self.watch.check()?,
                // libav asked for as much as the index claims that one packet has. Another try would ask for as much.
                Err(Error::Other { errno: libc::ENOMEM }) => {
                    self.watch.check()?;
                    return Err(Failure::new(
                        Code::CorruptMedia,
                        "A packet claims to be larger than any can be.",
                    ));
                }
                Err(Error::Eof) => {
                    self.watch.check()?;
                    return Ok(None);
                }
                Err(error) => {
                    return Err(self.watch.explain(error, "The source cannot be read on"));
                }
            }
        }
        Err(Failure::new(Code::CorruptMedia, "Too many packets in a row cannot be read."))
    }

    /// Goes to the last keyframe of the stream at or before the timestamp. `false` when the container cannot seek; then
    /// the position is not known, and the source has to be opened again.
    pub(crate) fn seek(&mut self, stream: usize, timestamp: i64) -> Result<bool, Failure> {
        let result = ffi::seek(&mut self.input, stream, timestamp);
        self.watch.check()?;
        Ok(result.is_ok())
    }
}

fn options(container: Container) -> Dictionary<'static> {
    let mut options = Dictionary::new();
    options.set("format_whitelist", container.demuxer());
    options.set("codec_whitelist", DECODERS);
    options.set("protocol_whitelist", "none");
    options.set("probesize", PROBE_BYTES);
    options.set("analyzeduration", PROBE_MICROSECONDS);
    if container == Container::Mov {
        options.set("fflags", "+ignidx");
        options.set("ignore_chapters", "1"); // these lie anywhere in the file
        options.set("enable_drefs", "0");
        options.set("use_absolute_path", "0");
    }
    options
}

fn head(source: &mut impl Source) -> io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(0))?;
    let mut head = Vec::new();
    source.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(head)
}

/// Remembers the source's first error: libav keeps only a number, and sometimes calls it the end of the file.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Option<String>>>);

impl Watch {
    fn note(&self, error: &io::Error) {
        if error.kind() != io::ErrorKind::Unsupported
            && let Ok(mut first) = self.0.lock()
        {
            first.get_or_insert_with(|| error.to_string());
        }
    }

    fn check(&self) -> Result<(), Failure> {
        match self.0.lock().ok().and_then(|first| first.clone()) {
            Some(error) => Err(Failure::new(Code::SourceUnavailable, error)),
            None => Ok(()),
        }
    }

    fn explain(&self, error: Error, what: &str) -> Failure {
        if let Err(failure) = self.check() {
            return failure;
        }
        let is_memory = error == Error::Other { errno: libc::ENOMEM };
        let code = if is_memory { Code::Internal } else { Code::CorruptMedia };
        Failure::new(code, format!("{what}: {error}."))
    }
}

struct Watched<S> {
    source: S,
    watch: Watch,
}

impl<S: Read> Read for Watched<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.source.read(buffer).inspect_err(|error| self.watch.note(error))
    }
}

impl<S: Seek> Seek for Watched<S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.source.seek(to).inspect_err(|error| self.watch.note(error))
    }
}

/// Where the clock of a transport stream jumps (a recording that was joined, or 26.5 hours that have passed), time goes
/// on as if it had not.
///
/// The correction depends on the packets of all streams with pictures or sound, in their order in the file, and on nothing else; so every job
/// that reads from the beginning corrects alike.
#[derive(Default)]
struct Joints {
    /// Added to all timestamps, in microseconds.
    shift: i64,
    /// For each stream, where its last packet ended after correction, in microseconds.
    ends: Vec<Option<i64>>,
}

/// A jump of more than this is a joint, and not a pause: as the ffmpeg program has it (`dts_delta_threshold`).
const JUMP_MICROSECONDS: i64 = 10_000_000;

impl Joints {
    fn mend(&mut self, packet: &mut Packet, input: &Input) {
        let Some(stream) = input.stream(packet.stream()) else { return };
        // Subtitles and data may be silent for minutes.
        if !matches!(stream.parameters().medium(), media::Type::Video | media::Type::Audio) {
            return;
        }
        let unit = f64::from(stream.time_base()) * 1e6;
        let (Some(time), true) = (packet.dts().or(packet.pts()), unit > 0.0) else { return };
        let time = (time as f64 * unit) as i64;
        let index = packet.stream();
        if self.ends.len() <= index {
            self.ends.resize(index + 1, None);
        }
        if let Some(end) = self.ends[index] {
            let jump = time.saturating_add(self.shift).saturating_sub(end);
            if jump.abs() > JUMP_MICROSECONDS {
                self.shift = self.shift.saturating_sub(jump);
            }
        }
        let duration = (packet.duration().max(0) as f64 * unit) as i64;
        self.ends[index] = Some(time.saturating_add(self.shift).saturating_add(duration));
        let shift = (self.shift as f64 / unit).round() as i64;
        packet.set_dts(packet.dts().map(|dts| dts.saturating_add(shift)));
        packet.set_pts(packet.pts().map(|pts| pts.saturating_add(shift)));
    }
}
