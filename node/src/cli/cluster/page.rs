//! The cluster on a terminal: problems first, then what there is.

use std::time::Duration;

use gateway::api::{self, Finding, Severity};

use super::super::output;
use crate::founding::NO_CLUSTER;

/// The whole cluster on one page: what is wrong, then what there is.
pub(super) fn page(cluster: &api::Cluster) -> String {
    if cluster.cluster_id.is_empty() {
        return output::bad(&format!("! {NO_CLUSTER}"));
    }
    let mut lines = Vec::new();
    if cluster.findings.is_empty() {
        lines.push(output::good("All is well."));
    }
    lines.extend(cluster.findings.iter().map(headline));
    if !cluster.findings.is_empty() {
        lines.push("  `reelraft cluster doctor` says what to do.".to_owned());
    }

    lines.push(String::new());
    let voters: Vec<String> = cluster.voters.iter().map(ToString::to_string).collect();
    lines.push(format!("cluster  {}", output::bold(&cluster.cluster_id)));
    lines.push(format!(
        "raft     leader {}, term {}, voters {}, layout {}",
        cluster.leader.map_or_else(|| "none".to_owned(), |id| id.to_string()),
        cluster.term,
        voters.join(","),
        cluster.layout_epoch,
    ));
    lines
        .push(format!("jobs     {} queued, {} running", cluster.jobs.queued, cluster.jobs.running));
    let eta = cluster
        .repair
        .eta_seconds
        .map(|seconds| format!(", {seconds} s to go"))
        .unwrap_or_default();
    lines.push(format!(
        "repair   {} blocks queued, {}/s{eta}",
        cluster.repair.queued_blocks,
        output::bytes(cluster.repair.bytes_per_second)
    ));
    lines.push(format!(
        "groups   {} settled, {} moving, {} releasing",
        cluster.groups.settled, cluster.groups.moving, cluster.groups.releasing
    ));
    lines.push(copies(cluster));
    lines.push(format!(
        "garbage  {} blocks wait ({}), {} to be looked at",
        cluster.garbage.waiting_blocks,
        output::bytes(cluster.garbage.waiting_bytes),
        cluster.garbage.backlog_blocks
    ));
    lines.push(scrubs(cluster));
    lines.push(String::new());
    lines.push(status_table(cluster));
    lines.join("\n")
}

/// Whether all copies are there, and how that is known.
fn copies(cluster: &api::Cluster) -> String {
    let missing = cluster.under_replicated_blocks;
    match &cluster.repair.counted {
        Some(count) => format!(
            "copies   {missing} missing; counted {} ago: {} of {} found",
            age(count.seconds_ago),
            count.copies.saturating_sub(count.lacking + count.unknown),
            count.copies
        ),
        None => format!("copies   {missing} missing; not counted yet"),
    }
}

/// How long ago the blocks of all nodes were read and checked.
fn scrubs(cluster: &api::Cluster) -> String {
    let scrubs = || cluster.nodes.iter().filter_map(|node| node.store.as_ref()?.scrub.as_ref());
    let running = scrubs().filter(|scrub| scrub.running).count();
    let damaged: u64 = scrubs().map(|scrub| scrub.damaged_blocks).sum();
    // The oldest says it for all; one that never ended is older than any.
    let oldest = scrubs()
        .map(|scrub| scrub.age_seconds)
        .try_fold(0, |oldest, age| age.map(|age| oldest.max(age)));
    let last = match oldest.filter(|_| scrubs().count() > 0) {
        Some(seconds) => format!("all read {} ago or later", age(seconds)),
        None => "not all read yet".to_owned(),
    };
    format!("scrub    {last}, {running} running, {damaged} damaged copies found")
}

/// A time in the two largest units.
fn age(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// What is wrong, and what to do about it.
pub(super) fn diagnosis(cluster: &api::Cluster) -> String {
    if cluster.cluster_id.is_empty() {
        return output::bad(&format!("! {NO_CLUSTER}"));
    }
    if cluster.findings.is_empty() {
        return output::good("All is well.");
    }
    let lines: Vec<_> = cluster
        .findings
        .iter()
        .map(|finding| format!("{}\n    {} [{}]", headline(finding), finding.remedy, finding.code))
        .collect();
    lines.join("\n")
}

/// Whether somebody has to do something.
pub(super) fn is_sound(cluster: &api::Cluster) -> bool {
    !cluster.cluster_id.is_empty()
        && cluster.findings.iter().all(|finding| finding.severity == Severity::Notice)
}

fn headline(finding: &Finding) -> String {
    match finding.severity {
        Severity::Critical => output::bad(&format!("! {}", finding.summary)),
        Severity::Warning => output::bold(&format!("* {}", finding.summary)),
        Severity::Notice => format!("  {}", finding.summary),
    }
}

/// The nodes, one on a line, narrow enough for a terminal.
fn status_table(cluster: &api::Cluster) -> String {
    let newest = cluster.nodes.iter().map(|node| node.applied_index).max().unwrap_or(0);
    let rows = cluster
        .nodes
        .iter()
        .map(|node| {
            [
                label(cluster, node),
                node.name.clone(),
                word(node.status),
                duty(cluster, node),
                (newest - node.applied_index).to_string(),
                node.blocks.to_string(),
                lacks(node),
                output::bytes(node.bytes),
                output::bytes(node.capacity_bytes),
                roles(node),
                node.version.clone(),
            ]
        })
        .collect();
    let header = [
        "ID", "NAME", "STATUS", "RAFT", "LAG", "BLOCKS", "LACKS", "BYTES", "OF", "ROLES", "VERSION",
    ];
    output::table(header, rows)
}

/// The nodes and where they are.
pub(crate) fn node_table(cluster: &api::Cluster) -> String {
    let rows = cluster
        .nodes
        .iter()
        .map(|node| {
            [
                label(cluster, node),
                node.name.clone(),
                node.zone.clone(),
                word(node.status),
                duty(cluster, node),
                roles(node),
                node.version.clone(),
                node.http_url.clone(),
                node.rpc_addr.clone(),
            ]
        })
        .collect();
    let header = ["ID", "NAME", "ZONE", "STATUS", "RAFT", "ROLES", "VERSION", "HTTP", "RPC"];
    output::table(header, rows)
}

/// Its id, with a star for the node that answers.
fn label(cluster: &api::Cluster, node: &api::Node) -> String {
    format!("{}{}", node.id, if cluster.this_node == Some(node.id) { "*" } else { "" })
}

/// Blocks that it should hold and does not.
fn lacks(node: &api::Node) -> String {
    let missing = node.store.as_ref().and_then(|store| store.missing_blocks);
    missing.map_or_else(|| "?".to_owned(), |missing| missing.to_string())
}

fn duty(cluster: &api::Cluster, node: &api::Node) -> String {
    match (cluster.leader == Some(node.id), node.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
    .to_owned()
}

fn roles(node: &api::Node) -> String {
    if node.roles.len() == ROLES {
        return "all".to_owned();
    }
    node.roles.iter().map(word).collect::<Vec<_>>().join(",")
}

/// How many roles there are.
const ROLES: usize = 3;

/// The word that the API has for it.
fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(error) => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use cluster::ids::NodeId;
    use gateway::api::{Cluster, Garbage, Groups, Jobs, Node, NodeStatus, Repair, Role};

    use super::*;

    fn node(id: u64, status: NodeStatus) -> Node {
        Node {
            id: NodeId(id),
            name: format!("node-{id}"),
            zone: format!("node-{id}"),
            roles: vec![Role::Store, Role::Gateway, Role::Transcoder],
            status,
            voter: true,
            http_url: format!("http://127.0.0.1:808{id}"),
            rpc_addr: format!("127.0.0.1:908{id}"),
            version: "0.1.0".to_owned(),
            applied_index: 100 + id,
            blocks: 3,
            bytes: 5 << 20,
            capacity_bytes: 1 << 40,
            last_seen_seconds: 4.0,
            drain: None,
            store: None,
        }
    }

    fn sound() -> Cluster {
        Cluster {
            cluster_id: "07".repeat(16),
            this_node: Some(NodeId(1)),
            leader: Some(NodeId(2)),
            term: 3,
            voters: vec![NodeId(1), NodeId(2), NodeId(3)],
            layout_epoch: 1,
            under_replicated_blocks: 0,
            nodes: vec![node(1, NodeStatus::Up), node(2, NodeStatus::Up), node(3, NodeStatus::Up)],
            repair: Repair {
                queued_blocks: 0,
                bytes_per_second: 0,
                eta_seconds: None,
                waiting_for: None,
                paused_by: None,
                counted: None,
            },
            groups: Groups { settled: 1024, ..Groups::default() },
            garbage: Garbage::default(),
            jobs: Jobs { queued: 0, running: 0 },
            findings: Vec::new(),
        }
    }

    fn strip(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_sound_cluster_has_no_problems_and_fits_a_terminal() {
        assert!(is_sound(&sound()));
        let page = strip(&page(&sound()));
        assert!(page.starts_with("All is well."), "{page}");
        assert!(page.lines().count() < 24, "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert!(page.contains("leader 2"), "{page}");
        assert_eq!(strip(&diagnosis(&sound())), "All is well.");
    }

    #[test]
    fn what_is_wrong_stands_first() {
        let mut cluster = sound();
        let finding = |severity, code: &str, summary: &str| Finding {
            severity,
            code: code.to_owned(),
            node: None,
            summary: summary.to_owned(),
            remedy: "Do this.".to_owned(),
        };
        cluster.findings = vec![finding(Severity::Notice, "one_zone", "all are in one zone")];
        assert!(is_sound(&cluster));
        cluster.findings.insert(0, finding(Severity::Critical, "no_leader", "there is no leader"));
        assert!(!is_sound(&cluster));
        let page = strip(&page(&cluster));
        assert!(page.starts_with("! there is no leader\n  all are in one zone\n"), "{page}");
        let diagnosis = strip(&diagnosis(&cluster));
        assert!(
            diagnosis.contains("! there is no leader\n    Do this. [no_leader]"),
            "{diagnosis}"
        );
    }

    #[test]
    fn a_node_without_a_cluster_says_how_to_get_one() {
        let mut cluster = sound();
        cluster.cluster_id.clear();
        assert!(!is_sound(&cluster));
        for text in [page(&cluster), diagnosis(&cluster)] {
            assert!(strip(&text).contains("reelraft cluster init"), "{text}");
        }
    }
}
