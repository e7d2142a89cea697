//! Blocks that the catalog knows: the source's, the renditions', the posters'.

use serde::{Deserialize, Serialize};

use crate::ids::BlockHash;
use crate::table::Table;
use crate::view::TableId;

/// Every block that a row names or has named.
pub const BLOCKS: Table<BlockHash, BlockRow> = Table::new(TableId::Blocks);

/// A block's length and who needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Bytes.
    pub len: u32,
    /// How many rows name it. At 0 it is garbage.
    pub references: u64,
    /// The catalog's clock when `references` fell to 0.
    pub unreferenced_since_ms: Option<u64>,
}
