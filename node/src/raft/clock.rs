//! What time it is for the cluster, on a node that does not lead. See [`cluster::clock`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use cluster::clock::FollowedClock;

/// The leader's clock, as this node follows it. Clones share it.
#[derive(Clone, Debug)]
pub struct ClusterClock {
    started: Instant,
    followed: Arc<Mutex<FollowedClock>>,
}

impl ClusterClock {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), followed: Arc::default() }
    }

    /// Takes over what the catalog's clock shows.
    pub(super) fn learn(&self, catalog_ms: u64) {
        let monotonic_ms = self.monotonic_ms();
        self.followed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .learn(catalog_ms, monotonic_ms);
    }

    /// Milliseconds since 1970 by the clock that leases, tokens and plans of operators go by. It is the leader's, and may be
    /// another one than this machine's.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let monotonic_ms = self.monotonic_ms();
        self.followed.lock().unwrap_or_else(PoisonError::into_inner).now_ms(monotonic_ms)
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
