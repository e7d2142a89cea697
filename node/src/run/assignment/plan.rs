//! What would move if the cluster were another one: `reelraft cluster plan`.
//!
//! By the same functions, and the same view of the cluster, by which the leader decides. Bytes are estimates: groups are
//! hash ranges, so each holds about as much as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::ids::NodeId;
use cluster::placement::{self, COPIES, Candidate, GROUPS};

use super::{Next, Situation, Wanted, next};

/// A node with more of what it offers in use could not take what others leave. New uploads go elsewhere before that.
const FULL_PERCENT: u64 = 85;

/// What is thought of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The zone and the bytes of each new node.
    pub add: Vec<(String, u64)>,
    pub drain: Vec<NodeId>,
    pub remove: Vec<NodeId>,
    /// Bytes that a node is to offer from then on.
    pub capacity: Vec<(NodeId, u64)>,
}

/// What would become of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    pub id: NodeId,
    pub zone: String,
    /// Whether there is no such node yet.
    pub new: bool,
    pub capacity_bytes: u64,
    /// Placement groups, now and then.
    pub groups_before: u32,
    pub groups_after: u32,
    /// Groups whose copies it would have to get, and those it would give up.
    pub gained: u32,
    pub lost: u32,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

/// What would move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub layout_epoch: u64,
    /// Copies of groups that would have to be made, and about how many bytes that are.
    pub copies: u32,
    pub bytes: u64,
    /// In how many layouts that would be done.
    pub steps: u32,
    /// How long the node that gets most would take for it, at the rate set for repairs.
    pub time: Duration,
    pub nodes: Vec<NodePlan>,
    /// Why the leader does not go on with what is due already.
    pub waiting_for: Option<String>,
    pub warnings: Vec<String>,
}

/// What `change` would move. `bytes_per_second`: what a node copies at.
///
/// # Errors
/// When the change is about nodes that hold no blocks, or leaves nobody.
pub fn plan(situation: &Situation, change: &Change, bytes_per_second: u64) -> Result<Plan, String> {
    let present = &situation.present;
    let mut candidates: BTreeMap<NodeId, Candidate> =
        situation.candidates().into_iter().map(|node| (node.id, node)).collect();
    let known = |node: &NodeId| {
        let found = situation.stores.contains_key(node);
        found.then_some(()).ok_or_else(|| format!("there is no node {node} that holds blocks"))
    };
    for (node, bytes) in &change.capacity {
        known(node)?;
        if let Some(candidate) = candidates.get_mut(node) {
            candidate.weight = *bytes;
        }
    }
    for node in change.drain.iter().chain(&change.remove) {
        known(node)?;
        candidates.remove(node);
    }
    let highest = situation.stores.keys().chain(candidates.keys()).max().map_or(0, |id| id.0);
    let mut added = BTreeSet::new();
    for ((zone, bytes), id) in change.add.iter().zip(highest.saturating_add(1)..) {
        added.insert(NodeId(id));
        let node = Candidate { id: NodeId(id), zone: zone.clone(), weight: *bytes };
        candidates.insert(NodeId(id), node);
    }
    let after: Vec<Candidate> = candidates.into_values().collect();
    if after.iter().all(|candidate| candidate.weight == 0) {
        return Err("no node would be left that holds blocks".to_owned());
    }
    let mut target = placement::compute_near(&after, Some(present), &situation.earlier);
    let moved = placement::movement(present, &target);
    if moved == placement::Movement::default() {
        target = present.clone();
    }
    let per_group = situation.bytes() / u64::from(GROUPS);
    let of = |groups: u32| u64::from(groups) * per_group;

    let (before_loads, after_loads) = (present.loads(), target.loads());
    let ids: BTreeSet<NodeId> = before_loads.keys().chain(after_loads.keys()).copied().collect();
    let nodes: Vec<NodePlan> = ids
        .into_iter()
        .map(|id| {
            let candidate = after.iter().find(|candidate| candidate.id == id);
            let candidate = candidate.or_else(|| Some(&situation.stores.get(&id)?.candidate));
            let load = |loads: &BTreeMap<NodeId, u32>| loads.get(&id).copied().unwrap_or(0);
            let (groups_before, groups_after) = (load(&before_loads), load(&after_loads));
            NodePlan {
                id,
                zone: candidate.map(|node| node.zone.clone()).unwrap_or_default(),
                new: added.contains(&id),
                capacity_bytes: candidate.map_or(0, |node| node.weight),
                groups_before,
                groups_after,
                gained: moved.gained.get(&id).copied().unwrap_or(0),
                lost: moved.lost.get(&id).copied().unwrap_or(0),
                bytes_before: of(groups_before),
                bytes_after: of(groups_after),
            }
        })
        .collect();
    let most = nodes.iter().map(|node| node.gained).max().unwrap_or(0);
    Ok(Plan {
        layout_epoch: present.epoch(),
        copies: moved.copied,
        bytes: of(moved.copied),
        steps: steps(situation, change, &target),
        time: Duration::from_secs(of(most).div_ceil(bytes_per_second.max(1))),
        warnings: warnings(&after, &nodes),
        nodes,
        waiting_for: match next(situation, &mut Wanted::default(), super::PATIENCE) {
            Next::Wait(why) => Some(why),
            Next::Nothing | Next::Take(_) => None,
        },
    })
}

/// In how many layouts the leader would get there.
fn steps(situation: &Situation, change: &Change, target: &placement::Layout) -> u32 {
    let present = &situation.present;
    let mut lost = situation.lost_holders();
    lost.extend(&change.remove);
    let (mut at_once, mut by_choice) = (false, 0);
    for group in 0..GROUPS {
        let (from, to) = (present.holders_of_group(group), target.holders_of_group(group));
        if to.iter().all(|node| from.contains(node)) && to.len() == from.len() {
            continue;
        }
        if from.len() != to.len() || from.iter().any(|node| lost.contains(node)) {
            at_once = true;
        } else {
            by_choice += 1;
        }
    }
    let limit = placement::step_limit(situation.bytes());
    u32::from(at_once) + u32::try_from(usize::div_ceil(by_choice, limit)).unwrap_or(u32::MAX)
}

fn warnings(after: &[Candidate], nodes: &[NodePlan]) -> Vec<String> {
    let usable: Vec<_> = after.iter().filter(|candidate| candidate.weight > 0).collect();
    let zones: BTreeSet<_> = usable.iter().map(|candidate| candidate.zone.as_str()).collect();
    let mut warnings = Vec::new();
    if usable.len() < COPIES {
        warnings.push(format!(
            "only {} nodes would hold blocks: each block has that many copies, not {COPIES}",
            usable.len()
        ));
    }
    if zones.len() < COPIES.min(usable.len()) {
        warnings.push(format!(
            "there would be {} zones: copies of a block share one, and may be lost together",
            zones.len()
        ));
    }
    for node in nodes.iter().filter(|node| node.groups_after > 0 && node.capacity_bytes > 0) {
        let percent = u128::from(node.bytes_after) * 100 / u128::from(node.capacity_bytes);
        if percent >= u128::from(FULL_PERCENT) {
            warnings.push(format!(
                "node {} would have to hold {percent} % of what it offers: add a node, or more room",
                node.id
            ));
        }
    }
    warnings
}
