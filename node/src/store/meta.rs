//! What a store notes about each block.
//!
//! One small row per block: what must be counted, listed or changed without touching megabytes, and where the bytes are.
//! The row has a fixed form behind a version byte, because it is read a million times at start; a new version may add
//! fields behind these.

/// The form written by this version. Rows of version 1 had no place: their bytes were in RocksDB.
const VERSION: u8 = 2;

/// Bytes of a row of [`VERSION`].
const ROW_BYTES: usize = 1 + 1 + 4 + 8 + 8 + 4 + 8;

/// Whether a copy may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyState {
    Live,
    Quarantined,
}

/// Where a record begins. Later records are further on: a volume is only ever appended to, and volumes are numbered in the
/// order in which they are begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) volume: u32,
    /// Bytes from the beginning of the volume.
    pub(super) offset: u64,
}

/// A row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlockMeta {
    pub(super) state: CopyState,
    /// Bytes.
    pub(super) len: u32,
    /// See [`super::StoredBlock::put_index`].
    pub(super) put_index: u64,
    /// When it was first stored here, in milliseconds since 1970 by this node's clock. Tells what nobody has named for
    /// days from what is just being uploaded.
    pub(super) stored_ms: u64,
    pub(super) place: Place,
}

impl BlockMeta {
    pub(super) fn encode(&self) -> [u8; ROW_BYTES] {
        let mut row = [0; ROW_BYTES];
        row[0] = VERSION;
        row[1] = match self.state {
            CopyState::Live => 0,
            CopyState::Quarantined => 1,
        };
        row[2..6].copy_from_slice(&self.len.to_le_bytes());
        row[6..14].copy_from_slice(&self.put_index.to_le_bytes());
        row[14..22].copy_from_slice(&self.stored_ms.to_le_bytes());
        row[22..26].copy_from_slice(&self.place.volume.to_le_bytes());
        row[26..].copy_from_slice(&self.place.offset.to_le_bytes());
        row
    }

    /// `None` for what no version with volumes wrote.
    pub(super) fn decode(row: &[u8]) -> Option<Self> {
        let (&version, fields) = row.split_first()?;
        if version < VERSION {
            return None;
        }
        let (state, fields) = fields.split_first()?;
        let (len, fields) = fields.split_first_chunk()?;
        let (put_index, fields) = fields.split_first_chunk()?;
        let (stored_ms, fields) = fields.split_first_chunk()?;
        let (volume, fields) = fields.split_first_chunk()?;
        let (offset, _) = fields.split_first_chunk()?;
        Some(Self {
            state: match state {
                0 => CopyState::Live,
                1 => CopyState::Quarantined,
                _ => return None,
            },
            len: u32::from_le_bytes(*len),
            put_index: u64::from_le_bytes(*put_index),
            stored_ms: u64::from_le_bytes(*stored_ms),
            place: Place {
                volume: u32::from_le_bytes(*volume),
                offset: u64::from_le_bytes(*offset),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_read_as_it_was_written_and_rubbish_is_refused() {
        let meta = BlockMeta {
            state: CopyState::Quarantined,
            len: 1_572_864,
            put_index: u64::MAX - 1,
            stored_ms: 1_790_000_000_000,
            place: Place { volume: 70_000, offset: 1 << 40 },
        };
        let row = meta.encode();
        assert_eq!(BlockMeta::decode(&row), Some(meta));

        let mut newer = row.to_vec();
        newer[0] = VERSION + 1;
        newer.extend([9; 8]);
        assert_eq!(BlockMeta::decode(&newer), Some(meta), "fields behind these are skipped");

        assert_eq!(BlockMeta::decode(&[]), None);
        assert_eq!(BlockMeta::decode(&row[..ROW_BYTES - 1]), None);
        let mut without_place = row;
        without_place[0] = 1;
        assert_eq!(BlockMeta::decode(&without_place), None);
        let mut unknown_state = row;
        unknown_state[1] = 7;
        assert_eq!(BlockMeta::decode(&unknown_state), None);
    }
}
