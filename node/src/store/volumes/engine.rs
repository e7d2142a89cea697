//! The blocking half of the store: what happens to one block at a time.

use std::fmt;
use std::fs;
use std::io;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use cluster::ids::BlockHash;

use super::extents::{Extent, Reservation, Volumes};
use super::file::{self, VolumeFile};
use super::index::Index;
use super::options::VolumeOptions;
use super::reclaimer::{self, Reclaimer};
use super::record::{HEADER_BYTES, Header};
use super::recovery;
use crate::files;
use crate::now_ms;
use crate::store::committer::Failure;
use crate::store::meta::{BlockMeta, CopyState};
use crate::store::quarantine::Quarantine;
use crate::store::{BLOCK_BYTES_MAX, DeleteCondition, StoreError, StoreStats, StoredBlock};

/// Locks for changing a block's row. Two blocks that share one wait for each other now and then; nothing else comes of it.
const LOCKS: usize = 64;

/// The volumes, within the directory of the rows.
const VOLUMES_DIRECTORY: &str = "volumes";

/// What a put has left to be made durable.
#[derive(Debug)]
pub(super) enum Change {
    /// A record that is written, and has no row yet.
    Record { hash: BlockHash, row: BlockMeta, reservation: Reservation },
    /// Nothing but rows, if anything at all.
    Rows,
}

/// Why a copy cannot be read.
enum ReadFailure {
    /// There is none.
    Missing,
    /// It is not what it should be.
    Bad(String),
    /// Nothing is known of it: something else is missing at this moment, or somebody has changed who may read it.
    Passing(String),
}

/// How much a read has to prove.
#[derive(Clone, Copy)]
enum Read {
    /// What the kernel has in memory is good enough.
    Any,
    /// The bytes on the disk are meant.
    FromDisk,
}

pub(super) struct Engine {
    path: PathBuf,
    index: Arc<Index>,
    volumes: Arc<Volumes>,
    reclaimer: Reclaimer,
    free_bytes_min: u64,
    quarantine: Quarantine,
    locks: [Mutex<()>; LOCKS],
    blocks: AtomicU64,
    bytes: AtomicU64,
    /// Whether a row was changed since rows were last made durable, in a way that no record tells of.
    has_raised: AtomicBool,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Engine {
    pub(super) fn open(
        path: &Path,
        options: &VolumeOptions,
        failure: Failure,
    ) -> Result<Self, String> {
        let failed = |error: io::Error| error.to_string();
        let index = Arc::new(Index::open(path, options)?);
        let directory = path.join(VOLUMES_DIRECTORY);
        if !directory.exists() {
            fs::create_dir(&directory).map_err(failed)?;
            files::sync_directory(path).map_err(failed)?;
        }
        let (tasks, told) = reclaimer::queue();
        let volumes = Volumes::open(&directory, options.volume_bytes, tasks.clone());
        let volumes = Arc::new(volumes.map_err(failed)?);
        recovery::recover(&index, &volumes)?;

        let quarantine = Quarantine::default();
        let (mut blocks, mut bytes) = (0, 0);
        index.for_all_rows(&mut |hash, row| {
            recovery::occupy(&volumes, &row);
            match row.state {
                CopyState::Live => {
                    blocks += 1;
                    bytes += u64::from(row.len);
                }
                CopyState::Quarantined => quarantine.insert(hash),
            }
        })?;
        volumes.resume().map_err(failed)?;
        let reclaimer =
            Reclaimer::start((tasks, told), Arc::clone(&index), Arc::clone(&volumes), failure);
        Ok(Self {
            path: path.to_owned(),
            index,
            volumes,
            reclaimer: reclaimer
                .map_err(|error| format!("start the reclaiming thread: {error}"))?,
            free_bytes_min: options.free_bytes_min,
            quarantine,
            locks: std::array::from_fn(|_| Mutex::default()),
            blocks: AtomicU64::new(blocks),
            bytes: AtomicU64::new(bytes),
            has_raised: AtomicBool::new(false),
        })
    }

    pub(super) fn stats(&self) -> StoreStats {
        let (allocated_bytes, volumes) = self.volumes.on_disk();
        StoreStats {
            blocks: self.blocks.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            quarantined: self.quarantine.len() as u64,
            allocated_bytes,
            volumes,
            frees_whole_volumes_only: self.reclaimer.cannot_punch(),
        }
    }

    /// Writes a block, not yet durably, and not to be seen by anybody until [`Self::place`].
    pub(super) fn put(
        &self,
        hash: BlockHash,
        bytes: &[u8],
        put_index: u64,
    ) -> Result<Change, StoreError> {
        let len = match u32::try_from(bytes.len()) {
            Ok(len) if (1..=BLOCK_BYTES_MAX).contains(&bytes.len()) => len,
            _ => return Err(StoreError::BadLength(bytes.len())),
        };
        let actual = BlockHash::of(bytes);
        if actual != hash {
            return Err(StoreError::HashMismatch { expected: hash, actual });
        }

        let before = self.index.row(&hash);
        if let Some(row) = before
            && self.is_live(&hash, before)
            && self.read_copy(&hash, &row, Read::Any).is_ok()
            && self.raise(&hash, &row, put_index)?
        {
            return Ok(Change::Rows);
        }

        self.check_free_space()?;
        let header = Header {
            hash,
            len,
            put_index: before.map_or(put_index, |row| row.put_index.max(put_index)),
            stored_ms: before.map_or_else(now_ms, |row| row.stored_ms),
        };
        let written = self.volumes.reserve(len).and_then(|reservation| {
            reservation.write(&header, bytes)?;
            Ok(reservation)
        });
        let reservation = written.map_err(|error| {
            // What was reserved is free again, and nobody was told of it.
            if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                StoreError::Full { free_bytes: self.free_bytes() }
            } else if file::is_shortage(&error) {
                StoreError::Unavailable { reason: format!("write failed: {error}") }
            } else {
                StoreError::ReadOnly { reason: format!("write failed: {error}") }
            }
        })?;
        let row = BlockMeta {
            state: CopyState::Live,
            len,
            put_index: header.put_index,
            stored_ms: header.stored_ms,
            place: reservation.place(),
        };
        Ok(Change::Record { hash, row, reservation })
    }

    /// Raises the index of a copy that was found good, unless it has been replaced or deleted meanwhile. Whether it is still there.
    fn raise(
        &self,
        hash: &BlockHash,
        good: &BlockMeta,
        put_index: u64,
    ) -> Result<bool, StoreError> {
        let _lock = self.lock(hash);
        let now = self.index.row(hash);
        let Some(row) = now.filter(|row| row.place == good.place && self.is_live(hash, now)) else {
            return Ok(false);
        };
        if row.put_index < put_index {
            self.change_row(hash, &BlockMeta { put_index, ..row })?;
            self.has_raised.store(true, Ordering::Release);
        }
        Ok(true)
    }

    /// Raises the index of a good copy, not yet durably. Whether there is one.
    pub(super) fn keep(&self, hash: &BlockHash, put_index: u64) -> Result<bool, StoreError> {
        match self.index.row(hash) {
            Some(row) => self.raise(hash, &row, put_index),
            None => Ok(false),
        }
    }

    /// Makes rows durable if any was changed in a way that no record tells of.
    pub(super) fn sync_raised(&self) -> Result<bool, String> {
        // Taken back before, so that a change that comes meanwhile is not forgotten.
        let has_raised = self.has_raised.swap(false, Ordering::AcqRel);
        if has_raised {
            self.index.sync()?;
        }
        Ok(has_raised)
    }

    pub(super) fn sync_rows(&self) -> Result<(), String> {
        self.has_raised.store(false, Ordering::Release);
        self.index.sync()
    }

    /// Lets the row of a block point to a record that is durable.
    pub(super) fn place(
        &self,
        hash: BlockHash,
        mut row: BlockMeta,
        reservation: Reservation,
    ) -> Result<(), String> {
        let lock = self.lock(&hash);
        let before = self.index.row(&hash);
        let was_live = self.is_live(&hash, before);
        if let Some(before) = before {
            row.put_index = row.put_index.max(before.put_index);
            row.stored_ms = row.stored_ms.min(before.stored_ms);
        }
        self.index.put_row(&hash, &row)?;
        reservation.settle();
        if let Some(before) = before.filter(|_| was_live) {
            self.uncount(&before);
        }
        self.count(&row);
        self.quarantine.remove(&hash);
        drop(lock);
        if let Some(before) = before {
            self.volumes.free_later(Extent::of(before.place, before.len));
        }
        Ok(())
    }

    /// Notes how far a volume has been settled, once the rows are placed.
    pub(super) fn note_tail(&self, volume: u32) -> Result<(), String> {
        match self.volumes.tail(volume) {
            Some(tail) => self.index.put_tail(volume, tail),
            None => Ok(()),
        }
    }

    pub(super) fn measure(&self, file: &VolumeFile) {
        self.volumes.measure(file);
    }

    /// The bytes of a block, verified. A bad copy goes into quarantine.
    pub(super) fn get(&self, hash: BlockHash) -> Result<Bytes, StoreError> {
        self.read(hash, Read::Any)
    }

    /// Reads a copy from the disk and notes whether it is good.
    pub(super) fn verify(&self, hash: BlockHash) -> Result<(), StoreError> {
        if self.quarantine.contains(&hash) {
            let _lock = self.lock(&hash);
            return self.settle(hash, Read::FromDisk).map(drop);
        }
        self.read(hash, Read::FromDisk).map(drop)
    }

    fn read(&self, hash: BlockHash, read: Read) -> Result<Bytes, StoreError> {
        if self.quarantine.contains(&hash) {
            return Err(StoreError::Damaged(hash));
        }
        let Some(row) = self.index.row(&hash) else {
            return Err(StoreError::NotFound(hash));
        };
        if let Ok(bytes) = self.read_copy(&hash, &row, read) {
            return Ok(bytes);
        }
        // It may have been replaced or deleted meanwhile: looked at again under its lock.
        let _lock = self.lock(&hash);
        self.settle(hash, read)
    }

    /// Under the block's lock, which keeps its record where it is.
    fn settle(&self, hash: BlockHash, read: Read) -> Result<Bytes, StoreError> {
        let Some(row) = self.index.row(&hash) else {
            return Err(StoreError::NotFound(hash));
        };
        let was_live = self.is_live(&hash, Some(row));
        match self.read_copy(&hash, &row, read) {
            Ok(bytes) => {
                if !was_live {
                    let row = BlockMeta { state: CopyState::Live, ..row };
                    self.change_row(&hash, &row)?;
                    // A put may be answered on the strength of this.
                    self.has_raised.store(true, Ordering::Release);
                    self.quarantine.remove(&hash);
                    self.count(&row);
                    tracing::info!(block = %hash, "a copy in quarantine is good after all");
                }
                Ok(bytes)
            }
            Err(failure) => {
                let reason = match failure {
                    ReadFailure::Missing => "its volume is gone".to_owned(),
                    ReadFailure::Bad(reason) => reason,
                    ReadFailure::Passing(reason) => return Err(StoreError::Unavailable { reason }),
                };
                if was_live {
                    tracing::error!(block = %hash, reason, "a copy is damaged and now in quarantine");
                    metrics::counter!("reelraft_store_damaged_blocks_total").increment(1);
                    self.quarantine.insert(hash);
                    self.uncount(&row);
                    // If this cannot be written, the next read after a start finds the damage again.
                    let _ =
                        self.change_row(&hash, &BlockMeta { state: CopyState::Quarantined, ..row });
                }
                Err(StoreError::Damaged(hash))
            }
        }
    }

    pub(super) fn has(&self, hash: &BlockHash) -> Result<bool, StoreError> {
        Ok(self.is_live(hash, self.index.row(hash)))
    }

    pub(super) fn delete_if(
        &self,
        hash: BlockHash,
        condition: Box<DeleteCondition>,
    ) -> Result<bool, StoreError> {
        let lock = self.lock(&hash);
        let Some(row) = self.index.row(&hash) else {
            return Ok(false);
        };
        if !condition(&stored(hash, &row)) {
            return Ok(false);
        }
        self.index.delete_row(&hash).map_err(|reason| StoreError::ReadOnly { reason })?;
        if self.is_live(&hash, Some(row)) {
            self.uncount(&row);
        }
        self.quarantine.remove(&hash);
        drop(lock);
        self.volumes.free_later(Extent::of(row.place, row.len));
        Ok(true)
    }

    /// Calls `visit` for each good block from `from` to `to`, both inclusive, in the order of their hashes.
    pub(super) fn scan(
        &self,
        from: BlockHash,
        to: BlockHash,
        visit: &mut dyn FnMut(StoredBlock) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        self.index
            .for_each_row(from, to, &mut |hash, row| {
                if self.is_live(&hash, Some(row)) {
                    visit(stored(hash, &row))
                } else {
                    ControlFlow::Continue(())
                }
            })
            .map_err(|reason| StoreError::Unavailable { reason })
    }

    /// The copies in quarantine from `from` to `to`, both inclusive, `limit` at most.
    pub(super) fn list_quarantined(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Vec<StoredBlock> {
        let mut found = Vec::new();
        let mut after = Bound::Included(from);
        while found.len() < limit && !is_past(after, to) {
            let page = self.quarantine.page((after, Bound::Included(to)), limit - found.len());
            let Some(last) = page.last() else {
                break;
            };
            after = Bound::Excluded(*last);
            // One without a row is being deleted just now.
            let rows = page.iter().filter_map(|hash| Some(stored(*hash, &self.index.row(hash)?)));
            found.extend(rows);
        }
        found
    }

    fn read_copy(
        &self,
        hash: &BlockHash,
        row: &BlockMeta,
        read: Read,
    ) -> Result<Bytes, ReadFailure> {
        let file = self.volumes.file(row.place.volume).map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                ReadFailure::Missing
            } else if file::is_disk_failure(&error) {
                ReadFailure::Bad(error.to_string())
            } else {
                let number = row.place.volume;
                ReadFailure::Passing(format!("volume {number} cannot be opened: {error}"))
            }
        })?;
        let (offset, len) = (row.place.offset + HEADER_BYTES as u64, row.len as usize);
        // What somebody reads again and again may stay in memory, but it says nothing about the disk.
        let forget = matches!(read, Read::FromDisk).then(|| !file.is_cached(offset));
        if forget.is_some() {
            file.forget_cached(row.place.offset, Extent::of(row.place, row.len).bytes);
        }
        let bytes = file.read(offset, len).map_err(|error| {
            if file::is_shortage(&error) {
                ReadFailure::Passing(format!("volume {} cannot be read: {error}", file.number))
            } else {
                ReadFailure::Bad(error.to_string())
            }
        })?;
        if forget == Some(true) {
            file.forget_cached(row.place.offset, Extent::of(row.place, row.len).bytes);
        }
        let actual = BlockHash::of(&bytes);
        if actual != *hash {
            return Err(ReadFailure::Bad(format!("its bytes have the hash {actual}")));
        }
        Ok(bytes.into())
    }

    fn is_live(&self, hash: &BlockHash, row: Option<BlockMeta>) -> bool {
        row.is_some_and(|row| row.state == CopyState::Live) && !self.quarantine.contains(hash)
    }

    fn change_row(&self, hash: &BlockHash, row: &BlockMeta) -> Result<(), StoreError> {
        self.index.put_row(hash, row).map_err(|reason| StoreError::ReadOnly { reason })
    }

    fn check_free_space(&self) -> Result<(), StoreError> {
        let free_bytes = self.free_bytes();
        if free_bytes < self.free_bytes_min {
            return Err(StoreError::Full { free_bytes });
        }
        Ok(())
    }

    fn free_bytes(&self) -> u64 {
        // A file system that cannot say how full it is will say so when it is.
        files::space(&self.path).map_or(u64::MAX, |space| space.free_bytes)
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
}

/// Whether nothing lies between the two, which a range of a set must not be asked for.
fn is_past(from: Bound<BlockHash>, to: BlockHash) -> bool {
    match from {
        Bound::Included(from) => from > to,
        Bound::Excluded(from) => from >= to,
        Bound::Unbounded => false,
    }
}

/// What others are told of a copy.
fn stored(hash: BlockHash, row: &BlockMeta) -> StoredBlock {
    let BlockMeta { state: _, len, put_index, stored_ms, place: _ } = *row;
    StoredBlock { hash, len, put_index, stored_ms }
}

#[cfg(test)]
impl Engine {
    /// What a process that is killed between the two halves of a deletion leaves.
    pub(super) fn delete_row_only(&self, hash: &BlockHash) {
        self.index.delete_row(hash).unwrap();
    }

    pub(super) fn place_of(&self, hash: &BlockHash) -> Option<crate::store::meta::Place> {
        self.index.row(hash).map(|row| row.place)
    }
}
