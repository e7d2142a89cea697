//! Finding the bytes of a block again.
//!
//! This node's own copy first, then the other holders, the nearest one first: same zone, then whoever has been answering
//! quickest; a node that is known not to answer, or that keeps failing, is asked last. A holder that takes longer than it
//! usually does is not waited for alone: the next one is asked as well, within a budget, and whoever answers first wins
//! (see [`super::neighbours`]). When no holder has it, the remaining nodes are asked: they may have held
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

use super::neighbours::Answer;
use super::placement::Whereabouts;
use super::{Content, Inner, cost};
use crate::store::StoreError;

/// How long all attempts together may take. A player has some seconds of video left when it asks for a segment.
const GET_DEADLINE: Duration = Duration::from_secs(8);

/// How much longer a holder is waited for alone when the budget for hedged reads is used up. After that it is not slow, it
/// hangs.
const HANGS_AFTER: Duration = Duration::from_millis(500);

/// How often all holders are asked for somebody who waits, when the trouble may pass by itself; and the pause in between.
const ROUNDS: u32 = 4;
const ROUND_PAUSE: Duration = Duration::from_millis(300);

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
        let inner = Arc::clone(&self.inner);
        let read = async move {
            let began = Instant::now();
            let bytes = Arc::clone(&inner).read(block).await?;
            inner.viewers.waited(began.elapsed());
            Ok(bytes)
        };
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
        let put_index = self.placement.put_index();
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
            self.heal(block, &bytes, &here_says, put_index);
            Ok(bytes)
        };
        timeout(GET_DEADLINE, reading)
            .await
            .unwrap_or_else(|_| Err(unreadable(format!("nobody answered in {GET_DEADLINE:?}"))))
    }

    /// Puts right what a read has shown to be missing or damaged here, with the bytes at hand if there is room for that.
    /// `put_index`: the log index that was applied here before the bytes were read.
    fn heal(
        self: &Arc<Self>,
        block: BlockRef,
        bytes: &Bytes,
        here_says: &StoreError,
        put_index: u64,
    ) {
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
            match content.store.put(block.hash, bytes, put_index).await {
                Ok(()) => {
                    content.missing.found(&block.hash);
                    content.made(block, "read");
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
        let elsewhere = here.elsewhere(&block.hash);
        let elsewhere = elsewhere.into_iter().flat_map(|nodes| self.by_nearness(&here, nodes));
        match self.ask_in_turn(block, elsewhere.collect()).await {
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
        self.neighbours.read_begins();
        let first = next.next();
        let mut hedge_at = first.map(|node| Instant::now() + self.neighbours.hedge_after(node));
        let mut within_budget = true;
        asking.extend(first.map(ask));
        loop {
            tokio::select! {
                answer = asking.next() => match answer {
                    Some((_, Ok(bytes))) => return Ok(bytes),
                    Some((node, Err(refusal))) => {
                        tracing::debug!(%node, block = %block.hash, reason = refusal.reason, "not read");
                        refusals.push((node, refusal));
                        let another = next.next();
                        hedge_at =
                            another.map(|node| Instant::now() + self.neighbours.hedge_after(node));
                        within_budget = true;
                        asking.extend(another.map(ask));
                    }
                    None => return Err(refusals),
                },
                () = due(hedge_at), if next.len() > 0 => {
                    if within_budget && !self.neighbours.may_hedge() {
                        metrics::counter!("reelraft_content_hedges_over_budget_total").increment(1);
                        within_budget = false;
                        hedge_at = Some(Instant::now() + HANGS_AFTER);
                    } else {
                        metrics::counter!("reelraft_content_hedged_reads_total").increment(1);
                        let another = next.next();
                        hedge_at =
                            another.map(|node| Instant::now() + self.neighbours.hedge_after(node));
                        within_budget = true;
                        asking.extend(another.map(ask));
                    }
                }
            }
        }
    }

    /// The others among `nodes`, in the order in which they should be asked.
    fn by_nearness(&self, here: &Whereabouts, nodes: Vec<NodeId>) -> Vec<NodeId> {
        let mut others = nodes;
        others.retain(|node| *node != self.node);
        others.sort_by_cached_key(|node| {
            let reluctance = self.neighbours.reluctance(*node);
            let failing = !self.is_up(*node) || reluctance.failing();
            (failing, !here.same_zone(self.node, *node), reluctance)
        });
        others
    }

    async fn ask(&self, node: NodeId, block: BlockRef) -> Result<Bytes, Refusal> {
        let mut asked =
            Asked { inner: self, node, began: Instant::now(), answer: Answer::Overtaken };
        let answer = self.client.get(node, block).await;
        asked.answer = match &answer {
            Err(status) if may_pass(status) => Answer::Failed,
            // Whoever says in time that it has no good copy is well.
            Ok(_) | Err(_) => Answer::Given,
        };
        drop(asked);
        let bytes = answer.map_err(|status| Refusal {
            passing: may_pass(&status),
            reason: status.message().to_owned(),
        })?;
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

/// Notes what became of asking a node, also when somebody else was quicker and the future is dropped.
struct Asked<'a> {
    inner: &'a Inner,
    node: NodeId,
    began: Instant,
    answer: Answer,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.inner.neighbours.note(self.node, self.answer, self.began.elapsed());
    }
}

/// Resolves at that time; never without one.
async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
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
