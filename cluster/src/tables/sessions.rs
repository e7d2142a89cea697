//! What is remembered of commands, so that one which is sent twice is applied once.

use serde::{Deserialize, Serialize};

use crate::command::Reply;
use crate::ids::ClientId;
use crate::table::Table;
use crate::view::TableId;

/// Every proposer that was heard of in the last day.
pub const SESSIONS: Table<ClientId, SessionRow> = Table::new(TableId::Sessions);

/// The replies that proposers may still ask for.
pub const REPLIES: Table<(ClientId, u64), Reply> = Table::new(TableId::Replies);

/// A proposer's window of sequence numbers. Replies below `answered_below` are forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    pub answered_below: u64,
    /// No reply below this number is stored any more. Trails behind `answered_below`, because few are deleted at a time.
    pub deleted_below: u64,
    /// The catalog's clock when the client was last heard of.
    pub last_ms: u64,
}
