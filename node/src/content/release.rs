//! The loop that gives up copies which belong on other nodes by now.
//!
//! After a layout has moved a group away from this node, and after this node has taken a copy for a holder that was down or
//! full, it has copies that it should not keep. It asks the present holders, block by block, and deletes what all of them
//! have: when that is safe, and why, stands in [`cluster::placement::release`]. The other side of it is [`Confirming`].
//!
//! What this node is about to get again, it keeps. A node that was dead for a while comes back to a layout that does not name it,
//! with all its copies, and is named again within seconds, group by group; where a drain was called off it is the same. So the
//! loop computes where the layout is going, as the leader does, and leaves alone what will be this node's.
//!
//! Nobody has to tell this loop anything, it remembers nothing, and may stop anywhere. Blocks that nothing refers to are left
//! to the collector; a block that some holder lacks stays until that holder has it, and serves as its source meanwhile.

mod confirm;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::catalog;
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::release::{self, Moment};
use cluster::placement::{self, Candidate, GroupSet, Layout, group_of};
use cluster::view::{View, ViewError};
use futures::StreamExt as _;
use futures::stream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Outlook, Standing};
use crate::rpc::blocks::{BlocksClient, CONFIRM_WAIT_MAX};
use crate::store::{BlockStore, Pool, StoreError};
pub use confirm::Confirming;

/// Copies asked for in one go: one list, one look at the catalog, one question to each holder, of 8 KiB.
const PAGE: usize = 256;

/// After a page in which something was asked. With it no more than some thousand copies per second are released, which
/// leaves the holders' threads to readers, and empties a node of a terabyte in a few minutes.
const PAGE_PAUSE: Duration = Duration::from_millis(50);

/// How long an answer may take: what the holder may wait for the log, and as much again for looking.
const ANSWER_MAX: Duration = Duration::from_secs(2 * CONFIRM_WAIT_MAX.as_secs());

/// Between two rounds while copies wait for a holder. Holders take seconds to hours to get theirs.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The catalog as it is at this moment, and the log index up to which it has been applied.
pub type Moments = dyn Fn() -> Result<(Box<dyn View>, u64), ViewError> + Send + Sync;

/// What the loop is made of.
pub struct ReleaseParts {
    /// This node.
    pub node: NodeId,
    pub store: Arc<dyn BlockStore>,
    pub client: BlocksClient,
    pub moments: Arc<Moments>,
    pub outlook: Arc<Outlook>,
    /// Changes when blocks may belong elsewhere than before.
    pub placement: watch::Receiver<u64>,
}

/// How the loop is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReleaseObservation {
    /// Copies here that belong elsewhere and wait for a holder, as of the last round. `None` before the first has ended by the
    /// present layout.
    pub surplus_blocks: Option<u64>,
    /// Bytes in these.
    pub surplus_bytes: u64,
    /// Placement groups in which there are any.
    pub surplus_groups: GroupSet,
    /// Copies given up since this process started.
    pub released_blocks: u64,
    /// Bytes in these.
    pub released_bytes: u64,
    /// What keeps the surplus copies here.
    pub waiting_for: Option<String>,
}

/// Gives up surplus copies.
#[derive(Clone)]
pub struct Release {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ReleaseParts,
    looking: Pool,
    upcoming: Mutex<Upcoming>,
    observed: Mutex<ReleaseObservation>,
}

/// Where the layout is going.
#[derive(Debug, Default)]
struct Upcoming {
    present: Layout,
    candidates: Vec<Candidate>,
    target: Layout,
}

impl Upcoming {
    /// Whether `node` is about to be a holder of this group.
    fn names(&self, group: u16, node: NodeId) -> bool {
        self.target.holders_of_group(group).contains(&node)
    }

    /// Looks again, if anything it depends on has changed.
    fn update(&mut self, view: &dyn View, present: &Layout) -> Result<(), ViewError> {
        let candidates = catalog::store_candidates(view)?;
        if self.present != *present || self.candidates != candidates {
            let earlier = catalog::earlier_holders(view)?;
            self.target = placement::compute_near(&candidates, Some(present), &earlier);
            self.present = present.clone();
            self.candidates = candidates;
        }
        Ok(())
    }
}

/// A copy that is asked about.
#[derive(Clone, Copy, Debug)]
struct Surplus {
    hash: BlockHash,
    len: u32,
    put_index: u64,
}

/// One look at some of this node's copies: those that the layout gives to others.
struct Page {
    asked: Moment,
    layout: Layout,
    surplus: Vec<Surplus>,
    /// Where to go on, in the same range of groups.
    next: Option<BlockHash>,
}

/// What a round found.
#[derive(Debug, Default)]
struct Round {
    blocks: u64,
    bytes: u64,
    groups: GroupSet,
    released: u64,
    waiting_for: Option<String>,
}

impl Release {
    #[must_use]
    pub fn new(parts: ReleaseParts) -> Self {
        let inner = Inner {
            parts,
            looking: Pool::new(1),
            upcoming: Mutex::default(),
            observed: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How it is going. Cheap.
    #[must_use]
    pub fn observe(&self) -> ReleaseObservation {
        self.inner.observed().clone()
    }

    /// Runs until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        stop.run_until_cancelled(self.inner.go_on()).await;
    }
}

impl Inner {
    fn observed(&self) -> std::sync::MutexGuard<'_, ReleaseObservation> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn go_on(self: &Arc<Self>) {
        let mut pause = PAUSE_MIN;
        let mut known = None;
        loop {
            let epoch = self.look().await.ok().map(|(layout, _)| layout.epoch());
            if epoch != known {
                (known, pause) = (epoch, PAUSE_MIN);
                self.observed().surplus_blocks = None;
            }
            let round = self.round().await;
            match round {
                Ok(Some(round)) => {
                    pause = if round.released > 0 { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
                    self.note(round);
                }
                // Another layout came in between.
                Ok(None) => pause = PAUSE_MIN,
                Err(reason) => {
                    tracing::warn!(reason, "looking for surplus copies failed");
                    self.observed().waiting_for = Some(reason);
                    pause = PAUSE_MAX;
                }
            }
            let jittered = pause.mul_f64(0.75 + 0.5 * fastrand::f64());
            let _ = timeout(jittered, self.another_layout_than(known)).await;
        }
    }

    fn note(&self, round: Round) {
        metrics::gauge!("reelraft_content_surplus_blocks").set(round.blocks as f64);
        metrics::gauge!("reelraft_content_surplus_bytes").set(round.bytes as f64);
        let mut observed = self.observed();
        observed.surplus_blocks = Some(round.blocks);
        observed.surplus_bytes = round.bytes;
        observed.surplus_groups = round.groups;
        observed.waiting_for = round.waiting_for;
    }

    async fn another_layout_than(self: &Arc<Self>, known: Option<u64>) {
        let mut changes = self.parts.placement.clone();
        changes.mark_unchanged();
        loop {
            if let Ok((layout, _)) = self.look().await
                && Some(layout.epoch()) != known
            {
                return;
            }
            if changes.changed().await.is_err() {
                // Consensus has ended, and this loop is about to.
                std::future::pending::<()>().await;
            }
        }
    }

    /// The present layout and its moment; what comes next is known from then on.
    async fn look(self: &Arc<Self>) -> Result<(Layout, Moment), ViewError> {
        let inner = Arc::clone(self);
        self.looking
            .run(move || {
                let (view, applied) = (inner.parts.moments)()?;
                let layout = catalog::layout(&*view)?;
                let moment = Moment { epoch: layout.epoch(), applied };
                inner.upcoming().update(&*view, &layout)?;
                Ok((layout, moment))
            })
            .await
    }

    fn upcoming(&self) -> std::sync::MutexGuard<'_, Upcoming> {
        self.upcoming.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at all copies that the layout does not give to this node. Nothing when the layout changed meanwhile.
    async fn round(self: &Arc<Self>) -> Result<Option<Round>, String> {
        let (layout, began) = self.look().await.map_err(|error| error.to_string())?;
        let mut round = Round::default();
        let expected = |group| self.upcoming().names(group, self.parts.node);
        for range in release::surplus_groups(&layout, self.parts.node, expected) {
            let (first, last) = release::hashes_of(range);
            // A damaged copy goes like a good one: its holders have to have theirs.
            for quarantined in [false, true] {
                let mut from = Some(first);
                while let Some(start) = from {
                    let page = self.page(start, last, quarantined).await?;
                    if page.asked.epoch != began.epoch {
                        return Ok(None);
                    }
                    from = page.next;
                    if page.surplus.is_empty() {
                        continue;
                    }
                    self.release(page, &mut round).await?;
                    sleep(PAGE_PAUSE).await;
                }
            }
        }
        Ok(Some(round))
    }

    async fn page(
        &self,
        from: BlockHash,
        to: BlockHash,
        quarantined: bool,
    ) -> Result<Page, String> {
        let store = &self.parts.store;
        let listed = if quarantined {
            store.list_quarantined(from, to, PAGE).await
        } else {
            store.list(from, to, PAGE).await
        };
        let listed = listed.map_err(|error| error.to_string())?;
        let next = match listed.last() {
            Some(last) if listed.len() == PAGE && last.hash < to => successor(last.hash),
            _ => None,
        };
        // After the list, so that what stands there is known to this moment.
        let (moments, node) = (Arc::clone(&self.parts.moments), self.parts.node);
        let looking = self.looking.run(move || -> Result<Page, ViewError> {
            let (view, applied) = moments()?;
            let layout = catalog::layout(&*view)?;
            let asked = Moment { epoch: layout.epoch(), applied };
            let mut surplus = Vec::new();
            for block in listed {
                let group = group_of(&block.hash);
                if release::is_surplus(&layout, group, node)
                    && release::may_ask(
                        asked,
                        catalog::block(&*view, &block.hash)?.as_ref(),
                        block.put_index,
                    )
                {
                    surplus.push(Surplus {
                        hash: block.hash,
                        len: block.len,
                        put_index: block.put_index,
                    });
                }
            }
            Ok(Page { asked, layout, surplus, next })
        });
        looking.await.map_err(|error| error.to_string())
    }

    /// Asks for a page of copies, and deletes those that all their holders have.
    async fn release(&self, page: Page, round: &mut Round) -> Result<(), String> {
        let mut by_holder: BTreeMap<NodeId, Vec<BlockHash>> = BTreeMap::new();
        for surplus in &page.surplus {
            for holder in page.layout.holders(&surplus.hash) {
                by_holder.entry(*holder).or_default().push(surplus.hash);
            }
        }
        let questions = by_holder.len();
        let mut confirmed: BTreeMap<BlockHash, usize> = BTreeMap::new();
        let mut answers = stream::iter(by_holder)
            .map(|(holder, hashes)| async move {
                let answer = self.ask(holder, &hashes, page.asked).await;
                (holder, hashes, answer)
            })
            .buffer_unordered(questions.max(1));
        while let Some((holder, hashes, answer)) = answers.next().await {
            match answer {
                Ok(answers) => {
                    let lacking = answers.iter().filter(|has| !**has).count();
                    if lacking > 0 {
                        round.waiting_for = Some(format!("node {holder} has not confirmed all"));
                    }
                    for (hash, _) in hashes.into_iter().zip(answers).filter(|(_, has)| *has) {
                        *confirmed.entry(hash).or_default() += 1;
                    }
                }
                Err(reason) => {
                    tracing::debug!(%holder, reason, "a holder did not say what it has");
                    round.waiting_for = Some(format!("node {holder}: {reason}"));
                }
            }
        }
        drop(answers);
        for surplus in &page.surplus {
            let by_all = page.layout.copies();
            let released = confirmed.get(&surplus.hash) == Some(&by_all)
                && self.delete(*surplus, page.asked).await.map_err(|error| error.to_string())?;
            if released {
                round.released += 1;
            } else {
                round.blocks += 1;
                round.bytes += u64::from(surplus.len);
                round.groups.insert(group_of(&surplus.hash));
            }
        }
        Ok(())
    }

    async fn ask(
        &self,
        holder: NodeId,
        hashes: &[BlockHash],
        asked: Moment,
    ) -> Result<Vec<bool>, String> {
        if (self.parts.outlook)(holder) == Standing::Away {
            return Err("it does not answer".to_owned());
        }
        match timeout(ANSWER_MAX, self.parts.client.confirm(holder, hashes, asked)).await {
            Ok(answer) => answer.map_err(|status| status.message().to_owned()),
            Err(_) => Err(format!("no answer within {ANSWER_MAX:?}")),
        }
    }

    async fn delete(&self, surplus: Surplus, asked: Moment) -> Result<bool, StoreError> {
        let moments = Arc::clone(&self.parts.moments);
        let condition = move |copy: &crate::store::StoredBlock| {
            // Read here, under the lock of the hash: whoever asks this node to confirm the block looks for it after this, or
            // has read a layout that this one is not older than.
            let epoch = moments().and_then(|(view, _)| Ok(catalog::layout(&*view)?.epoch()));
            epoch.is_ok_and(|epoch| {
                release::may_release(asked, surplus.put_index, epoch, copy.put_index)
            })
        };
        let released = self.parts.store.delete_if(surplus.hash, Box::new(condition)).await?;
        if released {
            tracing::debug!(block = %surplus.hash, epoch = asked.epoch, "a surplus copy was released");
            metrics::counter!("reelraft_content_released_blocks_total").increment(1);
            metrics::counter!("reelraft_content_released_bytes_total")
                .increment(u64::from(surplus.len));
            let mut observed = self.observed();
            observed.released_blocks += 1;
            observed.released_bytes += u64::from(surplus.len);
        }
        Ok(released)
    }
}

/// The next hash in order; none after the last.
fn successor(hash: BlockHash) -> Option<BlockHash> {
    let mut bytes = hash.0;
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Some(BlockHash(bytes));
        }
    }
    None
}
