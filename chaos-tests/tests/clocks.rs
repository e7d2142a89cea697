//! Nodes whose wall clocks are hours off, one ahead and one behind, set while they run.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, Ground, scenario_on};
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{until_ready, watch_everywhere};
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};
use futures::future::try_join_all;
use serde_json::Value;

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;

/// A clock that is wrong costs no leader.
const WRITES_WITHIN: Duration = Duration::from_secs(45);

/// Nodes look at each other's clocks twice a second.
const NOTICED_WITHIN: Duration = Duration::from_secs(45);

/// Handing over leadership is a matter of a second.
const HANDED_OVER_WITHIN: Duration = Duration::from_secs(30);

/// Writes that are acknowledged between two changes, beyond the first.
const BETWEEN_CHANGES: u64 = 100;

/// Videos to be made until each of three nodes has had work. Each may take as long as a write: all of them have to fit in the
/// minutes that a test may last.
const UPLOADS_MAX: usize = 6;

/// What an operator asks for is refused while nobody leads.
const OPERATED_WITHIN: Duration = Duration::from_secs(30);

/// How long a token lives that is to end soon: long enough to be made on a busy machine.
const SHORT_LIFE: &str = "5s";

/// A token that lives for [`SHORT_LIFE`] has ended by then, by whatever clock.
const ENDED_WITHIN: Duration = Duration::from_secs(45);

#[tokio::test(flavor = "multi_thread")]
async fn clocks_are_hours_off() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::Mpeg4, 12, 320, 180).make(folder.path()).await?;
    let ground = Ground { clocks: true, ..Ground::default() };
    scenario_on(ground, 3, &[], async |cluster| {
        let load = Workload::start(cluster).await?;
        let ahead = cluster.leader().await?;
        let (behind, right) = ((ahead + 1) % 3, (ahead + 2) % 3);
        cluster.nodes[ahead].clock()?.set(5 * HOUR)?;
        cluster.nodes[behind].clock()?.set(-5 * HOUR)?;
        load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
        for place in 0..3 {
            names(cluster, place, &[ahead, behind]).await?;
        }
        let places = [ahead, behind, right];
        try_join_all(places.map(|place| tokens_end(cluster, place))).await?;

        let client = cluster.nodes[right].client()?;
        let video = client.upload_video(&clip, "with wrong clocks").await?;
        until_ready(&client, &video.id).await?;
        watch_everywhere(cluster, &video.id).await?;

        // The one that is behind shall lead: the other two are said to be away soon.
        for place in [right, ahead] {
            away(cluster, place, behind, &["--for", "1h"]).await?;
        }
        wait::until("the node that is behind leads", HANDED_OVER_WITHIN, async || {
            Ok((cluster.leader().await? == behind).then_some(()))
        })
        .await?;
        for place in [right, ahead] {
            away(cluster, place, behind, &["--end"]).await?;
        }
        tokens_end(cluster, behind).await?;
        load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;

        // Whoever is ahead dies at work. Nobody waits five hours for its leases to end.
        let mut videos = Vec::new();
        while cluster.nodes[ahead].workers()?.is_empty() {
            // Others may be faster, and take all the work.
            ensure!(videos.len() < UPLOADS_MAX, "the node that is ahead does not work");
            let video = client.upload_video(&clip, &format!("at work {}", videos.len())).await?;
            wait::until("somebody works", WRITES_WITHIN, async || {
                let working = !cluster.nodes[ahead].workers()?.is_empty();
                Ok((working || client.video(&video.id).await?.playable_seconds > 0.0).then_some(()))
            })
            .await?;
            videos.push(video);
        }
        let killed = Instant::now();
        cluster.end(ahead, Fault::Kill)?;
        for video in &videos {
            until_ready(&client, &video.id).await?;
        }
        eprintln!("all videos were made {:?} after a worker's death", killed.elapsed());
        cluster.restart(ahead)?;
        cluster.wait_until_ready().await?;
        for video in &videos {
            watch_everywhere(cluster, &video.id).await?;
        }

        let summary = load.finish(cluster).await?;
        catalogs::are_equal(cluster).await?;
        summary.ensure_meaningful(BETWEEN_CHANGES as usize)?;
        eprintln!("{summary:?}");
        Ok(())
    })
    .await
}

mod long {
    use super::*;

    /// A clock that is so wrong that certificates are not good shuts its node out, which says why. When the clock is right again,
    /// the node comes back, whatever certificate it made for itself meanwhile.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_clock_that_is_far_off_shuts_its_node_out_until_it_is_right() -> Result<()> {
        let ground = Ground { clocks: true, ..Ground::default() };
        scenario_on(ground, 3, &[], async |cluster| {
            let load = Workload::start(cluster).await?;
            let place = (cluster.leader().await? + 1) % 3;
            for off in [-3 * DAY, 200 * DAY] {
                cluster.end(place, Fault::Terminate)?;
                let before = cluster.nodes[place].printed()?.len();
                cluster.nodes[place].clock()?.set(off)?;
                cluster.restart(place)?;
                wait::until("the node blames a clock", NOTICED_WITHIN, async || {
                    let printed = cluster.nodes[place].printed()?;
                    Ok(printed[before..]
                        .contains("are the clocks of both machines right")
                        .then_some(()))
                })
                .await?;
                load.acknowledges(BETWEEN_CHANGES, WRITES_WITHIN).await?;
                cluster.nodes[place].clock()?.set(0)?;
                cluster.wait_until_ready().await?;
            }

            // A certificate that is made by a clock that is days ahead is no use to anybody, and the newcomer says so.
            // By a few hours it may be off.
            let ahead = 0;
            cluster.nodes[ahead].clock()?.set(5 * HOUR)?;
            cluster.grow(1).await?;
            cluster.nodes[ahead].clock()?.set(3 * DAY)?;
            cluster.spawn(1)?;
            let token = cluster.command(&["token", "create"], &cluster.nodes[ahead]).await?;
            let to = format!("{}:{}", cluster.nodes[ahead].address, cluster.nodes[ahead].rpc_port);
            let join = ["node", "join", token.trim(), "--to", &to];
            let refused = wait::until("the newcomer listens", NOTICED_WITHIN, async || {
                let answer = cluster.command(&join, &cluster.nodes[4]).await;
                let listens = |error: &anyhow::Error| !error.to_string().contains("no node runs");
                Ok(answer.as_ref().err().is_none_or(listens).then_some(answer))
            })
            .await?;
            let reason =
                format!("{:#}", refused.err().context("joined with a certificate of the future")?);
            ensure!(reason.contains("are the clocks of both machines right?"), "{reason}");
            cluster.nodes[ahead].clock()?.set(0)?;
            cluster.command(&join, &cluster.nodes[4]).await?;
            cluster.wait_until_ready().await?;
            let summary = load.finish(cluster).await?;
            catalogs::are_equal(cluster).await?;
            summary.ensure_meaningful(BETWEEN_CHANGES as usize)
        })
        .await
    }
}

/// The node at `witness` says of exactly these that their clocks are wrong.
async fn names(cluster: &Cluster, witness: usize, wrong: &[usize]) -> Result<()> {
    let client = cluster.nodes[witness].client()?;
    let mut wrong: Vec<_> = wrong.iter().map(|place| id_of(*place)).collect();
    wrong.sort();
    wait::until("the wrong clocks are named", NOTICED_WITHIN, async || {
        let seen = client.cluster().await?;
        let findings = seen["findings"].as_array().context("a list of findings")?;
        let of_clocks = findings.iter().filter(|finding| finding["code"] == "clock_skew");
        let mut named: Vec<_> = of_clocks.map(|finding| text(&finding["node"])).collect();
        named.sort();
        ensure!(named == wrong, "node {} says {findings:?}", witness + 1);
        Ok(Some(()))
    })
    .await
}

/// Tokens that are made at a node count there, and end when they should.
async fn tokens_end(cluster: &Cluster, place: usize) -> Result<()> {
    let made = async |life: &str| {
        let make = ["token", "create", "--json", "--expires", life];
        wait::until("a token is made", OPERATED_WITHIN, async || {
            let made: Value = serde_json::from_str(&cluster.operate(&make, place).await?)?;
            Ok(Some(made["id"].clone()))
        })
        .await
    };
    let state = async |id: &Value| {
        let tokens = cluster.operate(&["token", "list", "--json"], place).await?;
        let tokens: Value = serde_json::from_str(&tokens)?;
        let tokens = tokens.as_array().context("a list of tokens")?;
        let token = tokens.iter().find(|token| token["id"] == *id).context("the token")?;
        Ok::<_, anyhow::Error>(token["state"].clone())
    };
    let (short, long) = (made(SHORT_LIFE).await?, made("10m").await?);
    let other = wait::until("a token has ended", ENDED_WITHIN, async || {
        let ended = state(&short).await? == "expired";
        Ok(if ended { Some(state(&long).await?) } else { None })
    })
    .await?;
    ensure!(other == "good", "node {}: another one has ended as well", place + 1);
    Ok(())
}

/// The node at `place` is said to be away, or to be back, at the one at `witness`.
async fn away(cluster: &Cluster, place: usize, witness: usize, until: &[&str]) -> Result<()> {
    let id = id_of(place);
    let command = [&["node", "maintenance", &id], until].concat();
    wait::until("a node is said to be away or back", OPERATED_WITHIN, async || {
        cluster.operate(&command, witness).await.map(|_| Some(()))
    })
    .await
}

/// Nodes join in the order of their places.
fn id_of(place: usize) -> String {
    (place + 1).to_string()
}

fn text(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}
