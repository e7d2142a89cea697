//! P3: one client uploads a gibibyte to a cluster of three nodes on one machine; acknowledged when durable on its holders.
//!
//! No package of an object store is to be had, so the peer's figure is Garage's as once measured on a machine like this; so
//! that the ratio means something elsewhere, what the disk itself takes (one file, written and fsynced) is printed too.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;
use chaos_tests::client::accepted;
use chaos_tests::cluster::Cluster;
use tempfile::TempDir;

use crate::measure::memory;
use crate::report::Report;
use crate::serving::long_clip;

/// Just below the default limit of an upload.
const BYTES: u64 = 1020 << 20;

/// Garage 1.2, 3 nodes on one machine, one PUT: MiB/s.
const GARAGE: f64 = 102.0;

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P3: make a clip of almost 1 GiB");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = long_clip(folder.path(), BYTES).await?;
    let content = bytes::Bytes::from(std::fs::read(&clip)?);
    let disk = disk_speed(&folder, &content)?;
    // Only the upload: what happens to it afterwards is P6's subject.
    let settings = [("REELRAFT_ROLES", "store,gateway"), ("REELRAFT_LOG_FILTER", "warn")];
    let cluster = Cluster::start_with(3, &settings).await?;
    let before: Vec<u64> = cluster
        .nodes
        .iter()
        .map(|node| memory(node.process_id()?, "VmRSS"))
        .collect::<Result<_>>()?;
    let client = cluster.nodes[0].client()?;
    report.step("P3: upload it");
    let start = Instant::now();
    let length = content.len();
    accepted(client.upload_bytes(content, "large", None, None).await?).await?;
    let ours = length as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64();
    let mut peak = 0;
    let mut raised = 0;
    for (node, before) in cluster.nodes.iter().zip(before) {
        let high = memory(node.process_id()?, "VmHWM")?;
        peak = peak.max(high);
        raised = raised.max(high.saturating_sub(before));
    }
    report.add(
        "P3",
        "upload of 1 GiB by one client",
        format!(
            "{ours:.0} MiB/s; a node at most {} MiB of memory, {} more than before",
            peak >> 20,
            raised >> 20
        ),
        format!(
            "Garage {GARAGE:.0} MiB/s (measured elsewhere); this disk, one file: {disk:.0} MiB/s"
        ),
        Some(ours / GARAGE),
    );
    Ok(())
}

/// MiB/s of one file, written in pieces and fsynced at the end.
fn disk_speed(folder: &TempDir, content: &[u8]) -> Result<f64> {
    let start = Instant::now();
    let mut file = std::fs::File::create(folder.path().join("disk"))?;
    for piece in content.chunks(1 << 20) {
        file.write_all(piece)?;
    }
    file.sync_all()?;
    let speed = content.len() as f64 / f64::from(1 << 20) / start.elapsed().as_secs_f64();
    std::fs::remove_file(folder.path().join("disk"))?;
    Ok(speed)
}
