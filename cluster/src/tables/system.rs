//! The cluster as such.

use serde::{Deserialize, Serialize};

use crate::ids::ClientId;
use crate::table::Table;
use crate::view::TableId;

/// The cluster's one row.
pub const SYSTEM: Table<(), SystemRow> = Table::new(TableId::System);

/// The cluster's identity, and the catalog's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemRow {
    /// Random, chosen when the cluster was initialized; all zeros before.
    pub cluster_id: [u8; 16],
    /// Milliseconds since 1970: the highest time that any command carried. Never goes back.
    pub time_ms: u64,
    /// Jobs that are not done, leased or not.
    pub jobs: u64,
    /// Where the search for forgotten sessions goes on.
    pub session_cursor: Option<ClientId>,
}
