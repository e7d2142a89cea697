//! Whether a node can leave the cluster now, and what is left to do until it can.
//!
//! The catalog refuses what its tables show to be wrong. Here is what they do not show: who votes and leads, who answers, and
//! whether others have all the blocks that the node may have. Every member can answer that from what it hears; whoever
//! proposes a removal should have read the newest catalog before (a read index, and waiting for it).
//!
//! # Rules
//!
//! - A node leaves when it has nothing that is its alone: no groups, no vote, no leadership, no jobs, no uploads, and every
//!   other holder has all its blocks, as far as these were stored when the layout was still the one before.
//! - People may upload through a node that is being drained as long as it has other things to hand over, which may take
//!   hours. After that it takes no more uploads and is not ready, so that it can be removed however busy the site is.
//! - By force a node is removed only when it does not answer, and only when each block that it holds, or held before it was
//!   replaced, is held by another node that answers and lacks nothing. Otherwise this would turn blocks that cannot be had now into blocks that are lost.

use std::collections::{BTreeMap, BTreeSet};

use cluster::catalog;
use cluster::ids::NodeId;
use cluster::placement::{Earlier, GROUPS, Layout};
use cluster::tables::members::{MemberRow, MemberState};
use cluster::view::ViewError;
use gateway::backend::NodeStatus;

use super::Member;
use super::assignment;
use super::copies::Copies;

/// What a node says that is being drained and has nothing left but uploads that go on.
pub const HANDED_OVER: &str =
    "this node has been drained and is about to be removed: use another one";

/// What a node that is to leave still does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Placement groups that the layout gives it.
    pub groups: u32,
    /// Copies that other nodes have yet to make; nothing while one of them has not said how many.
    pub copies_missing: Option<u64>,
    pub leads: bool,
    pub votes: bool,
    /// Jobs that it has not finished.
    pub jobs: u64,
    /// Uploads that people make through it, as it said last.
    pub uploads: u64,
    /// Why its groups stay with it until somebody does something about it, for people.
    pub stuck: Option<String>,
    /// Why it cannot be removed yet, for people. Empty when it can.
    pub reasons: Vec<String>,
}

/// Why `node` must not be removed now, for people; empty when it may be.
#[must_use]
pub fn why_not(member: &Member, node: NodeId, force: bool) -> Vec<String> {
    match Facts::gather(member, node) {
        Ok(facts) => facts.why_not(force),
        Err(error) => vec![error.to_string()],
    }
}

/// What `node` has yet to hand over.
///
/// # Errors
/// When this node's catalog cannot be read.
pub fn progress(member: &Member, node: NodeId) -> Result<Progress, ViewError> {
    Ok(Facts::gather(member, node)?.progress())
}

/// Whether this node is being drained and has nothing left but uploads that go on.
#[must_use]
pub fn has_handed_over(member: &Member) -> bool {
    let row = catalog::member(member.consensus().catalog().as_ref(), member.id());
    let Ok(Some(MemberRow { state: state @ MemberState::Draining { .. }, .. })) = row else {
        return false;
    };
    Facts::gather(member, member.id()).is_ok_and(|facts| facts.left_to_do(state).is_empty())
}

/// What the decision depends on.
#[derive(Clone, Debug)]
struct Facts {
    node: NodeId,
    /// Nothing when there never was such a node.
    state: Option<MemberState>,
    /// Whether it has been silent for long.
    lost: bool,
    /// Whether it can be told that it has no blocks at all.
    empty: bool,
    layout: Layout,
    /// Who may have copies still of what the layout has moved.
    earlier: Earlier,
    /// The other holders that belong to the cluster.
    copies: BTreeMap<NodeId, Copies>,
    /// Why the layout goes on naming it although it is to leave.
    kept: Option<String>,
    voters: BTreeSet<NodeId>,
    /// Those of them that answer.
    voters_up: BTreeSet<NodeId>,
    leads: bool,
    jobs: u64,
    uploads: u64,
    /// Whether a member remains that is not to leave.
    others_stay: bool,
}

impl Facts {
    fn gather(member: &Member, node: NodeId) -> Result<Self, ViewError> {
        let catalog = member.consensus().catalog();
        let view = catalog.snapshot_view();
        let layout = catalog::layout(&view)?;
        let members: BTreeMap<NodeId, MemberRow> = catalog::members(&view)?.into_iter().collect();
        let state = catalog::member(&view, node)?.map(|row| row.state);
        let now_ms = member.consensus().now_ms();
        let announced = |id: &NodeId| members.get(id).is_some_and(|row| row.in_maintenance(now_ms));
        let copies = layout
            .nodes()
            .into_iter()
            .filter(|id| *id != node && members.contains_key(id))
            .map(|id| (id, member.copies_of(id, layout.epoch(), announced(&id))))
            .collect();
        let status = |id: NodeId| member.observer().observe(id).status;
        let lost = matches!(status(node), NodeStatus::Down | NodeStatus::Dead);
        let said = if node == member.id() {
            Some(member.stats())
        } else {
            member.observer().observe(node).said
        };
        let membership = member.consensus().membership();
        let mut voters = membership.voters;
        voters.extend(membership.voters_before);
        Ok(Self {
            node,
            state,
            lost,
            uploads: said.as_ref().filter(|_| !lost).map_or(0, |said| said.uploads),
            empty: !lost && said.is_some_and(|said| said.blocks == 0 && said.trouble.is_none()),
            others_stay: members
                .iter()
                .any(|(id, row)| *id != node && row.state == MemberState::Member),
            copies,
            kept: assignment::Situation::look(member)?
                .and_then(|situation| situation.kept_because(node)),
            voters_up: voters.iter().copied().filter(|id| status(*id) == NodeStatus::Up).collect(),
            voters,
            leads: member.consensus().status().leader == Some(node),
            jobs: catalog::leases_of(&view, node)?.len() as u64,
            earlier: catalog::earlier_holders(&view)?,
            layout,
        })
    }

    fn groups(&self) -> u32 {
        self.layout.loads().get(&self.node).copied().unwrap_or(0)
    }

    fn progress(&self) -> Progress {
        let missing = self.copies.values().map(|copies| match copies {
            Copies::Whole { .. } => Some(0),
            Copies::Lacks(blocks) => Some(*blocks),
            Copies::Unknown | Copies::Away => None,
        });
        Progress {
            groups: self.groups(),
            copies_missing: missing.sum(),
            leads: self.leads,
            votes: self.voters.contains(&self.node),
            jobs: self.jobs,
            uploads: self.uploads,
            stuck: self.kept.clone(),
            reasons: self.why_not(false),
        }
    }

    fn why_not(&self, force: bool) -> Vec<String> {
        let reasons = match self.state {
            None => return vec![format!("there is no node {}", self.node)],
            Some(MemberState::Removed { .. }) => {
                return vec![format!("node {} was removed already", self.node)];
            }
            Some(state) => {
                let mut reasons = self.left_to_do(state);
                if self.uploads > 0 {
                    reasons.push(match self.uploads {
                        1 => "an upload through it has not ended".to_owned(),
                        uploads => format!("{uploads} uploads through it have not ended"),
                    });
                }
                reasons
            }
        };
        if force && !reasons.is_empty() { self.why_not_by_force(reasons) } else { reasons }
    }

    /// All but the uploads.
    fn left_to_do(&self, state: MemberState) -> Vec<String> {
        let mut reasons = Vec::new();
        reasons.extend(self.nobody_stays());
        let node = self.node;
        let votes = self.voters.contains(&node);
        let groups = self.groups();
        let drained = matches!(state, MemberState::Draining { .. });
        let so = |passes: &'static str| if drained { passes } else { "drain it first" };
        if groups > 0 {
            let kept = self.kept.as_deref().unwrap_or(so("they are moved to other nodes"));
            reasons.push(format!("it holds {groups} of {GROUPS} groups of blocks: {kept}"));
        }
        if self.leads {
            reasons.push(format!("it leads: {}", so("another node is about to")));
        }
        if votes {
            reasons.push(format!("it has a vote: {}", so("it is about to lose it")));
        }
        if self.jobs > 0 {
            reasons.push(format!("it has not finished {} jobs", self.jobs));
        }
        if !self.empty {
            reasons.extend(self.copies.iter().filter_map(|(other, copies)| {
                let trouble = copies.trouble()?;
                Some(format!("node {other} {trouble}, and node {node} may have the only copy"))
            }));
            reasons.extend(self.unsettled());
        }
        reasons
    }

    /// Those that have all blocks as far as they know, and do not know of the latest yet.
    fn unsettled(&self) -> Option<String> {
        let early = |copies: &Copies| matches!(copies, Copies::Whole { settled: false });
        let nodes = self.copies.iter().filter(|(_, copies)| early(copies));
        let nodes: Vec<String> = nodes.map(|(other, _)| other.to_string()).collect();
        let who = match nodes.as_slice() {
            [] => return None,
            [node] => format!("node {node} has"),
            [first @ .., last] => format!("nodes {} and {last} have", first.join(", ")),
        };
        Some(format!("{who} to look once more whether they lack blocks, which takes some seconds"))
    }

    /// Whether it may have copies of blocks in this group: it keeps them when the layout gives the group to others.
    fn may_have(&self, group: u16) -> bool {
        let earlier = self.earlier.holders_of_group(group);
        self.layout.holders_of_group(group).iter().chain(earlier).any(|id| *id == self.node)
    }

    fn nobody_stays(&self) -> Option<String> {
        (!self.others_stay).then(|| {
            format!(
                "no other node stays that could take over what node {} does: let one join first",
                self.node
            )
        })
    }

    /// `left`: what is left to do if it is not lost.
    fn why_not_by_force(&self, left: Vec<String>) -> Vec<String> {
        let node = self.node;
        if !self.lost {
            let mut reasons = vec![format!(
                "force is for nodes that are lost, and node {node} has been heard of a moment ago (if it was stopped just now, wait until it counts as down)"
            )];
            reasons.extend(left);
            return reasons;
        }
        let mut reasons = Vec::from_iter(self.nobody_stays());
        let others_up = self.voters_up.iter().filter(|id| **id != node).count();
        if others_up * 2 <= self.voters.len() {
            reasons.push(format!(
                "only {others_up} of {} voters would be left that answer, which is no majority",
                self.voters.len()
            ));
        }
        let whole = |other: &NodeId| matches!(self.copies.get(other), Some(Copies::Whole { .. }));
        let at_risk: Vec<u16> = (0..GROUPS)
            .filter(|group| {
                let holders = self.layout.holders_of_group(*group);
                self.may_have(*group) && !holders.iter().any(whole)
            })
            .collect();
        if !at_risk.is_empty() {
            let troubles: Vec<String> = self
                .copies
                .iter()
                .filter(|(other, _)| {
                    at_risk.iter().any(|group| self.layout.holders_of_group(*group).contains(other))
                })
                .filter_map(|(other, copies)| {
                    copies.trouble().map(|trouble| format!("node {other} {trouble}"))
                })
                .collect();
            let others = if troubles.is_empty() {
                "no other node holds them".to_owned()
            } else {
                troubles.join(", ")
            };
            reasons.push(format!(
                "of {} of {GROUPS} groups of blocks node {node} may have the only copies, which would be lost: {others}",
                at_risk.len()
            ));
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use cluster::placement::{Candidate, compute};

    use super::*;

    const SETTLED: Copies = Copies::Whole { settled: true };

    /// Node 4 of four, drained: the other three hold everything and vote.
    fn drained() -> Facts {
        let candidates: Vec<Candidate> = (1..=3)
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        let others: BTreeSet<NodeId> = (1..=3).map(NodeId).collect();
        Facts {
            node: NodeId(4),
            state: Some(MemberState::Draining { since_ms: 1 }),
            lost: false,
            empty: false,
            layout: compute(&candidates, None),
            earlier: Earlier::default(),
            copies: others.iter().map(|id| (*id, SETTLED)).collect(),
            kept: None,
            voters: others.clone(),
            voters_up: others,
            leads: false,
            jobs: 0,
            uploads: 0,
            others_stay: true,
        }
    }

    /// Node 4 of four, which holds its share and votes, and is gone.
    fn lost() -> Facts {
        let candidates: Vec<Candidate> = (1..=4)
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .collect();
        Facts {
            state: Some(MemberState::Member),
            lost: true,
            layout: compute(&candidates, None),
            voters: [2, 3, 4].map(NodeId).into(),
            voters_up: [2, 3].map(NodeId).into(),
            ..drained()
        }
    }

    /// Node 2 is like this.
    fn lacks(facts: &mut Facts, copies: Copies) {
        facts.copies.insert(NodeId(2), copies);
    }

    fn reason(facts: &Facts, force: bool, word: &str) {
        let reasons = facts.why_not(force);
        assert!(reasons.iter().any(|reason| reason.contains(word)), "{word}: {reasons:?}");
    }

    #[test]
    fn what_has_nothing_left_may_go() {
        let facts = drained();
        assert_eq!(facts.why_not(false), Vec::<String>::new());
        assert_eq!(
            facts.why_not(true),
            Vec::<String>::new(),
            "force is not needed and does no harm"
        );
        let progress = facts.progress();
        assert_eq!((progress.groups, progress.copies_missing, progress.jobs), (0, Some(0), 0));
    }

    #[test]
    fn each_thing_that_is_left_is_named() {
        type Change = fn(&mut Facts);
        let with = |change: Change| {
            let mut facts = drained();
            change(&mut facts);
            facts
        };
        let cases: [(Change, &str); 12] = [
            (|facts| facts.layout = lost().layout, "groups of blocks: they are moved"),
            (|facts| facts.leads = true, "it leads"),
            (|facts| facts.voters.extend([NodeId(4)]), "it has a vote"),
            (|facts| facts.jobs = 2, "2 jobs"),
            (|facts| facts.uploads = 1, "an upload through it"),
            (|facts| facts.uploads = 3, "3 uploads through it"),
            (|facts| facts.others_stay = false, "no other node stays"),
            (|facts| lacks(facts, Copies::Lacks(7)), "lacks 7 blocks"),
            (|facts| lacks(facts, Copies::Unknown), "not said yet"),
            (|facts| lacks(facts, Copies::Away), "does not answer"),
            (|facts| facts.state = None, "there is no node 4"),
            (
                |facts| facts.state = Some(MemberState::Removed { at_ms: 1, forced: false }),
                "removed already",
            ),
        ];
        for (change, word) in cases {
            let facts = with(change);
            assert_eq!(facts.why_not(false).len(), 1, "{word}");
            reason(&facts, false, word);
        }
        let mut early = drained();
        early.copies.insert(NodeId(2), Copies::Whole { settled: false });
        reason(&early, false, "node 2 has to look once more");
        early.copies.values_mut().for_each(|copies| *copies = Copies::Whole { settled: false });
        reason(&early, false, "nodes 1, 2 and 3 have to look once more");
        assert_eq!(early.why_not(false).len(), 1, "in one sentence");
        early.empty = true;
        assert_eq!(early.why_not(false), Vec::<String>::new(), "it never held anything");

        let mut facts = lost();
        facts.kept = Some("add a node first".to_owned());
        reason(&facts, false, "add a node first");
        facts.kept = None;
        reason(&facts, false, "drain it first");
        facts.copies.insert(NodeId(1), Copies::Unknown);
        assert_eq!(facts.progress().copies_missing, None);
        facts.copies.insert(NodeId(1), Copies::Lacks(3));
        assert_eq!(facts.progress().copies_missing, Some(3));
    }

    #[test]
    fn force_is_for_nodes_that_are_lost_and_loses_nothing() {
        let facts = lost();
        assert!(!facts.why_not(false).is_empty());
        assert_eq!(facts.why_not(true), Vec::<String>::new());

        // One that answers is not lost.
        reason(&Facts { lost: false, ..facts.clone() }, true, "force is for nodes that are lost");
        // Another voter is silent.
        let lonely = Facts { voters_up: [NodeId(2)].into(), ..facts.clone() };
        reason(&lonely, true, "no majority");
        // One of the others lacks something: the third has it.
        let mut one = facts.clone();
        one.copies.insert(NodeId(1), Copies::Lacks(7));
        assert_eq!(one.why_not(true), Vec::<String>::new());
        // Two of them: what both have of a group may be with the lost one only.
        let mut two = one;
        two.copies.insert(NodeId(2), Copies::Away);
        reason(&two, true, "may have the only copies");
        reason(&two, true, "node 1 lacks 7 blocks, node 2 does not answer");
        // Nobody would be left.
        reason(&Facts { others_stay: false, ..facts.clone() }, true, "no other node stays");
        // The last one that holds anything.
        let candidate = Candidate { id: NodeId(4), zone: String::new(), weight: 1 };
        let last = Facts { layout: compute(&[candidate], None), copies: BTreeMap::new(), ..facts };
        reason(&last, true, "no other node holds them");
    }

    #[test]
    fn what_was_replaced_may_have_the_only_copies_until_the_others_have_theirs() {
        let mut facts = lost();
        // Node 5 got what node 4 had.
        let candidates: Vec<Candidate> = [1, 2, 3, 5]
            .map(|id| Candidate { id: NodeId(id), zone: id.to_string(), weight: 1 })
            .into();
        let next = compute(&candidates, Some(&facts.layout));
        facts.earlier = Earlier::default().after(&facts.layout, &next, |_| true);
        facts.layout = next;
        assert_eq!(facts.groups(), 0);
        // Two of the others are away, and the new one has pulled nothing.
        facts.copies.insert(NodeId(1), Copies::Away);
        facts.copies.insert(NodeId(2), Copies::Away);
        facts.copies.insert(NodeId(5), Copies::Lacks(7));
        reason(&facts, true, "may have the only copies");
        reason(&facts, true, "node 5 lacks 7 blocks");
        facts.copies.insert(NodeId(5), SETTLED);
        assert_eq!(facts.why_not(true), Vec::<String>::new());
    }
}
