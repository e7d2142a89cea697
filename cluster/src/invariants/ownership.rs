//! Whatever belongs to a video goes with it: no row is left of a video that is not there, and renditions are those of the
//! plan.

use std::collections::BTreeSet;

use super::Findings;
use crate::table::KeyRange;
use crate::tables::jobs::JOBS;
use crate::tables::renditions::{RENDITIONS, SEGMENTS};
use crate::tables::videos::{SOURCE_BLOCKS, VIDEOS};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let all = KeyRange::all();
    let videos = VIDEOS.collect(view, &all, usize::MAX)?;
    let planned: BTreeSet<_> = videos
        .iter()
        .filter_map(|(id, video)| Some((*id, video.plan.as_ref()?)))
        .flat_map(|(id, plan)| plan.indexed().map(move |(index, _)| (id, index)))
        .collect();
    let renditions: BTreeSet<_> = RENDITIONS.keys(view, &all, usize::MAX)?.into_iter().collect();
    findings.require(renditions == planned, || {
        format!("{} renditions, {} are planned", renditions.len(), planned.len())
    });
    let known: BTreeSet<_> = videos.iter().map(|(id, _)| *id).collect();
    for (id, index, number) in SEGMENTS.keys(view, &all, usize::MAX)? {
        findings.require(renditions.contains(&(id, index)), || {
            format!("segments to {number} of {id}/{index} belong to nothing")
        });
    }
    for (id, end) in SOURCE_BLOCKS.keys(view, &all, usize::MAX)? {
        findings.require(known.contains(&id), || {
            format!("the block of {id} before byte {end} belongs to nothing")
        });
    }
    for job in JOBS.keys(view, &all, usize::MAX)? {
        findings.require(known.contains(&job.video), || format!("{job} belongs to nothing"));
    }
    Ok(())
}
