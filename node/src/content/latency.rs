//! How fast each node has been answering.
//!
//! A moving average that forgets: one slow answer moves a node back in the order, a few quick ones bring it forward again.
//! A node that has never been asked comes first, or it never would be.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cluster::ids::NodeId;

/// The weight of the newest answer. About five answers make up most of the average.
const NEWEST: f64 = 0.3;

#[derive(Debug, Default)]
pub(super) struct Latencies {
    seconds: Mutex<BTreeMap<NodeId, f64>>,
}

impl Latencies {
    /// Takes an answer into account; one that has failed or not come yet counts as `took` so far.
    pub(super) fn note(&self, node: NodeId, took: Duration) {
        let took = took.as_secs_f64();
        let mut seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        let average = seconds.entry(node).or_insert(took);
        *average += NEWEST * (took - *average);
    }

    pub(super) fn of(&self, node: NodeId) -> Duration {
        let seconds = self.seconds.lock().unwrap_or_else(PoisonError::into_inner);
        Duration::from_secs_f64(seconds.get(&node).copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_node_falls_back_and_recovers() {
        let latencies = Latencies::default();
        let [one, other] = [NodeId(1), NodeId(2)];
        assert_eq!(latencies.of(one), Duration::ZERO);
        for node in [one, other] {
            latencies.note(node, Duration::from_millis(10));
        }
        latencies.note(one, Duration::from_millis(500));
        assert!(latencies.of(one) > latencies.of(other));
        for _ in 0..20 {
            latencies.note(one, Duration::from_millis(5));
        }
        assert!(latencies.of(one) < latencies.of(other));
    }
}
