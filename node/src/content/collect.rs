//! Deletes the copies here that nobody needs any more.
//!
//! What may be deleted is decided by [`cluster::collection`]; here is where it is looked for. Two ways, because each finds
//! what the other does not:
//!
//! - The catalog lists the blocks that were reaped, in the order of the log. This node follows that list, from its beginning
//!   when the process starts. So copies go within a second after the log says so, whatever else there is in the store.
//! - A sweep compares every copy with the catalog: at the start, when the floor has risen, and every now and then. It finds
//!   copies whose blocks were forgotten while this node was away, those that arrived late, and those that were never named.
//!
//! Neither remembers anything on disk. Each delete looks at the copy's put index under the store's lock, so a put of the same
//! block at the same moment comes either before, and saves the copy, or after, and makes another one.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cluster::catalog::{self, BlockSum, ReapedKey};
use cluster::ids::BlockHash;
use cluster::view::{View, ViewError};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::repair::{jittered, successor};
use super::{Content, Inner};
use crate::store::{Pool, StoreError, StoredBlock};

/// Between two looks at the list of reaped blocks, when there are changes of the catalog.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Reaped blocks, or copies of a sweep, that are looked at in one go: some 100 KB.
const PAGE: usize = 1000;

/// Deletes in a second at most: a video of an hour goes in ten seconds, and the disk has time for viewers meanwhile.
const DELETES_PER_SECOND: NonZeroU32 = NonZeroU32::new(1000).expect("it is not 0");

/// A copy may come after its block was reaped, from somebody who began to send it before: for so long, and so often, it is looked
/// again whether it has. Several times as long as a copy may be on its way; whatever comes later, a sweep finds.
const LATE: Duration = Duration::from_secs(120);
const LATE_LOOK_EVERY: Duration = Duration::from_secs(5);

/// Blocks that are looked for in that way, at some 60 bytes each. The oldest are left to the sweep.
const LATE_MAX: usize = 50_000;

/// How long after a sweep the next one follows, unless the floor rises.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// A sweep may take this part of the time, however many copies there are.
const SWEEP_SHARE: u32 = 20;

/// After trouble with the store or the catalog.
const PAUSE_AFTER_TROUBLE: Duration = Duration::from_secs(5);

/// How often what waits is counted, and how far. More is a lot, and that is all that anybody needs to know.
const COUNT_EVERY: Duration = Duration::from_secs(5);
const COUNT_MAX: u64 = 100_000;

/// How the collection of garbage is doing, as this node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CollectionObservation {
    /// Blocks in the cluster that nobody names any more and that have not been given up yet. Counted up to 100 000.
    pub waiting: BlockSum,
    /// Blocks that have been given up and that this node is looking at now. Counted up to 1000.
    pub backlog: BlockSum,
    /// Copies that were deleted here since the process started.
    pub deleted: BlockSum,
    /// Why the backlog does not get shorter.
    pub waiting_for: Option<String>,
}

/// What is remembered for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Collected {
    deleted_blocks: AtomicU64,
    deleted_bytes: AtomicU64,
    rest: Mutex<CollectionObservation>,
}

impl Collected {
    fn note_deleted(&self, bytes: u32) {
        self.deleted_blocks.fetch_add(1, Ordering::Relaxed);
        self.deleted_bytes.fetch_add(bytes.into(), Ordering::Relaxed);
        metrics::counter!("reelraft_content_collected_blocks_total").increment(1);
        metrics::counter!("reelraft_content_collected_bytes_total").increment(bytes.into());
    }

    fn change(&self, change: impl FnOnce(&mut CollectionObservation)) {
        change(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn observe(&self) -> CollectionObservation {
        let deleted = BlockSum {
            blocks: self.deleted_blocks.load(Ordering::Relaxed),
            bytes: self.deleted_bytes.load(Ordering::Relaxed),
        };
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        CollectionObservation { deleted, ..rest.clone() }
    }
}

/// Why collection does not go on for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Catalog(#[from] ViewError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Content {
    /// Deletes what nobody needs, until `stop`.
    pub async fn collect(&self, stop: CancellationToken) {
        let collector = Collector {
            inner: Arc::clone(&self.inner),
            limiter: RateLimiter::direct(Quota::per_second(DELETES_PER_SECOND)),
            reading: Pool::new(1),
            late: Mutex::default(),
        };
        stop.run_until_cancelled(collector.run()).await;
    }

    /// How collection is doing. Cheap.
    #[must_use]
    pub fn observe_collection(&self) -> CollectionObservation {
        self.inner.collected.observe()
    }
}

/// A copy that may be garbage.
struct Suspect {
    hash: BlockHash,
    /// Bytes.
    len: u32,
    /// If it is known; the store looks again.
    put_index: Option<u64>,
}

struct Collector {
    inner: Arc<Inner>,
    limiter: DefaultDirectRateLimiter,
    /// The catalog is read here, because that may block.
    reading: Pool,
    /// Reaped blocks that were not here when that was noticed, the first noticed first.
    late: Mutex<VecDeque<(Instant, BlockHash, u32)>>,
}

impl Collector {
    async fn run(&self) {
        let mut applied = self.inner.placement.applied();
        let mut after = None;
        let mut swept_floor = None;
        let mut sweep_at = Instant::now();
        let mut count_at = Instant::now();
        let mut late_at = Instant::now();
        loop {
            applied.borrow_and_update();
            let outcome = async {
                self.follow(&mut after).await?;
                if Instant::now() >= late_at {
                    self.look_for_late().await?;
                    late_at = Instant::now() + LATE_LOOK_EVERY;
                }
                let floor = self.read(|catalog| Ok(catalog::system(catalog)?.reap_floor)).await?;
                if Instant::now() >= sweep_at || swept_floor.is_some_and(|swept| swept < floor) {
                    let began = Instant::now();
                    self.sweep().await?;
                    swept_floor = Some(floor);
                    let pause = SWEEP_EVERY.max(began.elapsed() * SWEEP_SHARE);
                    sweep_at = Instant::now() + jittered(pause);
                }
                if Instant::now() >= count_at {
                    let began = Instant::now();
                    self.count().await?;
                    count_at = Instant::now() + COUNT_EVERY.max(began.elapsed() * SWEEP_SHARE);
                }
                Ok::<_, Trouble>(())
            };
            let trouble = outcome.await.err().map(|trouble| trouble.to_string());
            if let Some(reason) = &trouble {
                tracing::warn!(reason, "garbage cannot be collected at present");
            }
            let is_well = trouble.is_none();
            self.inner.collected.change(|observation| observation.waiting_for = trouble);
            if is_well {
                sleep(LOOK_EVERY).await;
                tokio::select! {
                    changed = applied.changed() => if changed.is_err() {
                        // Consensus has ended; so will this.
                        std::future::pending::<()>().await;
                    },
                    () = sleep_until(sweep_at) => {}
                    () = sleep_until(late_at), if !self.late().is_empty() => {}
                }
            } else {
                sleep(jittered(PAUSE_AFTER_TROUBLE)).await;
            }
        }
    }

    /// Deletes what was reaped after this place, and moves on to the end.
    async fn follow(&self, after: &mut Option<ReapedKey>) -> Result<(), Trouble> {
        loop {
            let from = *after;
            let page = self
                .read(move |catalog| catalog::reaped_blocks(catalog, from.as_ref(), PAGE))
                .await?;
            self.note_backlog(&page);
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            let last = *last;
            // Most are elsewhere, or gone already. A damaged copy among them is found by the sweep.
            let reaped = page.into_iter().map(|((_, hash), len)| (hash, len)).collect();
            let absent = self.delete_those_here(reaped).await?;
            let now = Instant::now();
            let mut late = self.late();
            late.extend(absent.into_iter().map(|(hash, len)| (now, hash, len)));
            let beyond = late.len().saturating_sub(LATE_MAX);
            late.drain(..beyond);
            drop(late);
            *after = Some(last);
        }
    }

    /// Deletes what has come since it was reaped.
    async fn look_for_late(&self) -> Result<(), Trouble> {
        let now = Instant::now();
        let looked_for: Vec<_> = {
            let mut late = self.late();
            late.retain(|(since, ..)| now.saturating_duration_since(*since) < LATE);
            late.iter().map(|(_, hash, len)| (*hash, *len)).collect()
        };
        for some in looked_for.chunks(PAGE) {
            self.delete_those_here(some.to_vec()).await?;
        }
        Ok(())
    }

    /// Deletes those of these blocks, with their lengths, that are here and garbage. Returns those that are not here.
    async fn delete_those_here(
        &self,
        blocks: Vec<(BlockHash, u32)>,
    ) -> Result<Vec<(BlockHash, u32)>, Trouble> {
        let here = self.inner.store.has(blocks.iter().map(|(hash, _)| *hash).collect()).await?;
        let (mut suspects, mut absent) = (Vec::new(), Vec::new());
        for ((hash, len), here) in blocks.into_iter().zip(here) {
            if here {
                suspects.push(Suspect { hash, len, put_index: None });
            } else {
                absent.push((hash, len));
            }
        }
        self.delete(suspects).await?;
        Ok(absent)
    }

    fn late(&self) -> MutexGuard<'_, VecDeque<(Instant, BlockHash, u32)>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at every copy here, good or not.
    async fn sweep(&self) -> Result<(), Trouble> {
        self.sweep_kind(false).await?;
        self.sweep_kind(true).await
    }

    async fn sweep_kind(&self, quarantined: bool) -> Result<(), Trouble> {
        let store = &self.inner.store;
        let end = BlockHash([255; 32]);
        let mut from = BlockHash([0; 32]);
        loop {
            let began = Instant::now();
            let copies = if quarantined {
                store.list_quarantined(from, end, PAGE).await?
            } else {
                store.list(from, end, PAGE).await?
            };
            let next = copies.last().filter(|_| copies.len() == PAGE).map(|copy| copy.hash);
            let suspects = copies
                .into_iter()
                .map(|copy| Suspect {
                    hash: copy.hash,
                    len: copy.len,
                    put_index: Some(copy.put_index),
                })
                .collect();
            self.delete(suspects).await?;
            match next {
                Some(last) if last < end => from = successor(last),
                _ => return Ok(()),
            }
            // Half of the time belongs to others.
            sleep(began.elapsed()).await;
        }
    }

    /// Deletes those of the copies that are garbage by the catalog as it is now.
    async fn delete(&self, suspects: Vec<Suspect>) -> Result<(), Trouble> {
        let hashes: Vec<_> = suspects.iter().map(|suspect| suspect.hash).collect();
        let bounds = self.read(move |catalog| catalog::deletable_below(catalog, &hashes)).await?;
        for (suspect, bound) in suspects.into_iter().zip(bounds) {
            if suspect.put_index.unwrap_or(0) >= bound {
                continue;
            }
            let (catalog, hash) = (self.inner.placement.catalog(), suspect.hash);
            // Looked up once more under the store's lock: a node that has just told somebody that it has a copy of a block
            // that is needed again does not delete it by what it saw before.
            let garbage = move |copy: &StoredBlock| {
                let now = catalog::deletable_below(&*catalog, &[hash]);
                copy.put_index < bound && now.is_ok_and(|now| copy.put_index < now[0])
            };
            if self.inner.store.delete_if(suspect.hash, Box::new(garbage)).await? {
                tracing::debug!(block = %suspect.hash, bound, "a copy that nobody needs is gone");
                self.inner.collected.note_deleted(suspect.len);
                self.limiter.until_ready().await;
            }
        }
        Ok(())
    }

    async fn count(&self) -> Result<(), Trouble> {
        let waiting = self.read(|catalog| catalog::waiting_sum(catalog, COUNT_MAX)).await?;
        metrics::gauge!("reelraft_content_garbage_waiting_blocks").set(waiting.blocks as f64);
        metrics::gauge!("reelraft_content_garbage_waiting_bytes").set(waiting.bytes as f64);
        self.inner.collected.change(|observation| observation.waiting = waiting);
        Ok(())
    }

    fn note_backlog(&self, page: &[(ReapedKey, u32)]) {
        let backlog = BlockSum {
            blocks: page.len() as u64,
            bytes: page.iter().map(|(_, len)| u64::from(*len)).sum(),
        };
        metrics::gauge!("reelraft_content_collection_backlog_blocks").set(backlog.blocks as f64);
        self.inner.collected.change(|observation| observation.backlog = backlog);
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn View) -> Result<T, ViewError> + Send + 'static,
    ) -> Result<T, ViewError> {
        let catalog = self.inner.placement.catalog();
        self.reading.run(move || read(&*catalog)).await
    }
}
