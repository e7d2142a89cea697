//! Why a job failed, in words that stay the same.
//!
//! A code is part of the public interface: it travels through the catalog to the person who uploaded the video, and
//! scripts compare it. So codes are never renamed, and all of them are listed here.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The stable codes. What is permanent says something about the source; trying again cannot help.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The source has no bytes at all.
    EmptyFile,
    /// The bytes are nothing that this crate would ever open: text, an archive, a playlist.
    NotAVideo,
    /// Media, but in a container outside the list (see `probe/sniff.rs`).
    UnsupportedContainer,
    /// A video codec outside the list (see `probe/codecs.rs`).
    UnsupportedCodec,
    /// There is no track with pictures, or only a cover.
    NoVideoTrack,
    /// The file ends before its index, so nothing of it can be played.
    Truncated,
    /// Longer than the limit.
    TooLong,
    /// More pixels per frame than the limit.
    FrameTooLarge,
    /// More tracks than the limit.
    TooManyTracks,
    /// More frames per second than the limit.
    BadFrameRate,
    /// Protected by DRM.
    Encrypted,
    /// The container can be read, its contents cannot.
    CorruptMedia,
    /// The frames turned out not to be fit for the copy lane in the middle of the file. Prepare again without copying.
    NotCopyable,
    /// The recipe or the numbers in the job are not ones that this version wrote.
    BadJob,
    /// The source could not be read. Worth another try.
    SourceUnavailable,
    /// Nobody took the results any more. Worth another try.
    SinkClosed,
    /// Memory or another resource ran out, or libav failed without blaming the media. Worth another try.
    Internal,
}

impl Code {
    /// The code as it is written down.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EmptyFile => "empty_file",
            Self::NotAVideo => "not_a_video",
            Self::UnsupportedContainer => "unsupported_container",
            Self::UnsupportedCodec => "unsupported_codec",
            Self::NoVideoTrack => "no_video_track",
            Self::Truncated => "truncated",
            Self::TooLong => "too_long",
            Self::FrameTooLarge => "frame_too_large",
            Self::TooManyTracks => "too_many_tracks",
            Self::BadFrameRate => "bad_frame_rate",
            Self::Encrypted => "encrypted",
            Self::CorruptMedia => "corrupt_media",
            Self::NotCopyable => "not_copyable",
            Self::BadJob => "bad_job",
            Self::SourceUnavailable => "source_unavailable",
            Self::SinkClosed => "sink_closed",
            Self::Internal => "internal",
        }
    }

    /// Whether another try, with the same source, must end the same way.
    pub fn is_permanent(self) -> bool {
        !matches!(self, Self::SourceUnavailable | Self::SinkClosed | Self::Internal)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A job that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Failure {
    pub code: Code,
    /// One sentence for people.
    pub detail: String,
}

impl Failure {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into() }
    }

    /// Whether another try, with the same source, must end the same way.
    pub fn is_permanent(&self) -> bool {
        self.code.is_permanent()
    }
}
