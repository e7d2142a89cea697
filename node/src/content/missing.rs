//! Blocks that this node should hold and does not.
//!
//! Filled by the comparison of the catalog with the store, and between comparisons by reads that did not find what should
//! have been there. The comparison is the authority: what it does not find missing is not missing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::command::BlockRef;
use cluster::ids::BlockHash;
use tokio::sync::Notify;

/// How many are kept by name, at some 50 bytes each. More are only counted, and found again by the next comparison.
pub(super) const MISSING_MAX: usize = 100_000;

/// The layout by which a comparison was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparedBy {
    pub epoch: u64,
    /// How long this node had known it when the comparison began.
    pub known_for: Duration,
}

#[derive(Debug, Default)]
pub(super) struct Missing {
    state: Mutex<State>,
    hinted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Length in bytes by hash.
    blocks: BTreeMap<BlockHash, u32>,
    /// Missing beyond those.
    uncounted: u64,
    waiting_for: Option<String>,
    /// Nothing before the first comparison has ended.
    compared: Option<ComparedBy>,
}

impl State {
    fn len(&self) -> u64 {
        self.blocks.len() as u64 + self.uncounted
    }
}

impl Missing {
    /// A read did not find it.
    pub(super) fn hint(&self, block: BlockRef) {
        let mut state = self.lock();
        if state.blocks.len() < MISSING_MAX {
            state.blocks.insert(block.hash, block.len);
        }
        drop(state);
        self.hinted.notify_one();
    }

    /// Resolves after the next hint, or at once when there was one since the last call.
    pub(super) async fn hinted(&self) {
        self.hinted.notified().await;
    }

    /// What a comparison found: some by name, and how many more.
    pub(super) fn replace(&self, blocks: BTreeMap<BlockHash, u32>, more: u64, by: ComparedBy) {
        let mut state = self.lock();
        state.blocks = blocks;
        state.uncounted = more;
        state.compared = Some(by);
    }

    /// It is here now.
    pub(super) fn found(&self, hash: &BlockHash) {
        let mut state = self.lock();
        if state.blocks.remove(hash).is_some() && state.blocks.is_empty() {
            state.waiting_for = None;
        }
    }

    /// The first one after `after`, in the order of the hashes.
    pub(super) fn next(&self, after: Option<BlockHash>) -> Option<BlockRef> {
        let state = self.lock();
        let mut rest = match after {
            Some(hash) => {
                state.blocks.range((std::ops::Bound::Excluded(hash), std::ops::Bound::Unbounded))
            }
            None => state.blocks.range(..),
        };
        rest.next().map(|(hash, len)| BlockRef { hash: *hash, len: *len })
    }

    pub(super) fn wait_for(&self, reason: Option<String>) {
        self.lock().waiting_for = reason;
    }

    pub(super) fn waiting_for(&self) -> Option<String> {
        self.lock().waiting_for.clone()
    }

    /// How many are missing, and by which layout. `None` before a comparison has ended.
    pub(super) fn counted(&self) -> Option<(u64, ComparedBy)> {
        let state = self.lock();
        state.compared.map(|by| (state.len(), by))
    }

    pub(super) fn len(&self) -> u64 {
        self.lock().len()
    }

    /// Bytes in those known by name.
    pub(super) fn bytes(&self) -> u64 {
        self.lock().blocks.values().map(|len| u64::from(*len)).sum()
    }

    /// Whether there are more than could be kept by name.
    pub(super) fn overflowed(&self) -> bool {
        self.lock().uncounted > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
