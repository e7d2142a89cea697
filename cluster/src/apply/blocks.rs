//! Who needs which block: a count per block, changed by whatever writes or deletes a row that names it.

use super::limits::BLOCK_BYTES_MAX;
use super::step::{Step, Stop, invalid, require};
use crate::command::BlockRef;
use crate::tables::blocks::{BLOCKS, BlockRow};

impl Step<'_> {
    /// A row now names the block.
    pub(super) fn reference(&mut self, block: &BlockRef) -> Result<(), Stop> {
        require((1..=BLOCK_BYTES_MAX).contains(&block.len), || {
            format!("a block has 1 to {BLOCK_BYTES_MAX} bytes, not {}", block.len)
        })?;
        let mut row = BLOCKS.get(&self.tx, &block.hash)?.unwrap_or(BlockRow {
            len: block.len,
            references: 0,
            unreferenced_since_ms: None,
        });
        // One hash is one content, so two lengths mean that one proposer is wrong.
        require(row.len == block.len, || {
            format!("block {} has {} bytes, not {}", block.hash.short(), row.len, block.len)
        })?;
        row.references = row
            .references
            .checked_add(1)
            .ok_or_else(|| invalid("the block has too many references"))?;
        row.unreferenced_since_ms = None;
        BLOCKS.put(&mut self.tx, &block.hash, &row);
        Ok(())
    }

    /// A row no longer names the block.
    pub(super) fn dereference(&mut self, block: &BlockRef) -> Result<(), Stop> {
        if let Some(mut row) = BLOCKS.get(&self.tx, &block.hash)? {
            row.references = row.references.saturating_sub(1);
            if row.references == 0 {
                row.unreferenced_since_ms = Some(self.now_ms);
            }
            BLOCKS.put(&mut self.tx, &block.hash, &row);
        }
        Ok(())
    }
}
