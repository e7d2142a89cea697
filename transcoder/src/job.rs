//! What can be asked for, and what comes back.

use std::io::{Read, Seek};

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::plan::{Cuts, Plan};

/// What a source may ask of this machine at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Milliseconds.
    pub duration_ms_max: u64,
    /// Pixels of one frame.
    pub pixels_max: u64,
    /// Frames per second.
    pub frame_rate_max: u32,
    /// Tracks of any kind in the container.
    pub tracks_max: u32,
}

impl Default for Limits {
    /// Twelve hours, 8192 × 4320, 240 frames per second, 32 tracks.
    fn default() -> Self {
        Self {
            duration_ms_max: 12 * 3600 * 1000,
            pixels_max: 8192 * 4320,
            frame_rate_max: 240,
            tracks_max: 32,
        }
    }
}

/// One unit of work on one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Job {
    /// Read the headers and decide. Ends with one [`Output::Plan`].
    Prepare(PrepareJob),
    /// Put the source's own frames into new boxes, from beginning to end.
    Copy(CopyJob),
    /// Encode the sound of the whole source.
    Audio(AudioJob),
    /// Encode a run of segments of the pictures; one decode feeds all rungs.
    Piece(PieceJob),
    /// Make one JPEG.
    Thumbnail(ThumbnailJob),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrepareJob {
    pub limits: Limits,
    /// Whether tracks may be copied where they are fit for it. Off after a copy failed with `not_copyable`.
    pub copy_allowed: bool,
}

impl Default for PrepareJob {
    fn default() -> Self {
        Self { limits: Limits::default(), copy_allowed: true }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyJob {
    /// From the plan.
    #[serde(with = "serde_bytes")]
    pub recipe: Vec<u8>,
    /// Indices into the plan's renditions; those whose lane is `Copy`.
    pub renditions: Vec<u16>,
    /// From the plan.
    pub cuts: Cuts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioJob {
    /// From the plan.
    #[serde(with = "serde_bytes")]
    pub recipe: Vec<u8>,
    /// Index into the plan's renditions.
    pub rendition: u16,
    /// From the plan. The sound is cut at the first audio frame at or after each of these; on a grid when unknown.
    pub cuts: Cuts,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PieceJob {
    /// From the plan.
    #[serde(with = "serde_bytes")]
    pub recipe: Vec<u8>,
    /// Indices into the plan's renditions; those with pictures whose lane is `Encode`.
    pub renditions: Vec<u16>,
    /// The number of the piece's first segment within the rendition.
    pub first_segment: u32,
    /// The first tick of each segment of the piece, strictly rising, not empty.
    pub cuts: Vec<u64>,
    /// The first tick that no longer belongs to the piece. `None`: the piece goes on to the end of the source, wherever
    /// that is, and cuts itself beyond the last known cut.
    pub end: Option<u64>,
    /// How many processors the job may use.
    pub threads: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThumbnailJob {
    /// From the plan.
    #[serde(with = "serde_bytes")]
    pub recipe: Vec<u8>,
    /// Milliseconds from the start. `None`: two seconds, or the middle of what is shorter than four.
    pub at_ms: Option<u64>,
    /// Pixels; the picture is never enlarged.
    pub max_width: u32,
}

/// What a job yields, in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    Plan(Plan),
    /// Once per rendition, before its first segment. Every job that works on a rendition yields the same bytes.
    Init {
        rendition: u16,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// As RFC 6381 has it: `avc1.64001f`, `mp4a.40.2`.
        codecs: String,
    },
    Segment {
        rendition: u16,
        /// From 0 within the rendition, rising by one within a job.
        number: u32,
        /// Ticks of the rendition's timescale from the start of the video.
        start: u64,
        /// Ticks; the next segment starts exactly at `start + duration`.
        duration: u64,
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
    },
    Thumbnail {
        #[serde(with = "serde_bytes")]
        jpeg: Vec<u8>,
        width: u32,
        height: u32,
    },
    /// The first tick of each segment, when the plan left that to the copy job; at its end.
    Cuts(Vec<u64>),
    /// The pictures end here, in ticks. Yielded by each job that reached the end of the source, before it is done. A
    /// source can be shorter than its header says: planned segments that would start here or later do not exist.
    SourceEnd {
        ticks: u64,
    },
    /// How far the job is in the source, in milliseconds from the start of the video. About once per second of work.
    Progress {
        media_ms: u64,
    },
}

/// Takes the results.
pub trait Sink {
    /// An error ends the job with `sink_closed`.
    fn put(&mut self, output: Output) -> std::io::Result<()>;
}

impl<F: FnMut(Output) -> std::io::Result<()>> Sink for F {
    fn put(&mut self, output: Output) -> std::io::Result<()> {
        self(output)
    }
}

/// The bytes of an upload.
///
/// A read of bytes that have not arrived yet blocks until some of them have; it may return fewer than were asked for.
/// Seeking never blocks and may go anywhere.
pub trait Source: Read + Seek + Send + 'static {
    /// Bytes in all; `None` while nobody knows.
    fn len(&self) -> Option<u64>;

    /// Whether all bytes have arrived. While they have not, jobs read forward as far as the container lets them.
    fn is_complete(&self) -> bool;

    fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }
}

/// The outcome of a job.
pub type Outcome = Result<(), Failure>;
