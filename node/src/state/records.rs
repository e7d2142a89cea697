//! A look at RocksDB's record files before RocksDB reads them.
//!
//! Its write-ahead logs and manifests consist of records in blocks of 32 KiB, each with a head of 7 bytes: checksum, length,
//! kind. A flipped bit in the kind can make RocksDB 11 take the record for one of a recycled file and read it again and
//! again: the program would hang while it opens the database, and nobody would know why. Here every kind is looked at;
//! everything else is verified by RocksDB.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEAD_BYTES: usize = 7;

/// Whole record, first part, middle part, last part; compression, sizes of timestamps, the file before.
const KINDS: [u8; 7] = [1, 2, 3, 4, 9, 10, 130];

/// Says what is wrong with the record files of the database at `path`, if they have records of a kind that this program
/// does not write. Nothing is wrong with a directory that does not exist.
///
/// # Errors
/// When they cannot be read.
pub(crate) fn find_damage(path: &Path) -> io::Result<Option<String>> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        if (name.starts_with("MANIFEST-") || name.ends_with(".log"))
            && let Some(position) = unknown_kind(File::open(&path)?)?
        {
            return Ok(Some(format!("{name} has a record of an unknown kind at byte {position}")));
        }
    }
    Ok(None)
}

/// Where the first record of an unknown kind begins.
fn unknown_kind(mut file: impl Read) -> io::Result<Option<u64>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    let mut start = 0;
    loop {
        block.clear();
        file.by_ref().take(BLOCK_BYTES as u64).read_to_end(&mut block)?;
        let mut at = 0;
        while let Some(head) = block.get(at..at + HEAD_BYTES) {
            let (length, kind) = (usize::from(u16::from_le_bytes([head[4], head[5]])), head[6]);
            // Room that was reserved and not used.
            if kind == 0 && length == 0 {
                break;
            }
            if !KINDS.contains(&kind) {
                return Ok(Some(start + at as u64));
            }
            at += HEAD_BYTES + length;
        }
        if block.len() < BLOCK_BYTES {
            return Ok(None);
        }
        start += BLOCK_BYTES as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: u16) -> Vec<u8> {
        let [low, high] = length.to_le_bytes();
        [vec![0; 4], vec![low, high, kind], vec![5; usize::from(length)]].concat()
    }

    #[test]
    fn kinds_are_looked_at_wherever_a_record_begins() {
        let good = [record(1, 100), record(2, 32_000), vec![0; 647]].concat();
        assert_eq!(good.len(), BLOCK_BYTES - 7);
        let block = [good, vec![0; 7]].concat();
        let next = |kind| [block.clone(), record(4, 3), record(kind, 3)].concat();
        assert_eq!(unknown_kind(next(1).as_slice()).unwrap(), None);
        assert_eq!(unknown_kind(next(5).as_slice()).unwrap(), Some(BLOCK_BYTES as u64 + 10));
        // Cut off in the head and in the body.
        for cut in 0..20 {
            let bytes = next(1);
            assert_eq!(unknown_kind(&bytes[..bytes.len() - cut]).unwrap(), None);
        }
        assert_eq!(unknown_kind([].as_slice()).unwrap(), None);
    }
}
