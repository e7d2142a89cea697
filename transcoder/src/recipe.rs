//! The decisions of `Prepare` that later jobs need, as they travel through the catalog.
//!
//! A recipe is read by the version that wrote it or a later one: fields are named and may be added with a default, and
//! the version rises when an old recipe would be misread.

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Ratio};
use crate::error::{Code, Failure};
use crate::grid::Grid;
use crate::plan::Lane;
use crate::probe::sniff::Container;

const VERSION: u16 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Recipe {
    version: u16,
    pub(crate) container: Container,
    pub(crate) video: VideoRecipe,
    pub(crate) audio: Option<AudioRecipe>,
    pub(crate) pixels_max: u64,
    /// Milliseconds; no job goes on for longer.
    pub(crate) duration_ms_max: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct VideoRecipe {
    /// Index in the container.
    pub(crate) stream: usize,
    pub(crate) clock: Clock,
    /// Frames per second on average.
    pub(crate) frame_rate: Ratio,
    /// Ticks per frame, when that never changes.
    pub(crate) frame_ticks: Option<u32>,
    /// Milliseconds, when known.
    pub(crate) duration_ms: Option<u64>,
    pub(crate) picture: Picture,
    /// By index of the rendition; they come first in the plan.
    pub(crate) rungs: Vec<RungRecipe>,
    /// Whether the one piece of this plan finds its own cuts on the grid.
    pub(crate) cuts_itself: bool,
}

impl VideoRecipe {
    pub(crate) fn grid(&self) -> Grid {
        Grid {
            timescale: self.clock.timescale,
            frames: self.frame_ticks.map(|ticks| (ticks, self.clock.lead)),
        }
    }
}

/// What has to be done to a decoded picture before it is the one to be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Picture {
    pub(crate) turn: Turn,
    pub(crate) interlaced: bool,
    /// The brightness curve is PQ or HLG and has to be brought to what every screen shows.
    pub(crate) hdr: bool,
    /// H.273 code points of what is encoded: primaries, transfer, matrix.
    pub(crate) color: (u8, u8, u8),
}

/// Turning and mirroring, in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Turn {
    /// Clockwise quarters, 0 to 3.
    pub(crate) quarters: u8,
    /// Left and right are exchanged.
    pub(crate) mirrored: bool,
}

impl Turn {
    pub(crate) fn swaps_sides(self) -> bool {
        self.quarters % 2 == 1
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RungRecipe {
    pub(crate) lane: Lane,
    /// Pixels as shown.
    pub(crate) width: u32,
    /// Pixels as shown.
    pub(crate) height: u32,
    pub(crate) crf: u8,
    /// Bits per second.
    pub(crate) cap: u32,
    /// Frames per second are kept up to this.
    pub(crate) frame_rate: Ratio,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AudioRecipe {
    /// Index in the container.
    pub(crate) stream: usize,
    /// Index of the rendition.
    pub(crate) rendition: u16,
    pub(crate) lane: Lane,
    pub(crate) time_base: Ratio,
    /// The timestamp that is heard when the video begins.
    pub(crate) origin: i64,
    /// Samples per second of the rendition.
    pub(crate) sample_rate: u32,
    pub(crate) channels: u32,
    /// Bits per second.
    pub(crate) bit_rate: u32,
}

impl Recipe {
    pub(crate) fn new(
        container: Container,
        video: VideoRecipe,
        audio: Option<AudioRecipe>,
        pixels_max: u64,
        duration_ms_max: u64,
    ) -> Self {
        Self { version: VERSION, container, video, audio, pixels_max, duration_ms_max }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        rmp_serde::to_vec_named(self)
            .expect("a recipe is plain numbers, and memory does not refuse writes")
    }

    /// # Errors
    /// `bad_job` for what is no recipe, or that of a later version.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Failure> {
        let recipe: Self = rmp_serde::from_slice(bytes)
            .map_err(|error| Failure::new(Code::BadJob, format!("This is no recipe: {error}.")))?;
        if recipe.version != VERSION {
            let detail = format!("The recipe has version {}, known is {VERSION}.", recipe.version);
            return Err(Failure::new(Code::BadJob, detail));
        }
        Ok(recipe)
    }

    /// The encoded rungs with these indices.
    pub(crate) fn encoded_rungs(
        &self,
        indices: &[u16],
    ) -> Result<Vec<(u16, &RungRecipe)>, Failure> {
        let find = |index: &u16| {
            let rung = self.video.rungs.get(usize::from(*index))?;
            (rung.lane == Lane::Encode).then_some((*index, rung))
        };
        let rungs: Option<Vec<_>> = indices.iter().map(find).collect();
        rungs.filter(|rungs| !rungs.is_empty()).ok_or_else(|| {
            Failure::new(Code::BadJob, "The job names renditions that are not encoded pictures.")
        })
    }
}
