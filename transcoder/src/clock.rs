//! From the source's timestamps to ticks, and back for seeking.
//!
//! The conversion looks at one timestamp at a time and remembers nothing, so that every piece of a video, wherever it is
//! made, gives the same frame the same tick.

use serde::{Deserialize, Serialize};

/// A fraction; the denominator is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) num: u32,
    pub(crate) den: u32,
}

impl Ratio {
    pub(crate) fn new(num: u32, den: u32) -> Option<Self> {
        (num > 0 && den > 0).then_some(Self { num, den })
    }

    pub(crate) fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }
}

/// Timescales below this are multiplied, so that half a frame can still be said.
const TIMESCALE_MIN: u32 = 10_000;

/// Timescales above this are replaced. The finest that real files have is that of Windows, 10 MHz.
const TIMESCALE_MAX: u32 = 10_000_000;

/// What MPEG uses; a multiple of most frame rates.
const TIMESCALE_DEFAULT: u32 = 90_000;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// Seconds per unit of the source's timestamps.
    pub(crate) time_base: Ratio,
    /// The timestamp of the track's first frame.
    pub(crate) origin: i64,
    /// The tick of that frame: above 0 when another track begins earlier.
    pub(crate) lead: u64,
    /// Ticks per second.
    pub(crate) timescale: u32,
    /// Ticks per frame, for a source with a constant frame rate and timestamps too coarse for it (Matroska counts
    /// milliseconds): then frames are moved to where they must have been.
    pub(crate) snap: Option<u32>,
}

impl Clock {
    /// The clock of a source; `lead_seconds` is how much later than the video's beginning this track starts.
    pub(crate) fn new(
        time_base: Ratio,
        origin: i64,
        lead_seconds: f64,
        constant_rate: Option<Ratio>,
    ) -> Self {
        let units_are_fine = constant_rate.is_none_or(|rate| {
            let frame = f64::from(time_base.den) * f64::from(rate.den);
            (frame / (f64::from(time_base.num) * f64::from(rate.num))).fract() == 0.0
        });
        let coarse = time_base.as_f64() > 0.000_5;
        let (timescale, snap) = match constant_rate {
            Some(rate) if coarse && !units_are_fine => {
                let timescale = timescale_for(rate);
                (timescale, frame_ticks(timescale, rate))
            }
            _ if time_base.den <= TIMESCALE_MAX && !(coarse && constant_rate.is_none()) => {
                (time_base.den * TIMESCALE_MIN.div_ceil(time_base.den), None)
            }
            _ => (TIMESCALE_DEFAULT, None),
        };
        let lead = (lead_seconds * f64::from(timescale)).round().max(0.0) as u64;
        Self { time_base, origin, lead, timescale, snap }
    }

    /// The tick at which a frame with this timestamp is shown. Below 0 for what comes before the video's beginning.
    pub(crate) fn ticks(&self, timestamp: i64) -> i64 {
        let units = i128::from(timestamp) - i128::from(self.origin);
        let scaled = units * i128::from(self.time_base.num) * i128::from(self.timescale);
        let exact = round_div(scaled, i128::from(self.time_base.den));
        let ticks = match self.snap {
            Some(frame) => {
                let frame = i128::from(frame);
                let snapped = round_div(exact, frame) * frame;
                // As far off as rounding can have moved it, and one more for writers that round down.
                let unit = i128::from(self.timescale) * i128::from(self.time_base.num)
                    / i128::from(self.time_base.den);
                if (snapped - exact).abs() <= unit + unit / 2 { snapped } else { exact }
            }
            None => exact,
        };
        i64::try_from(ticks + i128::from(self.lead)).unwrap_or(i64::MAX)
    }

    /// The timestamp at or before a tick.
    pub(crate) fn timestamp(&self, ticks: u64) -> i64 {
        let ticks = i128::from(ticks) - i128::from(self.lead);
        let per = i128::from(self.time_base.num) * i128::from(self.timescale);
        let units = (ticks * i128::from(self.time_base.den)).div_euclid(per);
        i64::try_from(units + i128::from(self.origin)).unwrap_or(i64::MAX)
    }

    /// How many ticks a duration in the source's units lasts.
    pub(crate) fn span(&self, units: i64) -> u64 {
        let scaled =
            i128::from(units) * i128::from(self.time_base.num) * i128::from(self.timescale);
        u64::try_from(round_div(scaled, i128::from(self.time_base.den))).unwrap_or(0)
    }

    /// Ticks as milliseconds.
    pub(crate) fn millis(&self, ticks: u64) -> u64 {
        u64::try_from(u128::from(ticks) * 1000 / u128::from(self.timescale)).unwrap_or(u64::MAX)
    }

    /// Milliseconds as ticks.
    pub(crate) fn ticks_of_millis(&self, millis: u64) -> u64 {
        u64::try_from(u128::from(millis) * u128::from(self.timescale) / 1000).unwrap_or(u64::MAX)
    }
}

/// Ticks per frame, when that is a whole number.
pub(crate) fn frame_ticks(timescale: u32, rate: Ratio) -> Option<u32> {
    let ticks = u64::from(timescale) * u64::from(rate.den);
    (ticks % u64::from(rate.num) == 0).then(|| u32::try_from(ticks / u64::from(rate.num)).ok())?
}

fn timescale_for(rate: Ratio) -> u32 {
    if frame_ticks(TIMESCALE_DEFAULT, rate).is_some() || rate.num > TIMESCALE_MAX {
        TIMESCALE_DEFAULT
    } else {
        rate.num * TIMESCALE_MIN.div_ceil(rate.num)
    }
}

/// Division rounded to the nearest, halves up. The divisor is above 0.
fn round_div(value: i128, by: i128) -> i128 {
    (value * 2 + by).div_euclid(by * 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Ratio = Ratio { num: 1, den: 1000 };

    #[test]
    fn an_mp4_keeps_its_own_timescale() {
        let clock = Clock::new(Ratio { num: 1, den: 12_800 }, 512, 0.0, Ratio::new(25, 1));
        assert_eq!((clock.timescale, clock.snap), (12_800, None));
        assert_eq!(clock.ticks(512 + 512 * 100), 51_200);
        assert_eq!(clock.timestamp(51_200), 512 + 51_200);
        let coarse = Clock::new(Ratio { num: 1, den: 25 }, 0, 0.0, Ratio::new(25, 1));
        assert_eq!((coarse.timescale, coarse.ticks(3)), (10_000, 1200));
        let avi = Clock::new(Ratio { num: 1001, den: 24_000 }, 0, 0.0, Ratio::new(24_000, 1001));
        assert_eq!((avi.timescale, avi.ticks(24_000)), (24_000, 24_000 * 1001));
    }

    #[test]
    fn millisecond_timestamps_of_a_constant_rate_become_exact() {
        let clock = Clock::new(MS, 0, 0.0, Ratio::new(24_000, 1001));
        assert_eq!((clock.timescale, clock.snap), (24_000, Some(1001)));
        for frame in 0..100_000i64 {
            let exact = frame as f64 * 1001.0 / 24.0;
            assert_eq!(clock.ticks(exact.round() as i64), frame * 1001);
            assert_eq!(clock.ticks(exact.floor() as i64), frame * 1001);
        }
        // Off the grid: left where it is.
        assert_eq!(clock.ticks(1000 + 20), 24_480);
    }

    #[test]
    fn a_variable_rate_is_kept_as_it_is() {
        let clock = Clock::new(MS, 40, 0.5, None);
        assert_eq!((clock.timescale, clock.snap, clock.lead), (90_000, None, 45_000));
        assert_eq!(clock.ticks(40 + 7), 45_000 + 630);
        assert_eq!(clock.timestamp(45_000 + 630), 47);
        assert_eq!(clock.timestamp(45_000 + 629), 46);
    }
}
