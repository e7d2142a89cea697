//! Nodes, layout, blocks and jobs.

use crate::ids::{BlockHash, NodeId, VideoId};
use crate::jobs::JobId;
use crate::placement::{Candidate, Earlier, Layout};
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, BlockRow};
use crate::tables::jobs::{JOBS, JobRow, LEASES};
use crate::tables::members::MemberState;
use crate::tables::nodes::{EARLIER, EARLIER_KEY, LAYOUT, NODES, NodeRow, Role};
use crate::tables::system::{SYSTEM, SystemRow};
use crate::view::{TableId, View, ViewError};

/// The cluster's identity and clock; all zeros before it was initialized.
///
/// # Errors
/// When the view fails.
pub fn system(view: &dyn View) -> Result<SystemRow, ViewError> {
    Ok(SYSTEM.get(view, &())?.unwrap_or_default())
}

/// A node.
///
/// # Errors
/// When the view fails.
pub fn node(view: &dyn View, id: NodeId) -> Result<Option<NodeRow>, ViewError> {
    NODES.get(view, &id)
}

/// All nodes, in the order of their ids. There are never more than [`crate::apply::NODES_MAX`].
///
/// # Errors
/// When the view fails.
pub fn nodes(view: &dyn View) -> Result<Vec<NodeRow>, ViewError> {
    let rows = NODES.collect(view, &KeyRange::all(), usize::MAX)?;
    Ok(rows.into_iter().map(|(_, row)| row).collect())
}

/// Whether a change in this table can make blocks belong elsewhere, or somebody else their next holder. Spares whoever keeps
/// the layout at hand from reading it after each command.
#[must_use]
pub fn is_about_placement(table: TableId) -> bool {
    matches!(table, TableId::Layout | TableId::Nodes | TableId::Members)
}

/// The present layout; an empty one of epoch 0 before the first.
///
/// # Errors
/// When the view fails.
pub fn layout(view: &dyn View) -> Result<Layout, ViewError> {
    Ok(LAYOUT.get(view, &())?.unwrap_or_default())
}

/// Who held blocks before the present layout, as far as that is remembered.
///
/// # Errors
/// When the view fails.
pub fn earlier_holders(view: &dyn View) -> Result<Earlier, ViewError> {
    Ok(EARLIER.get(view, &EARLIER_KEY)?.unwrap_or_default())
}

/// The nodes that the layout should name, when all that are to stay are there: members with the role and some room, without
/// those that are being drained.
///
/// # Errors
/// When the view fails.
pub fn store_candidates(view: &dyn View) -> Result<Vec<Candidate>, ViewError> {
    let admitted = super::has_authority(view)?;
    let mut candidates = Vec::new();
    for row in nodes(view)? {
        let stays = match super::member(view, row.id)? {
            Some(member) => member.state == MemberState::Member,
            None => !admitted,
        };
        if stays && row.roles.contains(&Role::Store) && row.capacity_bytes > 0 {
            candidates.push(Candidate { id: row.id, zone: row.zone, weight: row.capacity_bytes });
        }
    }
    Ok(candidates)
}

/// A block that a row names or has named.
///
/// # Errors
/// When the view fails.
pub fn block(view: &dyn View, hash: &BlockHash) -> Result<Option<BlockRow>, ViewError> {
    BLOCKS.get(view, hash)
}

/// A job that is not done.
///
/// # Errors
/// When the view fails.
pub fn job(view: &dyn View, id: JobId) -> Result<Option<JobRow>, ViewError> {
    JOBS.get(view, &id)
}

/// The jobs of a video that are not done, at most `limit`.
///
/// # Errors
/// When the view fails.
pub fn jobs_of(
    view: &dyn View,
    video: VideoId,
    limit: usize,
) -> Result<Vec<(JobId, JobRow)>, ViewError> {
    JOBS.collect(view, &KeyRange::under(&video), limit)
}

/// The jobs that a node has a lease of, expired or not.
///
/// # Errors
/// When the view fails.
pub fn leases_of(view: &dyn View, node: NodeId) -> Result<Vec<JobId>, ViewError> {
    let keys = LEASES.keys(view, &KeyRange::under(&node), usize::MAX)?;
    Ok(keys.into_iter().map(|(_, job)| job).collect())
}

/// How much work there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// Jobs that nobody works on.
    pub queued: u64,
    /// Jobs with a lease that has not expired.
    pub running: u64,
}

/// How much work there is. Reads one row for each lease, not one for each job.
///
/// # Errors
/// When the view fails.
pub fn jobs(view: &dyn View) -> Result<JobCounts, ViewError> {
    let system = system(view)?;
    let mut running = 0;
    for (_, id) in LEASES.keys(view, &KeyRange::all(), usize::MAX)? {
        let lease = JOBS.get(view, &id)?.and_then(|job| job.lease);
        if lease.is_some_and(|lease| lease.expires_ms > system.time_ms) {
            running += 1;
        }
    }
    Ok(JobCounts { queued: system.jobs.saturating_sub(running), running })
}
