//! Finding the bytes of a block again.
//!
//! This node's own copy first, then the other holders, the nearest one first: same zone, then whoever has been answering
//! quickest; a node that is known not to answer is asked last. A holder that takes long is not waited for alone: the next one
//! is asked as well, and whoever answers first wins. When no holder has it, the remaining nodes are asked: they may have held
//! it by an earlier layout. Whatever comes back is hashed before anybody sees it.

use std::mem::Discriminant;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cluster::command::BlockRef;
use cluster::ids::{BlockHash, NodeId};
use cluster::view::ViewError;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::placement::Whereabouts;
use super::{Content, Inner, cost};
use crate::store::StoreError;

/// How long a holder may take before the next one is asked as well. Well above what a block of some megabytes takes on a
/// busy network, well below what a viewer notices.
const HEDGE_AFTER: Duration = Duration::from_millis(150);

/// How long all attempts together may take. A player has some seconds of video left when it asks for a segment.
const GET_DEADLINE: Duration = Duration::from_secs(8);

/// How often all holders are asked for somebody who waits, when the trouble may pass by itself; and the pause in between.
const ROUNDS: u32 = 4;
const ROUND_PAUSE: Duration = Duration::from_millis(300);

/// What an answer without the block counts as in the order of holders. A connection that is refused is quick, but no reason
/// to ask there first.
const FAILURE_COUNTS_AS: Duration = Duration::from_secs(1);

/// Why a block could not be read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GetError {
    /// May be tried again.
    #[error("block {hash} cannot be read at present: {reason}")]
    Unreadable { hash: BlockHash, reason: String },
    #[error(transparent)]
    Catalog(#[from] ViewError),
}

/// What last kept copies from being restored: a full disk would be worth a line for each block that is read.
#[derive(Debug, Default)]
pub(super) struct HealTrouble(Mutex<Option<Discriminant<StoreError>>>);

impl HealTrouble {
    /// Whether it is of another kind than the last one.
    fn is_new(&self, error: &StoreError) -> bool {
        let kind = std::mem::discriminant(error);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).replace(kind) != Some(kind)
    }

    fn over(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What became of asking one holder.
struct Refusal {
    reason: String,
    /// Whether asking again makes sense.
    passing: bool,
}

impl Content {
    /// The bytes of a block, verified. They stay in memory for the next one who asks, and several who ask at the same time
    /// wait for one read.
    ///
    /// # Errors
    /// When no copy that can be reached is good.
    pub async fn get(&self, block: BlockRef) -> Result<Bytes, GetError> {
        let read = Arc::clone(&self.inner).read(block);
        let read = self.inner.cache.try_get_with(block.hash, read);
        read.await.map_err(|error: Arc<GetError>| (*error).clone())
    }

    /// As [`Content::get`], for bytes that are hardly wanted again soon, such as a source's: they are not kept.
    ///
    /// # Errors
    /// When no copy that can be reached is good.
    pub async fn get_once(&self, block: BlockRef) -> Result<Bytes, GetError> {
        match self.inner.cache.get(&block.hash).await {
            Some(bytes) => Ok(bytes),
            None => Arc::clone(&self.inner).read(block).await,
        }
    }
}

impl Inner {
    async fn read(self: Arc<Self>, block: BlockRef) -> Result<Bytes, GetError> {
        let unreadable = |reason: String| GetError::Unreadable { hash: block.hash, reason };
        let reading = async {
            let budget = self.get_budget.acquire_many(cost(block.len as usize)).await;
            let _budget = budget.expect("it is never closed");
            let here_says = match self.store.get(block.hash).await {
                Ok(bytes) => {
                    metrics::counter!("reelraft_content_reads_total", "from" => "here")
                        .increment(1);
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            let bytes =
                self.read_from_others(block, ROUNDS).await.map_err(|error| match error {
                    GetError::Unreadable { reason, .. } => {
                        unreadable(format!("here: {here_says}; {reason}"))
                    }
                    GetError::Catalog(_) => error,
                })?;
            metrics::counter!("reelraft_content_reads_total", "from" => "others").increment(1);
            self.heal(block, &bytes, &here_says);
            Ok(bytes)
        };
        timeout(GET_DEADLINE, reading)
            .await
            .unwrap_or_else(|_| Err(unreadable(format!("nobody answered in {GET_DEADLINE:?}"))))
    }

    /// Puts right what a read has shown to be missing or damaged here, with the bytes at hand if there is room for that.
    fn heal(self: &Arc<Self>, block: BlockRef, bytes: &Bytes, here_says: &StoreError) {
        let absent = matches!(here_says, StoreError::NotFound(_) | StoreError::Damaged(_));
        let Ok(here) = self.placement.current() else {
            return;
        };
        if !absent || !here.layout.holders(&block.hash).contains(&self.node) {
            return;
        }
        let room = Arc::clone(&self.trailing_budget).try_acquire_many_owned(cost(bytes.len()));
        let Ok(room) = room else {
            self.missing.hint(block);
            return;
        };
        let (content, bytes) = (Arc::clone(self), bytes.clone());
        tokio::spawn(async move {
            match content.store.put(block.hash, bytes, here.applied).await {
                Ok(()) => {
                    content.missing.found(&block.hash);
                    content.heal_trouble.over();
                }
                Err(error) => {
                    if content.heal_trouble.is_new(&error) {
                        tracing::warn!(block = %block.hash, %error, "copies cannot be restored");
                    } else {
                        tracing::debug!(block = %block.hash, %error, "a copy could not be restored");
                    }
                    content.missing.hint(block);
                }
            }
            drop(room);
        });
    }

    /// Asks the other holders; up to `rounds` times, with pauses, while the trouble may pass.
    pub(super) async fn read_from_others(
        &self,
        block: BlockRef,
        rounds: u32,
    ) -> Result<Bytes, GetError> {
        let mut round = 1;
        loop {
            let refusals = match self.ask_others(block).await? {
                Ok(bytes) => return Ok(bytes),
                Err(refusals) => refusals,
            };
            let passing = refusals.iter().any(|(_, refusal)| refusal.passing);
            if round == rounds || !passing {
                let reasons: Vec<_> = refusals
                    .iter()
                    .map(|(node, refusal)| format!("node {node}: {}", refusal.reason))
                    .collect();
                let reason = if reasons.is_empty() {
                    "no other node holds it".to_owned()
                } else {
                    reasons.join("; ")
                };
                return Err(GetError::Unreadable { hash: block.hash, reason });
            }
            round += 1;
            sleep(ROUND_PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    /// Asks the holders, and then those that may have been holders before.
    async fn ask_others(
        &self,
        block: BlockRef,
    ) -> Result<Result<Bytes, Vec<(NodeId, Refusal)>>, ViewError> {
        let here = self.placement.current()?;
        let holders = self.by_nearness(&here, here.layout.holders(&block.hash).to_vec());
        let mut refusals = match self.ask_in_turn(block, holders).await {
            Ok(bytes) => return Ok(Ok(bytes)),
            Err(refusals) => refusals,
        };
        let elsewhere = self.by_nearness(&here, here.elsewhere(&block.hash));
        match self.ask_in_turn(block, elsewhere).await {
            Ok(bytes) => {
                metrics::counter!("reelraft_content_reads_elsewhere_total").increment(1);
                Ok(Ok(bytes))
            }
            Err(more) => {
                refusals.extend(more);
                Ok(Err(refusals))
            }
        }
    }

    async fn ask_in_turn(
        &self,
        block: BlockRef,
        nodes: Vec<NodeId>,
    ) -> Result<Bytes, Vec<(NodeId, Refusal)>> {
        let mut next = nodes.into_iter();
        let mut refusals = Vec::new();
        let mut asking = FuturesUnordered::new();
        let ask = |node| async move { (node, self.ask(node, block).await) };
        asking.extend(next.next().map(ask));
        let mut asked_at = Instant::now();
        loop {
            tokio::select! {
                answer = asking.next() => match answer {
                    Some((_, Ok(bytes))) => return Ok(bytes),
                    Some((node, Err(refusal))) => {
                        tracing::debug!(%node, block = %block.hash, reason = refusal.reason, "not read");
                        refusals.push((node, refusal));
                        asking.extend(next.next().map(ask));
                        asked_at = Instant::now();
                    }
                    None => return Err(refusals),
                },
                () = tokio::time::sleep_until(asked_at + HEDGE_AFTER), if next.len() > 0 => {
                    metrics::counter!("reelraft_content_hedged_reads_total").increment(1);
                    asking.extend(next.next().map(ask));
                    asked_at = Instant::now();
                }
            }
        }
    }

    /// The others among `nodes`, in the order in which they should be asked.
    fn by_nearness(&self, here: &Whereabouts, nodes: Vec<NodeId>) -> Vec<NodeId> {
        let mut others = nodes;
        others.retain(|node| *node != self.node);
        others.sort_by_cached_key(|node| {
            (!self.is_up(*node), !here.same_zone(self.node, *node), self.latencies.of(*node))
        });
        others
    }

    async fn ask(&self, node: NodeId, block: BlockRef) -> Result<Bytes, Refusal> {
        let mut watch = Watch { inner: self, node, began: Instant::now(), penalty: Duration::ZERO };
        let bytes = self.client.get(node, block).await.map_err(|status| {
            watch.penalty = FAILURE_COUNTS_AS;
            Refusal { passing: may_pass(&status), reason: status.message().to_owned() }
        })?;
        drop(watch);
        let actual = self.hash(&bytes).await;
        if actual != block.hash {
            metrics::counter!("reelraft_content_wrong_answers_total").increment(1);
            tracing::error!(%node, block = %block.hash, %actual, "a node answered with other bytes");
            // Its store has checked them before: they were changed on the way.
            return Err(Refusal { reason: "answered with other bytes".into(), passing: true });
        }
        Ok(bytes)
    }
}

/// Notes how long a node took, or had been taking when somebody else was quicker.
struct Watch<'a> {
    inner: &'a Inner,
    node: NodeId,
    began: Instant,
    penalty: Duration,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.inner.latencies.note(self.node, self.began.elapsed() + self.penalty);
    }
}

/// Whether a holder may have it a moment later: it is just being restarted, or the connection broke.
fn may_pass(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::NotFound | Code::DataLoss | Code::FailedPrecondition | Code::InvalidArgument
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_kind_of_trouble_is_new_once() {
        let trouble = HealTrouble::default();
        let full = |free_bytes| StoreError::Full { free_bytes };
        assert!(trouble.is_new(&full(7)));
        assert!(!trouble.is_new(&full(3)));
        assert!(trouble.is_new(&StoreError::ReadOnly { reason: "broken".to_owned() }));
        assert!(trouble.is_new(&full(3)));
        trouble.over();
        assert!(trouble.is_new(&full(3)));
    }
}
