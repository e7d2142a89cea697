//! The loop that reads all of this node's blocks again, to find copies that have gone bad before somebody needs them.
//!
//! A disk that loses bits says nothing until it is read, and the blocks of a video that nobody watches are not read for years.
//! So each node reads and hashes all that it has in a cycle of two weeks, in the order of the hashes, at the pace that takes
//! and no faster ([`record`]). The store puts a bad copy in quarantine; here repair is told of it at once.
//!
//! The place that it has come to is kept in a small file, so that a restart costs a minute of it at most. An operator may ask
//! for a cycle now; the catalog remembers that, so a node that is away begins when it is back.
//!
//! # Invariants
//!
//! - One block is read at a time, so a disk that hangs costs one waiting read.
//! - Nothing depends on the file: if it is lost or damaged, a new cycle begins.

mod record;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::command::BlockRef;
use cluster::ids::BlockHash;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::rate::RateMeter;
use super::{Content, Inner};
use crate::store::{BlockStore, StoreCondition, StoreError};
use crate::{files, now_ms};
pub use record::{Checked, Finished};
use record::{Cycle, Record};

/// How often it is looked whether a cycle is due or asked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long a disk that cannot be read is left alone.
const RETRY_PAUSE: Duration = Duration::from_secs(5);

/// A node that is killed reads so much again.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// Blocks listed at a time; their rows are some kilobytes.
const PAGE: usize = 256;

/// The last name that a block can have.
const LAST: BlockHash = BlockHash([255; 32]);

/// How a node scrubs.
#[derive(Clone, Debug)]
pub struct ScrubSettings {
    /// The length of a cycle.
    pub every: Duration,
    /// Bytes per second at most.
    pub bytes_per_second_max: u64,
    /// Where the node keeps what it remembers.
    pub record: PathBuf,
}

/// What a scrub is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ScrubState {
    /// Nothing, until the next cycle is due.
    #[default]
    Idle,
    Running,
    /// It would go on if it could.
    Waiting(String),
}

/// How the scrub of a node is getting on. Times are milliseconds since 1970 by that node's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubStats {
    pub state: ScrubState,
    /// The length of a cycle.
    pub every: Duration,
    /// The request that was followed last, by its log index.
    pub asked: u64,
    /// Since when the node knows of its scrubs.
    pub since_ms: u64,
    /// When the next cycle begins.
    pub next_ms: u64,
    /// When the present one began, if there is one.
    pub began_ms: Option<u64>,
    /// How much of it is done.
    pub progress_millionths: u32,
    pub checked: Checked,
    /// Lately.
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// The last one that came to its end.
    pub last: Option<Finished>,
}

/// How the scrub is doing, for those who ask.
#[derive(Debug, Default)]
pub(super) struct Shown {
    stats: Mutex<Option<ScrubStats>>,
    rate: RateMeter,
}

impl Content {
    /// Runs until `stop`.
    pub async fn scrub(&self, settings: ScrubSettings, stop: CancellationToken) {
        let inner = Arc::clone(&self.inner);
        let scrubber = Scrubber {
            store: Arc::clone(&inner.store),
            settings,
            asked: {
                let inner = Arc::clone(&inner);
                Box::new(move || inner.scrub_asked())
            },
            damaged: {
                let inner = Arc::clone(&inner);
                Box::new(move |block| inner.is_damaged_here(block))
            },
            shown: Arc::clone(&inner.scrub),
            save_failed: false,
        };
        let _ = stop.run_until_cancelled(scrubber.run()).await;
    }

    /// How it is getting on. `None` before it has begun.
    #[must_use]
    pub fn scrub_stats(&self) -> Option<ScrubStats> {
        self.inner.scrub.get()
    }
}

impl Inner {
    /// The last request for a scrub; 0 while nobody has asked, or that cannot be read.
    fn scrub_asked(&self) -> u64 {
        cluster::catalog::system(&*self.placement.catalog()).map_or(0, |row| row.scrub_asked)
    }

    /// This node's copy proved bad: another one is to be had at once, if there should be one.
    fn is_damaged_here(&self, block: BlockRef) {
        let here = self.placement.current();
        if here.is_ok_and(|here| here.layout.holders(&block.hash).contains(&self.node)) {
            self.missing.hint(block);
        }
    }
}

impl Shown {
    pub(super) fn get(&self) -> Option<ScrubStats> {
        let stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
        let bytes_per_second = self.rate.bytes_per_second();
        Some(ScrubStats { bytes_per_second, ..stats })
    }

    fn show(&self, stats: ScrubStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = Some(stats);
    }
}

/// How far one page came.
enum Page {
    /// There may be more.
    More,
    /// Nothing is left.
    End,
}

struct Scrubber {
    store: Arc<dyn BlockStore>,
    settings: ScrubSettings,
    /// The last request for a scrub, by its log index; 0 for none.
    asked: Box<dyn Fn() -> u64 + Send + Sync>,
    /// Told of each bad copy.
    damaged: Box<dyn Fn(BlockRef) + Send + Sync>,
    shown: Arc<Shown>,
    /// Whether the last attempt to save failed: that is told once.
    save_failed: bool,
}

impl Scrubber {
    async fn run(mut self) {
        let mut record = self.load().await;
        let mut pace = Pacer { next: Instant::now(), saved: Instant::now() };
        loop {
            if record.begin_if_due(now_ms(), self.every_ms(), (self.asked)()) {
                tracing::info!("reading all blocks again to check them");
                self.save(&record, &mut pace).await;
            }
            if record.cycle.is_none() {
                self.show(&record, ScrubState::Idle);
                sleep(LOOK_EVERY).await;
                continue;
            }
            match self.page(&mut record, &mut pace).await {
                Ok(Page::More) => {}
                Ok(Page::End) => {
                    record.finish(now_ms(), self.every_ms());
                    if let Some(last) = record.last {
                        let Checked { blocks, bytes, damaged_blocks } = last.checked;
                        tracing::info!(blocks, bytes, damaged_blocks, "all blocks were checked");
                    }
                    self.show(&record, ScrubState::Idle);
                    self.save(&record, &mut pace).await;
                }
                Err(reason) => {
                    tracing::debug!(reason, "blocks cannot be checked at present");
                    self.show(&record, ScrubState::Waiting(reason));
                    self.save(&record, &mut pace).await;
                    sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Checks the next blocks, in order, until a page is done, somebody asks for another cycle, or the disk cannot be read.
    async fn page(&mut self, record: &mut Record, pace: &mut Pacer) -> Result<Page, String> {
        if let StoreCondition::Unavailable { reason } = self.store.condition() {
            return Err(reason);
        }
        let Some(Cycle { from: Some(from), .. }) = record.cycle else { return Ok(Page::End) };
        self.show(record, ScrubState::Running);
        let page = self.store.list(from, LAST, PAGE).await.map_err(|error| error.to_string())?;
        if page.is_empty() {
            return Ok(Page::End);
        }
        let mut looked = Instant::now();
        for stored in page {
            if looked.elapsed() >= LOOK_EVERY {
                looked = Instant::now();
                if ![0, record.asked].contains(&(self.asked)()) {
                    return Ok(Page::More);
                }
            }
            let Some(cycle) = &mut record.cycle else { return Ok(Page::End) };
            let stored_bytes = self.store.stats().bytes;
            let most = self.settings.bytes_per_second_max;
            let rate = cycle.pace(now_ms(), self.every_ms(), stored_bytes, most);
            pace.wait(stored.len, rate).await;
            let found = match self.store.verify(stored.hash).await {
                Ok(()) => Some((stored.len, false)),
                Err(StoreError::Damaged(_)) => Some((stored.len, true)),
                // It was collected, or moved away, a moment ago.
                Err(StoreError::NotFound(_)) => None,
                Err(error) => return Err(error.to_string()),
            };
            cycle.checked(stored.hash, found);
            self.count(stored.len, found);
            if let Some((len, true)) = found {
                tracing::warn!(block = %stored.hash, "a copy has gone bad on this node's disk; another one replaces it");
                (self.damaged)(BlockRef { hash: stored.hash, len });
            }
            self.show(record, ScrubState::Running);
            if found.is_some_and(|(_, damaged)| damaged) || pace.saved.elapsed() >= SAVE_EVERY {
                self.save(record, pace).await;
            }
        }
        Ok(Page::More)
    }

    fn count(&self, len: u32, found: Option<(u32, bool)>) {
        let Some((_, damaged)) = found else { return };
        self.shown.rate.note(u64::from(len));
        metrics::counter!("reelraft_scrub_checked_blocks_total").increment(1);
        metrics::counter!("reelraft_scrub_checked_bytes_total").increment(u64::from(len));
        metrics::counter!("reelraft_scrub_damaged_blocks_total").increment(u64::from(damaged));
    }

    fn show(&self, record: &Record, state: ScrubState) {
        let cycle = record.cycle.as_ref();
        let stored_bytes = self.store.stats().bytes;
        let eta_seconds = cycle.map(|cycle| {
            let most = self.settings.bytes_per_second_max;
            let rate = cycle.pace(now_ms(), self.every_ms(), stored_bytes, most);
            cycle.left_bytes(stored_bytes) / rate.max(1)
        });
        self.shown.show(ScrubStats {
            state,
            every: self.settings.every,
            asked: record.asked,
            since_ms: record.since_ms,
            next_ms: cycle
                .map_or(record.next_ms, |cycle| cycle.began_ms.saturating_add(self.every_ms())),
            began_ms: cycle.map(|cycle| cycle.began_ms),
            progress_millionths: cycle.map_or(0, Cycle::millionths),
            checked: cycle.map(|cycle| cycle.checked).unwrap_or_default(),
            bytes_per_second: 0,
            eta_seconds,
            last: record.last,
        });
    }

    fn every_ms(&self) -> u64 {
        u64::try_from(self.settings.every.as_millis()).unwrap_or(u64::MAX)
    }

    /// What the last process remembered.
    async fn load(&self) -> Record {
        let path = self.settings.record.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(path)).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        match read.map(|bytes| serde_json::from_slice(&bytes)) {
            Ok(Ok(record)) => record,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Record::new(now_ms(), self.every_ms(), fastrand::f64())
            }
            Err(error) => self.forget(&error.to_string()),
            Ok(Err(error)) => self.forget(&error.to_string()),
        }
    }

    fn forget(&self, reason: &str) -> Record {
        tracing::warn!(reason, path = %self.settings.record.display(), "what this node knew of its scrubs cannot be read: it begins a new one");
        Record::new(now_ms(), self.every_ms(), 0.0)
    }

    async fn save(&mut self, record: &Record, pace: &mut Pacer) {
        pace.saved = Instant::now();
        let (path, record) = (self.settings.record.clone(), record.clone());
        let saved = tokio::task::spawn_blocking(move || {
            let bytes = serde_json::to_vec(&record).map_err(io::Error::other)?;
            files::write_durably(&path, &bytes)
        });
        let saved = saved.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        match saved {
            Ok(()) => self.save_failed = false,
            Err(error) if self.save_failed => {
                tracing::debug!(%error, "write down how far the scrub is");
            }
            Err(error) => {
                self.save_failed = true;
                tracing::warn!(%error, "write down how far the scrub is: a restart would begin it anew");
            }
        }
    }
}

/// Spreads reads over time.
struct Pacer {
    /// When the next block may be read.
    next: Instant,
    /// When the record was saved last.
    saved: Instant,
}

impl Pacer {
    /// Waits for the turn of a block. What was not used up while the scrub had to wait is lost: it does not catch up in a burst.
    async fn wait(&mut self, len: u32, bytes_per_second: u64) {
        let now = Instant::now();
        if self.next > now {
            sleep_until(self.next).await;
        } else {
            self.next = now;
        }
        #[expect(clippy::cast_precision_loss, reason = "a pause need not be exact")]
        let takes = f64::from(len) / bytes_per_second.max(1) as f64;
        self.next += Duration::from_secs_f64(takes);
    }
}
