//! Reads the boxes of initialization segments and segments, strictly.

/// The boxes in `bytes`, with their contents.
pub fn boxes(mut bytes: &[u8]) -> Vec<(String, &[u8])> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let len = u32_at(bytes, 0) as usize;
        assert!(len >= 8 && len <= bytes.len(), "a box of {len} bytes in {}", bytes.len());
        found.push((String::from_utf8_lossy(&bytes[4..8]).into_owned(), &bytes[8..len]));
        bytes = &bytes[len..];
    }
    found
}

/// The contents of the box at a path like `moov/trak/mdia`; the first of each kind.
pub fn find<'a>(bytes: &'a [u8], path: &str) -> Option<&'a [u8]> {
    path.split('/').try_fold(bytes, |inside, kind| {
        boxes(inside).into_iter().find(|(name, _)| name == kind).map(|(_, contents)| contents)
    })
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// What an initialization segment says.
#[derive(Debug, PartialEq, Eq)]
pub struct Init {
    pub timescale: u32,
    /// Of the edit list, when there is one.
    pub media_time: Option<u64>,
    /// Four letters of the sample entry.
    pub format: String,
    pub width: u32,
    pub height: u32,
}

pub fn init(bytes: &[u8]) -> Init {
    let kinds: Vec<String> = boxes(bytes).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["ftyp", "moov"]);
    assert!(find(bytes, "moov/mvex/trex").is_some());
    let header = find(bytes, "moov/trak/tkhd").unwrap();
    let entry = find(bytes, "moov/trak/mdia/minf/stbl/stsd").unwrap();
    Init {
        timescale: u32_at(find(bytes, "moov/trak/mdia/mdhd").unwrap(), 12),
        media_time: find(bytes, "moov/trak/edts/elst").map(|edits| u64_at(edits, 16)),
        format: boxes(&entry[8..])[0].0.clone(),
        width: u32_at(header, 76) >> 16,
        height: u32_at(header, 80) >> 16,
    }
}

/// One frame in a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    pub decoded: u64,
    pub shown: u64,
    pub duration: u64,
    pub is_key: bool,
    pub data: Vec<u8>,
}

/// The frames of a segment, in the order of decoding.
pub fn samples(bytes: &[u8]) -> Vec<Sample> {
    let kinds: Vec<String> = boxes(bytes).into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, ["styp", "moof", "mdat"]);
    let data = find(bytes, "mdat").unwrap();
    let moof_at = bytes.len() - data.len() - 8 - (find(bytes, "moof").unwrap().len() + 8);
    let run = find(bytes, "moof/traf/trun").unwrap();
    assert_eq!(
        u32_at(run, 0),
        0x0100_0f01,
        "version 1 with offset, durations, sizes, flags, compositions"
    );
    let first = moof_at + u32_at(run, 8) as usize;
    assert_eq!(first, bytes.len() - data.len(), "data begins with the mdat");
    let tfdt = find(bytes, "moof/traf/tfdt").unwrap();
    assert_eq!(tfdt[0], 1);
    let mut decoded = u64_at(tfdt, 4);
    let mut rest = data;
    let mut samples = Vec::new();
    for index in 0..u32_at(run, 4) as usize {
        let entry = &run[12 + index * 16..28 + index * 16];
        let duration = u64::from(u32_at(entry, 0));
        let (sample, after) = rest.split_at(u32_at(entry, 4) as usize);
        let offset = i64::from(u32_at(entry, 12).cast_signed());
        samples.push(Sample {
            decoded,
            shown: decoded.strict_add_signed(offset),
            duration,
            is_key: u32_at(entry, 8) & 0x1_0000 == 0,
            data: sample.to_vec(),
        });
        decoded += duration;
        rest = after;
    }
    assert!(rest.is_empty(), "bytes that belong to no frame");
    samples
}
