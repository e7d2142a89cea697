//! Consensus as it stands on this node, for operators and for loops.

use std::collections::BTreeMap;

use cluster::ids::NodeId;
use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::Consensus;
use super::types::LogId;

/// What a node is in the eyes of consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    Leader,
    Follower,
    Candidate,
    /// Receives the log without a vote.
    Learner,
    /// Has stopped.
    Stopped,
}

/// Consensus as it stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    pub role: RaftRole,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The index of the last entry in this node's log.
    pub last_log_index: u64,
    /// The index of the last entry applied to this node's catalog.
    pub applied_index: u64,
    /// The last index that a snapshot on this node contains.
    pub snapshot_index: u64,
    /// The last index that was removed from this node's log.
    pub purged_index: u64,
    /// Whether the disk of the log has owed an answer for so long that this node neither leads nor votes. What it says of
    /// the others may be old then.
    pub disk_stalled: bool,
    /// On the leader: how far each member's log agrees with its own.
    pub matched: BTreeMap<NodeId, u64>,
}

impl Consensus {
    /// Consensus as it stands on this node.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let index = |id: &Option<LogId>| id.map_or(0, |id| id.index);
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => RaftRole::Stopped,
            (Ok(()), ServerState::Leader) => RaftRole::Leader,
            (Ok(()), ServerState::Follower) => RaftRole::Follower,
            (Ok(()), ServerState::Candidate) => RaftRole::Candidate,
            (Ok(()), ServerState::Learner) => RaftRole::Learner,
        };
        let membership = metrics.membership_config.membership();
        RaftStatus {
            role,
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: *self.inner.announcements.applied.borrow(),
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            disk_stalled: self.inner.disk.is_stalled(),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (NodeId(*node), index(matched)))
                .collect(),
        }
    }
}
