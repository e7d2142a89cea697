//! Every job that is not done is in the queue, once, where its urgency says; nothing else is; and they are counted right.

use std::collections::BTreeSet;

use super::Findings;
use crate::catalog;
use crate::jobs::QueueKey;
use crate::table::{Key, KeyRange};
use crate::tables::jobs::{JOB_QUEUE, JOBS};
use crate::tables::videos::VIDEOS;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let jobs = JOBS.collect(view, &KeyRange::all(), usize::MAX)?;
    let mut expected = BTreeSet::new();
    for (job, row) in &jobs {
        let created_index = VIDEOS.get(view, &job.video)?.map_or(0, |video| video.created_index);
        expected.insert(QueueKey { urgency: row.urgency, created_index, job: *job }.to_bytes());
    }
    let queued: BTreeSet<Vec<u8>> = JOB_QUEUE
        .keys(view, &KeyRange::all(), usize::MAX)?
        .iter()
        .map(QueueKey::to_bytes)
        .collect();
    findings.require(queued == expected, || {
        let missing = expected.difference(&queued).count();
        let extra = queued.difference(&expected).count();
        format!("{missing} jobs are missing in the queue, {extra} are too many")
    });
    let counted = catalog::system(view)?.jobs;
    findings.require(counted == jobs.len() as u64, || {
        format!("there are {} jobs, {counted} are counted", jobs.len())
    });
    Ok(())
}
