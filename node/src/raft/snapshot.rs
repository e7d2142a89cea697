//! Snapshots: whole catalogs as files, for nodes that are too far behind for entries.
//!
//! A snapshot is a checkpoint of the catalog's database (hard links, so it costs little) with a manifest: where in the log
//! it stands, read from the checkpoint itself, and each file with its length and BLAKE3 hash. The manifest is written last;
//! a directory without one is a leftover and is removed at the start.
//!
//! ```text
//! state/snapshots/snapshot-3/manifest   state/snapshots/snapshot-3/db/...
//! state/incoming/...              files of one that is being received, see [`receive`]
//! ```
//!
//! The newest snapshot is kept, and an older one as long as it is being sent to somebody.

mod receive;
mod send;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::codec;
use serde::{Deserialize, Serialize};

pub(super) use self::receive::{Receiving, Tail};
pub(super) use self::send::{PARTS_AHEAD, send};
use super::state_machine::checkpoint_meta;
use super::types::SnapshotMeta;
use crate::files::{sync_directory, write_durably};
use crate::state::{CrashPoint, StateError, link_or_copy_all};

const SNAPSHOTS: &str = "snapshots";
const INCOMING: &str = "incoming";
const DATABASE: &str = "db";
const MANIFEST: &str = "manifest";

/// What arrived of a snapshot that was never completed is kept this long: it is of use only while its sender tries again.
const INCOMING_AGE_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Files of one snapshot. RocksDB makes files of 64 MiB, so this is far above any catalog.
const FILES_MAX: usize = 100_000;

/// What a snapshot consists of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub(super) meta: SnapshotMeta,
    pub(super) files: Vec<SnapshotFile>,
}

/// A file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotFile {
    pub(super) name: String,
    /// Bytes.
    pub(super) len: u64,
    /// BLAKE3.
    pub(super) hash: [u8; 32],
}

impl Manifest {
    /// Whether this is a manifest that may be followed: it comes from another node, and its names become paths.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.files.len() > FILES_MAX {
            return Err(format!("{} files are more than {FILES_MAX}", self.files.len()));
        }
        let mut names = std::collections::BTreeSet::new();
        for file in &self.files {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            let sound = !file.name.is_empty()
                && file.name.len() <= 64
                && !file.name.starts_with('.')
                && file.name.bytes().all(plain);
            if !sound {
                return Err(format!("{:?} is not the name of a file of a catalog", file.name));
            }
            if !names.insert(&file.name) {
                return Err(format!("{} occurs twice", file.name));
            }
        }
        Ok(())
    }
}

/// A complete snapshot on disk. Removed from there when it has been superseded and nobody uses it any more.
#[derive(Debug)]
pub(super) struct StoredSnapshot {
    path: PathBuf,
    manifest: Manifest,
    superseded: AtomicBool,
}

impl StoredSnapshot {
    /// One that goes with the last who knows it, unless it is published.
    fn unpublished(path: PathBuf, manifest: Manifest) -> Self {
        Self { path, manifest, superseded: AtomicBool::new(true) }
    }

    pub(super) fn meta(&self) -> &SnapshotMeta {
        &self.manifest.meta
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory of the database.
    pub(super) fn database(&self) -> PathBuf {
        self.path.join(DATABASE)
    }
}

impl Drop for StoredSnapshot {
    fn drop(&mut self) {
        if self.superseded.load(Ordering::Acquire)
            && let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "an old snapshot stays on disk for now");
        }
    }
}

/// The snapshots of this node.
pub(super) struct SnapshotStore {
    root: PathBuf,
    current: Mutex<Option<Arc<StoredSnapshot>>>,
    /// Makes names unique.
    counter: AtomicU64,
}

impl SnapshotStore {
    /// Finds the newest snapshot below `root` and removes everything else there.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let incoming = root.join(INCOMING);
        let age = fs::metadata(&incoming).and_then(|metadata| metadata.modified()).ok();
        if age.is_some_and(|age| age.elapsed().is_ok_and(|age| age > INCOMING_AGE_MAX)) {
            fs::remove_dir_all(&incoming)?;
        }
        let directory = root.join(SNAPSHOTS);
        fs::create_dir_all(&directory)?;
        let mut newest: Option<StoredSnapshot> = None;
        let mut counter = 0;
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str()?.rsplit_once('-')?.1.parse::<u64>().ok());
            counter = counter.max(number.unwrap_or(0) + 1);
            let manifest = fs::read(path.join(MANIFEST))
                .ok()
                .and_then(|bytes| codec::decode::<Manifest>(&bytes).ok());
            let Some(manifest) = manifest else {
                tracing::info!(path = %path.display(), "removing an unfinished snapshot");
                fs::remove_dir_all(&path)?;
                continue;
            };
            let found = StoredSnapshot::unpublished(path, manifest);
            // The one that loses is dropped, and with it its files.
            match &newest {
                Some(other) if other.meta().last_log_id >= found.meta().last_log_id => {}
                _ => newest = Some(found),
            }
        }
        if let Some(newest) = &newest {
            newest.superseded.store(false, Ordering::Release);
        }
        Ok(Self {
            root: root.to_owned(),
            current: Mutex::new(newest.map(Arc::new)),
            counter: AtomicU64::new(counter),
        })
    }

    /// The newest complete snapshot.
    pub(super) fn current(&self) -> Option<Arc<StoredSnapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The place of the next snapshot's database, whose parent directory exists.
    pub(super) fn begin(&self) -> Result<PathBuf, StateError> {
        let path = self.unused();
        fs::create_dir_all(&path).map_err(|source| StateError::Io {
            action: "create",
            path: path.clone(),
            source,
        })?;
        Ok(path.join(DATABASE))
    }

    /// Completes the snapshot whose database is at `database`. It becomes the newest one, unless a newer one has arrived.
    pub(super) fn finish(&self, database: &Path) -> io::Result<Arc<StoredSnapshot>> {
        let meta = checkpoint_meta(database)?;
        let previous = self.current();
        let files = list_files(database, previous.as_deref())?;
        let path = database.parent().unwrap_or(Path::new(".")).to_owned();
        self.publish(Arc::new(StoredSnapshot::unpublished(path, Manifest { meta, files })))
    }

    /// Makes `snapshot`, which may be one that has just been received, the newest of this store.
    pub(super) fn keep(&self, snapshot: Arc<StoredSnapshot>) -> io::Result<Arc<StoredSnapshot>> {
        if let Some(current) = self.current()
            && Arc::ptr_eq(&current, &snapshot)
        {
            return Ok(current);
        }
        let kept = if snapshot.path.parent() == Some(&self.root.join(SNAPSHOTS)) {
            self.publish(snapshot)?
        } else {
            let path = self.unused();
            link_or_copy_all(&snapshot.database(), &path.join(DATABASE))
                .map_err(io::Error::other)?;
            self.publish(Arc::new(StoredSnapshot::unpublished(path, snapshot.manifest.clone())))?
        };
        Ok(kept)
    }

    /// Forgets what has arrived of snapshots: the newest one is installed.
    pub(super) fn forget_incoming(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.incoming()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn incoming(&self) -> PathBuf {
        self.root.join(INCOMING)
    }

    fn unused(&self) -> PathBuf {
        let number = self.counter.fetch_add(1, Ordering::Relaxed);
        self.root.join(SNAPSHOTS).join(format!("snapshot-{number}"))
    }

    /// Writes the manifest, which makes the directory a snapshot, and forgets the one before.
    fn publish(&self, snapshot: Arc<StoredSnapshot>) -> io::Result<Arc<StoredSnapshot>> {
        let path = &snapshot.path;
        sync_directory(path)?;
        write_durably(&path.join(MANIFEST), &codec::encode(&snapshot.manifest))?;
        sync_directory(&self.root.join(SNAPSHOTS))?;
        snapshot.superseded.store(false, Ordering::Release);
        CrashPoint::SnapshotComplete.reached();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was made here may be finished after a newer one has arrived.
        if let Some(newer) = current.as_ref()
            && newer.meta().last_log_id > snapshot.meta().last_log_id
        {
            snapshot.superseded.store(true, Ordering::Release);
            return Ok(snapshot);
        }
        if let Some(before) = current.replace(Arc::clone(&snapshot)) {
            before.superseded.store(true, Ordering::Release);
        }
        Ok(snapshot)
    }
}

/// The files of a checkpoint with their hashes. A file that `previous` has too, being the same on disk, is not read again.
fn list_files(database: &Path, previous: Option<&StoredSnapshot>) -> io::Result<Vec<SnapshotFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(database)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // The lock and the information log are no part of the catalog; opening the database makes them anew.
        if name == "LOCK" || name.starts_with("LOG") || !entry.file_type()?.is_file() {
            continue;
        }
        let metadata = entry.metadata()?;
        let known = previous.and_then(|previous| {
            let file = previous.manifest.files.iter().find(|file| file.name == name)?;
            let other = fs::metadata(previous.database().join(&name)).ok()?;
            (other.ino() == metadata.ino() && other.dev() == metadata.dev()).then_some(file.hash)
        });
        let hash = match known {
            Some(hash) => hash,
            None => {
                let mut hasher = blake3::Hasher::new();
                hasher.update_reader(File::open(entry.path())?)?;
                *hasher.finalize().as_bytes()
            }
        };
        files.push(SnapshotFile { name, len: metadata.len(), hash });
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(files)
}

#[cfg(test)]
mod tests;
