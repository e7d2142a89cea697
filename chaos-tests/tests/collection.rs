//! Videos are deleted, and their space comes back on every node: on one that was paused meanwhile and on one that was killed
//! too. What shares its bytes with them plays on, and the same bytes can come again at any time.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, Node, Settings, scenario_with};
use chaos_tests::faults::{Fault, inflict};
use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
use chaos_tests::wait;

const SETTINGS: &Settings = &[
    ("REELRAFT_CONTENT_COLLECT_AFTER", "1s"),
    ("REELRAFT_CONTENT_FORGET_AFTER", "5s"),
    ("REELRAFT_HTTP_KEEP_SOURCE", "true"),
];

/// A second of patience, a look of the leader and one of each node; twice `forget_after` for what was never named. The rest is
/// for machines on which others compile.
const GONE_WITHIN: Duration = Duration::from_secs(60);

/// A video's bytes are there when it is ready, on all nodes a moment later.
const STORED_WITHIN: Duration = Duration::from_secs(60);

/// Uploads and deletions of the same bytes, one right after the other.
const AGAIN: usize = 6;

/// Blocks and bytes.
type Stored = (u64, u64);

/// What a node says of itself.
async fn stored(node: &Node) -> Result<Stored> {
    let cluster = node.client()?.cluster().await?;
    let nodes = cluster["nodes"].as_array().context("there are nodes")?;
    let me = nodes.iter().find(|node| node["id"] == cluster["self"]).context("it is one")?;
    let number = |name: &str| me[name].as_u64().with_context(|| format!("it has {name}"));
    Ok((number("blocks")?, number("bytes")?))
}

/// Waits until all nodes that run store the same, and as much as expected if something is.
async fn all_store(cluster: &Cluster, expected: Option<Stored>, limit: Duration) -> Result<Stored> {
    wait::until("all nodes store the same", limit, async || {
        let mut all = Vec::new();
        for node in cluster.running() {
            all.push(stored(node).await?);
        }
        let first = *all.first().context("some node runs")?;
        let same = all.iter().all(|stored| *stored == first);
        ensure!(same && expected.is_none_or(|expected| expected == first), "{all:?}");
        Ok(Some(first))
    })
    .await
}

async fn delete(client: &Client, id: &str) -> Result<()> {
    let answer = client.delete(&format!("/api/v1/videos/{id}")).await?;
    ensure!(answer.status().is_success(), "deleting {id} was answered {}", answer.status());
    Ok(())
}

/// Uploads a video and waits until it has all that it will have; the poster may come last.
async fn upload(client: &Client, clip: &Path, title: &str) -> Result<String> {
    let video = client.upload_video(clip, title).await?;
    let id = until_ready(client, &video.id).await?.id;
    wait::until("there is a poster", STORED_WITHIN, async || {
        client.bytes(&format!("/v/{id}/thumbnail.jpg")).await.map(Some)
    })
    .await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_space_of_deleted_videos_comes_back_and_nothing_else_goes() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let kept_clip = Clip::new(Codec::H264IndexLast, 4, 320, 180).make(folder.path()).await?;
    let other_clip = Clip::new(Codec::H264IndexLast, 6, 480, 270).make(folder.path()).await?;
    let kept_bytes = tokio::fs::read(&kept_clip).await?;
    scenario_with(3, SETTINGS, async |cluster| {
        let client = cluster.nodes[0].client()?;
        let kept = upload(&client, &kept_clip, "kept").await?;
        let before = watch_everywhere(cluster, &kept).await?;
        let least = all_store(cluster, None, STORED_WITHIN).await?;

        let twin = upload(&client, &kept_clip, "the same bytes").await?;
        let other = upload(&client, &other_clip, "other bytes").await?;
        let most = all_store(cluster, None, STORED_WITHIN).await?;
        ensure!(most.1 > least.1, "{most:?} after {least:?}");

        // One node sleeps through all of it.
        let leader = cluster.leader().await?;
        let (paused, killed) = ((leader + 1) % 3, (leader + 2) % 3);
        let survivor = cluster.nodes[leader].client()?;
        let process = cluster.nodes[paused].process_id()?;
        inflict(Fault::Pause, process)?;
        let began = Instant::now();
        delete(&survivor, &twin).await?;
        delete(&survivor, &other).await?;
        for place in [leader, killed] {
            wait::until("the space is back", GONE_WITHIN, async || {
                let now = stored(&cluster.nodes[place]).await?;
                ensure!(now == least, "{now:?}, not {least:?}");
                Ok(Some(()))
            })
            .await?;
        }
        eprintln!("the space was back after {:?}", began.elapsed());
        inflict(Fault::Resume, process)?;
        cluster.wait_until_ready().await?;
        all_store(cluster, Some(least), GONE_WITHIN).await?;
        still_plays(cluster, &kept, &before).await?;

        // Another one is killed while it deletes, and the leader is the next to be.
        for victim in [killed, leader] {
            let client = cluster.nodes[(victim + 1) % 3].client()?;
            let other = upload(&client, &other_clip, "to be deleted in a crash").await?;
            delete(&client, &other).await?;
            wait::until("it begins to delete", GONE_WITHIN, async || {
                let now = stored(&cluster.nodes[victim]).await?;
                Ok((now.1 < most.1).then_some(()))
            })
            .await?;
            cluster.end(victim, Fault::Kill)?;
            cluster.restart(victim)?;
            cluster.wait_until_ready().await?;
            all_store(cluster, Some(least), GONE_WITHIN).await?;
        }

        // The same bytes come and go, at one node after the other, faster than they are collected and slower.
        let mut last: Option<String> = None;
        for turn in 0..AGAIN {
            let client = cluster.nodes[turn % 3].client()?;
            if let Some(id) = last.take() {
                delete(&client, &id).await?;
            }
            last = Some(upload(&client, &other_clip, "again").await?);
        }
        let last = last.context("something was uploaded")?;
        let again = watch_everywhere(cluster, &last).await?;
        let client = cluster.nodes[0].client()?;
        wait::until("the garbage is gone", GONE_WITHIN, async || {
            let now = all_store(cluster, None, STORED_WITHIN).await?;
            ensure!(now.1 <= most.1, "{now:?}, not {most:?}");
            Ok(Some(()))
        })
        .await?;
        still_plays(cluster, &last, &again).await?;
        let source = client.bytes(&format!("/v/{last}/source")).await?;
        ensure!(source == tokio::fs::read(&other_clip).await?, "the source has other bytes");

        delete(&client, &last).await?;
        all_store(cluster, Some(least), GONE_WITHIN).await?;
        still_plays(cluster, &kept, &before).await?;
        for client in cluster.clients()? {
            let source = client.bytes(&format!("/v/{kept}/source")).await?;
            ensure!(source == kept_bytes, "{} serves another source", client.base);
        }
        Ok(())
    })
    .await
}
