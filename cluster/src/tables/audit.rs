//! What was asked for by operators, and by the cluster itself where it does what an operator could do.

use serde::{Deserialize, Serialize};

use crate::table::Table;
use crate::view::TableId;

/// The newest entries, by their index in the log.
pub const AUDIT: Table<u64, AuditRow> = Table::new(TableId::Audit);

/// An administrative action, refused or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRow {
    /// By the catalog's clock, in milliseconds since 1970.
    pub time_ms: u64,
    /// Who asked for it, as far as that is known.
    pub actor: String,
    /// A sentence without a subject, such as `remove node 3 (berlin-1)`.
    pub action: String,
    /// `done`, or why it was refused.
    pub outcome: String,
}
