//! When a copy of a block may be deleted, and when a command may rely on one: two sides of one number.
//!
//! A block that no row names is garbage, but nobody can delete it just like that. Somebody may be putting the same bytes at
//! this moment, finding two copies in place and about to name them in the log; nodes apply the log at different times; and
//! who was away for a week comes back with copies of its own. No lock covers all that. What orders it is the log.
//!
//! # The protocol
//!
//! 1. Whoever puts a block tells the holders the log index that it had applied before it began, the *put index*. A holder
//!    keeps the highest with its copy, durably, and raises it when the copy was there already.
//! 2. When the last row that names a block goes, the block is [waiting](BlockState::Waiting). After a while the leader
//!    proposes to reap it. If nobody has named it until then, the entry at index N makes it [reaped](BlockState::Reaped)
//!    at N.
//! 3. A node that has applied N deletes its copy if that copy's put index is below N, and keeps it otherwise: somebody who
//!    knew of N wanted it here. The store looks at the put index and deletes under one lock ([`deletable_below`]).
//! 4. A command that names a block carries its put index (of several blocks: the lowest). If no row names the block, the
//!    command is refused unless that index is N or higher ([`admits`]); then the blocks have to be put again, with a new
//!    index. If a row names it, its copies are nobody's to delete.
//! 5. Rows of reaped blocks are not kept for ever. The catalog has a *floor*: a log index that all is refused below, whether
//!    or not there is a row. So a row can be forgotten once the floor has reached its N, and a copy of a block that has no
//!    row can be deleted if its put index is below the floor. That is how garbage goes that was never named, because its
//!    uploader vanished, or that was reaped while its node was away. The floor follows the log at a distance of days, so that
//!    it never meets a put under way; being wrong about that would cost an upload a second try and nothing else.
//!
//! # Why nothing needed is deleted
//!
//! Let an entry at index C name a block that no row names before it, and let K be its put index. `admits` says that K is at
//! least as high as every bound that [`deletable_below`] has given out for this block at any index below C: `reaped_at` is
//! the highest N, it outlives being named again, and when it is forgotten the floor is as high. After C, and until the last
//! row that names it goes, no bound is given out. So every bound that any node has got, however long ago it looked, is at
//! most K, and the copies that were acknowledged have put indices of K or higher: they stay. A copy that was pulled for
//! repair may be deleted by such a bound, which costs another pull.
//!
//! Where a copy is let go of because other nodes have one, their confirmation is a promise like that of a put: whoever
//! confirms must raise the put index of its copy to an index at which the block was needed, durably, before it answers.
//! Otherwise a bound from before may delete what the other node relies on.
//!
//! A node must read the floor before the row: a floor that is newer than the row may be above a put that the row does not
//! show yet ([`crate::catalog::deletable_below`] does it right).
//!
//! # Assumptions
//!
//! `len` aside, the functions here look at one row; `apply` keeps the rows, nodes act on them, and a model of all that is
//! searched exhaustively in this module's tests, by these same functions.

use crate::tables::blocks::{BlockRow, BlockState};

#[cfg(test)]
mod model;

/// Whether a command may name the block, which was put with this index. `row` is the block's, `floor` is
/// [`SystemRow::reap_floor`](crate::tables::system::SystemRow::reap_floor).
#[must_use]
pub fn admits(row: Option<&BlockRow>, floor: u64, put_index: u64) -> bool {
    match row {
        Some(row) if row.state() == BlockState::Needed => true,
        Some(row) => put_index >= floor.max(row.reaped_at.unwrap_or(0)),
        None => put_index >= floor,
    }
}

/// Copies with a lower put index are garbage, wherever they are. 0 when none are. `floor` must not be newer than `row`.
#[must_use]
pub fn deletable_below(row: Option<&BlockRow>, floor: u64) -> u64 {
    match row.map(BlockRow::state) {
        Some(BlockState::Needed | BlockState::Waiting { .. }) => 0,
        Some(BlockState::Reaped { at }) => at.max(floor),
        None => floor,
    }
}

/// The row when one more row names the block of `len` bytes. `None` when that are too many.
#[must_use]
pub fn referenced(row: Option<BlockRow>, len: u32) -> Option<BlockRow> {
    let row = row.unwrap_or_else(|| BlockRow::needed(len, 0));
    let references = row.references.checked_add(1)?;
    Some(BlockRow { references, unreferenced_since_ms: None, ..row })
}

/// The row when one row less names the block, at this time of the catalog's clock.
#[must_use]
pub fn dereferenced(row: BlockRow, now_ms: u64) -> BlockRow {
    let references = row.references.saturating_sub(1);
    let unreferenced_since_ms = (references == 0).then_some(now_ms);
    BlockRow { references, unreferenced_since_ms, ..row }
}

/// The row when the entry at `index` reaps the block, which nobody has named since `before_ms`; `None` when it does not.
#[must_use]
pub fn reaped(row: BlockRow, index: u64, before_ms: u64) -> Option<BlockRow> {
    match row.state() {
        BlockState::Waiting { since_ms } if since_ms <= before_ms => {
            Some(BlockRow { unreferenced_since_ms: None, reaped_at: Some(index), ..row })
        }
        BlockState::Waiting { .. } | BlockState::Needed | BlockState::Reaped { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(references: u64, since: Option<u64>, reaped_at: Option<u64>) -> BlockRow {
        BlockRow { len: 1, references, unreferenced_since_ms: since, reaped_at }
    }

    #[test]
    fn what_may_be_named_and_what_may_be_deleted() {
        // The row, the floor, the least put index that is admitted, the bound below which copies are garbage.
        let cases = [
            (None, 0, 0, 0),
            (None, 7, 7, 7),
            (Some(row(1, None, None)), 7, 0, 0),
            (Some(row(2, None, Some(9))), 7, 0, 0),
            (Some(row(0, Some(5), None)), 7, 7, 0),
            // It was named again after it had been reaped, and is not any more.
            (Some(row(0, Some(5), Some(9))), 7, 9, 0),
            (Some(row(0, None, Some(9))), 7, 9, 9),
            // About to be forgotten.
            (Some(row(0, None, Some(3))), 7, 7, 7),
        ];
        for (row, floor, least, bound) in cases {
            assert!(admits(row.as_ref(), floor, least), "{row:?}");
            assert!(least == 0 || !admits(row.as_ref(), floor, least - 1), "{row:?}");
            assert_eq!(deletable_below(row.as_ref(), floor), bound, "{row:?}");
        }
    }

    #[test]
    fn a_block_goes_through_its_states() {
        let named = referenced(referenced(None, 5), 5).unwrap();
        assert_eq!((named.references, named.len, named.state()), (2, 5, BlockState::Needed));
        let once = dereferenced(named, 100);
        assert_eq!(once.state(), BlockState::Needed);
        assert_eq!(reaped(once.clone(), 9, u64::MAX), None);
        let waiting = dereferenced(once, 200);
        assert_eq!(waiting.state(), BlockState::Waiting { since_ms: 200 });
        assert_eq!(reaped(waiting.clone(), 9, 199), None);
        let gone = reaped(waiting, 9, 200).unwrap();
        assert_eq!(gone.state(), BlockState::Reaped { at: 9 });
        assert_eq!(reaped(gone.clone(), 10, u64::MAX), None, "once is enough");
        let again = referenced(Some(gone), 5).unwrap();
        assert_eq!((again.state(), again.reaped_at), (BlockState::Needed, Some(9)));
        assert_eq!(referenced(Some(row(u64::MAX, None, None)), 1), None);
    }
}
