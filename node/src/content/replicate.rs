//! The loop that brings copies where they belong.
//!
//! Each node sees to its own copies: it compares what the catalog and the layout say that it should hold with the names in
//! its store, and pulls what is missing from other holders. It does so at its start, every half a minute or so, when there is
//! another layout, and as soon as a read stumbles over a missing or damaged copy. So a node that was away, or got another disk, is whole again without
//! anybody having to know that it was not. Beside that it brings other nodes the copies that it owes them.
//!
//! Everything here may stop at any point and be done again. Two nodes may bring the same copy at once, which costs a transfer
//! and nothing else.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use cluster::command::BlockRef;
use cluster::duties;
use cluster::ids::{BlockHash, NodeId};
use futures::StreamExt as _;
use futures::stream;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::missing::{ComparedBy, MISSING_MAX};
use super::{Content, Inner};
use crate::rpc::blocks::HAS_MAX;
use crate::store::{BLOCK_BYTES_MAX, Pool, StoreError};

/// How long after a comparison the next one follows: finds what no hint told. Soon after a start, when the catalog is still
/// catching up, and after one that found something; each quiet one doubles the time.
const COMPARE_INTERVAL_MIN: Duration = Duration::from_secs(2);
const COMPARE_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// A comparison may take this part of the time, however many blocks there are: it reads every row of the catalog's blocks.
const COMPARE_SHARE: u32 = 20;

/// After a new layout, what was stored by the one before it has been named by the log in so much time: a put and the
/// command that follows it take a few seconds each at most. So long after, this node looks once more.
pub const LAYOUT_SETTLES: Duration = Duration::from_secs(10);

/// How often this node looks whether there is another layout.
const LAYOUT_POLL: Duration = Duration::from_millis(250);

/// Rows compared in one go, on a thread that may block. A page with its local names is some 100 KiB.
const PAGE: usize = 1000;

/// Copies made at the same time: enough to hide the way to another node, few enough to leave its disk to viewers.
const PARALLEL: usize = 4;

/// A round ends after so many copies that could not be made: their holders are away, and so will be those of the next ones.
/// The next round goes on behind them, so that what is lost does not stand in the way of what is not.
const FAILURES_PER_ROUND_MAX: usize = 64;

/// After a round in which some copies could not be made: the pause before the next one, at first and at most.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);

/// How often a node to which copies are owed is looked at while it does not answer.
const OWED_POLL: Duration = Duration::from_secs(1);

/// How long one copy may take on its way to another node, once its turn has come.
const PUSH_DEADLINE: Duration = Duration::from_secs(10);

impl Content {
    /// Runs until `stop`. Everything it does is bounded by the setting of bytes per second.
    pub async fn run(&self, stop: CancellationToken) {
        let loops = Loops {
            inner: Arc::clone(&self.inner),
            limiter: Arc::new(limiter(self.inner.settings.repair_bytes_per_second)),
            comparing: Pool::new(1),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = loops.pull_missing() => {}
            () = loops.push_owed() => {}
        }
    }
}

/// A bucket that holds one second's worth, and at least one of the longest blocks.
fn limiter(bytes_per_second: u32) -> DefaultDirectRateLimiter {
    let rate = NonZeroU32::new(bytes_per_second).unwrap_or(NonZeroU32::MIN);
    let longest = u32::try_from(BLOCK_BYTES_MAX).expect("it fits");
    let burst = NonZeroU32::new(bytes_per_second.max(longest)).unwrap_or(NonZeroU32::MIN);
    RateLimiter::direct(Quota::per_second(rate).allow_burst(burst))
}

/// The layout that this node knows, and since when.
struct Known {
    epoch: u64,
    since: Instant,
}

struct Loops {
    inner: Arc<Inner>,
    limiter: Arc<DefaultDirectRateLimiter>,
    comparing: Pool,
}

impl Loops {
    async fn pull_missing(&self) {
        let missing = &self.inner.missing;
        let mut pause = RETRY_PAUSE_MIN;
        let mut interval = COMPARE_INTERVAL_MIN;
        let mut compare_at = Instant::now();
        let mut cursor = None;
        let mut known = Known { epoch: 0, since: Instant::now() };
        loop {
            if self.epoch().is_some_and(|epoch| epoch != known.epoch) {
                interval = COMPARE_INTERVAL_MIN;
                compare_at = Instant::now();
            }
            if Instant::now() >= compare_at {
                let began = Instant::now();
                interval = match self.compare(&mut known).await {
                    Ok(()) if missing.len() > 0 => {
                        tracing::info!(blocks = missing.len(), "copies are missing here");
                        COMPARE_INTERVAL_MIN
                    }
                    Ok(()) => (interval * 2).min(COMPARE_INTERVAL_MAX),
                    Err(reason) => {
                        tracing::warn!(reason, "comparing the store with the catalog failed");
                        missing.wait_for(Some(reason));
                        COMPARE_INTERVAL_MAX
                    }
                };
                let took = began.elapsed();
                compare_at = Instant::now() + jittered(interval.max(took * COMPARE_SHARE));
                let settles_at = known.since + LAYOUT_SETTLES;
                if began < settles_at {
                    compare_at = compare_at.min(settles_at);
                }
            }
            if self.pull_round(&mut cursor, known.epoch).await {
                // Whatever asks for the next round in the meantime has to wait: it would go the same way.
                tokio::select! {
                    () = sleep(jittered(pause)) => {}
                    () = self.another_layout_than(known.epoch) => {}
                }
                pause = (pause * 2).min(RETRY_PAUSE_MAX);
                continue;
            }
            pause = RETRY_PAUSE_MIN;
            if missing.overflowed() {
                compare_at = Instant::now();
                continue;
            }
            tokio::select! {
                () = tokio::time::sleep_until(compare_at) => {}
                () = missing.hinted() => {}
                () = self.another_layout_than(known.epoch) => {}
            }
        }
    }

    /// The present layout's epoch, if the catalog can be read.
    fn epoch(&self) -> Option<u64> {
        self.inner.placement.current().ok().map(|here| here.layout.epoch())
    }

    /// Waits until there is another layout.
    async fn another_layout_than(&self, known: u64) {
        while self.epoch().is_none_or(|epoch| epoch == known) {
            sleep(LAYOUT_POLL).await;
        }
    }

    /// Finds out what is missing here.
    async fn compare(&self, known: &mut Known) -> Result<(), String> {
        let inner = &self.inner;
        let here = inner.placement.current().map_err(|error| error.to_string())?;
        if here.layout.epoch() != known.epoch {
            *known = Known { epoch: here.layout.epoch(), since: Instant::now() };
        }
        let by = ComparedBy { epoch: known.epoch, known_for: known.since.elapsed() };
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
                if found.len() < MISSING_MAX {
                    found.insert(hash, len);
                } else {
                    more += 1;
                }
            }
        }
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

    /// Tries to get each missing block once, from the one after `cursor` on, until the end or until too many could not be
    /// had, or until the layout is another one than that of `epoch`. Whether any could not.
    async fn pull_round(&self, cursor: &mut Option<BlockHash>, epoch: u64) -> bool {
        let missing = &self.inner.missing;
        let mut failures = 0;
        let mut trouble = None;
        let mut after = *cursor;
        let queue = std::iter::from_fn(|| {
            // A catalog that cannot be read is trouble for each pull, and no other layout.
            if self.epoch().is_some_and(|now| now != epoch) {
                return None;
            }
            let block = missing.next(after)?;
            after = Some(block.hash);
            Some(block)
        });
        let pulls = stream::iter(queue)
            .map(|block| async move { (block.hash, self.pull(block).await) })
            .buffered(PARALLEL);
        let mut pulls = std::pin::pin!(pulls);
        *cursor = loop {
            let Some((hash, outcome)) = pulls.next().await else {
                break None;
            };
            metrics::gauge!("reelraft_content_missing_blocks").set(missing.len() as f64);
            if let Err(reason) = outcome {
                failures += 1;
                trouble = Some(reason);
                if failures == FAILURES_PER_ROUND_MAX {
                    break Some(hash);
                }
            }
        };
        let failed = trouble.is_some();
        if failed || missing.len() == 0 {
            missing.wait_for(trouble);
        }
        failed
    }

    async fn pull(&self, block: BlockRef) -> Result<(), String> {
        let inner = &self.inner;
        if matches!(inner.store.has(vec![block.hash]).await.as_deref(), Ok([true])) {
            inner.missing.found(&block.hash);
            return Ok(());
        }
        self.wait_for_turn(block).await;
        let here = inner.placement.current().map_err(|error| error.to_string())?;
        let pulled = match inner.read_from_others(block, 1).await {
            Ok(bytes) => {
                inner.store.put(block.hash, bytes, here.applied).await.map_err(|e| e.to_string())
            }
            // Nobody has a good copy. The one in quarantine here may have been read badly only once.
            Err(error) => inner.store.verify(block.hash).await.map_err(|_| error.to_string()),
        };
        match pulled {
            Ok(()) => {
                inner.missing.found(&block.hash);
                self.made(block, "pulled");
                Ok(())
            }
            Err(reason) => {
                tracing::debug!(block = %block.hash, reason, "a missing copy could not be had");
                metrics::counter!("reelraft_content_pulls_failed_total").increment(1);
                Err(reason)
            }
        }
    }

    async fn push_owed(&self) {
        let owed = &self.inner.owed;
        loop {
            let mut trouble = false;
            for node in owed.creditors() {
                if self.holds_nothing(node) {
                    // It was removed, or is about to be: the new holders find out by themselves what they lack.
                    owed.forgive(node);
                } else if self.inner.is_up(node) {
                    trouble |= self.push_to(node).await.is_err();
                } else {
                    trouble = true;
                }
            }
            if trouble {
                sleep(jittered(OWED_POLL)).await;
            } else if owed.len() == 0 {
                owed.added().await;
            }
        }
    }

    /// Whether the layout does not name it any more.
    fn holds_nothing(&self, node: NodeId) -> bool {
        let here = self.inner.placement.current();
        here.is_ok_and(|here| here.layout.epoch() > 0 && !here.layout.nodes().contains(&node))
    }

    /// Brings `node` what it is owed, at most one page of it.
    async fn push_to(&self, node: NodeId) -> Result<(), ()> {
        let inner = &self.inner;
        let blocks = inner.owed.to(node, HAS_MAX);
        if node == inner.node {
            // Owed to this node itself: the other loop pulls it.
            for block in blocks {
                inner.owed.settle(node, block.hash);
                inner.missing.hint(block);
            }
            return Ok(());
        }
        let hashes: Vec<_> = blocks.iter().map(|block| block.hash).collect();
        let present = timeout(PUSH_DEADLINE, inner.client.has(node, &hashes)).await;
        let Ok(Ok(present)) = present else {
            return Err(());
        };
        let mut absent = Vec::new();
        for (block, present) in blocks.into_iter().zip(present) {
            if present {
                inner.owed.settle(node, block.hash);
            } else {
                absent.push(block);
            }
        }
        let mut pushes =
            stream::iter(absent).map(|block| self.push(node, block)).buffer_unordered(PARALLEL);
        let mut result = Ok(());
        while let Some(outcome) = pushes.next().await {
            result = result.and(outcome);
        }
        result
    }

    async fn push(&self, node: NodeId, block: BlockRef) -> Result<(), ()> {
        let inner = &self.inner;
        let here = inner.placement.current().map_err(drop)?;
        if !here.layout.holders(&block.hash).contains(&node) {
            inner.owed.settle(node, block.hash);
            return Ok(());
        }
        self.wait_for_turn(block).await;
        let Ok(bytes) = inner.store.get(block.hash).await else {
            // Not at hand any more. The node will miss it and ask those who have it.
            inner.owed.settle(node, block.hash);
            return Ok(());
        };
        let push = inner.client.put(node, block.hash, bytes, here.applied);
        match timeout(PUSH_DEADLINE, push).await {
            Ok(Ok(())) => {
                inner.owed.settle(node, block.hash);
                self.made(block, "pushed");
                Ok(())
            }
            Ok(Err(status)) => {
                tracing::debug!(%node, block = %block.hash, reason = status.message(), "not pushed");
                Err(())
            }
            Err(_) => Err(()),
        }
    }

    async fn wait_for_turn(&self, block: BlockRef) {
        let bytes = NonZeroU32::new(block.len).unwrap_or(NonZeroU32::MIN);
        if self.limiter.until_n_ready(bytes).await.is_err() {
            // Longer than a block can be: the store will refuse it.
            tracing::warn!(block = %block.hash, len = block.len, "a block of impossible length");
        }
    }

    fn made(&self, block: BlockRef, way: &'static str) {
        self.inner.repaired.note(u64::from(block.len));
        metrics::counter!("reelraft_content_repaired_blocks_total", "way" => way).increment(1);
        metrics::counter!("reelraft_content_repaired_bytes_total", "way" => way)
            .increment(u64::from(block.len));
    }
}

/// The next hash in order; the last one is its own.
fn successor(hash: BlockHash) -> BlockHash {
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

fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.75 + 0.5 * fastrand::f64())
}
