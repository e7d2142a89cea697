//! What of a video can be played now: the plain values that playlists are rendered from.
//!
//! While a video is being made, its playlists grow, and what a player has read must stay true. Hence the rules here:
//!
//! - **Listed** are, until the video is ready, only renditions that keep step: the copied pictures if there are any, else
//!   all encoded rungs; and the sound. A player that saw one rendition end before another would stall at its end.
//! - The **frontier** is the time up to which all listed renditions have their segments without a gap. A rendition that is
//!   complete holds nobody back, for nothing more will come.
//! - A rendition lists the segments that begin clearly before the frontier. Sound and pictures are cut at slightly
//!   different times, so "clearly" is [`LOCK_STEP_SLACK_MS`], and lists differ by less than a segment.
//! - What has been listed stays listed, at the same place, until the video is deleted or prepared again without the copy
//!   lane; renditions have other names then.
//! - The **target duration** is the same from the first playlist on.
//!
//! When the video is ready, all renditions are listed to their ends. When it failed half-way, what was playable stays so.

use crate::catalog;
use crate::command::{BlockRef, NewSegment};
use crate::plan::{Cuts, Lane, Plan, RenditionIndex, TrackKind, ticks_to_ms};
use crate::tables::renditions::{RENDITIONS, RenditionRow};
use crate::tables::videos::{VideoRow, VideoState};
use crate::view::{View, ViewError};

/// A segment that begins less than this before the frontier is not listed yet. Longer than the frame of sound by which
/// cuts may differ (1024 samples at 8 kHz are 128 ms), shorter than any segment but a video's last.
pub const LOCK_STEP_SLACK_MS: u64 = 250;

/// The longest segment of a source whose cuts are not known beforehand, in seconds: the copy lane takes only sources with
/// a key frame at least that often.
pub const SEGMENT_SECONDS_MAX: u32 = 8;

/// A video as a player may see it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Presentation {
    pub state: VideoState,
    /// In the order of the plan. Never empty.
    pub listed: Vec<ListedRendition>,
    /// `EXT-X-TARGETDURATION`, in whole seconds.
    pub target_duration_s: u32,
    /// Milliseconds that can be played. Above 0.
    pub frontier_ms: u64,
    /// Milliseconds, when known; exact when the video is ready.
    pub duration_ms: Option<u64>,
}

/// A rendition as a player may see it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedRendition {
    pub index: RenditionIndex,
    pub name: String,
    pub kind: TrackKind,
    /// Pixels as shown; 0 for audio.
    pub width: u32,
    /// Pixels as shown; 0 for audio.
    pub height: u32,
    /// Frames per second times 1000; 0 when unknown.
    pub frame_rate_millis: u32,
    /// RFC 6381.
    pub codecs: String,
    /// Ticks per second.
    pub timescale: u32,
    pub init: BlockRef,
    /// Bits per second: the highest of any segment; while the rendition is incomplete, what the plan promised if that is more.
    pub bandwidth_peak: u32,
    /// Bits per second, over the segments that there are.
    pub bandwidth_average: u32,
    /// From number 0 on, without gaps; empty if they were not asked for.
    pub segments: Vec<NewSegment>,
    /// Nothing will be added to the list.
    pub ended: bool,
}

/// Which lists of segments to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail<'a> {
    /// None: enough for a multivariant playlist.
    Outline,
    /// Those of one rendition, by name: enough for its playlist.
    One(&'a str),
    /// All: enough for a manifest.
    Full,
}

/// The video as a player may see it now; `None` while nothing of it can be played.
///
/// # Errors
/// When the view fails.
pub fn presentation(
    view: &dyn View,
    video: &VideoRow,
    detail: Detail<'_>,
) -> Result<Option<Presentation>, ViewError> {
    let Some(plan) = video.plan.as_ref().filter(|_| video.frontier_ms > 0) else {
        return Ok(None);
    };
    let rows = rows_of(view, video, plan)?;
    let ready = video.state == VideoState::Ready;
    let ended = ready || video.state == VideoState::Failed;
    let mut target_duration_s = video.target_duration_s;
    let mut listed = Vec::new();
    for (index, rendition) in plan.indexed() {
        let row = &rows[usize::from(index)];
        let Some(init) = row.init.filter(|_| is_listed(plan, index, row, ready)) else {
            continue;
        };
        let in_sight = |segment: &NewSegment| {
            ready
                || segment.number == 0
                || ticks_to_ms(segment.start, rendition.timescale)
                    .saturating_add(LOCK_STEP_SLACK_MS)
                    < video.frontier_ms
        };
        let wanted = match detail {
            Detail::Outline => false,
            Detail::One(name) => name == rendition.name,
            Detail::Full => true,
        };
        let mut segments = Vec::new();
        if wanted {
            segments = catalog::segments(view, video.id, index, 0, row.contiguous_segments)?;
            segments.retain(in_sight);
        }
        // A segment counts as its length rounded to whole seconds (RFC 8216, section 4.3.3.1). This raises nothing unless
        // the plan was wrong about the source.
        let longest = rounded_seconds(row.segment_ticks_max, rendition.timescale);
        target_duration_s = target_duration_s.max(longest);
        listed.push(ListedRendition {
            index,
            name: rendition.name.clone(),
            kind: rendition.kind,
            width: rendition.width,
            height: rendition.height,
            frame_rate_millis: rendition.frame_rate_millis,
            codecs: row.codecs.clone(),
            timescale: rendition.timescale,
            init,
            bandwidth_peak: if row.complete {
                row.bitrate_peak
            } else {
                row.bitrate_peak.max(rendition.bitrate_max)
            },
            bandwidth_average: bits_per_second(row.bytes, row.ticks, rendition.timescale),
            segments,
            ended,
        });
    }
    Ok(Some(Presentation {
        state: video.state,
        listed,
        target_duration_s,
        frontier_ms: video.frontier_ms,
        duration_ms: video.duration_ms,
    }))
}

/// Milliseconds that all listed renditions can play, given the states of all renditions in the order of the plan.
#[must_use]
pub fn frontier_ms(plan: &Plan, rows: &[RenditionRow]) -> u64 {
    let listed = || {
        plan.indexed()
            .zip(rows)
            .filter(|((index, _), row)| is_listed(plan, *index, row, false))
            .map(|((_, rendition), row)| {
                (row.complete, ticks_to_ms(row.contiguous_end, rendition.timescale))
            })
    };
    // The complete ones hold nobody back; once all are, the longest is the length of the video.
    let slowest = listed().filter(|(complete, _)| !complete).map(|(_, end)| end).min();
    slowest.or_else(|| listed().map(|(_, end)| end).max()).unwrap_or_default()
}

/// Whether a rendition is part of the playlists.
pub(crate) fn is_listed(
    plan: &Plan,
    index: RenditionIndex,
    row: &RenditionRow,
    ready: bool,
) -> bool {
    let Some(rendition) = plan.renditions.get(usize::from(index)) else {
        return false;
    };
    // A track that turned out to be empty.
    if row.complete && row.contiguous_segments == 0 {
        return false;
    }
    match rendition.kind {
        TrackKind::Audio => true,
        TrackKind::Video => ready || rendition.lane == Lane::Copy || !plan.has_video(Lane::Copy),
    }
}

/// The states of all renditions in the order of the plan.
pub(crate) fn rows_of(
    view: &dyn View,
    video: &VideoRow,
    plan: &Plan,
) -> Result<Vec<RenditionRow>, ViewError> {
    plan.indexed()
        .map(|(index, _)| Ok(RENDITIONS.get(view, &(video.id, index))?.unwrap_or_default()))
        .collect()
}

/// The target duration that a plan allows to promise before any segment is there.
pub(crate) fn target_duration_s(plan: &Plan) -> u32 {
    let unknown_ms = u64::from(SEGMENT_SECONDS_MAX) * 1000;
    let longest_ms = match (&plan.cuts, plan.video_timescale()) {
        (Cuts::Known(cuts), Some(timescale)) => {
            let starts: Vec<u64> = cuts.iter().map(|cut| ticks_to_ms(*cut, timescale)).collect();
            let between = starts.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max();
            let last_start = starts.last().copied().unwrap_or_default();
            let last = plan.duration_ms.map_or(unknown_ms, |end| end.saturating_sub(last_start));
            between.unwrap_or_default().max(last)
        }
        (Cuts::Known(_), None) | (Cuts::Discovered, _) => unknown_ms,
    };
    // Rounded up: leaves room for the frame by which sound may be cut later than pictures.
    u32::try_from(longest_ms.div_ceil(1000)).unwrap_or(u32::MAX).max(1)
}

/// Ticks in seconds, rounded to the nearest.
fn rounded_seconds(ticks: u64, timescale: u32) -> u32 {
    u32::try_from(ticks_to_ms(ticks, timescale).saturating_add(500) / 1000).unwrap_or(u32::MAX)
}

/// The bit rate of so many bytes in so many ticks; 0 for no ticks.
pub(crate) fn bits_per_second(bytes: u64, ticks: u64, timescale: u32) -> u32 {
    let bits = u128::from(bytes) * 8 * u128::from(timescale);
    bits.checked_div(ticks.into()).map_or(0, |rate| u32::try_from(rate).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests;
