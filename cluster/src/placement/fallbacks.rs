//! Who takes a copy for a holder that cannot.
//!
//! A block has to be on two disks before the log may name it. When holders are down or full, other nodes keep its copies
//! until the holders have theirs; which nodes does not matter for finding them again (a reader asks everybody in the end), but
//! everybody should try the same ones first, in other zones than the copies there are.

use super::rendezvous::Distance;
use super::{Candidate, Layout, group_of, usable};
use crate::ids::{BlockHash, NodeId};

/// The nodes that should keep a copy of this block in place of the holders in `failed`, the best first.
///
/// They are the candidates outside of the holders: those in zones with the fewest of the holders that have not failed come
/// first, and among these those that weighted rendezvous hashing puts nearest to the block's group. So all nodes try them in
/// the same order, and what one node cannot take is spread over all the others. Candidates of no weight (nodes that are to
/// leave) are left out; whether a node answers or has room is for the caller to find out.
///
/// Empty before there is a layout, and where every candidate is a holder.
#[must_use]
pub fn fallbacks(
    layout: &Layout,
    candidates: &[Candidate],
    hash: &BlockHash,
    failed: &[NodeId],
) -> Vec<NodeId> {
    let holders = layout.holders(hash);
    if holders.is_empty() {
        return Vec::new();
    }
    let usable = usable(candidates);
    let taken: Vec<&str> = holders
        .iter()
        .filter(|holder| !failed.contains(holder))
        .filter_map(|holder| candidates.iter().find(|candidate| candidate.id == *holder))
        .map(|candidate| candidate.zone.as_str())
        .collect();
    let group = group_of(hash);
    let mut ranked: Vec<_> = usable
        .values()
        .filter(|candidate| !holders.contains(&candidate.id))
        .map(|candidate| {
            let in_zone = taken.iter().filter(|zone| **zone == candidate.zone).count();
            (in_zone, Distance::between(candidate.id, candidate.weight, group), candidate.id)
        })
        .collect();
    ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.nearer(b.1)).then_with(|| a.2.cmp(&b.2)));
    ranked.into_iter().map(|(_, _, node)| node).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{GROUPS, compute, first_hash};
    use super::*;

    fn candidate(id: u64, zone: &str, weight: u64) -> Candidate {
        Candidate { id: NodeId(id), zone: zone.to_owned(), weight }
    }

    #[test]
    fn all_others_are_tried_each_once_and_in_the_same_order_everywhere() {
        let candidates: Vec<_> =
            (1..=9).map(|id| candidate(id, ["a", "b", "c"][id as usize % 3], 1)).collect();
        let layout = compute(&candidates, None);
        let reversed: Vec<_> = candidates.iter().rev().cloned().collect();
        for group in 0..GROUPS {
            let hash = first_hash(group);
            let found = fallbacks(&layout, &candidates, &hash, &[]);
            assert_eq!(found, fallbacks(&layout, &reversed, &hash, &[]));
            let mut all = [layout.holders(&hash), &found].concat();
            all.sort_unstable();
            assert_eq!(all, (1..=9).map(NodeId).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_zone_that_lost_its_copy_is_tried_first() {
        let candidates: Vec<_> =
            (1..=9).map(|id| candidate(id, ["a", "b", "c"][id as usize % 3], 1)).collect();
        let zone = |node: NodeId| node.0 % 3;
        let layout = compute(&candidates, None);
        for group in 0..GROUPS {
            let hash = first_hash(group);
            let [first, second, third] = layout.holders(&hash) else { panic!("three copies") };
            let found = fallbacks(&layout, &candidates, &hash, &[*second]);
            assert_eq!((zone(found[0]), zone(found[1])), (zone(*second), zone(*second)));
            let found = fallbacks(&layout, &candidates, &hash, &[*first, *third]);
            assert!(found[..4].iter().all(|node| zone(*node) != zone(*second)));
        }
    }

    #[test]
    fn what_one_node_cannot_take_is_shared_by_weight() {
        let mut candidates: Vec<_> = (1..=6).map(|id| candidate(id, &id.to_string(), 1)).collect();
        candidates.push(candidate(7, "7", 3));
        candidates.push(candidate(8, "8", 0));
        let layout = compute(&candidates[..4], None);
        let mut taken = BTreeMap::<NodeId, u32>::new();
        for group in 0..GROUPS {
            let holders = layout.holders_of_group(group);
            let found = fallbacks(&layout, &candidates, &first_hash(group), &holders[..1]);
            assert!(!found.contains(&NodeId(8)), "it gets nothing");
            *taken.entry(found[0]).or_default() += 1;
        }
        // A quarter of the groups each has the fourth node of the layout, 5, 6 and 7 by their weights 1 : 1 : 1 : 3.
        assert!(taken[&NodeId(7)] > 400 && taken[&NodeId(5)] > 100, "{taken:?}");
        let all = &candidates[..3];
        assert_eq!(fallbacks(&compute(all, None), all, &first_hash(0), &[]), []);
        assert_eq!(fallbacks(&Layout::default(), &candidates, &first_hash(0), &[]), []);
    }
}
