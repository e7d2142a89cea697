//! A disk that is full under the data of one node, while the cluster takes writes: of a follower, of the leader, and only
//! under the catalog. The node ends rather than acknowledge what it cannot keep, and says why; the others go on; with room
//! again it comes back with all that was decided.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos_tests::client::accepted;
use chaos_tests::cluster::{Cluster, Ground, Node, scenario_on};
use chaos_tests::faults::Fault;
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};
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
async fn the_disk_of_a_node_is_full_under_load() -> Result<()> {
    scenario_on(on_disks(), 3, &[], async |cluster| {
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
    // in advance.
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
