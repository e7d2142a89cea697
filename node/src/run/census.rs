//! The leader counts all copies by asking for them, whenever there is a reason to.
//!
//! What each node says that it lacks is its own opinion. After each repair, after each layout and once a day the leader finds
//! out whether it is true ([`crate::content::Census`]). What it found travels with its answers to pings, so that everybody
//! can show it.
//!
//! A count that finds copies lacking although nobody said so is the alarm that this is for: a bug, or a node that lost blocks
//! and does not know it yet.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use gateway::backend::CopyCount;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::content::CensusDepth;
use crate::raft::RaftRole;

/// How often it is looked whether there is a reason to count.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A count without another reason.
const EVERY: Duration = Duration::from_hours(24);

/// After a count that could not ask everybody, or found something lacking.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Counting may take this part of the time, however many blocks there are.
const SHARE: u32 = 20;

/// The last count that this node made.
#[derive(Debug, Default)]
pub(super) struct LastCount(RwLock<Option<(Instant, CopyCount)>>);

impl LastCount {
    /// The last count, and how long ago it ended.
    pub(super) fn get(&self) -> Option<CopyCount> {
        let last = *self.0.read().unwrap_or_else(PoisonError::into_inner);
        last.map(|(ended, count)| CopyCount { age: ended.elapsed(), ..count })
    }

    fn set(&self, count: CopyCount) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), count));
    }
}

/// Counts until `stop`, while this node leads.
pub(super) async fn run(member: Arc<Member>, stop: CancellationToken) {
    let mut reasons = Reasons::default();
    let mut pause = LOOK_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = LOOK_EVERY;
        if member.consensus().status().role != RaftRole::Leader {
            reasons = Reasons::default();
            continue;
        }
        let Ok(epoch) = member.content().layout_epoch() else { continue };
        let calm = member.everybody_has_what_it_should(epoch);
        if epoch == 0 || !reasons.call_for_count(epoch, calm, Instant::now()) {
            continue;
        }
        let began = Instant::now();
        let counting = member.content().count_copies(CensusDepth::Names, |_| {});
        match stop.run_until_cancelled(counting).await {
            None => return,
            Some(Err(error)) => tracing::warn!(%error, "the copies cannot be counted"),
            Some(Ok(census)) => {
                if census.is_whole() {
                    tracing::info!(
                        blocks = census.blocks,
                        copies = census.copies,
                        "counted all copies"
                    );
                } else {
                    let (lacking, unknown, lost) = (census.lacking, census.unknown, census.lost);
                    let examples = census.examples.join("; ");
                    tracing::warn!(lacking, unknown, lost, examples, "not all copies are there");
                }
                reasons.counted(epoch, census.is_whole(), Instant::now());
                member.last_count().set(CopyCount {
                    age: Duration::ZERO,
                    layout_epoch: census.layout_epoch,
                    blocks: census.blocks,
                    copies: census.copies,
                    lacking: census.lacking,
                    unknown: census.unknown,
                });
            }
        }
        pause = pause.max(began.elapsed() * SHARE);
    }
}

/// Why there should be another count.
#[derive(Debug, Default)]
struct Reasons {
    /// By which layout the last one was made, when it ended, and whether all copies were there.
    last: Option<(u64, Instant, bool)>,
    /// Whether somebody has lacked something since.
    repaired: bool,
}

impl Reasons {
    /// `calm`: whether nobody says that it lacks anything.
    fn call_for_count(&mut self, epoch: u64, calm: bool, now: Instant) -> bool {
        if !calm {
            self.repaired = true;
            return false;
        }
        match self.last {
            None => true,
            Some((by, ended, whole)) => {
                let age = now.saturating_duration_since(ended);
                self.repaired || by != epoch || age >= EVERY || (!whole && age >= AGAIN_AFTER)
            }
        }
    }

    fn counted(&mut self, epoch: u64, whole: bool, now: Instant) {
        self.last = Some((epoch, now, whole));
        self.repaired = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_after_each_repair_and_each_layout_and_once_a_day() {
        let mut reasons = Reasons::default();
        let now = Instant::now();
        assert!(
            !reasons.call_for_count(1, false, now),
            "while copies are made there is nothing to prove"
        );
        assert!(reasons.call_for_count(1, true, now));
        reasons.counted(1, true, now);
        assert!(!reasons.call_for_count(1, true, now + EVERY / 2));
        assert!(reasons.call_for_count(1, true, now + EVERY));
        assert!(reasons.call_for_count(2, true, now));
        reasons.counted(2, false, now);
        assert!(!reasons.call_for_count(2, true, now + AGAIN_AFTER / 2));
        assert!(reasons.call_for_count(2, true, now + AGAIN_AFTER));
        reasons.counted(2, true, now);
        assert!(!reasons.call_for_count(2, false, now));
        assert!(reasons.call_for_count(2, true, now), "something was repaired");
    }
}
