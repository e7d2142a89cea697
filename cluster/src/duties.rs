//! What a node should hold, as a plain function of the catalog.
//!
//! Every node has the whole catalog, so nobody has to be asked: each compares this with its own keys and pulls what is
//! missing. The groups of a layout are ranges of hashes, so whatever a node does not hold is stepped over, not read.

use crate::ids::{BlockHash, NodeId};
use crate::placement::{GROUPS, Layout, first_hash, group_of};
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, BlockRow};
use crate::view::{View, ViewError};

/// How many copies of a block have to be durable before the log may name it: two, so that the loss of any one disk loses
/// nothing; fewer only where there are fewer holders.
pub const COPIES_ACKNOWLEDGED: usize = 2;

/// How many copies of a block there should be.
#[must_use]
pub fn copies_required(layout: &Layout, hash: &BlockHash) -> usize {
    layout.holders(hash).len()
}

/// How many copies of a block have to be durable before a command may name it. 0 only when there is no layout yet, and
/// then no block can be put at all.
#[must_use]
pub fn copies_acknowledged(layout: &Layout, hash: &BlockHash) -> usize {
    copies_required(layout, hash).min(COPIES_ACKNOWLEDGED)
}

/// Blocks that a node should hold, in the order of their hashes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Duties {
    pub blocks: Vec<(BlockHash, BlockRow)>,
    /// Where to go on, or `None` after the last one.
    pub next: Option<BlockHash>,
}

/// The blocks from `from` on that `me` should hold, at most `limit`. Blocks that nothing refers to are left out: nobody
/// has to have those.
///
/// # Errors
/// When the view fails.
pub fn should_hold(
    view: &dyn View,
    layout: &Layout,
    me: NodeId,
    from: BlockHash,
    limit: usize,
) -> Result<Duties, ViewError> {
    let mut duties = Duties::default();
    let mine = |group: &u16| layout.holders_of_group(*group).contains(&me);
    for group in (group_of(&from)..GROUPS).filter(mine) {
        let mut range = KeyRange::all().starting_at(&from.max(first_hash(group)));
        if group + 1 < GROUPS {
            range = range.ending_before(&first_hash(group + 1));
        }
        // A group is read in steps of the size asked for, so that garbage in it costs time but no memory.
        loop {
            let rows = BLOCKS.collect(view, &range, limit.max(1))?;
            let Some((last, _)) = rows.last() else {
                break;
            };
            range = range.starting_after(last);
            for (hash, row) in rows {
                if row.references == 0 {
                    continue;
                }
                if duties.blocks.len() >= limit {
                    duties.next = Some(hash);
                    return Ok(duties);
                }
                duties.blocks.push((hash, row));
            }
        }
    }
    Ok(duties)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::placement::{Candidate, compute};
    use crate::view::{MemoryView, Transaction};

    fn layout(nodes: u64) -> Layout {
        let candidates: Vec<Candidate> = (1..=nodes)
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        compute(&candidates, None)
    }

    fn with_blocks(count: u32) -> MemoryView {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        for number in 0..count {
            let hash = BlockHash::of(&number.to_be_bytes());
            // Every tenth is garbage.
            let references = u64::from(number % 10);
            let row = BlockRow {
                unreferenced_since_ms: (references == 0).then_some(1),
                ..BlockRow::needed(1, references)
            };
            BLOCKS.put(&mut tx, &hash, &row);
        }
        let batch = tx.into_batch();
        view.write(batch);
        view
    }

    #[test]
    fn the_duties_of_all_nodes_are_each_needed_block_three_times() {
        let (view, layout) = (with_blocks(5000), layout(5));
        let mut copies = std::collections::BTreeMap::<BlockHash, usize>::new();
        for node in layout.nodes() {
            let mut from = BlockHash([0; 32]);
            let mut seen = BTreeSet::new();
            loop {
                let duties = should_hold(&view, &layout, node, from, 70).unwrap();
                assert!(duties.blocks.len() <= 70);
                for (hash, row) in duties.blocks {
                    assert!(row.references > 0 && layout.holders(&hash).contains(&node));
                    assert!(seen.insert(hash), "{hash} twice");
                    *copies.entry(hash).or_default() += 1;
                }
                let Some(next) = duties.next else {
                    break;
                };
                from = next;
            }
        }
        assert_eq!(copies.len(), 4500);
        for (hash, copies) in copies {
            assert_eq!(copies, copies_required(&layout, &hash));
        }
    }

    #[test]
    fn a_node_outside_of_the_layout_has_no_duties() {
        let (view, layout) = (with_blocks(100), layout(3));
        let none = should_hold(&view, &layout, NodeId(9), BlockHash([0; 32]), 10).unwrap();
        assert_eq!(none, Duties::default());
        let none =
            should_hold(&view, &Layout::default(), NodeId(1), BlockHash([0; 32]), 10).unwrap();
        assert_eq!(none, Duties::default());
        let last = should_hold(&view, &layout, NodeId(1), BlockHash([255; 32]), 10).unwrap();
        assert_eq!(last, Duties::default());
    }

    #[test]
    fn two_copies_count_where_there_are_two_nodes() {
        let hash = BlockHash([0; 32]);
        for (nodes, acknowledged) in [(0, 0), (1, 1), (2, 2), (3, 2), (5, 2)] {
            assert_eq!(copies_acknowledged(&layout(nodes), &hash), acknowledged);
        }
    }
}
