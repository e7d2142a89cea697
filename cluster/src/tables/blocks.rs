//! Blocks that the catalog knows: the source's, the renditions', the posters'.

use serde::{Deserialize, Serialize};

use crate::ids::BlockHash;
use crate::table::Table;
use crate::view::TableId;

/// Every block that a row names, and those that none names any more and that are not [forgotten](crate::collection) yet.
pub const BLOCKS: Table<BlockHash, BlockRow> = Table::new(TableId::Blocks);

/// The [waiting](BlockState::Waiting) blocks in the order in which they became garbage, with their lengths in bytes. Kept
/// from the feature level [`UPKEEP`](crate::features::UPKEEP) on.
pub const WAITING: Table<(u64, BlockHash), u32> = Table::new(TableId::WaitingBlocks);

/// The [reaped](BlockState::Reaped) blocks in the order of the log, with their lengths in bytes.
pub const REAPED: Table<(u64, BlockHash), u32> = Table::new(TableId::ReapedBlocks);

/// A block's length and who needs it. Its changes are made by [`crate::collection`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct BlockRow {
    /// Bytes.
    pub len: u32,
    /// How many rows name it. At 0 it is garbage.
    pub references: u64,
    /// The catalog's clock when `references` fell to 0; nothing once it has been reaped.
    pub unreferenced_since_ms: Option<u64>,
    /// Index of the log entry that last reaped it. Stays when the block is named again: a put from before that entry does
    /// not count for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reaped_at: Option<u64>,
}

/// Where a block is between being needed and being forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Some row names it.
    Needed,
    /// No row names it; its copies stay for a while.
    Waiting {
        /// The catalog's clock when that began.
        since_ms: u64,
    },
    /// Its copies are to be deleted, but for those that were put since.
    Reaped {
        /// Index of the log entry that said so.
        at: u64,
    },
}

impl BlockRow {
    /// The row of a block that some row names.
    #[must_use]
    pub fn needed(len: u32, references: u64) -> Self {
        Self { len, references, unreferenced_since_ms: None, reaped_at: None }
    }

    /// Where it is on its way.
    #[must_use]
    pub fn state(&self) -> BlockState {
        match (self.references, self.unreferenced_since_ms, self.reaped_at) {
            (0, Some(since_ms), _) => BlockState::Waiting { since_ms },
            (0, None, Some(at)) => BlockState::Reaped { at },
            // No row has neither: what is named by nobody was dereferenced or reaped. Needed is what deletes nothing.
            (0, None, None) | (1.., _, _) => BlockState::Needed,
        }
    }
}
