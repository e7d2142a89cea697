//! Nodes come and go under load: three become five, two of which are lost with their machines and removed, and so on until
//! none is there that was there in the beginning. What the clients were told is linearizable, and the newcomers have the
//! whole catalog.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};

/// As long as a majority is left, writes go on within about a second; here encoders and compilers may run beside.
const WRITES_WITHIN: Duration = Duration::from_secs(15);

/// Writes between two changes, beyond the first.
const BETWEEN_CHANGES: u64 = 100;

/// A voter that is removed has been replaced by then.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn three_become_five_become_three_others() -> Result<()> {
    scenario(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
        cluster.grow(2).await?;
        load.use_nodes(cluster);

        // The leader first, then the others of the first three.
        let leader = cluster.leader().await?;
        let (next, last) = match leader {
            0 => (1, 2),
            1 => (0, 2),
            _ => (0, 1),
        };
        lose(cluster, &load, leader).await?;
        lose(cluster, &load, next).await?;
        cluster.grow(1).await?;
        load.use_nodes(cluster);
        lose(cluster, &load, last).await?;

        let summary = load.finish(cluster).await?;
        catalogs::are_equal(cluster).await?;
        summary.ensure_meaningful(3 * BETWEEN_CHANGES as usize)?;
        eprintln!("{summary:?}");
        Ok(())
    })
    .await
}

/// Kills a node for good and has it removed; others vote in its place before the next is lost.
async fn lose(cluster: &mut Cluster, load: &Workload, place: usize) -> Result<()> {
    load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
    cluster.end(place, Fault::Kill)?;
    let took = load.goes_on(WRITES_WITHIN).await?;
    cluster.remove_lost(place).await?;
    load.use_nodes(cluster);
    let client = cluster.clients()?.remove(0);
    wait::until("three others vote", REPLACED_WITHIN, async || {
        let seen = client.cluster().await?;
        let voters = seen["voters"].as_array().context("a list of voters")?;
        let up: Vec<_> = seen["nodes"]
            .as_array()
            .context("a list of nodes")?
            .iter()
            .filter(|node| node["status"] == "up")
            .map(|node| &node["id"])
            .collect();
        ensure!(voters.len() == 3 && voters.iter().all(|voter| up.contains(&voter)), "{seen}");
        Ok(Some(()))
    })
    .await?;
    eprintln!("node {} was lost: writes went on after {took:?}", place + 1);
    Ok(())
}
