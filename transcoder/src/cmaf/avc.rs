//! H.264 as far as repackaging needs it: NAL units, the decoder configuration record, and what a sequence parameter set
//! says about the pictures (ITU-T H.264 section 7.3, ISO/IEC 14496-15 section 5.3).

use super::bits::Bits;

pub(crate) const NAL_IDR: u8 = 5;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const NAL_DELIMITER: u8 = 9;
const NAL_FILLER: u8 = 12;

pub(crate) fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |header| header & 0x1f)
}

/// How the NAL units of a stream are separated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By start codes, as in transport streams and from x264.
    AnnexB,
    /// By a length of that many bytes before each, as in MP4.
    Length(u8),
}

/// The NAL units of a frame. Ends early where the framing is broken.
pub(crate) fn nals(data: &[u8], framing: Framing) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match framing {
        Framing::AnnexB => Box::new(AnnexB { rest: after_start_code(data) }),
        Framing::Length(size) => Box::new(Lengths { rest: data, size: usize::from(size) }),
    }
}

struct AnnexB<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Iterator for AnnexB<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let data = self.rest.take()?;
        let (nal, rest) = match find_start_code(data) {
            Some(at) => (&data[..at], Some(&data[at + 3..])),
            None => (data, None),
        };
        self.rest = rest;
        // Zeros before a start code belong to nobody.
        let end = nal.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Some(&nal[..end])
    }
}

struct Lengths<'a> {
    rest: &'a [u8],
    size: usize,
}

impl<'a> Iterator for Lengths<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (prefix, rest) = self.rest.split_at_checked(self.size)?;
        let len = prefix.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte));
        let (nal, rest) = rest.split_at_checked(len)?;
        self.rest = rest;
        Some(nal)
    }
}

fn find_start_code(data: &[u8]) -> Option<usize> {
    let mut at = 0;
    while at + 3 <= data.len() {
        match data[at + 2] {
            0 => at += 1,
            1 if data[at] == 0 && data[at + 1] == 0 => return Some(at),
            _ => at += 3,
        }
    }
    None
}

fn after_start_code(data: &[u8]) -> Option<&[u8]> {
    find_start_code(data).map(|at| &data[at + 3..])
}

/// Whether the framing is unbroken from the first to the last byte, and there is something in it.
pub(crate) fn is_whole(data: &[u8], framing: Framing) -> bool {
    match framing {
        Framing::AnnexB => nals(data, framing).any(|nal| !nal.is_empty()),
        Framing::Length(size) => {
            let whole: usize = nals(data, framing).map(|nal| nal.len() + usize::from(size)).sum();
            whole == data.len() && whole > 0
        }
    }
}

/// Appends a frame's NAL units with four-byte lengths, without those that the configuration record or nobody needs.
pub(crate) fn append_frame(out: &mut Vec<u8>, data: &[u8], framing: Framing) {
    for nal in nals(data, framing) {
        if matches!(nal_type(nal), NAL_SPS | NAL_PPS | NAL_DELIMITER | NAL_FILLER) || nal.is_empty()
        {
            continue;
        }
        let len = u32::try_from(nal.len()).expect("a packet is at most 2 GiB");
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(nal);
    }
}

/// The parameter sets of a stream: one of each kind, as the copy lane demands and x264 writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ParameterSets {
    pub(crate) sps: Vec<u8>,
    pub(crate) pps: Vec<u8>,
}

impl ParameterSets {
    /// From an encoder's or a container's global header, and how the frames that belong to it are framed. `None` unless
    /// there is exactly one set of each kind.
    pub(crate) fn parse(extradata: &[u8]) -> Option<(Self, Framing)> {
        if extradata.first() != Some(&1) {
            return Some((Self::from_nals(nals(extradata, Framing::AnnexB))?, Framing::AnnexB));
        }
        let size = (extradata.get(4)? & 3) + 1;
        let mut rest = extradata.get(5..)?;
        let mut sets: [Vec<&[u8]>; 2] = [Vec::new(), Vec::new()];
        for (kind, mask) in [(0, 0x1f), (1, 0xff)] {
            let (count, after) = rest.split_first()?;
            rest = after;
            for _ in 0..count & mask {
                let (len, after) = rest.split_at_checked(2)?;
                let (nal, after) =
                    after.split_at_checked(usize::from(u16::from_be_bytes([len[0], len[1]])))?;
                sets[kind].push(nal);
                rest = after;
            }
        }
        let nals = sets.into_iter().flatten();
        Some((Self::from_nals(nals)?, Framing::Length(size)))
    }

    fn from_nals<'a>(nals: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let (mut sps, mut pps) = (Vec::new(), Vec::new());
        for nal in nals {
            let set = match nal_type(nal) {
                NAL_SPS => &mut sps,
                NAL_PPS => &mut pps,
                _ => continue,
            };
            if !set.is_empty() && set != nal {
                return None;
            }
            *set = nal.to_vec();
        }
        (sps.len() >= 4 && !pps.is_empty()).then_some(Self { sps, pps })
    }

    /// Whether a frame brings other parameter sets than these.
    pub(crate) fn contradicted_by(&self, data: &[u8], framing: Framing) -> bool {
        nals(data, framing).any(|nal| match nal_type(nal) {
            NAL_SPS => nal != self.sps,
            NAL_PPS => nal != self.pps,
            _ => false,
        })
    }

    /// The configuration record, for frames with four-byte lengths.
    pub(crate) fn to_avcc(&self) -> Vec<u8> {
        let mut out = vec![1, self.sps[1], self.sps[2], self.sps[3], 0xff, 0xe1];
        for set in [&self.sps, &self.pps] {
            if set == &self.pps {
                out.push(1);
            }
            out.extend_from_slice(&u16::try_from(set.len()).unwrap_or(0).to_be_bytes());
            out.extend_from_slice(set);
        }
        if let (Some(sps), 100 | 110 | 122 | 144) = (Sps::parse(&self.sps), self.sps[1]) {
            out.push(0xfc | sps.chroma_format);
            out.push(0xf8 | sps.luma_depth.saturating_sub(8));
            out.push(0xf8 | sps.chroma_depth.saturating_sub(8));
            out.push(0);
        }
        out
    }

    /// The codecs string of RFC 6381.
    pub(crate) fn codecs(&self) -> String {
        format!("avc1.{:02x}{:02x}{:02x}", self.sps[1], self.sps[2], self.sps[3])
    }
}

/// What a sequence parameter set says about the pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sps {
    pub(crate) profile: u8,
    pub(crate) level: u8,
    /// 1 is 4:2:0.
    pub(crate) chroma_format: u8,
    pub(crate) luma_depth: u8,
    pub(crate) chroma_depth: u8,
    /// No fields, no field pairs.
    pub(crate) progressive: bool,
    /// Pixels after cropping.
    pub(crate) width: u32,
    /// Pixels after cropping.
    pub(crate) height: u32,
    pub(crate) color: Option<(u8, u8, u8, bool)>,
}

impl Sps {
    /// From the NAL unit, with its header byte.
    pub(crate) fn parse(nal: &[u8]) -> Option<Self> {
        let raw = without_emulation_prevention(nal.get(1..)?);
        let mut bits = Bits::new(&raw);
        let profile = bits.bits(8)? as u8;
        bits.bits(8)?; // constraints
        let level = bits.bits(8)? as u8;
        bits.unsigned()?; // id
        let (mut chroma_format, mut luma_depth, mut chroma_depth) = (1, 8, 8);
        if matches!(
            profile,
            100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135
        ) {
            chroma_format = u8::try_from(bits.unsigned()?).ok().filter(|format| *format <= 3)?;
            if chroma_format == 3 {
                bits.bit()?;
            }
            luma_depth = u8::try_from(8 + bits.unsigned()?.min(8)).ok()?;
            chroma_depth = u8::try_from(8 + bits.unsigned()?.min(8)).ok()?;
            bits.bit()?; // lossless
            if bits.bit()? {
                let lists = if chroma_format == 3 { 12 } else { 8 };
                for list in 0..lists {
                    if bits.bit()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.unsigned()?; // frame number
        match bits.unsigned()? {
            0 => {
                bits.unsigned()?;
            }
            1 => {
                bits.bit()?;
                bits.signed()?;
                bits.signed()?;
                for _ in 0..bits.unsigned()?.min(255) {
                    bits.signed()?;
                }
            }
            _ => {}
        }
        bits.unsigned()?; // reference frames
        bits.bit()?;
        let width_mbs = bits.unsigned()?.checked_add(1)?;
        let height_units = bits.unsigned()?.checked_add(1)?;
        let progressive = bits.bit()?;
        if !progressive {
            bits.bit()?;
        }
        bits.bit()?;
        let mut crop = [0; 4];
        if bits.bit()? {
            for side in &mut crop {
                *side = bits.unsigned()?;
            }
        }
        let [left, right, top, bottom] = crop;
        let frame = if progressive { 1 } else { 2 };
        let (crop_x, crop_y) = match chroma_format {
            1 => (2, 2 * frame),
            2 => (2, frame),
            _ => (1, frame),
        };
        let size = |units: u32, cut: u32, unit: u32| {
            units.checked_mul(16)?.checked_sub(cut.checked_mul(unit)?).filter(|size| *size > 0)
        };
        let width = size(width_mbs, left.checked_add(right)?, crop_x)?;
        let height = size(height_units.checked_mul(frame)?, top.checked_add(bottom)?, crop_y)?;
        let color = if bits.bit()? { color(&mut bits) } else { None };
        Some(Self {
            profile,
            level,
            chroma_format,
            luma_depth,
            chroma_depth,
            progressive,
            width,
            height,
            color,
        })
    }
}

/// The colour description out of the video usability information.
fn color(bits: &mut Bits<'_>) -> Option<(u8, u8, u8, bool)> {
    const EXTENDED_ASPECT: u32 = 255;
    if bits.bit()? && bits.bits(8)? == EXTENDED_ASPECT {
        bits.bits(32)?;
    }
    if bits.bit()? {
        bits.bit()?; // overscan
    }
    if !bits.bit()? {
        return None;
    }
    bits.bits(3)?;
    let full_range = bits.bit()?;
    if !bits.bit()? {
        return None;
    }
    Some((bits.bits(8)? as u8, bits.bits(8)? as u8, bits.bits(8)? as u8, full_range))
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

fn without_emulation_prevention(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len());
    let mut zeros = 0;
    for byte in data {
        if zeros >= 2 && *byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        out.push(*byte);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_codes_of_both_lengths_separate() {
        let data = [0, 0, 0, 1, 0x67, 1, 2, 0, 0, 1, 0x68, 3, 0, 0, 0, 1, 0x65, 0, 3, 9];
        let found: Vec<&[u8]> = nals(&data, Framing::AnnexB).collect();
        assert_eq!(found, [&[0x67, 1, 2][..], &[0x68, 3], &[0x65, 0, 3, 9]]);
        let mut frame = Vec::new();
        append_frame(&mut frame, &data, Framing::AnnexB);
        assert_eq!(frame, [0, 0, 0, 4, 0x65, 0, 3, 9]);
        assert_eq!(nals(&frame, Framing::Length(4)).count(), 1);
    }

    #[test]
    fn broken_lengths_end_the_frame() {
        assert_eq!(nals(&[0, 0, 0, 9, 1], Framing::Length(4)).count(), 0);
        assert_eq!(nals(&[0, 0], Framing::Length(4)).count(), 0);
        assert!(!is_whole(&[0, 0, 0, 1, 0x65, 0, 0, 0, 9, 1], Framing::Length(4)));
        assert!(is_whole(&[0, 0, 0, 1, 0x65, 0, 0, 0, 1, 1], Framing::Length(4)));
        assert_eq!(nals(&[], Framing::AnnexB).count(), 0);
    }

    #[test]
    fn a_configuration_record_comes_back() {
        // From x264: 1280x720, High, level 3.1, 4:2:0, BT.709.
        let sps = [
            0x67, 0x64, 0x00, 0x1f, 0xac, 0xd9, 0x40, 0x50, 0x05, 0xbb, 0x01, 0x6a, 0x02, 0x02,
            0x02, 0x80, 0x00, 0x00, 0x03, 0x00, 0x80, 0x00, 0x00, 0x1e, 0x07, 0x8c, 0x18, 0xcb,
        ];
        let pps = [0x68, 0xeb, 0xe3, 0xcb, 0x22, 0xc0];
        let sets = ParameterSets { sps: sps.to_vec(), pps: pps.to_vec() };
        let (parsed, framing) = ParameterSets::parse(&sets.to_avcc()).unwrap();
        assert_eq!((parsed, framing), (sets.clone(), Framing::Length(4)));
        assert_eq!(sets.codecs(), "avc1.64001f");
        let sps = Sps::parse(&sps).unwrap();
        assert_eq!((sps.width, sps.height, sps.profile, sps.level), (1280, 720, 100, 31));
        assert!(sps.progressive);
        assert_eq!((sps.chroma_format, sps.luma_depth), (1, 8));
        assert_eq!(sps.color, Some((1, 1, 1, false)));
    }

    #[test]
    fn two_different_sets_are_one_too_many() {
        let one = [0, 0, 1, 0x67, 1, 2, 3, 0, 0, 1, 0x68, 3];
        assert!(ParameterSets::parse(&one).is_some());
        let two = [&one[..], &[0, 0, 1, 0x67, 1, 2, 4]].concat();
        assert!(ParameterSets::parse(&two).is_none());
        assert!(ParameterSets::parse(&[]).is_none());
        assert!(ParameterSets::parse(&[1, 2, 3]).is_none());
    }
}
