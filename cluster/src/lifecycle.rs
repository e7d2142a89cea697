//! What the leader should change about the members of consensus next, if anything.
//!
//! Every member receives the log. A few of them, the *voters*, decide: three, or five where there are at least seven members,
//! so that one or two may fail; the rest are *learners*. An even number is never better than the odd one below it: a
//! majority of four is three. The voters are spread over zones, so that no zone takes a majority with it.
//!
//! [`next`] compares how it should be with how it is and names the first step; the leader takes it, looks again, and asks
//! again. So it does not matter who took the steps before, or whether the last one was cut off by a crash: whatever state is
//! found is led step by step to one in which there is nothing left to do.
//!
//! # Rules
//!
//! - One change at a time, each on top of a membership that a majority has. A change of voters that was cut off between its
//!   two halves is finished before anything else.
//! - The set of voters changes from one good set to the next in one change: a voter that is dead is *replaced*, never just
//!   dropped where that would leave fewer than three of them.
//! - Of the new set a majority answers, or it is not chosen. Nobody gets a vote who is silent or far behind.
//! - Nodes that leave lose leadership first, then their vote, then their place.
//! - Nodes that are not in the catalog are left alone: this catalog may simply not be as far as the log.

mod seats;

use std::collections::{BTreeMap, BTreeSet};

pub use seats::{seats, zone_limit};

use crate::ids::NodeId;
use crate::tables::members::MemberState;

/// A node that was silent for so long, in milliseconds, is not counted on. Heartbeats come several times a second.
pub const SILENT_MS: u64 = 3_000;

/// A voter that was silent for so long, in milliseconds, is dead, and its vote goes to another one. A minute lets a machine
/// restart; longer would leave the cluster too long without the safety that it is meant to have.
pub const DEAD_MS: u64 = 60_000;

/// A learner that lacks fewer entries than this can become a voter: it will have the rest in an instant.
pub const CAUGHT_UP_ENTRIES: u64 = 1_000;

/// What is known of a node that is or was a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub state: MemberState,
    /// Failure domain: machines that may fail together share it.
    pub zone: String,
    /// Whether somebody works on it now: it counts as alive although it is silent, but is not given anything new.
    pub in_maintenance: bool,
    /// How long it has not answered, in milliseconds; 0 for the leader itself. For one that never answered, how long the
    /// leader has been leading.
    pub silent_ms: u64,
    /// Entries of the log that it lacks. `None` when that is not known.
    pub lag: Option<u64>,
}

impl Peer {
    fn answers(&self) -> bool {
        self.silent_ms < SILENT_MS
    }

    fn is_dead(&self) -> bool {
        self.silent_ms >= DEAD_MS && !self.in_maintenance
    }

    fn stays(&self) -> bool {
        self.state == MemberState::Member
    }

    /// Whether it could be given a vote or leadership.
    fn is_fit(&self) -> bool {
        self.stays()
            && self.answers()
            && !self.in_maintenance
            && self.lag.is_some_and(|lag| lag < CAUGHT_UP_ENTRIES)
    }
}

/// The cluster as its leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Situation {
    /// Whoever asks.
    pub leader: NodeId,
    /// Every node that the catalog has as a member, removed ones included.
    pub peers: BTreeMap<NodeId, Peer>,
    /// Who votes; while `joint`, who will vote in the end.
    pub voters: BTreeSet<NodeId>,
    /// Who receives the log and does not vote.
    pub learners: BTreeSet<NodeId>,
    /// Whether a change of voters is between its two halves.
    pub joint: bool,
    /// Whether a majority has the membership as it is here.
    pub committed: bool,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Finish the change of voters that was cut off.
    FinishJoint,
    /// Let the node receive the log.
    AddLearner(NodeId),
    /// Let exactly these nodes vote.
    ChangeVoters { set: BTreeSet<NodeId> },
    /// Let another voter lead.
    TransferLeadership { to: NodeId },
    /// Let the node receive nothing any more.
    RemoveLearner(NodeId),
}

/// The next step, or nothing when all is as it should be or as good as it can be.
#[must_use]
pub fn next(situation: &Situation) -> Option<Step> {
    if !situation.committed {
        return None;
    }
    if situation.joint {
        return Some(Step::FinishJoint);
    }
    // Without a majority nothing can be changed, and what would be decided is a guess.
    if !situation.has_majority(&situation.voters) {
        return None;
    }
    situation
        .newcomer()
        .map(Step::AddLearner)
        .or_else(|| situation.change_of_voters())
        .or_else(|| situation.change_of_leader())
        .or_else(|| situation.leaver().map(Step::RemoveLearner))
}

impl Situation {
    /// A member that does not receive the log yet.
    fn newcomer(&self) -> Option<NodeId> {
        let mut living = self.peers.iter().filter(|(_, peer)| peer.state.is_living());
        let (id, _) =
            living.find(|(id, _)| !self.voters.contains(id) && !self.learners.contains(id))?;
        Some(*id)
    }

    /// A removed node that still receives the log.
    fn leaver(&self) -> Option<NodeId> {
        let removed =
            |id: &&NodeId| self.peers.get(*id).is_some_and(|peer| !peer.state.is_living());
        self.learners.iter().find(removed).copied()
    }

    fn change_of_voters(&self) -> Option<Step> {
        let wanted = seats::choose(self)?;
        if wanted == self.voters {
            return None;
        }
        let set = if wanted.contains(&self.leader) {
            wanted
        } else if let Some(to) = self.successor(&wanted) {
            // A leader without a vote would go on leading.
            return Some(Step::TransferLeadership { to });
        } else {
            // None of those who are to vote can take over: they have to vote beside the leader first.
            seats::with_leader(self, &wanted)
        };
        (set != self.voters && self.has_majority(&set)).then_some(Step::ChangeVoters { set })
    }

    /// A leader that is about to leave, or to be switched off, hands over in time.
    fn change_of_leader(&self) -> Option<Step> {
        let leader = self.peers.get(&self.leader)?;
        if leader.stays() && !leader.in_maintenance {
            return None;
        }
        self.successor(&self.voters).map(|to| Step::TransferLeadership { to })
    }

    /// The voter among these that could lead best.
    fn successor(&self, among: &BTreeSet<NodeId>) -> Option<NodeId> {
        let fit = |id: &&NodeId| self.peers.get(*id).is_some_and(Peer::is_fit);
        self.voters
            .intersection(among)
            .filter(|id| **id != self.leader)
            .filter(fit)
            .min_by_key(|id| (self.peers.get(*id).and_then(|peer| peer.lag), **id))
            .copied()
    }

    /// Whether a majority of these nodes answers.
    fn has_majority(&self, of: &BTreeSet<NodeId>) -> bool {
        let answers = |id: &&NodeId| self.peers.get(*id).is_some_and(Peer::answers);
        of.iter().filter(answers).count() > of.len() / 2
    }
}

#[cfg(test)]
mod tests;
