//! A disk that is full under the data of one node.
//!
//! A node that is alone with its full disk goes on with its ballast: it serves, deletes, takes no uploads, comes up again after
//! `kill -9`, and is its old self when there is room. While a cluster takes writes (the disk of a follower, of the leader, and
//! only under the catalog), the ballast is used up in the end. Then the node ends rather than acknowledge what it cannot keep,
//! and says why; the others go on; with room again it comes back with all that was decided.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos_tests::client::accepted;
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, Ground, Node, scenario_on};
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
use chaos_tests::player::Watched;
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// As long as a majority is left, writes go on within about a second; here encoders and compilers may run beside.
const WRITES_WITHIN: Duration = Duration::from_secs(45);

/// Writes that are acknowledged between two changes, beyond the first.
const BETWEEN_CHANGES: u64 = 100;

/// What a database has taken in advance is written full by then: tens of megabytes, by three nodes on a busy machine.
const ENDED_WITHIN: Duration = Duration::from_secs(90);

/// Nodes say twice a second how they are.
const NAMED_WITHIN: Duration = Duration::from_secs(45);

/// Clients that fill what a database has taken in advance.
const FLOODING: usize = 8;

/// What is on a disk that fills up.
enum On {
    /// All data of a node.
    All,
    /// Its catalog; the rest is on another one.
    Catalog,
}

fn on_disks() -> Ground {
    Ground { disks: true, ..Ground::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_on_with_a_full_disk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264, 4, 640, 360).make(folder.path()).await?;
    // What is stored already needs no room.
    let second = Clip::new(Codec::H264, 5, 640, 360).make(folder.path()).await?;
    let third = Clip::new(Codec::H264, 6, 640, 360).make(folder.path()).await?;
    scenario_on(on_disks(), 1, &[], async |cluster| {
        let node = cluster.nodes[0].client()?;
        let mut spare = Vec::new();
        for title in ["one", "another"] {
            spare.push(node.upload_video(&clip, title).await?.id);
        }
        let film = node.upload_video(&clip, "film").await?.id;
        until_ready(&node, &film).await?;
        let before = watch_everywhere(cluster, &film).await?;
        let ballast = cluster.nodes[0].data().join("ballast");
        ensure!(ballast.exists(), "there is no ballast");

        // Somebody fills it under the node.
        cluster.nodes[0].disk()?.fill()?;
        finds(cluster, &["ballast_released", "disk_full"]).await?;
        ensure!(!ballast.exists(), "the ballast is there");
        serves(cluster, &spare.remove(0), (&film, &before)).await?;
        refuses(cluster, &second).await?;
        cluster.end(0, Fault::Kill)?;
        cluster.restart(0)?;
        cluster.wait_until_ready().await?;
        still_plays(cluster, &film, &before).await?;
        cluster.nodes[0].disk()?.make_room()?;
        recovers(cluster, &second, &ballast).await?;

        // Somebody fills it while no node runs on it.
        cluster.end(0, Fault::Kill)?;
        cluster.nodes[0].disk()?.fill()?;
        cluster.restart(0)?;
        cluster.wait_until_ready().await?;
        serves(cluster, &spare.remove(0), (&film, &before)).await?;
        cluster.nodes[0].disk()?.make_room()?;
        recovers(cluster, &third, &ballast).await?;
        still_plays(cluster, &film, &before).await
    })
    .await
}

/// Waits until these are the findings that the disk of the only node is the reason of.
async fn finds(cluster: &Cluster, expected: &[&str]) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    wait::until(&format!("findings: {expected:?}"), NAMED_WITHIN, async || {
        let seen = client.cluster().await?;
        let findings = seen["findings"].as_array().context("a list of findings")?;
        let mut codes: Vec<_> = findings.iter().filter_map(|f| f["code"].as_str()).collect();
        codes.retain(|code| code.starts_with("disk") || code.starts_with("ballast"));
        codes.sort_unstable();
        Ok((codes == expected).then_some(()))
    })
    .await
}

/// The only node serves and deletes.
async fn serves(
    cluster: &Cluster,
    to_delete: &str,
    (film, before): (&str, &Watched),
) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    still_plays(cluster, film, before).await?;
    let deleted = client.delete(&format!("/api/v1/videos/{to_delete}")).await?;
    ensure!(deleted.status().is_success(), "a deletion is answered {}", deleted.status());
    let gone = client.get(&format!("/api/v1/videos/{to_delete}")).await?.status();
    ensure!(gone == StatusCode::NOT_FOUND, "a deleted video is answered {gone}");
    still_plays(cluster, film, before).await
}

/// The only node takes no upload, and its log says why.
async fn refuses(cluster: &Cluster, clip: &Path) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    let refused = client.upload(clip, "too much", None, None).await?;
    let status = refused.status();
    let problem: Value = refused.json().await?;
    ensure!(
        status == StatusCode::SERVICE_UNAVAILABLE && problem["code"] == "too_few_copies",
        "an upload is answered {status}: {problem}"
    );
    let printed = cluster.nodes[0].printed()?;
    ensure!(printed.contains("takes no blocks"), "its log does not say why: {printed}");
    Ok(())
}

/// With room again the only node takes uploads, and its ballast is back, without anybody's doing.
async fn recovers(cluster: &Cluster, clip: &Path, ballast: &Path) -> Result<()> {
    let client = cluster.nodes[0].client()?;
    finds(cluster, &[]).await?;
    ensure!(ballast.exists(), "the ballast is not back");
    let video = client.upload_video(clip, "room again").await?;
    until_ready(&client, &video.id).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_of_a_node_is_full_under_load() -> Result<()> {
    scenario_on(on_disks(), 3, &[("REELRAFT_BALLAST", "16 MiB")], async |cluster| {
        let load = Workload::start(cluster).await?;
        let follower = (cluster.leader().await? + 1) % 3;
        fills_up(cluster, &load, follower, On::All).await?;
        let leader = cluster.leader().await?;
        fills_up(cluster, &load, leader, On::All).await?;
        finish(cluster, load).await
    })
    .await
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn the_disk_of_a_catalog_is_full_under_load() -> Result<()> {
        scenario_on(on_disks(), 3, &[], async |cluster| {
            let load = Workload::start(cluster).await?;
            for place in 0..3 {
                cluster.end(place, Fault::Terminate)?;
                cluster.nodes[place].put_on_a_disk("state")?;
                cluster.restart(place)?;
                cluster.wait_until_ready().await?;
            }
            let follower = (cluster.leader().await? + 1) % 3;
            fills_up(cluster, &load, follower, On::Catalog).await?;
            let leader = cluster.leader().await?;
            fills_up(cluster, &load, leader, On::Catalog).await?;
            finish(cluster, load).await
        })
        .await
    }
}

async fn finish(cluster: &Cluster, load: Workload) -> Result<()> {
    let summary = load.finish(cluster).await?;
    catalogs::are_equal(cluster).await?;
    summary.ensure_meaningful(2 * BETWEEN_CHANGES as usize)?;
    eprintln!("{summary:?}");
    Ok(())
}

/// The disk that the node at `place` was given last fills up, and is emptied again.
async fn fills_up(cluster: &mut Cluster, load: &Workload, place: usize, what: On) -> Result<()> {
    load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
    let before = cluster.nodes[place].printed()?.len();
    let began = Instant::now();
    cluster.nodes[place].disk()?.fill()?;
    if matches!(what, On::All) {
        names(cluster, place, before).await?;
    }
    let flood = Flood::start(cluster, place).await?;
    let status = cluster.ends_by_itself(place, ENDED_WITHIN).await?;
    flood.stop().await?;
    let ended = began.elapsed();
    ensure!(!status.success(), "it ended as if it had been stopped");
    let took = load.goes_on(WRITES_WITHIN).await?;
    says_why(cluster, place, before)?;
    load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;

    // Starting does not help as long as there is no room, and says so. The process that ended has left some: what it had taken
    // in advance, and perhaps a ballast that it had made again.
    match std::fs::remove_file(cluster.nodes[place].data().join("ballast")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    cluster.nodes[place].disk()?.fill()?;
    let before = cluster.nodes[place].printed()?.len();
    cluster.restart(place)?;
    let status = cluster.ends_by_itself(place, ENDED_WITHIN).await?;
    ensure!(!status.success(), "it ended as if it had been stopped");
    says_why(cluster, place, before)?;

    cluster.nodes[place].disk()?.make_room()?;
    cluster.restart(place)?;
    cluster.wait_until_ready().await?;
    eprintln!("node {} ended after {ended:?}; writes went on after {took:?}", place + 1);
    Ok(())
}

/// The other nodes say whose disk is full, unless the node has ended before it could tell them: `before` are the bytes of its log
/// when there was room.
async fn names(cluster: &Cluster, place: usize, before: usize) -> Result<()> {
    let other = cluster.nodes[(place + 1) % 3].client()?;
    wait::until("the full disk is named", NAMED_WITHIN, async || {
        let seen = other.cluster().await?;
        let findings = seen["findings"].as_array().context("a list of findings")?;
        // Nodes join in the order of their places.
        let id = Value::from(place + 1);
        let named = |finding: &Value| finding["code"] == "disk_full" && finding["node"] == id;
        let ends = says_why(cluster, place, before).is_ok();
        Ok((findings.iter().any(named) || ends).then_some(()))
    })
    .await
}

/// Clients that write as much as they can. Databases take room in advance, so that a disk which is full is noticed some
/// megabytes later.
struct Flood {
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

impl Flood {
    /// At all nodes but one.
    async fn start(cluster: &Cluster, but: usize) -> Result<Self> {
        let nodes: Vec<_> =
            cluster.running().filter(|node| node.number != but + 1).map(Node::client).collect();
        let nodes = nodes.into_iter().collect::<Result<Vec<_>>>()?;
        let upload = Bytes::from_static(b"This is no video either.\n");
        let video = wait::until("an upload is taken", WRITES_WITHIN, async || {
            Ok(Some(
                accepted(nodes[0].upload_bytes(upload.clone(), "flood", None, None).await?).await?,
            ))
        })
        .await?;
        let (path, stop) =
            (format!("/api/v1/videos/{}", video.id), Arc::new(AtomicBool::new(false)));
        let mut clients = JoinSet::new();
        for number in 0..FLOODING {
            let (client, path, stop) =
                (nodes[number % nodes.len()].clone(), path.clone(), stop.clone());
            clients.spawn(async move {
                // The longest that there may be, in bytes as well.
                let body = json!({"description": "𝄞".repeat(10_000)});
                while !stop.load(Ordering::Relaxed) {
                    // What becomes of it is nobody's concern: there may be no leader for a moment.
                    let _ = client.patch(&path, &body).await;
                }
            });
        }
        Ok(Self { stop, clients })
    }

    async fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// The node has said what the matter is and what to do, after so many bytes of its log.
fn says_why(cluster: &Cluster, place: usize, before: usize) -> Result<()> {
    let printed = cluster.nodes[place].printed()?;
    let said = &printed[before..];
    ensure!(
        said.contains("No space left") && said.contains("The disk is full: make room on it"),
        "node {} does not say why it ended: {said}",
        place + 1
    );
    Ok(())
}
