//! The network between three nodes is cut under load: around the leader, in one direction only, and between two of three.
//! Clients reach all nodes all the time. A majority that reaches each other takes writes again soon; what the clients were told
//! on both sides is linearizable; after healing all nodes have the same catalog.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::{Cluster, scenario_apart};
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};
use reqwest::{Method, StatusCode};

/// Without a leader that can be heard, writes go on within about a second where nothing else runs; here encoders and
/// compilers may. A leader that is heard but hears nobody first has to find out.
const WRITES_WITHIN: Duration = Duration::from_secs(30);

/// Writes that are acknowledged while the network is cut, beyond the first.
const DURING_CUT: u64 = 100;

/// A node that is cut off has noticed by then.
const NOTICED_WITHIN: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_cut_off() -> Result<()> {
    scenario_apart(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        let leader = before_cut(cluster, &load).await?;
        cluster.network()?.isolate(leader)?;
        // It must not answer what only a majority knows, nor acknowledge anything.
        let during = during_cut(&load, "the leader was cut off");
        tokio::try_join!(during, refuses(cluster, leader))?;
        heal(cluster, &load).await?;
        finish(cluster, load).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_cut_off_in_one_direction() -> Result<()> {
    scenario_apart(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        // It hears the others, who do not hear it.
        let leader = before_cut(cluster, &load).await?;
        for other in others(leader) {
            cluster.network()?.cut(leader, other)?;
        }
        let during = during_cut(&load, "the leader was no longer heard");
        tokio::try_join!(during, refuses(cluster, leader))?;
        heal(cluster, &load).await?;

        // It is heard by the others, whom it does not hear.
        let leader = before_cut(cluster, &load).await?;
        for other in others(leader) {
            cluster.network()?.cut(other, leader)?;
        }
        let during = during_cut(&load, "the leader no longer heard anybody");
        tokio::try_join!(during, refuses(cluster, leader))?;
        heal(cluster, &load).await?;
        finish(cluster, load).await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_three_do_not_reach_each_other() -> Result<()> {
    scenario_apart(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        // The leader and one follower: the other follower hears both.
        let leader = before_cut(cluster, &load).await?;
        let [follower, third] = others(leader);
        let term = term(cluster, third).await?;
        cluster.network()?.part(leader, follower)?;
        during_cut(&load, "the leader and a follower were parted").await?;
        eprintln!("the term was {term}, then {}", self::term(cluster, third).await?);
        heal(cluster, &load).await?;

        // The two followers: nobody needs that cable.
        let leader = before_cut(cluster, &load).await?;
        let [follower, third] = others(leader);
        cluster.network()?.part(follower, third)?;
        during_cut(&load, "the followers were parted").await?;
        heal(cluster, &load).await?;
        finish(cluster, load).await
    })
    .await
}

fn others(place: usize) -> [usize; 2] {
    [(place + 1) % 3, (place + 2) % 3]
}

async fn before_cut(cluster: &Cluster, load: &Workload) -> Result<usize> {
    load.goes_on(WRITES_WITHIN).await?;
    cluster.leader().await
}

async fn during_cut(load: &Workload, what: &str) -> Result<()> {
    let took = load.goes_on(WRITES_WITHIN).await?;
    eprintln!("{what}: writes went on after {took:?}");
    load.acknowledges(DURING_CUT, WRITES_WITHIN).await
}

/// The node answers no linearizable read and takes no write, and says so.
async fn refuses(cluster: &Cluster, place: usize) -> Result<()> {
    let client = cluster.nodes[place].client()?;
    let videos: serde_json::Value = client.json("/api/v1/videos?limit=1").await?;
    let id = videos["items"][0]["id"].as_str().context("a video")?;
    let path = format!("/api/v1/videos/{id}");
    wait::until("a node that is cut off refuses", NOTICED_WITHIN, async || {
        let linearizable = format!("{path}?consistency=linearizable");
        // Over a version that no video has, so that it changes nothing wherever it gets to.
        let never = [("If-Match", "\"0\"".to_owned())];
        let body = serde_json::json!({"title": "nobody"});
        let (read, write) = tokio::try_join!(
            client.exchange(Method::GET, &linearizable, &[], None),
            client.exchange(Method::PATCH, &path, &never, Some(&body)),
        )?;
        let (read, write) = (read.status(), write.status());
        ensure!(
            read == StatusCode::SERVICE_UNAVAILABLE && write == StatusCode::SERVICE_UNAVAILABLE,
            "it answered {read} and {write}"
        );
        Ok(Some(()))
    })
    .await
}

async fn term(cluster: &Cluster, place: usize) -> Result<u64> {
    cluster.nodes[place].client()?.cluster().await?["term"].as_u64().context("a term")
}

async fn heal(cluster: &mut Cluster, load: &Workload) -> Result<()> {
    let healed = Instant::now();
    cluster.network()?.heal()?;
    load.goes_on(WRITES_WITHIN).await?;
    cluster.wait_until_ready().await?;
    eprintln!("all nodes were in service {:?} after healing", healed.elapsed());
    Ok(())
}

async fn finish(cluster: &Cluster, load: Workload) -> Result<()> {
    let summary = load.finish(cluster).await?;
    catalogs::are_equal(cluster).await?;
    summary.ensure_meaningful(DURING_CUT as usize)?;
    eprintln!("{summary:?}");
    Ok(())
}
