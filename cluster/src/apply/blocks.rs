//! Who needs which block: a count per block, changed by whatever writes or deletes a row that names it.

use super::limits::BLOCK_BYTES_MAX;
use super::step::{Step, Stop, invalid, require};
use crate::collection;
use crate::command::{BlockRef, Refusal};
use crate::ids::BlockHash;
use crate::tables::blocks::{BLOCKS, BlockRow, BlockState, REAPED, WAITING};

impl Step<'_> {
    /// A row now names the block, which was put with this index.
    pub(super) fn reference(&mut self, block: &BlockRef, put_index: u64) -> Result<(), Stop> {
        require((1..=BLOCK_BYTES_MAX).contains(&block.len), || {
            format!("a block has 1 to {BLOCK_BYTES_MAX} bytes, not {}", block.len)
        })?;
        let before = BLOCKS.get(&self.tx, &block.hash)?;
        if !collection::admits(before.as_ref(), self.reap_floor, put_index) {
            return Err(Refusal::NeedBlocks { hash: block.hash }.into());
        }
        // One hash is one content, so two lengths mean that one proposer is wrong.
        if let Some(row) = &before {
            require(row.len == block.len, || {
                format!("block {} has {} bytes, not {}", block.hash.short(), row.len, block.len)
            })?;
        }
        let after = collection::referenced(before.clone(), block.len)
            .ok_or_else(|| invalid("the block has too many references"))?;
        self.change(block.hash, before.as_ref(), Some(&after));
        Ok(())
    }

    /// A row no longer names the block.
    pub(super) fn dereference(&mut self, block: &BlockRef) -> Result<(), Stop> {
        if let Some(before) = BLOCKS.get(&self.tx, &block.hash)? {
            let after = collection::dereferenced(before.clone(), self.now_ms);
            self.change(block.hash, Some(&before), Some(&after));
        }
        Ok(())
    }

    /// Changes the row of a block, and with it the tables that list the blocks of a state.
    pub(super) fn change(
        &mut self,
        hash: BlockHash,
        before: Option<&BlockRow>,
        after: Option<&BlockRow>,
    ) {
        match after {
            Some(row) => BLOCKS.put(&mut self.tx, &hash, row),
            None => BLOCKS.delete(&mut self.tx, &hash),
        }
        let (was, is) = (before.map(BlockRow::state), after.map(BlockRow::state));
        if was == is || !self.collects {
            return;
        }
        match was {
            Some(BlockState::Waiting { since_ms }) => {
                WAITING.delete(&mut self.tx, &(since_ms, hash));
            }
            Some(BlockState::Reaped { at }) => REAPED.delete(&mut self.tx, &(at, hash)),
            Some(BlockState::Needed) | None => {}
        }
        let len = after.map_or(0, |row| row.len);
        match is {
            Some(BlockState::Waiting { since_ms }) => {
                WAITING.put(&mut self.tx, &(since_ms, hash), &len);
            }
            Some(BlockState::Reaped { at }) => REAPED.put(&mut self.tx, &(at, hash), &len),
            Some(BlockState::Needed) | None => {}
        }
    }
}
