//! How fast copies are made, so that viewers do not notice.
//!
//! All that repair reads and writes counts against one bucket of bytes per second. Every two seconds its rate is set anew by
//! what viewers saw meanwhile: when their reads took clearly longer than they do while nothing is being repaired, the rate is
//! halved, else it rises by a fiftieth. It never falls below a floor, because a cluster that is too busy to repair itself would
//! lose blocks in the end, and never rises above the setting.
//!
//! A block of which one copy is left counts a quarter: there the next failure loses something.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use cluster::command::BlockRef;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{MissedTickBehavior, interval};

use crate::content::rate::RateMeter;
use crate::content::viewers::Viewers;
use crate::store::BLOCK_BYTES_MAX;

/// How often the rate is set anew. Long enough for a hundred reads of a few viewers, short enough that a repair of seconds
/// does not get away with it.
const WINDOW: Duration = Duration::from_secs(2);

/// By which part it rises in that time: a tenth in ten seconds.
const RISE: u32 = 50;

/// Bytes per second below which the rate never falls: 10 TiB in a month.
const FLOOR: u32 = 4 << 20;

/// Reads that take this much longer than they usually do are clearly slower.
const SLOWER: f64 = 1.5;

/// No read that takes less is too slow, whatever it usually takes.
const HARMLESS: Duration = Duration::from_millis(20);

/// What reads usually take while that is not known, because something has been under repair since the start.
const USUAL: Duration = Duration::from_millis(100);

/// The weight of the newest window in what reads usually take.
const NEWEST: f64 = 0.3;

/// How much more goes into a second for blocks of which one copy is left.
const URGENT_DISCOUNT: u32 = 4;

#[derive(Debug)]
pub(in crate::content) struct Pace {
    limiter: RwLock<Arc<DefaultDirectRateLimiter>>,
    /// Bytes per second.
    rate: AtomicU32,
    ceiling: u32,
    usual: Mutex<Option<Duration>>,
}

impl Pace {
    /// `ceiling`: bytes per second at most.
    pub(in crate::content) fn new(ceiling: u32) -> Self {
        Self {
            limiter: RwLock::new(Arc::new(limiter(ceiling))),
            rate: AtomicU32::new(ceiling),
            ceiling,
            usual: Mutex::default(),
        }
    }

    /// Waits until a copy of the block may be made.
    pub(super) async fn wait_for_turn(&self, block: BlockRef, copies_left: usize) {
        let bytes = if copies_left <= 1 { block.len / URGENT_DISCOUNT } else { block.len };
        let bytes = NonZeroU32::new(bytes).unwrap_or(NonZeroU32::MIN);
        let limiter = Arc::clone(&self.limiter.read().unwrap_or_else(PoisonError::into_inner));
        if limiter.until_n_ready(bytes).await.is_err() {
            // Longer than a block can be: the store will refuse it.
            tracing::warn!(block = %block.hash, len = block.len, "a block of impossible length");
        }
    }

    /// Why it is slower than it may be; nothing when it is not.
    pub(in crate::content) fn slowed(&self) -> Option<String> {
        let rate = self.rate.load(Ordering::Relaxed);
        (rate < self.ceiling).then(|| {
            let mib = f64::from(rate) / f64::from(1 << 20);
            format!("slowed down to {mib:.0} MiB/s while reads of viewers take longer than usual")
        })
    }

    /// Sets the rate by what viewers see, for ever.
    pub(super) async fn keep(&self, viewers: &Viewers, repaired: &RateMeter) {
        let mut ticks = interval(WINDOW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.adjust(viewers.slowest_and_forget(), repaired.bytes_per_second() > 0);
        }
    }

    /// Takes a window into account. `took`: what the slowest of viewers' reads took in it, if there were enough of them.
    fn adjust(&self, took: Option<Duration>, repairing: bool) {
        let mut usual = self.usual.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(took) = took.filter(|_| !repairing) {
            let before = usual.unwrap_or(took);
            *usual = Some(before.mul_f64(1.0 - NEWEST) + took.mul_f64(NEWEST));
        }
        let rate = self.rate.load(Ordering::Relaxed);
        let disturbs = repairing && took.is_some_and(|took| is_slow(took, usual.unwrap_or(USUAL)));
        let next = next_rate(rate, self.ceiling, disturbs);
        if next != rate {
            self.rate.store(next, Ordering::Relaxed);
            let limiter = limiter(next);
            // Without this, a second's worth could pass at once with each change.
            let _ = limiter.check_n(burst(next));
            *self.limiter.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limiter);
        }
        metrics::gauge!("reelraft_content_repair_limit_bytes_per_second").set(f64::from(next));
    }
}

fn is_slow(took: Duration, usual: Duration) -> bool {
    took > usual.mul_f64(SLOWER).max(HARMLESS)
}

fn next_rate(rate: u32, ceiling: u32, disturbs: bool) -> u32 {
    let next = if disturbs { rate / 2 } else { rate.saturating_add(rate / RISE) };
    next.max(FLOOR).min(ceiling)
}

/// A bucket that holds one second's worth, and at least one of the longest blocks.
fn limiter(bytes_per_second: u32) -> DefaultDirectRateLimiter {
    let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
    RateLimiter::direct(Quota::per_second(rate).allow_burst(burst(bytes_per_second)))
}

fn burst(bytes_per_second: u32) -> NonZeroU32 {
    let longest = u32::try_from(BLOCK_BYTES_MAX).expect("it fits");
    NonZeroU32::new(bytes_per_second.max(longest)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    #[test]
    fn slow_viewers_halve_it_and_calm_raises_it_again() {
        let pace = Pace::new(64 << 20);
        let rate = || pace.rate.load(Ordering::Relaxed);
        for _ in 0..20 {
            pace.adjust(Some(30 * MILLI), false);
        }
        pace.adjust(Some(40 * MILLI), true);
        assert_eq!((rate(), pace.slowed()), (64 << 20, None), "not clearly slower");
        pace.adjust(Some(50 * MILLI), true);
        assert_eq!(rate(), 32 << 20);
        assert!(pace.slowed().unwrap().contains("32 MiB/s"));
        for _ in 0..20 {
            pace.adjust(Some(500 * MILLI), true);
        }
        assert_eq!(rate(), FLOOR, "it goes on all the same");
        for _ in 0..200 {
            pace.adjust(None, true);
        }
        assert_eq!((rate(), pace.slowed()), (64 << 20, None));
    }

    #[test]
    fn reads_that_nobody_notices_are_never_slow() {
        let pace = Pace::new(64 << 20);
        pace.adjust(Some(MILLI), false);
        pace.adjust(Some(15 * MILLI), true);
        assert_eq!(pace.slowed(), None);
        assert!(!is_slow(HARMLESS, MILLI) && is_slow(HARMLESS + MILLI, MILLI));
    }

    #[test]
    fn a_setting_below_the_floor_is_kept() {
        assert_eq!(next_rate(1 << 20, 1 << 20, false), 1 << 20);
        assert_eq!(next_rate(1 << 20, 1 << 20, true), 1 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_copies_go_four_times_as_fast() {
        let pace = Pace::new(32 << 20);
        let block = BlockRef { hash: cluster::ids::BlockHash([0; 32]), len: 32 << 20 };
        pace.wait_for_turn(block, 2).await;
        let waiting = tokio::time::timeout(Duration::from_millis(1), pace.wait_for_turn(block, 2));
        assert!(waiting.await.is_err(), "the bucket is empty");
    }
}
