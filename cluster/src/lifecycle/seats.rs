//! Who should vote.
//!
//! Among the sets of one, three or five nodes that are possible, the best is the one that, in this order,
//!
//! 1. survives the most further failures,
//! 2. has the most seats, though no more than the cluster should have,
//! 3. has the fewest nodes that are to leave or have left,
//! 4. puts the fewest voters into a zone above its [limit](zone_limit),
//! 5. takes the fewest votes away, least of all the leader's,
//! 6. gives votes to those who lack the fewest entries.
//!
//! The first four do not depend on who votes now, so no two sets are each better than the other: a chosen set stays until
//! the nodes change.

use std::collections::{BTreeMap, BTreeSet};

use super::{Peer, Situation};
use crate::ids::NodeId;

/// How many voters a cluster of so many members should have.
#[must_use]
pub fn seats(members: usize) -> usize {
    match members {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}

/// How many of so many voters may be in one zone, when there are so many zones: no majority, and one less, so that a zone
/// and another node may fail. Fewer than three zones cannot do better than share.
#[must_use]
pub fn zone_limit(voters: usize, zones: usize) -> usize {
    if zones < 3 || voters < 3 { voters } else { voters.div_ceil(2) - 1 }
}

/// A node that votes or could.
struct Candidate<'a> {
    id: NodeId,
    peer: &'a Peer,
    votes: bool,
}

/// How bad it is to give a node a seat: what counts most comes first.
type Blemishes = (bool, bool);

impl Candidate<'_> {
    /// Whether it can be counted on to decide.
    fn counts(&self) -> bool {
        self.peer.state.is_living() && !self.peer.is_dead()
    }

    fn blemishes(&self) -> Blemishes {
        (!self.counts(), !self.peer.stays())
    }
}

/// A set of voters, and how good it is: more is better.
pub(super) struct Choice {
    /// Failures that it survives, voters, and then the negative numbers of nodes that should not be in it.
    worth: (isize, usize, isize, isize),
    leaving: usize,
    pub(super) set: BTreeSet<NodeId>,
}

/// The best voters. Nothing when it is better to wait, or when nodes vote that the catalog does not know.
pub(super) fn choose(situation: &Situation) -> Option<BTreeSet<NodeId>> {
    let known = |id: &NodeId| situation.peers.contains_key(id);
    if !situation.voters.iter().all(known) {
        return None;
    }
    let mut choice = best(situation, |_| true)?;
    if !situation.has_majority(&choice.set) {
        // Too many of them are silent, though they may come back. What can be done without them is done.
        choice = best(situation, Peer::answers)?;
    }
    // Those who stay are not ready yet: fewer voters would only make the wait more dangerous.
    let shrinks = choice.set.len() < situation.voters.len();
    let waits = choice.leaving > 0 && shrinks && situation.voters.len() % 2 == 1;
    (!waits && situation.has_majority(&choice.set)).then_some(choice.set)
}

/// The best set of those who pass.
pub(super) fn best(situation: &Situation, pass: fn(&Peer) -> bool) -> Option<Choice> {
    let staying = situation.peers.values().filter(|peer| peer.stays());
    let most = seats(staying.clone().count());
    let zones = staying.map(|peer| peer.zone.as_str()).collect::<BTreeSet<_>>().len();
    [1, 3, 5]
        .into_iter()
        .filter(|size| *size <= most)
        .filter_map(|size| of_size(situation, pass, size, zones))
        .max_by(|one, other| one.worth.cmp(&other.worth))
}

fn candidates(situation: &Situation) -> Vec<Candidate<'_>> {
    situation
        .peers
        .iter()
        .map(|(id, peer)| Candidate { id: *id, peer, votes: situation.voters.contains(id) })
        .filter(|candidate| {
            let learns = situation.learners.contains(&candidate.id);
            candidate.votes || (learns && candidate.peer.is_fit())
        })
        .collect()
}

/// The best set of exactly this size, if there are so many candidates.
///
/// Seats are given one by one, each to the best candidate that is left: first by its blemishes, then by whether its zone has
/// room. That is the best of all sets, because what makes a set good is a sum over its nodes and zones.
fn of_size(
    situation: &Situation,
    pass: fn(&Peer) -> bool,
    size: usize,
    zones: usize,
) -> Option<Choice> {
    let limit = zone_limit(size, zones);
    let mut left = candidates(situation);
    left.retain(|candidate| pass(candidate.peer));
    let mut in_zone: BTreeMap<&str, usize> = BTreeMap::new();
    let mut taken: Vec<Candidate<'_>> = Vec::new();
    let mut crowded = 0;
    while taken.len() < size {
        let full = |candidate: &Candidate<'_>| {
            in_zone.get(candidate.peer.zone.as_str()).copied().unwrap_or(0) >= limit
        };
        let (at, best) = left.iter().enumerate().min_by_key(|(_, candidate)| {
            let is_leader = candidate.id == situation.leader;
            let lag = candidate.peer.lag.filter(|_| !candidate.votes);
            (
                candidate.blemishes(),
                full(candidate),
                !candidate.votes,
                !is_leader,
                lag,
                candidate.id,
            )
        })?;
        crowded += isize::from(full(best));
        *in_zone.entry(best.peer.zone.as_str()).or_default() += 1;
        taken.push(left.swap_remove(at));
    }
    let alive = taken.iter().filter(|candidate| candidate.counts()).count();
    let spare = isize::try_from(alive).ok()? - isize::try_from(size / 2 + 1).ok()?;
    let leaving = taken.iter().filter(|candidate| !candidate.peer.stays()).count();
    let leavers = isize::try_from(leaving).ok()?;
    let set = taken.iter().map(|candidate| candidate.id).collect();
    Some(Choice { worth: (spare, size, -leavers, -crowded), leaving, set })
}

/// As many of `wanted` as possible beside the leader, who is not among them; an odd number, if there is anybody to make it
/// odd.
pub(super) fn with_leader(situation: &Situation, wanted: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let mut set = wanted.clone();
    if set.len() > 1 {
        // One of them has to wait for the next change: not the only one who could take over after this one.
        let fit = |id: &NodeId| situation.peers.get(id).is_some_and(Peer::is_fit);
        let waits = set.iter().max_by_key(|id| (!fit(id), **id)).copied();
        set.retain(|id| Some(*id) != waits);
    } else {
        let mut others = candidates(situation);
        others.retain(|other| other.id != situation.leader && !set.contains(&other.id));
        others.retain(|other| other.peer.answers());
        let key = |other: &&Candidate<'_>| (other.blemishes(), !other.votes, other.id);
        set.extend(others.iter().min_by_key(key).map(|other| other.id));
    }
    set.insert(situation.leader);
    set
}
