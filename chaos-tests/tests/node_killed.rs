//! `kill -9` of any one node, whatever it is doing: what was accepted ends `ready`, plays from both others, and is the same
//! to the byte; after a restart the node is back in service. Then of all nodes at once.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Video, accepted};
use chaos_tests::clips::{Clip, Codec, count_frames};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::player::{Watched, watch};
use chaos_tests::wait;

/// Encoding some seconds of a small clip on two busy cores, with a node lost in between.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// Leases of a dead node have to end, and a survivor has to take over.
const PLAYABLE_WITHIN: Duration = Duration::from_secs(60);

async fn until_ready(client: &Client, id: &str) -> Result<Video> {
    wait::until(&format!("{id} is ready"), READY_WITHIN, async || {
        let video = client.video(id).await?;
        ensure!(video.state != "failed", "failed: {:?}", video.error);
        Ok((video.state == "ready").then_some(video))
    })
    .await
}

async fn until_playable(client: &Client, id: &str) -> Result<Video> {
    wait::until(&format!("{id} is playable"), PLAYABLE_WITHIN, async || {
        let video = client.video(id).await?;
        Ok((video.playable_seconds > 0.0).then_some(video))
    })
    .await
}

/// Watches the video at all nodes that run; every byte must be the same.
async fn watch_everywhere(cluster: &Cluster, id: &str) -> Result<Watched> {
    let mut first: Option<Watched> = None;
    for client in cluster.clients()? {
        let watched =
            watch(&client, id).await.with_context(|| format!("watch at {}", client.base))?;
        ensure!(watched.ended, "{}: {id} has not ended", client.base);
        match &first {
            None => first = Some(watched),
            Some(first) => ensure!(*first == watched, "{} serves other bytes", client.base),
        }
    }
    first.context("watch at one node at least")
}

#[tokio::test(flavor = "multi_thread")]
async fn any_node_during_upload_encoding_and_playback() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let standard = Clip::new(Codec::H264, 12, 640, 360).make(folder.path()).await?;
    let foreign = Clip::new(Codec::Mpeg4, 16, 640, 480).make(folder.path()).await?;

    scenario(3, async |cluster| {
        // The leader, while it does not receive the upload itself: the upload goes on and is accepted.
        let leader = cluster.leader().await?;
        let gateway = (leader + 1) % 3;
        let client = cluster.nodes[gateway].client()?;
        let length = std::fs::metadata(&standard)?.len();
        let upload = tokio::spawn({
            let (client, standard) = (client.clone(), standard.clone());
            async move { client.upload(&standard, "standard", Some("first"), Some(length / 4)).await }
        });
        wait::until("the upload is known", PLAYABLE_WITHIN, async || client.video_by_upload_key("first").await).await?;
        cluster.end(leader, Fault::Kill)?;
        let first = accepted(upload.await??).await?;
        until_ready(&client, &first.id).await?;
        let before = watch_everywhere(cluster, &first.id).await?;
        cluster.restart(leader)?;
        cluster.wait_until_ready().await?;
        ensure!(watch_everywhere(cluster, &first.id).await? == before, "the bytes changed");

        // The one that encodes.
        let second = client.upload_video(&foreign, "foreign").await?;
        let encoding = wait::until("a node encodes", PLAYABLE_WITHIN, async || {
            for (place, node) in cluster.nodes.iter().enumerate() {
                if node.workers()? > 0 {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        })
        .await?;
        cluster.end(encoding, Fault::Kill)?;
        let survivor = cluster.clients()?.remove(0);
        until_playable(&survivor, &second.id).await?;
        until_ready(&survivor, &second.id).await?;
        let before = watch_everywhere(cluster, &second.id).await?;
        cluster.restart(encoding)?;
        cluster.wait_until_ready().await?;
        ensure!(watch_everywhere(cluster, &second.id).await? == before, "the bytes changed");
        let frames = count_frames(&format!("{}/v/{}/master.m3u8", survivor.base, second.id)).await?;
        ensure!(frames == 16 * 25, "{frames} pictures instead of {}", 16 * 25);

        // The one that serves: what the others give is what it gave.
        cluster.end(gateway, Fault::Kill)?;
        ensure!(watch_everywhere(cluster, &second.id).await? == before, "the bytes changed");
        let writer = cluster.clients()?.remove(0);
        let title = serde_json::json!({"title": "still writable"});
        wait::until("the survivors take writes", PLAYABLE_WITHIN, async || {
            let answer = writer.patch(&format!("/api/v1/videos/{}", second.id), &title).await?;
            Ok(answer.status().is_success().then_some(()))
        })
        .await?;
        cluster.restart(gateway)?;
        cluster.wait_until_ready().await?;
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_at_once() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let standard = Clip::new(Codec::H264IndexLast, 6, 640, 360).make(folder.path()).await?;

    scenario(3, async |cluster| {
        let client = cluster.nodes[0].client()?;
        let video = client.upload_video(&standard, "standard").await?;
        until_ready(&client, &video.id).await?;
        let before = watch_everywhere(cluster, &video.id).await?;
        for place in 0..3 {
            cluster.end(place, Fault::Kill)?;
        }
        for place in 0..3 {
            cluster.restart(place)?;
        }
        cluster.wait_until_ready().await?;
        ensure!(watch_everywhere(cluster, &video.id).await? == before, "the bytes changed");
        // Also what was accepted a moment before the kill.
        let late = client.upload_video(&standard, "late").await?;
        for place in 0..3 {
            cluster.end(place, Fault::Kill)?;
        }
        for place in 0..3 {
            cluster.restart(place)?;
        }
        cluster.wait_until_ready().await?;
        until_ready(&client, &late.id).await?;
        watch_everywhere(cluster, &late.id).await?;
        Ok(())
    })
    .await
}
