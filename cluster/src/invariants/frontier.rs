//! The frontier is never beyond what a listed rendition has, and whatever is listed before it can be played.

use super::Findings;
use crate::plan::ticks_to_ms;
use crate::playback::{Detail, LOCK_STEP_SLACK_MS, presentation};
use crate::table::KeyRange;
use crate::tables::renditions::RENDITIONS;
use crate::tables::videos::{VIDEOS, VideoState};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    for (id, video) in VIDEOS.collect(view, &KeyRange::all(), usize::MAX)? {
        let shown = presentation(view, &video, Detail::Full)?;
        findings.require(shown.is_some() == (video.frontier_ms > 0), || {
            format!("{id}: frontier {} ms, playable: {}", video.frontier_ms, shown.is_some())
        });
        let Some(shown) = shown else {
            continue;
        };
        findings.require(!shown.listed.is_empty(), || format!("{id}: nothing is listed"));
        for listed in &shown.listed {
            let name = &listed.name;
            let row = RENDITIONS.get(view, &(id, listed.index))?.unwrap_or_default();
            let end_ms = ticks_to_ms(row.contiguous_end, listed.timescale);
            findings.require(row.complete || video.frontier_ms <= end_ms, || {
                format!("{id}: frontier {} ms, {name} has {end_ms} ms", video.frontier_ms)
            });
            findings.require(!listed.segments.is_empty(), || {
                format!("{id}: {name} is listed without segments")
            });
            let numbers = listed.segments.iter().map(|segment| segment.number);
            findings.require(numbers.eq(0..listed.segments.len() as u32), || {
                format!("{id}: {name} has a gap")
            });
            // A list reaches the frontier, but for the slack; or it is all there is.
            let listed_ms = listed.segments.last().map_or(0, |last| {
                ticks_to_ms(last.start.saturating_add(last.duration), listed.timescale)
            });
            let all = listed.segments.len() == row.contiguous_segments as usize;
            findings.require(
                all || listed_ms.saturating_add(LOCK_STEP_SLACK_MS) >= video.frontier_ms,
                || format!("{id}: {name} lists {listed_ms} of {} ms", video.frontier_ms),
            );
            findings.require(video.state != VideoState::Ready || all, || {
                format!("{id}: {name} is not listed to its end")
            });
            let rounded =
                |ticks: u64| ticks_to_ms(ticks, listed.timescale).saturating_add(500) / 1000;
            let within = listed
                .segments
                .iter()
                .all(|segment| rounded(segment.duration) <= shown.target_duration_s.into());
            findings.require(within, || {
                format!("{id}: {name} has a segment longer than {} s", shown.target_duration_s)
            });
        }
    }
    Ok(())
}
