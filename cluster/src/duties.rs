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
