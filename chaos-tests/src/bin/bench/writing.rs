//! P4: writes of 256 bytes of metadata through the HTTP interface, three nodes, fsync on; beside etcd's HTTP gateway.

use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use chaos_tests::client::accepted;
use chaos_tests::cluster::Cluster;
use chaos_tests::wait;
use tempfile::TempDir;

use crate::etcd::Etcd;
use crate::load::{Load, wrk};
use crate::report::Report;

const CONNECTIONS: [u32; 4] = [1, 16, 64, 256];
const SECONDS: u32 = 8;

/// Videos that the writes go to, so that they do not all meet in one row.
const VIDEOS: usize = 64;

/// Far longer than looking into them takes.
const FAILED_WITHIN: Duration = Duration::from_secs(120);

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P4: metadata writes, etcd");
    let folder = TempDir::new()?;
    let theirs = {
        let etcd = Etcd::start().await?;
        let script = r#"
local n = 0
local value = string.rep("eHh4", 85) .. "eA=="
request = function()
  n = n + 1
  return wrk.format("POST", "/v3/kv/put", {["Content-Type"]="application/json"},
    '{"key":"a2V5' .. string.format("%04d", n % 64) .. '","value":"' .. value .. '"}')
end
"#;
        measure(etcd.url(etcd.leader().await?), script, &folder).await?
    };
    report.step("P4: metadata writes, Reelraft");
    let cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    let leader = cluster.leader().await?;
    let client = cluster.nodes[leader].client()?;
    let mut ids = Vec::new();
    for number in 0..VIDEOS {
        let video = accepted(
            client
                .upload_bytes(Bytes::from_static(b"no video"), &format!("{number}"), None, None)
                .await?,
        )
        .await?;
        ids.push(video.id);
    }
    // What is measured is writes, not what looks into 64 files that are no videos.
    for id in &ids {
        wait::until("a video that is none fails", FAILED_WITHIN, async || {
            Ok((client.video(id).await?.state == "failed").then_some(()))
        })
        .await?;
    }
    let script = format!(
        r#"
local ids = {{{}}}
local n = 0
request = function()
  n = n + 1
  return wrk.format("PATCH", "/api/v1/videos/" .. ids[n % #ids + 1], {{["Content-Type"]="application/json"}},
    '{{"description":"' .. string.rep("x", 248) .. string.format("%08d", n) .. '"}}')
end
"#,
        ids.iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",")
    );
    let ours = measure(&client.base, &script, &folder).await?;
    for ((connections, ours), theirs) in CONNECTIONS.iter().zip(ours).zip(theirs) {
        ensure!(ours.errors == 0, "{} of our writes failed", ours.errors);
        report.add(
            "P4",
            format!("writes of 256 bytes, {connections} connections"),
            format!(
                "{:.0}/s, p50 {:.1?}, p99 {:.1?}",
                ours.requests_per_second, ours.p50, ours.p99
            ),
            format!(
                "etcd {:.0}/s, p50 {:.1?}, p99 {:.1?}",
                theirs.requests_per_second, theirs.p50, theirs.p99
            ),
            Some(ours.requests_per_second / theirs.requests_per_second),
        );
    }
    Ok(())
}

async fn measure(url: &str, script: &str, folder: &TempDir) -> Result<Vec<Load>> {
    let mut loads = Vec::new();
    for connections in CONNECTIONS {
        loads.push(wrk(url, connections, SECONDS, script, folder.path()).await?);
    }
    Ok(loads)
}
