//! `reelraft scrub …`: have all blocks read again, and see how far that is.

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use bytesize::ByteSize;
use clap::Subcommand;
use proto::cluster::{Checked, ScrubStatus};
use proto::operations::ScrubOfNode;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use super::local::Local;
use super::output;
use crate::now_ms;

/// It was not over in time.
const TIMED_OUT: u8 = 4;

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);

/// How long the node that is asked may be away: as long as a restart takes, with room.
const ABSENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Have all nodes read all their blocks again and check them, beginning now
    ///
    /// Nodes that are away begin when they are back. It goes as fast as repair may.
    Start {
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how far each node is with checking its blocks
    Status {
        /// Return when no node that answers has anything left to check
        ///
        /// Ends with status 4 when the time of --timeout is over.
        #[arg(long)]
        wait: bool,
        /// How long to wait at most, such as 30m or 2h
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration, requires = "wait")]
        timeout: Duration,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Start { local, json } => {
            local.operations().await?.start_scrub().await?;
            if json {
                output::json(&json!({"state": "asked"}))?;
            } else {
                output::line(
                    "all nodes check their blocks; `reelraft scrub status --wait` returns when they have",
                );
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { wait: false, local, json, .. } => {
            let nodes = local.operations().await?.watch_scrub().await;
            print(&nodes.map_err(|status| crate::rpc::admin::words(&status))?, json)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Status { wait: true, timeout, local, json } => {
            let (nodes, over) = wait(&local, timeout).await?;
            print(&nodes, json)?;
            Ok(if over { ExitCode::SUCCESS } else { ExitCode::from(TIMED_OUT) })
        }
    }
}

/// Looks until nobody has anything left to do, and whether that was in time.
async fn wait(local: &Local, limit: Duration) -> anyhow::Result<(Vec<ScrubOfNode>, bool)> {
    let now = Instant::now();
    // A time too long to be told is as good as none.
    let deadline = now.checked_add(limit).unwrap_or(now + Duration::from_secs(86_400 * 365));
    let (mut seen, mut last_answer) = (Vec::new(), now);
    loop {
        let look = async {
            let api = local.operations().await.map_err(|error| (error, true))?;
            let answer = api.watch_scrub().await;
            answer.map_err(|status| (crate::rpc::admin::words(&status), may_pass(&status)))
        };
        match timeout_at(deadline, look).await {
            Err(_) => return Ok((seen, false)),
            Ok(Ok(nodes)) => {
                last_answer = Instant::now();
                seen = nodes;
                if seen.iter().all(is_over) {
                    return Ok((seen, true));
                }
            }
            Ok(Err((error, passing))) if !passing || last_answer.elapsed() > ABSENCE_MAX => {
                return Err(error).context("wait for the scrub");
            }
            Ok(Err(_)) => {}
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            return Ok((seen, false));
        }
    }
}

fn may_pass(status: &Status) -> bool {
    [Code::Aborted, Code::Unavailable, Code::Cancelled, Code::Unknown].contains(&status.code())
}

/// Whether there is nothing to wait for. Who does not answer may never come back.
fn is_over(node: &ScrubOfNode) -> bool {
    !node.up || state(node) == "idle"
}

fn state(node: &ScrubOfNode) -> &'static str {
    match &node.scrub {
        _ if !node.up => "unknown",
        None => "unknown",
        Some(scrub) if !scrub.waiting_for.is_empty() => "waiting",
        Some(scrub) if scrub.running => "running",
        Some(_) if node.due => "waiting",
        Some(_) => "idle",
    }
}

/// Why it does not go on.
fn reason(node: &ScrubOfNode) -> Option<&str> {
    match &node.scrub {
        _ if !node.up => Some("it does not answer"),
        None => Some("it has said nothing yet"),
        Some(scrub) if !scrub.waiting_for.is_empty() => Some(&scrub.waiting_for),
        Some(scrub) if node.due && !scrub.running => Some("it has not heard of it yet"),
        Some(_) => None,
    }
}

fn print(nodes: &[ScrubOfNode], json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(&nodes.iter().map(as_json).collect::<Vec<_>>());
    }
    let rows = nodes.iter().map(row).collect();
    let header =
        ["ID", "NAME", "STATE", "DONE", "CHECKED", "RATE", "LEFT", "DAMAGED", "LAST", "NEXT"];
    output::line(&output::table(header, rows));
    for node in nodes {
        if let Some(reason) = reason(node) {
            output::note(&format!("node {} ({}): {reason}", node.node, node.name));
        }
    }
    Ok(())
}

/// Times are those of the node's clock.
fn as_json(node: &ScrubOfNode) -> Value {
    let mut value = json!({
        "node": node.node,
        "name": node.name,
        "state": state(node),
        "waiting_for": reason(node),
        "requested": node.due,
    });
    let Some(scrub) = &node.scrub else { return value };
    let last = scrub.last_began_ms.zip(scrub.last_ended_ms).map(|(began_ms, ended_ms)| {
        json!({
            "began_at": time(began_ms),
            "ended_at": time(ended_ms),
            "age_seconds": now_ms().saturating_sub(ended_ms) / 1000,
            "checked": checked(scrub.last_checked.as_ref()),
        })
    });
    let present = json!({
        "every_seconds": scrub.every_ms / 1000,
        "began_at": scrub.began_ms.map(time),
        "progress": progress(scrub),
        "checked": checked(scrub.checked.as_ref()),
        "bytes_per_second": scrub.bytes_per_second,
        "eta_seconds": scrub.eta_seconds,
        "next_at": time(scrub.next_ms),
        "last": last,
    });
    if let (Value::Object(value), Value::Object(present)) = (&mut value, present) {
        value.extend(present);
    }
    value
}

fn checked(checked: Option<&Checked>) -> Value {
    let Checked { blocks, bytes, damaged_blocks } = checked.copied().unwrap_or_default();
    json!({"blocks": blocks, "bytes": bytes, "damaged_blocks": damaged_blocks})
}

/// 0 to 1; nothing while there is no cycle.
fn progress(scrub: &ScrubStatus) -> Option<f64> {
    scrub.began_ms.map(|_| f64::from(scrub.progress_millionths) / 1e6)
}

fn row(node: &ScrubOfNode) -> [String; 10] {
    let nothing = || "-".to_owned();
    let scrub = node.scrub.clone().unwrap_or_default();
    let of = |checked: &Option<Checked>| checked.unwrap_or_default();
    let (now, last) = (of(&scrub.checked), of(&scrub.last_checked));
    let under_way = scrub.began_ms.is_some();
    [
        node.node.to_string(),
        node.name.clone(),
        state(node).to_owned(),
        progress(&scrub).map_or_else(nothing, |done| format!("{:.1} %", done * 100.0)),
        ByteSize::b(if under_way { now.bytes } else { last.bytes }).to_string(),
        if scrub.running {
            format!("{}/s", ByteSize::b(scrub.bytes_per_second))
        } else {
            nothing()
        },
        match scrub.eta_seconds.filter(|_| scrub.running) {
            Some(seconds) => humantime::format_duration(Duration::from_secs(seconds)).to_string(),
            None => nothing(),
        },
        format!("{} now, {} before", now.damaged_blocks, last.damaged_blocks),
        scrub.last_ended_ms.map_or_else(nothing, time),
        if scrub.next_ms > 0 { time(scrub.next_ms) } else { nothing() },
    ]
}

/// RFC 3339, which ends with the year 9999; a node's clock may not.
fn time(ms: u64) -> String {
    const YEAR_9999_MS: u64 = 253_402_300_799_000;
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(YEAR_9999_MS));
    humantime::format_rfc3339_seconds(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_over_when_nobody_who_answers_has_anything_left() {
        let scrub = ScrubStatus::default();
        let idle = ScrubOfNode { up: true, scrub: Some(scrub.clone()), ..ScrubOfNode::default() };
        let running = ScrubStatus { running: true, began_ms: Some(1), ..scrub.clone() };
        let stuck = ScrubStatus { waiting_for: "the disk".into(), ..running.clone() };
        for (node, expected, over) in [
            (idle.clone(), "idle", true),
            (ScrubOfNode { due: true, ..idle.clone() }, "waiting", false),
            (ScrubOfNode { scrub: Some(running), ..idle.clone() }, "running", false),
            (ScrubOfNode { scrub: Some(stuck), ..idle.clone() }, "waiting", false),
            (ScrubOfNode { scrub: None, ..idle.clone() }, "unknown", false),
            (ScrubOfNode { up: false, ..idle }, "unknown", true),
        ] {
            assert_eq!((state(&node), is_over(&node)), (expected, over), "{node:?}");
            assert_eq!(as_json(&node)["state"], expected);
            assert_eq!(reason(&node).is_some(), !["idle", "running"].contains(&expected));
            assert_eq!(row(&node)[2], expected);
        }
    }
}
