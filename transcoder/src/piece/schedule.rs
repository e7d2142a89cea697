//! Which frame is encoded at which tick.
//!
//! Every segment must begin with a frame exactly at its cut. Where the source has none there — screen recordings that pause,
//! variable frame rates, a first picture that comes late — the frame that is on the screen at that moment is shown again.
//! That follows from the source's frames alone, so the piece that ends at a cut and the one that begins there agree.
//!
//! The state machine does not care what a frame is; tests use numbers.

use std::collections::VecDeque;

use crate::grid::Grid;

/// See the module.
pub(crate) struct Schedule<F> {
    /// Cuts that have not been reached; the first tick of the piece is one.
    cuts: VecDeque<u64>,
    /// Number and tick of the last cut that was taken from the list, for those that come after the known ones.
    taken: (usize, u64),
    end: Option<u64>,
    grid: Grid,
    cuts_itself: bool,
    /// The frame on the screen, its tick and how long it lasts.
    shown: Option<(i64, u64, F)>,
}

impl<F> Schedule<F> {
    /// `cuts` is not empty. Without an `end`, cuts go on beyond the known ones: on the grid when the piece cuts itself, else
    /// as late as a segment may last.
    pub(crate) fn new(cuts: &[u64], end: Option<u64>, grid: Grid, cuts_itself: bool) -> Self {
        let cuts: VecDeque<u64> = cuts.iter().copied().collect();
        Self { cuts, taken: (0, 0), end, grid, cuts_itself, shown: None }
    }

    /// Takes a decoded frame; `emit` gets each frame to encode with its tick, and whether a segment begins with it.
    /// `false` when the piece needs no more frames.
    pub(crate) fn push(
        &mut self,
        tick: i64,
        lasts: u64,
        frame: F,
        mut emit: impl FnMut(u64, bool, &F),
    ) -> bool {
        // Two frames at a time, or time that runs backwards: the one on the screen stays.
        if self.shown.as_ref().is_some_and(|(shown, _, _)| tick <= *shown) {
            return true;
        }
        let at = u64::try_from(tick).ok();
        let mut is_cut = false;
        let mut was_shown = false;
        while let Some(cut) = self.next_cut().filter(|cut| Some(*cut) <= at) {
            self.take_cut(cut);
            if Some(cut) == at {
                is_cut = true;
            } else if let Some((_, _, shown)) = &self.shown {
                emit(cut, true, shown);
            } else {
                emit(cut, true, &frame);
                was_shown = true;
            }
        }
        if let (Some(at), Some(end)) = (at, self.end)
            && at >= end
        {
            return false;
        }
        if let Some(at) = at
            && !was_shown
            && self.has_begun()
        {
            emit(at, is_cut, &frame);
        }
        self.shown = Some((tick, lasts, frame));
        true
    }

    /// Ends the piece, after the last frame of the source or before. Returns the tick until which its last frame is shown.
    pub(crate) fn finish(
        &mut self,
        source_ended: bool,
        mut emit: impl FnMut(u64, bool, &F),
    ) -> u64 {
        if !source_ended {
            return self.end.unwrap_or(self.source_end());
        }
        let source_end = self.source_end();
        let end = self.end.map_or(source_end, |end| end.min(source_end));
        while let Some(cut) = self.next_cut().filter(|cut| *cut < end) {
            self.take_cut(cut);
            if let Some((_, _, shown)) = &self.shown {
                emit(cut, true, shown);
            }
        }
        end
    }

    /// The tick at which the last frame seen ends.
    pub(crate) fn source_end(&self) -> u64 {
        self.shown.as_ref().map_or(0, |(tick, lasts, _)| {
            u64::try_from(tick.saturating_add_unsigned(*lasts)).unwrap_or(0)
        })
    }

    fn has_begun(&self) -> bool {
        self.taken.0 > 0
    }

    fn next_cut(&self) -> Option<u64> {
        let (number, last) = self.taken;
        match (self.cuts.front(), self.end) {
            (Some(cut), _) => Some(*cut),
            (None, Some(_)) => None,
            (None, None) if self.cuts_itself => Some(self.grid.after(last, number - 1)),
            (None, None) => Some(self.grid.latest(last)),
        }
    }

    fn take_cut(&mut self, cut: u64) {
        self.cuts.pop_front();
        self.taken = (self.taken.0 + 1, cut);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { timescale: 10, frames: None };

    type Emitted = Vec<(u64, bool, i64)>;

    /// Frames are named by their ticks and last until the next one; the last one lasts 5.
    fn play(mut schedule: Schedule<i64>, frames: &[i64]) -> (Emitted, u64) {
        let mut emitted = Vec::new();
        let mut emit = |tick, is_cut, frame: &i64| emitted.push((tick, is_cut, *frame));
        let mut source_ended = true;
        for frame in frames {
            if !schedule.push(*frame, 5, *frame, &mut emit) {
                source_ended = false;
                break;
            }
        }
        let end = schedule.finish(source_ended, &mut emit);
        (emitted, end)
    }

    fn piece(cuts: &[u64], end: Option<u64>) -> Schedule<i64> {
        Schedule::new(cuts, end, GRID, false)
    }

    #[test]
    fn frames_before_the_piece_are_dropped_and_those_after_it_end_it() {
        let (emitted, end) = play(piece(&[20, 40], Some(60)), &[0, 10, 20, 30, 40, 50, 60, 70]);
        assert_eq!(emitted, [(20, true, 20), (30, false, 30), (40, true, 40), (50, false, 50)]);
        assert_eq!(end, 60);
    }

    #[test]
    fn a_cut_without_a_frame_repeats_what_is_on_the_screen() {
        let (emitted, end) = play(piece(&[20, 40], Some(60)), &[0, 15, 25, 35, 70]);
        let expected = [(20, true, 15), (25, false, 25), (35, false, 35), (40, true, 35)];
        assert_eq!((emitted.as_slice(), end), (&expected[..], 60));
    }

    #[test]
    fn a_late_first_picture_is_shown_from_the_beginning() {
        let (emitted, end) = play(piece(&[0, 10], None), &[12, 17]);
        assert_eq!(emitted, [(0, true, 12), (10, true, 12), (17, false, 17)]);
        assert_eq!(end, 22);
    }

    #[test]
    fn pieces_made_apart_are_the_video_made_at_once() {
        let frames: Vec<i64> = (0..100).map(|i| i * 7 + (i * i) % 5).collect();
        let cuts = [0, 30, 100, 101, 333, 600];
        let (whole, whole_end) = play(piece(&cuts, None), &frames);
        let mut joined = Vec::new();
        for split in [0..2, 2..3, 3..4, 4..6] {
            let (emitted, end) =
                play(piece(&cuts[split.clone()], cuts.get(split.end).copied()), &frames);
            joined.extend(emitted);
            assert_eq!(end, cuts.get(split.end).copied().unwrap_or(whole_end));
        }
        assert_eq!(joined, whole);
    }

    #[test]
    fn a_source_that_ends_early_ends_the_piece() {
        let (emitted, end) = play(piece(&[20, 40, 60], Some(80)), &[0, 20, 40]);
        assert_eq!((emitted, end), (vec![(20, true, 20), (40, true, 40)], 45));
        let (emitted, _) = play(piece(&[200], Some(300)), &[0, 20, 40]);
        assert_eq!(emitted, []);
        // The last picture stays on the screen as long as its container says.
        let mut schedule = piece(&[0, 40], None);
        let mut emitted = Vec::new();
        schedule.push(0, 100, 0, |tick, is_cut, _| emitted.push((tick, is_cut)));
        assert_eq!(schedule.finish(true, |tick, is_cut, _| emitted.push((tick, is_cut))), 100);
        assert_eq!(emitted, [(0, true), (40, true)]);
    }

    #[test]
    fn beyond_the_known_cuts_a_piece_goes_on_by_itself() {
        let frames: Vec<i64> = (0..30).map(|i| i * 10).collect();
        let cuts_of = |emitted: Emitted| -> Vec<u64> {
            emitted.into_iter().filter(|(_, is_cut, _)| *is_cut).map(|(tick, _, _)| tick).collect()
        };
        let itself = Schedule::new(&[0], None, GRID, true);
        assert_eq!(cuts_of(play(itself, &frames).0), [0, 10, 30, 70, 110, 150, 190, 230, 270]);
        assert_eq!(cuts_of(play(piece(&[0, 10], None), &frames).0), [0, 10, 90, 170, 250]);
    }

    #[test]
    fn time_that_runs_backwards_is_ignored() {
        let (emitted, _) = play(piece(&[0], None), &[0, 10, 5, 10, 20]);
        assert_eq!(emitted, [(0, true, 0), (10, false, 10), (20, false, 20)]);
    }
}
