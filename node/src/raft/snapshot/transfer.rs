//! A snapshot on its way: the files one after the other, cut into parts.
//!
//! The manifest goes ahead, so the bytes need no framing: the receiver knows where each file ends, and verifies its hash
//! there. Both sides hold a few parts in memory, never a file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{DATABASE, Manifest, SnapshotStore, StoredSnapshot};
use crate::state::sync_directory;

/// Bytes in one part. Small enough that a connection shares fairly, large enough that its overhead does not matter.
const PART_BYTES: usize = 1 << 20;

/// Parts read ahead of the network, or received ahead of the disk.
pub(in crate::raft) const PARTS_AHEAD: usize = 4;

/// Reads the files of `snapshot` into `parts`, until the end or until nobody takes them any more. Blocks.
///
/// # Errors
/// When a file cannot be read, or is shorter than it was.
pub(in crate::raft) fn send(
    snapshot: &StoredSnapshot,
    parts: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    for listed in &snapshot.manifest().files {
        let mut file = File::open(snapshot.database().join(&listed.name))?;
        let mut left = listed.len;
        while left > 0 {
            let part = usize::try_from(left).map_or(PART_BYTES, |left| left.min(PART_BYTES));
            let mut buffer = vec![0; part];
            file.read_exact(&mut buffer)?;
            left -= part as u64;
            if parts.blocking_send(buffer.into()).is_err() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// A snapshot that is being received. Dropping it unfinished removes what has arrived.
pub(in crate::raft) struct Receiving {
    path: PathBuf,
    manifest: Manifest,
    finished: bool,
}

impl Receiving {
    /// Makes room for a snapshot of this manifest.
    ///
    /// # Errors
    /// When the manifest is not sound or the disk fails.
    pub(in crate::raft) fn begin(store: &SnapshotStore, manifest: Manifest) -> io::Result<Self> {
        manifest.check().map_err(io::Error::other)?;
        Ok(Self { path: store.incoming()?, manifest, finished: false })
    }

    /// Writes what arrives in `parts` and verifies it. Blocks until all is there and on disk.
    ///
    /// # Errors
    /// When the bytes are not those of the manifest, too few or too many, or the disk fails.
    pub(in crate::raft) fn receive(
        mut self,
        mut parts: mpsc::Receiver<Bytes>,
    ) -> io::Result<Arc<StoredSnapshot>> {
        let directory = self.path.join(DATABASE);
        let mut part = Bytes::new();
        for listed in &self.manifest.files {
            let mut file = File::create(directory.join(&listed.name))?;
            let mut hasher = blake3::Hasher::new();
            let mut left = listed.len;
            while left > 0 {
                if part.is_empty() {
                    part = parts.blocking_recv().ok_or_else(|| {
                        io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            format!("the snapshot breaks off in {}", listed.name),
                        )
                    })?;
                }
                let take = usize::try_from(left).map_or(part.len(), |left| left.min(part.len()));
                let bytes = part.split_to(take);
                hasher.update(&bytes);
                file.write_all(&bytes)?;
                left -= take as u64;
            }
            if hasher.finalize() != listed.hash {
                return Err(io::Error::other(format!(
                    "{} arrived with another hash than it was announced with",
                    listed.name
                )));
            }
            file.sync_all()?;
        }
        if !part.is_empty() || parts.blocking_recv().is_some() {
            return Err(io::Error::other("more bytes arrived than were announced"));
        }
        sync_directory(&directory).map_err(io::Error::other)?;
        self.finished = true;
        Ok(Arc::new(StoredSnapshot {
            path: self.path.clone(),
            manifest: self.manifest.clone(),
            // Whoever installs it keeps a copy; this one goes as soon as that has been done.
            superseded: AtomicBool::new(true),
        }))
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "remove a snapshot that broke off");
        }
    }
}
