//! Segments: some frames, from one cut to the next.

use super::boxes::{put_box, put_full_box, put_u32, put_u64};

/// One compressed frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sample {
    /// Tick at which it is shown.
    shown: u64,
    size: u32,
    is_key: bool,
}

/// Collects the frames of a segment, in the order of decoding.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    samples: Vec<Sample>,
    data: Vec<u8>,
}

const FLAGS_KEY: u32 = 0x0200_0000;
const FLAGS_OTHER: u32 = 0x0101_0000;

impl Segment {
    /// Adds a frame: `append` writes its bytes.
    pub(crate) fn push(&mut self, shown: u64, is_key: bool, append: impl FnOnce(&mut Vec<u8>)) {
        let before = self.data.len();
        append(&mut self.data);
        let size = u32::try_from(self.data.len() - before).unwrap_or(u32::MAX);
        self.samples.push(Sample { shown, size, is_key });
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Bytes of frames so far.
    pub(crate) fn len(&self) -> usize {
        self.data.len()
    }

    /// The last tick at which a frame begins to be shown.
    pub(crate) fn last_shown(&self) -> Option<u64> {
        self.samples.iter().map(|sample| sample.shown).max()
    }

    /// The bytes of the segment that is decoded from `start` on and lasts until `end`, and empties this for the next one.
    ///
    /// `start` is the presentation time of the earliest frame, or an earlier time: then that frame is shown from there.
    pub(crate) fn finish(&mut self, number: u32, start: u64, end: u64) -> Vec<u8> {
        let mut times: Vec<u64> =
            self.samples.iter().map(|sample| sample.shown.max(start)).collect();
        times.sort_unstable();
        if let Some(first) = times.first_mut() {
            *first = start;
        }
        let earliest = self.samples.iter().map(|sample| sample.shown).min().unwrap_or(start);
        let mut out = Vec::with_capacity(self.data.len() + self.samples.len() * 16 + 200);
        put_box(&mut out, b"styp", |out| {
            out.extend_from_slice(b"msdh");
            put_u32(out, 0);
            out.extend_from_slice(b"msdhcmfs");
        });
        let moof = out.len();
        let mut data_offset_at = 0;
        put_box(&mut out, b"moof", |out| {
            put_full_box(out, b"mfhd", 0, 0, |out| put_u32(out, number.saturating_add(1)));
            put_box(out, b"traf", |out| {
                put_full_box(out, b"tfhd", 0, 0x2_0000, |out| put_u32(out, 1)); // base is the moof
                put_full_box(out, b"tfdt", 1, 0, |out| put_u64(out, start));
                // Data offset, and for each sample duration, size, flags and composition offset.
                put_full_box(out, b"trun", 1, 0xf01, |out| {
                    put_u32(out, self.samples.len() as u32);
                    data_offset_at = out.len();
                    put_u32(out, 0);
                    for (index, sample) in self.samples.iter().enumerate() {
                        let decoded = times[index];
                        let next = times.get(index + 1).copied().unwrap_or(end.max(decoded));
                        let shown =
                            if sample.shown == earliest { start } else { sample.shown.max(start) };
                        put_u32(out, u32::try_from(next - decoded).unwrap_or(u32::MAX));
                        put_u32(out, sample.size);
                        put_u32(out, if sample.is_key { FLAGS_KEY } else { FLAGS_OTHER });
                        let offset = i32::try_from(i128::from(shown) - i128::from(decoded));
                        put_u32(out, offset.unwrap_or(0).cast_unsigned());
                    }
                });
            });
        });
        let offset =
            u32::try_from(out.len() - moof + 8).expect("a moof is a few hundred KiB at most");
        out[data_offset_at..data_offset_at + 4].copy_from_slice(&offset.to_be_bytes());
        put_box(&mut out, b"mdat", |out| out.extend_from_slice(&self.data));
        self.samples.clear();
        self.data.clear();
        out
    }
}
