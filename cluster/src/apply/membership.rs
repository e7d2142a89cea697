//! The cluster's birth, its nodes, its layout.

use super::limits::{NODE_TEXT_CHARS_MAX, NODES_MAX};
use super::step::{Step, Stop, require, require_short};
use crate::command::{Refusal, Reply};
use crate::ids::NodeId;
use crate::placement::Layout;
use crate::table::KeyRange;
use crate::tables::nodes::{LAYOUT, NODES, NodeRow};
use crate::tables::system::SYSTEM;

pub(super) fn init_cluster(step: &mut Step<'_>, cluster_id: [u8; 16]) -> Result<Reply, Stop> {
    require(cluster_id != [0; 16], || "the cluster id is all zeros".into())?;
    let mut system = SYSTEM.get(&step.tx, &())?.unwrap_or_default();
    if system.cluster_id != [0; 16] {
        return Err(Refusal::AlreadyInitialized.into());
    }
    system.cluster_id = cluster_id;
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Done)
}

pub(super) fn register_node(step: &mut Step<'_>, node: &NodeRow) -> Result<Reply, Stop> {
    require(node.id != NodeId(0), || "0 is no node id".into())?;
    for (what, text) in [
        ("name", &node.name),
        ("zone", &node.zone),
        ("HTTP address", &node.http_url),
        ("RPC address", &node.rpc_addr),
        ("version", &node.version),
    ] {
        require_short(what, text, NODE_TEXT_CHARS_MAX)?;
    }
    let mut roles = node.roles.clone();
    roles.sort_unstable();
    roles.dedup();
    if !NODES.has(&step.tx, &node.id)? {
        let registered = NODES.keys(&step.tx, &KeyRange::all(), NODES_MAX)?.len();
        require(registered < NODES_MAX, || format!("there are {registered} nodes already"))?;
    }
    NODES.put(&mut step.tx, &node.id, &NodeRow { roles, ..node.clone() });
    Ok(Reply::Done)
}

pub(super) fn set_layout(step: &mut Step<'_>, layout: &Layout) -> Result<Reply, Stop> {
    let present = LAYOUT.get(&step.tx, &())?.map_or(0, |layout| layout.epoch());
    let expected = present.saturating_add(1);
    if layout.epoch() != expected {
        return Err(Refusal::LayoutEpoch { expected }.into());
    }
    for node in layout.nodes() {
        require(NODES.has(&step.tx, &node)?, || format!("node {node} is not registered"))?;
    }
    LAYOUT.put(&mut step.tx, &(), layout);
    Ok(Reply::Done)
}
