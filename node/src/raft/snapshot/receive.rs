//! A snapshot on its way in. What has arrived stays on disk when the transfer breaks off, and is not sent again.
//!
//! Files are kept by their hash, so it does not matter from whom they came or of which snapshot they were a part: the next
//! snapshot of the same leader has most of its files in common with this one. A file counts only when the hash of
//! all of it is right.
//!
//! ```text
//! state/incoming/<hash>            has arrived
//! state/incoming/<hash>.partial    has arrived in part
//! ```
//!
//! When all files are there they are linked into a new snapshot of the store, which becomes one when its manifest is
//! written.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Manifest, SnapshotFile, SnapshotStore, StoredSnapshot};
use crate::files::sync_directory;
use crate::state::{CrashPoint, link_or_copy};

/// The end of a file, which its receiver lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::raft) struct Tail {
    /// The position of the file in the manifest.
    pub(in crate::raft) file: usize,
    /// The first byte that is missing.
    pub(in crate::raft) from: u64,
}

/// A snapshot that is being received.
#[derive(Debug)]
pub(in crate::raft) struct Receiving {
    incoming: PathBuf,
    /// Where the snapshot is put together.
    target: PathBuf,
    manifest: Manifest,
    wanted: Vec<Tail>,
}

impl Receiving {
    /// Looks what of this snapshot is here already, and forgets what other transfers left. Blocks for as long as reading
    /// that takes.
    ///
    /// # Errors
    /// When the manifest is not sound or the disk fails.
    pub(in crate::raft) fn begin(store: &SnapshotStore, manifest: Manifest) -> io::Result<Self> {
        manifest.check().map_err(io::Error::other)?;
        let incoming = store.incoming();
        fs::create_dir_all(&incoming)?;
        forget_others(&incoming, &manifest)?;
        let mut seen = BTreeSet::new();
        let mut wanted = Vec::new();
        for (file, listed) in manifest.files.iter().enumerate() {
            if !seen.insert(listed.hash) || find(&incoming, store, listed)? {
                continue;
            }
            let partial = partial_path(&incoming, listed);
            let from = match fs::metadata(&partial) {
                Ok(metadata) if metadata.len() <= listed.len => metadata.len(),
                Ok(_) => {
                    fs::remove_file(&partial)?;
                    0
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(error),
            };
            wanted.push(Tail { file, from });
        }
        Ok(Self { incoming, target: store.unused(), manifest, wanted })
    }

    /// What has to be sent.
    pub(in crate::raft) fn wanted(&self) -> &[Tail] {
        &self.wanted
    }

    /// How many bytes that are.
    pub(in crate::raft) fn wanted_bytes(&self) -> u64 {
        self.wanted.iter().map(|tail| self.manifest.files[tail.file].len - tail.from).sum()
    }

    /// Writes what arrives in `parts` and verifies it. Blocks until all is there and on disk.
    ///
    /// # Errors
    /// When the bytes are not those of the manifest, too few or too many, or the disk fails. What has arrived stays, except
    /// what is wrong.
    pub(in crate::raft) fn receive(
        self,
        mut parts: mpsc::Receiver<Bytes>,
    ) -> io::Result<Arc<StoredSnapshot>> {
        let mut part = Bytes::new();
        for tail in &self.wanted {
            self.receive_file(*tail, &mut part, &mut parts)?;
        }
        if !part.is_empty() || parts.blocking_recv().is_some() {
            return Err(io::Error::other("more bytes arrived than were announced"));
        }
        self.put_together()
    }

    fn receive_file(
        &self,
        tail: Tail,
        part: &mut Bytes,
        parts: &mut mpsc::Receiver<Bytes>,
    ) -> io::Result<()> {
        let listed = &self.manifest.files[tail.file];
        let path = partial_path(&self.incoming, listed);
        let mut hasher = blake3::Hasher::new();
        if tail.from > 0 {
            hasher.update_reader(File::open(&path)?)?;
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&path)?;
        let mut left = listed.len - tail.from;
        while left > 0 {
            if part.is_empty() {
                *part = parts.blocking_recv().ok_or_else(|| {
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
            CrashPoint::PartReceived.reached();
        }
        if hasher.finalize() != listed.hash {
            fs::remove_file(&path)?;
            return Err(io::Error::other(format!(
                "{} arrived with another hash than it was announced with",
                listed.name
            )));
        }
        file.sync_all()?;
        fs::rename(&path, file_path(&self.incoming, listed))?;
        CrashPoint::FileReceived.reached();
        Ok(())
    }

    /// Makes a snapshot without a manifest, which is none yet, of the files that have arrived.
    fn put_together(self) -> io::Result<Arc<StoredSnapshot>> {
        // From here on the directory goes with it, unless it is published.
        let snapshot = Arc::new(StoredSnapshot::unpublished(self.target, self.manifest));
        let database = snapshot.database();
        fs::create_dir_all(&database)?;
        for listed in &snapshot.manifest().files {
            link_or_copy(&file_path(&self.incoming, listed), &database.join(&listed.name))
                .map_err(io::Error::other)?;
        }
        sync_directory(&database)?;
        CrashPoint::SnapshotPutTogether.reached();
        Ok(snapshot)
    }
}

fn file_path(incoming: &Path, listed: &SnapshotFile) -> PathBuf {
    incoming.join(hex::encode(listed.hash))
}

fn partial_path(incoming: &Path, listed: &SnapshotFile) -> PathBuf {
    file_path(incoming, listed).with_extension("partial")
}

/// Removes what belongs to no file of `manifest`, so that no more than one snapshot waits to be completed.
fn forget_others(incoming: &Path, manifest: &Manifest) -> io::Result<()> {
    let known: BTreeSet<_> =
        manifest.files.iter().map(|listed| file_path(incoming, listed)).collect();
    for entry in fs::read_dir(incoming)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(&path)?;
        } else if !known.contains(&path.with_extension("")) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// Whether the file is here: it arrived earlier, or the present snapshot has it too. What is damaged counts as missing.
fn find(incoming: &Path, store: &SnapshotStore, listed: &SnapshotFile) -> io::Result<bool> {
    let path = file_path(incoming, listed);
    if !path.exists() {
        let Some(current) = store.current() else { return Ok(false) };
        let mut files = current.manifest().files.iter();
        let Some(same) = files.find(|file| file.hash == listed.hash) else { return Ok(false) };
        link_or_copy(&current.database().join(&same.name), &path).map_err(io::Error::other)?;
    }
    if fs::metadata(&path)?.len() == listed.len {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&path)?)?;
        if hasher.finalize() == listed.hash {
            return Ok(true);
        }
    }
    tracing::warn!(file = listed.name, "a file of a snapshot is damaged and has to be sent again");
    fs::remove_file(&path)?;
    Ok(false)
}
