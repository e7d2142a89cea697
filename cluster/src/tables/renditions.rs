//! Renditions and their segments.

use serde::{Deserialize, Serialize};

use crate::command::{BlockRef, NewSegment};
use crate::ids::VideoId;
use crate::plan::RenditionIndex;
use crate::table::Table;
use crate::view::TableId;

/// Every rendition that has a plan.
pub const RENDITIONS: Table<(VideoId, RenditionIndex), RenditionRow> =
    Table::new(TableId::Renditions);

/// Runs of segments, under the number of their last segment.
pub const SEGMENTS: Table<(VideoId, RenditionIndex, u32), SegmentRun> =
    Table::new(TableId::Segments);

/// How far a rendition has come. What it is (name, size, timescale) stands in the video's plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenditionRow {
    /// The initialization segment.
    pub init: Option<BlockRef>,
    /// RFC 6381, such as `avc1.64001f`.
    pub codecs: String,
    /// Segments from number 0 on without a gap.
    pub contiguous_segments: u32,
    /// Where the contiguous segments end, in ticks.
    pub contiguous_end: u64,
    /// All segments committed so far, gaps or not.
    pub segments: u32,
    /// Their bytes.
    pub bytes: u64,
    /// Their ticks.
    pub ticks: u64,
    /// The highest bit rate of a single segment, in bits per second. One shorter than a second counts as a second long.
    pub bitrate_peak: u32,
    /// The longest segment, in ticks.
    pub segment_ticks_max: u64,
    /// Nothing more will come.
    pub complete: bool,
}

/// Segments that were committed together, in the order of their numbers and without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRun {
    pub segments: Vec<NewSegment>,
}
