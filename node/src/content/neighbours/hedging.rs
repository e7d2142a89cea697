//! When somebody else is asked as well.

use std::time::Duration;

/// Bounds of the time that a node gets to itself. Below, a busy processor would look like a slow node; above, viewers notice.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(60);
const HEDGE_AFTER_MAX: Duration = Duration::from_millis(500);

/// The part of all reads that may be hedged: one in twenty.
const SHARE: f64 = 0.05;

/// Hedges that may be saved up: enough for one viewer's first reads of a node that has just stopped to answer.
const SAVED_MAX: f64 = 20.0;

/// How long a node may take before somebody else is asked, given the time that 19 of 20 of its answers take.
pub(super) fn hedge_after(percentile_95: Option<Duration>) -> Duration {
    percentile_95.unwrap_or_default().clamp(HEDGE_AFTER_MIN, HEDGE_AFTER_MAX)
}

/// How many reads may be hedged.
#[derive(Debug)]
pub(super) struct HedgeBudget {
    saved: f64,
}

impl Default for HedgeBudget {
    fn default() -> Self {
        Self { saved: SAVED_MAX }
    }
}

impl HedgeBudget {
    pub(super) fn read_begins(&mut self) {
        self.saved = (self.saved + SHARE).min(SAVED_MAX);
    }

    /// One hedge, if there is any left.
    pub(super) fn take(&mut self) -> bool {
        let left = self.saved >= 1.0;
        if left {
            self.saved -= 1.0;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_read_in_twenty_is_hedged_when_all_are_slow() {
        let mut budget = HedgeBudget::default();
        let hedged = |budget: &mut HedgeBudget, reads: u32| {
            (0..reads)
                .filter(|_| {
                    budget.read_begins();
                    budget.take()
                })
                .count()
        };
        assert_eq!(hedged(&mut budget, 21), 21, "what was saved up");
        let lasting = hedged(&mut budget, 10_000);
        assert!((499..=501).contains(&lasting), "{lasting}");
    }

    #[test]
    fn a_node_gets_the_time_it_usually_takes() {
        let millis = Duration::from_millis;
        assert_eq!(hedge_after(None), HEDGE_AFTER_MIN);
        assert_eq!(hedge_after(Some(millis(3))), HEDGE_AFTER_MIN);
        assert_eq!(hedge_after(Some(millis(200))), millis(200));
        assert_eq!(hedge_after(Some(millis(5000))), HEDGE_AFTER_MAX);
    }
}
