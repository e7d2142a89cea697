//! How scrubs are told of: from node to node in pings, and to operators.

use std::time::Duration;

use cluster::catalog;
use cluster::tables::nodes::Role;
use cluster::view::ViewError;
use gateway::backend::NodeStatus;
use proto::cluster::{Checked, ScrubStatus};
use proto::operations::{ScrubOfNode, WatchScrubReply};

use crate::content::{self, Finished, ScrubState, ScrubStats};
use crate::run::Member;

/// As it is sent.
pub(super) fn sent(stats: ScrubStats) -> ScrubStatus {
    let (running, waiting_for) = match stats.state {
        ScrubState::Idle => (false, String::new()),
        ScrubState::Running => (true, String::new()),
        ScrubState::Waiting(reason) => (false, reason),
    };
    ScrubStatus {
        running,
        waiting_for,
        every_ms: u64::try_from(stats.every.as_millis()).unwrap_or(u64::MAX),
        asked: stats.asked,
        since_ms: stats.since_ms,
        next_ms: stats.next_ms,
        began_ms: stats.began_ms,
        progress_millionths: stats.progress_millionths,
        checked: Some(sent_checked(stats.checked)),
        bytes_per_second: stats.bytes_per_second,
        eta_seconds: stats.eta_seconds,
        last_began_ms: stats.last.map(|last| last.began_ms),
        last_ended_ms: stats.last.map(|last| last.ended_ms),
        last_checked: stats.last.map(|last| sent_checked(last.checked)),
    }
}

/// As it was meant.
pub(crate) fn received(status: ScrubStatus) -> ScrubStats {
    let state = if !status.waiting_for.is_empty() {
        ScrubState::Waiting(status.waiting_for)
    } else if status.running {
        ScrubState::Running
    } else {
        ScrubState::Idle
    };
    let last = status.last_began_ms.zip(status.last_ended_ms);
    ScrubStats {
        state,
        every: Duration::from_millis(status.every_ms),
        asked: status.asked,
        since_ms: status.since_ms,
        next_ms: status.next_ms,
        began_ms: status.began_ms,
        progress_millionths: status.progress_millionths.min(1_000_000),
        checked: received_checked(status.checked),
        bytes_per_second: status.bytes_per_second,
        eta_seconds: status.eta_seconds,
        last: last.map(|(began_ms, ended_ms)| {
            let checked = received_checked(status.last_checked);
            Finished { began_ms, ended_ms, checked }
        }),
    }
}

fn sent_checked(checked: content::Checked) -> Checked {
    let content::Checked { blocks, bytes, damaged_blocks } = checked;
    Checked { blocks, bytes, damaged_blocks }
}

fn received_checked(checked: Option<Checked>) -> content::Checked {
    let Checked { blocks, bytes, damaged_blocks } = checked.unwrap_or_default();
    content::Checked { blocks, bytes, damaged_blocks }
}

/// The scrubs of all nodes that hold blocks, as far as `member` has heard of them.
pub(super) fn of_all(member: &Member) -> Result<WatchScrubReply, ViewError> {
    let view = member.consensus().catalog();
    let asked = catalog::system(view.as_ref())?.scrub_asked;
    let stores =
        catalog::nodes(view.as_ref())?.into_iter().filter(|row| row.roles.contains(&Role::Store));
    let nodes = stores.map(|row| {
        let (up, stats) = if row.id == member.id() {
            (true, member.stats().scrub)
        } else {
            let seen = member.observer().observe(row.id);
            (seen.status == NodeStatus::Up, seen.said.and_then(|said| said.scrub))
        };
        ScrubOfNode {
            node: row.id.0,
            name: row.name,
            up,
            due: stats.as_ref().is_none_or(|stats| asked != 0 && stats.asked != asked),
            scrub: stats.map(sent),
        }
    });
    Ok(WatchScrubReply { nodes: nodes.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_what_is_received() {
        let checked = content::Checked { blocks: 3, bytes: 4, damaged_blocks: 1 };
        let idle = ScrubStats {
            every: Duration::from_secs(9),
            next_ms: 17,
            last: Some(Finished { began_ms: 1, ended_ms: 2, checked }),
            ..ScrubStats::default()
        };
        let running = ScrubStats {
            state: ScrubState::Running,
            asked: 7,
            since_ms: 8,
            began_ms: Some(5),
            progress_millionths: 500_000,
            checked,
            bytes_per_second: 6,
            eta_seconds: Some(0),
            ..idle.clone()
        };
        let waiting =
            ScrubStats { state: ScrubState::Waiting("the disk".into()), ..running.clone() };
        for stats in [ScrubStats::default(), idle, running, waiting] {
            assert_eq!(received(sent(stats.clone())), stats);
        }
    }
}
