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
use cluster::command::{Action, BlockRef, LeaseToken, NewSegment, Reply};
use cluster::jobs::JobId;
use cluster::plan::RenditionIndex;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesOrdered, FuturesUnordered};
use gateway::backend::{Applied, Backend, Unavailable};
use tracing::trace;
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

/// What waits to be committed for one rendition.
#[derive(Default)]
struct Pending {
    init: Option<(BlockRef, String)>,
    segments: Vec<NewSegment>,
}

/// The results of one try of one job.
pub(super) struct Results {
    backend: Arc<dyn Backend>,
    job: JobId,
    token: LeaseToken,
    /// Whether the video had another plan before.
    prepared_before: bool,
    /// In the order in which the worker yielded them, so that runs have no gaps. Each with its length in bytes.
    puts: FuturesOrdered<BoxFuture<'static, Result<(Stored, usize), Unavailable>>>,
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
                let (stored, bytes) = stored.context("store a result")?;
                self.bytes -= bytes;
                self.gather(stored);
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
            let block = patiently(STORE_WITHIN, || backend.put_block(bytes.clone())).await?;
            Ok((stored(block), bytes.len()))
        };
        self.puts.push_back(Box::pin(put));
    }

    fn gather(&mut self, stored: Stored) {
        match stored {
            Stored::Init { rendition, block, codecs } => {
                self.pending.entry(rendition).or_default().init = Some((block, codecs));
            }
            Stored::Segment { rendition, segment } => {
                self.pending.entry(rendition).or_default().segments.push(segment);
            }
            Stored::Thumbnail { block } => {
                self.actions.push(Action::CommitThumbnail {
                    job: self.job,
                    token: self.token,
                    block,
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
            });
        }
        for action in self.actions.drain(..) {
            let backend = Arc::clone(&self.backend);
            self.commits.push(Box::pin(async move {
                patiently(STORE_WITHIN, || backend.propose(action.clone())).await
            }));
        }
    }
}
