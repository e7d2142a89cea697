//! P10: what three nodes have the disk write while a video is uploaded and packaged, for each byte that they store in the end.
//!
//! All that a process writes counts: blocks, their rows, the Raft log, the catalog. What it writes is what the kernel accounts
//! to it when pages become dirty, so a file that is deleted before it reaches the disk counts too.

use std::time::Duration;

use anyhow::Result;
use chaos_tests::cluster::Cluster;
use chaos_tests::moving::{sum, until_settled};
use chaos_tests::outcome::until_ready_within;
use tempfile::TempDir;

use crate::measure::{MIB, written};
use crate::report::Report;
use crate::serving::long_clip;

const CLIP_BYTES: u64 = 512 << 20;

/// RocksDB's BlobDB with a log ahead of it: each byte twice.
const BLOBS: f64 = 2.0;

/// Far longer than it takes.
const READY_WITHIN: Duration = Duration::from_secs(300);

const STORED_BYTES: &str = "reelraft_block_bytes";

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P10: make a clip of 512 MiB");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = long_clip(folder.path(), CLIP_BYTES).await?;
    let cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    until_settled(&cluster, 0, READY_WITHIN).await?;
    let (stored_before, written_before) =
        (sum(&cluster, STORED_BYTES).await?, all_wrote(&cluster)?);
    report.step("P10: upload it");
    let client = cluster.nodes[0].client()?;
    let video = client.upload_video(&clip, "large").await?;
    until_ready_within(&client, &video.id, READY_WITHIN).await?;
    // All three copies of everything, and the last rows on their way to disk.
    until_settled(&cluster, 0, READY_WITHIN).await?;
    let stored = (sum(&cluster, STORED_BYTES).await? - stored_before) as f64;
    let written = (all_wrote(&cluster)? - written_before) as f64;
    let ours = written / stored;
    report.add(
        "P10",
        "bytes written to disk per byte and copy stored: upload and segments of 512 MiB of video, three whole nodes",
        format!("{ours:.2} ({:.0} MiB written, {:.0} stored)", written / MIB, stored / MIB),
        format!(
            "RocksDB's BlobDB with its log {BLOBS:.1}, plain files 1.0 (measured elsewhere); floor 2.1, goal 1.1"
        ),
        Some(BLOBS / ours),
    );
    Ok(())
}

fn all_wrote(cluster: &Cluster) -> Result<u64> {
    cluster.nodes.iter().map(|node| written(node.process_id()?)).sum()
}
