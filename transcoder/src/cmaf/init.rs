//! Initialization segments: what a decoder must know before the first frame.

use super::boxes::{put_box, put_full_box, put_u16, put_u32, put_u64, put_zeros};

/// What a track carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Track {
    Video {
        width: u16,
        height: u16,
        /// The `AVCDecoderConfigurationRecord`.
        avcc: Vec<u8>,
        /// Primaries, transfer, matrix (H.273) and whether the range is full.
        color: Option<(u8, u8, u8, bool)>,
    },
    Audio {
        sample_rate: u32,
        channels: u16,
        /// The `AudioSpecificConfig`.
        config: Vec<u8>,
        /// Samples at the beginning that are not to be heard: the encoder's delay.
        skip: u32,
        bit_rate: u32,
    },
}

const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
const TRACK_ID: u32 = 1;
const LANGUAGE_UNDETERMINED: u16 = 0x55c4;

/// The initialization segment of a track. The same bytes for the same arguments, always.
pub(crate) fn init_segment(track: &Track, timescale: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    put_box(&mut out, b"ftyp", |out| {
        out.extend_from_slice(b"iso6");
        put_u32(out, 0);
        out.extend_from_slice(b"iso6cmfcmp41");
    });
    put_box(&mut out, b"moov", |out| {
        put_full_box(out, b"mvhd", 0, 0, |out| {
            put_zeros(out, 8); // created, modified
            put_u32(out, timescale);
            put_u32(out, 0); // duration: in the fragments
            put_u32(out, 0x1_0000); // rate
            put_u16(out, 0x100); // volume
            put_zeros(out, 10);
            MATRIX.iter().for_each(|value| put_u32(out, *value));
            put_zeros(out, 24);
            put_u32(out, TRACK_ID + 1); // next
        });
        put_box(out, b"trak", |out| put_track(out, track, timescale));
        put_box(out, b"mvex", |out| {
            put_full_box(out, b"trex", 0, 0, |out| {
                put_u32(out, TRACK_ID);
                put_u32(out, 1); // sample description
                put_zeros(out, 12); // default duration, size, flags
            });
        });
    });
    out
}

fn put_track(out: &mut Vec<u8>, track: &Track, timescale: u32) {
    put_full_box(out, b"tkhd", 0, 3, |out| {
        put_zeros(out, 8); // created, modified
        put_u32(out, TRACK_ID);
        put_zeros(out, 4);
        put_u32(out, 0); // duration
        put_zeros(out, 8);
        put_u16(out, 0); // layer
        put_u16(out, 0); // alternate group
        put_u16(out, if matches!(track, Track::Audio { .. }) { 0x100 } else { 0 });
        put_u16(out, 0);
        MATRIX.iter().for_each(|value| put_u32(out, *value));
        let (width, height) = match track {
            Track::Video { width, height, .. } => (*width, *height),
            Track::Audio { .. } => (0, 0),
        };
        put_u32(out, u32::from(width) << 16);
        put_u32(out, u32::from(height) << 16);
    });
    if let Track::Audio { skip, .. } = track
        && *skip > 0
    {
        put_box(out, b"edts", |out| {
            put_full_box(out, b"elst", 1, 0, |out| {
                put_u32(out, 1);
                put_u64(out, 0); // to the end
                put_u64(out, u64::from(*skip));
                put_u32(out, 0x1_0000); // rate
            });
        });
    }
    put_box(out, b"mdia", |out| {
        put_full_box(out, b"mdhd", 0, 0, |out| {
            put_zeros(out, 8); // created, modified
            put_u32(out, timescale);
            put_u32(out, 0); // duration
            put_u16(out, LANGUAGE_UNDETERMINED);
            put_u16(out, 0);
        });
        let (handler, name): (&[u8; 4], &[u8]) = match track {
            Track::Video { .. } => (b"vide", b"video\0"),
            Track::Audio { .. } => (b"soun", b"audio\0"),
        };
        put_full_box(out, b"hdlr", 0, 0, |out| {
            put_u32(out, 0);
            out.extend_from_slice(handler);
            put_zeros(out, 12);
            out.extend_from_slice(name);
        });
        put_box(out, b"minf", |out| {
            match track {
                Track::Video { .. } => {
                    put_full_box(out, b"vmhd", 0, 1, |out| put_zeros(out, 8));
                }
                Track::Audio { .. } => {
                    put_full_box(out, b"smhd", 0, 0, |out| put_zeros(out, 4));
                }
            }
            put_box(out, b"dinf", |out| {
                put_full_box(out, b"dref", 0, 0, |out| {
                    put_u32(out, 1);
                    put_full_box(out, b"url ", 0, 1, |_| ()); // in this file
                });
            });
            put_box(out, b"stbl", |out| {
                put_full_box(out, b"stsd", 0, 0, |out| {
                    put_u32(out, 1);
                    put_sample_entry(out, track);
                });
                for kind in [b"stts", b"stsc", b"stco"] {
                    put_full_box(out, kind, 0, 0, |out| put_u32(out, 0));
                }
                put_full_box(out, b"stsz", 0, 0, |out| put_zeros(out, 8));
            });
        });
    });
}

fn put_sample_entry(out: &mut Vec<u8>, track: &Track) {
    match track {
        Track::Video { width, height, avcc, color } => put_box(out, b"avc1", |out| {
            put_zeros(out, 6);
            put_u16(out, 1); // data reference
            put_zeros(out, 16);
            put_u16(out, *width);
            put_u16(out, *height);
            put_u32(out, 0x48_0000); // 72 dpi, as always
            put_u32(out, 0x48_0000);
            put_u32(out, 0);
            put_u16(out, 1); // frames per sample
            put_zeros(out, 32); // compressor name
            put_u16(out, 24); // depth
            put_u16(out, u16::MAX);
            put_box(out, b"avcC", |out| out.extend_from_slice(avcc));
            if let Some((primaries, transfer, matrix, full_range)) = *color {
                put_box(out, b"colr", |out| {
                    out.extend_from_slice(b"nclx");
                    put_u16(out, u16::from(primaries));
                    put_u16(out, u16::from(transfer));
                    put_u16(out, u16::from(matrix));
                    out.push(u8::from(full_range) << 7);
                });
            }
            put_box(out, b"pasp", |out| {
                put_u32(out, 1);
                put_u32(out, 1);
            });
        }),
        Track::Audio { sample_rate, channels, config, bit_rate, .. } => {
            put_box(out, b"mp4a", |out| {
                put_zeros(out, 6);
                put_u16(out, 1); // data reference
                put_zeros(out, 8);
                put_u16(out, *channels);
                put_u16(out, 16); // bits
                put_zeros(out, 4);
                put_u32(out, u32::from(u16::try_from(*sample_rate).unwrap_or(0)) << 16);
                put_full_box(out, b"esds", 0, 0, |out| put_decoder_config(out, config, *bit_rate));
            });
        }
    }
}

/// The descriptors of ISO/IEC 14496-1: each a tag, a length and contents, nested.
fn put_decoder_config(out: &mut Vec<u8>, config: &[u8], bit_rate: u32) {
    let config_len = u8::try_from(config.len()).unwrap_or(0).min(64);
    let config = &config[..usize::from(config_len)];
    let decoder_len = 13 + 2 + config_len;
    out.extend_from_slice(&[0x03, 3 + 2 + decoder_len + 3]);
    put_u16(out, 0); // ES id: that of the track
    out.push(0);
    out.extend_from_slice(&[0x04, decoder_len]);
    out.push(0x40); // MPEG-4 audio
    out.push(0x15); // audio stream
    put_zeros(out, 3); // buffer
    put_u32(out, bit_rate); // maximum
    put_u32(out, bit_rate); // average
    out.extend_from_slice(&[0x05, config_len]);
    out.extend_from_slice(config);
    out.extend_from_slice(&[0x06, 1, 2]); // sync layer: as MP4 has it
}
