//! A mark in the write-ahead log after each fsync: so far everything was on disk.
//!
//! A crash can cut off the end of the write-ahead log, and RocksDB then drops what is incomplete; nobody was told of it.
//! But a flipped bit in the length of a record, or in its kind, looks just like that, and RocksDB would drop all that
//! follows without a word: entries that this node has acknowledged, a vote that it has cast. The marks tell the two apart.
//! Each one says up to which sequence number of the database an fsync had succeeded when it was written. Before the
//! database is opened they are looked for in the raw bytes, wherever they stand; after that, the database must have come at
//! least as far as the greatest of them says.
//!
//! Opening drops what cannot be read from disk as well, and the marks in it: whoever started the node once more after it refused
//! would find nothing that is missing. So the greatest mark is kept in a file of its own before the database is opened.
//!
//! A mark itself is not fsynced: it survives the death of the process, and the next fsync covers it. It is written after
//! those who waited for the fsync have been told, because none of them needs it; a crash in between leaves the writes of that
//! one fsync without a mark.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rocksdb::DB;

use super::flusher::Disk;
use super::{META, family};
use crate::files::write_durably;

/// The key of the mark, which no other bytes of the log resemble.
pub(super) const KEY: &[u8; 16] = b"\x8freelraft-mark\x00\xe1";

/// The sequence number, and a check of it.
const VALUE_BYTES: usize = 16;

/// Bytes of the write-ahead log in memory while marks are looked for.
const CHUNK_BYTES: usize = 1 << 20;

/// The file beside the database that keeps the greatest mark.
const KEPT: &str = "mark";

/// The disk of the log.
pub(super) struct WriteAheadLog {
    database: Arc<DB>,
    /// The last sequence number that is certainly on disk.
    synced: AtomicU64,
}

impl WriteAheadLog {
    pub(super) fn new(database: Arc<DB>) -> Self {
        Self { database, synced: AtomicU64::new(0) }
    }
}

impl Disk for WriteAheadLog {
    fn sync(&self) -> Result<(), String> {
        let written = self.database.latest_sequence_number();
        self.database.flush_wal(true).map_err(rocksdb::Error::into_string)?;
        self.synced.store(written, Ordering::Relaxed);
        Ok(())
    }

    fn mark(&self) -> Result<(), String> {
        let mark = value(self.synced.load(Ordering::Relaxed));
        self.database
            .put_cf(family(&self.database, META), KEY, mark)
            .map_err(rocksdb::Error::into_string)
    }
}

fn value(sequence: u64) -> [u8; VALUE_BYTES] {
    let mut value = [0; VALUE_BYTES];
    let number = sequence.to_be_bytes();
    value[..8].copy_from_slice(&number);
    value[8..].copy_from_slice(&blake3::hash(&number).as_bytes()[..8]);
    value
}

/// How far the database at `path` must come when it is opened, which must not happen before: the greatest sequence number that a
/// mark names, now or before an earlier try. It is kept, durably.
///
/// # Errors
/// Of the kind [`io::ErrorKind::InvalidData`] when what was kept is damaged; otherwise when the disk fails.
pub(super) fn keep_greatest(path: &Path) -> io::Result<Option<u64>> {
    let file = path.join(KEPT);
    let kept = match std::fs::read(&file) {
        Ok(bytes) => Some(read_value(&bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", file.display()))
        })?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let found = greatest(path)?;
    if let Some(found) = found
        && kept < Some(found)
    {
        write_durably(&file, &value(found))?;
    }
    Ok(found.max(kept))
}

/// The number in a value, unless it is damaged.
fn read_value(bytes: &[u8]) -> Option<u64> {
    let number = bytes.first_chunk().map(|number| u64::from_be_bytes(*number))?;
    (bytes == value(number)).then_some(number)
}

/// The greatest sequence number that a mark in the write-ahead logs of the database at `path` names.
fn greatest(path: &Path) -> io::Result<Option<u64>> {
    let mut greatest = None;
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "log") {
            greatest = greatest.max(greatest_in(File::open(path)?)?);
        }
    }
    Ok(greatest)
}

fn greatest_in(mut file: impl Read) -> io::Result<Option<u64>> {
    // What stands between the key and the value: the length of the value, in one byte.
    const MARK_BYTES: usize = KEY.len() + 1 + VALUE_BYTES;
    let mut greatest = None;
    let mut buffer = Vec::with_capacity(CHUNK_BYTES + MARK_BYTES);
    loop {
        let read = file.by_ref().take(CHUNK_BYTES as u64).read_to_end(&mut buffer)?;
        for position in memchr::memmem::find_iter(&buffer, KEY) {
            let Some(mark) = buffer.get(position..position + MARK_BYTES) else { break };
            greatest = greatest.max(read_value(&mark[KEY.len() + 1..]));
        }
        if read == 0 {
            return Ok(greatest);
        }
        // A mark may have been cut in two.
        let keep = buffer.len().min(MARK_BYTES - 1);
        buffer.drain(..buffer.len() - keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: u64) -> Vec<u8> {
        [KEY.as_slice(), &[VALUE_BYTES as u8], &value(sequence)].concat()
    }

    #[test]
    fn marks_are_found_wherever_they_stand() {
        for before in [0, 1, CHUNK_BYTES - 40, CHUNK_BYTES - 20, CHUNK_BYTES - 1, CHUNK_BYTES] {
            let bytes = [vec![7; before], mark(5), mark(9), vec![7; 100], mark(8)].concat();
            assert_eq!(greatest_in(bytes.as_slice()).unwrap(), Some(9), "{before}");
            let cut = &bytes[..before + 40];
            assert_eq!(greatest_in(cut).unwrap(), Some(5), "{before}");
        }
        assert_eq!(greatest_in([].as_slice()).unwrap(), None);
    }

    #[test]
    fn a_damaged_mark_is_none() {
        let mark = mark(5);
        for bit in 0..mark.len() * 8 {
            let mut damaged = mark.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let length_only = bit / 8 == KEY.len();
            let found = greatest_in(damaged.as_slice()).unwrap();
            assert_eq!(found, length_only.then_some(5), "bit {bit}");
        }
    }
}
