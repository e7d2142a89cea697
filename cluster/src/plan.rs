//! How a source becomes renditions, as far as the cluster needs to know.
//!
//! The transcoder decides on a plan once, from the source's headers; the plan then lives in the catalog, so that any node
//! can do, or do again, any part of it. The cluster reads the renditions and the cuts; what only the transcoder understands
//! travels in [`Plan::recipe`] unopened.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::jobs::JobKind;

/// Which rendition of a video: an index into [`Plan::renditions`].
pub type RenditionIndex = u16;

/// Whether a rendition carries pictures or sound. They are never mixed in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackKind {
    Video,
    Audio,
}

/// How the segments of a rendition come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The source's own compressed frames, in new boxes: one job for the whole track.
    Copy,
    /// Decoded and encoded again: video piece by piece, audio as one job.
    Encode,
}

/// One rung of the ladder, or the audio.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenditionPlan {
    /// Unique within the video, part of URLs: `1080p`, `source`, `audio`.
    pub name: String,
    pub kind: TrackKind,
    pub lane: Lane,
    /// Pixels as shown, after rotation. 0 for audio.
    pub width: u32,
    /// Pixels as shown, after rotation. 0 for audio.
    pub height: u32,
    /// Frames per second times 1000; 0 for audio or when unknown.
    pub frame_rate_millis: u32,
    /// The most bits per second that a segment is expected to have; what a playlist promises until the segments are known.
    pub bitrate_max: u32,
    /// Ticks per second of all times of this rendition.
    pub timescale: u32,
}

/// Where the video's segments begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cuts {
    /// Known before the work starts: the first tick of each segment, strictly rising, the first one 0. The last segment
    /// goes on to the end of the source.
    Known(Vec<u64>),
    /// Found by the copy job as it goes (a source without an index). Encoded rungs wait until it is done.
    Discovered,
}

/// How a source becomes renditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Milliseconds; `None` when the container does not say.
    pub duration_ms: Option<u64>,
    /// Pixels of the source as shown.
    pub width: u32,
    /// Pixels of the source as shown.
    pub height: u32,
    /// Never empty, at most [`RENDITIONS_MAX`].
    pub renditions: Vec<RenditionPlan>,
    /// In ticks of the video renditions, which share one timescale.
    pub cuts: Cuts,
    /// The transcoder's own record of its decisions, in its own versioned encoding.
    #[serde(with = "crate::codec::bytes")]
    pub recipe: Vec<u8>,
}

/// More renditions than any ladder has.
pub const RENDITIONS_MAX: usize = 16;

/// More segments than twelve hours of video have at one second each, the shortest segment there is.
pub const SEGMENTS_MAX: usize = 12 * 3600;

/// Bytes of a rendition's name: part of URLs.
pub const NAME_BYTES_MAX: usize = 32;

/// Pixels of a picture each way.
pub const PIXELS_MAX: u32 = 16_384;

/// The longest recipe the catalog takes, in bytes.
pub const RECIPE_BYTES_MAX: usize = 64 * 1024;

/// A piece is at least this long, so that starting a worker and seeking cost little beside the encoding.
const PIECE_MS_MIN: u64 = 8_000;

/// A piece of several segments is at most this long, so that a lost piece costs little.
const PIECE_MS_MAX: u64 = 16_000;

/// The second piece is about this long: on its way while the first one plays.
const SECOND_PIECE_MS_MIN: u64 = 3_000;

/// The runs of segments that are encoded as one job each: the first segment alone, so that something plays as soon as can
/// be; then some 3 s; then 8–16 s each. Together they are all segments.
///
/// `cuts` and `timescale` as in a plan. A job is named by its number in this list, so what this function gives for a plan
/// never changes: a better division needs another field in the plan.
#[must_use]
pub fn pieces(cuts: &[u64], timescale: u32, duration_ms: Option<u64>) -> Vec<Range<u32>> {
    let count = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
    let cut_ms = |number: u32| match cuts.get(number as usize) {
        Some(cut) => ticks_to_ms(*cut, timescale),
        // The end of the last segment.
        None => {
            let last = cuts.last().map_or(0, |cut| ticks_to_ms(*cut, timescale));
            duration_ms.unwrap_or(last).max(last)
        }
    };
    let length_ms = |from: u32, to: u32| cut_ms(to).saturating_sub(cut_ms(from));
    let mut pieces: Vec<Range<u32>> = Vec::new();
    let mut first = 0;
    while first < count {
        let long_enough_ms = match pieces.len() {
            0 => 0,
            1 => SECOND_PIECE_MS_MIN,
            _ => PIECE_MS_MIN,
        };
        let mut end = first + 1;
        while end < count
            && length_ms(first, end) < long_enough_ms
            && length_ms(first, end + 1) <= PIECE_MS_MAX
        {
            end += 1;
        }
        pieces.push(first..end);
        first = end;
    }
    // A short rest at the end joins the piece before it, unless that is one of the two that are short on purpose.
    if let [_, _, .., before, last] = pieces.as_mut_slice()
        && length_ms(last.start, last.end) < PIECE_MS_MIN
        && length_ms(before.start, last.end) <= PIECE_MS_MAX
    {
        before.end = last.end;
        pieces.pop();
    }
    pieces
}

/// Ticks in whole milliseconds, rounded down.
#[must_use]
pub fn ticks_to_ms(ticks: u64, timescale: u32) -> u64 {
    let ms = u128::from(ticks) * 1000 / u128::from(timescale.max(1));
    u64::try_from(ms).unwrap_or(u64::MAX)
}

impl RenditionPlan {
    /// The kind of job that makes the rendition's segments.
    #[must_use]
    pub fn made_by(&self) -> JobKind {
        match (self.lane, self.kind) {
            (Lane::Copy, _) => JobKind::Copy,
            (Lane::Encode, TrackKind::Audio) => JobKind::Audio,
            (Lane::Encode, TrackKind::Video) => JobKind::Piece,
        }
    }
}

impl Plan {
    /// The renditions with their indexes.
    pub fn indexed(&self) -> impl Iterator<Item = (RenditionIndex, &RenditionPlan)> {
        (0..).zip(&self.renditions)
    }

    /// The rendition of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<(RenditionIndex, &RenditionPlan)> {
        self.indexed().find(|(_, rendition)| rendition.name == name)
    }

    /// Ticks per second of the pictures, if there are any.
    #[must_use]
    pub fn video_timescale(&self) -> Option<u32> {
        let video = self.renditions.iter().find(|rendition| rendition.kind == TrackKind::Video);
        video.map(|video| video.timescale)
    }

    /// Whether the pictures have a rendition in this lane.
    #[must_use]
    pub fn has_video(&self, lane: Lane) -> bool {
        self.renditions
            .iter()
            .any(|rendition| rendition.kind == TrackKind::Video && rendition.lane == lane)
    }

    /// The pieces that are encoded; none while the cuts are not known, or when nothing is encoded in pieces.
    #[must_use]
    pub fn pieces(&self) -> Vec<Range<u32>> {
        match (&self.cuts, self.video_timescale()) {
            (Cuts::Known(cuts), Some(timescale)) if self.has_video(Lane::Encode) => {
                pieces(cuts, timescale, self.duration_ms)
            }
            (Cuts::Known(_) | Cuts::Discovered, _) => Vec::new(),
        }
    }

    /// The segments of a piece.
    #[must_use]
    pub fn piece(&self, piece: u32) -> Option<Range<u32>> {
        self.pieces().get(usize::try_from(piece).ok()?).cloned()
    }

    /// The segments that the job of a piece may yield. The last piece goes on to the end of the source, wherever that is, so
    /// it may yield more than the plan could foresee.
    #[must_use]
    pub fn segments_allowed(&self, piece: u32) -> Range<u32> {
        let pieces = self.pieces();
        match usize::try_from(piece).ok().and_then(|piece| pieces.get(piece)) {
            Some(own) if pieces.last() == Some(own) => {
                // One more than any plan has cuts, so that the last piece always differs from what was foreseen.
                own.start..u32::try_from(SEGMENTS_MAX + 1).unwrap_or(u32::MAX)
            }
            Some(own) => own.clone(),
            None => 0..0,
        }
    }

    /// Whether a planned segment begins before that tick; without one all of them do.
    #[must_use]
    pub fn begins_before(&self, segment: u32, end: Option<u64>) -> bool {
        let Cuts::Known(cuts) = &self.cuts else {
            return true;
        };
        let cut = usize::try_from(segment).ok().and_then(|segment| cuts.get(segment));
        cut.zip(end).is_none_or(|(cut, end)| *cut < end)
    }

    /// Where a piece ends, in milliseconds; `None` when there is no such piece or nobody knows.
    #[must_use]
    pub fn piece_end_ms(&self, piece: u32) -> Option<u64> {
        let end = self.piece(piece)?.end;
        let Cuts::Known(cuts) = &self.cuts else {
            return None;
        };
        match cuts.get(usize::try_from(end).ok()?) {
            Some(cut) => Some(ticks_to_ms(*cut, self.video_timescale()?)),
            None => self.duration_ms,
        }
    }

    /// Says what is wrong with the plan, if anything is.
    ///
    /// # Errors
    /// With the reason, for a person.
    pub fn require_valid(&self) -> Result<(), String> {
        let count = self.renditions.len();
        if !(1..=RENDITIONS_MAX).contains(&count) {
            return Err(format!("a plan has 1 to {RENDITIONS_MAX} renditions, not {count}"));
        }
        if self.recipe.len() > RECIPE_BYTES_MAX {
            return Err(format!("a recipe has at most {RECIPE_BYTES_MAX} bytes"));
        }
        for (index, rendition) in self.renditions.iter().enumerate() {
            rendition.require_valid()?;
            let before = &self.renditions[..index];
            if before.iter().any(|other| other.name == rendition.name) {
                return Err(format!("there are two renditions named {}", rendition.name));
            }
        }
        let is_video = |rendition: &&RenditionPlan| rendition.kind == TrackKind::Video;
        let mut timescales = self.renditions.iter().filter(is_video).map(|video| video.timescale);
        if let Some(first) = timescales.next()
            && timescales.any(|other| other != first)
        {
            return Err("the video renditions have different timescales".into());
        }
        match &self.cuts {
            Cuts::Known(cuts) => match self.video_timescale() {
                Some(_) => require_valid_cuts(cuts),
                // Sound alone is not cut in pieces.
                None if cuts.is_empty() => Ok(()),
                None => require_valid_cuts(cuts),
            },
            Cuts::Discovered if self.has_video(Lane::Copy) => Ok(()),
            Cuts::Discovered => Err("without a copied picture, nobody discovers the cuts".into()),
        }
    }
}

impl RenditionPlan {
    fn require_valid(&self) -> Result<(), String> {
        let name = &self.name;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !(1..=NAME_BYTES_MAX).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(format!(
                "a rendition's name has 1 to {NAME_BYTES_MAX} lower-case letters, digits and hyphens"
            ));
        }
        if self.timescale == 0 {
            return Err(format!("{name}: the timescale is 0"));
        }
        if self.bitrate_max == 0 {
            return Err(format!("{name}: the bit rate is 0"));
        }
        let has_size = self.width > 0 && self.height > 0;
        let fits = self.width <= PIXELS_MAX && self.height <= PIXELS_MAX;
        match self.kind {
            TrackKind::Video if !has_size || !fits => {
                Err(format!("{name}: a picture has 1 to {PIXELS_MAX} pixels each way"))
            }
            TrackKind::Video => Ok(()),
            TrackKind::Audio if self.width != 0 || self.height != 0 => {
                Err(format!("{name}: sound has no size"))
            }
            TrackKind::Audio => Ok(()),
        }
    }
}

/// Says what is wrong with the cuts of a plan, if anything is.
///
/// # Errors
/// With the reason, for a person.
pub fn require_valid_cuts(cuts: &[u64]) -> Result<(), String> {
    if cuts.first() != Some(&0) {
        return Err("the first cut is not 0".into());
    }
    if cuts.len() > SEGMENTS_MAX {
        return Err(format!("{} cuts, {SEGMENTS_MAX} at most are possible", cuts.len()));
    }
    if cuts.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err("the cuts do not rise".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pieces of segments of these lengths in seconds, as the lengths of the pieces in segments.
    fn lengths(seconds: &[u64]) -> Vec<usize> {
        let mut cuts = vec![];
        let mut end = 0;
        for length in seconds {
            cuts.push(end);
            end += length * 90_000;
        }
        pieces(&cuts, 90_000, Some(end / 90)).iter().map(ExactSizeIterator::len).collect()
    }

    #[test]
    fn the_first_pieces_are_short_and_the_others_are_not() {
        assert_eq!(lengths(&[4; 15]), [1, 1, 2, 2, 2, 2, 2, 3]);
        assert_eq!(lengths(&[2; 12]), [1, 2, 4, 5]);
        assert_eq!(lengths(&[2, 2, 4, 4, 6, 6, 6, 6, 6]), [1, 2, 2, 2, 2]);
        assert_eq!(lengths(&[1; 30]), [1, 3, 8, 8, 10]);
        assert_eq!(lengths(&[30, 30, 30]), [1, 1, 1]);
        assert_eq!(lengths(&[10, 10, 10, 3]), [1, 1, 2]);
        assert_eq!(lengths(&[4]), [1]);
        assert_eq!(lengths(&[]), [0; 0]);
    }

    #[test]
    fn a_source_of_unknown_length_has_pieces_too() {
        let cuts: Vec<u64> = (0..8).map(|number| number * 4000).collect();
        let unknown = pieces(&cuts, 1000, None);
        assert_eq!(unknown.last().map(|piece| piece.end), Some(8));
        assert_eq!(pieces(&cuts, 0, Some(1)).last().map(|piece| piece.end), Some(8));
    }

    #[test]
    fn pieces_never_change_for_a_plan() {
        // Frozen: jobs are named by their numbers in this list. See the documentation of `pieces`.
        let cuts: Vec<u64> = (0..40).map(|n| n * 3000 + (n * n * 37) % 1500).collect();
        let ends: Vec<u32> = pieces(&cuts, 1000, Some(123_000)).iter().map(|p| p.end).collect();
        assert_eq!(ends, [1, 2, 5, 8, 11, 14, 18, 21, 25, 28, 31, 34, 37, 40]);
    }

    proptest! {
        #[test]
        fn pieces_are_all_segments_once_in_order(
            lengths in prop::collection::vec(1_u64..1_000_000, 0..300),
            timescale in prop_oneof![Just(0_u32), Just(1000), Just(90_000), any::<u32>()],
            duration_ms: Option<u64>,
        ) {
            let mut end = 0;
            let mut cuts = vec![];
            for length in lengths {
                cuts.push(end);
                end += length;
            }
            let pieces = pieces(&cuts, timescale, duration_ms);
            let all: Vec<u32> = pieces.iter().cloned().flatten().collect();
            prop_assert_eq!(all, (0..cuts.len() as u32).collect::<Vec<_>>());
            prop_assert!(pieces.iter().all(|piece| !piece.is_empty()));
            for piece in &pieces {
                let start = ticks_to_ms(cuts[piece.start as usize], timescale);
                let last = ticks_to_ms(cuts[piece.end as usize - 1], timescale);
                prop_assert!(piece.len() == 1 || last - start <= PIECE_MS_MAX);
            }
        }
    }
}
