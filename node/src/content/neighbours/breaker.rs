//! Whether a node keeps failing.
//!
//! Closed, a breaker lets everything pass. After some failures in a row it opens: for a while the node counts as failing.
//! Then one answer decides: a good one closes the breaker, another failure opens it for twice as long. Nobody else asks
//! meanwhile than who has nobody better, so there is nothing to lock for the one probe.

use std::time::{Duration, Instant};

/// Failures in a row that open it. Fewer would let one restart of a node's process do it.
const FAILURES_MAX: u32 = 5;

/// How long it stays open at first, and at most.
const OPEN_MIN: Duration = Duration::from_secs(2);
const OPEN_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// In a row.
    failures: u32,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES_MAX && !self.is_open(now) {
            let doublings = (self.failures - FAILURES_MAX).min(8);
            self.open_until = Some(now + (OPEN_MIN * 2_u32.pow(doublings)).min(OPEN_MAX));
            metrics::counter!("reelraft_content_breakers_opened_total").increment(1);
        }
    }

    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.open_until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_longer_each_time() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..FAILURES_MAX - 1 {
            breaker.failed(start);
        }
        assert!(!breaker.is_open(start));
        breaker.failed(start);
        assert!(breaker.is_open(start));
        breaker.failed(start + OPEN_MIN / 2);
        assert!(!breaker.is_open(start + OPEN_MIN), "failures while it is open do not prolong it");
        breaker.failed(start + OPEN_MIN);
        assert!(breaker.is_open(start + 2 * OPEN_MIN), "the probe failed");
        for _ in 0..100 {
            breaker.failed(start + OPEN_MIN);
        }
        assert!(!breaker.is_open(start + 2 * OPEN_MIN + OPEN_MAX));
        breaker.failed(start + 2 * OPEN_MAX);
        breaker.succeeded();
        assert!(!breaker.is_open(start + 2 * OPEN_MAX));
    }
}
