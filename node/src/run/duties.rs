//! How many blocks each node should hold, for the time when a node cannot say what it lacks.
//!
//! A node that is gone said something of itself once, and that grows old: what was stored since is not in it. One whose
//! store cannot be opened, or that has just started, does not know. But every node has the whole catalog, so the others can
//! tell how much there is that such a node should hold, which is what cannot be had from it.
//!
//! Counting reads every row of the catalog's blocks. So it is done at the start and then only while somebody's share is in
//! question, on a thread where it holds up nobody, and takes a bounded part of the time.

use std::ops::ControlFlow;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use cluster::ids::NodeId;
use cluster::placement::{GROUPS, Layout, group_of};
use cluster::table::KeyRange;
use cluster::tables::blocks::BLOCKS;
use cluster::view::{View, ViewError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is asked whether a count is needed: several times between the moment when a node falls silent and the one
/// when it counts as down.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// A count may take this part of the time, however many blocks there are.
const COUNT_SHARE: u32 = 20;

/// Rows that are read at once, so that the catalog's old versions are not kept for the time of the whole count.
const PAGE: usize = 4096;

/// The last count.
#[derive(Debug, Default)]
pub(super) struct Duties {
    counted: RwLock<Option<Vec<u64>>>,
}

impl Duties {
    /// How many blocks `node` should hold, as of the last count. `None` before the first one has ended.
    pub(super) fn of(&self, node: NodeId, layout: &Layout) -> Option<u64> {
        let counted = self.counted.read().unwrap_or_else(PoisonError::into_inner);
        counted.as_ref().map(|groups| share(groups, node, layout))
    }

    /// Counts whenever `wanted` and something has changed, until `stop`.
    pub(super) async fn run(
        self: Arc<Self>,
        catalog: Arc<dyn View + Send + Sync>,
        applied: watch::Receiver<u64>,
        wanted: impl Fn() -> bool + Send,
        stop: CancellationToken,
    ) {
        let mut counted_at = None;
        let mut pause = Duration::ZERO;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = LOOK_EVERY;
            let now = *applied.borrow();
            if counted_at == Some(now) || (counted_at.is_some() && !wanted()) {
                continue;
            }
            let began = Instant::now();
            let (view, stopped) = (Arc::clone(&catalog), stop.clone());
            let counting =
                tokio::task::spawn_blocking(move || count(&*view, &|| stopped.is_cancelled()));
            match counting.await.context("count the catalog's blocks") {
                Ok(Ok(groups)) => {
                    *self.counted.write().unwrap_or_else(PoisonError::into_inner) = Some(groups);
                    counted_at = Some(now);
                }
                Ok(Err(error)) => tracing::warn!(%error, "the catalog's blocks cannot be counted"),
                Err(error) => tracing::warn!(error = format!("{error:#}"), "no count"),
            }
            pause = pause.max(began.elapsed() * COUNT_SHARE);
        }
    }
}

/// Blocks that something refers to, by placement group. Ends early, with what it has, when `stopped`.
fn count(view: &dyn View, stopped: &dyn Fn() -> bool) -> Result<Vec<u64>, ViewError> {
    let mut groups = vec![0; usize::from(GROUPS)];
    let mut range = KeyRange::all();
    while !stopped() {
        let mut rows = 0;
        let mut last = None;
        BLOCKS.scan(view, &range, &mut |hash, row| {
            rows += 1;
            if row.references > 0 {
                groups[usize::from(group_of(&hash))] += 1;
            }
            last = Some(hash);
            if rows < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        match last {
            Some(last) if rows == PAGE => range = range.starting_after(&last),
            _ => break,
        }
    }
    Ok(groups)
}

/// The part of the groups that `node` holds.
fn share(groups: &[u64], node: NodeId, layout: &Layout) -> u64 {
    (0..GROUPS)
        .zip(groups)
        .filter(|(group, _)| layout.holders_of_group(*group).contains(&node))
        .map(|(_, blocks)| blocks)
        .sum()
}

#[cfg(test)]
mod tests {
    use cluster::ids::BlockHash;
    use cluster::placement::{Candidate, compute};
    use cluster::tables::blocks::BlockRow;
    use cluster::view::{MemoryView, Transaction};

    use super::*;

    #[test]
    fn each_needed_block_is_the_duty_of_three_nodes() {
        let blocks = u64::try_from(2 * PAGE + 10).unwrap();
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        for number in 0..blocks {
            let hash = BlockHash::of(&number.to_be_bytes());
            // Every tenth is garbage.
            let references = number % 10;
            let unreferenced_since_ms = (references == 0).then_some(1);
            let row = BlockRow { unreferenced_since_ms, ..BlockRow::needed(1, references) };
            BLOCKS.put(&mut tx, &hash, &row);
        }
        let batch = tx.into_batch();
        view.write(batch);
        let candidates: Vec<Candidate> = (1..=5)
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        let layout = compute(&candidates, None);

        let groups = count(&view, &|| false).unwrap();
        let all: u64 = (1..=5).map(|id| share(&groups, NodeId(id), &layout)).sum();
        assert_eq!(all, 3 * (blocks - blocks.div_ceil(10)));
        assert_eq!(share(&groups, NodeId(9), &layout), 0, "it holds nothing");
        assert_eq!(Duties::default().of(NodeId(1), &layout), None, "nobody has counted yet");
    }
}
