//! Telling those who wait that the catalog has moved on.
//!
//! Most wait for an index. Whoever waits for work would be woken by each command of others, and look in vain, so it is told
//! of the batches that can have made some; and whoever keeps the layout at hand, of those that can have changed it.

use cluster::catalog;
use cluster::view::WriteBatch;
use tokio::sync::watch;

/// What is told. Cloning it is cheap.
#[derive(Clone, Debug)]
pub(super) struct Announcements {
    /// The index of the last entry applied on this node; changes with each batch.
    pub(super) applied: watch::Receiver<u64>,
    /// The same, but it changes only when there may be work that was not there before.
    pub(super) work: watch::Receiver<u64>,
    /// The same, but it changes only when blocks may belong elsewhere than before. Never behind [`Self::applied`].
    pub(super) placement: watch::Receiver<u64>,
}

/// Who tells it.
#[derive(Debug)]
pub(super) struct Announcer {
    applied: watch::Sender<u64>,
    work: watch::Sender<u64>,
    placement: watch::Sender<u64>,
}

/// An announcer that has said nothing yet, and what it will say.
pub(super) fn announcer() -> (Announcer, Announcements) {
    let announcer = Announcer {
        applied: watch::Sender::new(0),
        work: watch::Sender::new(0),
        placement: watch::Sender::new(0),
    };
    let announcements = Announcements {
        applied: announcer.applied.subscribe(),
        work: announcer.work.subscribe(),
        placement: announcer.placement.subscribe(),
    };
    (announcer, announcements)
}

impl Announcer {
    /// After a batch that ends at `index` and has changed this.
    pub(super) fn batch(&self, index: u64, changes: &WriteBatch) {
        if changes.writes.keys().any(|(table, _)| catalog::is_about_placement(*table)) {
            self.placement.send_replace(index);
        }
        self.applied.send_replace(index);
        if changes.writes.keys().any(|(table, _)| catalog::is_about_work(*table)) {
            self.work.send_replace(index);
        }
    }

    /// After anything may have changed.
    pub(super) fn everything(&self, index: u64) {
        self.placement.send_replace(index);
        self.applied.send_replace(index);
        self.work.send_replace(index);
    }
}
