//! Which nodes belong to the cluster.
//!
//! This table is what authorizes: a certificate says which node somebody is, its row here whether that node may speak. A
//! row is never deleted, so that a removed node stays removed.

use serde::{Deserialize, Serialize};

use super::nodes::Role;
use crate::ids::{NodeId, PublicKeyHash};
use crate::table::Table;
use crate::view::TableId;

/// Every node that was ever admitted. Empty in a cluster without an authority.
pub const MEMBERS: Table<NodeId, MemberRow> = Table::new(TableId::Members);

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberState {
    /// It does what its roles say.
    Member,
    /// It hands over what it does, so that it can be removed.
    Draining {
        /// By the catalog's clock, in milliseconds since 1970.
        since_ms: u64,
    },
    /// It has left for ever.
    Removed {
        /// By the catalog's clock, in milliseconds since 1970.
        at_ms: u64,
        /// Whether it was lost rather than drained. The layout may name such a node until the next one.
        forced: bool,
    },
}

impl MemberState {
    /// Whether it belongs to the cluster.
    #[must_use]
    pub fn is_living(self) -> bool {
        match self {
            Self::Member | Self::Draining { .. } => true,
            Self::Removed { .. } => false,
        }
    }
}

/// A node that was admitted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    pub state: MemberState,
    /// Until then, by the catalog's clock in milliseconds since 1970, it may be away without anybody taking over its duties.
    pub maintenance_until_ms: Option<u64>,
    /// Of the key in its certificates.
    pub public_key_hash: PublicKeyHash,
    /// The roles that it may register.
    pub roles_allowed: Vec<Role>,
    /// By the catalog's clock, in milliseconds since 1970.
    pub admitted_ms: u64,
}

impl MemberRow {
    /// Whether somebody works on the machine at `now_ms`.
    #[must_use]
    pub fn in_maintenance(&self, now_ms: u64) -> bool {
        self.maintenance_until_ms.is_some_and(|until_ms| now_ms < until_ms)
    }
}
