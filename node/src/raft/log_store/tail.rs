//! Where the log begins and ends, and its newest entries.

use std::collections::VecDeque;

use super::super::types::{Entry, LogId, entry_bytes};

/// The entries kept in memory: what a follower that keeps up, and the state machine, still have to read.
const RECENT_BYTES_MAX: usize = 8 << 20;
const RECENT_ENTRIES_MAX: usize = 8192;

pub(super) struct Tail {
    purged: Option<LogId>,
    /// The index of the first entry and the id of the last one.
    ends: Option<(u64, LogId)>,
    /// Contiguous, and up to the last entry unless empty.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
}

impl Tail {
    pub(super) fn new(purged: Option<LogId>, ends: Option<(u64, LogId)>) -> Self {
        Self { purged, ends, recent: VecDeque::new(), recent_bytes: 0 }
    }

    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or the last purged one when there is none.
    pub(super) fn last(&self) -> Option<LogId> {
        self.ends.map(|(_, last)| last).or(self.purged)
    }

    /// The index of the first entry, or of the next one when there is none.
    pub(super) fn first_index(&self) -> u64 {
        self.ends.map_or_else(|| self.next_index(), |(first, _)| first)
    }

    /// The index after the last entry.
    pub(super) fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    /// Entries from `start` until `end` (exclusive) but no more than `bytes_max` (one at least); `None` when memory does
    /// not have the first of them.
    pub(super) fn recent(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.recent.front()?.log_id.index;
        let offset = usize::try_from(start.checked_sub(first)?).ok()?;
        let count = usize::try_from(end - start).ok()?;
        let mut bytes = 0;
        let entries = self.recent.iter().skip(offset).take(count).enumerate();
        Some(
            entries
                .take_while(|(position, entry)| {
                    bytes += entry_bytes(entry);
                    bytes <= bytes_max || *position == 0
                })
                .map(|(_, entry)| entry.clone())
                .collect(),
        )
    }

    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            let first = self.ends.map_or(entry.log_id.index, |(first, _)| first);
            self.ends = Some((first, entry.log_id));
            self.recent_bytes += entry_bytes(&entry);
            self.recent.push_back(entry);
        }
        while self.recent_bytes > RECENT_BYTES_MAX || self.recent.len() > RECENT_ENTRIES_MAX {
            self.drop_front();
        }
    }

    pub(super) fn truncate(&mut self, last: Option<LogId>) {
        let next = last.map_or(0, |last| last.index + 1);
        while self.recent.back().is_some_and(|entry| entry.log_id.index >= next) {
            if let Some(entry) = self.recent.pop_back() {
                self.recent_bytes -= entry_bytes(&entry);
            }
        }
        if let Some((first, present)) = self.ends
            && present.index >= next
        {
            self.ends = last.filter(|last| last.index >= first).map(|last| (first, last));
        }
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        while self.recent.front().is_some_and(|entry| entry.log_id.index <= upto.index) {
            self.drop_front();
        }
        self.ends = self
            .ends
            .filter(|(_, last)| last.index > upto.index)
            .map(|(first, last)| (first.max(upto.index + 1), last));
        self.purged = Some(upto);
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.recent.pop_front() {
            self.recent_bytes -= entry_bytes(&entry);
        }
    }
}
