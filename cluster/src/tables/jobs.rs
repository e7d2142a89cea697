//! Jobs that are not done.

use serde::{Deserialize, Serialize};

use crate::command::LeaseToken;
use crate::ids::NodeId;
use crate::jobs::{JobId, QueueKey, Urgency};
use crate::table::Table;
use crate::view::TableId;

/// Every job that is not done.
pub const JOBS: Table<JobId, JobRow> = Table::new(TableId::Jobs);

/// The same jobs in the order of urgency.
pub const JOB_QUEUE: Table<QueueKey, ()> = Table::new(TableId::JobQueue);

/// The jobs among them that have a lease, by holder.
pub const LEASES: Table<(NodeId, JobId), ()> = Table::new(TableId::Leases);

/// The present holder of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub node: NodeId,
    pub token: LeaseToken,
    /// By the catalog's clock, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// A job that is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRow {
    pub urgency: Urgency,
    pub lease: Option<Lease>,
    /// Tries that ended with an error of the worker.
    pub failures: u32,
    /// Tries that ended because the holder was not heard of any more.
    pub expiries: u32,
    /// The node whose try failed or expired last: the others go first.
    pub failed_on: Option<NodeId>,
    /// When that was, by the catalog's clock, in milliseconds since 1970.
    pub failed_ms: u64,
}
