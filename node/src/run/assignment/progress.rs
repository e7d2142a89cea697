//! Whether those that lack blocks come to lack fewer.

use std::collections::BTreeMap;
use std::time::Instant;

use cluster::ids::NodeId;

use super::{Copies, STALL, Situation};

/// What each holder that lacks blocks has come down to. Bounded by the number of holders.
#[derive(Debug, Default)]
pub(super) struct Progress(BTreeMap<NodeId, Least>);

#[derive(Clone, Copy, Debug)]
struct Least {
    blocks: u64,
    /// The layout by which it was counted last.
    epoch: u64,
    since: Instant,
}

impl Progress {
    /// Notes in `situation` who has come no further for [`STALL`].
    ///
    /// Who gets more by a new layout begins anew. Who lacks no more than before goes on being stuck, so that what nobody can
    /// have delays the first step and not each.
    pub(super) fn note(&mut self, situation: &mut Situation, now: Instant) {
        let epoch = situation.present.epoch();
        let stores = &situation.stores;
        self.0.retain(|node, _| {
            let copies = stores.get(node).map(|store| store.seen.copies);
            matches!(copies, Some(Copies::Lacks(_) | Copies::Unknown))
        });
        for (node, store) in &mut situation.stores {
            let Copies::Lacks(blocks) = store.seen.copies else { continue };
            let fresh = Least { blocks, epoch, since: now };
            let least = self.0.entry(*node).or_insert(fresh);
            if blocks < least.blocks || (blocks > least.blocks && epoch != least.epoch) {
                *least = fresh;
            }
            least.epoch = epoch;
            store.seen.stuck |= now.saturating_duration_since(least.since) >= STALL;
        }
    }
}
