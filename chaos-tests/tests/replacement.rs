//! Voters are replaced under load: one that died, by the cluster itself, and all three one after the other, by an operator.
//! What the clients were told is linearizable.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::time::Duration;

/// As long as a majority is left, writes go on within about a second; here encoders and compilers may run beside.
const WRITES_WITHIN: Duration = Duration::from_secs(45);

/// Writes that are acknowledged between two changes, beyond the first.
const BETWEEN_CHANGES: u64 = 100;

mod long {
    use std::time::Instant;

    use anyhow::{Context, Result, ensure};
    use chaos_tests::catalogs;
    use chaos_tests::clips::{Clip, Codec};
    use chaos_tests::cluster::{Cluster, scenario};
    use chaos_tests::faults::Fault;
    use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
    use chaos_tests::wait;
    use chaos_tests::workload::Workload;
    use serde_json::Value;

    use super::*;

    /// How long a voter may be silent before its vote goes to another node: it may come back until then.
    const DEAD_AFTER: Duration = Duration::from_secs(60);

    /// It takes an election before somebody counts, and a few seconds to change the voters.
    const REPLACED_WITHIN: Duration = Duration::from_secs(120);

    #[tokio::test(flavor = "multi_thread")]
    async fn a_dead_voter_is_replaced_by_itself() -> Result<()> {
        scenario(4, async |cluster| {
            let load = Workload::start(cluster).await?;
            load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
            let voters = voters(cluster).await?;
            let spare =
                (0..4).find(|place| !voters.contains(place)).context("one does not vote")?;
            let dead = cluster.leader().await?;
            let killed = Instant::now();
            cluster.end(dead, Fault::Kill)?;
            load.goes_on(WRITES_WITHIN).await?;
            load.use_nodes(cluster);
            wait::until("the fourth node votes", REPLACED_WITHIN, async || {
                let now = self::voters(cluster).await?;
                ensure!(now.contains(&spare) && !now.contains(&dead), "places {now:?} vote");
                ensure!(now.len() == 3, "places {now:?} vote");
                Ok(Some(()))
            })
            .await?;
            let took = killed.elapsed();
            ensure!(took >= DEAD_AFTER, "it was given up after {took:?}");
            eprintln!("a dead voter was replaced after {took:?}");

            // Without that, two of three voters were gone now.
            let second = cluster.leader().await?;
            cluster.end(second, Fault::Kill)?;
            load.goes_on(WRITES_WITHIN).await?;
            load.use_nodes(cluster);
            load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;

            // Both come back, and are what they can be.
            for place in [dead, second] {
                cluster.restart(place)?;
            }
            cluster.wait_until_ready().await?;
            let summary = load.finish(cluster).await?;
            catalogs::are_equal(cluster).await?;
            wait::until("three of four vote", REPLACED_WITHIN, async || {
                Ok((self::voters(cluster).await?.len() == 3).then_some(()))
            })
            .await?;
            summary.ensure_meaningful(2 * BETWEEN_CHANGES as usize)?;
            eprintln!("{summary:?}");
            Ok(())
        })
        .await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_node_is_replaced_one_by_one() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let clip = Clip::new(Codec::H264IndexLast, 8, 320, 180).make(folder.path()).await?;
        scenario(3, async |cluster| {
            let client = cluster.nodes[0].client()?;
            let video = client.upload_video(&clip, "older than all nodes").await?;
            until_ready(&client, &video.id).await?;
            let before = watch_everywhere(cluster, &video.id).await?;

            let load = Workload::start(cluster).await?;
            let leader = cluster.leader().await?;
            let first = [leader, (leader + 1) % 3, (leader + 2) % 3];
            for (turn, leaves) in first.into_iter().enumerate() {
                let began = Instant::now();
                load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
                cluster.grow(1).await?;
                load.use_nodes(cluster);
                let newcomer = 3 + turn;
                cluster.drain(leaves, newcomer).await?;
                cluster.until_drained(leaves, newcomer).await?;
                load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
                cluster.remove_drained(leaves, newcomer).await?;
                load.use_nodes(cluster);
                load.goes_on(WRITES_WITHIN).await?;
                eprintln!("node {} was replaced within {:?}", leaves + 1, began.elapsed());
            }
            wait::until("the newcomers vote", REPLACED_WITHIN, async || {
                Ok((voters(cluster).await? == [3, 4, 5]).then_some(()))
            })
            .await?;

            let summary = load.finish(cluster).await?;
            catalogs::are_equal(cluster).await?;
            summary.ensure_meaningful(6 * BETWEEN_CHANGES as usize)?;
            eprintln!("{summary:?}");
            still_plays(cluster, &video.id, &before).await
        })
        .await
    }

    /// The places of those who vote, as a node that runs sees it.
    async fn voters(cluster: &Cluster) -> Result<Vec<usize>> {
        let witness = cluster.running().next().context("no node runs")?;
        let seen = witness.client()?.cluster().await?;
        let nodes = seen["nodes"].as_array().context("a list of nodes")?;
        let votes = |node: &&Value| node["voter"] == true;
        let places = nodes.iter().filter(votes).map(|node| {
            let name = node["name"].as_str().and_then(|name| name.strip_prefix("node-"));
            let number: usize = name.context("a name")?.parse()?;
            Ok(number - 1)
        });
        let mut places = places.collect::<Result<Vec<_>>>()?;
        places.sort_unstable();
        Ok(places)
    }
}
