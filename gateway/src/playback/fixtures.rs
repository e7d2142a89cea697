//! Presentations for the tests of the renderers.

use cluster::command::{BlockRef, NewSegment};
use cluster::ids::BlockHash;
use cluster::plan::TrackKind;
use cluster::playback::{ListedRendition, Presentation};
use cluster::tables::videos::VideoState;

const BLOCK: BlockRef = BlockRef { hash: BlockHash([1; 32]), len: 100 };

pub(super) fn segments(durations: &[u64]) -> Vec<NewSegment> {
    let mut start = 0;
    let mut segments = Vec::new();
    for (number, duration) in (0..).zip(durations.iter().copied()) {
        segments.push(NewSegment { number, start, duration, block: BLOCK });
        start += duration;
    }
    segments
}

pub(super) fn video(name: &str, width: u32, height: u32) -> ListedRendition {
    ListedRendition {
        index: 0,
        name: name.to_owned(),
        kind: TrackKind::Video,
        width,
        height,
        frame_rate_millis: 29_970,
        codecs: "avc1.64001f".to_owned(),
        timescale: 90_000,
        init: BLOCK,
        bandwidth_peak: 2_000 * width.min(height),
        bandwidth_average: 1_000 * width.min(height),
        segments: segments(&[360_360, 360_360, 135_135]),
        ended: true,
    }
}

pub(super) fn audio(name: &str) -> ListedRendition {
    ListedRendition {
        kind: TrackKind::Audio,
        frame_rate_millis: 0,
        codecs: "mp4a.40.2".to_owned(),
        timescale: 48_000,
        bandwidth_peak: 128_000,
        bandwidth_average: 56_000,
        segments: segments(&[192_512, 192_512, 71_680]),
        ..video(name, 0, 0)
    }
}

pub(super) fn presentation(listed: Vec<ListedRendition>) -> Presentation {
    Presentation {
        state: VideoState::Ready,
        listed,
        target_duration_s: 5,
        frontier_ms: 9_509,
        duration_ms: Some(9_509),
    }
}
