//! The catalog under faults: while many clients write and read at all nodes, leaders are killed, nodes are paused, everything
//! is killed at once. What the clients were told has to be linearizable, nothing that was acknowledged is lost, nothing is
//! applied twice, and all nodes have the same catalog in the end.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::{Cluster, Node, scenario, scenario_with};
use chaos_tests::faults::{Fault, inflict};
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};

/// Without a leader, writes go on within about a second where nothing else runs; here encoders and compilers may.
const WRITES_WITHIN: Duration = Duration::from_secs(15);

/// Leaders to kill, unless `REELRAFT_LEADER_KILLS` says another number.
const LEADER_KILLS: usize = 3;

/// Writes that are acknowledged between two faults, beyond the first.
const BETWEEN_FAULTS: u64 = 100;

fn leader_kills() -> Result<usize> {
    match std::env::var("REELRAFT_LEADER_KILLS") {
        Ok(kills) => kills.parse().context("REELRAFT_LEADER_KILLS is a number"),
        Err(_) => Ok(LEADER_KILLS),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn leaders_are_killed_under_load() -> Result<()> {
    let kills = leader_kills()?;
    scenario(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        let mut longest = Duration::ZERO;
        for _ in 0..kills {
            load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
            let leader = cluster.leader().await?;
            cluster.end(leader, Fault::Kill)?;
            longest = longest.max(load.goes_on(WRITES_WITHIN).await?);
            cluster.restart(leader)?;
            cluster.wait_until_ready().await?;
        }
        finish(cluster, load).await?;
        eprintln!("{kills} leaders killed; writes went on after {longest:?} at most");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_killed_under_load() -> Result<()> {
    scenario(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        for _ in 0..2 {
            load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
            for place in 0..cluster.nodes.len() {
                cluster.end(place, Fault::Kill)?;
            }
            for place in 0..cluster.nodes.len() {
                cluster.restart(place)?;
            }
            cluster.wait_until_ready().await?;
        }
        load.goes_on(WRITES_WITHIN).await?;
        finish(cluster, load).await
    })
    .await
}

/// A leader that is paused comes back to a cluster that has another one: it may neither answer reads from before nor
/// acknowledge what only it has.
#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_paused_under_load() -> Result<()> {
    scenario(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        for _ in 0..2 {
            load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
            let leader = cluster.leader().await?;
            let process = cluster.nodes[leader].process_id()?;
            inflict(Fault::Pause, process)?;
            load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
            inflict(Fault::Resume, process)?;
            cluster.wait_until_ready().await?;
        }
        finish(cluster, load).await
    })
    .await
}

/// A log that is purged within some hundred writes.
const SHORT_LOG: [(&str, &str); 2] =
    [("REELRAFT_RAFT_SNAPSHOT_EVERY_ENTRIES", "100"), ("REELRAFT_RAFT_KEEP_ENTRIES", "150")];

/// That many entries are written, and a snapshot is taken over, by then.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_paused_until_the_log_is_purged() -> Result<()> {
    scenario_with(3, &SHORT_LOG, async |cluster| {
        let load = Workload::start(cluster).await?;
        load.goes_on(WRITES_WITHIN).await?;
        let leader = cluster.leader().await?;
        let (paused, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let process = cluster.nodes[paused].process_id()?;
        let installed = || snapshots_installed(&cluster.nodes[paused]);
        let before = installed()?;
        inflict(Fault::Pause, process)?;
        // It has no more than everybody had when it fell silent, and a moment later.
        let last = gauge(&cluster.nodes[leader], "reelraft_raft_last_log_index").await?;
        for node in [&cluster.nodes[leader], &cluster.nodes[other]] {
            wait::until("the log is purged", CATCH_UP_WITHIN, async || {
                let purged = gauge(node, "reelraft_raft_purged_index").await?;
                ensure!(purged > last, "the log is purged up to {purged}, not {last}");
                Ok(Some(()))
            })
            .await?;
        }
        let resumed = Instant::now();
        inflict(Fault::Resume, process)?;
        let target = gauge(&cluster.nodes[leader], "reelraft_raft_applied_index").await?;
        wait::until("the paused node has caught up", CATCH_UP_WITHIN, async || {
            let applied = gauge(&cluster.nodes[paused], "reelraft_raft_applied_index").await?;
            ensure!(applied >= target, "it has applied {applied} of {target}");
            Ok(Some(()))
        })
        .await?;
        let took = resumed.elapsed();
        ensure!(installed()? > before, "it has taken no snapshot");
        load.goes_on(WRITES_WITHIN).await?;
        cluster.wait_until_ready().await?;
        finish(cluster, load).await?;
        eprintln!("caught up by snapshot after {took:?}");
        Ok(())
    })
    .await
}

/// What must hold at the end of each scenario, with all nodes in service.
async fn finish(cluster: &Cluster, load: Workload) -> Result<()> {
    let summary = load.finish(cluster).await?;
    catalogs::are_equal(cluster).await?;
    summary.ensure_meaningful(BETWEEN_FAULTS as usize)?;
    eprintln!("{summary:?}");
    Ok(())
}

async fn gauge(node: &Node, name: &str) -> Result<u64> {
    let text = node.client()?.bytes("/metrics").await?;
    let text = String::from_utf8_lossy(&text);
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok());
    let value = value.with_context(|| format!("{name} is not among the metrics"))?;
    ensure!(value >= 0.0 && value.fract() == 0.0, "{name} is {value}");
    Ok(value as u64)
}

/// How often a node took another one's snapshot, as its log says.
fn snapshots_installed(node: &Node) -> Result<usize> {
    Ok(node.printed()?.lines().filter(|line| line.contains("installing a snapshot")).count())
}
