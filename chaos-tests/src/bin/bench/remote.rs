//! P2: the first viewer of a segment at a node that has no copy of it; also while one of the holders hangs.
//!
//! Of four nodes three hold each block. The cache of a node is smaller than a segment here, so that each read asks a holder,
//! which reads its copy (from the page cache, as everything was just written) and checks it. That this is so is counted: only
//! reads that the gateway made `from="others"` are in the figures.
//!
//! No package of an object store is to be had, so the peer's figure is Garage's as once measured on a machine like this.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos_tests::client::Client;
use chaos_tests::cluster::Cluster;
use chaos_tests::faults::{Fault, inflict};
use chaos_tests::moving::until_settled;
use chaos_tests::outcome::until_ready_within;
use chaos_tests::player::watch;
use tempfile::TempDir;

use crate::measure::{MIB, percentile};
use crate::report::Report;
use crate::serving::long_clip;

const CLIP_BYTES: u64 = 500 << 20;

/// Garage 1.2, one stream: MiB/s.
const GARAGE: f64 = 395.0;

const READ_FROM_OTHERS: &str = "reelraft_content_reads_total{from=\"others\"}";

/// Shorter ones are no segments of video.
const SEGMENT_BYTES_MIN: usize = 1 << 20;

/// How long it reads: less than it takes until a node that hangs counts as down, and is asked last anyway.
const READ_FOR: Duration = Duration::from_secs(8);

/// What 99 of 100 reads are to take at most.
const LATE: Duration = Duration::from_millis(40);

/// Far longer than it takes.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// What reads took, one after the other.
#[derive(Default)]
struct Reads {
    times: Vec<Duration>,
    bytes: u64,
    /// How many of them were made at other nodes, by the gateway's own account.
    from_others: u64,
}

impl Reads {
    fn add(&mut self, more: Self) {
        self.times.extend(more.times);
        self.bytes += more.bytes;
        self.from_others += more.from_others;
    }
}

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P2: make a clip with 1.5 MiB segments and upload it to four nodes");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = long_clip(folder.path(), CLIP_BYTES).await?;
    let settings = [("REELRAFT_CONTENT_CACHE", "1 MiB"), ("REELRAFT_LOG_FILTER", "warn")];
    let cluster = Cluster::start_with(4, &settings).await?;
    let client = cluster.nodes[0].client()?;
    let video = client.upload_video(&clip, "long").await?;
    std::fs::remove_file(&clip)?;
    until_ready_within(&client, &video.id, READY_WITHIN).await?;
    until_settled(&cluster, 0, READY_WITHIN).await?;

    report.step("P2: find a gateway's segments that only others hold, and read them");
    let gateway = cluster.nodes[0].client()?;
    let mut elsewhere = Vec::new();
    for (path, (_, len)) in watch(&gateway, &video.id).await?.files {
        if len < SEGMENT_BYTES_MIN {
            continue;
        }
        let before = gateway.metric(READ_FROM_OTHERS).await?;
        gateway.bytes(&path).await?;
        if gateway.metric(READ_FROM_OTHERS).await? > before {
            elsewhere.push(path);
        }
    }
    let well = read(&gateway, &elsewhere).await?;
    // Whom the gateway asks first is its own affair: each of them is paused in turn.
    let mut one_hangs = Reads::default();
    for holder in &cluster.nodes[1..] {
        inflict(Fault::Pause, holder.process_id()?)?;
        let reads = read(&gateway, &elsewhere).await;
        inflict(Fault::Resume, holder.process_id()?)?;
        one_hangs.add(reads?);
        cluster.wait_until_ready().await?;
    }
    for (what, reads) in [("all well", well), ("one of the three paused, in turn", one_hangs)] {
        let seconds = reads.times.iter().sum::<Duration>().as_secs_f64();
        let speed = reads.bytes as f64 / MIB / seconds;
        report.add(
            "P2",
            format!(
                "{} segments of {:.1} MiB that only others hold, cold, one stream, {what}",
                elsewhere.len(),
                reads.bytes as f64 / MIB / reads.times.len() as f64
            ),
            format!(
                "{speed:.0} MiB/s, p50 {:.1?}, p99 {:.1?}, slowest {:.1?}; {} of {} reads took more than 40 ms ({} were made at others)",
                percentile(&reads.times, 50),
                percentile(&reads.times, 99),
                percentile(&reads.times, 100),
                reads.times.iter().filter(|took| **took > LATE).count(),
                reads.times.len(),
                reads.from_others,
            ),
            format!(
                "Garage {GARAGE:.0} MiB/s (measured elsewhere); floor 2.00, goal 3.00, p99 of 2 MiB ≤ 40 ms with one paused"
            ),
            Some(speed / GARAGE),
        );
    }
    Ok(())
}

/// Reads them one after the other, again and again.
async fn read(gateway: &Client, paths: &[String]) -> Result<Reads> {
    let before = gateway.metric(READ_FROM_OTHERS).await?;
    let (mut times, mut bytes) = (Vec::new(), 0);
    let began = Instant::now();
    let mut paths = paths.iter().cycle();
    while began.elapsed() < READ_FOR {
        let path = paths.next().context("others hold some of 300 segments")?;
        let asked = Instant::now();
        bytes += gateway.bytes(path).await?.len() as u64;
        times.push(asked.elapsed());
    }
    let from_others = gateway.metric(READ_FROM_OTHERS).await? - before;
    Ok(Reads { times, bytes, from_others })
}
