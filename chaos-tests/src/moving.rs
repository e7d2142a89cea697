//! Blocks on their way between nodes: what nodes count about it, what is still to be moved, and when nothing moves any more.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::wait;

/// Bytes of the copies that a node has made to bring blocks where they belong.
pub const PULLED_BYTES: &str = "reelraft_content_repaired_bytes_total";

/// Copies that a node has and another one should have.
pub const SURPLUS_BLOCKS: &str = "reelraft_content_surplus_blocks";

/// The values of a metric, over all nodes that run.
///
/// # Errors
/// When one does not answer.
pub async fn sum(cluster: &Cluster, name: &str) -> Result<u64> {
    let mut sum = 0;
    for client in cluster.clients()? {
        sum += client.metric(name).await?;
    }
    Ok(sum)
}

/// What would move if nothing were changed, by the node at `witness`.
///
/// # Errors
/// When it cannot tell.
pub async fn plan(cluster: &Cluster, witness: usize) -> Result<Value> {
    let said = cluster.operate(&["cluster", "plan", "--json"], witness).await?;
    Ok(serde_json::from_str(&said)?)
}

/// The groups of a node, by a plan.
///
/// # Errors
/// When that is no plan.
pub fn groups(plan: &Value, id: u64) -> Result<u64> {
    let nodes = plan["nodes"].as_array().context("a plan has nodes")?;
    let node = nodes.iter().find(|node| node["id"] == id);
    Ok(node.and_then(|node| node["groups_before"].as_u64()).unwrap_or(0))
}

/// Waits until nothing moves any more: all have what they should, nobody has more, and no other layout is wanted.
///
/// # Errors
/// When something still moves after `limit`.
pub async fn until_settled(cluster: &Cluster, witness: usize, limit: Duration) -> Result<()> {
    let client = cluster.nodes[witness].client()?;
    wait::until("the cluster has settled", limit, async || {
        let plan = plan(cluster, witness).await?;
        ensure!(plan["copies"] == 0, "{} copies are to be made", plan["copies"]);
        let seen = client.cluster().await?;
        ensure!(seen["under_replicated_blocks"] == 0, "{}", seen["under_replicated_blocks"]);
        let surplus = sum(cluster, SURPLUS_BLOCKS).await?;
        ensure!(surplus == 0, "{surplus} copies are not given up");
        Ok(Some(()))
    })
    .await
}
