//! A holder's answer to somebody who would like to give up a copy.

use std::sync::Arc;

use cluster::catalog;
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::Layout;
use cluster::placement::release::{self, Moment};
use cluster::tables::blocks::BlockRow;
use cluster::view::ViewError;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;

use super::Moments;
use crate::rpc::blocks::{CONFIRM_WAIT_MAX, Confirms};
use crate::store::{BlockStore, Pool};

/// Says which blocks this node holds, as [`cluster::placement::release`] demands.
pub struct Confirming {
    node: NodeId,
    store: Arc<dyn BlockStore>,
    moments: Arc<Moments>,
    applied: watch::Receiver<u64>,
    looking: Pool,
}

/// What the catalog says of the blocks that were asked for.
struct Known {
    at: Moment,
    layout: Layout,
    rows: Vec<Option<BlockRow>>,
}

impl Confirming {
    /// `applied`: the log index applied on this node.
    #[must_use]
    pub fn new(
        node: NodeId,
        store: Arc<dyn BlockStore>,
        moments: Arc<Moments>,
        applied: watch::Receiver<u64>,
    ) -> Self {
        Self { node, store, moments, applied, looking: Pool::new(1) }
    }

    async fn known(&self, hashes: Vec<BlockHash>) -> Result<Known, ViewError> {
        let moments = Arc::clone(&self.moments);
        self.looking
            .run(move || {
                let (view, applied) = moments()?;
                let layout = catalog::layout(&*view)?;
                let at = Moment { epoch: layout.epoch(), applied };
                let rows = hashes.iter().map(|hash| catalog::block(&*view, hash));
                Ok(Known { at, rows: rows.collect::<Result<_, _>>()?, layout })
            })
            .await
    }
}

#[tonic::async_trait]
impl Confirms for Confirming {
    async fn confirm(&self, asked: Moment, hashes: Vec<BlockHash>) -> Result<Vec<bool>, Status> {
        let mut applied = self.applied.clone();
        let caught_up = applied.wait_for(|applied| *applied >= asked.applied);
        if timeout(CONFIRM_WAIT_MAX, caught_up).await.is_err() {
            return Err(Status::aborted(format!(
                "entry {} of the log was not applied here within {CONFIRM_WAIT_MAX:?}",
                asked.applied
            )));
        }
        // First the catalog, then the copies: whoever deletes one in between reads a catalog that is no older.
        let unreadable = |error: ViewError| Status::failed_precondition(error.to_string());
        let known = self.known(hashes.clone()).await.map_err(unreadable)?;
        let holds = |hash: &BlockHash, row: Option<&BlockRow>| {
            let holders = known.layout.holders(hash);
            release::may_confirm(asked, known.at, holders, self.node, row, true)
        };
        let promised: Vec<bool> =
            hashes.iter().zip(&known.rows).map(|(hash, row)| holds(hash, row.as_ref())).collect();
        let wanted = hashes.iter().zip(&promised).filter(|(_, promised)| **promised);
        let wanted: Vec<BlockHash> = wanted.map(|(hash, _)| *hash).collect();
        // Whoever asked relies on these copies as on one that was put at that moment. What the log said later may be gone after
        // a power cut here, and a collector that goes by the catalog from before has to leave them alone.
        let kept = match wanted.is_empty() {
            true => Ok(Vec::new()),
            false => self.store.keep(wanted, asked.applied).await,
        };
        let kept = kept.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let mut kept = kept.into_iter();
        Ok(promised.into_iter().map(|promised| promised && kept.next() == Some(true)).collect())
    }
}
