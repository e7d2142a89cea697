//! What this node should hold and does not: the catalog against the names in the store.
//!
//! Every node has the whole catalog, so nobody has to be asked. A comparison runs at the start, when there is another layout,
//! once more when that has settled, and every half a minute at the latest: finds what no hint told. It costs a read of every
//! row about a block and of every name here, so it takes a bounded part of the time however many there are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::duties;
use cluster::ids::BlockHash;
use tokio::time::Instant;

use super::{Repairer, jittered};
use crate::content::missing::{ComparedBy, MISSING_MAX};
use crate::store::StoreError;

/// How long after a comparison the next one follows. Soon after a start, when the catalog is still catching up, and after one
/// that found something; each quiet one doubles the time.
const INTERVAL_MIN: Duration = Duration::from_secs(2);
const INTERVAL_MAX: Duration = Duration::from_secs(30);

/// A comparison may take this part of the time.
const SHARE: u32 = 20;

/// After a new layout, what was stored by the one before it has been named by the log in so much time: a put and the
/// command that follows it take a few seconds each at most. So long after, this node looks once more.
pub const LAYOUT_SETTLES: Duration = Duration::from_secs(10);

/// Rows compared in one go, on a thread that may block. A page with its local names is some 100 KiB.
const PAGE: usize = 1000;

/// When the next comparison is due, and the layout that the last one was made by.
pub(super) struct Comparisons {
    pub(super) due: Instant,
    interval: Duration,
    /// Where the naming of what is missing begins, in case there is more than can be kept by name: else those that nobody
    /// can give would be named again and again, and the others never.
    named_from: BlockHash,
    /// The epoch of the layout that this node knows, and since when.
    epoch: u64,
    known_since: Instant,
}

impl Default for Comparisons {
    fn default() -> Self {
        let now = Instant::now();
        Self {
            due: now,
            interval: INTERVAL_MIN,
            named_from: BlockHash([0; 32]),
            epoch: 0,
            known_since: now,
        }
    }
}

impl Repairer {
    /// Compares if it is time.
    pub(super) async fn compare_when_due(&self, comparisons: &mut Comparisons) {
        if self.epoch().is_some_and(|epoch| epoch != comparisons.epoch) {
            comparisons.interval = INTERVAL_MIN;
            comparisons.due = Instant::now();
        }
        if Instant::now() < comparisons.due {
            return;
        }
        let missing = &self.inner.missing;
        let began = Instant::now();
        comparisons.interval = match self.compare_all(comparisons).await {
            Ok(()) if missing.len() > 0 => {
                tracing::info!(blocks = missing.len(), "copies are missing here");
                INTERVAL_MIN
            }
            Ok(()) => (comparisons.interval * 2).min(INTERVAL_MAX),
            Err(reason) => {
                tracing::warn!(reason, "comparing the store with the catalog failed");
                missing.wait_for(Some(reason));
                INTERVAL_MAX
            }
        };
        let pause = comparisons.interval.max(began.elapsed() * SHARE);
        comparisons.due = Instant::now() + jittered(pause);
        let settles_at = comparisons.known_since + LAYOUT_SETTLES;
        if began < settles_at {
            comparisons.due = comparisons.due.min(settles_at);
        }
    }

    /// Waits until there is another layout than the one last compared with.
    pub(super) async fn another_layout_than(&self, comparisons: &Comparisons) {
        let mut changes = self.inner.placement.changes();
        while self.epoch().is_none_or(|epoch| epoch == comparisons.epoch) {
            if changes.changed().await.is_err() {
                // Consensus has ended, and this loop is about to.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether the last comparison was made by the present layout. A catalog that cannot be read is no other layout.
    pub(super) fn still_by(&self, comparisons: &Comparisons) -> bool {
        self.epoch().is_none_or(|epoch| epoch == comparisons.epoch)
    }

    /// Finds out what is missing here.
    async fn compare_all(&self, comparisons: &mut Comparisons) -> Result<(), String> {
        let inner = &self.inner;
        let here = inner.placement.current().map_err(|error| error.to_string())?;
        if here.layout.epoch() != comparisons.epoch {
            comparisons.epoch = here.layout.epoch();
            comparisons.known_since = Instant::now();
        }
        let by =
            ComparedBy { epoch: comparisons.epoch, known_for: comparisons.known_since.elapsed() };
        let mut found = BTreeMap::new();
        let mut more = 0;
        let mut from = Some(BlockHash([0; 32]));
        while let Some(start) = from {
            let (catalog, whereabouts, me) =
                (inner.placement.catalog(), Arc::clone(&here), inner.node);
            let page = self
                .comparing
                .run(move || duties::should_hold(&*catalog, &whereabouts.layout, me, start, PAGE))
                .await
                .map_err(|error| error.to_string())?;
            from = page.next;
            let mut wanted: BTreeMap<_, _> =
                page.blocks.into_iter().map(|(hash, row)| (hash, row.len)).collect();
            self.strike_off_stored(&mut wanted).await.map_err(|error| error.to_string())?;
            for (hash, len) in wanted {
                if found.len() < MISSING_MAX && hash >= comparisons.named_from {
                    found.insert(hash, len);
                } else {
                    more += 1;
                }
            }
        }
        comparisons.named_from = match found.last_key_value() {
            Some((last, _)) if found.len() == MISSING_MAX => successor(*last),
            _ => BlockHash([0; 32]),
        };
        inner.missing.replace(found, more, by);
        metrics::gauge!("reelraft_content_missing_blocks").set(inner.missing.len() as f64);
        Ok(())
    }

    /// Takes from `wanted` what is in the store.
    async fn strike_off_stored(
        &self,
        wanted: &mut BTreeMap<BlockHash, u32>,
    ) -> Result<(), StoreError> {
        let (Some((&first, _)), Some((&last, _))) =
            (wanted.first_key_value(), wanted.last_key_value())
        else {
            return Ok(());
        };
        let mut from = first;
        loop {
            // There may be more here than is wanted: garbage, and what belongs elsewhere by now.
            let stored = self.inner.store.list(from, last, PAGE).await?;
            for block in &stored {
                wanted.remove(&block.hash);
            }
            match stored.last() {
                Some(block) if stored.len() == PAGE && block.hash < last => {
                    from = successor(block.hash);
                }
                _ => return Ok(()),
            }
        }
    }
}

/// The next hash in order; the last one is its own.
pub(in crate::content) fn successor(hash: BlockHash) -> BlockHash {
    let mut bytes = hash.0;
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return BlockHash(bytes);
        }
    }
    hash
}
