//! Giving up copies that a node has and the layout does not give it any more.
//!
//! When a layout moves a group, its earlier holders keep their copies: the new ones have nothing yet. Such a copy, and one
//! that was put here because a holder could not take it, is *surplus*. It may go when all present holders have the block.
//! Nobody keeps a list of who has what, nodes apply the log at different times, and each of them may stop for an hour between
//! any two steps. So nothing here depends on time, on a count, or on what a node reported of itself; the node with the
//! surplus copy asks, block by block:
//!
//! 1. It reads the catalog at one moment, of log index *i* and layout epoch *e*: the block is referenced, *e* does not name
//!    this node as a holder, and its copy was put at or before *i* ([`may_ask`]).
//! 2. It asks every holder of *e*. A holder answers yes when it has applied *i* and *e* itself, **its own** newest layout
//!    names it as a holder, its catalog says that the block is referenced, and it has a good copy ([`may_confirm`]). The copy
//!    is looked at under the lock of its hash, after the catalog was read, and its put index is raised to *i*, durably before
//!    the answer.
//! 3. When all said yes, it deletes its copy, unless its own layout is another one than *e* by now, or the copy was put again
//!    ([`may_release`]). Both are looked at under the lock of the hash.
//!
//! # Why this loses nothing
//!
//! *Layouts.* Take the release with the highest epoch *e* of all so far. Each holder of *e* confirmed it at some epoch of its
//! own, *e* or later, at which it was a holder. From then on it can give up that copy only by a layout that does not name it,
//! which is later than the one it confirmed by, hence later than *e*: but there was no such release. So once anybody has
//! released a copy, all holders of some layout have the block. The lock is what makes "from then on" right: a release
//! that looked at the layout before the confirmation did had deleted the copy before the confirmation looked for it. Without
//! the condition in step 3 on the asker's own layout, the argument breaks: it may have become a holder meanwhile and have confirmed
//! to others by that layout, and each of them would rely on the other.
//!
//! *Collection.* A copy may also go because the block is garbage, when its row says `reaped_at = N` and the copy was put
//! before *N*. A collector decides that by the row **as it is under the lock of the hash**. A holder that has applied *i*,
//! where the block is referenced, is past every `N < i`: what it has then, no earlier reaping takes away any more. A later one is for
//! a block that nothing refers to; whatever names it again relies only on copies put after that `N`, and the asker's copy, if
//! it is one of those, has been put again: step 3 leaves it. Here an epoch alone would not do: a holder that has applied the layout but not yet the
//! reaping would confirm a copy that it is about to collect. Nor would it do to have applied *i* once: a power cut may take a
//! holder's catalog back to before *i*, where the block is still to be collected by an earlier *N*. Its copy has a put index of *i* by
//! then, and stays.
//!
//! Both arguments are checked by exhaustion for small clusters in this module's tests, which also show that leaving out any one of the
//! conditions loses a block.

use super::Layout;
use crate::ids::{BlockHash, NodeId};
use crate::tables::blocks::BlockRow;

/// The moment of a catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The epoch of its layout.
    pub epoch: u64,
    /// The log index up to which it has been applied.
    pub applied: u64,
}

impl Moment {
    /// Whether a catalog of this moment knows all that one of `other` does.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.epoch >= other.epoch && self.applied >= other.applied
    }
}

/// Whether the copies of a group on `node` are surplus by this layout.
#[must_use]
pub fn is_surplus(layout: &Layout, group: u16, node: NodeId) -> bool {
    let holders = layout.holders_of_group(group);
    !holders.is_empty() && !holders.contains(&node)
}

/// Whether a node may ask to be released of a copy in a surplus group, by its catalog `at` a moment.
///
/// What nothing refers to is left to the collector. A copy that was put by somebody who knew more of the log than this node
/// may be there for a command that this node has yet to see.
#[must_use]
pub fn may_ask(at: Moment, row: Option<&BlockRow>, put_index: u64) -> bool {
    row.is_some_and(|row| row.references > 0) && put_index <= at.applied
}

/// Whether `node` confirms to somebody who `asked` that it holds a block, by its own catalog of the moment `at`, which it
/// read before it looked whether it has a good copy (`has_copy`).
#[must_use]
pub fn may_confirm(
    asked: Moment,
    at: Moment,
    holders: &[NodeId],
    node: NodeId,
    row: Option<&BlockRow>,
    has_copy: bool,
) -> bool {
    at.covers(asked)
        && holders.contains(&node)
        && row.is_some_and(|row| row.references > 0)
        && has_copy
}

/// Whether a surplus copy may be deleted that all holders have confirmed for: this node's layout is the one that it asked by,
/// and the copy is the one that it asked for.
#[must_use]
pub fn may_release(
    asked: Moment,
    asked_put_index: u64,
    epoch_now: u64,
    put_index_now: u64,
) -> bool {
    epoch_now == asked.epoch && put_index_now == asked_put_index
}

/// The ranges of groups whose copies on `node` are surplus, as first and last group, in order; without those that it is
/// `expected` to hold soon.
#[must_use]
pub fn surplus_groups(
    layout: &Layout,
    node: NodeId,
    expected: impl Fn(u16) -> bool,
) -> Vec<(u16, u16)> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    let surplus = |group: &u16| is_surplus(layout, *group, node) && !expected(*group);
    for group in (0..super::GROUPS).filter(surplus) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == group => *last = group,
            _ => ranges.push((group, group)),
        }
    }
    ranges
}

/// The first and the last hash of a range of groups.
#[must_use]
pub fn hashes_of((first, last): (u16, u16)) -> (BlockHash, BlockHash) {
    let mut end = super::first_hash(last).0;
    end[1] |= 0b0011_1111;
    end[2..].fill(255);
    (super::first_hash(first), BlockHash(end))
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::super::{Candidate, GROUPS, compute, group_of};
    use super::*;

    #[test]
    fn surplus_groups_are_those_of_others() {
        let candidates: Vec<Candidate> = (1..=5)
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        let layout = compute(&candidates, None);
        let ranges = surplus_groups(&layout, NodeId(2), |_| false);
        for group in 0..GROUPS {
            let inside = ranges.iter().any(|(first, last)| (*first..=*last).contains(&group));
            assert_eq!(inside, !layout.holders_of_group(group).contains(&NodeId(2)), "{group}");
        }
        assert!(ranges.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0), "each as long as can be");
        assert_eq!(surplus_groups(&layout, NodeId(9), |_| false), [(0, GROUPS - 1)]);
        assert_eq!(surplus_groups(&layout, NodeId(9), |group| group > 6), [(0, 6)]);
        let none = Layout::default();
        assert_eq!(surplus_groups(&none, NodeId(1), |_| false), [], "nobody holds anything");
    }

    #[test]
    fn the_hashes_of_groups_end_where_the_next_begin() {
        for group in 0..GROUPS {
            let (first, last) = hashes_of((group, group));
            assert_eq!((group_of(&first), group_of(&last)), (group, group));
        }
        assert_eq!(hashes_of((0, GROUPS - 1)), (BlockHash([0; 32]), BlockHash([255; 32])));
        let (_, last) = hashes_of((3, 6));
        let (next, _) = hashes_of((7, 7));
        assert!(last < next && last.0[31] == 255 && next.0[31] == 0);
    }
}
