//! Gives up on uploads that nobody continues.
//!
//! The node that takes an upload ends it when the uploader goes away. When that node itself dies, nobody is left to say so:
//! the video would be `uploading` for ever. So the leader watches all uploads, and fails those that stand still.

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

/// An upload that got nothing recorded for this long is over. At the slowest pace that gateways admit, a block fills in half
/// this time, so this only meets uploads whose gateway is gone.
const STANDSTILL_MAX: Duration = Duration::from_secs(120);

/// How often uploads are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Uploads looked at each time; the rest has its turn when some of these have ended.
const UPLOADS_MAX: usize = 1000;

/// Watches until `shutdown`.
pub(super) async fn run(backend: Arc<dyn Backend>, node: NodeId, shutdown: CancellationToken) {
    let mut seen: BTreeMap<VideoId, (u64, Instant)> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
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
        for video in give_up_on(&mut seen, &uploads, Instant::now()) {
            info!(%video, "the upload stands still: give it up");
            let error = VideoError {
                code: "upload_interrupted".to_owned(),
                detail: format!("no data arrived for {} seconds", STANDSTILL_MAX.as_secs()),
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
    now: Instant,
) -> Vec<VideoId> {
    seen.retain(|video, _| uploads.iter().any(|(upload, _)| upload == video));
    let mut over = Vec::new();
    for &(video, received) in uploads {
        match seen.get(&video) {
            Some(&(before, since)) if before == received => {
                if now.duration_since(since) >= STANDSTILL_MAX {
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
        let start = Instant::now();
        let mut seen = BTreeMap::new();
        assert!(give_up_on(&mut seen, &[(moving, 0), (still, 5), (ended, 1)], start).is_empty());
        let later = start + STANDSTILL_MAX - Duration::from_secs(1);
        assert!(give_up_on(&mut seen, &[(moving, 1), (still, 5)], later).is_empty());
        let over =
            give_up_on(&mut seen, &[(moving, 1), (still, 5), (ended, 1)], start + STANDSTILL_MAX);
        assert_eq!(over, [still]);
    }
}
