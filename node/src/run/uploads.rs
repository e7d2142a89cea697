//! Gives up on uploads that nobody continues.
//!
//! The node that takes an upload ends it when the uploader goes away. When that node itself dies, nobody is left to say so:
//! the video would be `uploading` for ever. So the leader watches all uploads, and fails those that stand still.
//!
//! How long that takes is the setting `failure.upload_lost_after`. By default it is twice what a block takes to fill at the
//! slowest pace that gateways admit, so it only meets uploads whose gateway is gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::command::Action;
use cluster::ids::{NodeId, VideoId};
use cluster::tables::videos::VideoError;
use gateway::backend::Backend;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How often uploads are looked at, at least.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(5);

/// The share of the patience with an upload that may pass between two looks.
const LOOKS_PER_PATIENCE: u32 = 10;

/// Uploads looked at each time; the rest has its turn when some of these have ended.
const UPLOADS_MAX: usize = 1000;

/// Watches until `shutdown`. An upload of which nothing was recorded for `lost_after` is over.
pub(super) async fn run(
    backend: Arc<dyn Backend>,
    node: NodeId,
    lost_after: Duration,
    shutdown: CancellationToken,
) {
    let look_every = LOOK_EVERY_MAX.min(lost_after / LOOKS_PER_PATIENCE);
    let mut seen: BTreeMap<VideoId, (u64, Instant)> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(look_every) => {}
        }
        if backend.observe().leader != Some(node) {
            // Whoever leads next begins to count anew, which only makes it more patient.
            seen.clear();
            continue;
        }
        let uploads = match catalog::uploads(backend.catalog().as_ref(), UPLOADS_MAX) {
            Ok(uploads) => uploads,
            Err(error) => {
                warn!(%error, "look at uploads");
                continue;
            }
        };
        for video in give_up_on(&mut seen, &uploads, lost_after, Instant::now()) {
            info!(%video, "the upload stands still: give it up");
            let error = VideoError {
                code: "upload_interrupted".to_owned(),
                detail: format!("no data arrived for {} seconds", lost_after.as_secs()),
            };
            if let Err(error) = backend.propose(Action::FailVideo { id: video, error }).await {
                debug!(%error, %video, "give up an upload");
            }
        }
    }
}

/// Notes how far each upload is, and names those that have not moved for too long.
fn give_up_on(
    seen: &mut BTreeMap<VideoId, (u64, Instant)>,
    uploads: &[(VideoId, u64)],
    lost_after: Duration,
    now: Instant,
) -> Vec<VideoId> {
    seen.retain(|video, _| uploads.iter().any(|(upload, _)| upload == video));
    let mut over = Vec::new();
    for &(video, received) in uploads {
        match seen.get(&video) {
            Some(&(before, since)) if before == received => {
                if now.duration_since(since) >= lost_after {
                    over.push(video);
                }
            }
            _ => {
                seen.insert(video, (received, now));
            }
        }
    }
    over
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_upload_that_stands_still_is_given_up() {
        let (moving, still, ended) = (VideoId([1; 16]), VideoId([2; 16]), VideoId([3; 16]));
        let lost_after = Duration::from_secs(120);
        let start = Instant::now();
        let mut seen = BTreeMap::new();
        let mut over_at = |uploads: &[_], now| give_up_on(&mut seen, uploads, lost_after, now);
        assert!(over_at(&[(moving, 0), (still, 5), (ended, 1)], start).is_empty());
        let later = start + lost_after - Duration::from_secs(1);
        assert!(over_at(&[(moving, 1), (still, 5)], later).is_empty());
        let over = over_at(&[(moving, 1), (still, 5), (ended, 1)], start + lost_after);
        assert_eq!(over, [still]);
    }
}
