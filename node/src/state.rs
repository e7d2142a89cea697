//! The catalog on disk: RocksDB behind [`cluster::view::View`].
//!
//! The tables are column families of one database; one more holds what consensus has to remember with them (the last entry
//! applied, the membership). Both are written in one batch, so the tables always say how far they have come.
//!
//! # Durability
//!
//! Writes here are *not* fsynced. Every change is an entry of the log, which is fsynced before it counts, and entries are
//! removed from the log only after a snapshot of this database, which flushes it, contains them. After a killed process
//! nothing is missing, because the kernel has the writes; after a power failure the newest writes may be, and are then
//! applied again from the log. RocksDB recovers to a consistent point in time for that, and the batch tells which.
//!
//! # Damage
//!
//! Every block that RocksDB reads has a checksum, so damage is found when it is read; [`StateDb::verify`] reads everything
//! once. Whoever finds it, the catalog is *condemned*: the file `damaged` says why, and it is not opened again. The other
//! nodes have the catalog, so nothing has to be saved from this one.
//!
//! # Being replaced
//!
//! A node that fell far behind receives a whole database instead of entries ([`StateDb::replace`]). `active` names the
//! directory in use and is changed by an atomic rename, so a crash leaves the old or the new tables, never a mixture.
//! Readers of the old database finish on it; it is removed from disk with the last of them.

mod crash;
mod directory;
mod records;
mod snapshot;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use cluster::view::{self, TableId, View, ViewError, Visitor};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRecoveryMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use crate::files::write_durably;
pub(crate) use crash::CrashPoint;

pub(crate) use directory::{link_or_copy, link_or_copy_all};
pub(crate) use records::find_damage;
pub use snapshot::SnapshotView;

/// Raised when the arrangement of the database changes so that an older program must not touch it.
const FORMAT: &[u8] = b"1";
const FORMAT_KEY: &[u8] = b"format";

/// The file beside the databases that says why they must not be used.
const DAMAGED: &str = "damaged";

/// The column family beside the tables.
const META: &str = "sm";

/// Bytes of changes kept in memory before they are written to a sorted file, over all tables together.
const WRITE_BUFFER_BYTES: usize = 32 << 20;

/// Bytes of the database's files kept in memory, unpacked, over all tables together.
const BLOCK_CACHE_BYTES: usize = 32 << 20;

/// Bytes of write-ahead log after which tables that are seldom written are flushed too, so that a start replays no more.
const WAL_BYTES_MAX: u64 = 128 << 20;

/// Files held open. Above it RocksDB closes the least recently used; a catalog of a million rows has a few dozen.
const OPEN_FILES_MAX: i32 = 512;

/// Why the catalog on disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "the catalog in {path} cannot be opened: {reason}. This node cannot use it. Stop it, move its data directory away \
         and let it join again as a new node; the other nodes have the catalog"
    )]
    Open { path: PathBuf, reason: String },
    #[error("the catalog in {path} cannot be opened: {reason}. {REMEDY_FOR_DISK}")]
    Disk { path: PathBuf, reason: String },
    #[error(
        "the catalog in {path} was written by another version of this program (format {found:?})"
    )]
    Format { path: PathBuf, found: String },
    #[error("read the catalog: {0}")]
    Read(String),
    #[error("write the catalog: {0}")]
    Write(String),
    #[error("{action} {path}: {source}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// What to do when a database cannot be opened although nothing is wrong with what is in it.
pub(crate) const REMEDY_FOR_DISK: &str = "Nothing is lost: put right what is said here (space, permissions, another process), \
                                          then start this node again";

/// Whether an error is about the disk and not about what is on it. Files that are missing are the latter.
pub(crate) fn is_about_the_disk(error: &rocksdb::Error) -> bool {
    error.kind() == rocksdb::ErrorKind::IOError && !error.as_ref().contains("No such file")
}

impl StateError {
    fn open(path: &Path, error: rocksdb::Error) -> Self {
        let path = path.to_owned();
        if is_about_the_disk(&error) {
            Self::Disk { path, reason: error.into_string() }
        } else {
            Self::Open { path, reason: error.into_string() }
        }
    }

    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// The catalog of this node. Cheap to share behind an `Arc`; reads run in parallel with each other and with the writer.
pub struct StateDb {
    root: PathBuf,
    current: RwLock<Arc<OpenDb>>,
}

/// A database in use, removed from disk when it has been replaced and nobody reads it any more.
struct OpenDb {
    /// `None` only while being dropped.
    db: Option<DB>,
    path: PathBuf,
    replaced: AtomicBool,
}

impl OpenDb {
    fn open(path: &Path) -> Result<Self, StateError> {
        let refused = |error: rocksdb::Error| StateError::open(path, error);
        if let Some(reason) = find_damage(path).map_err(StateError::io("read", path))? {
            return Err(StateError::Open { path: path.to_owned(), reason });
        }
        let cache = Cache::new_lru_cache(BLOCK_CACHE_BYTES);
        let families = TableId::ALL
            .iter()
            .map(|table| table.name())
            .chain([META])
            .map(|name| ColumnFamilyDescriptor::new(name, table_options(&cache)));
        let db = DB::open_cf_descriptors(&database_options(), path, families).map_err(refused)?;
        let opened = Self { db: Some(db), path: path.to_owned(), replaced: AtomicBool::new(false) };
        match opened.meta(FORMAT_KEY)? {
            Some(found) if found == FORMAT => {}
            Some(found) => {
                return Err(StateError::Format {
                    path: path.to_owned(),
                    found: String::from_utf8_lossy(&found).into_owned(),
                });
            }
            None => opened
                .db()
                .put_cf(opened.family(META), FORMAT_KEY, FORMAT)
                .map_err(|error| StateError::Write(error.into_string()))?,
        }
        Ok(opened)
    }

    fn db(&self) -> &DB {
        self.db.as_ref().expect("the database is taken out only when this is dropped")
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db().cf_handle(name).expect("the database was opened with every table")
    }

    fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.db()
            .get_cf(self.family(META), key)
            .map_err(|error| StateError::Read(self.explain(error)))
    }

    fn is_replaced(&self) -> bool {
        self.replaced.load(Ordering::Acquire)
    }

    /// What an error says, after it has been noted if it says that the files are damaged.
    fn explain(&self, error: rocksdb::Error) -> String {
        let damaged = error.kind() == rocksdb::ErrorKind::Corruption;
        let reason = error.into_string();
        // Who still reads a catalog that was replaced must not condemn the one that took its place.
        if damaged
            && !self.is_replaced()
            && let Some(root) = self.path.parent()
        {
            tracing::error!(reason, path = %self.path.display(), "the catalog on this disk is damaged");
            if let Err(error) = write_durably(&root.join(DAMAGED), reason.as_bytes()) {
                tracing::error!(%error, "that the catalog is damaged could not be noted");
            }
        }
        reason
    }

    fn view_error(&self, table: TableId, error: rocksdb::Error) -> ViewError {
        ViewError { table: table.name(), reason: self.explain(error) }
    }
}

impl Drop for OpenDb {
    fn drop(&mut self) {
        // Close first: RocksDB writes to its directory while it is open.
        drop(self.db.take());
        if self.replaced.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            // Not lost: whatever `active` does not name is removed at the next start.
            tracing::warn!(path = %self.path.display(), %error, "a replaced catalog stays on disk for now");
        }
    }
}

fn database_options() -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // See "Durability" above: what a power failure cut off is applied again from the log.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_db_write_buffer_size(WRITE_BUFFER_BYTES);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    options.set_keep_log_file_num(4);
    options.set_stats_dump_period_sec(0);
    options
}

fn table_options(cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    // 1 % of lookups of absent keys read a file; most lookups while applying are of absent keys (deduplication).
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_block_based_table_factory(&blocks);
    options
}

impl StateDb {
    /// Refuses the catalog below `root` if it has been found damaged, whenever that was.
    ///
    /// # Errors
    /// When it has, with what to do.
    pub(crate) fn refuse_condemned(root: &Path) -> Result<(), StateError> {
        let damaged = root.join(DAMAGED);
        if !damaged.exists() {
            return Ok(());
        }
        let reason = fs::read_to_string(damaged).unwrap_or_else(|error| error.to_string());
        Err(StateError::Open { path: root.to_owned(), reason })
    }

    /// Opens the catalog below `root`, and makes an empty one where there is none.
    ///
    /// # Errors
    /// When it is damaged, of another format, in use, or the disk fails.
    pub fn open(root: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(root).map_err(StateError::io("create", root))?;
        Self::refuse_condemned(root)?;
        let active = match directory::read_active(root)? {
            Some(active) => active,
            None => {
                directory::write_active(root, directory::FIRST)?;
                directory::FIRST.to_owned()
            }
        };
        directory::remove_others(root, &active)?;
        let opened = OpenDb::open(&root.join(active))?;
        Ok(Self { root: root.to_owned(), current: RwLock::new(Arc::new(opened)) })
    }

    fn current(&self) -> Arc<OpenDb> {
        // A panic while the lock was held cannot leave the pointer half written.
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Writes `batch` and `meta`, both or neither. In the kernel's hands when this returns, not necessarily on disk.
    ///
    /// # Errors
    /// When RocksDB cannot write; the node has to stop then.
    pub fn write(
        &self,
        batch: &view::WriteBatch,
        meta: &[(&[u8], Vec<u8>)],
    ) -> Result<(), StateError> {
        let current = self.current();
        let mut writes = WriteBatch::default();
        for ((table, key), value) in &batch.writes {
            let family = current.family(table.name());
            match value {
                Some(value) => writes.put_cf(family, key, value),
                None => writes.delete_cf(family, key),
            }
        }
        let family = current.family(META);
        for (key, value) in meta {
            writes.put_cf(family, key, value);
        }
        current
            .db()
            .write_opt(writes, &WriteOptions::default())
            .map_err(|error| StateError::Write(current.explain(error)))
    }

    /// What [`write`](Self::write) stored beside the tables.
    ///
    /// # Errors
    /// When RocksDB cannot read.
    pub fn meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        self.current().meta(key)
    }

    /// The catalog as it is now, for reads that belong together. Hold it briefly: it keeps old versions of rows on disk.
    #[must_use]
    pub fn snapshot_view(&self) -> SnapshotView {
        SnapshotView::take(self.current())
    }

    /// Reads everything once, so that damage is found before it is needed. Blocks for as long as that takes, and disturbs
    /// nobody who reads or writes meanwhile.
    ///
    /// Ends early when `stop` says so.
    ///
    /// # Errors
    /// [`StateError::Disk`] when it cannot be read, anything else when something is damaged; the catalog is condemned then.
    pub fn verify(&self, stop: impl Fn() -> bool) -> Result<(), StateError> {
        let current = self.current();
        for family in TableId::ALL.iter().map(|table| table.name()).chain([META]) {
            let mut options = ReadOptions::default();
            // What is read once need not drive out what is read often.
            options.fill_cache(false);
            let mut rows = current.db().raw_iterator_cf_opt(current.family(family), options);
            rows.seek_to_first();
            while rows.valid() && !stop() {
                rows.next();
            }
            if let Err(error) = rows.status() {
                if error.kind() != rocksdb::ErrorKind::Corruption {
                    let (path, reason) = (current.path.clone(), error.into_string());
                    return Err(StateError::Disk { path, reason });
                }
                if current.is_replaced() {
                    return Ok(());
                }
                return Err(StateError::Read(current.explain(error)));
            }
        }
        Ok(())
    }

    /// Brings all writes so far to disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn sync(&self) -> Result<(), StateError> {
        self.current().db().flush_wal(true).map_err(|error| StateError::Write(error.into_string()))
    }

    /// Makes a database at `path`, which must not exist, that holds the present state: mostly hard links. Everything in it
    /// is on disk when this returns, and so is everything written to this database before.
    ///
    /// # Errors
    /// When the disk fails or is full.
    pub fn checkpoint(&self, path: &Path) -> Result<(), StateError> {
        let current = self.current();
        Checkpoint::new(current.db())
            .and_then(|checkpoint| checkpoint.create_checkpoint(path))
            .map_err(|error| StateError::Write(error.into_string()))
    }

    /// Reads `key` of a database that [`checkpoint`](Self::checkpoint) made, without changing it.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn checkpoint_meta(path: &Path, key: &[u8]) -> Result<Option<Vec<u8>>, StateError> {
        let refused = |error: rocksdb::Error| StateError::open(path, error);
        let mut options = Options::default();
        options.set_max_open_files(OPEN_FILES_MAX);
        let db = DB::open_cf_for_read_only(&options, path, [META], false).map_err(refused)?;
        let family = db.cf_handle(META).expect("it was just opened");
        db.get_cf(family, key).map_err(|error| StateError::Read(error.into_string()))
    }

    /// Puts a copy of the database at `checkpoint` in the place of this one: for readers at once and together, on disk
    /// atomically. No write may run at the same time.
    ///
    /// # Errors
    /// When the disk fails or `checkpoint` is no database; this database stays in place then.
    pub fn replace(&self, checkpoint: &Path) -> Result<(), StateError> {
        let name = {
            let current = self.current();
            directory::successor(&current.path)
        };
        let path = self.root.join(&name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(StateError::io("remove", &path))?;
        }
        link_or_copy_all(checkpoint, &path)?;
        CrashPoint::DatabaseCopied.reached();
        let opened = Arc::new(OpenDb::open(&path)?);
        CrashPoint::DatabaseOpened.reached();
        directory::write_active(&self.root, &name)?;
        CrashPoint::DatabaseActive.reached();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let old = std::mem::replace(&mut *current, opened);
        drop(current);
        old.replaced.store(true, Ordering::Release);
        drop(old);
        CrashPoint::DatabaseReplaced.reached();
        Ok(())
    }
}

impl std::fmt::Debug for StateDb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateDb").field("root", &self.root).finish_non_exhaustive()
    }
}

/// The bounds of a scan as RocksDB takes them.
fn bounds(from: &[u8], to: &[u8]) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_iterate_lower_bound(from);
    if !to.is_empty() {
        options.set_iterate_upper_bound(to);
    }
    options
}

/// Visits what `rows` yields until the end or a break.
fn visit_all<D: rocksdb::DBAccess>(
    mut rows: rocksdb::DBRawIteratorWithThreadMode<'_, D>,
    visit: &mut Visitor<'_>,
) -> Result<(), rocksdb::Error> {
    rows.seek_to_first();
    while let Some((key, value)) = rows.item() {
        if let ControlFlow::Break(()) = visit(key, value) {
            return Ok(());
        }
        rows.next();
    }
    rows.status()
}

impl View for StateDb {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        let current = self.current();
        current
            .db()
            .get_cf(current.family(table.name()), key)
            .map_err(|error| current.view_error(table, error))
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
        let current = self.current();
        let rows = current.db().raw_iterator_cf_opt(current.family(table.name()), bounds(from, to));
        visit_all(rows, visit).map_err(|error| current.view_error(table, error))
    }
}

#[cfg(test)]
mod tests;
