//! Blocks follow the nodes: who joins gets its share and nobody copies more than that, who dies is replaced and used again when
//! it is back, and whoever had copies before gives them up when all others have theirs.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, scenario, scenario_with};
use chaos_tests::faults::Fault;
use chaos_tests::moving::{PULLED_BYTES, groups, plan, sum, until_settled};
use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
use chaos_tests::player::Player;
use chaos_tests::wait;
use serde_json::Value;

/// Copying and giving up some megabytes on a machine that is busy.
const MOVED_WITHIN: Duration = Duration::from_secs(60);

const RELEASED_BLOCKS: &str = "reelraft_content_released_blocks_total";

/// Uploads some videos, and returns their ids.
async fn fill(cluster: &Cluster, clip: &Path) -> Result<Vec<String>> {
    let mut videos = Vec::new();
    for (turn, client) in cluster.clients()?.iter().cycle().take(4).enumerate() {
        let video = client.upload_video(clip, &format!("video {turn}")).await?;
        until_ready(client, &video.id).await?;
        videos.push(video.id);
    }
    Ok(videos)
}

/// What the node at `place` says of itself.
async fn own(cluster: &Cluster, place: usize) -> Result<Value> {
    cluster.seen(place, place).await?.context("a node knows itself")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_gets_its_share_and_the_others_give_it_up() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264, 20, 640, 360).make(folder.path()).await?;

    scenario(3, async |cluster| {
        let videos = fill(cluster, &clip).await?;
        let before = watch_everywhere(cluster, &videos[0]).await?;
        until_settled(cluster, 0, MOVED_WITHIN).await?;
        let asked = ["cluster", "plan", "--json", "--add", "a-new-one:1TB"];
        let planned: Value = serde_json::from_str(&cluster.operate(&asked, 0).await?)?;
        ensure!(planned["copies"].as_u64() > Some(0), "{planned}");

        let pulled_before = sum(cluster, PULLED_BYTES).await?;
        let mut viewer = Player::new(cluster.clients()?, &videos[1]).start();
        cluster.grow(1).await?;
        wait::until("the fourth node has its share", MOVED_WITHIN, async || {
            let groups = groups(&plan(cluster, 0).await?, 4)?;
            ensure!(groups > 700, "{groups} groups");
            Ok(Some(()))
        })
        .await?;
        until_settled(cluster, 0, MOVED_WITHIN).await?;
        viewer.plays(1).await?;
        viewer.finish().await?;

        // Every copy that it got is given up by one of the others: there are three of each block again.
        let bytes = wait::until("what came to one went from others", MOVED_WITHIN, async || {
            let newcomer = own(cluster, 3).await?;
            let blocks = newcomer["blocks"].as_u64().context("blocks")?;
            let released = sum(cluster, RELEASED_BLOCKS).await?;
            ensure!(blocks > 0 && released == blocks, "{blocks} came, {released} went");
            Ok(newcomer["bytes"].as_u64())
        })
        .await?;
        let pulled = sum(cluster, PULLED_BYTES).await? - pulled_before;
        eprintln!("{bytes} bytes moved, {pulled} were copied for that");
        ensure!(pulled * 10 <= bytes * 11, "{pulled} bytes copied to move {bytes}");
        still_plays(cluster, &videos[0], &before).await?;

        // Called off, a drain costs no more than it had moved.
        let all_groups = groups(&plan(cluster, 0).await?, 4)?;
        cluster.drain(3, 0).await?;
        wait::until("it is being drained", MOVED_WITHIN, async || {
            Ok((groups(&plan(cluster, 0).await?, 4)? < all_groups).then_some(()))
        })
        .await?;
        cluster.operate(&["node", "drain", "4", "--cancel"], 0).await?;
        wait::until("it has its groups again", MOVED_WITHIN, async || {
            let groups = groups(&plan(cluster, 0).await?, 4)?;
            ensure!(groups * 100 >= all_groups * 97, "{groups} of {all_groups} groups");
            Ok(Some(()))
        })
        .await?;
        until_settled(cluster, 0, MOVED_WITHIN).await?;
        for id in &videos {
            watch_everywhere(cluster, id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_is_replaced_and_used_again_when_it_is_back() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264, 20, 640, 360).make(folder.path()).await?;
    let impatient = [
        ("REELRAFT_FAILURE_SUSPECT_AFTER", "2s"),
        ("REELRAFT_FAILURE_DOWN_AFTER", "4s"),
        ("REELRAFT_FAILURE_DEAD_AFTER", "8s"),
    ];

    scenario_with(4, &impatient, async |cluster| {
        let videos = fill(cluster, &clip).await?;
        let before = watch_everywhere(cluster, &videos[0]).await?;
        until_settled(cluster, 0, MOVED_WITHIN).await?;
        let held = own(cluster, 3).await?["bytes"].as_u64().context("bytes")?;

        cluster.end(3, Fault::Kill)?;
        wait::until("a dead node is replaced", MOVED_WITHIN, async || {
            let groups = groups(&plan(cluster, 0).await?, 4)?;
            ensure!(groups == 0, "{groups} groups");
            let seen = cluster.nodes[0].client()?.cluster().await?;
            Ok((seen["under_replicated_blocks"] == 0).then_some(()))
        })
        .await?;
        still_plays(cluster, &videos[0], &before).await?;

        cluster.restart(3)?;
        cluster.wait_until_ready().await?;
        wait::until("it is used again", MOVED_WITHIN, async || {
            let groups = groups(&plan(cluster, 0).await?, 4)?;
            ensure!(groups > 700, "{groups} groups");
            Ok(Some(()))
        })
        .await?;
        until_settled(cluster, 0, MOVED_WITHIN).await?;
        let copied = cluster.nodes[3].client()?.metric(PULLED_BYTES).await?;
        eprintln!("it holds {held} bytes and copied {copied} when it came back");
        ensure!(copied * 10 <= held, "{copied} of {held} bytes were copied again");
        for id in &videos {
            watch_everywhere(cluster, id).await?;
        }
        Ok(())
    })
    .await
}
