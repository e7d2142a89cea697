//! The process's one recorder of metrics, and its Prometheus text.
//!
//! Every part counts through the `metrics` facade and knows nothing of this module. Names start with `reelraft_` and carry
//! their unit; each is described where it is counted.

use std::sync::OnceLock;
use std::time::Duration;

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

/// Bounds of histograms in seconds: from a cached answer to the longest wait that anybody is made to wait.
const SECONDS: [f64; 14] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0];

/// How often what was recorded is folded into the histograms; until then it takes memory.
pub const UPKEEP: Duration = Duration::from_secs(5);

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();

/// Installs the recorder. Once in a process; whatever was counted before is not counted.
///
/// # Errors
/// When there is another recorder already.
pub fn install() -> anyhow::Result<()> {
    let handle = PrometheusBuilder::new()
        .set_buckets(&SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .context("install the recorder of metrics")?;
    let _ = RECORDER.set(handle);
    Ok(())
}

/// Keeps the recorder's memory bounded. To be called every [`UPKEEP`].
pub fn upkeep() {
    if let Some(handle) = RECORDER.get() {
        handle.run_upkeep();
    }
}

/// Everything that is counted, as Prometheus text; empty without a recorder.
#[must_use]
pub fn render() -> String {
    RECORDER.get().map(PrometheusHandle::render).unwrap_or_default()
}
