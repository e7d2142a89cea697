//! Frames of sound become segments; for the copy lane and the encode lane alike.
//!
//! Sound is never stitched: one job makes the whole track. A segment ends with the first frame that reaches the end of
//! the pictures' segment; frames are 21 ms long, so the two never match exactly, and need not.
//!
//! Inside the boxes time begins with the first frame that there is, heard or not; the edit list of the initialization
//! segment tells players how much of that comes before the video's beginning. In outputs, as everywhere else, time begins
//! with the video.

use std::collections::VecDeque;

use crate::clock::Clock;
use crate::cmaf::aac;
use crate::cmaf::init::{Track, init_segment};
use crate::cmaf::segment::Segment;
use crate::error::Failure;
use crate::grid::Grid;
use crate::job::{Output, Sink};
use crate::plan::Cuts;

/// Where segments end, in ticks of the sound.
#[derive(Debug)]
pub(crate) struct SoundCuts {
    known: VecDeque<u64>,
    grid: Grid,
    /// Beyond the known cuts: on the grid from the beginning, or as late as may be.
    follows_grid: bool,
}

impl SoundCuts {
    /// From the pictures' cuts. `cuts_itself` says that these are only a beginning.
    pub(crate) fn new(cuts: &Cuts, video: &Clock, sample_rate: u32, cuts_itself: bool) -> Self {
        let convert = |tick: &u64| {
            let scaled = u128::from(*tick) * u128::from(sample_rate) / u128::from(video.timescale);
            u64::try_from(scaled).unwrap_or(u64::MAX)
        };
        let (known, follows_grid) = match cuts {
            Cuts::Known(cuts) if !cuts_itself => {
                (cuts.iter().skip(1).map(convert).collect(), false)
            }
            Cuts::Known(_) | Cuts::Discovered => (VecDeque::new(), true),
        };
        Self { known, grid: Grid { timescale: sample_rate, frames: None }, follows_grid }
    }

    /// The least end of segment `number`, which begins at `start`.
    fn end(&mut self, start: u64, number: u32) -> u64 {
        while let Some(cut) = self.known.pop_front() {
            if cut > start {
                return cut;
            }
        }
        if self.follows_grid {
            self.grid.after(start, number as usize)
        } else {
            self.grid.latest(start).saturating_sub(u64::from(aac::FRAME_SAMPLES))
        }
    }
}

/// See the module.
pub(crate) struct SoundTrack {
    rendition: u16,
    cuts: SoundCuts,
    /// Samples before the video's beginning.
    skip: u64,
    segment: Segment,
    number: u32,
    /// Box time at which the present segment begins and shall end.
    start: u64,
    target: u64,
    /// Box time at which the last frame ends.
    end: u64,
}

/// What is written into the initialization segment.
pub(crate) struct SoundFormat {
    pub(crate) sample_rate: u32,
    pub(crate) channels: u32,
    /// The `AudioSpecificConfig`.
    pub(crate) config: Vec<u8>,
    /// Bits per second.
    pub(crate) bit_rate: u32,
}

impl SoundTrack {
    /// Begins a track whose first frame starts `skip` samples before the video's beginning.
    pub(crate) fn begin(
        rendition: u16,
        format: SoundFormat,
        skip: u64,
        cuts: SoundCuts,
        sink: &mut dyn Sink,
    ) -> Result<Self, Failure> {
        let track = Track::Audio {
            sample_rate: format.sample_rate,
            channels: u16::try_from(format.channels).unwrap_or(2),
            config: format.config,
            skip: u32::try_from(skip).unwrap_or(0),
            bit_rate: format.bit_rate,
        };
        let bytes = init_segment(&track, format.sample_rate);
        sink.put(Output::Init { rendition, bytes, codecs: aac::codecs() })
            .map_err(|error| crate::sink_closed(&error))?;
        let mut track = Self {
            rendition,
            cuts,
            skip,
            segment: Segment::default(),
            number: 0,
            start: 0,
            target: 0,
            end: 0,
        };
        track.target = track.cuts.end(0, 0).saturating_add(skip);
        Ok(track)
    }

    /// Adds a frame that starts at this box time.
    pub(crate) fn push(
        &mut self,
        time: u64,
        duration: u64,
        data: &[u8],
        sink: &mut dyn Sink,
    ) -> Result<(), Failure> {
        if !self.segment.is_empty() && time >= self.target {
            self.finish_segment(time, sink)?;
        }
        let time = time.max(self.segment.last_shown().map_or(self.start, |last| last + 1));
        self.segment.push(time, true, |out| out.extend_from_slice(data));
        self.end = time.saturating_add(duration);
        Ok(())
    }

    fn finish_segment(&mut self, end: u64, sink: &mut dyn Sink) -> Result<(), Failure> {
        let bytes = self.segment.finish(self.number, self.start, end);
        let heard_from = self.start.saturating_sub(self.skip);
        let heard_to = end.saturating_sub(self.skip);
        let output = Output::Segment {
            rendition: self.rendition,
            number: self.number,
            start: heard_from,
            duration: heard_to.saturating_sub(heard_from),
            bytes,
        };
        sink.put(output).map_err(|error| crate::sink_closed(&error))?;
        self.number += 1;
        self.start = end;
        self.target = self.cuts.end(heard_to, self.number).saturating_add(self.skip);
        Ok(())
    }

    /// Ends the track.
    pub(crate) fn finish(mut self, sink: &mut dyn Sink) -> Result<(), Failure> {
        if self.segment.is_empty() { Ok(()) } else { self.finish_segment(self.end, sink) }
    }
}
