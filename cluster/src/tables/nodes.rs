//! What each node says of itself.

use serde::{Deserialize, Serialize};

use crate::features;
use crate::ids::NodeId;
use crate::placement::{Earlier, Layout};
use crate::table::Table;
use crate::view::TableId;

/// Every node that has registered.
pub const NODES: Table<NodeId, NodeRow> = Table::new(TableId::Nodes);

/// The present layout, in one row.
pub const LAYOUT: Table<(), Layout> = Table::new(TableId::Layout);

/// Who held what before the present layout, in one row beside it, under [`EARLIER_KEY`].
pub const EARLIER: Table<u64, Earlier> = Table::new(TableId::Layout);

/// Any key but the empty one, which is that of the present layout.
pub const EARLIER_KEY: u64 = 1;

/// What a node does for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Holds blocks.
    Store,
    /// Answers people and players over HTTP.
    Gateway,
    /// Does jobs.
    Transcoder,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Store, Self::Gateway, Self::Transcoder];

    /// The word for people and for settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Gateway => "gateway",
            Self::Transcoder => "transcoder",
        }
    }
}

/// A node, as it registered itself. What changes from second to second (bytes used, applied index) is not here but in the
/// answers to the nodes' pings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: NodeId,
    /// For people; unique by convention, not by rule.
    pub name: String,
    /// Failure domain: machines that may fail together share it.
    pub zone: String,
    pub roles: Vec<Role>,
    /// Where browsers reach it, such as `http://10.0.0.1:8080`.
    pub http_url: String,
    /// Where nodes reach it, `host:port`.
    pub rpc_addr: String,
    /// Version of the program.
    pub version: String,
    /// Bytes that it offers for blocks.
    pub capacity_bytes: u64,
    /// The [feature level](crate::features) of its program; 0 from programs that knew of none. Ask [`Self::level`].
    #[serde(default)]
    pub feature_level: u32,
}

impl NodeRow {
    /// What its program understands.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.feature_level.max(features::FIRST)
    }
}
