//! What has to become of a video, whatever happened on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::client::{Client, Video, VideoError};
use crate::cluster::Cluster;
use crate::player::{Watched, watch};
use crate::wait;

/// Encoding some seconds of a clip on two busy cores, with a node lost in between.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Leases of a dead node have to end, and a survivor has to take over.
pub const PLAYABLE_WITHIN: Duration = Duration::from_secs(60);

/// One node may say that a video is complete before the playlists of all say so: the other nodes apply the same command a
/// moment later, and rendered playlists are kept for half a second.
const LAG_MAX: Duration = Duration::from_secs(3);

/// Waits until the video is complete.
///
/// # Errors
/// When it fails, or takes too long.
pub async fn until_ready(client: &Client, id: &str) -> Result<Video> {
    until_ready_within(client, id, READY_WITHIN).await
}

/// As [`until_ready`], for videos that take long.
///
/// # Errors
/// As there.
pub async fn until_ready_within(client: &Client, id: &str, limit: Duration) -> Result<Video> {
    let video = wait::until(&format!("{id} is ready"), limit, async || {
        let video = client.video(id).await?;
        Ok(Some(video).filter(|video| matches!(video.state.as_str(), "ready" | "failed")))
    })
    .await?;
    ensure!(video.state == "ready", "{id} failed: {:?}", video.error);
    Ok(video)
}

/// Waits until the video has failed, and says why it has.
///
/// # Errors
/// When that takes longer than `limit`.
pub async fn until_failed(client: &Client, id: &str, limit: Duration) -> Result<VideoError> {
    wait::until(&format!("{id} has failed"), limit, async || {
        let video = client.video(id).await?;
        ensure!(video.state == "failed", "it is {}", video.state);
        Ok(video.error)
    })
    .await
}

/// Waits until the first seconds of the video can be played.
///
/// # Errors
/// When that takes too long.
pub async fn until_playable(client: &Client, id: &str) -> Result<Video> {
    wait::until(&format!("{id} is playable"), PLAYABLE_WITHIN, async || {
        let video = client.video(id).await?;
        Ok((video.playable_seconds > 0.0).then_some(video))
    })
    .await
}

/// Waits until the survivors accept changes, with the title of that video.
///
/// # Errors
/// When that takes too long.
pub async fn until_writable(client: &Client, id: &str) -> Result<()> {
    let title = serde_json::json!({"title": "still writable"});
    wait::until("the cluster takes writes", PLAYABLE_WITHIN, async || {
        let answer = client.patch(&format!("/api/v1/videos/{id}"), &title).await?;
        Ok(answer.status().is_success().then_some(()))
    })
    .await
}

/// Watches the complete video at all nodes that run; every byte must be the same.
///
/// # Errors
/// When a node cannot play all of it, or serves other bytes.
pub async fn watch_everywhere(cluster: &Cluster, id: &str) -> Result<Watched> {
    let mut first: Option<Watched> = None;
    for client in cluster.clients()? {
        let watched =
            wait::until(&format!("{} lists all of {id}", client.base), LAG_MAX, async || {
                Ok(Some(watch(&client, id).await?).filter(|watched| watched.ended))
            })
            .await?;
        match &first {
            None => first = Some(watched),
            Some(first) => ensure!(*first == watched, "{} serves other bytes", client.base),
        }
    }
    first.context("watch at one node at least")
}

/// Checks that the video plays at all nodes that run as it did before.
///
/// # Errors
/// When it does not.
pub async fn still_plays(cluster: &Cluster, id: &str, before: &Watched) -> Result<()> {
    let now = watch_everywhere(cluster, id).await?;
    ensure!(now == *before, "{id}: other bytes than before");
    Ok(())
}
