//! The cluster as such.

use serde::{Deserialize, Serialize};

use crate::features;
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
    /// The id that the next node gets; 0 in a cluster that has no authority.
    #[serde(default)]
    pub next_node_id: u64,
    /// Commands that need more than this [level](crate::features) are not proposed. 0 in clusters from before there were
    /// levels. Ask [`Self::level`].
    #[serde(default)]
    pub feature_level: u32,
    /// How often the cluster was recovered without a majority. A node that belongs to an earlier generation must not come
    /// back: it may have what the others have lost.
    #[serde(default)]
    pub generation: u64,
    /// Rows of the audit log.
    #[serde(default)]
    pub audit_rows: u64,
    /// Nobody makes missing copies while somebody wants it so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair_paused: Option<RepairPause>,
    /// Blocks that nobody names must have been put with this log index or a higher one to be named; see
    /// [`crate::collection`]. Never falls.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub reap_floor: u64,
    /// Where the floor goes when it has become old enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reap_mark: Option<ReapMark>,
    /// The log index at which somebody asked for a scrub last; 0 before. Nodes remember the last one that they began with, and
    /// begin when this is another one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub scrub_asked: u64,
}

/// An operator's wish that nobody makes missing copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairPause {
    /// Who asked for it.
    pub actor: String,
    /// By the catalog's clock, in milliseconds since 1970.
    pub since_ms: u64,
}

/// An entry of the log, and when it was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReapMark {
    pub index: u64,
    /// The catalog's clock, in milliseconds since 1970.
    pub time_ms: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for this signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl SystemRow {
    /// What every node understands.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.feature_level.max(features::FIRST)
    }
}
