//! P11: the memory of a node that has nothing to do, of one with a million blocks, and how soon that one serves again after
//! `kill -9`.
//!
//! The million are short ones that no video names, put into the store of a stopped node by `node/examples/fill_blocks.rs`:
//! what is measured is a whole node with all that it keeps and does for each block *that it has*. The rows that a catalog has
//! for each block that a video names are not in it.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::{Cluster, Node};
use chaos_tests::faults::Fault;
use chaos_tests::wait;
use tokio::process::Command;

use crate::measure::{memory, proportional_memory};
use crate::report::Report;

const BLOCKS: u64 = 1_000_000;
const BLOCK_BYTES: u64 = 512;

/// Garage 1.2, idle: MiB.
const GARAGE: f64 = 55.0;

const STARTS: usize = 5;

/// What has only just started has not begun all that it does now and then.
const IDLE_FOR: Duration = Duration::from_secs(15);

/// So long a start is broken.
const READY_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P11: memory of an idle node");
    let mut cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    tokio::time::sleep(IDLE_FOR).await;
    let (ours, words) = idle(&cluster.nodes[2])?;
    report.add(
        "P11",
        "memory of an idle node of three",
        words,
        format!("Garage {GARAGE:.0} MiB (measured elsewhere); floor 150, goal 80"),
        Some(GARAGE / ours),
    );

    let empty = starts(&mut cluster).await?;

    report.step("P11: a million blocks");
    cluster.end(2, Fault::Terminate)?;
    fill(&cluster.nodes[2].data().join("content")).await?;
    cluster.restart(2)?;
    cluster.wait_until_ready().await?;
    tokio::time::sleep(IDLE_FOR).await;
    let blocks = cluster.nodes[2].client()?.metric("reelraft_blocks").await?;
    ensure!(blocks >= BLOCKS, "it has {blocks} blocks");
    let (_, words) = idle(&cluster.nodes[2])?;
    report.add(
        "P11",
        format!("memory of an idle node with {blocks} blocks that no video names"),
        words,
        "floor 400 MiB, goal 200 MiB".to_owned(),
        None,
    );

    let times = starts(&mut cluster).await?;
    let peak = memory(cluster.nodes[2].process_id()?, "VmHWM")?;
    report.add(
        "P11",
        format!("start to ready after kill -9 with {blocks} blocks, {STARTS} times"),
        format!(
            "p50 {:.2} s, max {:.2} s (without them p50 {:.2} s); at most {} MiB of memory meanwhile",
            times[STARTS / 2].as_secs_f64(),
            times[STARTS - 1].as_secs_f64(),
            empty[STARTS / 2].as_secs_f64(),
            peak >> 20
        ),
        "floor 5 s, goal 2 s".to_owned(),
        None,
    );
    Ok(())
}

/// What the last node takes to start after `kill -9`, in order.
async fn starts(cluster: &mut Cluster) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        cluster.end(2, Fault::Kill)?;
        let began = Instant::now();
        cluster.restart(2)?;
        let client = cluster.nodes[2].client()?;
        wait::until("it is ready", READY_WITHIN, async || {
            client.bytes("/readyz").await.map(|_| Some(()))
        })
        .await?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

/// What it has in memory, in MiB and in words.
fn idle(node: &Node) -> Result<(f64, String)> {
    let process = node.process_id()?;
    let (resident, peak) = (memory(process, "VmRSS")?, memory(process, "VmHWM")?);
    let proportional = proportional_memory(process)?;
    let words = format!(
        "{} MiB resident, {} proportional (PSS), {} at most so far",
        resident >> 20,
        proportional >> 20,
        peak >> 20
    );
    Ok((resident as f64 / f64::from(1 << 20), words))
}

/// Puts the blocks into the store of a node that does not run.
async fn fill(store: &Path) -> Result<()> {
    let own = std::env::current_exe()?;
    let program = own.parent().context("a program is in a folder")?.join("examples/fill_blocks");
    let status = Command::new(&program)
        .arg(store)
        .args([BLOCKS.to_string(), BLOCK_BYTES.to_string()])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("start {} (`make bench` builds it)", program.display()))?;
    ensure!(status.success(), "{}: {status}", program.display());
    Ok(())
}
