//! AAC as far as repackaging needs it: frames with and without ADTS headers (ISO/IEC 14496-3).

/// Samples in a frame of AAC-LC.
pub(crate) const FRAME_SAMPLES: u32 = 1024;

const SAMPLE_RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000,
    7350,
];

/// The object type of low complexity, as codecs strings and configurations number it.
const LOW_COMPLEXITY: u8 = 2;

/// The `AudioSpecificConfig` of AAC-LC. `None` for a rate or a layout that two bytes cannot say.
pub(crate) fn config(sample_rate: u32, channels: u32) -> Option<Vec<u8>> {
    let rate = SAMPLE_RATES.iter().position(|rate| *rate == sample_rate)? as u8;
    let channels = u8::try_from(channels).ok().filter(|channels| (1..=6).contains(channels))?;
    Some(vec![LOW_COMPLEXITY << 3 | rate >> 1, (rate & 1) << 7 | channels << 3])
}

/// The frame without its ADTS header, when it has one.
pub(crate) fn without_adts(frame: &[u8]) -> &[u8] {
    match frame {
        [0xff, second, ..] if second & 0xf6 == 0xf0 => {
            let header = if second & 1 == 1 { 7 } else { 9 };
            frame.get(header..).unwrap_or_default()
        }
        _ => frame,
    }
}

/// The codecs string of RFC 6381.
pub(crate) fn codecs() -> String {
    format!("mp4a.40.{LOW_COMPLEXITY}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_of_common_formats() {
        assert_eq!(config(48_000, 2).unwrap(), [0x11, 0x90]);
        assert_eq!(config(44_100, 2).unwrap(), [0x12, 0x10]);
        assert_eq!(config(48_001, 2), None);
        assert_eq!(config(48_000, 9), None);
    }

    #[test]
    fn adts_headers_are_taken_off() {
        assert_eq!(without_adts(&[0xff, 0xf1, 0x4c, 0x80, 0x01, 0x3f, 0xfc, 7, 8]), [7, 8]);
        assert_eq!(without_adts(&[0x21, 0x10, 4]), [0x21, 0x10, 4]);
        assert!(without_adts(&[0xff, 0xf1]).is_empty());
    }
}
