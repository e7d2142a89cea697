//! The loop that brings copies where they belong.
//!
//! Each node sees to its own copies: it compares what the catalog and the layout say that it should hold with the names in
//! its store ([`compare`]), and pulls what is missing from other holders ([`pull`]), those first of which the fewest copies
//! are left. So a node that was away, or got another disk, is whole again without anybody having to know that it was not.
//! Beside that it brings other nodes the copies that it owes them ([`push`]).
//!
//! Viewers come first. All copies together keep to a [`pace`] that falls when reads of viewers become slow and rises again
//! when they are not, between a floor, so that repair always ends, and the setting.
//!
//! Everything here may stop at any point and be done again: what is still missing is found by the next comparison. Two nodes
//! may bring the same copy at once, which costs a transfer and nothing else.

mod compare;
mod pace;
mod pull;
mod push;

use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::command::BlockRef;
use cluster::ids::NodeId;
use tokio_util::sync::CancellationToken;

use super::{Content, Inner};
use crate::store::{Pool, StoreCondition};
pub use compare::LAYOUT_SETTLES;
pub(super) use compare::successor;
pub(super) use pace::Pace;

/// Copies made at the same time: enough to hide the way to another node, few enough to leave its disk to viewers.
const PARALLEL: usize = 4;

/// How often it is looked whether what stood in the way still does.
const HINDRANCE_POLL: Duration = Duration::from_secs(1);

impl Content {
    /// Runs until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        let repairer = Repairer { inner: Arc::clone(&self.inner), comparing: Pool::new(1) };
        tokio::select! {
            () = stop.cancelled() => {}
            () = repairer.pull_missing() => {}
            () = repairer.push_owed() => {}
            () = repairer.inner.pace.keep(&repairer.inner.viewers, &repairer.inner.repaired) => {}
        }
    }
}

struct Repairer {
    inner: Arc<Inner>,
    comparing: Pool,
}

impl Repairer {
    /// Whether somebody wants no copies to be made, and what to do about it.
    fn paused(&self) -> Option<String> {
        let system = catalog::system(&*self.inner.placement.catalog()).ok()?;
        system.repair_paused.map(|pause| {
            format!("paused by {}: `reelraft repair resume` lets it go on", pause.actor)
        })
    }

    /// Why none are to be made here.
    fn hindrance(&self) -> Option<String> {
        self.paused()
            .or_else(|| match self.inner.store.condition() {
                StoreCondition::Writable => None,
                StoreCondition::ReadOnly { reason } | StoreCondition::Unavailable { reason } => {
                    Some(format!("its block store takes no writes: {reason}"))
                }
            })
            .or_else(|| {
                let full = !(self.inner.disk)().takes_copies();
                full.then(|| "its disk is too full for more copies".to_owned())
            })
    }

    /// The present layout's epoch, if the catalog can be read.
    fn epoch(&self) -> Option<u64> {
        self.inner.placement.current().ok().map(|here| here.layout.epoch())
    }

    /// How many nodes, this one aside, are up that should have a copy of the blocks of `group`.
    fn copies_left(&self, holders: &[NodeId]) -> usize {
        let others = holders.iter().filter(|node| **node != self.inner.node);
        others.filter(|node| self.inner.is_up(**node)).count()
    }
}

impl Inner {
    /// A copy was made that was missing.
    pub(super) fn made(&self, block: BlockRef, way: &'static str) {
        self.repaired.note(u64::from(block.len));
        metrics::counter!("reelraft_content_repaired_blocks_total", "way" => way).increment(1);
        metrics::counter!("reelraft_content_repaired_bytes_total", "way" => way)
            .increment(u64::from(block.len));
    }
}

pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}
