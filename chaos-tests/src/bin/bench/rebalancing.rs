//! P9: a node joins, leaves and dies: what is copied for that beside what has to be, how long it takes, and whether viewers
//! notice.
//!
//! What has to be copied, at least: the bytes that a newcomer holds in the end; those that whoever leaves or dies held. Four nodes
//! hold some hundred megabytes each, a fifth joins, it leaves again, and then one of the four dies. The last is timed, from the
//! first byte that is copied to the last one, and scaled to 10 GiB. A viewer who reads one segment after the other, at a steady
//! pace and not from the caches of nodes, is measured before and meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::cluster::Cluster;
use chaos_tests::faults::Fault;
use chaos_tests::moving::{PULLED_BYTES, groups, plan, sum, until_settled};
use chaos_tests::outcome::until_ready_within;
use chaos_tests::player::watch;
use chaos_tests::wait;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::measure::{MIB, percentile};
use crate::report::Report;
use crate::serving::long_clip;

/// Stored twice, as uploaded and as segments, in three copies each.
const CLIP_BYTES: u64 = 440 << 20;

const SETTINGS: [(&str, &str); 6] = [
    ("REELRAFT_CONTENT_CACHE", "1 MiB"),
    ("REELRAFT_HTTP_KEEP_SOURCE", "true"),
    ("REELRAFT_LOG_FILTER", "warn"),
    ("REELRAFT_FAILURE_SUSPECT_AFTER", "2s"),
    ("REELRAFT_FAILURE_DOWN_AFTER", "4s"),
    ("REELRAFT_FAILURE_DEAD_AFTER", "8s"),
];

const HELD_BYTES: &str = "reelraft_block_bytes";

/// Far longer than it takes.
const MOVED_WITHIN: Duration = Duration::from_secs(240);

/// How often it looks what has been copied: the resolution of the time that it takes.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Nothing has been copied for so long, and nothing is known to be missing: it is over.
const OVER_AFTER: Duration = Duration::from_secs(5);

/// How long the viewers are measured before anything is copied.
const BEFORE: Duration = Duration::from_secs(10);

/// From one read of a viewer to the next: with two viewers, about 120 MiB per second.
const READ_EVERY: Duration = Duration::from_millis(25);

/// A layout has changed when this part of what it is going to be is there: groups are not handed out evenly to the last.
const MOST: f64 = 0.9;

const GROUPS: f64 = 1024.0;
const COPIES: f64 = 3.0;

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P9: make a clip and upload it to four nodes");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = long_clip(folder.path(), CLIP_BYTES).await?;
    let mut cluster = Cluster::start_with(4, &SETTINGS).await?;
    let client = cluster.nodes[0].client()?;
    let video = client.upload_video(&clip, "long").await?;
    drop(folder);
    until_ready_within(&client, &video.id, MOVED_WITHIN).await?;
    until_settled(&cluster, 0, MOVED_WITHIN).await?;
    let files = watch(&client, &video.id).await?.files;
    let paths: Vec<String> =
        files.into_iter().filter(|(_, (_, len))| *len >= 1 << 20).map(|(path, _)| path).collect();

    report.step("P9: a fifth node joins");
    let before = sum(&cluster, PULLED_BYTES).await?;
    let began = Instant::now();
    cluster.grow(1).await?;
    let share = (GROUPS * COPIES / 5.0 * MOST) as u64;
    wait::until("the fifth node has its share", MOVED_WITHIN, async || {
        Ok((groups(&plan(&cluster, 0).await?, 5)? >= share).then_some(()))
    })
    .await?;
    until_settled(&cluster, 0, MOVED_WITHIN).await?;
    let took = began.elapsed();
    let moved = sum(&cluster, PULLED_BYTES).await? - before;
    let holds = cluster.nodes[4].client()?.metric(HELD_BYTES).await?;
    let of_all = holds as f64 / sum(&cluster, HELD_BYTES).await? as f64;
    let note = format!("it holds {:.0} % of all; ", of_all * 100.0);
    add(report, "a fifth node joins", moved, holds, &note, took);

    report.step("P9: it leaves");
    let before = at(&cluster, 0..4, PULLED_BYTES).await?;
    let began = Instant::now();
    cluster.drain(4, 0).await?;
    cluster.until_drained(4, 0).await?;
    cluster.remove_drained(4, 0).await?;
    until_settled(&cluster, 0, MOVED_WITHIN).await?;
    let took = began.elapsed();
    let moved = at(&cluster, 0..4, PULLED_BYTES).await? - before;
    add(report, "it is drained and removed", moved, holds, "", took);

    report.step("P9: one of four dies");
    dies(report, &mut cluster, &paths).await
}

fn add(report: &mut Report, what: &str, moved: u64, bound: u64, note: &str, took: Duration) {
    report.add(
        "P9",
        format!("{what}: copied against what had to be"),
        format!(
            "{:.3} × ({:.0} of {:.0} MiB; {note}{:.0} s until settled)",
            moved as f64 / bound as f64,
            moved as f64 / MIB,
            bound as f64 / MIB,
            took.as_secs_f64()
        ),
        "lower bound 1.0; floor 1.10, goal 1.05".to_owned(),
        Some(bound as f64 / moved as f64),
    );
}

async fn dies(report: &mut Report, cluster: &mut Cluster, paths: &[String]) -> Result<()> {
    let leader = cluster.leader().await?;
    let victim = (0..4).rev().find(|place| *place != leader).context("one follows")?;
    let survivors: Vec<_> = (0..4).filter(|place| *place != victim).collect();
    let had = cluster.nodes[victim].client()?.metric(HELD_BYTES).await?;
    let viewers = Viewers::start(cluster, &survivors, paths)?;
    tokio::time::sleep(BEFORE).await;
    let quiet = Instant::now();

    cluster.end(victim, Fault::Kill)?;
    let killed = Instant::now();
    let survivors = || survivors.iter().copied();
    let pulled_before = at(cluster, survivors(), PULLED_BYTES).await?;
    let before = at(cluster, survivors(), HELD_BYTES).await?;
    let (mut first, mut last, mut copied) = (None, Instant::now(), before);
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        ensure!(killed.elapsed() < MOVED_WITHIN, "copies are still being made");
        let now = at(cluster, survivors(), HELD_BYTES).await?;
        if now > copied {
            last = Instant::now();
            // What was copied since the last look began to be copied then, at the earliest.
            first.get_or_insert(last - LOOK_EVERY);
            copied = now;
        } else if first.is_some() && last.elapsed() > OVER_AFTER {
            let seen = cluster.nodes[leader].client()?.cluster().await?;
            if seen["under_replicated_blocks"] == 0 {
                break;
            }
        }
    }
    let first = first.context("something was copied")?;
    let reads = viewers.finish().await?;
    // What they read for a viewer and should have, they keep: that is not counted as copied for its own sake.
    let moved = copied - before;
    let pulled = at(cluster, survivors(), PULLED_BYTES).await? - pulled_before;
    let kept = moved.saturating_sub(pulled);
    let note = format!("{:.0} of these kept when viewers read them; ", kept as f64 / MIB);
    add(report, "one of four dies", moved.max(pulled), had, &note, last - killed);

    let took = (last - first).as_secs_f64();
    let scaled = took * f64::from(10 << 10) / (moved as f64 / MIB);
    report.add(
        "P9",
        "its copies are made anew, default pace: 10 GiB, scaled",
        format!("{scaled:.0} s ({:.0} MiB in {took:.1} s)", moved as f64 / MIB),
        "floor and goal 300 s".to_owned(),
        Some(300.0 / scaled),
    );
    let between = |from: Instant, to: Instant| -> Vec<Duration> {
        let reads = reads.iter().filter(|read| read.asked >= from && read.asked < to);
        reads.map(|read| read.took).collect()
    };
    let (before, meanwhile) = (between(quiet - BEFORE, quiet), between(first, last));
    let (p99_before, p99_meanwhile) = (percentile(&before, 99), percentile(&meanwhile, 99));
    let failed = reads.iter().filter(|read| read.failed).count();
    report.add(
        "P9",
        "viewers of cold segments while these copies are made, and before",
        format!(
            "p99 {p99_meanwhile:.1?} against {p99_before:.1?}: {:.2} ×, p50 {:.1?} against {:.1?} ({} and {} reads; {failed} failed since the death)",
            p99_meanwhile.as_secs_f64() / p99_before.as_secs_f64(),
            percentile(&meanwhile, 50),
            percentile(&before, 50),
            meanwhile.len(),
            before.len(),
        ),
        "goal 1.20 ×".to_owned(),
        Some(p99_before.as_secs_f64() / p99_meanwhile.as_secs_f64()),
    );
    Ok(())
}

/// The sum of what the nodes at these places count.
async fn at(cluster: &Cluster, places: impl IntoIterator<Item = usize>, name: &str) -> Result<u64> {
    let mut sum = 0;
    for place in places {
        sum += cluster.nodes[place].client()?.metric(name).await?;
    }
    Ok(sum)
}

struct Read {
    asked: Instant,
    took: Duration,
    failed: bool,
}

/// Two who read all the time.
struct Viewers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Read>>>,
}

impl Viewers {
    fn start(cluster: &Cluster, places: &[usize], paths: &[String]) -> Result<Self> {
        let clients: Vec<Client> =
            places.iter().map(|place| cluster.nodes[*place].client()).collect::<Result<_>>()?;
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..2).map(|viewer| {
            let (clients, stop) = (clients.clone(), Arc::clone(&stop));
            // The second one is elsewhere in the video.
            let mut paths = paths.to_vec();
            let middle = paths.len() / 2;
            paths.rotate_left(viewer * middle);
            tokio::spawn(async move {
                let mut reads = Vec::new();
                let mut ticks = tokio::time::interval(READ_EVERY);
                ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                // At each node in turn, so that every read of one meets all segments in time.
                for (path, client) in paths.iter().cycle().zip(clients.iter().cycle()) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    ticks.tick().await;
                    let asked = Instant::now();
                    let failed = client.bytes(path).await.is_err();
                    reads.push(Read { asked, took: asked.elapsed(), failed });
                }
                reads
            })
        });
        let tasks = tasks.collect();
        Ok(Self { stop, tasks })
    }

    async fn finish(self) -> Result<Vec<Read>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut reads = Vec::new();
        for task in self.tasks {
            reads.extend(task.await?);
        }
        Ok(reads)
    }
}
