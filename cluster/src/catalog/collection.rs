//! Blocks that nobody names any more: for the leader, who gives them up, and for the nodes, which delete their copies.

use std::ops::ControlFlow;

use super::system;
use crate::collection;
use crate::ids::BlockHash;
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, REAPED, WAITING};
use crate::view::{View, ViewError};

/// A number of blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockSum {
    pub blocks: u64,
    /// Bytes of each once, however many copies there are.
    pub bytes: u64,
}

/// A place among the reaped blocks: the log index that reaped the block, and its hash.
pub type ReapedKey = (u64, BlockHash);

/// For each of these blocks the put index below which a copy is garbage; 0 when none is.
///
/// # Errors
/// When the view fails.
pub fn deletable_below(view: &dyn View, hashes: &[BlockHash]) -> Result<Vec<u64>, ViewError> {
    // The floor first: it must not be newer than the rows.
    let floor = system(view)?.reap_floor;
    hashes
        .iter()
        .map(|hash| {
            let row = BLOCKS.get(view, hash)?;
            Ok(collection::deletable_below(row.as_ref(), floor))
        })
        .collect()
}

/// The blocks that nobody has named since `before_ms`, the oldest first, at most `limit`.
///
/// # Errors
/// When the view fails.
pub fn waiting_blocks(
    view: &dyn View,
    before_ms: u64,
    limit: usize,
) -> Result<Vec<BlockHash>, ViewError> {
    let range = KeyRange::all().ending_before(&before_ms.saturating_add(1));
    Ok(WAITING.keys(view, &range, limit)?.into_iter().map(|(_, hash)| hash).collect())
}

/// How many blocks wait, counted up to `limit`.
///
/// # Errors
/// When the view fails.
pub fn waiting_sum(view: &dyn View, limit: u64) -> Result<BlockSum, ViewError> {
    let mut sum = BlockSum::default();
    WAITING.scan(view, &KeyRange::all(), &mut |_, len| {
        sum.blocks += 1;
        sum.bytes += u64::from(len);
        if sum.blocks < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(sum)
}

/// The reaped blocks after this place, in the order of the log, with their lengths in bytes; at most `limit`.
///
/// # Errors
/// When the view fails.
pub fn reaped_blocks(
    view: &dyn View,
    after: Option<&ReapedKey>,
    limit: usize,
) -> Result<Vec<(ReapedKey, u32)>, ViewError> {
    let range = match after {
        Some(key) => KeyRange::all().starting_after(key),
        None => KeyRange::all(),
    };
    REAPED.collect(view, &range, limit)
}

/// Whether it is time for [`Action::ForgetBlocks`](crate::command::Action::ForgetBlocks): there is no mark yet or it was
/// set at `marked_before_ms` or earlier, or some reaped blocks are to be forgotten already.
///
/// # Errors
/// When the view fails.
pub fn is_forgetting_due(view: &dyn View, marked_before_ms: u64) -> Result<bool, ViewError> {
    let system = system(view)?;
    if system.reap_mark.is_none_or(|mark| mark.time_ms <= marked_before_ms) {
        return Ok(true);
    }
    let range = KeyRange::all().ending_before(&system.reap_floor.saturating_add(1));
    Ok(!REAPED.keys(view, &range, 1)?.is_empty())
}
