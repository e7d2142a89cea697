//! Which nodes hold which block.
//!
//! Blocks fall into [`GROUPS`] placement groups by the first bits of their hash, so a group is one range of hashes. The
//! [`Layout`] is an explicit table, group → holders, that lives in the catalog under an epoch. Being a table, it can be
//! shown before it is taken, and the way of computing it may change without moving a byte.
//!
//! [`compute()`] makes the table. It is a pure function of the candidates and the previous layout, and gives, in this order:
//!
//! 1. **Safety**: the holders of a group are distinct nodes in as many zones as there can be.
//! 2. **Balance**: each node holds its share of the weight ([`quota()`]), within [`tolerance`].
//! 3. **Least movement**: what can stay where it is stays.
//! 4. **Spread**: what has to move goes where weighted rendezvous hashing sends it, so that the groups of a lost node
//!    have their new holders all over the cluster. Where nodes are equally good otherwise, one that held the group before
//!    ([`Earlier`]) comes first: it may have the copies still.
//!
//! A cluster goes from one layout to the next in [`step()`]s of few groups. Copies that a node has and the layout does not give it any more are
//! given up by [`release`].

mod compute;
mod earlier;
mod fallbacks;
mod groups;
mod quota;
pub mod release;
mod rendezvous;
mod step;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use compute::{compute, compute_near};
pub use earlier::{EARLIER_MAX, Earlier};
pub use fallbacks::fallbacks;
pub use groups::{GroupSet, GroupStates};
pub use quota::{quota, tolerance};
pub use step::{STEP_BYTES, STEP_GROUPS_MIN, step, step_limit};

use crate::ids::{BlockHash, NodeId};

/// How many placement groups there are. With three copies on 64 nodes that is 48 groups per node: fine enough to share
/// evenly, and the whole table stays below 4 KiB.
pub const GROUPS: u16 = 1024;

/// How many copies of a block there are, where there are enough nodes.
pub const COPIES: usize = 3;

/// The most nodes a layout can name: its encoding has one byte for a node.
pub const LAYOUT_NODES_MAX: usize = 255;

/// The group of a block: the first ten bits of its hash.
#[must_use]
pub fn group_of(hash: &BlockHash) -> u16 {
    u16::from_be_bytes([hash.0[0], hash.0[1]]) >> 6
}

/// The least hash of a group. Groups follow each other in the order of the hashes.
#[must_use]
pub fn first_hash(group: u16) -> BlockHash {
    let mut hash = [0; 32];
    hash[..2].copy_from_slice(&((group % GROUPS) << 6).to_be_bytes());
    BlockHash(hash)
}

/// A node that can hold blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: NodeId,
    /// Failure domain: machines that may fail together share it.
    pub zone: String,
    /// Its share relative to the others, such as the bytes it offers. With 0 it gets nothing.
    pub weight: u64,
}

/// Which nodes hold which group. Every group has the same number of holders, all distinct.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Layout {
    epoch: u64,
    copies: usize,
    /// `copies` nodes for each group in turn; empty when there are no copies.
    holders: Vec<NodeId>,
}

impl Layout {
    /// A layout from a list of holders, `copies` for each group in turn.
    ///
    /// # Errors
    /// Says what is wrong when a group would not have `copies` distinct nodes, or the numbers are out of range.
    pub fn new(epoch: u64, copies: usize, holders: Vec<NodeId>) -> Result<Self, InvalidLayout> {
        if copies > COPIES {
            return Err(InvalidLayout::Copies(copies));
        }
        if holders.len() != copies * usize::from(GROUPS) {
            return Err(InvalidLayout::Length { found: holders.len(), copies });
        }
        let layout = Self { epoch, copies, holders };
        for group in 0..GROUPS {
            let of_group = layout.holders_of_group(group);
            if (1..of_group.len()).any(|at| of_group[..at].contains(&of_group[at])) {
                return Err(InvalidLayout::Repeated(group));
            }
        }
        let nodes = layout.nodes().len();
        if nodes > LAYOUT_NODES_MAX {
            return Err(InvalidLayout::Nodes(nodes));
        }
        Ok(layout)
    }

    /// Rises by one with each layout; 0 before the first one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many holders each group has.
    #[must_use]
    pub fn copies(&self) -> usize {
        self.copies
    }

    /// The nodes that hold anything, in the order of their ids.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeId> {
        self.holders.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The holders of a block.
    #[must_use]
    pub fn holders(&self, hash: &BlockHash) -> &[NodeId] {
        self.holders_of_group(group_of(hash))
    }

    /// The holders of a group; none when there is no such group.
    #[must_use]
    pub fn holders_of_group(&self, group: u16) -> &[NodeId] {
        let from = usize::from(group) * self.copies;
        self.holders.get(from..from + self.copies).unwrap_or_default()
    }

    /// How many groups each node holds.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<NodeId, u32> {
        let mut loads = BTreeMap::new();
        for node in &self.holders {
            *loads.entry(*node).or_default() += 1;
        }
        loads
    }
}

/// A table of holders that is no layout.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLayout {
    #[error("{0} copies, {COPIES} at most are possible")]
    Copies(usize),
    #[error("{found} holders for {copies} copies of {GROUPS} groups")]
    Length { found: usize, copies: usize },
    #[error("{0} nodes, {LAYOUT_NODES_MAX} at most are possible")]
    Nodes(usize),
    #[error("group {0} names a node twice")]
    Repeated(u16),
    #[error("an index of a node is out of range")]
    Index,
}

/// The layout as it is written: the nodes once, and one byte for each holder.
#[derive(Serialize, Deserialize)]
struct Encoded {
    epoch: u64,
    copies: u8,
    nodes: Vec<NodeId>,
    #[serde(with = "crate::codec::bytes")]
    holders: Vec<u8>,
}

impl From<Layout> for Encoded {
    fn from(layout: Layout) -> Self {
        let nodes = layout.nodes();
        let index = |node: &NodeId| {
            let index = nodes.binary_search(node).expect("every holder is among the nodes");
            u8::try_from(index).expect("a layout has at most LAYOUT_NODES_MAX nodes")
        };
        Self {
            epoch: layout.epoch,
            copies: u8::try_from(layout.copies).expect("a layout has at most COPIES copies"),
            holders: layout.holders.iter().map(index).collect(),
            nodes,
        }
    }
}

impl TryFrom<Encoded> for Layout {
    type Error = InvalidLayout;

    fn try_from(encoded: Encoded) -> Result<Self, InvalidLayout> {
        let node = |index: &u8| {
            encoded.nodes.get(usize::from(*index)).copied().ok_or(InvalidLayout::Index)
        };
        let holders = encoded.holders.iter().map(node).collect::<Result<_, _>>()?;
        Self::new(encoded.epoch, encoded.copies.into(), holders)
    }
}

/// What is wrong with a layout, given the nodes there are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("groups have {found} holders, {wanted} are possible")]
    Copies { found: usize, wanted: usize },
    #[error("group {group} is held by node {node}, which is no candidate")]
    NotACandidate { group: u16, node: NodeId },
    #[error("group {group} is in {found} zones, {wanted} are possible")]
    Zones { group: u16, found: usize, wanted: usize },
    #[error("node {node} holds {load} groups, its share is {quota}")]
    Share { node: NodeId, load: u32, quota: u32 },
}

/// Whether `layout` is as safe and as balanced as these candidates allow. Written without a look at how [`compute()`] works.
#[must_use]
pub fn check(layout: &Layout, candidates: &[Candidate]) -> Vec<Violation> {
    let usable = usable(candidates);
    let mut violations = Vec::new();
    let wanted = COPIES.min(usable.len());
    if layout.copies() != wanted {
        violations.push(Violation::Copies { found: layout.copies(), wanted });
    }
    let zones_wanted = usable
        .values()
        .map(|candidate| candidate.zone.as_str())
        .collect::<BTreeSet<_>>()
        .len()
        .min(layout.copies());
    for group in 0..GROUPS {
        let mut zones = BTreeSet::new();
        for node in layout.holders_of_group(group) {
            match usable.get(node) {
                Some(candidate) => {
                    zones.insert(candidate.zone.as_str());
                }
                None => violations.push(Violation::NotACandidate { group, node: *node }),
            }
        }
        if zones.len() < zones_wanted {
            violations.push(Violation::Zones { group, found: zones.len(), wanted: zones_wanted });
        }
    }
    let loads = layout.loads();
    for (node, quota) in quota(candidates) {
        let load = loads.get(&node).copied().unwrap_or_default();
        if load.abs_diff(quota) > tolerance(quota) {
            violations.push(Violation::Share { node, load, quota });
        }
    }
    violations
}

/// The candidates that can get anything, each once, in the order of their ids.
fn usable(candidates: &[Candidate]) -> BTreeMap<NodeId, &Candidate> {
    candidates
        .iter()
        .filter(|candidate| candidate.weight > 0)
        .map(|candidate| (candidate.id, candidate))
        .take(LAYOUT_NODES_MAX)
        .collect()
}

/// What changes from one layout to another, in groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Movement {
    /// Copies of groups that have to be made.
    pub copied: u32,
    /// Of these, how many each node gets.
    pub gained: BTreeMap<NodeId, u32>,
    /// How many each node no longer holds.
    pub lost: BTreeMap<NodeId, u32>,
}

/// What the change from `old` to `new` would move.
#[must_use]
pub fn movement(old: &Layout, new: &Layout) -> Movement {
    let mut movement = Movement::default();
    for group in 0..GROUPS {
        let before = old.holders_of_group(group);
        let after = new.holders_of_group(group);
        for node in after.iter().filter(|node| !before.contains(node)) {
            movement.copied += 1;
            *movement.gained.entry(*node).or_default() += 1;
        }
        for node in before.iter().filter(|node| !after.contains(node)) {
            *movement.lost.entry(*node).or_default() += 1;
        }
    }
    movement
}

#[cfg(test)]
mod tests;
