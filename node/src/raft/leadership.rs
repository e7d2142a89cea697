//! Who leads, and handing that over.

use std::time::Duration;

use cluster::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use tokio::time::timeout;

use super::types::TypeConfig;
use super::{Consensus, Raft, RaftRole};

/// How long the new leader may take to be known here after leadership was handed over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// Why leadership was not handed over.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    #[error("this node is not the leader")]
    NotLeader,
    #[error("no other voter can take over")]
    NobodyElse,
    #[error("node {0} is no other voter")]
    NotVoter(NodeId),
    #[error("the other node did not take over in time")]
    Timeout,
    #[error("consensus has stopped on this node")]
    Stopped,
}

/// Watches who leads.
#[derive(Clone)]
pub(super) struct Leader {
    metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
}

impl Leader {
    pub(super) fn new(raft: &Raft) -> Self {
        Self { metrics: raft.server_metrics() }
    }

    /// The leader this node knows of.
    pub(super) fn now(&self) -> Option<NodeId> {
        self.metrics.borrow_watched().current_leader.map(NodeId)
    }

    /// The latest term this node knows of.
    pub(super) fn term(&self) -> u64 {
        self.metrics.borrow_watched().vote.leader_id.term
    }

    /// Waits for a leader other than `old`. Never ends when consensus has stopped.
    pub(super) async fn other_than(&self, old: Option<NodeId>) {
        self.neither(old, old).await;
    }

    /// Waits for a leader that is neither of these two. Never ends when consensus has stopped.
    pub(super) async fn neither(&self, one: Option<NodeId>, other: Option<NodeId>) {
        let mut metrics = self.metrics.clone();
        loop {
            let leader = metrics.borrow_and_update().current_leader.map(NodeId);
            if leader.is_some() && leader != one && leader != other {
                return;
            }
            if metrics.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Consensus {
    /// Whether this node takes itself for the leader. It may have been replaced without knowing yet.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.leader.now() == Some(self.inner.peers.local().node_id)
    }

    /// Hands leadership to the voter whose log is closest to this one, and waits until it leads.
    ///
    /// # Errors
    /// When this node does not lead, or nobody takes over in time.
    pub async fn transfer_leadership(&self) -> Result<NodeId, TransferError> {
        let local = self.inner.peers.local().node_id;
        let membership = self.membership();
        let heir = membership
            .voters
            .iter()
            .filter(|voter| **voter != local)
            .max_by_key(|voter| membership.progress.get(voter).and_then(|seen| seen.matched));
        match heir {
            Some(heir) => self.transfer_leadership_to(*heir).await,
            None if self.status().role == RaftRole::Leader => Err(TransferError::NobodyElse),
            None => Err(TransferError::NotLeader),
        }
    }

    /// Hands leadership to `heir`, and waits until somebody else than this node leads. Returns who does.
    ///
    /// # Errors
    /// When this node does not lead, `heir` does not vote, or nobody takes over in time.
    pub async fn transfer_leadership_to(&self, heir: NodeId) -> Result<NodeId, TransferError> {
        let local = self.inner.peers.local().node_id;
        if self.status().role != RaftRole::Leader {
            return Err(TransferError::NotLeader);
        }
        if heir == local || !self.membership().voters.contains(&heir) {
            return Err(TransferError::NotVoter(heir));
        }
        let trigger = self.inner.raft.trigger();
        trigger.transfer_leader(heir.0).await.map_err(|_| TransferError::Stopped)?;
        timeout(TRANSFER_TIMEOUT, self.inner.leader.other_than(Some(local)))
            .await
            .map_err(|_| TransferError::Timeout)?;
        self.inner.leader.now().ok_or(TransferError::Timeout)
    }
}
