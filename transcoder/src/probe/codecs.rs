//! The decoders that libav may use. Everything else of its five hundred stays closed: the rarely used ones are where the
//! holes are.

use ffmpeg_next::codec::Id;

/// Names of decoders, for libav's own whitelist: what it checks again whenever it opens one.
pub(crate) const DECODERS: &str = "h264,hevc,vp8,vp9,libvpx,libvpx-vp9,libdav1d,av1,mpeg4,msmpeg4,msmpeg4v2,\
mpeg1video,mpeg2video,mpegvideo,h263,mjpeg,prores,dnxhd,theora,\
aac,aac_latm,mp3,mp3float,mp2,mp2float,opus,libopus,vorbis,flac,ac3,ac3_fixed,eac3,alac,dca,amrnb,amrwb,\
pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_f32le,pcm_u8,pcm_s8,pcm_alaw,pcm_mulaw,adpcm_ms,adpcm_ima_wav";

/// Whether pictures in this codec are read.
pub(crate) fn is_video_supported(codec: Id) -> bool {
    matches!(
        codec,
        Id::H264
            | Id::HEVC
            | Id::VP8
            | Id::VP9
            | Id::AV1
            | Id::MPEG4
            | Id::MSMPEG4V3
            | Id::MSMPEG4V2
            | Id::MPEG1VIDEO
            | Id::MPEG2VIDEO
            | Id::H263
            | Id::MJPEG
            | Id::PRORES
            | Id::DNXHD
            | Id::THEORA
    )
}

/// Whether sound in this codec is read.
pub(crate) fn is_audio_supported(codec: Id) -> bool {
    matches!(
        codec,
        Id::AAC
            | Id::AAC_LATM
            | Id::MP3
            | Id::MP2
            | Id::OPUS
            | Id::VORBIS
            | Id::FLAC
            | Id::AC3
            | Id::EAC3
            | Id::ALAC
            | Id::DTS
            | Id::AMR_NB
            | Id::AMR_WB
            | Id::PCM_S16LE
            | Id::PCM_S16BE
            | Id::PCM_S24LE
            | Id::PCM_S24BE
            | Id::PCM_S32LE
            | Id::PCM_F32LE
            | Id::PCM_U8
            | Id::PCM_S8
            | Id::PCM_ALAW
            | Id::PCM_MULAW
            | Id::ADPCM_MS
            | Id::ADPCM_IMA_WAV
    )
}
