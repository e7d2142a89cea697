//! What the kernel knows about processes: memory and processor time.

use std::time::Duration;

use anyhow::{Context, Result};

/// A number of kB from `/proc/PID/status`, in bytes.
pub(crate) fn memory(process: u32, field: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with(field))
        .with_context(|| format!("find {field}"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1).context("find the number")?.parse()?;
    Ok(kilobytes * 1024)
}

/// Processor time that the ended and awaited children of a process used.
pub(crate) fn children_cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // The second field, the name in parentheses, may hold anything; the rest is numbers (proc_pid_stat(5)).
    let rest = stat.rsplit_once(')').context("read stat")?.1;
    let fields: Vec<_> = rest.split_whitespace().collect();
    let ticks: u64 = fields.get(13).context("cutime")?.parse::<u64>()?
        + fields.get(14).context("cstime")?.parse::<u64>()?;
    // USER_HZ is 100 on every Linux that exists.
    Ok(Duration::from_millis(ticks * 10))
}

pub(crate) const MIB: f64 = 1048576.0;

/// Memory of a process in bytes, where what it shares with others counts in part.
pub(crate) fn proportional_memory(process: u32) -> Result<u64> {
    Ok(number(&format!("/proc/{process}/smaps_rollup"), "Pss:")? * 1024)
}

/// Bytes that a process has had written to disk.
pub(crate) fn written(process: u32) -> Result<u64> {
    number(&format!("/proc/{process}/io"), "write_bytes:")
}

/// The first number behind a word in a file of such lines.
fn number(path: &str, word: &str) -> Result<u64> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let rest = text.lines().find_map(|line| line.strip_prefix(word));
    let number = rest.and_then(|rest| rest.split_whitespace().next());
    Ok(number.with_context(|| format!("find {word} in {path}"))?.parse()?)
}

/// What so many percent of the times are at most.
pub(crate) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let at = (times.len() * percent).div_ceil(100).saturating_sub(1);
    times.get(at).copied().unwrap_or_default()
}
