//! P5: the leader is killed with `kill -9`; until the next write is acknowledged, beside etcd.
//!
//! A writer that wants to know when writes work again asks often and everywhere: every few milliseconds it begins another
//! write at the next survivor, and the first that is acknowledged counts. So neither side is measured by how long it lets a
//! write wait that it took for a leader that had just died.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos_tests::client::accepted;
use chaos_tests::cluster::Cluster;
use chaos_tests::faults::Fault;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use reqwest::RequestBuilder;

use crate::etcd::Etcd;
use crate::report::Report;

const ROUNDS: usize = 10;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Nothing is acknowledged for so long: something is broken.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P5: leaders killed, etcd");
    let theirs = etcd().await?;
    report.step("P5: leaders killed, Reelraft");
    let ours = reelraft().await?;
    let (our_median, our_worst) = of(ours);
    let (their_median, their_worst) = of(theirs);
    let words = |median: Duration, worst: Duration| {
        format!("p50 {:.2} s, max {:.2} s", median.as_secs_f64(), worst.as_secs_f64())
    };
    report.add(
        "P5",
        format!("leader killed: until the next write is acknowledged, {ROUNDS} times"),
        words(our_median, our_worst),
        format!("etcd {}", words(their_median, their_worst)),
        Some(their_median.as_secs_f64() / our_median.as_secs_f64()),
    );
    Ok(())
}

async fn reelraft() -> Result<Vec<Duration>> {
    let mut cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    let client = cluster.nodes[0].client()?;
    let video =
        accepted(client.upload_bytes("no video".into(), "written to", None, None).await?).await?;
    let http = reqwest::Client::new();
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let leader = cluster.leader().await?;
        cluster.end(leader, Fault::Kill)?;
        let killed = Instant::now();
        let urls: Vec<_> = cluster.clients()?.into_iter().map(|client| client.base).collect();
        let write = |url: &str| {
            http.patch(format!("{url}/api/v1/videos/{}", video.id))
                .json(&serde_json::json!({"description": format!("round {round}")}))
        };
        acknowledged(&urls, write).await?;
        times.push(killed.elapsed());
        cluster.restart(leader)?;
        cluster.wait_until_ready().await?;
    }
    Ok(times)
}

async fn etcd() -> Result<Vec<Duration>> {
    let mut etcd = Etcd::start().await?;
    let http = reqwest::Client::new();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let leader = etcd.leader().await?;
        etcd.kill(leader).await?;
        let killed = Instant::now();
        let write = |url: &str| {
            http.post(format!("{url}/v3/kv/put")).body(r#"{"key":"a2V5","value":"dmFsdWU="}"#)
        };
        acknowledged(&etcd.urls(), write).await?;
        times.push(killed.elapsed());
        etcd.restart(leader)?;
        etcd.wait_until_up().await?;
    }
    Ok(times)
}

/// Waits until a write is acknowledged.
async fn acknowledged(urls: &[String], write: impl Fn(&str) -> RequestBuilder) -> Result<()> {
    let attempts = async {
        let mut ticks = tokio::time::interval(PAUSE);
        let mut writes = FuturesUnordered::new();
        let mut urls = urls.iter().cycle();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let url = urls.next().context("a survivor")?;
                    writes.push(write(url).send());
                }
                Some(answer) = writes.next() => {
                    if answer.is_ok_and(|answer| answer.status().is_success()) {
                        return Ok(());
                    }
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, attempts).await.context("no write is acknowledged")?
}

/// Median and worst.
fn of(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort_unstable();
    let worst = times.last().copied().unwrap_or_default();
    (times[times.len() / 2], worst)
}
