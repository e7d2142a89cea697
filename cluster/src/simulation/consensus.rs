//! A model of Raft as the catalog sees it: one log, and leaders that append to it.
//!
//! It keeps what Raft promises: what is committed is never changed, each leader has all of it, and a leader that was
//! replaced commits nothing any more. It does not model how that is brought about.

use crate::clock::{LeaderClock, Reading};
use crate::command::Command;

/// Who is waiting for an entry: the proposer's place, and the number of its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) proposer: usize,
    pub(super) sequence: u64,
}

/// An entry that may be lost yet.
pub(super) struct Appended {
    pub(super) command: Command,
    pub(super) waiting: Option<Waiting>,
}

/// The log, and its present leader.
pub(super) struct Consensus {
    /// The entry at index `first + n` is in place `n`.
    committed: Vec<Appended>,
    /// Index of the first entry that the schedule brought about.
    first: u64,
    /// Entries up to this index have been removed: who lacks one of them needs a snapshot.
    purged: u64,
    pub(super) leader: usize,
    term: u64,
    tail: Vec<Appended>,
    clock: LeaderClock,
}

impl Consensus {
    /// A log whose first `applied` entries everybody has.
    pub(super) fn new(applied: u64, leader: usize) -> Self {
        Self {
            committed: Vec::new(),
            first: applied + 1,
            purged: applied,
            leader,
            term: 1,
            tail: Vec::new(),
            clock: LeaderClock::default(),
        }
    }

    /// Index of the last committed entry.
    pub(super) fn last(&self) -> u64 {
        self.first - 1 + self.committed.len() as u64
    }

    pub(super) fn purged(&self) -> u64 {
        self.purged
    }

    pub(super) fn purge(&mut self, up_to: u64) {
        self.purged = self.purged.max(up_to.min(self.last()));
    }

    /// The committed entry at `index`, if there is one.
    pub(super) fn entry(&self, index: u64) -> Option<&Appended> {
        let place = usize::try_from(index.checked_sub(self.first)?).ok()?;
        self.committed.get(place)
    }

    /// The leader takes a command. Returns the index that it will have, unless it is lost.
    pub(super) fn append(
        &mut self,
        mut command: Command,
        waiting: Waiting,
        wall_ms: u64,
        monotonic_ms: u64,
        catalog_ms: u64,
    ) -> u64 {
        let reading = Reading { term: self.term, wall_ms, monotonic_ms };
        command.time_ms = self.clock.stamp_ms(reading, || catalog_ms);
        self.tail.push(Appended { command, waiting: Some(waiting) });
        self.last() + self.tail.len() as u64
    }

    pub(super) fn uncommitted(&self) -> usize {
        self.tail.len()
    }

    /// A majority has so many more entries. Returns the index of the first of them.
    pub(super) fn commit(&mut self, entries: usize) -> u64 {
        let first = self.last() + 1;
        self.committed.extend(self.tail.drain(..entries));
        first
    }

    /// Somebody else leads, who has the first `kept` of the entries that were not committed yet. Nobody is answered by it.
    pub(super) fn elect(&mut self, leader: usize, kept: usize) {
        self.term += 1;
        self.leader = leader;
        self.clock = LeaderClock::default();
        self.tail.truncate(kept);
        // The proposers spoke to the old leader. If that is this one, it has forgotten them too.
        for entry in self.tail.iter_mut().chain(&mut self.committed) {
            entry.waiting = None;
        }
    }
}
