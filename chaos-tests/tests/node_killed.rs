//! `kill -9` of any one node, whatever it is doing: what was accepted ends `ready`, plays from both others, and is the same
//! to the byte; after a restart the node is back in service. Then of all nodes at once.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use chaos_tests::client::{Client, Video, accepted};
use chaos_tests::clips::{Clip, Codec, count_frames};
use chaos_tests::cluster::{scenario, scenario_with};
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{
    PLAYABLE_WITHIN, still_plays, until_failed, until_playable, until_ready, until_writable,
    watch_everywhere,
};
use chaos_tests::player::{Player, WAIT_MAX};
use chaos_tests::wait;
use reqwest::Response;
use tokio::task::JoinHandle;

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
        still_plays(cluster, &first.id, &before).await?;

        // The one that encodes.
        let second = client.upload_video(&foreign, "foreign").await?;
        let encoding = wait::until("a node encodes", PLAYABLE_WITHIN, async || {
            for (place, node) in cluster.nodes.iter().enumerate() {
                if !node.workers()?.is_empty() {
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
        still_plays(cluster, &second.id, &before).await?;
        let frames = count_frames(&format!("{}/v/{}/master.m3u8", survivor.base, second.id)).await?;
        ensure!(frames == 16 * 25, "{frames} pictures instead of {}", 16 * 25);

        // The one that serves: what the others give is what it gave.
        cluster.end(gateway, Fault::Kill)?;
        still_plays(cluster, &second.id, &before).await?;
        let writer = cluster.clients()?.remove(0);
        until_writable(&writer, &second.id).await?;
        cluster.restart(gateway)?;
        cluster.wait_until_ready().await?;
        Ok(())
    })
    .await
}

/// How long the leader waits for uploads that stand still, in the scenario below. Those of it that go on bring a block far
/// sooner.
const UPLOAD_LOST_AFTER: &str = "8s";

/// After that, and the election of a leader that begins to count when the one before was killed.
const GIVEN_UP_WITHIN: Duration = Duration::from_secs(30);

/// An upload whose node dies in the middle is over, and says so; all else goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_takes_an_upload() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let small = Clip::new(Codec::H264, 8, 640, 360).make(folder.path()).await?;
    let large = Clip::new(Codec::H264, 30, 1280, 720).make(folder.path()).await?;
    let settings = [("REELRAFT_FAILURE_UPLOAD_LOST_AFTER", UPLOAD_LOST_AFTER)];

    scenario_with(3, &settings, async |cluster| {
        let leader = cluster.leader().await?;
        let (follower, survivor) = ((leader + 1) % 3, (leader + 2) % 3);
        let at = [follower, leader, survivor].map(|place| cluster.nodes[place].client());
        let [at_follower, at_leader, at_survivor] = at.map(Result::unwrap);
        let film = at_survivor.upload_video(&small, "film").await?;
        until_ready(&at_survivor, &film.id).await?;
        let before = watch_everywhere(cluster, &film.id).await?;
        let nodes = vec![at_follower.clone(), at_leader.clone(), at_survivor.clone()];
        let mut viewer = Player::new(nodes, &film.id).start();
        viewer.plays(1).await?;

        // A follower, which serves the viewer too; back before the next one.
        let (first, upload) = half_way(&at_follower, &at_survivor, &large, "first").await?;
        cluster.end(follower, Fault::Kill)?;
        ensure!(upload.await?.is_err(), "the dead node answered");
        viewer.plays(2 * before.files.len()).await?;
        cluster.restart(follower)?;
        cluster.wait_until_ready().await?;

        // The leader, whose successor has to notice both.
        let (second, upload) = half_way(&at_leader, &at_survivor, &large, "second").await?;
        cluster.end(leader, Fault::Kill)?;
        ensure!(upload.await?.is_err(), "the dead node answered");
        let again = at_survivor.upload(&large, "again", Some("again"), None).await?;
        let again = accepted(again).await?;
        until_ready(&at_survivor, &again.id).await?;
        let complete = watch_everywhere(cluster, &again.id).await?;
        for id in [&first.id, &second.id] {
            let error = until_failed(&at_survivor, id, GIVEN_UP_WITHIN).await?;
            ensure!(error.code == "upload_interrupted", "{error:?}");
        }
        let viewed = viewer.finish().await?;
        ensure!(viewed.files == before.files, "the viewer was given other bytes");
        ensure!(viewed.moves.len() == 2, "two nodes died: {:?}", viewed.moves);
        ensure!(viewed.longest_wait < WAIT_MAX, "the viewer waited {:?}", viewed.longest_wait);

        cluster.restart(leader)?;
        cluster.wait_until_ready().await?;
        still_plays(cluster, &film.id, &before).await?;
        still_plays(cluster, &again.id, &complete).await?;
        for client in [&at_follower, &at_leader] {
            let video = client.upload_video(&small, "back in service").await?;
            until_ready(client, &video.id).await?;
            watch_everywhere(cluster, &video.id).await?;
        }
        // Nothing waits for the bytes that will not come.
        wait::until("all work is done", PLAYABLE_WITHIN, async || {
            let jobs = at_survivor.cluster().await?["jobs"].clone();
            ensure!(jobs["queued"] == 0 && jobs["running"] == 0, "{jobs}");
            Ok(Some(()))
        })
        .await
    })
    .await
}

/// Begins a slow upload, and returns when its beginning plays at another node.
async fn half_way(
    to: &Client,
    other: &Client,
    file: &Path,
    key: &'static str,
) -> Result<(Video, JoinHandle<Result<Response>>)> {
    let (client, file) = (to.clone(), PathBuf::from(file));
    let slowly = Some(std::fs::metadata(&file)?.len() / 10);
    let upload = tokio::spawn(async move { client.upload(&file, key, Some(key), slowly).await });
    let known = async || other.video_by_upload_key(key).await;
    let video = wait::until("the upload is known", PLAYABLE_WITHIN, known).await?;
    let video = until_playable(other, &video.id).await?;
    ensure!(video.state == "uploading" && !upload.is_finished(), "the upload has ended: {video:?}");
    Ok((video, upload))
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
        still_plays(cluster, &video.id, &before).await?;
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
