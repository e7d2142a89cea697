//! Making a block durable on its holders.
//!
//! It is sent to all of them at the same time. In place of one that does not answer, or whose disk is full, another node gets
//! a copy at once, and one more for each that refuses or hangs after all. Such a copy counts like any other: whoever looks
//! for the block asks the holders first and then everybody. It stays where it is until the holders have theirs, and is then
//! given up like any copy that the layout does not ask for.
//!
//! Two durable copies are enough to go on, in two zones if that can be had without waiting long; the third goes on in the
//! background.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster::command::{BlockRef, PutBlock};
use cluster::duties::copies_acknowledged;
use cluster::ids::NodeId;
use cluster::view::ViewError;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use super::placement::Whereabouts;
use super::{Content, Inner, cost};
use crate::store::BLOCK_BYTES_MAX;

/// How long a put tries to get enough copies. Longer than a node takes to restart its process, and short enough for an
/// uploader to be told that it has to come back later.
const PUT_DEADLINE: Duration = Duration::from_secs(5);

/// How long those to whom a block is sent have to themselves before one more is asked to take a copy. Longer than an fsync on
/// a busy disk, short enough to try all there are before the uploader is sent away.
const SPARE_AFTER: Duration = Duration::from_millis(750);

/// In how many zones there should be durable copies before a put is over, and how much longer that may take when there are
/// enough copies otherwise.
const ZONES: usize = 2;
const SPREAD_PATIENCE: Duration = Duration::from_secs(1);

/// How long the copies beyond those that count may take. Whoever needs longer gets its copy from the loop.
const TRAILING_DEADLINE: Duration = Duration::from_secs(10);

/// Between two attempts at the same holder: at first, and at most.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a block could not be stored. What of it has been stored is garbage, unless it is put again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PutError {
    #[error("a block has 1 to {BLOCK_BYTES_MAX} bytes, not {0}")]
    BadLength(usize),
    #[error("the cluster has no layout yet that says who holds blocks")]
    NoLayout,
    #[error("only {durable} of {required} durable copies could be made: {reason}")]
    TooFewCopies { durable: usize, required: usize, reason: String },
    #[error(transparent)]
    Catalog(#[from] ViewError),
}

/// What the holders that have not stored it answered last, in the order of the first trouble.
#[derive(Clone, Debug, Default)]
struct Troubles(Arc<Mutex<Vec<(NodeId, String)>>>);

impl Troubles {
    fn note(&self, node: NodeId, reason: String) {
        let mut troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match troubles.iter_mut().find(|(of, _)| *of == node) {
            Some((_, latest)) => *latest = reason,
            None => troubles.push((node, reason)),
        }
    }

    fn describe(&self, otherwise: &str) -> String {
        let troubles = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.is_empty() {
            return otherwise.to_owned();
        }
        let described: Vec<_> =
            troubles.iter().map(|(node, reason)| format!("node {node}: {reason}")).collect();
        described.join("; ")
    }
}

impl Content {
    /// Makes a block durable on enough of its holders; the others get it a moment later.
    ///
    /// # Errors
    /// [`PutError::TooFewCopies`] when that has not succeeded within five seconds.
    #[tracing::instrument(level = "debug", skip_all, fields(bytes = bytes.len()))]
    pub async fn put(&self, bytes: Bytes) -> Result<PutBlock, PutError> {
        let inner = &self.inner;
        let bad_length = PutError::BadLength(bytes.len());
        let len = match u32::try_from(bytes.len()) {
            Ok(len) if (1..=BLOCK_BYTES_MAX).contains(&bytes.len()) => len,
            _ => return Err(bad_length),
        };
        let deadline = Instant::now() + PUT_DEADLINE;
        let budget = inner.put_budget.acquire_many(cost(bytes.len()));
        let Ok(budget) = timeout_at(deadline, budget).await else {
            return Err(PutError::TooFewCopies {
                durable: 0,
                required: cluster::duties::COPIES_ACKNOWLEDGED,
                reason: "too many blocks are being stored at the same time".into(),
            });
        };
        let _budget = budget.expect("it is never closed");
        let block = BlockRef { hash: inner.hash(&bytes).await, len };
        let put_index = self.put_to_holders(block, bytes, deadline).await?;
        Ok(PutBlock { block, put_index })
    }

    /// Returns the put index that the holders were told.
    async fn put_to_holders(
        &self,
        block: BlockRef,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<u64, PutError> {
        let inner = &self.inner;
        // Before anything is sent: what is collected by later entries may have been there before this put, and counts for it.
        let put_index = inner.placement.put_index();
        let here = inner.placement.current()?;
        let required = copies_acknowledged(&here.layout, &block.hash);
        if required == 0 {
            return Err(PutError::NoLayout);
        }
        let mut targets = Targets::choose(inner, &here, block);
        let troubles = Troubles::default();
        let send = |node| {
            let sending = Arc::clone(inner).send_until_durable(
                node,
                block,
                bytes.clone(),
                put_index,
                troubles.clone(),
            );
            Box::pin(sending) as BoxFuture<'static, (NodeId, bool)>
        };
        let mut sending: FuturesUnordered<_> = targets.first.iter().copied().map(send).collect();
        let mut pending = targets.first.clone();
        let mut durable = Vec::with_capacity(pending.len());
        let mut spread_by = None;
        let mut next_spare_at = Instant::now() + SPARE_AFTER;
        loop {
            if durable.len() >= required {
                // One zone is as good as another for a moment, but not for ever: then what there is has to do.
                let by = *spread_by.get_or_insert_with(|| Instant::now() + SPREAD_PATIENCE);
                let hopeful = pending.iter().any(|node| !shares_zone(&here, &durable, *node));
                if zones(&here, &durable) >= required.min(ZONES) || !hopeful || Instant::now() >= by
                {
                    break;
                }
            }
            let wake_at = spread_by.unwrap_or(deadline).min(next_spare_at).min(deadline);
            match timeout_at(wake_at, sending.next()).await {
                Ok(Some((node, stored))) => {
                    pending.retain(|waiting| *waiting != node);
                    if stored {
                        durable.push(node);
                    } else if let Some(spare) = targets.spares.pop_front() {
                        pending.push(spare);
                        sending.push(send(spare));
                    }
                }
                // Somebody hangs, and is not known to yet.
                Err(_) if Instant::now() >= next_spare_at && durable.len() < required => {
                    next_spare_at = Instant::now() + SPARE_AFTER;
                    if let Some(spare) = targets.spares.pop_front() {
                        pending.push(spare);
                        sending.push(send(spare));
                    }
                }
                Err(_) if Instant::now() < deadline => next_spare_at = deadline,
                Ok(None) | Err(_) if durable.len() >= required => break,
                Ok(None) | Err(_) => {
                    metrics::counter!("reelraft_content_puts_failed_total").increment(1);
                    return Err(PutError::TooFewCopies {
                        durable: durable.len(),
                        required,
                        reason: troubles.describe("no holder answered in time"),
                    });
                }
            }
        }
        let holders = here.layout.holders(&block.hash);
        for holder in holders {
            if !durable.contains(holder) && !pending.contains(holder) {
                inner.owed.add(*holder, block);
            }
        }
        if durable.iter().any(|node| !holders.contains(node)) {
            metrics::counter!("reelraft_content_puts_elsewhere_total").increment(1);
        }
        // One more for a holder that only hangs is not needed any more.
        pending.retain(|node| targets.first.contains(node));
        if !pending.is_empty() {
            // Nobody is owed a copy but holders.
            pending.retain(|node| holders.contains(node));
            Arc::clone(inner).trail(block, sending, pending);
        }
        Ok(put_index)
    }
}

/// Whom a block is sent to.
struct Targets {
    /// At once: the holders, and others in place of those that are away or full.
    first: Vec<NodeId>,
    /// One after the other, when one of the first refuses or hangs.
    spares: VecDeque<NodeId>,
}

impl Targets {
    fn choose(inner: &Inner, here: &Whereabouts, block: BlockRef) -> Self {
        let holders = here.layout.holders(&block.hash);
        let required = copies_acknowledged(&here.layout, &block.hash);
        let (mut first, failed): (Vec<_>, Vec<_>) =
            holders.iter().copied().partition(|node| inner.takes_blocks(*node));
        let mut spares: VecDeque<_> = here
            .fallbacks(&block.hash, &failed)
            .into_iter()
            .filter(|node| inner.takes_blocks(*node))
            .collect();
        first.extend(spares.drain(..failed.len().min(spares.len())));
        if first.len() < required {
            // Who is known not to answer only costs memory while it is waited for; it is tried if it is needed.
            first.extend(failed);
        }
        Self { first, spares }
    }
}

/// In how many zones these nodes are.
fn zones(here: &Whereabouts, nodes: &[NodeId]) -> usize {
    nodes.iter().map(|node| here.zone(*node)).collect::<BTreeSet<_>>().len()
}

/// Whether one of `nodes` is in the zone of `node`.
fn shares_zone(here: &Whereabouts, nodes: &[NodeId], node: NodeId) -> bool {
    nodes.iter().any(|other| here.same_zone(*other, node))
}

impl Inner {
    /// Lets the copies that are still under way go on in the background, as far as there is room for that.
    fn trail(
        self: Arc<Self>,
        block: BlockRef,
        mut sending: FuturesUnordered<BoxFuture<'static, (NodeId, bool)>>,
        mut pending: Vec<NodeId>,
    ) {
        let room =
            Arc::clone(&self.trailing_budget).try_acquire_many_owned(cost(block.len as usize));
        let Ok(room) = room else {
            for holder in pending {
                self.owed.add(holder, block);
            }
            return;
        };
        tokio::spawn(async move {
            let rest = async {
                while let Some((holder, stored)) = sending.next().await {
                    if stored {
                        pending.retain(|waiting| *waiting != holder);
                    }
                }
            };
            // Who has not stored it by then is still in `pending`.
            let _ = timeout(TRAILING_DEADLINE, rest).await;
            for holder in pending {
                self.owed.add(holder, block);
            }
            drop(room);
        });
    }

    /// Tries until the holder has it, or refuses it for good: then `false`.
    async fn send_until_durable(
        self: Arc<Self>,
        holder: NodeId,
        block: BlockRef,
        bytes: Bytes,
        put_index: u64,
        troubles: Troubles,
    ) -> (NodeId, bool) {
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let (reason, again) = if holder == self.node {
                match self.store.put(block.hash, bytes.clone(), put_index).await {
                    Ok(()) => return (holder, true),
                    // A disk that refuses now will do so in a second too.
                    Err(error) => (error.to_string(), false),
                }
            } else {
                match self.client.put(holder, block.hash, bytes.clone(), put_index).await {
                    Ok(()) => return (holder, true),
                    Err(status) => (status.message().to_owned(), may_be_tried_again(&status)),
                }
            };
            tracing::debug!(%holder, block = %block.hash, reason, "a copy was not stored");
            troubles.note(holder, reason);
            if !again {
                return (holder, false);
            }
            sleep(pause.mul_f64(0.5 + 0.5 * fastrand::f64())).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }
}

/// Whether a holder may take it a moment later: it could not be reached, or the bytes arrived changed. A holder that
/// refuses for a reason of its own will go on doing so.
fn may_be_tried_again(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable
            | Code::DataLoss
            | Code::Cancelled
            | Code::Unknown
            | Code::Internal
            | Code::DeadlineExceeded
            | Code::Aborted
    )
}
