//! What is wrong with a cluster, and what to do about it.
//!
//! Pure: facts go in, findings come out, the worst first. `cluster status`, `cluster doctor` and the cluster page show the
//! same ones, so that nobody has to know where to look.
//!
//! # Rules
//!
//! - A finding says what is the matter and what to do, in words that need no manual.
//! - What heals by itself within seconds is no finding.
//! - Only facts that are known count: a node that cannot be heard is a finding, what it might suffer from is none.

use std::collections::BTreeSet;
use std::time::Duration;

use cluster::ids::NodeId;
use gateway::backend::{Finding, NodeStatus, Severity};

use crate::files::Space;
use crate::watermark::DiskPressure;

/// Leases and the times that people see depend on the clocks of leaders. Time servers keep them within milliseconds.
const CLOCK_SKEW_WARNING: Duration = Duration::from_millis(500);
const CLOCK_SKEW_CRITICAL: Duration = Duration::from_secs(5);

/// A follower that is further behind is busy or cut off: at full load it is a second's worth of entries.
const LAG_ENTRIES: u64 = 20_000;

/// Certificates are renewed when a third of their life is left. If half of that has passed, or all but two weeks, that does
/// not work.
const CERTIFICATE_LOW: Duration = Duration::from_secs(14 * 24 * 3600);
const CERTIFICATE_LOW_PART: u32 = 6;

/// A scrub that comes to its end in each cycle is never older.
const SCRUB_CYCLES_MAX: u32 = 2;

/// Copies of a block, and so the fewest nodes that can hold them apart.
const STORES_MIN: usize = cluster::placement::COPIES;

/// A node as the one that asks sees it.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    pub id: NodeId,
    pub name: String,
    pub zone: String,
    pub stores: bool,
    pub voter: bool,
    /// With what operators have planned for it.
    pub status: NodeStatus,
    /// What can be heard of it, whatever is planned.
    pub heard: NodeStatus,
    pub silent_for: Duration,
    pub version: String,
    /// Entries of the log that it has yet to apply.
    pub lag: u64,
    /// Free and total bytes of the file system that holds its data.
    pub disk: Option<Space>,
    /// Whether it lacks the ballast that it should have.
    pub ballast_released: bool,
    /// Whether the space of a deleted block comes back only with that of its neighbours.
    pub frees_whole_volumes_only: bool,
    /// By how many milliseconds its clock is ahead of the asking node's, or behind it if negative, beyond what the time of the
    /// message explains.
    pub clock_ahead_ms: Option<i64>,
    /// Until its certificate ends.
    pub certificate_left: Option<Duration>,
    /// What keeps it from storing its blocks, in its own words.
    pub trouble: Option<String>,
    /// How it reads its blocks again, as far as it has said.
    pub scrub: Option<ScrubFacts>,
    /// While it is being drained.
    pub drain: Option<DrainFacts>,
}

/// How a node checks its blocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScrubFacts {
    /// The length of a cycle.
    pub every: Duration,
    /// Since the last cycle ended; before there was one, since the node has been there.
    pub age: Duration,
    /// Copies that proved bad, in the last cycle and the present one.
    pub damaged_blocks: u64,
}

/// How far a drain is.
#[derive(Clone, Debug, Default)]
pub struct DrainFacts {
    /// What it still waits for; nothing when the node can be removed.
    pub waiting_for: Vec<String>,
    /// Whether it goes no further unless somebody does something.
    pub stuck: bool,
}

/// A cluster as one of its nodes sees it.
#[derive(Clone, Debug)]
pub struct ClusterFacts {
    pub leader: Option<NodeId>,
    pub layout_epoch: u64,
    /// How long certificates are good for, as this node signs them.
    pub certificate_life: Duration,
    pub under_replicated_blocks: u64,
    /// Who wants no missing copies to be made.
    pub repair_paused_by: Option<String>,
    /// Copies that the last count did not find at their holders. It is made when nobody says that it lacks anything.
    pub copies_not_found: u64,
    pub nodes: Vec<NodeFacts>,
}

/// All that an operator should know, the worst first.
#[must_use]
pub fn examine(facts: &ClusterFacts) -> Vec<Finding> {
    let mut findings = Vec::new();
    decisions(facts, &mut findings);
    copies(facts, &mut findings);
    repair(facts, &mut findings);
    for node in &facts.nodes {
        presence(node, &mut findings);
        disk(node, &mut findings);
        ballast(node, &mut findings);
        holes(node, &mut findings);
        scrub(node, &mut findings);
        progress(node, &mut findings);
        certificate(node, facts.certificate_life, &mut findings);
    }
    clocks(facts, &mut findings);
    versions(facts, &mut findings);
    findings.sort_by_key(|finding| finding.severity);
    findings
}

fn finding(
    severity: Severity,
    code: &'static str,
    node: Option<&NodeFacts>,
    summary: String,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        severity,
        code,
        node: node.map(|node| node.id),
        summary: match node {
            Some(node) => format!("node {} ({}) {summary}", node.id, node.name),
            None => summary,
        },
        remedy: remedy.into(),
    }
}

/// Whether copies are made, and whether they are there when they are said to be.
fn repair(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    if let Some(actor) = &facts.repair_paused_by {
        findings.push(finding(
            Severity::Warning,
            "repair_paused",
            None,
            format!("no missing copies are made: {actor} paused repair"),
            "`reelraft repair resume` lets it go on.",
        ));
    }
    if facts.copies_not_found > 0 {
        findings.push(finding(
            Severity::Critical,
            "copies_not_found",
            None,
            format!(
                "{} copies were not found at their holders by the last count",
                facts.copies_not_found
            ),
            "`reelraft repair verify` counts again and names them. Nodes that lost blocks pull them again after their next \
             comparison, within half a minute; if the number stays, please report it.",
        ));
    }
}

/// Whether so many nodes are silent that dead ones are not replaced.
fn silence(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    let stores = facts.nodes.iter().filter(|node| node.stores);
    let silent = |node: &&NodeFacts| matches!(node.status, NodeStatus::Down | NodeStatus::Dead);
    let (all, silent) = (stores.clone().count(), stores.filter(silent).count());
    if silent > 1 && silent * 3 > all {
        findings.push(finding(
            Severity::Critical,
            "many_nodes_silent",
            None,
            format!(
                "{silent} of {all} nodes that hold blocks do not answer: no dead node is replaced"
            ),
            "More than a third of them is rather a fault of the network than of nodes. Look at the network; when enough \
             nodes answer again, those that stay dead are replaced by themselves.",
        ));
    }
}

/// Whether there is a leader, and whether there still is one after the next failure.
fn decisions(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    let voters: Vec<_> = facts.nodes.iter().filter(|node| node.voter).collect();
    let answering = voters.iter().filter(|node| node.heard == NodeStatus::Up).count();
    // Who is late may only be busy.
    let lost = |status| matches!(status, NodeStatus::Down | NodeStatus::Dead);
    let left = voters.iter().filter(|node| !lost(node.heard)).count();
    let majority = voters.len() / 2 + 1;
    if facts.leader.is_none() {
        findings.push(finding(
            Severity::Critical,
            "no_leader",
            None,
            format!(
                "there is no leader: {answering} of {} voters answer, {majority} are needed; writes are refused",
                voters.len()
            ),
            "Bring back the voters that do not answer. If a majority of them is lost for good, `reelraft cluster recover` \
             makes a new cluster of what one node still has.",
        ));
    } else if voters.len() > 1 && left <= majority && left < voters.len() {
        findings.push(finding(
            Severity::Warning,
            "no_spare_voter",
            None,
            format!(
                "{left} of {} voters are there: if one more fails, writes are refused",
                voters.len()
            ),
            "Bring back the voters that do not answer, or let new nodes join: a dead voter is replaced by itself.",
        ));
    }
}

/// Whether blocks have the copies that they should have, and room for them.
fn copies(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    silence(facts, findings);
    if facts.layout_epoch == 0 {
        findings.push(finding(
            Severity::Critical,
            "no_layout",
            None,
            "there is no layout yet: blocks cannot be stored".to_owned(),
            "Wait until a node with the role `store` has registered, or start one.",
        ));
    }
    if facts.under_replicated_blocks > 0 {
        findings.push(finding(
            Severity::Warning,
            "too_few_copies",
            None,
            format!("{} copies of blocks are missing", facts.under_replicated_blocks),
            "They are made again by themselves when their holders answer; see what keeps those from it below.",
        ));
    }
    let stores: Vec<_> = facts.nodes.iter().filter(|node| node.stores).collect();
    let zones: BTreeSet<_> = stores.iter().map(|node| node.zone.as_str()).collect();
    if !stores.is_empty() && stores.len() < STORES_MIN {
        findings.push(finding(
            Severity::Warning,
            "few_stores",
            None,
            format!(
                "{} of the nodes hold blocks, so there are fewer than {STORES_MIN} copies of each",
                stores.len()
            ),
            "Let more nodes join: `reelraft token create`, then `reelraft node join` on the new machine.",
        ));
    } else if stores.len() >= STORES_MIN && zones.len() == 1 {
        findings.push(finding(
            Severity::Notice,
            "one_zone",
            None,
            format!("all nodes that hold blocks are in the zone {:?}", stores[0].zone),
            "If some of the machines can fail without the others, give them different zones (`zone` in the configuration).",
        ));
    }
}

/// Whether it can be heard, and does its part.
fn presence(node: &NodeFacts, findings: &mut Vec<Finding>) {
    let silence = node.silent_for.as_secs();
    let voter = if node.voter { "; it is a voter" } else { "" };
    let id = node.id;
    let (severity, code, summary, remedy) = match node.status {
        NodeStatus::Down | NodeStatus::Dead => (
            if node.voter { Severity::Critical } else { Severity::Warning },
            if node.status == NodeStatus::Dead { "node_dead" } else { "node_down" },
            format!("has not been heard of for {silence} s{voter}"),
            format!(
                "Look whether its machine and `reelraft serve` run and whether the network reaches them. If it stays dead, \
                 its blocks are copied to other nodes by themselves, where enough remain. If it is lost for good: let \
                 another one join, then `reelraft node remove {id} --force`."
            ),
        ),
        NodeStatus::Suspect => (
            Severity::Notice,
            "node_late",
            format!("has not been heard of for {silence} s{voter}"),
            "Wait a moment: it may be busy or starting.".to_owned(),
        ),
        NodeStatus::Draining => draining(node),
        NodeStatus::Maintenance => (
            Severity::Notice,
            "node_maintenance",
            "is in maintenance".to_owned(),
            format!("`reelraft node maintenance {id} --end` when it is back."),
        ),
        NodeStatus::Joining | NodeStatus::Up => {
            if let Some(trouble) = &node.trouble {
                findings.push(finding(
                    Severity::Warning,
                    "store_trouble",
                    Some(node),
                    format!("does not store all its blocks: {trouble}"),
                    "If it does not pass by itself: look at its log, and at its disk.",
                ));
            }
            return;
        }
    };
    findings.push(finding(severity, code, Some(node), summary, remedy));
}

fn draining(node: &NodeFacts) -> (Severity, &'static str, String, String) {
    let id = node.id;
    let cancel = format!("To keep it: `reelraft node drain {id} --cancel`.");
    let drain = node.drain.clone().unwrap_or_default();
    let (severity, remedy) = if drain.stuck {
        (Severity::Warning, format!("Let another node join. {cancel}"))
    } else if drain.waiting_for.is_empty() {
        (
            Severity::Notice,
            format!("`reelraft node remove {id}` takes it out of the cluster. {cancel}"),
        )
    } else {
        (
            Severity::Notice,
            format!("`reelraft node drain {id} --wait` shows when it can be removed. {cancel}"),
        )
    };
    let summary = if drain.waiting_for.is_empty() {
        "is being drained and can be removed".to_owned()
    } else {
        format!("is being drained: {}", drain.waiting_for.join("; "))
    };
    (severity, "node_draining", summary, remedy)
}

fn disk(node: &NodeFacts, findings: &mut Vec<Finding>) {
    let Some(space) = node.disk else { return };
    let free_mib = space.free_bytes >> 20;
    let percent = (u128::from(space.free_bytes) * 100)
        .checked_div(u128::from(space.total_bytes))
        .unwrap_or(0);
    let left = format!("has {free_mib} MiB left, {percent} % of its disk");
    let (severity, code, summary) = match DiskPressure::of(space) {
        DiskPressure::None => return,
        DiskPressure::Low => (Severity::Warning, "disk_low", left),
        DiskPressure::NoCopies => (
            Severity::Warning,
            "disk_low",
            format!("{left}, and makes no copies of blocks that are elsewhere"),
        ),
        DiskPressure::NoBlocks => {
            (Severity::Critical, "disk_full", format!("{left}, and stores no blocks"))
        }
    };
    findings.push(finding(
        severity,
        code,
        Some(node),
        summary,
        "Make room beside the data directory, enlarge the disk, or let more nodes join.",
    ));
}

/// Whether deleting gives room back at once.
fn holes(node: &NodeFacts, findings: &mut Vec<Finding>) {
    if node.frees_whole_volumes_only {
        findings.push(finding(
            Severity::Notice,
            "no_holes",
            Some(node),
            "is on a file system that cannot punch holes: room comes back only by whole volumes of 1 GiB".to_owned(),
            "Use ext4, XFS or Btrfs for its data directory.",
        ));
    }
}

fn ballast(node: &NodeFacts, findings: &mut Vec<Finding>) {
    if node.ballast_released {
        findings.push(finding(
            Severity::Warning,
            "ballast_released",
            Some(node),
            "has given up the room that it keeps for a full disk".to_owned(),
            "Make room on its disk, soon: when what was given up is used as well, the node ends. It takes it back by itself.",
        ));
    }
}

/// Whether its copies are known to be good.
fn scrub(node: &NodeFacts, findings: &mut Vec<Finding>) {
    let Some(scrub) = node.scrub.filter(|_| node.stores && node.heard == NodeStatus::Up) else {
        return;
    };
    if scrub.age > scrub.every.saturating_mul(SCRUB_CYCLES_MAX) {
        findings.push(finding(
            Severity::Warning,
            "scrub_overdue",
            Some(node),
            format!("has not checked all its blocks for {} days", scrub.age.as_secs() / (24 * 3600)),
            "`reelraft scrub status` says what it waits for, or how far it is; `reelraft scrub start` begins at once.",
        ));
    }
    if scrub.damaged_blocks > 0 {
        findings.push(finding(
            Severity::Warning,
            "copies_damaged",
            Some(node),
            format!("has found {} of its copies damaged", scrub.damaged_blocks),
            "They are replaced from other nodes. Look at its disk (`smartctl`) and its memory; `reelraft scrub start` checks all of it \
             again.",
        ));
    }
}

/// Whose clock is wrong: the one of the node that asks may be, so all are compared with what most of them show.
fn clocks(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    let heard = |node: &&NodeFacts| node.heard == NodeStatus::Up;
    let shown: Vec<_> = facts
        .nodes
        .iter()
        .filter(heard)
        .filter_map(|node| Some((node, node.clock_ahead_ms?)))
        .collect();
    let right_ms = middle(shown.iter().map(|(_, ahead_ms)| *ahead_ms).collect());
    for (node, ahead_ms) in shown {
        let off = Duration::from_millis(ahead_ms.abs_diff(right_ms));
        if off < CLOCK_SKEW_WARNING {
            continue;
        }
        let direction = if ahead_ms > right_ms { "ahead" } else { "behind" };
        findings.push(finding(
            if off >= CLOCK_SKEW_CRITICAL { Severity::Critical } else { Severity::Warning },
            "clock_skew",
            Some(node),
            format!("has a clock that is {:.1} s {direction}", off.as_secs_f64()),
            "Let chrony or systemd-timesyncd keep the clocks of all machines.",
        ));
    }
}

/// What as many clocks are ahead of as are behind it. Of two that are as good, the one that is closer to the clock of whoever
/// asks.
fn middle(mut ahead_ms: Vec<i64>) -> i64 {
    ahead_ms.sort_unstable();
    let count = ahead_ms.len();
    let middle = ahead_ms.get(count.saturating_sub(1) / 2..=count / 2).unwrap_or_default();
    middle.iter().copied().min_by_key(|ahead_ms| ahead_ms.unsigned_abs()).unwrap_or(0)
}

fn progress(node: &NodeFacts, findings: &mut Vec<Finding>) {
    if node.heard != NodeStatus::Up || node.lag < LAG_ENTRIES {
        return;
    }
    findings.push(finding(
        Severity::Warning,
        "node_behind",
        Some(node),
        format!("is {} entries of the log behind", node.lag),
        "It catches up by itself. If the number grows: its disk or its network is too slow.",
    ));
}

fn certificate(node: &NodeFacts, life: Duration, findings: &mut Vec<Finding>) {
    let low = CERTIFICATE_LOW.min(life / CERTIFICATE_LOW_PART);
    let Some(left) = node.certificate_left.filter(|left| *left < low) else { return };
    findings.push(finding(
        if left.is_zero() { Severity::Critical } else { Severity::Warning },
        "certificate_ending",
        Some(node),
        format!("has a certificate that ends in {} days", left.as_secs() / (24 * 3600)),
        "Nodes renew their certificates by themselves, at any other node: its log says why it could not.",
    ));
}

fn versions(facts: &ClusterFacts, findings: &mut Vec<Finding>) {
    let versions: BTreeSet<_> = facts.nodes.iter().map(|node| node.version.as_str()).collect();
    if versions.len() > 1 {
        findings.push(finding(
            Severity::Notice,
            "versions_differ",
            None,
            format!(
                "nodes run different versions: {}",
                versions.into_iter().collect::<Vec<_>>().join(", ")
            ),
            "Fine during an upgrade. What only the newest version knows is used when all nodes run it.",
        ));
    }
}

#[cfg(test)]
mod tests;
