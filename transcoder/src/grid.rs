//! Where segments begin.
//!
//! Short segments first, so that playback can start early, then longer ones, which compress and cache better. A cut at a
//! keyframe of the source spares a decoder the frames before it, and is the only place where copied frames can be cut; a
//! long distance between keyframes must not make long segments, though.

/// No segment is longer, in seconds: playlists promise it before the segments exist.
pub(crate) const SEGMENT_SECONDS_MAX: u64 = 8;

/// How long the segments are meant to be, in seconds; the last number goes on.
const SECONDS: [u64; 3] = [1, 2, 4];

/// An ending shorter than this (in thousandths of a second) is not worth a segment of its own.
const TAIL_MILLIS_MIN: u64 = 500;

/// The grid of one video.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grid {
    /// Ticks per second.
    pub(crate) timescale: u32,
    /// Ticks per frame and the tick of the first frame, when the frame rate is constant: cuts are then put on frames.
    pub(crate) frames: Option<(u32, u64)>,
}

impl Grid {
    fn length(&self, segment: usize) -> u64 {
        SECONDS[segment.min(SECONDS.len() - 1)] * u64::from(self.timescale)
    }

    fn longest(&self) -> u64 {
        SEGMENT_SECONDS_MAX * u64::from(self.timescale)
    }

    fn tail_min(&self) -> u64 {
        u64::from(self.timescale) * TAIL_MILLIS_MIN / 1000
    }

    /// Where segment number `segment` ends when it begins at `cut` and nothing else speaks for a place.
    pub(crate) fn after(&self, cut: u64, segment: usize) -> u64 {
        self.on_frame(cut + self.length(segment))
    }

    /// The latest end of a segment that begins at `cut`.
    pub(crate) fn latest(&self, cut: u64) -> u64 {
        match self.frames {
            Some((frame, first)) if frame > 0 => {
                let on = self.on_frame(cut + self.longest());
                if on > cut + self.longest() && on - first > u64::from(frame) {
                    on - u64::from(frame)
                } else {
                    on
                }
            }
            _ => cut + self.longest(),
        }
    }

    fn on_frame(&self, tick: u64) -> u64 {
        match self.frames {
            Some((frame, first)) if frame > 0 && tick > first => {
                first + (tick - first).div_ceil(u64::from(frame)) * u64::from(frame)
            }
            _ => tick,
        }
    }

    /// Cuts for frames that are encoded: at keyframes near the meant places, else exactly there.
    pub(crate) fn for_encoding(&self, keyframes: &[u64], end: u64) -> Vec<u64> {
        let mut cuts = vec![0];
        loop {
            let cut = cuts[cuts.len() - 1];
            let length = self.length(cuts.len() - 1);
            let window = cut + length / 2..=cut + length * 3 / 2;
            let next = nearest(keyframes, cut + length)
                .filter(|key| window.contains(key) && *key > cut)
                .unwrap_or_else(|| self.after(cut, cuts.len() - 1));
            if next + self.tail_min() > end {
                return cuts;
            }
            cuts.push(next);
        }
    }

    /// Cuts for frames that are copied: always at keyframes. `None` when these are too far apart.
    pub(crate) fn for_copying(&self, keyframes: &[u64], end: u64) -> Option<Vec<u64>> {
        let mut cuts = vec![0];
        loop {
            let cut = cuts[cuts.len() - 1];
            let length = self.length(cuts.len() - 1);
            let first = keyframes.partition_point(|key| *key <= cut);
            let last = keyframes.partition_point(|key| *key <= cut + self.longest());
            if end <= cut + length + length / 4 && end <= cut + self.longest() {
                return Some(cuts);
            }
            match nearest(&keyframes[first..last.max(first)], cut + length) {
                Some(next) if next + self.tail_min() <= end => cuts.push(next),
                Some(_) | None if end <= cut + self.longest() => return Some(cuts),
                Some(next) => cuts.push(next),
                None => return None,
            }
        }
    }
}

/// The element nearest to `target`; of two equally near ones the first. `sorted` rises.
fn nearest(sorted: &[u64], target: u64) -> Option<u64> {
    let after = sorted.partition_point(|value| *value < target);
    let candidates = sorted[after.saturating_sub(1)..sorted.len().min(after + 1)].iter();
    candidates.copied().min_by_key(|value| value.abs_diff(target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1000;
    const GRID: Grid = Grid { timescale: 1000, frames: None };

    #[test]
    fn without_keyframes_the_grid_holds_exactly() {
        assert_eq!(GRID.for_encoding(&[], 15_200), [0, 1000, 3000, 7000, 11_000]);
        assert_eq!(GRID.for_encoding(&[], 15_600), [0, 1000, 3000, 7000, 11_000, 15_000]);
        assert_eq!(GRID.for_encoding(&[0], 300), [0]);
        let framed = Grid { timescale: 24_000, frames: Some((1001, 0)) };
        assert_eq!(framed.for_encoding(&[], 24_000 * 4)[1..], [24 * 1001, 72 * 1001]);
    }

    #[test]
    fn keyframes_near_the_grid_are_taken_and_far_ones_are_not() {
        let keys: Vec<u64> = (0..20).map(|i| i * 1200).collect();
        assert_eq!(GRID.for_encoding(&keys, 14_000), [0, 1200, 3600, 7200, 10_800]);
        assert_eq!(GRID.for_encoding(&[0, 20_000], 22_000)[..5], [0, 1000, 3000, 7000, 11_000]);
    }

    #[test]
    fn copied_frames_are_cut_at_keyframes_only() {
        let keys: Vec<u64> = (0..12).map(|i| i * 2000).collect();
        assert_eq!(
            GRID.for_copying(&keys, 24_000).unwrap(),
            [0, 2000, 4000, 8000, 12_000, 16_000, 20_000]
        );
        assert_eq!(GRID.for_copying(&[0], 5280).unwrap(), [0]);
        assert_eq!(GRID.for_copying(&[0], 8001), None);
        assert_eq!(GRID.for_copying(&[0, 9000], 10_000), None);
    }

    proptest! {
        #[test]
        fn segments_are_never_too_long_and_cuts_rise(
            mut keys in proptest::collection::vec(1u64..200_000, 0..60),
            end in 1u64..200_000,
        ) {
            keys.sort_unstable();
            keys.dedup();
            let encoded = GRID.for_encoding(&keys, end);
            let copied = GRID.for_copying(&keys, end);
            for cuts in [Some(encoded), copied.clone()].into_iter().flatten() {
                prop_assert_eq!(cuts[0], 0);
                let ends = cuts[1..].iter().copied().chain([end]);
                for (start, next) in cuts.iter().zip(ends) {
                    prop_assert!(next - start <= SEGMENT_SECONDS_MAX * SECOND);
                    prop_assert!(cuts.len() == 1 || *start < next);
                }
            }
            for cut in copied.iter().flatten().skip(1) {
                prop_assert!(keys.contains(cut));
            }
        }
    }
}
