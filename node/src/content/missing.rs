//! Blocks that this node should hold and does not.
//!
//! Filled by the comparison of the catalog with the store, and between comparisons by reads that did not find what should
//! have been there. The comparison is the authority: what it does not find missing is not missing.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cluster::command::BlockRef;
use cluster::ids::BlockHash;
use cluster::placement::{GROUPS, GroupSet, first_hash, group_of};
use tokio::sync::Notify;

/// How many are kept by name, at some 60 bytes each. More are only counted, and found again by the next comparison.
pub(super) const MISSING_MAX: usize = 100_000;

/// After a copy could not be had: the pause before it is tried again, at first and at most.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// The layout by which a comparison was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ComparedBy {
    pub epoch: u64,
    /// How long this node had known it when the comparison began.
    pub known_for: Duration,
}

/// A block to get now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Not what a reader stumbled over: that goes first.
    later: bool,
    /// Copies that other nodes can give, as far as is known.
    pub(super) copies_left: usize,
    pub(super) block: BlockRef,
}

impl Due {
    fn order(&self) -> (bool, usize, BlockHash) {
        (self.later, self.copies_left, self.block.hash)
    }
}

#[derive(Debug, Default)]
pub(super) struct Missing {
    state: Mutex<State>,
    hinted: Notify,
}

#[derive(Debug, Default)]
struct State {
    blocks: BTreeMap<BlockHash, Absent>,
    /// Missing beyond those.
    uncounted: u64,
    waiting_for: Option<String>,
    /// Nothing before the first comparison has ended.
    compared: Option<ComparedBy>,
}

#[derive(Debug, Default)]
struct Absent {
    /// Bytes.
    len: u32,
    /// Whether a reader stumbled over it.
    wanted: bool,
    failures: u32,
    not_before: Option<Instant>,
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
            let absent = state.blocks.entry(block.hash).or_default();
            absent.len = block.len;
            absent.wanted = true;
        }
        drop(state);
        self.hinted.notify_one();
    }

    /// Resolves after the next hint, or at once when there was one since the last call.
    pub(super) async fn hinted(&self) {
        self.hinted.notified().await;
    }

    /// What a comparison found, with their lengths: some by name, and how many more.
    pub(super) fn replace(&self, found: BTreeMap<BlockHash, u32>, more: u64, by: ComparedBy) {
        let mut state = self.lock();
        let mut before = std::mem::take(&mut state.blocks);
        state.blocks = found
            .into_iter()
            .map(|(hash, len)| (hash, Absent { len, ..before.remove(&hash).unwrap_or_default() }))
            .collect();
        state.uncounted = more;
        state.compared = Some(by);
        if state.len() == 0 {
            state.waiting_for = None;
        }
    }

    /// It is here now.
    pub(super) fn found(&self, hash: &BlockHash) {
        let mut state = self.lock();
        if state.blocks.remove(hash).is_some() && state.blocks.is_empty() {
            state.waiting_for = None;
        }
    }

    /// It could not be had.
    pub(super) fn failed(&self, hash: &BlockHash, now: Instant) {
        if let Some(absent) = self.lock().blocks.get_mut(hash) {
            let pause = (PAUSE_MIN * 2_u32.pow(absent.failures.min(16))).min(PAUSE_MAX);
            absent.not_before = Some(now + pause.mul_f64(0.75 + 0.5 * fastrand::f64()));
            absent.failures = absent.failures.saturating_add(1);
        }
    }

    /// What to get now, the most urgent first, at most `limit`. `copies_left` says how many copies others have of the blocks
    /// of a placement group.
    pub(super) fn due(
        &self,
        now: Instant,
        limit: usize,
        copies_left: impl Fn(u16) -> usize,
    ) -> Vec<Due> {
        let state = self.lock();
        if state.blocks.is_empty() {
            return Vec::new();
        }
        let copies_left: Vec<usize> = (0..GROUPS).map(copies_left).collect();
        let mut due: Vec<Due> = state
            .blocks
            .iter()
            .filter(|(_, absent)| absent.not_before.is_none_or(|at| at <= now))
            .map(|(hash, absent)| Due {
                later: !absent.wanted,
                copies_left: copies_left[usize::from(group_of(hash))],
                block: BlockRef { hash: *hash, len: absent.len },
            })
            .collect();
        drop(state);
        if due.len() > limit {
            due.select_nth_unstable_by_key(limit, Due::order);
            due.truncate(limit);
        }
        due.sort_unstable_by_key(Due::order);
        due
    }

    /// When the next one may be tried again.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.lock().blocks.values().filter_map(|absent| absent.not_before).min()
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
        self.lock().blocks.values().map(|absent| u64::from(absent.len)).sum()
    }

    /// The placement groups of those known by name.
    pub(super) fn groups(&self) -> GroupSet {
        let state = self.lock();
        // From group to group, however many blocks there are in one.
        (0..GROUPS)
            .filter(|group| {
                let next = state.blocks.range(first_hash(*group)..).next();
                next.is_some_and(|(hash, _)| group_of(hash) == *group)
            })
            .collect()
    }

    /// Whether there are more than could be kept by name, and all of those have been got or tried.
    pub(super) fn overflowed(&self) -> bool {
        let state = self.lock();
        state.uncounted > 0 && state.blocks.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use cluster::placement::first_hash;

    use super::*;

    const MANY: usize = 1000;

    fn block(group: u16) -> BlockRef {
        BlockRef { hash: first_hash(group), len: 10 }
    }

    fn groups(due: &[Due]) -> Vec<u16> {
        due.iter().map(|due| group_of(&due.block.hash)).collect()
    }

    #[test]
    fn what_a_reader_wants_goes_first_and_then_the_fewest_copies() {
        let missing = Missing::default();
        let found = (0..6).map(|group| (block(group).hash, 10)).collect();
        missing.replace(found, 0, ComparedBy::default());
        missing.hint(block(5));
        let now = Instant::now();
        let copies_left = |group| if group == 3 { 1 } else { 2 };
        assert_eq!(groups(&missing.due(now, MANY, copies_left)), [5, 3, 0, 1, 2, 4]);
        assert_eq!(groups(&missing.due(now, 3, copies_left)), [5, 3, 0]);
        assert!(missing.due(now, 0, copies_left).is_empty());
    }

    #[test]
    fn what_could_not_be_had_waits_and_lets_the_others_pass() {
        let missing = Missing::default();
        let compare = || {
            let found = (0..2).map(|group| (block(group).hash, 10)).collect();
            missing.replace(found, 0, ComparedBy::default());
        };
        compare();
        let now = Instant::now();
        missing.failed(&block(0).hash, now);
        compare();
        assert_eq!(groups(&missing.due(now, MANY, |_| 2)), [1], "a comparison does not forget it");
        let again = missing.next_due().unwrap();
        assert!(again > now && again <= now + 2 * PAUSE_MIN);
        assert_eq!(groups(&missing.due(again, MANY, |_| 2)), [0, 1]);
        for _ in 0..40 {
            missing.failed(&block(0).hash, now);
        }
        assert!(missing.next_due().unwrap() <= now + PAUSE_MAX * 5 / 4);
    }

    #[test]
    fn nothing_is_waited_for_when_all_is_here() {
        let missing = Missing::default();
        missing.hint(block(0));
        missing.wait_for(Some("a holder".into()));
        missing.found(&block(0).hash);
        assert_eq!((missing.len(), missing.waiting_for()), (0, None));
    }
}
