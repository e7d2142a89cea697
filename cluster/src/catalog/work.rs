//! Work that waits to be done.

use crate::apply;
use crate::ids::{NodeId, VideoId};
use crate::jobs::JobKind;
use crate::table::KeyRange;
use crate::tables::videos::{UPLOADS, VIDEOS};
use crate::view::{TableId, View, ViewError};

/// Whether a change in this table can make [`has_claimable_job`] answer otherwise. It reads the table of videos too, which is
/// not one of these: what matters there (bytes, their end, a plan) never changes without one of these, and titles change at any
/// time. Otherwise only time can. Spares whoever waits for work from a look after each command.
#[must_use]
pub fn is_about_work(table: TableId) -> bool {
    matches!(
        table,
        TableId::Jobs
            | TableId::JobQueue
            | TableId::SourceBlocks
            | TableId::Uploads
            | TableId::Members
            | TableId::Nodes
            | TableId::Authority
    )
}

/// Whether a claim of that node for these kinds of jobs would be given one, if the catalog's clock were at `now_ms`. Spares
/// the log from claims that come to nothing.
///
/// # Errors
/// When the view fails.
pub fn has_claimable_job(
    view: &dyn View,
    node: NodeId,
    kinds: &[JobKind],
    now_ms: u64,
) -> Result<bool, ViewError> {
    Ok(apply::most_urgent_job(view, node, kinds, now_ms)?.is_some())
}

/// Videos whose bytes are still arriving, with the number of bytes that have arrived; at most `limit`.
///
/// # Errors
/// When the view fails.
pub fn uploads(view: &dyn View, limit: usize) -> Result<Vec<(VideoId, u64)>, ViewError> {
    let mut uploads = Vec::new();
    for id in UPLOADS.keys(view, &KeyRange::all(), limit)? {
        if let Some(video) = VIDEOS.get(view, &id)? {
            uploads.push((id, video.source.received));
        }
    }
    Ok(uploads)
}
