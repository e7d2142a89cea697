//! Who held a group before, and may have copies still.
//!
//! A new holder of a group has nothing at first, and a holder that gave a group up keeps its copies until the new ones have
//! theirs. So a reader that gets nothing from the present holders asks those before them. A node that comes back, or a
//! change that is called off, should get the groups whose copies it has.
//!
//! Both only want to know where to look first: what stands here proves nothing, and what is forgotten is found by asking
//! everybody. So it is short, and needs neither clocks nor reports: the last [`EARLIER_MAX`] nodes of each group that are
//! holders no more.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{GROUPS, InvalidLayout, LAYOUT_NODES_MAX, Layout, group_of};
use crate::ids::{BlockHash, NodeId};

/// How many earlier holders of a group are remembered: as many as it has copies, so that the copies of all of them are found
/// when all have changed.
pub const EARLIER_MAX: usize = super::COPIES;

/// For each group the nodes that held it before, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Earlier {
    /// One for each group, or none at all.
    groups: Vec<Vec<NodeId>>,
}

impl Earlier {
    /// The earlier holders of a block, the latest first. None of them is a present one.
    #[must_use]
    pub fn holders(&self, hash: &BlockHash) -> &[NodeId] {
        self.holders_of_group(group_of(hash))
    }

    /// As [`Self::holders`], for a group.
    #[must_use]
    pub fn holders_of_group(&self, group: u16) -> &[NodeId] {
        self.groups.get(usize::from(group)).map(Vec::as_slice).unwrap_or_default()
    }

    /// What is to be remembered when `new` follows `old`. `belongs`: whether a node is a member still.
    #[must_use]
    pub fn after(&self, old: &Layout, new: &Layout, belongs: impl Fn(NodeId) -> bool) -> Self {
        let mut known = BTreeSet::new();
        let groups = (0..GROUPS)
            .map(|group| {
                let (before, now) = (old.holders_of_group(group), new.holders_of_group(group));
                let mut earlier: Vec<NodeId> = Vec::with_capacity(EARLIER_MAX);
                for node in before.iter().chain(self.holders_of_group(group)) {
                    let wanted = !now.contains(node) && !earlier.contains(node) && belongs(*node);
                    let room = known.contains(node) || known.len() < LAYOUT_NODES_MAX;
                    if wanted && room && earlier.len() < EARLIER_MAX {
                        known.insert(*node);
                        earlier.push(*node);
                    }
                }
                earlier
            })
            .collect();
        Self { groups }
    }
}

/// The nodes once, and [`EARLIER_MAX`] bytes for each group: one more than the index of a node, or 0.
#[derive(Serialize, Deserialize)]
struct Encoded {
    nodes: Vec<NodeId>,
    #[serde(with = "crate::codec::bytes")]
    holders: Vec<u8>,
}

impl From<Earlier> for Encoded {
    fn from(earlier: Earlier) -> Self {
        let nodes: BTreeSet<NodeId> = earlier.groups.iter().flatten().copied().collect();
        let nodes: Vec<NodeId> = nodes.into_iter().collect();
        let number = |node: &NodeId| {
            let index = nodes.binary_search(node).expect("every holder is among the nodes");
            u8::try_from(index + 1).expect("no more nodes than LAYOUT_NODES_MAX are remembered")
        };
        let holders = earlier
            .groups
            .iter()
            .flat_map(|group| (0..EARLIER_MAX).map(|at| group.get(at).map_or(0, number)))
            .collect();
        Self { nodes, holders }
    }
}

impl TryFrom<Encoded> for Earlier {
    type Error = InvalidLayout;

    fn try_from(encoded: Encoded) -> Result<Self, InvalidLayout> {
        let found = encoded.holders.len();
        if found != 0 && found != EARLIER_MAX * usize::from(GROUPS) {
            return Err(InvalidLayout::Length { found, copies: EARLIER_MAX });
        }
        let node = |number: &u8| {
            let index = usize::from(*number) - 1;
            encoded.nodes.get(index).copied().ok_or(InvalidLayout::Index)
        };
        let group = |numbers: &[u8]| numbers.iter().filter(|n| **n > 0).map(node).collect();
        let groups = encoded.holders.chunks_exact(EARLIER_MAX).map(group);
        Ok(Self { groups: groups.collect::<Result<_, _>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Candidate, compute};
    use super::*;
    use crate::codec;

    fn layout(nodes: impl IntoIterator<Item = u64>, previous: Option<&Layout>) -> Layout {
        let candidates: Vec<Candidate> = nodes
            .into_iter()
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        compute(&candidates, previous)
    }

    #[test]
    fn the_latest_stand_first_and_present_holders_and_strangers_do_not_stand_there() {
        let first = layout(1..=3, None);
        let second = layout(2..=4, Some(&first));
        let third = layout(3..=5, Some(&second));
        let all = |_| true;
        let earlier = Earlier::default().after(&Layout::default(), &first, all);
        assert_eq!(earlier.holders(&BlockHash([0; 32])), []);
        let earlier = earlier.after(&first, &second, all);
        assert_eq!(earlier.holders(&BlockHash([0; 32])), [NodeId(1)]);
        let latest = earlier.after(&second, &third, all);
        assert_eq!(latest.holders(&BlockHash([9; 32])), [NodeId(2), NodeId(1)]);
        let without = earlier.after(&second, &third, |node| node != NodeId(1));
        assert_eq!(without.holders(&BlockHash([9; 32])), [NodeId(2)]);
        // Node 1 holds them again.
        let fourth = layout([1, 3, 4], Some(&third));
        let back = latest.after(&third, &fourth, all);
        assert_eq!(back.holders(&BlockHash([9; 32])), [NodeId(5), NodeId(2)]);
    }

    #[test]
    fn it_stays_short_and_its_encoding_compact() {
        let mut present = layout(1..=40, None);
        let mut earlier = Earlier::default();
        for first in 2..=30 {
            let next = layout(first..first + 40, Some(&present));
            earlier = earlier.after(&present, &next, |_| true);
            present = next;
        }
        for group in 0..GROUPS {
            let of_group = earlier.holders_of_group(group);
            assert!(of_group.len() <= EARLIER_MAX);
            assert!(of_group.iter().all(|n| !present.holders_of_group(group).contains(n)));
        }
        let bytes = codec::encode(&earlier);
        assert!(bytes.len() < 4096, "{} bytes", bytes.len());
        assert_eq!(codec::decode::<Earlier>(&bytes).unwrap(), earlier);
        let none = Earlier::default();
        assert_eq!(codec::decode::<Earlier>(&codec::encode(&none)).unwrap(), none);
        let short = Encoded { nodes: vec![], holders: vec![0; 5] };
        assert!(codec::decode::<Earlier>(&codec::encode(&short)).is_err());
        let unknown = Encoded { nodes: vec![], holders: vec![1; EARLIER_MAX * 1024] };
        assert!(codec::decode::<Earlier>(&codec::encode(&unknown)).is_err());
    }
}
