//! A copy goes bad on the disk of one node, and nobody watches that video. A scrub finds it and a good one takes its place;
//! whoever watches then is given the right bytes everywhere.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
use chaos_tests::wait;
use serde_json::Value;

/// Some megabytes are copied and read, and nodes say twice a second how they are.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

/// The node on whose disk it happens.
const PLACE: usize = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_has_gone_bad_is_found_before_somebody_needs_it() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264, 6, 640, 360).make(folder.path()).await?;
    scenario(3, async |cluster| {
        let client = cluster.nodes[0].client()?;
        let film = client.upload_video(&clip, "film").await?.id;
        until_ready(&client, &film).await?;
        let before = watch_everywhere(cluster, &film).await?;
        has_all_copies(cluster).await?;

        // What was written last is brought to where it stays by a start.
        cluster.end(PLACE, Fault::Terminate)?;
        cluster.restart(PLACE)?;
        cluster.wait_until_ready().await?;
        cluster.end(PLACE, Fault::Terminate)?;
        let longest = before.files.iter().max_by_key(|(_, (_, len))| *len);
        let (path, _) = longest.context("a video has files")?;
        let block = client.bytes(path).await?;
        flip(&cluster.nodes[PLACE].data().join("content"), &block)?;
        // What is asked for now is done by the node when it is back.
        scrub(cluster, &["start"]).await?;
        cluster.restart(PLACE)?;
        cluster.wait_until_ready().await?;
        is_up(cluster).await?;

        ensure!(damaged(cluster).await? == [0, 1, 0], "it was not found, or something else was");
        let seen = client.cluster().await?;
        let findings = seen["findings"].as_array().context("a list of findings")?;
        let told = |finding: &&Value| finding["code"] == "copies_damaged";
        ensure!(findings.iter().filter(told).count() == 1, "nobody is told: {findings:?}");
        has_all_copies(cluster).await?;

        scrub(cluster, &["start"]).await?;
        ensure!(damaged(cluster).await? == [0, 0, 0], "the copy is still bad");
        still_plays(cluster, &film, &before).await
    })
    .await
}

async fn scrub(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let arguments = [&["scrub"], arguments].concat();
    wait::until("a command on scrubs", SETTLED_WITHIN, async || {
        cluster.command(&arguments, &cluster.nodes[0]).await.map(Some)
    })
    .await
}

/// The copies that each node has found damaged, in the scrub that was asked for last.
async fn damaged(cluster: &Cluster) -> Result<Vec<u64>> {
    let printed = scrub(cluster, &["status", "--wait", "--timeout", "1m", "--json"]).await?;
    let nodes: Vec<Value> = serde_json::from_str(&printed)?;
    let of = |node: &Value| {
        ensure!(node["state"] == "idle" && node["progress"].is_null(), "it goes on: {node}");
        let checked = &node["last"]["checked"];
        ensure!(checked["blocks"].as_u64() > Some(0), "nothing was checked: {node}");
        checked["damaged_blocks"].as_u64().context("a number of blocks")
    };
    nodes.iter().map(of).collect()
}

/// Until others have heard of it again, it counts as away, and is not waited for.
async fn is_up(cluster: &Cluster) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    wait::until("all nodes are up", SETTLED_WITHIN, async || {
        let seen = client.cluster().await?;
        let nodes = seen["nodes"].as_array().context("a list of nodes")?;
        Ok(nodes.iter().all(|node| node["status"] == "up").then_some(()))
    })
    .await
}

async fn has_all_copies(cluster: &Cluster) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    wait::until("all copies are there", SETTLED_WITHIN, async || {
        let seen = client.cluster().await?;
        let nodes = seen["nodes"].as_array().context("a list of nodes")?;
        let blocks: Vec<_> = nodes.iter().map(|node| node["blocks"].as_u64()).collect();
        let equal = blocks.windows(2).all(|pair| pair[0] == pair[1]);
        Ok((equal && seen["under_replicated_blocks"] == 0).then_some(()))
    })
    .await
}

/// Flips a bit of each place below `folder` where the block is.
fn flip(folder: &Path, block: &Bytes) -> Result<()> {
    let mut flipped = 0;
    for path in files(folder)? {
        let bytes = fs::read(&path)?;
        for at in memchr::memmem::find_iter(&bytes, block) {
            let middle = at + block.len() / 2;
            let file = File::options().write(true).open(&path)?;
            file.write_all_at(&[bytes[middle] ^ 0x10], middle as u64)?;
            flipped += 1;
        }
    }
    ensure!(flipped == 1, "the block is in {flipped} places");
    Ok(())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}
