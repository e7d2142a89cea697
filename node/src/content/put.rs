//! Making a block durable on its holders.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster::command::BlockRef;
use cluster::duties::copies_acknowledged;
use cluster::ids::NodeId;
use cluster::view::ViewError;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Status};

use super::{Content, Inner, cost};
use crate::store::BLOCK_BYTES_MAX;

/// How long a put tries to get enough copies. Longer than a node takes to restart its process, and short enough for an
/// uploader to be told that it has to come back later.
const PUT_DEADLINE: Duration = Duration::from_secs(5);

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
    pub async fn put(&self, bytes: Bytes) -> Result<BlockRef, PutError> {
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
        self.put_to_holders(block, bytes, deadline).await?;
        Ok(block)
    }

    async fn put_to_holders(
        &self,
        block: BlockRef,
        bytes: Bytes,
        deadline: Instant,
    ) -> Result<(), PutError> {
        let inner = &self.inner;
        let here = inner.placement.current()?;
        let holders = here.layout.holders(&block.hash);
        let required = copies_acknowledged(&here.layout, &block.hash);
        if required == 0 {
            return Err(PutError::NoLayout);
        }
        // A holder that is known not to answer only costs memory while it is waited for; it is tried if it is needed.
        let (up, down): (Vec<_>, Vec<_>) =
            holders.iter().copied().partition(|node| inner.is_up(*node));
        let (tried, left_out) =
            if up.len() >= required { (up, down) } else { (holders.to_vec(), Vec::new()) };

        let troubles = Troubles::default();
        let mut sending: FuturesUnordered<_> = tried
            .iter()
            .map(|holder| {
                let send = Arc::clone(inner).send_until_durable(
                    *holder,
                    block,
                    bytes.clone(),
                    here.applied,
                    troubles.clone(),
                );
                Box::pin(send) as BoxFuture<'static, (NodeId, bool)>
            })
            .collect();
        drop(bytes);

        let mut durable = Vec::with_capacity(tried.len());
        let mut refused = left_out;
        while durable.len() < required {
            match timeout_at(deadline, sending.next()).await {
                Ok(Some((holder, true))) => durable.push(holder),
                Ok(Some((holder, false))) => refused.push(holder),
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
        for holder in refused {
            inner.owed.add(holder, block);
        }
        let pending: Vec<_> =
            tried.into_iter().filter(|holder| !durable.contains(holder)).collect();
        if !sending.is_empty() {
            Arc::clone(inner).trail(block, sending, pending);
        }
        Ok(())
    }
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
