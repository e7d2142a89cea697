//! A look at the top-level boxes of an MP4 before libav gets it: where is the index, and is it there at all?
//!
//! libav answers a missing `moov` with "invalid data", which could be anything. Whoever uploaded the file should learn
//! that it is cut off.

use std::io::{self, Read, Seek, SeekFrom};

/// What the walk over the boxes found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Index {
    /// The `moov` box is there, as a whole.
    Present,
    /// The file ends before or inside it.
    Missing,
    /// Something that is no box came first; libav may make sense of it.
    Unclear,
}

/// More top-level boxes than a file without fragments has before its index.
const BOXES_MAX: usize = 4096;

/// Walks from box to box until the index. Reads a few bytes of each box, and as many as there are up to the end of the
/// index, which libav is going to read anyway.
///
/// # Errors
/// Those of the source.
pub(crate) fn find_index(source: &mut (impl Read + Seek)) -> io::Result<Index> {
    let mut offset = 0u64;
    for _ in 0..BOXES_MAX {
        let header = read_at(source, offset, 16)?;
        let Some(kind) = header.get(4..8) else { return Ok(Index::Missing) };
        if !kind.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' ' || *byte == 0xa9) {
            return Ok(Index::Unclear);
        }
        let small = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let len = match (small, header.get(8..16)) {
            (1, Some(large)) => u64::from_be_bytes(large.try_into().expect("eight bytes")),
            (1, None) | (0, _) => {
                return Ok(if kind == b"moov" { Index::Unclear } else { Index::Missing });
            }
            (2..=7, _) => return Ok(Index::Unclear),
            (len, _) => u64::from(len),
        };
        let Some(end) = offset.checked_add(len).filter(|end| *end > offset) else {
            return Ok(Index::Unclear);
        };
        if kind == b"moov" {
            let last = read_at(source, end - 1, 1)?;
            return Ok(if last.is_empty() { Index::Missing } else { Index::Present });
        }
        offset = end;
    }
    Ok(Index::Unclear)
}

fn read_at(source: &mut (impl Read + Seek), offset: u64, len: u64) -> io::Result<Vec<u8>> {
    source.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    source.take(len).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn file(boxes: &[(&[u8; 4], usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (kind, len) in boxes {
            crate::cmaf::boxes::put_box(&mut out, kind, |out| out.resize(out.len() + len, 0));
        }
        out
    }

    #[test]
    fn the_index_may_be_first_or_last_but_must_be_whole() {
        let last = file(&[(b"ftyp", 8), (b"free", 0), (b"mdat", 1000), (b"moov", 100)]);
        let first = file(&[(b"ftyp", 8), (b"moov", 100), (b"mdat", 1000)]);
        assert_eq!(find_index(&mut Cursor::new(&last)).unwrap(), Index::Present);
        assert_eq!(find_index(&mut Cursor::new(&first)).unwrap(), Index::Present);
        assert_eq!(find_index(&mut Cursor::new(&first[..500])).unwrap(), Index::Present);
        assert_eq!(find_index(&mut Cursor::new(&first[..60])).unwrap(), Index::Missing);
        for cut in [20, 500, last.len() - 1] {
            assert_eq!(find_index(&mut Cursor::new(&last[..cut])).unwrap(), Index::Missing);
        }
        assert_eq!(
            find_index(&mut Cursor::new(b"\0\0\0\x08\x01\x02\x03\x04more")).unwrap(),
            Index::Unclear
        );
    }
}
