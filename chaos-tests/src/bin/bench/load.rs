//! Load by `wrk`, the same for us and for the peer.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// What `wrk` says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) requests_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) errors: u64,
}

/// Printed by the script at the end, in a form that needs no guessing.
const DONE: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %d %d %d %d\n", summary.requests, summary.bytes, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

/// Runs `wrk` for some seconds with as many connections and this Lua script, which defines `request`.
pub(crate) async fn wrk(
    url: &str,
    connections: u32,
    seconds: u32,
    script: &str,
    folder: &Path,
) -> Result<Load> {
    let file = folder.join("load.lua");
    std::fs::write(&file, format!("{script}{DONE}"))?;
    let output = Command::new("wrk")
        .arg(format!("-t{}", connections.min(2)))
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .args(["--timeout", "10s", "-s"])
        .arg(&file)
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("start wrk (`make bench` installs it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk: {text}{}", String::from_utf8_lossy(&output.stderr));
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("RESULT "))
        .with_context(|| format!("read {text}"))?;
    let numbers: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    let [requests, bytes, micros, p50, p99, errors] = numbers[..] else {
        anyhow::bail!("read {line}")
    };
    let seconds = micros as f64 / 1e6;
    Ok(Load {
        requests_per_second: requests as f64 / seconds,
        bytes_per_second: bytes as f64 / seconds,
        p50: Duration::from_micros(p50),
        p99: Duration::from_micros(p99),
        errors,
    })
}
