//! What `Prepare` decides: how a source becomes renditions.

use serde::{Deserialize, Serialize};

/// Whether a rendition carries pictures or sound. They are never mixed in one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrackKind {
    Video,
    Audio,
}

/// How the segments of a rendition come to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// The source's own compressed frames, in new boxes.
    Copy,
    /// Decoded and encoded again.
    Encode,
}

/// One rung of the ladder, or the sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenditionPlan {
    /// Unique within the plan, fit for URLs: `1080p`, `720p`, `audio`.
    pub name: String,
    pub kind: TrackKind,
    pub lane: Lane,
    /// Pixels as shown, after rotation. 0 for audio.
    pub width: u32,
    /// Pixels as shown, after rotation. 0 for audio.
    pub height: u32,
    /// Frames per second times 1000; 0 for audio.
    pub frame_rate_millis: u32,
    /// The most bits per second that a segment is expected to have.
    pub bitrate_max: u32,
    /// Ticks per second of all times of this rendition. All video renditions have the same.
    pub timescale: u32,
}

/// Where the video's segments begin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cuts {
    /// The first tick of each segment, strictly rising, the first one 0. The last segment goes on to the end of the
    /// source. When the source does not say how long it is, this is `[0]`, and the one piece of that plan cuts itself.
    Known(Vec<u64>),
    /// Found by the copy job as it goes; see [`crate::Output::Cuts`].
    Discovered,
}

/// How a source becomes renditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Milliseconds; `None` when the container does not say.
    pub duration_ms: Option<u64>,
    /// Pixels of the source as shown, after rotation and with square pixels.
    pub width: u32,
    /// Pixels of the source as shown, after rotation and with square pixels.
    pub height: u32,
    /// The video renditions from large to small, then the audio.
    pub renditions: Vec<RenditionPlan>,
    pub cuts: Cuts,
    /// What later jobs on this source need to know; opaque outside this crate, at most [`RECIPE_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub recipe: Vec<u8>,
}

/// The longest recipe in bytes. One holds a few hundred numbers; the bound is what a catalog may rely on.
pub const RECIPE_BYTES_MAX: usize = 64 * 1024;
