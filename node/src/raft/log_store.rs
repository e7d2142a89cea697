//! The log and the vote, in a RocksDB of their own: an fsync of a vote must not wait behind megabytes of blocks.
//!
//! # Invariants
//!
//! - Everything is written in the order in which consensus asked for it, votes and entries alike, into one write-ahead log.
//!   So whatever a crash leaves is a prefix of what happened.
//! - Entries can be read as soon as [`append`](RaftLogStorage::append) returns; its callback is called when they are on
//!   disk. A vote is on disk when [`save_vote`](RaftLogStorage::save_vote) returns.
//! - A write that was cut off at the very end of the write-ahead log is dropped: nobody was told of it. Damage anywhere else
//!   is refused: going on with less than was promised to other nodes could undo a decision. [`durable_mark`] tells the two
//!   apart where RocksDB cannot.
//! - Indexes are contiguous from the purged one to the last one, which is verified when the store is opened.
//!
//! The newest entries are kept in memory as well: replication and application read each of them within milliseconds of its
//! writing, and should not have to decode it again.

mod durable_mark;
mod flusher;
mod tail;

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::codec;
use futures::Stream;
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRecoveryMode, IteratorMode,
    Options, ReadOptions, WriteBatch,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub(super) use self::flusher::{Disk, DiskHealth};

use self::durable_mark::WriteAheadLog;
use self::flusher::{Flusher, Waiter};
use self::tail::Tail;
use super::types::{Entry, LogId, TypeConfig, Vote, entry_bytes};
use crate::files::write_durably;
use crate::rpc::envelope::LocalNode;
use crate::state::{REMEDY_FOR_DISK, find_damage, is_about_the_disk};

const LOG: &str = "log";
const META: &str = "meta";

/// A file beside the database that says that it has been written to, so that one which has vanished is not taken for new.
const CLAIMED: &str = "claimed";

const IDENTITY_KEY: &[u8] = b"identity";
const VOTE_KEY: &[u8] = b"vote";
const PURGED_KEY: &[u8] = b"purged";
const COMMITTED_KEY: &[u8] = b"committed";

/// Bytes of entries in memory before RocksDB writes them to a sorted file.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// The most bytes and entries that one read for replication or application returns: enough to fill a round trip, little
/// enough that some of them in flight to each node do not matter.
const READ_BYTES_MAX: usize = 1 << 20;
const READ_ENTRIES_MAX: u64 = 256;

/// Why the log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogStoreError {
    #[error(
        "the log in {path} cannot be used: {reason}. This node must not vote with less than it promised to remember. Stop \
         it, move its data directory away and let it join again as a new node"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("the log in {path} cannot be opened: {reason}. {REMEDY_FOR_DISK}")]
    Disk { path: PathBuf, reason: String },
    #[error(
        "the log in {path} is that of node {found_node} in cluster {found_cluster}: it was moved here from another node. \
         Put back the directory that belongs to this node"
    )]
    Foreign { path: PathBuf, found_node: u64, found_cluster: String },
}

/// Whose log this is.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Owner {
    #[serde(with = "codec::bytes")]
    cluster_id: Vec<u8>,
    node_id: u64,
}

/// The log of this node. Clones share it; each serves as a reader too.
#[derive(Clone)]
pub(super) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    db: Arc<DB>,
    tail: Mutex<Tail>,
    vote: Mutex<Option<Vote>>,
    /// How far the log is decided, as long as that is not written down.
    committed: Mutex<Option<LogId>>,
    flusher: Flusher,
}

impl Drop for Shared {
    fn drop(&mut self) {
        let committed = self.committed.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(committed) = committed {
            let value = codec::encode(&Some(committed));
            // Nothing depends on it, and the disk may be the reason for the end.
            let _ = self.db.put_cf(family(&self.db, META), COMMITTED_KEY, value);
        }
    }
}

impl LogStore {
    /// Opens the log of `owner` at `path`, and makes an empty one where there is none.
    ///
    /// # Errors
    /// When it is damaged or somebody else's, or the disk fails.
    pub(super) fn open(path: &Path, owner: LocalNode) -> Result<Self, LogStoreError> {
        Self::open_on(path, owner, |disk| disk)
    }

    /// Like [`open`](Self::open). `on_disk` may put something around the disk that brings the log's writes to rest.
    pub(super) fn open_on(
        path: &Path,
        owner: LocalNode,
        on_disk: impl FnOnce(Box<dyn Disk>) -> Box<dyn Disk>,
    ) -> Result<Self, LogStoreError> {
        let damaged = |reason: String| LogStoreError::Damaged { path: path.to_owned(), reason };
        let disk_failed = |error: io::Error| LogStoreError::Disk {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let marker = path.join(CLAIMED);
        let claimed = marker.exists();
        if claimed && !has_write_ahead_log(path).map_err(disk_failed)? {
            return Err(damaged("its write-ahead log is missing".to_owned()));
        }
        if let Some(reason) = find_damage(path).map_err(disk_failed)? {
            return Err(damaged(reason));
        }
        let marked = match durable_mark::keep_greatest(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(damaged(error.to_string()));
            }
            read => read.map_err(disk_failed)?,
        };
        let families = [LOG, META].map(|name| ColumnFamilyDescriptor::new(name, family_options()));
        let db = DB::open_cf_descriptors(&database_options(), path, families).map_err(|error| {
            if is_about_the_disk(&error) {
                LogStoreError::Disk { path: path.to_owned(), reason: error.into_string() }
            } else {
                damaged(error.into_string())
            }
        })?;
        let found = db.latest_sequence_number();
        if let Some(marked) = marked
            && found < marked
        {
            return Err(damaged(format!(
                "writes up to {marked} were on disk, those after {found} cannot be read any more"
            )));
        }
        claim(&db, path, owner, claimed)?;
        if !claimed {
            write_durably(&marker, b"").map_err(disk_failed)?;
        }
        let vote = read_meta(&db, VOTE_KEY).map_err(|error| damaged(error.to_string()))?;
        let purged = read_meta(&db, PURGED_KEY).map_err(|error| damaged(error.to_string()))?;
        let ends = verify_contiguous(&db, purged.as_ref()).map_err(damaged)?;
        let db = Arc::new(db);
        // What was found when the database was opened has been written to sorted files, durably.
        let last = ends.as_ref().map(|(_, last)| last.index);
        let disk = on_disk(Box::new(WriteAheadLog::new(Arc::clone(&db))));
        Ok(Self {
            shared: Arc::new(Shared {
                flusher: Flusher::start(disk, last),
                db,
                tail: Mutex::new(Tail::new(purged, ends)),
                vote: Mutex::new(vote),
                committed: Mutex::default(),
            }),
        })
    }

    /// Whether it has never been part of anything: no vote, no entry, nothing removed.
    pub(super) fn is_pristine(&self) -> bool {
        let vote = self.shared.vote.lock().unwrap_or_else(PoisonError::into_inner);
        vote.is_none() && self.tail().last().is_none()
    }

    /// The last entry that was removed from the front.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.tail().purged()
    }

    /// The last entry, or the last one that was removed from the front when there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.tail().last()
    }

    /// How its disk does.
    pub(super) fn health(&self) -> Arc<DiskHealth> {
        Arc::clone(self.shared.flusher.health())
    }

    /// Has the disk asked for a sign of life.
    pub(super) fn ask_disk(&self) {
        self.shared.flusher.submit_canary();
    }

    fn db(&self) -> &DB {
        &self.shared.db
    }

    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.shared.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn committed(&self) -> MutexGuard<'_, Option<LogId>> {
        self.shared.committed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_meta<T: Serialize>(&self, key: &[u8], value: &T) -> io::Result<()> {
        self.writing(|db| db.put_cf(family(db, META), key, codec::encode(value)))
    }

    /// Does one write, which may block on the disk.
    fn writing(&self, write: impl FnOnce(&DB) -> Result<(), rocksdb::Error>) -> io::Result<()> {
        self.shared.flusher.health().while_writing(|| write(self.db())).map_err(storage_error)
    }

    /// Entries from `start` until `end` (exclusive), fewer if they are long or many; contiguous, and at least one where
    /// `start` is in the log.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let end = {
            let tail = self.tail();
            let start = start.max(tail.first_index());
            let end = end.min(tail.next_index());
            if start >= end {
                return Ok(Vec::new());
            }
            if let Some(entries) = tail.recent(start, end, bytes_max) {
                return Ok(entries);
            }
            end
        };
        // Older than what memory holds. Such entries can only vanish from the front, by a purge.
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(key(start));
        options.set_iterate_upper_bound(key(end));
        let rows = self.db().iterator_cf_opt(family(self.db(), LOG), options, IteratorMode::Start);
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for row in rows {
            let (row_key, value) = row.map_err(storage_error)?;
            let entry = decode_entry(&row_key, &value)?;
            if let Some(before) = entries.last()
                && entry.log_id.index != before.log_id.index + 1
            {
                return Err(io::Error::other(format!(
                    "the log has no entry between {} and {}",
                    before.log_id.index, entry.log_id.index
                )));
            }
            bytes += entry_bytes(&entry);
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        let first = start.max(self.tail().first_index());
        if first < end && entries.first().is_none_or(|entry| entry.log_id.index != first) {
            return Err(io::Error::other(format!("entry {first} is missing in the log")));
        }
        Ok(entries)
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // Finds older write-ahead logs that are missing or shorter than they were; see `has_write_ahead_log` for the newest.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_max_background_jobs(2);
    options.set_max_open_files(128);
    options.set_keep_log_file_num(4);
    options.set_stats_dump_period_sec(0);
    options
}

fn family_options() -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_compression_type(DBCompressionType::None);
    options
}

fn family<'a>(db: &'a DB, name: &str) -> &'a ColumnFamily {
    db.cf_handle(name).expect("the database was opened with both families")
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

fn storage_error(error: rocksdb::Error) -> io::Error {
    io::Error::other(error.into_string())
}

fn decode_entry(row_key: &[u8], value: &[u8]) -> io::Result<Entry> {
    let entry: Entry = codec::decode(value).map_err(|error| {
        io::Error::other(format!("entry {} cannot be decoded: {error}", hex::encode(row_key)))
    })?;
    if row_key != key(entry.log_id.index) {
        return Err(io::Error::other(format!(
            "entry {} stands at the place of another",
            entry.log_id.index
        )));
    }
    Ok(entry)
}

fn read_meta<T: DeserializeOwned>(db: &DB, name: &[u8]) -> io::Result<Option<T>> {
    let Some(value) = db.get_cf(family(db, META), name).map_err(storage_error)? else {
        return Ok(None);
    };
    codec::decode(&value).map(Some).map_err(|error| {
        io::Error::other(format!("{} cannot be decoded: {error}", String::from_utf8_lossy(name)))
    })
}

/// Whether the newest write-ahead log is there: a database that was ever opened has one.
fn has_write_ahead_log(path: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        if entry?.path().extension().is_some_and(|extension| extension == "log") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Writes the owner into a new log, and refuses another owner's.
fn claim(db: &DB, path: &Path, owner: LocalNode, claimed: bool) -> Result<(), LogStoreError> {
    let damaged = |error: io::Error| LogStoreError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    let expected = Owner { cluster_id: owner.cluster_id.to_vec(), node_id: owner.node_id.0 };
    match read_meta::<Owner>(db, IDENTITY_KEY).map_err(damaged)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(LogStoreError::Foreign {
            path: path.to_owned(),
            found_node: found.node_id,
            found_cluster: hex::encode(found.cluster_id),
        }),
        None if claimed => {
            Err(damaged(io::Error::other("it does not know any more whose log it is")))
        }
        None => db
            .put_cf(family(db, META), IDENTITY_KEY, codec::encode(&expected))
            .and_then(|()| db.flush_wal(true))
            .map_err(|error| damaged(storage_error(error))),
    }
}

/// The index of the first entry and the id of the last one, after a look at every index.
fn verify_contiguous(db: &DB, purged: Option<&LogId>) -> Result<Option<(u64, LogId)>, String> {
    let mut rows = db.raw_iterator_cf(family(db, LOG));
    let mut first = None;
    let mut expected = purged.map(|purged| purged.index + 1);
    rows.seek_to_first();
    while let Some(row_key) = rows.key() {
        let index = row_key
            .try_into()
            .map(u64::from_be_bytes)
            .map_err(|_| format!("{} is not the key of an entry", hex::encode(row_key)))?;
        if let Some(expected) = expected
            && index != expected
        {
            return Err(format!("entry {expected} is missing, the next one is {index}"));
        }
        first = first.or(Some(index));
        expected = Some(index + 1);
        rows.next();
    }
    rows.status().map_err(rocksdb::Error::into_string)?;
    let Some(first) = first else { return Ok(None) };
    rows.seek_to_last();
    let Some((row_key, value)) = rows.item() else {
        return Err("its last entry cannot be read".to_owned());
    };
    let last = decode_entry(row_key, value).map_err(|error| error.to_string())?;
    Ok(Some((first, last.log_id)))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let (start, end) = half_open(&range);
        self.read(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end.min(start.saturating_add(READ_ENTRIES_MAX)), READ_BYTES_MAX)
    }

    /// Reads as the consumer goes, never the whole range at once.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = half_open(&range);
        let chunks = futures::stream::try_unfold((self.clone(), start), move |(store, start)| {
            let step = || -> io::Result<_> {
                if start >= end {
                    return Ok(None);
                }
                let until = end.min(start.saturating_add(READ_ENTRIES_MAX));
                let entries = store.read(start, until, READ_BYTES_MAX)?;
                let Some(last) = entries.last() else { return Ok(None) };
                let next = last.log_id.index + 1;
                let entries = futures::stream::iter(entries.into_iter().map(Ok));
                Ok(Some((entries, (store, next))))
            };
            std::future::ready(step())
        });
        futures::TryStreamExt::try_flatten(chunks)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(*self.shared.vote.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let tail = self.tail();
        Ok(LogState { last_purged_log_id: tail.purged(), last_log_id: tail.last() })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        self.put_meta(VOTE_KEY, vote)?;
        let (done, flushed) = tokio::sync::oneshot::channel();
        self.shared.flusher.submit(Waiter::Vote(done)).await?;
        flushed.await.map_err(|_| io::Error::other("the flusher has stopped"))??;
        *self.shared.vote.lock().unwrap_or_else(PoisonError::into_inner) = Some(*vote);
        Ok(())
    }

    /// Written with the next entries or at the end, and not before: a write of its own would cost each command as much as the
    /// entry itself. An older value only means that a node that starts waits for a leader to tell it the newer one, and that a
    /// recovery ([`mod@super::salvage`]) knows of fewer entries for certain.
    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        *self.committed() = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        let pending = *self.committed();
        match pending {
            Some(committed) => Ok(Some(committed)),
            None => Ok(read_meta::<Option<LogId>>(self.db(), COMMITTED_KEY)?.flatten()),
        }
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::default();
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let log = family(self.db(), LOG);
            let mut expected = self.tail().last().map(|last| last.index + 1);
            for entry in &entries {
                let index = entry.log_id.index;
                if let Some(expected) = expected
                    && index != expected
                {
                    return Err(io::Error::other(format!(
                        "entry {index} cannot follow: {expected} is next"
                    )));
                }
                expected = Some(index + 1);
                batch.put_cf(log, key(index), codec::encode(entry));
            }
        }
        let (count, last) = (entries.len(), entries.last().map(|entry| entry.log_id.index));
        if let Some(committed) = self.committed().take() {
            batch.put_cf(family(self.db(), META), COMMITTED_KEY, codec::encode(&Some(committed)));
        }
        self.writing(|db| db.write(batch))?;
        self.tail().append(entries);
        metrics::counter!("reelraft_raft_appended_entries_total").increment(count as u64);
        self.shared.flusher.submit(Waiter::Entries(callback, last)).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        let mut tail = self.tail();
        let from = last_log_id.as_ref().map_or(0, |last| last.index + 1);
        let until = tail.next_index();
        if from < until {
            self.writing(|db| db.delete_range_cf(family(db, LOG), key(from), key(until)))?;
        }
        self.shared.flusher.health().truncated(from);
        tail.truncate(last_log_id);
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut tail = self.tail();
        // Only what is there: ranges that overlap would pile up and slow every read down.
        let from = tail.first_index();
        let until = log_id.index + 1;
        let mut batch = WriteBatch::default();
        batch.put_cf(family(self.db(), META), PURGED_KEY, codec::encode(&log_id));
        if from < until {
            batch.delete_range_cf(family(self.db(), LOG), key(from), key(until));
        }
        self.writing(|db| db.write(batch))?;
        tail.purge(log_id);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
