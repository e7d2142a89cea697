//! The store of a node whose own could not be opened.
//!
//! Such a node still has its catalog, its vote and its gateway: it serves what other nodes hold and says plainly what is
//! wrong with it.

use async_trait::async_trait;
use bytes::Bytes;
use cluster::ids::BlockHash;

use super::{BlockStore, DeleteCondition, StoreCondition, StoreError, StoreStats, StoredBlock};

/// Has nothing, takes nothing, and says why.
#[derive(Clone, Debug)]
pub struct UnavailableStore {
    reason: String,
}

impl UnavailableStore {
    #[must_use]
    pub fn new(reason: String) -> Self {
        Self { reason }
    }

    fn refusal(&self) -> StoreError {
        StoreError::Unavailable { reason: self.reason.clone() }
    }
}

#[async_trait]
impl BlockStore for UnavailableStore {
    async fn put(&self, _: BlockHash, _: Bytes, _: u64) -> Result<(), StoreError> {
        Err(self.refusal())
    }

    async fn get(&self, _: BlockHash) -> Result<Bytes, StoreError> {
        Err(self.refusal())
    }

    async fn has(&self, _: Vec<BlockHash>) -> Result<Vec<bool>, StoreError> {
        Err(self.refusal())
    }

    async fn verify(&self, _: BlockHash) -> Result<(), StoreError> {
        Err(self.refusal())
    }

    async fn delete_if(&self, _: BlockHash, _: Box<DeleteCondition>) -> Result<bool, StoreError> {
        Err(self.refusal())
    }

    async fn keep(&self, _: Vec<BlockHash>, _: u64) -> Result<Vec<bool>, StoreError> {
        Err(self.refusal())
    }

    async fn list(
        &self,
        _: BlockHash,
        _: BlockHash,
        _: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        Err(self.refusal())
    }

    async fn list_quarantined(
        &self,
        _: BlockHash,
        _: BlockHash,
        _: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        Err(self.refusal())
    }

    fn stats(&self) -> StoreStats {
        StoreStats::default()
    }

    fn condition(&self) -> StoreCondition {
        StoreCondition::Unavailable { reason: self.reason.clone() }
    }
}
