//! How the other nodes have been answering, and so whom to ask first and how long to wait for them.
//!
//! Three things are remembered of each node, all from the answers to this node's own reads:
//!
//! - its **latency**: an average that orders those who could be asked, and the 95th percentile, after which somebody else is
//!   asked as well (a *hedged* read: Dean and Barroso, "The Tail at Scale", 2013);
//! - whether it keeps failing: then its **breaker** is open, and it is asked only when nobody else is left, but for a probe
//!   now and then;
//! - beside these, one **budget** for all hedged reads together. Hedging is for the odd slow answer. When everything is slow
//!   it would double the load that makes everything slow.
//!
//! Nothing here ever forbids a read: the order changes, and how soon the next one is asked. A copy that only one doubtful node
//! has is still asked for.
//!
//! # Invariants
//!
//! - Memory is a few hundred bytes for each node that was ever asked.
//! - What is remembered fades: a node that was slow or failing is tried again within half a minute, whatever it was like.

mod breaker;
mod hedging;
mod latency;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::ids::NodeId;

use breaker::Breaker;
use hedging::HedgeBudget;
use latency::Latency;

/// What an answer without the block counts as in the order of nodes. A connection that is refused is quick, but no reason to
/// ask there first.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(1);

/// What became of asking a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It gave the block, or said plainly that it does not have it: it is well.
    Given,
    /// It could not be reached or broke off.
    Failed,
    /// Somebody else was quicker, and it was not waited for any longer.
    Overtaken,
}

/// How good an idea it is to ask a node. Lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Reluctance {
    failing: bool,
    latency: Duration,
}

impl Reluctance {
    /// Whether only those should be asked who have nobody better.
    pub(super) fn failing(self) -> bool {
        self.failing
    }
}

#[derive(Debug, Default)]
struct Neighbour {
    latency: Latency,
    breaker: Breaker,
}

#[derive(Debug, Default)]
pub(super) struct Neighbours {
    known: Mutex<BTreeMap<NodeId, Neighbour>>,
    hedges: Mutex<HedgeBudget>,
}

impl Neighbours {
    /// Takes an answer into account, or that there was none.
    pub(super) fn note(&self, node: NodeId, answer: Answer, took: Duration) {
        let now = Instant::now();
        let mut known = self.known();
        let neighbour = known.entry(node).or_default();
        match answer {
            Answer::Given => {
                neighbour.latency.note(took, now);
                neighbour.breaker.succeeded();
            }
            Answer::Failed => {
                neighbour.latency.note(took + FAILURE_COUNTS_AS, now);
                neighbour.breaker.failed(now);
            }
            // It may be a node that hangs: the time so far is the least that it would have taken.
            Answer::Overtaken => neighbour.latency.note(took, now),
        }
    }

    /// For ordering those who could be asked. A node that has never been asked comes first, or it never would be.
    pub(super) fn reluctance(&self, node: NodeId) -> Reluctance {
        let now = Instant::now();
        match self.known().get(&node) {
            Some(neighbour) => Reluctance {
                failing: neighbour.breaker.is_open(now),
                latency: neighbour.latency.average(now),
            },
            None => Reluctance { failing: false, latency: Duration::ZERO },
        }
    }

    /// How long a node may take before somebody else is asked as well.
    pub(super) fn hedge_after(&self, node: NodeId) -> Duration {
        let percentile = self.known().get(&node).and_then(|found| found.latency.percentile_95());
        hedging::hedge_after(percentile)
    }

    /// One more read that may need a hedge.
    pub(super) fn read_begins(&self) {
        self.hedges().read_begins();
    }

    /// Whether somebody else may be asked beside one who is only slow.
    pub(super) fn may_hedge(&self) -> bool {
        self.hedges().take()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<NodeId, Neighbour>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hedges(&self) -> MutexGuard<'_, HedgeBudget> {
        self.hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_fails_comes_last_and_who_is_unknown_first() {
        let neighbours = Neighbours::default();
        let [quick, slow, broken, unknown] = [1, 2, 3, 4].map(NodeId);
        neighbours.note(quick, Answer::Given, Duration::from_millis(2));
        neighbours.note(slow, Answer::Overtaken, Duration::from_millis(900));
        for _ in 0..8 {
            neighbours.note(broken, Answer::Failed, Duration::ZERO);
        }
        let mut order = [broken, slow, unknown, quick];
        order.sort_by_key(|node| neighbours.reluctance(*node));
        assert_eq!(order, [unknown, quick, slow, broken]);
        neighbours.note(broken, Answer::Given, Duration::from_millis(1));
        assert!(!neighbours.reluctance(broken).failing, "one good answer closes the breaker");
    }
}
