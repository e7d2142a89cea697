//! Finds the blocks that have no row yet.
//!
//! A put is durable with its record; the row comes after it, without fsync. So after a crash there are records beyond the
//! tails without rows, among them acknowledged ones. All that lies beyond a tail is read: a record with a good header and
//! the right bytes gets a row, whether its put was acknowledged or not. Anything else there was being written, and is
//! skipped: a whole record where the header is good, else unit by unit.
//!
//! Nothing is believed that only the page cache says. What a killed process had written is made durable before rows point
//! to it, and what is clean is read from the disk again, as an fsync that failed leaves pages that look written.

use std::io;

use super::extents::{Extent, Volumes};
use super::file::{self, VolumeFile};
use super::index::Index;
use super::record::{ALIGNMENT, FIRST_RECORD, HEADER_BYTES, Header, record_bytes};
use crate::store::BLOCK_BYTES_MAX;
use crate::store::meta::{BlockMeta, CopyState, Place};
use cluster::ids::BlockHash;

/// Gives rows to all good records that have none, and tells `volumes` what is taken. Durable when it returns.
///
/// # Errors
/// When rows or volumes cannot be read or written. What was done until then may be done again.
pub(super) fn recover(index: &Index, volumes: &Volumes) -> Result<(), String> {
    let mut tails = index.tails()?;
    let (mut recovered, mut scanned_bytes) = (0, 0);
    for (number, end) in volumes.ends() {
        let tail = tails.remove(&number).unwrap_or(FIRST_RECORD);
        volumes.settle_below(number, tail);
        if tail >= end {
            continue;
        }
        let failed = |error: io::Error| format!("read volume {number}: {error}");
        let file = volumes.file(number).map_err(failed)?;
        let Some(key) = file.key else {
            continue; // Said already.
        };
        file.sync().map_err(|error| format!("fsync of volume {number} failed: {error}"))?;
        file.forget_cached(tail, end - tail);
        let mut at = Place { volume: number, offset: tail };
        while at.offset < end {
            match look(&file, &key, at).map_err(failed)? {
                Look::Nothing => at.offset += ALIGNMENT,
                Look::Torn(len) => at.offset += record_bytes(len),
                Look::Record(header) => {
                    recovered += u64::from(adopt(index, &header, at)?);
                    at.offset += record_bytes(header.len);
                }
            }
        }
        scanned_bytes += end - tail;
        volumes.settle_below(number, at.offset);
        index.put_tail(number, at.offset)?;
    }
    for (number, tail) in tails {
        volumes.settle_below(number, tail);
        index.delete_tail(number)?;
    }
    index.sync()?;
    if scanned_bytes > 0 {
        tracing::info!(recovered, scanned_bytes, "looked for blocks beyond the tails of volumes");
    }
    metrics::counter!("reelraft_store_recovered_blocks_total").increment(recovered);
    Ok(())
}

enum Look {
    Nothing,
    /// Its header is good, its bytes are not.
    Torn(u32),
    Record(Header),
}

fn look(file: &VolumeFile, key: &[u8; 32], at: Place) -> io::Result<Look> {
    let Some(header) = read_if_there(file, at.offset, HEADER_BYTES)?
        .and_then(|header| Header::decode(header.as_slice().try_into().ok()?, key, at))
        .filter(|header| (1..=BLOCK_BYTES_MAX).contains(&(header.len as usize)))
    else {
        return Ok(Look::Nothing);
    };
    let bytes = read_if_there(file, at.offset + HEADER_BYTES as u64, header.len as usize)?;
    Ok(match bytes {
        Some(bytes) if BlockHash::of(&bytes) == header.hash => Look::Record(header),
        _ => Look::Torn(header.len),
    })
}

/// `None` where the file ends before or the disk cannot read it: there is no good record then.
fn read_if_there(file: &VolumeFile, offset: u64, len: usize) -> io::Result<Option<Vec<u8>>> {
    match file.read(offset, len) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) if file::is_disk_failure(&error) => {
            tracing::error!(volume = file.number, offset, %error, "part of a volume cannot be read");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Gives a record that was just verified its row. Whether there was none.
fn adopt(index: &Index, header: &Header, place: Place) -> Result<bool, String> {
    let before = index.row(&header.hash);
    // Of two records of one block the later was written because the earlier was bad, or deleted.
    if let Some(row) = before.filter(|row| row.place > place) {
        // Two puts of one block at a time come to rows in any order, so the earlier record may tell of the later put.
        if row.put_index < header.put_index {
            index.put_row(&header.hash, &BlockMeta { put_index: header.put_index, ..row })?;
        }
        return Ok(false);
    }
    let row = BlockMeta {
        state: CopyState::Live,
        len: header.len,
        put_index: before.map_or(header.put_index, |row| row.put_index.max(header.put_index)),
        stored_ms: before.map_or(header.stored_ms, |row| row.stored_ms.min(header.stored_ms)),
        place,
    };
    if before != Some(row) {
        index.put_row(&header.hash, &row)?;
    }
    Ok(before.is_none())
}

/// Tells `volumes` of a row.
pub(super) fn occupy(volumes: &Volumes, row: &BlockMeta) {
    volumes.occupy(Extent::of(row.place, row.len));
}
