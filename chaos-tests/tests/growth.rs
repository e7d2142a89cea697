//! A cluster begins with one node. What that one was given is safe on three, and plays from each, once two more have joined.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::scenario;
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{still_plays, until_ready, until_writable, watch_everywhere};
use chaos_tests::wait;

/// Copying some megabytes within one machine that is busy.
const COPIED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn one_node_becomes_three_under_a_video_that_is_being_made() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let standard = Clip::new(Codec::H264, 8, 640, 360).make(folder.path()).await?;
    let foreign = Clip::new(Codec::Mpeg4, 12, 640, 480).make(folder.path()).await?;

    scenario(1, async |cluster| {
        let alone = cluster.nodes[0].client()?;
        let first = alone.upload_video(&standard, "before").await?;
        until_ready(&alone, &first.id).await?;
        let before = watch_everywhere(cluster, &first.id).await?;
        // This one is still being encoded while the others join.
        let second = alone.upload_video(&foreign, "during").await?;

        cluster.grow(2).await?;
        until_ready(&alone, &second.id).await?;
        let during = watch_everywhere(cluster, &second.id).await?;
        still_plays(cluster, &first.id, &before).await?;
        wait::until("three copies of everything", COPIED_WITHIN, async || {
            let seen = alone.cluster().await?;
            let nodes = seen["nodes"].as_array().context("a list of nodes")?;
            let lacking = seen["under_replicated_blocks"].as_u64();
            let held: Vec<_> = nodes.iter().map(|node| node["blocks"].as_u64()).collect();
            ensure!(held.iter().all(|blocks| *blocks > Some(0)), "{held:?}");
            Ok((lacking == Some(0)).then_some(()))
        })
        .await?;

        // The founder is a node like any other: without it all goes on.
        cluster.end(0, Fault::Kill)?;
        still_plays(cluster, &first.id, &before).await?;
        still_plays(cluster, &second.id, &during).await?;
        let survivor = cluster.clients()?.remove(0);
        until_writable(&survivor, &first.id).await?;
        let third = survivor.upload_video(&standard, "after").await?;
        until_ready(&survivor, &third.id).await?;
        Ok(())
    })
    .await
}
