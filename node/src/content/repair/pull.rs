//! Getting what is missing here from those who have it.
//!
//! In the order of need: what a reader stumbled over, then what has the fewest copies left, each in the order of the hashes,
//! which is that of the placement groups: so few groups are in motion at a time. A copy that could not be had is tried again
//! after a pause of its own that doubles each time, so that what is lost does not stand in the way of what is not.

use std::time::Duration;

use cluster::catalog;
use cluster::ids::BlockHash;
use futures::StreamExt as _;
use futures::stream;
use tokio::time::{Instant, sleep};

use super::compare::Comparisons;
use super::{HINDRANCE_POLL, PARALLEL, Repairer, jittered};
use crate::content::missing::Due;

/// Copies chosen at a time. What becomes more urgent meanwhile waits for as many at most.
const CHOSEN_MAX: usize = 256;

/// After so many failures in a row the holders are taken to be away, and with them those of the next ones: a pause.
const FAILURES_MAX: u32 = 64;

/// The pause after that, at first and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What became of trying to get some copies.
#[derive(Debug, Default)]
struct Round {
    /// Why some could not be had.
    trouble: Option<String>,
    /// Nothing could be had any more.
    in_vain: bool,
}

impl Repairer {
    /// Runs for ever.
    pub(super) async fn pull_missing(&self) {
        let missing = &self.inner.missing;
        let mut comparisons = Comparisons::default();
        let mut pause = PAUSE_MIN;
        let mut trouble = None;
        loop {
            self.compare_when_due(&mut comparisons).await;
            if missing.len() > 0
                && let Some(reason) = self.hindrance()
            {
                missing.wait_for(Some(reason));
                sleep(HINDRANCE_POLL).await;
                continue;
            }
            let chosen = self.choose();
            if chosen.is_empty() {
                if missing.overflowed() {
                    comparisons.due = Instant::now();
                    continue;
                }
                if missing.len() > 0 {
                    missing.wait_for(trouble.clone());
                }
                let again = missing.next_due().map_or(comparisons.due, Instant::from_std);
                tokio::select! {
                    () = tokio::time::sleep_until(comparisons.due.min(again)) => {}
                    () = missing.hinted() => {}
                    () = self.another_layout_than(&comparisons) => {}
                }
                continue;
            }
            missing.wait_for(None);
            let round = self.pull_all(chosen, &comparisons).await;
            trouble = round.trouble.or(trouble);
            if !round.in_vain {
                pause = PAUSE_MIN;
                continue;
            }
            missing.wait_for(trouble.clone());
            // Whatever asks for a copy in the meantime has to wait: it would go the same way.
            tokio::select! {
                () = sleep(jittered(pause)) => {}
                () = self.another_layout_than(&comparisons) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// What to get next, the most urgent first.
    fn choose(&self) -> Vec<Due> {
        let inner = &self.inner;
        let Ok(here) = inner.placement.current() else {
            return Vec::new();
        };
        inner.missing.due(std::time::Instant::now(), CHOSEN_MAX, |group| {
            self.copies_left(here.layout.holders_of_group(group))
        })
    }

    /// Tries to get each of these once, unless there is another layout meanwhile.
    async fn pull_all(&self, chosen: Vec<Due>, comparisons: &Comparisons) -> Round {
        let missing = &self.inner.missing;
        let mut round = Round::default();
        let mut failures = 0;
        let queue = chosen.into_iter().take_while(|_| self.still_by(comparisons));
        let pulls = stream::iter(queue)
            .map(|due| async move { (due.block, self.pull(due).await) })
            .buffer_unordered(PARALLEL);
        let mut pulls = std::pin::pin!(pulls);
        while let Some((block, outcome)) = pulls.next().await {
            metrics::gauge!("reelraft_content_missing_blocks").set(missing.len() as f64);
            match outcome {
                Ok(()) => failures = 0,
                Err(reason) => {
                    tracing::debug!(block = %block.hash, reason, "a missing copy could not be had");
                    metrics::counter!("reelraft_content_pulls_failed_total").increment(1);
                    missing.failed(&block.hash, std::time::Instant::now());
                    round.trouble = Some(reason);
                    failures += 1;
                }
            }
            round.in_vain = failures == FAILURES_MAX;
            if round.in_vain {
                break;
            }
        }
        round
    }

    /// Whether something refers to the block still: it was so when its lack was found, which may be some time ago.
    fn is_needed(&self, hash: &BlockHash) -> Result<bool, String> {
        let row = catalog::block(&*self.inner.placement.catalog(), hash);
        let row = row.map_err(|error| error.to_string())?;
        Ok(row.is_some_and(|row| row.references > 0))
    }

    async fn pull(&self, due: Due) -> Result<(), String> {
        let inner = &self.inner;
        let Due { block, copies_left, .. } = due;
        if matches!(inner.store.has(vec![block.hash]).await.as_deref(), Ok([true])) {
            inner.missing.found(&block.hash);
            return Ok(());
        }
        inner.pace.wait_for_turn(block, copies_left).await;
        let put_index = inner.placement.put_index();
        if !self.is_needed(&block.hash)? {
            inner.missing.found(&block.hash);
            return Ok(());
        }
        match inner.read_from_others(block, 1).await {
            Ok(bytes) => {
                let stored = inner.store.put(block.hash, bytes, put_index).await;
                stored.map_err(|error| error.to_string())?;
            }
            // Nobody has a good copy. The one in quarantine here may have been read badly only once.
            Err(error) => {
                inner.store.verify(block.hash).await.map_err(|_| error.to_string())?;
            }
        }
        inner.missing.found(&block.hash);
        self.inner.made(block, "pulled");
        Ok(())
    }
}
