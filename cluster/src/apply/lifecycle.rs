//! How a member is drained, removed, and left alone while somebody works on it; how repair is paused, and how
//! a scrub begins.
//!
//! Here is refused what the tables alone show to be wrong. Whether a node is dead, or a voter, or has the only copy of
//! something, is not in the tables: the leader looks before it proposes.

use super::jobs;
use super::limits::MAINTENANCE_MS_MAX;
use super::step::{Step, Stop, require, require_actor};
use crate::catalog;
use crate::command::{Refusal, Reply};
use crate::ids::NodeId;
use crate::tables::members::{MEMBERS, MemberRow, MemberState};
use crate::tables::nodes::{LAYOUT, NODES, Role};
use crate::tables::system::{RepairPause, SYSTEM};

pub(super) fn drain(step: &mut Step<'_>, node: NodeId, actor: &str) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let member = living(step, node)?;
    if matches!(member.state, MemberState::Draining { .. }) {
        return Ok(Reply::Done);
    }
    let others = who_stays_without(step, node)?;
    let stores = |id: &NodeId| {
        let row = NODES.get(&step.tx, id)?;
        Ok::<_, Stop>(row.is_some_and(|row| row.roles.contains(&Role::Store)))
    };
    if stores(&node)? {
        let mut stay = false;
        for other in &others {
            stay |= stores(other)?;
        }
        require_safe(stay, || {
            format!("no other node stays that could take over the blocks of node {node}")
        })?;
    }
    let state = MemberState::Draining { since_ms: step.now_ms };
    MEMBERS.put(&mut step.tx, &node, &MemberRow { state, ..member });
    Ok(Reply::Done)
}

pub(super) fn cancel_drain(step: &mut Step<'_>, node: NodeId, actor: &str) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let member = living(step, node)?;
    MEMBERS.put(&mut step.tx, &node, &MemberRow { state: MemberState::Member, ..member });
    Ok(Reply::Done)
}

pub(super) fn remove(
    step: &mut Step<'_>,
    node: NodeId,
    force: bool,
    actor: &str,
) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let member = living(step, node)?;
    who_stays_without(step, node)?;
    let layout = LAYOUT.get(&step.tx, &())?.unwrap_or_default();
    let holds = layout.nodes().contains(&node);
    require_safe(force || !holds, || {
        format!(
            "the layout gives blocks to node {node}: drain it first, or force it if the node is lost"
        )
    })?;

    // Without a list this ends all its leases as tries that were lost with their holder. Were it to lose the last try of a
    // job, the video fails, as it would when the lease expires.
    jobs::release(step, node, &[])?;
    let state = MemberState::Removed { at_ms: step.now_ms, forced: holds };
    let row = MemberRow { state, maintenance_until_ms: None, ..member };
    MEMBERS.put(&mut step.tx, &node, &row);
    NODES.delete(&mut step.tx, &node);
    Ok(Reply::Done)
}

pub(super) fn set_maintenance(
    step: &mut Step<'_>,
    node: NodeId,
    until_ms: Option<u64>,
    actor: &str,
) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let member = living(step, node)?;
    if let Some(until_ms) = until_ms {
        require(until_ms > step.now_ms, || {
            "the maintenance would be over already, by the cluster's clock".into()
        })?;
        require(until_ms - step.now_ms <= MAINTENANCE_MS_MAX, || {
            format!("maintenance lasts {} days at most", MAINTENANCE_MS_MAX / (24 * 3600 * 1000))
        })?;
    }
    MEMBERS.put(&mut step.tx, &node, &MemberRow { maintenance_until_ms: until_ms, ..member });
    Ok(Reply::Done)
}

pub(super) fn pause_repair(step: &mut Step<'_>, paused: bool, actor: &str) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let mut system = catalog::system(&step.tx)?;
    system.repair_paused = match (paused, system.repair_paused) {
        // Who asked first is told of.
        (true, Some(pause)) => Some(pause),
        (true, None) => Some(RepairPause { actor: actor.to_owned(), since_ms: step.now_ms }),
        (false, _) => None,
    };
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Done)
}

pub(super) fn start_scrub(step: &mut Step<'_>, actor: &str) -> Result<Reply, Stop> {
    require_actor(actor)?;
    let mut system = catalog::system(&step.tx)?;
    system.scrub_asked = step.index;
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Done)
}

/// The member, unless it was removed.
fn living(step: &Step<'_>, node: NodeId) -> Result<MemberRow, Stop> {
    let member = MEMBERS.get(&step.tx, &node)?.ok_or(Refusal::UnknownNode)?;
    if member.state.is_living() { Ok(member) } else { Err(Refusal::NodeRemoved.into()) }
}

/// The other members that are not being drained, of which there has to be one.
fn who_stays_without(step: &Step<'_>, node: NodeId) -> Result<Vec<NodeId>, Stop> {
    let mut others = catalog::members(&step.tx)?;
    others.retain(|(id, other)| *id != node && other.state == MemberState::Member);
    require_safe(!others.is_empty(), || {
        format!("no other node stays that could take over what node {node} does")
    })?;
    Ok(others.into_iter().map(|(id, _)| id).collect())
}

fn require_safe(condition: bool, reason: impl FnOnce() -> String) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(Refusal::Unsafe { reason: reason() }) }
}
