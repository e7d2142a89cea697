//! A block's bytes where RocksDB has read them, without a copy.
//!
//! RocksDB lends the buffer for as long as the database is open. To hand it on as [`bytes::Bytes`], which goes wherever it
//! likes, buffer and database are tied together: the database stays open until the last of its buffers is gone.

use std::sync::Arc;

use rocksdb::DBPinnableSlice;
use self_cell::self_cell;

use super::engine::Engine;

self_cell!(
    pub(super) struct PinnedBlock {
        owner: Arc<Engine>,
        #[covariant]
        dependent: DBPinnableSlice,
    }
);

impl PinnedBlock {
    /// What `read` finds, if anything.
    pub(super) fn read(
        engine: Arc<Engine>,
        read: impl for<'a> FnOnce(&'a Engine) -> Result<Option<DBPinnableSlice<'a>>, rocksdb::Error>,
    ) -> Result<Option<Self>, rocksdb::Error> {
        let read = Self::try_new(engine, |engine| match read(engine) {
            Ok(Some(slice)) => Ok(slice),
            Ok(None) => Err(None),
            Err(error) => Err(Some(error)),
        });
        match read {
            Ok(pinned) => Ok(Some(pinned)),
            Err(None) => Ok(None),
            Err(Some(error)) => Err(error),
        }
    }
}

impl AsRef<[u8]> for PinnedBlock {
    fn as_ref(&self) -> &[u8] {
        self.borrow_dependent()
    }
}
