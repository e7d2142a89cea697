//! What is found out about a source before deciding.

use ffmpeg_next::codec::Id;
use ffmpeg_next::codec::packet::side_data::Type as SideData;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Rational, Stream, media};

use crate::clock::Ratio;
use crate::cmaf::avc::{self, Framing, ParameterSets, Sps};
use crate::demux::{Demuxer, Depth};
use crate::error::{Code, Failure};
use crate::ffi::{self, IndexEntry, Parameters};
use crate::job::{Limits, Source};
use crate::probe::codecs::{is_audio_supported, is_video_supported};
use crate::probe::sniff::Container;
use crate::recipe::Turn;

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) container: Container,
    /// Milliseconds according to the headers.
    pub(crate) duration_ms: Option<u64>,
    pub(crate) video: VideoFacts,
    pub(crate) audio: Option<AudioFacts>,
}

#[derive(Clone, Debug)]
pub(crate) struct VideoFacts {
    pub(crate) stream: usize,
    pub(crate) time_base: Ratio,
    /// Timestamp of the first frame.
    pub(crate) start: i64,
    pub(crate) parameters: Parameters,
    pub(crate) turn: Turn,
    /// Frames per second on average.
    pub(crate) frame_rate: Ratio,
    /// Frames per second, when that seems not to change.
    pub(crate) constant_rate: Option<Ratio>,
    /// From frame to frame, when that is always the same by the index.
    pub(crate) step: Option<i64>,
    pub(crate) index: Option<Index>,
    pub(crate) copy: Copyable,
    /// Whether the job wants copies at all.
    pub(crate) copy_allowed: bool,
}

/// What a complete index says about the pictures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Index {
    /// Presentation timestamps of the keyframes, rising.
    pub(crate) keyframes: Vec<i64>,
    /// For each keyframe, the bytes up to the next one, when the index knows all frames.
    pub(crate) bytes: Option<Vec<u64>>,
    /// Timestamp of the end of the last frame that is there.
    pub(crate) end: Option<i64>,
}

/// Whether the frames, as far as they have been looked at, can be copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copyable {
    Yes,
    No,
}

#[derive(Clone, Debug)]
pub(crate) struct AudioFacts {
    pub(crate) stream: usize,
    pub(crate) time_base: Ratio,
    /// Timestamp of the first sample that is heard.
    pub(crate) start: i64,
    pub(crate) is_aac_lc: bool,
    pub(crate) sample_rate: u32,
    pub(crate) channels: u32,
    /// Bits per second, when known.
    pub(crate) bit_rate: Option<u32>,
}

/// Frames read to see whether the stream can be copied: bytes, and packets of all tracks.
const LOOK_BYTES_MAX: usize = 8 * 1024 * 1024;
const LOOK_PACKETS_MAX: usize = 2000;

/// `FF_PROFILE_AAC_LOW`.
const PROFILE_AAC_LOW: i32 = 1;

/// Opens the source and looks.
pub(crate) fn gather(
    source: impl Source,
    limits: &Limits,
    copy_allowed: bool,
) -> Result<Facts, Failure> {
    let mut demuxer = Demuxer::open(source, Depth::Analyze)?;
    let tracks = demuxer.input.nb_streams();
    if tracks == 0 {
        return Err(Failure::new(Code::CorruptMedia, "The file has no tracks."));
    }
    if tracks > limits.tracks_max {
        let detail = format!("The file has {tracks} tracks; {} are allowed.", limits.tracks_max);
        return Err(Failure::new(Code::TooManyTracks, detail));
    }
    let video = choose_video(&demuxer)?;
    let audio = choose_audio(&demuxer);
    let stream = demuxer.input.stream(video).expect("it was chosen from these");
    let codec = stream.parameters().id();
    let time_base = ratio(stream.time_base())
        .ok_or_else(|| Failure::new(Code::CorruptMedia, "The video track has no time base."))?;
    let average = ratio(stream.avg_frame_rate());
    let nominal = ratio(stream.rate());
    let constant_rate = average.zip(nominal).and_then(|(average, nominal)| {
        ((average.as_f64() / nominal.as_f64() - 1.0).abs() < 0.001).then_some(nominal)
    });
    let (turn, declared_start, declared_end) =
        (turn(&stream), stream.start_time(), stream.duration());
    let audio = audio.and_then(|index| audio_facts(&demuxer, index));

    let entries = read_index(&mut demuxer, video);
    let parameters = ffi::parameters(&demuxer.input, video);
    let look = look(&mut demuxer, video, codec, &parameters)?;
    let start =
        if declared_start == NO_TIME { look.first_shown.unwrap_or(0) } else { declared_start };
    let step = step(&entries);
    let duration =
        u64::try_from(declared_end).ok().map(|units| start.saturating_add_unsigned(units));
    let index = digest_index(&demuxer, &entries, &look, start, duration, step.is_some());
    let copy = copy_allowed
        && look.copyable
        && turn == Turn::default()
        && matches!(parameters.pixel_aspect, (0, _) | (1, 1))
        && !entries.iter().any(|entry| entry.is_hidden);
    let frame_rate = constant_rate.or(average).or(nominal).unwrap_or(Ratio { num: 25, den: 1 });
    Ok(Facts {
        container: demuxer.container,
        duration_ms: demuxer.duration_ms,
        video: VideoFacts {
            stream: video,
            time_base,
            start,
            parameters,
            turn,
            frame_rate,
            constant_rate,
            step,
            index,
            copy: if copy { Copyable::Yes } else { Copyable::No },
            copy_allowed,
        },
        audio,
    })
}

/// libav's "nobody knows".
const NO_TIME: i64 = i64::MIN;

fn ratio(value: Rational) -> Option<Ratio> {
    Ratio::new(u32::try_from(value.numerator()).ok()?, u32::try_from(value.denominator()).ok()?)
}

/// The largest track that is a film, and of equal ones the one that the container says to play.
fn choose_video(demuxer: &Demuxer) -> Result<usize, Failure> {
    let mut best: Option<((bool, u64), usize)> = None;
    let mut unsupported = None;
    for stream in demuxer.input.streams() {
        let parameters = stream.parameters();
        let disposition = stream.disposition();
        if parameters.medium() != media::Type::Video
            || disposition.contains(Disposition::ATTACHED_PIC)
        {
            continue;
        }
        if is_encrypted(&stream) {
            return Err(Failure::new(Code::Encrypted, "The video is encrypted."));
        }
        if !is_video_supported(parameters.id()) {
            unsupported = Some(parameters.id());
            continue;
        }
        let p = ffi::parameters(&demuxer.input, stream.index());
        let rank =
            (disposition.contains(Disposition::DEFAULT), u64::from(p.width) * u64::from(p.height));
        if best.is_none_or(|(known, _)| rank > known) {
            best = Some((rank, stream.index()));
        }
    }
    match (best, unsupported) {
        (Some((_, index)), _) => Ok(index),
        (None, Some(codec)) => Err(Failure::new(
            Code::UnsupportedCodec,
            format!("Videos in {} cannot be read.", codec.name()),
        )),
        (None, None) => {
            Err(Failure::new(Code::NoVideoTrack, "The file has no track with moving pictures."))
        }
    }
}

fn choose_audio(demuxer: &Demuxer) -> Option<usize> {
    let mut best: Option<(bool, usize)> = None;
    for stream in demuxer.input.streams() {
        let parameters = stream.parameters();
        if parameters.medium() == media::Type::Audio
            && is_audio_supported(parameters.id())
            && !is_encrypted(&stream)
        {
            let rank = stream.disposition().contains(Disposition::DEFAULT);
            if best.is_none_or(|(known, _)| rank & !known) {
                best = Some((rank, stream.index()));
            }
        }
    }
    best.map(|(_, index)| index)
}

fn is_encrypted(stream: &Stream<'_>) -> bool {
    stream
        .side_data()
        .any(|data| matches!(data.kind(), SideData::EncryptionInfo | SideData::EncryptionInitInfo))
}

fn audio_facts(demuxer: &Demuxer, index: usize) -> Option<AudioFacts> {
    let stream = demuxer.input.stream(index)?;
    let p = ffi::parameters(&demuxer.input, index);
    if p.sample_rate == 0 || p.channels == 0 {
        return None;
    }
    let has_config = !p.extradata.is_empty() || demuxer.container == Container::MpegTs;
    Some(AudioFacts {
        stream: index,
        time_base: ratio(stream.time_base())?,
        start: if stream.start_time() == NO_TIME { 0 } else { stream.start_time() },
        is_aac_lc: stream.parameters().id() == Id::AAC
            && p.profile == PROFILE_AAC_LOW
            && has_config,
        sample_rate: p.sample_rate,
        channels: p.channels,
        bit_rate: u32::try_from(p.bit_rate).ok().filter(|rate| *rate > 0),
    })
}

/// The display matrix (ISO/IEC 14496-12 section 8.3.2), read as the ffmpeg program reads it.
fn turn(stream: &Stream<'_>) -> Turn {
    let matrix = stream.side_data().find(|data| data.kind() == SideData::DisplayMatrix);
    let Some(matrix) = matrix.map(|data| data.data().to_vec()).filter(|bytes| bytes.len() >= 36)
    else {
        return Turn::default();
    };
    let value = |index: usize| {
        let bytes = matrix[index * 4..index * 4 + 4].try_into().expect("four bytes");
        f64::from(i32::from_ne_bytes(bytes))
    };
    turn_of([value(0), value(1), value(3), value(4)])
}

/// From the upper left four numbers of the matrix: where (1, 0) goes, then where (0, 1) goes.
fn turn_of([a, b, c, d]: [f64; 4]) -> Turn {
    let mirrored = a * d - b * c < 0.0;
    // Mirroring comes last, so what it does to the first axis is taken back before the angle is measured.
    let degrees = b.atan2(if mirrored { -a } else { a }).to_degrees();
    Turn { quarters: (degrees / 90.0).round().rem_euclid(4.0) as u8, mirrored }
}

fn read_index(demuxer: &mut Demuxer, video: usize) -> Vec<IndexEntry> {
    // Matroska reads its cues when they are needed first.
    if demuxer.container == Container::Matroska && demuxer.complete_len.is_some() {
        let _ = demuxer.seek(video, 0);
    }
    let mut entries = ffi::index_entries(&mut demuxer.input, video);
    // What lies beyond the end of a file that was cut off cannot be played.
    if let (Container::Mov, Some(len)) = (demuxer.container, demuxer.complete_len) {
        entries.retain(|entry| entry.position.saturating_add(u64::from(entry.size)) <= len);
    }
    entries
}

/// From entry to entry, when that is always the same.
fn step(entries: &[IndexEntry]) -> Option<i64> {
    let step = |pair: &[IndexEntry]| pair[1].timestamp - pair[0].timestamp;
    let first = entries.windows(2).next().map(step).filter(|first| *first > 0)?;
    entries.windows(2).all(|pair| step(pair) == first).then_some(first)
}

/// What the first frames told.
struct Look {
    copyable: bool,
    /// Presentation and decoding time of the first frame.
    first_shown: Option<i64>,
    first_decoded: Option<i64>,
    /// Whether frames are decoded in another order than they are shown in.
    reordered: bool,
}

/// Reads up to the second keyframe, so that an open group of pictures is noticed.
fn look(
    demuxer: &mut Demuxer,
    video: usize,
    codec: Id,
    parameters: &Parameters,
) -> Result<Look, Failure> {
    let sets = (codec == Id::H264).then(|| ParameterSets::parse(&parameters.extradata)).flatten();
    let sets = sets.filter(|(sets, _)| Sps::parse(&sets.sps).is_some_and(|sps| is_plain(&sps)));
    let mut look =
        Look { copyable: sets.is_some(), first_shown: None, first_decoded: None, reordered: false };
    demuxer.select(&[video]);
    let (mut bytes, mut keyframes) = (0, 0);
    for _ in 0..LOOK_PACKETS_MAX {
        let Some(packet) = demuxer.next()? else { break };
        if packet.stream() != video {
            continue;
        }
        let data = packet.data().unwrap_or_default();
        bytes += data.len();
        if packet.is_key() {
            keyframes += 1;
        }
        look.first_shown = look.first_shown.or(packet.pts());
        look.first_decoded = look.first_decoded.or(packet.dts());
        look.reordered |= packet.pts() != packet.dts();
        match &sets {
            Some((sets, framing)) => look.copyable &= is_copyable(&packet, data, sets, *framing),
            None => break,
        }
        if keyframes >= 2 || bytes > LOOK_BYTES_MAX || !look.copyable {
            break;
        }
    }
    Ok(look)
}

/// A keyframe must be one that a decoder can start at without leftovers, and nothing may change on the way.
fn is_copyable(
    packet: &ffmpeg_next::Packet,
    data: &[u8],
    sets: &ParameterSets,
    framing: Framing,
) -> bool {
    let has_idr = || avc::nals(data, framing).any(|nal| avc::nal_type(nal) == avc::NAL_IDR);
    packet.pts().is_some()
        && !sets.contradicted_by(data, framing)
        && (!packet.is_key() || has_idr())
}

/// What every browser plays: 8 bits, 4:2:0, no fields, up to High and level 5.2.
fn is_plain(sps: &Sps) -> bool {
    matches!(sps.profile, 66 | 77 | 100)
        && sps.level <= 52
        && sps.chroma_format == 1
        && sps.luma_depth == 8
        && sps.chroma_depth == 8
        && sps.progressive
        && sps.color.is_none_or(|(_, transfer, _, _)| !is_hdr(transfer))
}

/// PQ (SMPTE ST 2084) or HLG (ARIB STD-B67), as H.273 numbers them.
pub(crate) fn is_hdr(transfer: u8) -> bool {
    matches!(transfer, 16 | 18)
}

/// Keyframes in presentation time. `None` where the index does not tell that for certain.
fn digest_index(
    demuxer: &Demuxer,
    entries: &[IndexEntry],
    look: &Look,
    start: i64,
    end: Option<i64>,
    is_uniform: bool,
) -> Option<Index> {
    let (first, last) = (entries.first()?, entries.last()?);
    match demuxer.container {
        Container::Mov => {
            // An index in decoding order; with a constant distance a closed group's first frame is as late behind its
            // decoding time as the very first frame is.
            if look.reordered && !is_uniform {
                return None;
            }
            let step =
                entries.windows(2).next_back().map_or(0, |w| w[1].timestamp - w[0].timestamp);
            // Only the beginning of a fragmented file is in its index.
            let covered = last.timestamp.saturating_add(step.saturating_mul(2));
            let was_cut = demuxer.complete_len.is_some();
            if !was_cut && end.is_some_and(|end| covered < end - (end - start) / 10) {
                return None;
            }
            let delay = look.first_shown? - look.first_decoded?;
            let keyframes = || entries.iter().enumerate().filter(|(_, entry)| entry.is_key);
            let positions: Vec<usize> = keyframes().map(|(position, _)| position).collect();
            let ends = positions.iter().copied().skip(1).chain([entries.len()]);
            let size = |range: &[IndexEntry]| range.iter().map(|entry| u64::from(entry.size)).sum();
            let last_end = last.timestamp.saturating_add(step).saturating_add(delay);
            Some(Index {
                bytes: Some(
                    positions
                        .iter()
                        .zip(ends)
                        .map(|(from, to)| size(&entries[*from..to]))
                        .collect(),
                ),
                keyframes: keyframes()
                    .map(|(_, entry)| entry.timestamp.saturating_add(delay))
                    .collect(),
                end: Some(last_end),
            })
        }
        // Cues name some keyframes by presentation time, in whatever density the writer chose.
        Container::Matroska => {
            let keyframes: Vec<i64> = entries.iter().map(|entry| entry.timestamp).collect();
            let rising = keyframes.windows(2).all(|pair| pair[0] < pair[1]);
            (rising && keyframes.len() > 1 && first.timestamp <= start).then_some(Index {
                keyframes,
                bytes: None,
                end: None,
            })
        }
        Container::Avi | Container::MpegTs => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_matrices_of_phones() {
        let plain = |quarters| Turn { quarters, mirrored: false };
        assert_eq!(turn_of([1.0, 0.0, 0.0, 1.0]), plain(0));
        assert_eq!(turn_of([0.0, 1.0, -1.0, 0.0]), plain(1));
        assert_eq!(turn_of([-1.0, 0.0, 0.0, -1.0]), plain(2));
        assert_eq!(turn_of([0.0, -1.0, 1.0, 0.0]), plain(3));
        assert_eq!(turn_of([-1.0, 0.0, 0.0, 1.0]), Turn { quarters: 0, mirrored: true });
        assert_eq!(turn_of([1.0, 0.0, 0.0, -1.0]), Turn { quarters: 2, mirrored: true });
        assert_eq!(turn_of([0.0, 1.0, 1.0, 0.0]), Turn { quarters: 1, mirrored: true });
    }
}
