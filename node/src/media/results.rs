//! What a worker yields, on its way into the catalog: made durable first, then named in the log.
//!
//! Blocks are put side by side, a bounded number at a time. What has become durable is committed in runs: while one commit is
//! on its way, further segments gather for the next one. So a slow log costs waiting, not entries, and the first segment of
//! a video goes out alone and at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use cluster::command::{Action, BlockRef, LeaseToken, NewSegment, PutBlock, Reply};
use cluster::jobs::JobId;
use cluster::plan::RenditionIndex;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use gateway::backend::{Applied, Backend, NAMING_TRIES_MAX, Unavailable, needs_blocks, put_again};
use tracing::{info, trace};
use transcoder::Output;

use super::job::Ended;
use super::{convert, lease_lost, patiently};

/// Blocks being made durable at a time, for one job.
const PUTS_MAX: usize = 8;

/// Bytes of such blocks, for one job. A single segment may have as many; eight segments of 1080p have 12 MiB.
const PUT_BYTES_MAX: usize = 32 << 20;

/// Segments in one log entry at most.
const RUN_SEGMENTS_MAX: usize = 64;

/// How long to try to store a block, or to have a command applied, before the try is given up.
const STORE_WITHIN: Duration = Duration::from_secs(30);

/// Something durable that the log does not know yet.
enum Stored {
    Init { rendition: RenditionIndex, block: BlockRef, codecs: String },
    Segment { rendition: RenditionIndex, segment: NewSegment },
    Thumbnail { block: BlockRef },
}

/// A put that has succeeded.
struct Put {
    stored: Stored,
    put_index: u64,
    /// Length of the block.
    bytes: usize,
}

/// What waits to be committed for one rendition.
struct Pending {
    init: Option<(BlockRef, String)>,
    segments: Vec<NewSegment>,
    /// The lowest of these blocks.
    put_index: u64,
}

impl Default for Pending {
    fn default() -> Self {
        Self { init: None, segments: Vec::new(), put_index: u64::MAX }
    }
}

/// The results of one try of one job.
pub(super) struct Results {
    backend: Arc<dyn Backend>,
    job: JobId,
    token: LeaseToken,
    /// Whether the video had another plan before.
    prepared_before: bool,
    /// In the order in which the worker yielded them, so that runs have no gaps.
    puts: FuturesOrdered<BoxFuture<'static, Result<Put, Unavailable>>>,
    pending: BTreeMap<RenditionIndex, Pending>,
    actions: Vec<Action>,
    commits: FuturesUnordered<BoxFuture<'static, Result<Applied, Unavailable>>>,
    /// Bytes of the blocks in `puts`.
    bytes: usize,
    has_plan: bool,
    cuts: Option<Vec<u64>>,
    source_end: Option<u64>,
}

impl Results {
    pub(super) fn new(
        backend: Arc<dyn Backend>,
        job: JobId,
        token: LeaseToken,
        prepared_before: bool,
    ) -> Self {
        Self {
            backend,
            job,
            token,
            prepared_before,
            puts: FuturesOrdered::new(),
            pending: BTreeMap::new(),
            actions: Vec::new(),
            commits: FuturesUnordered::new(),
            bytes: 0,
            has_plan: false,
            cuts: None,
            source_end: None,
        }
    }

    /// The cuts that a copy job found.
    pub(super) fn take_cuts(&mut self) -> Option<Vec<u64>> {
        self.cuts.take()
    }

    /// The tick at which the worker met the end of the pictures, if it did.
    pub(super) fn source_end(&self) -> Option<u64> {
        self.source_end
    }

    /// Whether the worker has made a plan.
    pub(super) fn has_plan(&self) -> bool {
        self.has_plan
    }

    /// Takes one output over. Waits while too many are on their way.
    pub(super) async fn take(&mut self, output: Output) -> Result<Ended> {
        match output {
            Output::Plan(plan) => {
                self.has_plan = true;
                let plan = convert::plan(plan, self.prepared_before);
                self.actions.push(Action::SetPlan { job: self.job, token: self.token, plan });
            }
            Output::Init { rendition, bytes, codecs } => {
                self.put(bytes, move |block| Stored::Init { rendition, block, codecs });
            }
            Output::Segment { rendition, number, start, duration, bytes } => {
                self.put(bytes, move |block| Stored::Segment {
                    rendition,
                    segment: NewSegment { number, start, duration, block },
                });
            }
            Output::Thumbnail { jpeg, .. } => self.put(jpeg, |block| Stored::Thumbnail { block }),
            Output::Cuts(cuts) => self.cuts = Some(cuts),
            Output::Progress { media_ms } => trace!(media_ms, "progress"),
            Output::SourceEnd { ticks } => self.source_end = Some(ticks),
        }
        self.commit();
        while self.puts.len() >= PUTS_MAX || self.bytes >= PUT_BYTES_MAX {
            if self.advance().await? == Ended::LeaseLost {
                return Ok(Ended::LeaseLost);
            }
        }
        Ok(Ended::Done)
    }

    /// Waits until something that is on its way has arrived, for ever when nothing is. Can be cancelled without losing
    /// anything.
    pub(super) async fn advance(&mut self) -> Result<Ended> {
        tokio::select! {
            Some(stored) = self.puts.next() => {
                let put = stored.context("store a result")?;
                self.bytes -= put.bytes;
                self.gather(put);
            }
            Some(applied) = self.commits.next() => {
                let reply = applied.context("commit results")?.reply;
                if lease_lost(&reply) {
                    return Ok(Ended::LeaseLost);
                }
                if let Reply::Refused(refusal) = reply {
                    bail!("the catalog refused results: {refusal}");
                }
            }
            else => std::future::pending().await,
        }
        self.commit();
        Ok(Ended::Done)
    }

    /// Waits until everything is durable and committed.
    pub(super) async fn flush(&mut self) -> Result<Ended> {
        while !(self.puts.is_empty() && self.commits.is_empty()) {
            if self.advance().await? == Ended::LeaseLost {
                return Ok(Ended::LeaseLost);
            }
        }
        Ok(Ended::Done)
    }

    fn put(&mut self, bytes: Vec<u8>, stored: impl FnOnce(BlockRef) -> Stored + Send + 'static) {
        let backend = Arc::clone(&self.backend);
        let bytes = Bytes::from(bytes);
        self.bytes += bytes.len();
        let put = async move {
            let put = patiently(STORE_WITHIN, || backend.put_block(bytes.clone())).await?;
            let PutBlock { block, put_index } = put;
            Ok(Put { stored: stored(block), put_index, bytes: bytes.len() })
        };
        self.puts.push_back(Box::pin(put));
    }

    fn gather(&mut self, put: Put) {
        let put_index = put.put_index;
        match put.stored {
            Stored::Init { rendition, block, codecs } => {
                let pending = self.pending.entry(rendition).or_default();
                pending.init = Some((block, codecs));
                pending.put_index = pending.put_index.min(put_index);
            }
            Stored::Segment { rendition, segment } => {
                let pending = self.pending.entry(rendition).or_default();
                pending.segments.push(segment);
                pending.put_index = pending.put_index.min(put_index);
            }
            Stored::Thumbnail { block } => {
                self.actions.push(Action::CommitThumbnail {
                    job: self.job,
                    token: self.token,
                    block,
                    put_index,
                });
            }
        }
    }

    /// Sends what waits, unless commits are on their way already.
    fn commit(&mut self) {
        if !self.commits.is_empty() {
            return;
        }
        for (&rendition, pending) in &mut self.pending {
            // An initialization segment alone makes nothing playable; it travels with the first segments.
            if pending.segments.is_empty() {
                continue;
            }
            let count = pending.segments.len().min(RUN_SEGMENTS_MAX);
            self.actions.push(Action::CommitSegments {
                job: self.job,
                token: self.token,
                rendition,
                init: pending.init.take(),
                segments: pending.segments.drain(..count).collect(),
                put_index: pending.put_index,
            });
            if pending.segments.is_empty() {
                pending.put_index = u64::MAX;
            }
        }
        for action in self.actions.drain(..) {
            let backend = Arc::clone(&self.backend);
            self.commits.push(Box::pin(commit_one(backend, action)));
        }
    }
}

/// Has the command applied, and puts its blocks again before if it has to be.
async fn commit_one(backend: Arc<dyn Backend>, mut action: Action) -> Result<Applied, Unavailable> {
    let mut tries = 1;
    loop {
        let applied = patiently(STORE_WITHIN, || backend.propose(action.clone())).await?;
        if !needs_blocks(&applied.reply) || tries == NAMING_TRIES_MAX {
            return Ok(applied);
        }
        info!(action = action.name(), "blocks were put too long ago, and are put again");
        action = patiently(STORE_WITHIN, || put_again(&*backend, action.clone())).await?;
        tries += 1;
    }
}
