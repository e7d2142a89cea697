//! Blocks in RocksDB with integrated BlobDB.
//!
//! RocksDB keeps the bytes of each block in append-only blob files and sorts only the names, so a write costs the log and
//! one blob file, and neither compaction nor a listing touches bytes. Two column families: `blocks` with the bytes and `meta`
//! with a small row for each (see [`super::meta`]); a block and its row are written in one batch.
//!
//! The store is a node's only writer of `content/`. Order matters in three places:
//!
//! - A put first checks the hash, then writes, then waits for the group's fsync ([`super::committer`]). A block is visible
//!   to readers a little before it is durable, which does no harm: nobody counts it as a copy until the put has answered.
//! - Whatever reads a row in order to change it holds that hash's lock.
//! - Counters change under the same lock, after the write; they are counted anew from the rows at each start.

mod engine;
mod options;
mod pinned;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::ids::BlockHash;

use super::committer::Committer;
use super::pool::Pool;
use super::{BlockStore, DeleteCondition, StoreCondition, StoreError, StoreStats, StoredBlock};
use engine::{Engine, Written};
pub use options::RocksOptions;

/// Threads that write. They only copy bytes into the log and the memtable, one after the other inside RocksDB, and wait
/// for the fsync elsewhere; a few keep it busy while others hash.
const WRITERS: usize = 4;

/// Why a store could not be opened. Nothing has been changed on disk.
#[derive(Debug, thiserror::Error)]
#[error("open the block store {path}: {reason}")]
pub struct OpenError {
    pub path: String,
    pub reason: String,
}

/// The block store of a node. Clones are handles of the same one; the files are closed with the last of them and the last of
/// the blocks read that somebody still holds.
#[derive(Clone, Debug)]
pub struct RocksBlockStore {
    engine: Arc<Engine>,
    committer: Arc<Committer>,
    readers: Pool,
    writers: Pool,
}

impl RocksBlockStore {
    /// Opens the store in the directory `path`, which is made if it is not there, and counts what is in it: about a second
    /// for a million blocks. Blocks the calling thread.
    ///
    /// # Errors
    /// When the directory cannot be used or RocksDB finds its own files damaged.
    pub fn open(path: &Path, options: &RocksOptions) -> Result<Self, OpenError> {
        let refused = |reason| OpenError { path: path.display().to_string(), reason };
        let engine = Arc::new(Engine::open(path, options).map_err(refused)?);
        let to_flush = Arc::downgrade(&engine);
        let committer = Committer::start(move || match to_flush.upgrade() {
            Some(engine) => engine.flush_log(),
            None => Err("the store is closed".into()),
        })
        .map_err(|error| refused(format!("start the committing thread: {error}")))?;
        Ok(Self {
            engine,
            committer: Arc::new(committer),
            // Readers wait for the disk as well as for the processor.
            readers: Pool::new(2 * std::thread::available_parallelism().map_or(2, usize::from)),
            writers: Pool::new(WRITERS),
        })
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.committer.failure() {
            Some(reason) => Err(StoreError::ReadOnly { reason: reason.to_string() }),
            None => Ok(()),
        }
    }

    /// Runs something that changes the store and notes when that leaves in doubt what is on disk.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Engine>) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let store = self.clone();
        self.writers
            .run(move || {
                store.check_writable()?;
                work(&store.engine).inspect_err(|error| {
                    if let StoreError::ReadOnly { reason } = error {
                        store.committer.fail(reason);
                    }
                })
            })
            .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Engine>) -> T + Send + 'static,
    ) -> T {
        let engine = Arc::clone(&self.engine);
        self.readers.run(move || work(&engine)).await
    }
}

#[async_trait]
impl BlockStore for RocksBlockStore {
    async fn put(&self, hash: BlockHash, bytes: Bytes, put_index: u64) -> Result<(), StoreError> {
        let committer = Arc::clone(&self.committer);
        let (written, ticket) = self
            .write(move |engine| {
                let written = engine.put(hash, &bytes, put_index)?;
                Ok((written, committer.join()))
            })
            .await?;
        let Err(reason) = ticket.durable().await else {
            return Ok(());
        };
        if written == Written::Bytes {
            self.read(move |engine| engine.distrust(hash)).await;
        }
        Err(StoreError::ReadOnly { reason: reason.to_string() })
    }

    async fn get(&self, hash: BlockHash) -> Result<Bytes, StoreError> {
        self.read(move |engine| engine.get(hash)).await
    }

    async fn has(&self, hashes: Vec<BlockHash>) -> Result<Vec<bool>, StoreError> {
        self.read(move |engine| hashes.iter().map(|hash| engine.has(hash)).collect()).await
    }

    async fn verify(&self, hash: BlockHash) -> Result<(), StoreError> {
        if self.committer.failure().is_some() {
            // What could not be made durable reads well from the kernel's cache: nothing leaves quarantine now.
            return self.get(hash).await.map(drop);
        }
        self.read(move |engine| engine.verify(hash)).await
    }

    async fn delete_if(
        &self,
        hash: BlockHash,
        condition: Box<DeleteCondition>,
    ) -> Result<bool, StoreError> {
        self.write(move |engine| engine.delete_if(hash, condition)).await
    }

    async fn list(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        self.read(move |engine| {
            let mut found = Vec::new();
            if limit == 0 {
                return Ok(found);
            }
            engine.scan(from, to, &mut |block| {
                found.push(block);
                if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(found)
        })
        .await
    }

    fn stats(&self) -> StoreStats {
        self.engine.stats()
    }

    fn condition(&self) -> StoreCondition {
        match self.committer.failure() {
            Some(reason) => StoreCondition::ReadOnly { reason: reason.to_string() },
            None => StoreCondition::Writable,
        }
    }
}

#[cfg(test)]
mod tests;
