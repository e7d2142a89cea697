//! The copies that must not be served.
//!
//! Asked on every read, and almost always empty. It is kept in memory whole: 32 bytes for each damaged copy are less than
//! the row on disk that says the same.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::{PoisonError, RwLock};

use cluster::ids::BlockHash;

#[derive(Debug, Default)]
pub(super) struct Quarantine {
    hashes: RwLock<BTreeSet<BlockHash>>,
}

impl Quarantine {
    pub(super) fn contains(&self, hash: &BlockHash) -> bool {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).contains(hash)
    }

    pub(super) fn insert(&self, hash: BlockHash) {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner).insert(hash);
    }

    pub(super) fn remove(&self, hash: &BlockHash) {
        self.hashes.write().unwrap_or_else(PoisonError::into_inner).remove(hash);
    }

    /// Up to `limit` of them in order, within `range`.
    pub(super) fn page(
        &self,
        range: (Bound<BlockHash>, Bound<BlockHash>),
        limit: usize,
    ) -> Vec<BlockHash> {
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.range(range).take(limit).copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
