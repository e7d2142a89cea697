//! `reelraft cluster …`: make one, and see how it is.

use clap::Subcommand;
use gateway::api::{self, NodeStatus};

use super::client::{Api, Target};
use super::output;
use crate::rpc::admin;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make one cluster of nodes that are running and belong to none
    ///
    /// Asks the node at --to to do it; it has to be one of --nodes. Done once in the life of a cluster. When it breaks off,
    /// the same command continues.
    Init {
        /// RPC address of the node that is asked
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        /// RPC addresses of all nodes, in the order of their ids
        #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
        nodes: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the cluster is, problems first
    Status {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { to, nodes, json } => {
            let reply = admin::init(&to, &nodes).await?;
            let cluster_id = hex::encode(&reply.cluster_id);
            if json {
                return output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_ids": reply.node_ids,
                }));
            }
            let count = match reply.node_ids.len() {
                1 => "1 node".to_owned(),
                count => format!("{count} nodes"),
            };
            output::line(&format!("cluster {cluster_id} has {count}"));
            for (id, address) in reply.node_ids.iter().zip(&nodes) {
                output::line(&format!("  node {id}  {address}"));
            }
            Ok(())
        }
        Command::Status { target, json } => {
            let cluster = read(&Api::new(&target)?).await?;
            if json {
                return output::json(&cluster);
            }
            output::line(&page(&cluster));
            Ok(())
        }
    }
}

pub(super) async fn read(api: &Api) -> anyhow::Result<api::Cluster> {
    api.get("/api/v1/cluster").await
}

/// The whole cluster on one page: what is wrong, then what there is.
fn page(cluster: &api::Cluster) -> String {
    let mut lines = Vec::new();
    let problems = problems(cluster);
    if problems.is_empty() {
        lines.push(output::good("All is well."));
    }
    lines.extend(problems.iter().map(|problem| output::bad(&format!("! {problem}"))));

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
    lines.push(String::new());
    lines.push(status_table(cluster));
    lines.join("\n")
}

/// What somebody should look at, the worst first.
fn problems(cluster: &api::Cluster) -> Vec<String> {
    let mut problems = Vec::new();
    if cluster.cluster_id.is_empty() {
        problems.push(
            "this node belongs to no cluster; make one with `reelraft cluster init`".to_owned(),
        );
        return problems;
    }
    if cluster.leader.is_none() {
        problems.push(
            "there is no leader: writes are refused until a majority of the voters is up"
                .to_owned(),
        );
    }
    if cluster.layout_epoch == 0 {
        problems.push("there is no layout yet: blocks cannot be stored".to_owned());
    }
    for node in &cluster.nodes {
        let name = format!("node {} ({})", node.id, node.name);
        match node.status {
            NodeStatus::Suspect | NodeStatus::Down | NodeStatus::Dead => problems.push(format!(
                "{name} is {}: last heard of {:.0} s ago{}",
                word(node.status),
                node.last_seen_seconds,
                if node.voter { "; it is a voter" } else { "" }
            )),
            NodeStatus::Joining
            | NodeStatus::Up
            | NodeStatus::Draining
            | NodeStatus::Maintenance => {}
        }
    }
    if cluster.under_replicated_blocks > 0 {
        problems.push(format!("{} blocks have too few copies", cluster.under_replicated_blocks));
    }
    if let Some(reason) = &cluster.repair.waiting_for {
        problems.push(format!("repair waits: {reason}"));
    }
    let mut versions: Vec<&str> = cluster.nodes.iter().map(|node| node.version.as_str()).collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.len() > 1 {
        problems.push(format!("nodes run different versions: {}", versions.join(", ")));
    }
    problems
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
                output::bytes(node.bytes),
                output::bytes(node.capacity_bytes),
                roles(node),
                node.version.clone(),
            ]
        })
        .collect();
    let header =
        ["ID", "NAME", "STATUS", "RAFT", "LAG", "BLOCKS", "BYTES", "OF", "ROLES", "VERSION"];
    output::table(header, rows)
}

/// The nodes and where they are.
pub(super) fn node_table(cluster: &api::Cluster) -> String {
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
    use gateway::api::{Cluster, Jobs, Node, Repair, Role};

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
            },
            jobs: Jobs { queued: 0, running: 0 },
        }
    }

    #[test]
    fn a_sound_cluster_has_no_problems_and_fits_a_terminal() {
        assert!(problems(&sound()).is_empty());
        let page = anstream::adapter::strip_str(&page(&sound())).to_string();
        assert!(page.starts_with("All is well."), "{page}");
        assert!(page.lines().count() < 24, "{page}");
        assert!(page.lines().all(|line| line.chars().count() <= 80), "{page}");
        assert!(page.contains("leader 2"), "{page}");
    }

    #[test]
    fn what_is_wrong_stands_first() {
        let mut cluster = sound();
        cluster.leader = None;
        cluster.under_replicated_blocks = 7;
        cluster.nodes[2] = node(3, NodeStatus::Down);
        cluster.nodes[2].version = "0.2.0".to_owned();
        let found = problems(&cluster);
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(found[0].contains("no leader"), "{found:?}");
        assert!(found[1].contains("node 3 (node-3) is down: last heard of 4 s ago"), "{found:?}");
        let page = anstream::adapter::strip_str(&page(&cluster)).to_string();
        assert!(page.starts_with("! there is no leader"), "{page}");
    }
}
