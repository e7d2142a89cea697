//! Recognizing a container by its first bytes.

use serde::{Deserialize, Serialize};

use crate::error::Code;

/// The containers that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Container {
    /// MP4, QuickTime, 3GP.
    Mov,
    /// Matroska and WebM.
    Matroska,
    Avi,
    MpegTs,
}

impl Container {
    /// What libav calls the demuxer.
    pub(crate) fn demuxer(self) -> &'static str {
        match self {
            Self::Mov => "mov",
            Self::Matroska => "matroska",
            Self::Avi => "avi",
            Self::MpegTs => "mpegts",
        }
    }
}

/// How many bytes are looked at: five packets of a transport stream.
pub(crate) const HEAD_BYTES: usize = 5 * 192;

/// Top-level boxes that a file of the MP4 family may begin with.
const FIRST_BOXES: [&[u8; 4]; 10] =
    [b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp", b"moof", b"sidx"];

/// Still pictures in MP4 clothes.
const PICTURE_BRANDS: [&[u8; 4]; 5] = [b"heic", b"heix", b"mif1", b"avif", b"msf1"];

/// Media in containers that we do not read, by their first bytes.
const FOREIGN: [&[u8]; 9] = [
    b"FLV\x01",
    b"OggS",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", // ASF, WMV
    b"\x00\x00\x01\xba",                 // MPEG program stream
    b"\x00\x00\x01\xb3",                 // MPEG elementary stream
    b"\x06\x0e\x2b\x34",                 // MXF
    b".RMF",
    b"ID3",
    b"fLaC",
];

/// Which container `head`, the beginning of a source, belongs to.
///
/// # Errors
/// `empty_file`, `unsupported_container` or `not_a_video`.
pub(crate) fn sniff(head: &[u8]) -> Result<Container, Code> {
    if head.is_empty() {
        return Err(Code::EmptyFile);
    }
    if let Some(kind) = head.get(4..8)
        && FIRST_BOXES.iter().any(|known| *known == kind)
    {
        let brand = head.get(8..12).unwrap_or_default();
        let is_picture = kind == b"ftyp" && PICTURE_BRANDS.iter().any(|known| *known == brand);
        return if is_picture { Err(Code::NotAVideo) } else { Ok(Container::Mov) };
    }
    if head.starts_with(b"\x1a\x45\xdf\xa3") {
        return Ok(Container::Matroska);
    }
    if head.starts_with(b"RIFF") {
        return if head.get(8..12) == Some(b"AVI ") {
            Ok(Container::Avi)
        } else {
            Err(Code::UnsupportedContainer)
        };
    }
    // Packets of 188 bytes, or of 192 with a time stamp before each.
    for (first, stride) in [(0, 188), (4, 192)] {
        let syncs = head.iter().skip(first).step_by(stride);
        if head.len() >= first + 3 * stride && syncs.clone().all(|byte| *byte == 0x47) {
            return Ok(Container::MpegTs);
        }
    }
    if FOREIGN.iter().any(|known| head.starts_with(known)) {
        return Err(Code::UnsupportedContainer);
    }
    Err(Code::NotAVideo)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_beginning() {
        assert_eq!(sniff(b"\0\0\0\x20ftypisom"), Ok(Container::Mov));
        assert_eq!(sniff(b"\0\0\0\x08wide\0\0\0\0mdat"), Ok(Container::Mov));
        assert_eq!(sniff(b"\x1a\x45\xdf\xa3\x01"), Ok(Container::Matroska));
        assert_eq!(sniff(b"RIFF\0\0\0\0AVI LIST"), Ok(Container::Avi));
        let mut ts = vec![0; HEAD_BYTES];
        ts.iter_mut().step_by(188).for_each(|byte| *byte = 0x47);
        assert_eq!(sniff(&ts), Ok(Container::MpegTs));
        ts[188] = 0;
        assert_eq!(sniff(&ts), Err(Code::NotAVideo));
    }

    #[test]
    fn programs_in_disguise_are_no_videos() {
        for text in [
            "#EXTM3U\n#EXT-X-VERSION:3\nfile:///etc/passwd\n",
            "ffconcat version 1.0\nfile /etc/passwd\n",
            "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\n",
            "<?xml version=\"1.0\"?><MPD></MPD>",
            "PK\x03\x04",
            "hello",
            "\u{feff}[Script Info]",
        ] {
            assert_eq!(sniff(text.as_bytes()), Err(Code::NotAVideo), "{text}");
        }
        assert_eq!(sniff(b""), Err(Code::EmptyFile));
        assert_eq!(sniff(b"FLV\x01\x05"), Err(Code::UnsupportedContainer));
        assert_eq!(sniff(b"\0\0\0\x18ftypheic"), Err(Code::NotAVideo));
    }
}
