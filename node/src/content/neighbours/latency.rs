//! How long one node takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The weight of the newest answer in the average. About five answers make up most of it.
const NEWEST: f64 = 0.3;

/// After so long without an answer the average counts half. A node that was slow is so tried again within half a minute,
/// because it then looks as good as the others.
const HALVES_AFTER: Duration = Duration::from_secs(8);

/// Answers that the percentile is taken of, and how many there have to be for it to mean anything.
const SAMPLES: usize = 64;
const SAMPLES_MIN: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Latency {
    seconds: f64,
    noted: Option<Instant>,
    latest: VecDeque<Duration>,
}

impl Latency {
    pub(super) fn note(&mut self, took: Duration, now: Instant) {
        let seconds = took.as_secs_f64();
        match self.noted {
            None => self.seconds = seconds,
            Some(_) => self.seconds += NEWEST * (seconds - self.seconds),
        }
        self.noted = Some(now);
        if self.latest.len() == SAMPLES {
            self.latest.pop_front();
        }
        self.latest.push_back(took);
    }

    /// The moving average, the less the longer ago the last answer was.
    pub(super) fn average(&self, now: Instant) -> Duration {
        let age = self.noted.map_or(Duration::ZERO, |noted| now.saturating_duration_since(noted));
        let faded = 0.5_f64.powf(age.as_secs_f64() / HALVES_AFTER.as_secs_f64());
        Duration::from_secs_f64(self.seconds * faded)
    }

    /// What 19 of 20 answers have been quicker than, lately. Nothing while there are too few.
    pub(super) fn percentile_95(&self) -> Option<Duration> {
        if self.latest.len() < SAMPLES_MIN {
            return None;
        }
        let mut sorted: Vec<_> = self.latest.iter().copied().collect();
        let at = (sorted.len() * 95).div_ceil(100) - 1;
        let (_, percentile, _) = sorted.select_nth_unstable(at);
        Some(*percentile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn a_slow_node_recovers_by_quick_answers_and_by_time() {
        let start = Instant::now();
        let mut latency = Latency::default();
        assert_eq!(latency.average(start), Duration::ZERO);
        latency.note(millis(500), start);
        assert_eq!(latency.average(start), millis(500));
        let mut quick = Latency::default();
        quick.note(millis(10), start);
        assert!(latency.average(start + 7 * HALVES_AFTER) < quick.average(start));
        for _ in 0..20 {
            latency.note(millis(5), start);
        }
        assert!(latency.average(start) < quick.average(start));
    }

    #[test]
    fn the_percentile_is_of_the_latest_answers() {
        let now = Instant::now();
        let mut latency = Latency::default();
        for _ in 0..SAMPLES_MIN - 1 {
            latency.note(millis(900), now);
        }
        assert_eq!(latency.percentile_95(), None);
        for count in 1..=100 {
            latency.note(millis(count), now);
        }
        // Of the answers 37 to 100, three were slower.
        assert_eq!(latency.percentile_95(), Some(millis(97)));
    }
}
