//! Work that waits to be done.

use std::collections::BTreeSet;

use crate::apply;
use crate::ids::{NodeId, VideoId};
use crate::jobs::JobKind;
use crate::table::KeyRange;
use crate::tables::jobs::JOB_QUEUE;
use crate::tables::videos::{VIDEOS, VideoState};
use crate::view::{View, ViewError};

/// Rows of the queue that [`uploads`] reads at a time.
const SCAN_STEP: usize = 64;

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

/// Videos whose bytes are still arriving, with the number of bytes that have arrived; at most `limit`. Each of them has a
/// job that is not done, so they are found by the queue.
///
/// # Errors
/// When the view fails.
pub fn uploads(view: &dyn View, limit: usize) -> Result<Vec<(VideoId, u64)>, ViewError> {
    let mut seen = BTreeSet::new();
    let mut uploads = Vec::new();
    let mut range = KeyRange::all();
    while uploads.len() < limit {
        let keys = JOB_QUEUE.keys(view, &range, SCAN_STEP)?;
        let Some(last) = keys.last() else {
            break;
        };
        range = range.starting_after(last);
        for key in &keys {
            if uploads.len() < limit
                && seen.insert(key.job.video)
                && let Some(video) = VIDEOS.get(view, &key.job.video)?
                && video.state == VideoState::Uploading
            {
                uploads.push((video.id, video.source.received));
            }
        }
    }
    Ok(uploads)
}
