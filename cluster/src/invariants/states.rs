//! A video's state agrees with its jobs: whatever is not at its end has work left that leads there, and what is at its end
//! has none.

use super::Findings;
use crate::catalog::{jobs_of, renditions};
use crate::jobs::JobKind;
use crate::table::KeyRange;
use crate::tables::videos::{VIDEOS, VideoState};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    for (id, video) in VIDEOS.collect(view, &KeyRange::all(), usize::MAX)? {
        let jobs = jobs_of(view, id, usize::MAX)?;
        let posters_only = jobs.iter().all(|(job, _)| job.kind == JobKind::Thumbnail);
        let prepares = jobs.iter().any(|(job, _)| job.kind == JobKind::Prepare);
        match video.state {
            VideoState::Uploading => findings.require(!video.source.complete, || {
                format!("{id} is uploading although all bytes are there")
            }),
            VideoState::Processing => findings.require(!posters_only, || {
                format!("{id} is processing, but there is nothing left to do")
            }),
            VideoState::Ready => {
                findings.require(posters_only, || format!("{id} is ready, but has work left"));
                let complete = renditions(view, id)?
                    .iter()
                    .all(|(_, row)| row.complete && row.segments == row.contiguous_segments);
                findings.require(complete, || format!("{id} is ready with gaps"));
                findings.require(video.duration_ms == Some(video.frontier_ms), || {
                    format!("{id} is ready, {} of {:?} ms", video.frontier_ms, video.duration_ms)
                });
                findings.require(
                    video.source.deleted != (video.source.keep || !jobs.is_empty()),
                    || format!("{id} is ready and its source is not as it was wanted"),
                );
            }
            VideoState::Failed => {
                findings.require(jobs.is_empty(), || format!("{id} has failed, but has jobs"));
            }
        }
        findings.require((video.state == VideoState::Failed) == video.error.is_some(), || {
            format!("{id} is {} with error {:?}", video.state.name(), video.error)
        });
        let needs_plan =
            video.plan.is_none() && video.source.received > 0 && video.state != VideoState::Failed;
        findings.require(prepares == needs_plan, || {
            format!("{id} needs a plan: {needs_plan}, and has a job for it: {prepares}")
        });
        let unfinished = video.jobs_total.saturating_sub(video.jobs_done) as usize;
        findings.require(video.state == VideoState::Failed || unfinished == jobs.len(), || {
            format!("{id} has {} jobs, {unfinished} by count", jobs.len())
        });
    }
    Ok(())
}
