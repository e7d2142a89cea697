//! The form of a volume: a head, then records.
//!
//! A record says everything about itself, so that the blocks of a volume are found again without the rows that point to them:
//! a fixed header, the bytes right behind it, and room up to the next multiple of [`ALIGNMENT`]. What users upload lies
//! between records, and could have been made to look like one. Therefore headers are authenticated: each volume has a random
//! key of its own in its head, and the checksum of a header, keyed with it, covers the place of the record too. A header
//! counts for the one place that it was written to, and nobody who cannot read the disk can make one.

use cluster::ids::BlockHash;

use crate::store::meta::Place;

/// Records begin at multiples of this, which is the unit in which file systems give space back.
pub(super) const ALIGNMENT: u64 = 4096;

/// Where the first record of a volume begins.
pub(super) const FIRST_RECORD: u64 = ALIGNMENT;

/// The last byte of both is the version of the form.
const VOLUME_MAGIC: [u8; 8] = *b"rrvolum\x01";
const RECORD_MAGIC: [u8; 8] = *b"rrblock\x01";

const CHECKSUM_BYTES: usize = 32;
const RECORD_FIELDS_BYTES: usize = 8 + 8 + 8 + 8 + 32;
const HEAD_FIELDS_BYTES: usize = 8 + 8 + 32;

/// Bytes of a record before those of its block.
pub(super) const HEADER_BYTES: usize = RECORD_FIELDS_BYTES + CHECKSUM_BYTES;

/// Bytes of the head that mean something.
pub(super) const HEAD_BYTES: usize = HEAD_FIELDS_BYTES + CHECKSUM_BYTES;

/// How much of a volume a block takes.
pub(super) fn record_bytes(len: u32) -> u64 {
    (HEADER_BYTES as u64 + u64::from(len)).next_multiple_of(ALIGNMENT)
}

/// What a volume says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) number: u32,
    /// What the headers of its records are keyed with.
    pub(super) key: [u8; 32],
}

impl Head {
    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut head = [0; HEAD_BYTES];
        head[..8].copy_from_slice(&VOLUME_MAGIC);
        head[8..12].copy_from_slice(&self.number.to_le_bytes());
        head[16..48].copy_from_slice(&self.key);
        let checksum = blake3::hash(&head[..HEAD_FIELDS_BYTES]);
        head[HEAD_FIELDS_BYTES..].copy_from_slice(checksum.as_bytes());
        head
    }

    /// `None` for what is no head of this version.
    pub(super) fn decode(head: &[u8; HEAD_BYTES]) -> Option<Self> {
        let (fields, checksum) = head.split_at(HEAD_FIELDS_BYTES);
        let (magic, fields_behind) = fields.split_first_chunk::<8>()?;
        let (number, fields_behind) = fields_behind.split_first_chunk()?;
        let key = fields_behind.last_chunk()?;
        (*magic == VOLUME_MAGIC && blake3::hash(fields).as_bytes() == checksum)
            .then(|| Self { number: u32::from_le_bytes(*number), key: *key })
    }
}

/// What a record says of its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) hash: BlockHash,
    pub(super) len: u32,
    /// When it was written: later raises are in the row alone.
    pub(super) put_index: u64,
    pub(super) stored_ms: u64,
}

impl Header {
    pub(super) fn encode(&self, key: &[u8; 32], place: Place) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&RECORD_MAGIC);
        header[8..12].copy_from_slice(&self.len.to_le_bytes());
        header[16..24].copy_from_slice(&self.put_index.to_le_bytes());
        header[24..32].copy_from_slice(&self.stored_ms.to_le_bytes());
        header[32..64].copy_from_slice(&self.hash.0);
        let checksum = checksum(&header[..RECORD_FIELDS_BYTES], key, place);
        header[RECORD_FIELDS_BYTES..].copy_from_slice(checksum.as_bytes());
        header
    }

    /// `None` for what is no header of a record at this place.
    pub(super) fn decode(
        header: &[u8; HEADER_BYTES],
        key: &[u8; 32],
        place: Place,
    ) -> Option<Self> {
        let (fields, expected) = header.split_at(RECORD_FIELDS_BYTES);
        let (magic, fields_behind) = fields.split_first_chunk::<8>()?;
        if *magic != RECORD_MAGIC || checksum(fields, key, place).as_bytes() != expected {
            return None;
        }
        let (len, fields_behind) = fields_behind.split_first_chunk()?;
        let (_, fields_behind) = fields_behind.split_first_chunk::<4>()?;
        let (put_index, fields_behind) = fields_behind.split_first_chunk()?;
        let (stored_ms, hash) = fields_behind.split_first_chunk()?;
        Some(Self {
            hash: BlockHash(hash.try_into().ok()?),
            len: u32::from_le_bytes(*len),
            put_index: u64::from_le_bytes(*put_index),
            stored_ms: u64::from_le_bytes(*stored_ms),
        })
    }
}

fn checksum(fields: &[u8], key: &[u8; 32], place: Place) -> blake3::Hash {
    blake3::Hasher::new_keyed(key)
        .update(fields)
        .update(&place.volume.to_le_bytes())
        .update(&place.offset.to_le_bytes())
        .finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_counts_for_its_volume_and_place_alone() {
        let header = Header {
            hash: BlockHash([7; 32]),
            len: 1_572_864,
            put_index: u64::MAX - 3,
            stored_ms: 1_790_000_000_000,
        };
        let (key, place) = ([3; 32], Place { volume: 9, offset: 8192 });
        let encoded = header.encode(&key, place);
        assert_eq!(Header::decode(&encoded, &key, place), Some(header));
        assert_eq!(Header::decode(&encoded, &[4; 32], place), None);
        for elsewhere in [Place { volume: 8, ..place }, Place { offset: 4096, ..place }] {
            assert_eq!(Header::decode(&encoded, &key, elsewhere), None);
        }
        for bit in 0..HEADER_BYTES * 8 {
            let mut damaged = encoded;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&damaged, &key, place), None, "bit {bit}");
        }
        assert_eq!(Header::decode(&[0; HEADER_BYTES], &key, place), None);
    }

    #[test]
    fn a_head_is_read_as_it_was_written_and_rubbish_is_refused() {
        let head = Head { number: 70_000, key: [5; 32] };
        let encoded = head.encode();
        assert!(Head::decode(&encoded) == Some(head));
        for bit in 0..HEAD_BYTES * 8 {
            let mut damaged = encoded;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Head::decode(&damaged).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn records_follow_each_other_in_whole_units() {
        assert_eq!(record_bytes(1), ALIGNMENT);
        assert_eq!(record_bytes(4000), ALIGNMENT);
        assert_eq!(record_bytes(4001), 2 * ALIGNMENT);
        assert_eq!(record_bytes(u32::MAX) % ALIGNMENT, 0);
    }
}
