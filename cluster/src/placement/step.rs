//! From one layout to the next one, a few groups at a time.
//!
//! A layout that is wanted may move a good part of all data. Taken as a whole, it would make every node of the cluster
//! lack blocks for hours, and calling it off would mean copying everything back. So a layout is approached in steps: each
//! takes over a limited number of groups, and the next follows when their copies have been made.

use std::collections::BTreeMap;

use super::{GROUPS, Layout};
use crate::ids::NodeId;

/// The least number of groups that a step takes over, however much is in them.
pub const STEP_GROUPS_MIN: usize = 8;

/// About how many bytes the groups of a step hold together: some seconds' to a minute's work for the nodes that get them. What
/// is called off costs no more than that.
pub const STEP_BYTES: u64 = 1 << 30;

/// How many groups a step takes over, when all groups together hold so many bytes, each block counted once: an empty cluster
/// moves at once, a full one by few groups.
#[must_use]
pub fn step_limit(bytes: u64) -> usize {
    let groups = u128::from(STEP_BYTES) * u128::from(GROUPS) / u128::from(bytes.max(1));
    usize::try_from(groups).unwrap_or(usize::MAX).clamp(STEP_GROUPS_MIN, usize::from(GROUPS))
}

/// The layout that follows `present` on the way to `target`, with the epoch after that of `present`.
///
/// - Groups with a holder that has left (`has_left`) are all taken over: they lack a copy.
/// - Of the others that differ, at most `limit` are; first those that take most from nodes that are too full and give most to
///   nodes that are too empty, so that no node is fuller on the way than at both ends, as far as that can be had.
/// - When the number of copies changes, everything is taken over: groups cannot differ in that.
///
/// Equal to `target` but for the epoch when that is near enough. Any mixture of two layouts keeps the rule of zones,
/// because that is a rule for each group alone.
#[must_use]
pub fn step(
    present: &Layout,
    target: &Layout,
    limit: usize,
    has_left: impl Fn(NodeId) -> bool,
) -> Layout {
    let epoch = present.epoch().saturating_add(1);
    let mut open: Vec<u16> = (0..GROUPS).filter(|group| differs(present, target, *group)).collect();
    if present.copies() != target.copies() {
        return with_epoch(target, epoch);
    }
    let mut holders = present.holders.clone();
    let mut balance = Balance::between(present, target);
    let take = |group: u16, holders: &mut Vec<NodeId>, balance: &mut Balance| {
        let from = usize::from(group) * target.copies();
        holders[from..from + target.copies()].copy_from_slice(target.holders_of_group(group));
        balance.take(present, target, group);
    };
    open.retain(|group| {
        let lost = present.holders_of_group(*group).iter().any(|holder| has_left(*holder));
        if lost {
            take(*group, &mut holders, &mut balance);
        }
        !lost
    });
    for _ in 0..limit {
        let gain = |group: &u16| balance.gain(present, target, *group);
        // The first of equals: the iterator is reversed, because `max_by_key` gives the last one.
        let Some(best) = (0..open.len()).rev().max_by_key(|at| gain(&open[*at])) else { break };
        take(open.remove(best), &mut holders, &mut balance);
    }
    Layout { epoch, copies: target.copies(), holders }
}

fn with_epoch(target: &Layout, epoch: u64) -> Layout {
    Layout { epoch, ..target.clone() }
}

/// Whether the holders of a group are not the same nodes.
fn differs(one: &Layout, other: &Layout, group: u16) -> bool {
    let (one, other) = (one.holders_of_group(group), other.holders_of_group(group));
    one.len() != other.len() || !one.iter().all(|holder| other.contains(holder))
}

/// How many groups each node has yet to get; to give up, when negative.
struct Balance(BTreeMap<NodeId, i64>);

impl Balance {
    fn between(present: &Layout, target: &Layout) -> Self {
        let mut open = BTreeMap::new();
        for (node, load) in target.loads() {
            *open.entry(node).or_default() += i64::from(load);
        }
        for (node, load) in present.loads() {
            *open.entry(node).or_default() -= i64::from(load);
        }
        Self(open)
    }

    fn of(&self, node: NodeId) -> i64 {
        self.0.get(&node).copied().unwrap_or_default()
    }

    /// How much better off the nodes are that this group comes to and goes from.
    fn gain(&self, present: &Layout, target: &Layout, group: u16) -> i64 {
        let (from, to) = (present.holders_of_group(group), target.holders_of_group(group));
        let gained: i64 = to.iter().filter(|n| !from.contains(n)).map(|n| self.of(*n)).sum();
        let lost: i64 = from.iter().filter(|n| !to.contains(n)).map(|n| self.of(*n)).sum();
        gained - lost
    }

    fn take(&mut self, present: &Layout, target: &Layout, group: u16) {
        let (from, to) = (present.holders_of_group(group), target.holders_of_group(group));
        for node in to.iter().filter(|node| !from.contains(node)) {
            *self.0.entry(*node).or_default() -= 1;
        }
        for node in from.iter().filter(|node| !to.contains(node)) {
            *self.0.entry(*node).or_default() += 1;
        }
    }
}

#[cfg(test)]
mod tests;
