//! What nodes say of themselves, and what follows for all from the age of their programs.

use super::collection;
use super::limits::{NODE_TEXT_CHARS_MAX, NODES_MAX};
use super::step::{Step, Stop, require, require_short};
use crate::catalog;
use crate::command::{Refusal, Reply};
use crate::features;
use crate::ids::NodeId;
use crate::table::KeyRange;
use crate::tables::authority::AUTHORITY;
use crate::tables::members::MEMBERS;
use crate::tables::nodes::{NODES, NodeRow, Role};
use crate::tables::system::SYSTEM;

pub(super) fn register_node(step: &mut Step<'_>, node: &NodeRow) -> Result<Reply, Stop> {
    let member = MEMBERS.get(&step.tx, &node.id)?;
    let roles_allowed = match member {
        Some(member) if member.state.is_living() => member.roles_allowed,
        Some(_) => return Err(Refusal::NodeRemoved.into()),
        None if AUTHORITY.has(&step.tx, &())? => return Err(Refusal::NotAMember.into()),
        None => Role::ALL.to_vec(),
    };
    let level = catalog::system(&step.tx)?.level();
    let node = checked(node, &roles_allowed, level)?;
    if !NODES.has(&step.tx, &node.id)? {
        let registered = NODES.keys(&step.tx, &KeyRange::all(), NODES_MAX)?.len();
        require(registered < NODES_MAX, || format!("there are {registered} nodes already"))?;
    }
    NODES.put(&mut step.tx, &node.id, &node);
    Ok(Reply::Done)
}

/// The registration as it is kept, unless something is wrong with it.
pub(super) fn checked(
    node: &NodeRow,
    roles_allowed: &[Role],
    level: u32,
) -> Result<NodeRow, Refusal> {
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
    if let Some(role) = node.roles.iter().find(|role| !roles_allowed.contains(role)) {
        return Err(Refusal::RoleNotAllowed { role: *role });
    }
    if node.level() < level {
        return Err(Refusal::ProgramTooOld { needs: level });
    }
    Ok(NodeRow { roles: sorted(&node.roles), ..node.clone() })
}

/// The same roles, each once.
pub(super) fn sorted(roles: &[Role]) -> Vec<Role> {
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    roles
}

pub(super) fn raise_feature_level(step: &mut Step<'_>, level: u32) -> Result<Reply, Stop> {
    let mut system = catalog::system(&step.tx)?;
    let present = system.level();
    require(level >= present, || format!("the feature level is {present} and never falls"))?;
    for (id, member) in MEMBERS.collect(&step.tx, &KeyRange::all(), usize::MAX)? {
        if member.state.is_living() && !NODES.has(&step.tx, &id)? {
            let reason = format!("node {id} has not said yet what its program understands");
            return Err(Refusal::Unsafe { reason }.into());
        }
    }
    let nodes = catalog::nodes(&step.tx)?;
    require(!nodes.is_empty(), || "no node has registered".into())?;
    for node in nodes {
        if node.level() < level {
            let reason = format!(
                "node {} ({}) runs version {}, which understands level {} only",
                node.id,
                node.name,
                node.version,
                node.level()
            );
            return Err(Refusal::Unsafe { reason }.into());
        }
    }
    if !step.collects && level >= features::UPKEEP {
        collection::begin(step)?;
    }
    system.feature_level = level;
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Done)
}
