//! How long viewers wait for blocks that are not in memory: what repair must not make worse.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Reads that are remembered between two looks. Beyond that, which ones is left to chance, each as likely as the other
/// (Vitter, "Random Sampling with a Reservoir", algorithm R, 1985).
const SAMPLES: usize = 1024;

/// Fewer reads say nothing about the slowest.
const SAMPLES_MIN: usize = 20;

#[derive(Debug, Default)]
struct Reads {
    seen: u64,
    sample: Vec<Duration>,
}

#[derive(Debug, Default)]
pub(super) struct Viewers {
    reads: Mutex<Reads>,
}

impl Viewers {
    /// Somebody waited so long for a block.
    pub(super) fn waited(&self, took: Duration) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        reads.seen += 1;
        if reads.sample.len() < SAMPLES {
            reads.sample.push(took);
        } else if let Ok(at) = usize::try_from(fastrand::u64(..reads.seen))
            && at < SAMPLES
        {
            reads.sample[at] = took;
        }
    }

    /// What 99 of 100 reads since the last call were quicker than. Nothing when there were too few.
    pub(super) fn slowest_and_forget(&self) -> Option<Duration> {
        let mut reads =
            std::mem::take(&mut *self.reads.lock().unwrap_or_else(PoisonError::into_inner));
        if reads.sample.len() < SAMPLES_MIN {
            return None;
        }
        let at = (reads.sample.len() * 99).div_ceil(100) - 1;
        let (_, took, _) = reads.sample.select_nth_unstable(at);
        Some(*took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_of_a_hundred_counts_if_there_are_enough() {
        let viewers = Viewers::default();
        for count in 1..=19 {
            viewers.waited(Duration::from_millis(count));
        }
        assert_eq!(viewers.slowest_and_forget(), None);
        for count in 1..=100 {
            viewers.waited(Duration::from_millis(count));
        }
        assert_eq!(viewers.slowest_and_forget(), Some(Duration::from_millis(99)));
        assert_eq!(viewers.slowest_and_forget(), None, "they are forgotten");
        for _ in 0..100_000 {
            viewers.waited(Duration::from_millis(7));
        }
        assert_eq!(viewers.reads.lock().unwrap().sample.len(), SAMPLES);
        assert_eq!(viewers.slowest_and_forget(), Some(Duration::from_millis(7)));
    }
}
