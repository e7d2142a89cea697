//! Who is a member of consensus, who of them votes, and how that changes.
//!
//! A member begins as a *learner*: it receives the log and has no say. When it has caught up it can become a *voter*. The set
//! of voters changes by joint consensus, so that any set can follow any other in one change: for a moment decisions need a
//! majority of the old set and one of the new set, then one of the new set alone.
//!
//! # Invariants
//!
//! - A change is made only on top of the membership that it was decided on ([`Membership::version`]). Two operators, or two
//!   nodes that both believe to lead, cannot mix their decisions.
//! - A change is cut off by a leader's death at most between its two steps. Then the cluster works on, [joint](Membership::joint),
//!   until somebody calls [`Consensus::finish_change`].
//! - A node that loses its vote stays a learner until it is removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use cluster::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, ForwardReason, InitializeError, PreconditionFailed,
    RaftError,
};
use openraft::raft::Precondition;
use openraft::{ChangeMembers, Instant as _};
use tokio::time::timeout;

use super::Consensus;
use super::types::{LogId, Member, TypeConfig};

/// How long a change may take. Each of its two steps is one entry, so this is far above what a majority that lives needs.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why the cluster could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// This node has a log already; it is part of a cluster.
    #[error("this node belongs to a cluster already")]
    AlreadyInitialized,
    #[error("make a cluster: {0}")]
    Consensus(String),
}

/// Why the membership is not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Nothing was changed.
    #[error("this node is not the leader{}", match .0 {
        Some(leader) => format!(", node {leader} is"),
        None => String::new(),
    })]
    NotLeader(Option<NodeId>),
    /// Nothing was changed. This node leads, but a majority has not answered it lately, as just after an election. Try
    /// again in a moment.
    #[error("a majority has not confirmed this leader lately")]
    Unconfirmed,
    /// Nothing was changed. Try again in a moment.
    #[error("an earlier change has not been confirmed by a majority yet")]
    InProgress,
    /// Nothing was changed. Look at the membership again and decide anew.
    #[error("the membership has changed since this was decided")]
    Outdated,
    /// Nothing was changed. See [`Consensus::finish_change`].
    #[error("an earlier change of voters was cut off and has to be finished first")]
    Unfinished,
    /// Nothing was changed: it has to be a learner first.
    #[error("node {0} is not a member")]
    NotMember(NodeId),
    /// Nothing was changed: it has to lose its vote first.
    #[error("node {0} votes and cannot be removed")]
    Voter(NodeId),
    /// Nothing was changed: this node leads, and a leader without a vote would go on leading.
    #[error("node {0} leads: leadership has to be handed to a voter that stays first")]
    Leads(NodeId),
    #[error("a cluster needs a voter")]
    NoVoters,
    /// It may or may not take effect, in whole or as far as its first step.
    #[error("the change was not confirmed in time: {0}")]
    Unknown(String),
    #[error("consensus has stopped on this node")]
    Stopped,
}

/// Names one state of the membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MembershipVersion(Option<LogId>);

/// The membership as this node knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    pub version: MembershipVersion,
    /// Those that vote; while [`joint`](Self::joint), those that will vote once the change is finished.
    pub voters: BTreeSet<NodeId>,
    /// While joint: those that voted before the change, and vote until it is finished.
    pub voters_before: BTreeSet<NodeId>,
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of voters is between its two steps.
    pub joint: bool,
    /// Whether a majority has this membership. Nothing can be changed before it does.
    pub committed: bool,
    /// On the leader: how far the other members are.
    pub progress: BTreeMap<NodeId, Progress>,
}

/// How far another member is, as the leader sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// How far its log agrees with the leader's. `None` when that is not known yet.
    pub matched: Option<u64>,
    /// Entries that it lacks.
    pub lag: u64,
    /// How long it has not answered. `None` when it never did since this node leads.
    pub silent_for: Option<Duration>,
}

impl Membership {
    /// Everybody, voters and learners.
    pub fn members(&self) -> impl Iterator<Item = NodeId> {
        let mut all = self.voters.clone();
        all.extend(&self.voters_before);
        all.extend(&self.learners);
        all.into_iter()
    }
}

impl Consensus {
    /// Makes a cluster of `members`, all voters, given by id and RPC address; one is enough, others are added later. To be
    /// called once, on one of them, which must be among them; the others must have been started without a log.
    ///
    /// # Errors
    /// When this node is part of a cluster already, or is not among `members`.
    pub async fn init(&self, members: &[(NodeId, String)]) -> Result<(), InitError> {
        let members: BTreeMap<u64, Member> = members
            .iter()
            .map(|(node, rpc_addr)| (node.0, Member { rpc_addr: rpc_addr.clone() }))
            .collect();
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => InitError::AlreadyInitialized,
            error @ (RaftError::APIError(InitializeError::NotInMembers(_))
            | RaftError::Fatal(_)) => InitError::Consensus(error.to_string()),
        })
    }

    /// The membership, and on the leader how far everybody is.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let stored = &metrics.membership_config;
        let configs = stored.get_joint_config();
        let ids = |set: &BTreeSet<u64>| set.iter().copied().map(NodeId).collect::<BTreeSet<_>>();
        let joint = configs.len() > 1;
        let last = metrics.last_log_index.unwrap_or(0);
        let heard = metrics.heartbeat.as_ref();
        Membership {
            version: MembershipVersion(*stored.log_id()),
            voters: configs.last().map(ids).unwrap_or_default(),
            voters_before: if joint { ids(&configs[0]) } else { BTreeSet::new() },
            learners: stored.membership().learner_ids().map(NodeId).collect(),
            joint,
            committed: metrics.committed_membership_config.log_id() == stored.log_id(),
            progress: metrics
                .replication
                .iter()
                .flatten()
                .filter(|(node, _)| **node != metrics.id)
                .map(|(node, matched)| {
                    let matched = matched.as_ref().map(|matched| matched.index);
                    let heard = heard.and_then(|heard| heard.get(node).copied().flatten());
                    let progress = Progress {
                        matched,
                        lag: last.saturating_sub(matched.unwrap_or(0)),
                        silent_for: heard.map(|heard| heard.into_inner().elapsed()),
                    };
                    (NodeId(*node), progress)
                })
                .collect(),
        }
    }

    /// Has `node` receive the log, without a vote. The same again is no error, and does not change its address.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.members().any(|member| member == node) {
            return Ok(());
        }
        let member = Member { rpc_addr: address.to_owned() };
        let change = ChangeMembers::AddNodes(BTreeMap::from([(node.0, member)]));
        self.change(membership.version, change).await
    }

    /// Makes exactly `voters` vote, in one change. Those that no longer do stay learners.
    ///
    /// # Errors
    /// See [`MembershipError`]; in particular when the membership is not the one that `decided_on` names any more.
    pub async fn change_voters(
        &self,
        decided_on: MembershipVersion,
        voters: &BTreeSet<NodeId>,
    ) -> Result<(), MembershipError> {
        if voters.is_empty() {
            return Err(MembershipError::NoVoters);
        }
        if self.membership().joint {
            return Err(MembershipError::Unfinished);
        }
        let local = self.inner.peers.local().node_id;
        if self.is_leader() && !voters.contains(&local) {
            return Err(MembershipError::Leads(local));
        }
        let voters = voters.iter().map(|voter| voter.0).collect();
        self.change(decided_on, ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Finishes a change of voters that was cut off between its two steps. Nothing happens when there is none. When it takes
    /// this node's vote, leadership goes to somebody who has one.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn finish_change(&self) -> Result<(), MembershipError> {
        let membership = self.membership();
        if !membership.joint {
            return Ok(());
        }
        self.change(membership.version, ChangeMembers::AddVoterIds(BTreeSet::new())).await?;
        if !membership.voters.contains(&self.inner.peers.local().node_id) {
            let handed_over = self.transfer_leadership().await;
            tracing::info!(?handed_over, "this node has no vote any more");
        }
        Ok(())
    }

    /// Has `node` receive nothing any more. No error when it is no member.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let membership = self.membership();
        if membership.voters.contains(&node) || membership.voters_before.contains(&node) {
            return Err(MembershipError::Voter(node));
        }
        if !membership.learners.contains(&node) {
            return Ok(());
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.change(membership.version, change).await
    }

    async fn change(
        &self,
        decided_on: MembershipVersion,
        change: ChangeMembers<u64, Member>,
    ) -> Result<(), MembershipError> {
        let only_on = Precondition::LastMembershipLogId { last_membership_log_id: decided_on.0 };
        // Without this a node that loses its vote would be forgotten at once.
        let keep_as_learners = true;
        let changing = self.inner.raft.change_membership_if(change, keep_as_learners, [only_on]);
        match timeout(CHANGE_TIMEOUT, changing).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(refusal(error)),
            Err(_) => Err(MembershipError::Unknown("no majority has it".to_owned())),
        }
    }
}

fn refusal(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    let error = match error {
        RaftError::Fatal(_) => return MembershipError::Stopped,
        RaftError::APIError(error) => error,
    };
    match error {
        ClientWriteError::ForwardToLeader(elsewhere) => match elsewhere.reason {
            ForwardReason::LeaseExpired => MembershipError::Unconfirmed,
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                MembershipError::NotLeader(elsewhere.leader_id.map(NodeId))
            }
        },
        ClientWriteError::LogEntryDiscarded(_) => {
            MembershipError::Unknown("another leader replaced it".to_owned())
        }
        ClientWriteError::PreconditionFailed(
            PreconditionFailed::LastMembershipLogIdMismatch { .. }
            | PreconditionFailed::LastLogIdMismatch { .. }
            | PreconditionFailed::CommittedLeaderIdMismatch { .. },
        ) => MembershipError::Outdated,
        ClientWriteError::ChangeMembershipError(error) => match error {
            ChangeMembershipError::InProgress(_)
            | ChangeMembershipError::UncommittedLeaderLog(_) => MembershipError::InProgress,
            ChangeMembershipError::EmptyMembership(_) => MembershipError::NoVoters,
            ChangeMembershipError::LearnerNotFound(missing) => {
                MembershipError::NotMember(NodeId(missing.node_id))
            }
            error @ (ChangeMembershipError::UnsupportedMembershipTransition(_)
            | ChangeMembershipError::NodeMetadataChanged(_)) => {
                MembershipError::Unknown(error.to_string())
            }
        },
    }
}
