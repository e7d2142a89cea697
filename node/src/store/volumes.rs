//! Blocks in volumes: long files that are only ever appended to.
//!
//! A block and what it is called are one *record* in a volume; where each record is says a small row in RocksDB. A write thus
//! costs the disk its own bytes once, a listing reads rows alone, and a deleted block's room is punched out of the middle of
//! its volume. Why not RocksDB for the bytes too, or a file for each block: `docs/adr/0005-blocks-in-volume-files.md`.
//!
//! ```text
//! content/                  the rows (RocksDB): hash → state, length, put index, volume, offset; volume → tail
//! content/volumes/
//!   00000001.volume         head │ record │ record │ hole │ record …      all at multiples of 4 KiB
//!   00000002.volume         head │ record │ (being written) │ …           ◄ the active one
//! ```
//!
//! The store is a node's only writer of `content/`. Order is all there is to it:
//!
//! - **Put.** The hash is checked, room reserved, the record written. Then the group commit ([`super::committer`]): one fsync of
//!   the volume for all who wait, then their rows, then the volume's tail. A block is seen by readers only once it is durable.
//! - **Rows need no fsync of their own** for that: a start reads what lies beyond the tails and makes the rows that are
//!   missing ([`recovery`]). They are synced when something was changed that no record tells of (a raised put index), before
//!   room is given back, and often enough for that reading to be short.
//! - **Deletion.** The row goes; when that is durable, the room ([`reclaimer`]).
//! - Whatever reads a row in order to change it holds that hash's lock. Counters change under the same lock, after the write;
//!   they are counted anew from the rows at each start.
//! - When an fsync fails, nothing is written any more until the next start, which believes nothing but the disk.
//! - A place in a volume is used once, and readers check the hash. So reading needs no lock, whatever happens meanwhile.
//!
//! # What it counts
//!
//! | metric | |
//! | --- | --- |
//! | `reelraft_store_written_bytes_total` | bytes of records, with their headers and the room up to 4 KiB |
//! | `reelraft_store_commits_total`, `…_committed_blocks_total` | groups of puts, and blocks in these: their ratio is the size of a group |
//! | `reelraft_store_fsyncs_total{of}` | fsyncs of `volumes` and of `rows` |
//! | `reelraft_store_punched_bytes_total` | room given back out of the middle of volumes |
//! | `reelraft_store_recovered_blocks_total` | blocks found without a row at the start |
//! | `reelraft_store_damaged_blocks_total` | copies put into quarantine |
//! | `reelraft_store_volumes`, `…_live_bytes`, `…_allocated_bytes` | files, room that records take in them, room that the files take on disk |

mod engine;
mod extents;
mod file;
mod index;
mod open_files;
mod options;
mod reclaimer;
mod record;
mod recovery;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::ids::BlockHash;

use super::committer::{Committer, Failure};
use super::pool::Pool;
use super::{BlockStore, DeleteCondition, StoreCondition, StoreError, StoreStats, StoredBlock};
use engine::{Change, Engine};
pub use options::VolumeOptions;

/// Threads that write. They copy bytes into the page cache, one after the other inside the kernel as they all append to one
/// file, and wait for the fsync elsewhere; a few keep it busy while others hash.
const WRITERS: usize = 4;

/// Rows are made durable after so many bytes at the latest. A start after a power cut has to read and hash as much: a tenth of
/// a second on the disk of a server, half a minute on none.
const UNSYNCED_BYTES_MAX: u64 = 64 << 20;

/// Why a store could not be opened. No block has been changed on disk.
#[derive(Debug, thiserror::Error)]
#[error("open the block store {path}: {reason}")]
pub struct OpenError {
    pub path: String,
    pub reason: String,
}

/// The block store of a node. Clones are handles of the same one; the files are closed with the last of them.
#[derive(Clone, Debug)]
pub struct VolumeBlockStore {
    // Dropped before the engine, which its thread uses.
    committer: Arc<Committer<Change>>,
    engine: Arc<Engine>,
    failure: Failure,
    readers: Pool,
    writers: Pool,
}

impl VolumeBlockStore {
    /// Opens the store in the directory `path`, which is made if it is not there, and counts what is in it: about a second
    /// for a million blocks. Blocks the calling thread.
    ///
    /// # Errors
    /// When the directory cannot be used, was written by a version that kept blocks elsewhere, or RocksDB finds its own files
    /// damaged.
    pub fn open(path: &Path, options: &VolumeOptions) -> Result<Self, OpenError> {
        let refused = |reason| OpenError { path: path.display().to_string(), reason };
        let failure = Failure::default();
        let engine = Arc::new(Engine::open(path, options, failure.clone()).map_err(refused)?);
        let mut group = GroupCommit { engine: Arc::clone(&engine), unsynced_bytes: 0 };
        let committer = Committer::start(failure.clone(), move |changes| group.commit(changes))
            .map_err(|error| refused(format!("start the committing thread: {error}")))?;
        Ok(Self {
            committer: Arc::new(committer),
            engine,
            failure,
            // Readers wait for the disk as well as for the processor.
            readers: Pool::new(2 * std::thread::available_parallelism().map_or(2, usize::from)),
            writers: Pool::new(WRITERS),
        })
    }

    fn check_writable(&self) -> Result<(), StoreError> {
        match self.failure.get() {
            Some(reason) => Err(StoreError::ReadOnly { reason: reason.to_string() }),
            None => Ok(()),
        }
    }

    /// Runs something that changes the store and notes when that leaves in doubt what is on disk.
    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.check_writable()?;
        let store = self.clone();
        self.writers
            .run(move || {
                store.check_writable()?;
                work(&store).inspect_err(|error| {
                    if let StoreError::ReadOnly { reason } = error {
                        store.failure.note(reason);
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

/// What the committing thread does.
struct GroupCommit {
    engine: Arc<Engine>,
    /// Bytes of records whose rows are not durable.
    unsynced_bytes: u64,
}

impl GroupCommit {
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), String> {
        let mut volumes = BTreeMap::new();
        let (mut records, mut has_rows) = (0, false);
        for change in &changes {
            match change {
                Change::Record { row, reservation, .. } => {
                    volumes
                        .entry(row.place.volume)
                        .or_insert_with(|| Arc::clone(&reservation.file));
                    self.unsynced_bytes += u64::from(row.len);
                    records += 1;
                }
                Change::Rows => has_rows = true,
            }
        }
        for (number, file) in &volumes {
            metrics::counter!("reelraft_store_fsyncs_total", "of" => "volumes").increment(1);
            file.sync().map_err(|error| format!("fsync of volume {number} failed: {error}"))?;
        }
        for change in changes {
            if let Change::Record { hash, row, reservation } = change {
                self.engine.place(hash, row, reservation)?;
            }
        }
        for (number, file) in &volumes {
            self.engine.note_tail(*number)?;
            self.engine.measure(file);
        }
        if self.unsynced_bytes >= UNSYNCED_BYTES_MAX {
            self.engine.sync_rows()?;
            self.unsynced_bytes = 0;
        } else if has_rows && self.engine.sync_raised()? {
            self.unsynced_bytes = 0;
        }
        if records > 0 {
            metrics::counter!("reelraft_store_commits_total").increment(1);
            metrics::counter!("reelraft_store_committed_blocks_total").increment(records);
        }
        Ok(())
    }
}

#[async_trait]
impl BlockStore for VolumeBlockStore {
    async fn put(&self, hash: BlockHash, bytes: Bytes, put_index: u64) -> Result<(), StoreError> {
        let ticket = self
            .write(move |store| {
                let change = store.engine.put(hash, &bytes, put_index)?;
                Ok(store.committer.join(change))
            })
            .await?;
        let failed = |reason: Arc<str>| StoreError::ReadOnly { reason: reason.to_string() };
        ticket.durable().await.map_err(failed)
    }

    async fn get(&self, hash: BlockHash) -> Result<Bytes, StoreError> {
        self.read(move |engine| engine.get(hash)).await
    }

    async fn has(&self, hashes: Vec<BlockHash>) -> Result<Vec<bool>, StoreError> {
        self.read(move |engine| hashes.iter().map(|hash| engine.has(hash)).collect()).await
    }

    async fn verify(&self, hash: BlockHash) -> Result<(), StoreError> {
        if self.failure.get().is_some() {
            // What leaves quarantine has to be written down, and nothing can be now.
            return self.get(hash).await.map(drop);
        }
        self.read(move |engine| engine.verify(hash)).await
    }

    async fn delete_if(
        &self,
        hash: BlockHash,
        condition: Box<DeleteCondition>,
    ) -> Result<bool, StoreError> {
        self.write(move |store| store.engine.delete_if(hash, condition)).await
    }

    async fn keep(&self, hashes: Vec<BlockHash>, put_index: u64) -> Result<Vec<bool>, StoreError> {
        let (kept, ticket) = self
            .write(move |store| {
                let kept = hashes.iter().map(|hash| store.engine.keep(hash, put_index));
                let kept: Vec<bool> = kept.collect::<Result<_, _>>()?;
                // Also when nothing was raised: what was raised a moment ago may not be durable yet.
                Ok((kept, store.committer.join(Change::Rows)))
            })
            .await?;
        let failed = |reason: Arc<str>| StoreError::ReadOnly { reason: reason.to_string() };
        ticket.durable().await.map_err(failed)?;
        Ok(kept)
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

    async fn list_quarantined(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        self.read(move |engine| Ok(engine.list_quarantined(from, to, limit))).await
    }

    fn stats(&self) -> StoreStats {
        self.engine.stats()
    }

    fn condition(&self) -> StoreCondition {
        match self.failure.get() {
            Some(reason) => StoreCondition::ReadOnly { reason: reason.to_string() },
            None => StoreCondition::Writable,
        }
    }
}

#[cfg(test)]
mod tests;
