//! The catalog as it was at one moment.

use std::sync::Arc;

use cluster::view::{TableId, View, ViewError, Visitor};
use rocksdb::{DB, SnapshotWithThreadMode};
use self_cell::self_cell;

use super::{META, OpenDb, StateError, bounds, visit_all};

type Snapshot<'a> = SnapshotWithThreadMode<'a, DB>;

self_cell!(
    /// A snapshot borrows its database; this keeps the two together, so that the pair can be handed around.
    struct Pinned {
        owner: Arc<OpenDb>,
        #[not_covariant]
        dependent: Snapshot,
    }
);

/// Reads that belong together: all of them see the same moment, whatever is applied meanwhile.
pub struct SnapshotView(Pinned);

impl SnapshotView {
    pub(super) fn take(database: Arc<OpenDb>) -> Self {
        Self(Pinned::new(database, |database| database.db().snapshot()))
    }

    /// What was stored beside the tables at that moment; see [`StateDb::write`](super::StateDb::write).
    ///
    /// # Errors
    /// When RocksDB cannot read.
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.0.with_dependent(|database, snapshot| {
            snapshot
                .get_cf(database.family(META), key)
                .map_err(|error| StateError::Read(database.explain(error)))
        })
    }
}

impl View for SnapshotView {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.0.with_dependent(|database, snapshot| {
            snapshot
                .get_cf(database.family(table.name()), key)
                .map_err(|error| database.view_error(table, error))
        })
    }

    fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), ViewError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        self.0.with_dependent(|database, snapshot| {
            let rows =
                snapshot.raw_iterator_cf_opt(database.family(table.name()), bounds(from, to));
            visit_all(rows, visit).map_err(|error| database.view_error(table, error))
        })
    }
}
