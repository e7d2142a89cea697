//! The blocking half of the store: what happens to one block at a time.

use std::fmt;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cluster::ids::BlockHash;
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions, WriteBatch, WriteOptions};

use super::options::{self, BLOB_BYTES_MIN, BLOCKS, META, RocksOptions};
use super::pinned::PinnedBlock;
use crate::files;
use crate::now_ms;
use crate::state::find_damage;
use crate::store::meta::{BlockMeta, CopyState};
use crate::store::quarantine::Quarantine;
use crate::store::{BLOCK_BYTES_MAX, DeleteCondition, StoreError, StoreStats, StoredBlock};

/// Locks for changing a block's row. Two blocks that share one wait for each other now and then; nothing else comes of it.
const LOCKS: usize = 64;

/// What a put had to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    Bytes,
    /// A good copy was there already.
    Row,
}

/// Why a copy cannot be read: there is none, or it is not what it should be.
enum ReadFailure {
    Missing,
    Bad(String),
}

pub(super) struct Engine {
    db: DB,
    path: PathBuf,
    free_bytes_min: u64,
    quarantine: Quarantine,
    locks: [Mutex<()>; LOCKS],
    blocks: AtomicU64,
    bytes: AtomicU64,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn open(path: &Path, options: &RocksOptions) -> Result<Self, String> {
        // RocksDB would read such a record over and over.
        if let Some(damage) = find_damage(path).map_err(|error| error.to_string())? {
            return Err(damage);
        }
        let db = DB::open_cf_descriptors(
            &options::database(options),
            path,
            options::column_families(options),
        )
        .map_err(|error| error.to_string())?;
        let engine = Self {
            db,
            path: path.to_owned(),
            free_bytes_min: options.free_bytes_min,
            quarantine: Quarantine::default(),
            locks: std::array::from_fn(|_| Mutex::default()),
            blocks: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        engine.for_each_row(BlockHash([0; 32]), BlockHash([255; 32]), &mut |hash, meta| {
            match meta.state {
                CopyState::Live => engine.count(&meta),
                CopyState::Quarantined => engine.quarantine.insert(hash),
            }
            ControlFlow::Continue(())
        })?;
        Ok(engine)
    }

    pub(super) fn flush_log(&self) -> Result<(), String> {
        self.db.flush_wal(true).map_err(|error| error.to_string())
    }

    pub(super) fn stats(&self) -> StoreStats {
        StoreStats {
            blocks: self.blocks.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            quarantined: self.quarantine.len() as u64,
        }
    }

    /// Writes a block, not yet durably.
    pub(super) fn put(
        self: &Arc<Self>,
        hash: BlockHash,
        bytes: &[u8],
        put_index: u64,
    ) -> Result<Written, StoreError> {
        let bad_length = StoreError::BadLength(bytes.len());
        let len = match u32::try_from(bytes.len()) {
            Ok(len) if (1..=BLOCK_BYTES_MAX).contains(&bytes.len()) => len,
            _ => return Err(bad_length),
        };
        let actual = BlockHash::of(bytes);
        if actual != hash {
            return Err(StoreError::HashMismatch { expected: hash, actual });
        }

        let _lock = self.lock(&hash);
        let before = self.row(&hash);
        let live_before = before.filter(|_| self.is_live(&hash, before));
        if let Some(row) = live_before
            && self.read_copy(&hash).is_ok()
        {
            if row.put_index < put_index {
                let mut batch = WriteBatch::default();
                batch.put_cf(self.meta(), hash.0, BlockMeta { put_index, ..row }.encode());
                self.write(batch)?;
            }
            return Ok(Written::Row);
        }

        self.check_free_space()?;
        let row = BlockMeta {
            state: CopyState::Live,
            len,
            put_index: before.map_or(put_index, |row| row.put_index.max(put_index)),
            stored_ms: before.map_or_else(now_ms, |row| row.stored_ms),
        };
        let mut batch = WriteBatch::with_capacity_bytes(bytes.len() + 256);
        batch.put_cf(self.blocks(), hash.0, bytes);
        batch.put_cf(self.meta(), hash.0, row.encode());
        self.write(batch)?;
        if let Some(row) = live_before {
            self.uncount(&row);
        }
        self.count(&row);
        self.quarantine.remove(&hash);
        Ok(Written::Bytes)
    }

    /// The bytes of a block, verified. A bad copy goes into quarantine.
    pub(super) fn get(self: &Arc<Self>, hash: BlockHash) -> Result<Bytes, StoreError> {
        if self.quarantine.contains(&hash) {
            return Err(StoreError::Damaged(hash));
        }
        match self.read_copy(&hash) {
            Ok(bytes) => Ok(bytes),
            Err(ReadFailure::Missing) if self.row(&hash).is_none() => {
                Err(StoreError::NotFound(hash))
            }
            // It may have been put, replaced or deleted meanwhile: looked at again under its lock.
            Err(ReadFailure::Missing | ReadFailure::Bad(_)) => {
                let _lock = self.lock(&hash);
                self.settle(hash)
            }
        }
    }

    /// Reads a copy and notes whether it is good.
    pub(super) fn verify(self: &Arc<Self>, hash: BlockHash) -> Result<(), StoreError> {
        let _lock = self.lock(&hash);
        self.settle(hash).map(drop)
    }

    /// Under the block's lock.
    fn settle(self: &Arc<Self>, hash: BlockHash) -> Result<Bytes, StoreError> {
        let Some(row) = self.row(&hash) else {
            return Err(StoreError::NotFound(hash));
        };
        let was_live = self.is_live(&hash, Some(row));
        match self.read_copy(&hash) {
            Ok(bytes) => {
                if !was_live {
                    let row = BlockMeta { state: CopyState::Live, ..row };
                    let mut batch = WriteBatch::default();
                    batch.put_cf(self.meta(), hash.0, row.encode());
                    self.write(batch)?;
                    self.quarantine.remove(&hash);
                    self.count(&row);
                    tracing::info!(block = %hash, "a copy in quarantine is good after all");
                }
                Ok(bytes)
            }
            Err(failure) => {
                let reason = match failure {
                    ReadFailure::Missing => "its bytes are gone".to_owned(),
                    ReadFailure::Bad(reason) => reason,
                };
                if was_live {
                    tracing::error!(block = %hash, reason, "a copy is damaged and now in quarantine");
                    metrics::counter!("reelraft_store_damaged_blocks_total").increment(1);
                    self.quarantine.insert(hash);
                    self.uncount(&row);
                    let mut batch = WriteBatch::default();
                    let row = BlockMeta { state: CopyState::Quarantined, ..row };
                    batch.put_cf(self.meta(), hash.0, row.encode());
                    // If this cannot be written, the next read after a start finds the damage again.
                    let _ = self.write(batch);
                }
                Err(StoreError::Damaged(hash))
            }
        }
    }

    /// Takes back a block that was written but could not be made durable. Only until the process ends: what is on disk
    /// then, the next start will see.
    pub(super) fn distrust(&self, hash: BlockHash) {
        let _lock = self.lock(&hash);
        let row = self.row(&hash);
        if let Some(row) = row
            && self.is_live(&hash, Some(row))
        {
            self.quarantine.insert(hash);
            self.uncount(&row);
        }
    }

    pub(super) fn has(&self, hash: &BlockHash) -> Result<bool, StoreError> {
        Ok(self.is_live(hash, self.row(hash)))
    }

    pub(super) fn delete_if(
        &self,
        hash: BlockHash,
        condition: Box<DeleteCondition>,
    ) -> Result<bool, StoreError> {
        let _lock = self.lock(&hash);
        let Some(row) = self.row(&hash) else {
            return Ok(false);
        };
        if !condition(&stored(hash, &row)) {
            return Ok(false);
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.blocks(), hash.0);
        batch.delete_cf(self.meta(), hash.0);
        self.write(batch)?;
        if self.is_live(&hash, Some(row)) {
            self.uncount(&row);
        }
        self.quarantine.remove(&hash);
        Ok(true)
    }

    /// Calls `visit` for each good block from `from` to `to`, both inclusive, in the order of their hashes.
    pub(super) fn scan(
        &self,
        from: BlockHash,
        to: BlockHash,
        visit: &mut dyn FnMut(StoredBlock) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.for_each_row(from, to, &mut |hash, meta| {
            if self.is_live(&hash, Some(meta)) {
                visit(stored(hash, &meta))
            } else {
                ControlFlow::Continue(())
            }
        })
        .map_err(|reason| StoreError::Unavailable { reason })
    }

    fn for_each_row(
        &self,
        from: BlockHash,
        to: BlockHash,
        visit: &mut dyn FnMut(BlockHash, BlockMeta) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from.0);
        options.fill_cache(false);
        for row in self.db.iterator_cf_opt(self.meta(), options, IteratorMode::Start) {
            let (key, value) = row.map_err(|error| error.to_string())?;
            let hash = BlockHash(key.as_ref().try_into().map_err(|_| "a key is no hash")?);
            if hash > to {
                break;
            }
            let meta = BlockMeta::decode(&value)
                .ok_or_else(|| format!("the row of block {hash} cannot be decoded"))?;
            if visit(hash, meta).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn read_copy(self: &Arc<Self>, hash: &BlockHash) -> Result<Bytes, ReadFailure> {
        let pinned = match PinnedBlock::read(Arc::clone(self), |engine| {
            engine.db.get_pinned_cf(engine.blocks(), hash.0)
        }) {
            Ok(Some(pinned)) => pinned,
            Ok(None) => return Err(ReadFailure::Missing),
            Err(error) => return Err(ReadFailure::Bad(error.to_string())),
        };
        let bytes = pinned.as_ref();
        let actual = BlockHash::of(bytes);
        if actual != *hash {
            return Err(ReadFailure::Bad(format!("its bytes have the hash {actual}")));
        }
        // Short values lie in the middle of a cached block of names, which must not stay pinned for their sake.
        Ok(if (bytes.len() as u64) < BLOB_BYTES_MIN {
            Bytes::copy_from_slice(bytes)
        } else {
            Bytes::from_owner(pinned)
        })
    }

    /// The row of a block; none when it cannot be read either, in which case the block has to be stored anew.
    fn row(&self, hash: &BlockHash) -> Option<BlockMeta> {
        match self.db.get_pinned_cf(self.meta(), hash.0) {
            Ok(row) => row.and_then(|row| BlockMeta::decode(&row)),
            Err(error) => {
                tracing::error!(block = %hash, %error, "the row of a block cannot be read");
                None
            }
        }
    }

    fn is_live(&self, hash: &BlockHash, row: Option<BlockMeta>) -> bool {
        row.is_some_and(|row| row.state == CopyState::Live) && !self.quarantine.contains(hash)
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let mut options = WriteOptions::default();
        options.set_sync(false);
        self.db
            .write_opt(batch, &options)
            .map_err(|error| StoreError::ReadOnly { reason: format!("write failed: {error}") })
    }

    fn check_free_space(&self) -> Result<(), StoreError> {
        // A file system that cannot say how full it is will say so when it is.
        let free_bytes = files::space(&self.path).map_or(u64::MAX, |space| space.free_bytes);
        if free_bytes < self.free_bytes_min {
            return Err(StoreError::Full { free_bytes });
        }
        Ok(())
    }

    fn lock(&self, hash: &BlockHash) -> MutexGuard<'_, ()> {
        self.locks[usize::from(hash.0[31]) % LOCKS].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, row: &BlockMeta) {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(u64::from(row.len), Ordering::Relaxed);
    }

    fn uncount(&self, row: &BlockMeta) {
        self.blocks.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(u64::from(row.len), Ordering::Relaxed);
    }

    fn blocks(&self) -> &ColumnFamily {
        self.db.cf_handle(BLOCKS).expect("opened with it")
    }

    fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("opened with it")
    }
}

/// What others are told of a copy.
fn stored(hash: BlockHash, row: &BlockMeta) -> StoredBlock {
    let BlockMeta { state: _, len, put_index, stored_ms } = *row;
    StoredBlock { hash, len, put_index, stored_ms }
}
