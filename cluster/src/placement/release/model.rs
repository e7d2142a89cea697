//! One block in a small cluster, with every order in which its nodes can act.
//!
//! Nodes apply the log one entry at a time, each when it likes. A question, each answer, and the deletion are steps of their
//! own, and anything may happen between them. The decisions are the functions that nodes use; a flaw is put in by what they
//! are told.

use stateright::{Checker, Model, Property};

use super::*;
use crate::tables::blocks::BlockRow;

/// A set of nodes, by bits.
type Nodes = u8;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Entry {
    Layout(Nodes),
    /// The last row that named the block goes.
    Unreference,
    Reap,
    /// A row names it, and relies on copies with this put index or higher.
    Name {
        put_index: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    asked: Moment,
    put_index: u64,
    holders: Nodes,
    confirmed: Nodes,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct NodeState {
    applied: usize,
    /// The put index of its copy.
    copy: Option<u64>,
    question: Option<Question>,
    /// With [`Flaw::OldVerdict`]: below which put index it is going to delete its copy.
    verdict: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    log: Vec<Entry>,
    nodes: Vec<NodeState>,
    /// What was put and is about to be named.
    put: Option<u64>,
    /// Whether a surplus copy was deleted.
    released: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Act {
    Append(Entry),
    Apply(usize),
    Pull(usize),
    /// By one node, which knows so much of the log, to another.
    Put(usize, usize),
    Ask(usize),
    Confirm(usize, usize),
    Delete(usize),
    GiveUp(usize),
    Judge(usize),
    Collect(usize),
}

/// A condition that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    /// A node deletes its copy although its layout is another one by now.
    OtherLayout,
    /// A holder answers by the layout of whoever asks.
    TheirLayout,
    /// A holder waits for the layout alone, and not for all that the asker knew.
    LayoutAlone,
    /// A node deletes a copy although it was put again.
    PutAgain,
    /// A node asks for a copy that was put by somebody who knew more.
    PutAhead,
    /// A collector acts on what it read before it took the lock.
    OldVerdict,
}

#[derive(Clone, Debug)]
struct Cluster {
    nodes: usize,
    /// The layouts that may follow each other, from the first one on.
    layouts: Vec<Vec<Nodes>>,
    /// Whether the block may be given up and named again.
    collection: bool,
    log_max: usize,
    /// How many copies there have to be at any time.
    copies: u32,
    flaw: Option<Flaw>,
}

/// What the catalog says after a part of the log.
#[derive(Clone, Debug)]
struct Catalog {
    moment: Moment,
    holders: Nodes,
    row: BlockRow,
    /// Nothing names it, and it has not been reaped since.
    waiting: bool,
    reaped_at: Option<u64>,
}

impl Catalog {
    fn after(log: &[Entry]) -> Self {
        let row = BlockRow { len: 1, references: 1, unreferenced_since_ms: None, reaped_at: None };
        let moment = Moment { epoch: 0, applied: 0 };
        let mut catalog = Self { moment, holders: 0, row, waiting: false, reaped_at: None };
        for entry in log {
            catalog.moment.applied += 1;
            match entry {
                Entry::Layout(holders) => {
                    catalog.holders = *holders;
                    catalog.moment.epoch += 1;
                }
                Entry::Unreference => {
                    catalog.row.references = 0;
                    catalog.waiting = true;
                }
                Entry::Reap => {
                    catalog.reaped_at = Some(catalog.moment.applied);
                    catalog.waiting = false;
                }
                Entry::Name { .. } => {
                    catalog.row.references = 1;
                    catalog.waiting = false;
                }
            }
        }
        catalog
    }

    fn is_holder(&self, node: usize) -> bool {
        has(self.holders, node)
    }

    fn is_needed(&self) -> bool {
        self.row.references > 0
    }

    /// Copies with a lower put index are garbage.
    fn deletable_below(&self) -> u64 {
        if self.is_needed() || self.waiting { 0 } else { self.reaped_at.unwrap_or(0) }
    }

    fn admits(&self, put_index: u64) -> bool {
        self.is_needed() || put_index >= self.reaped_at.unwrap_or(0)
    }
}

fn has(set: Nodes, node: usize) -> bool {
    set & (1 << node) != 0
}

impl State {
    fn catalog_of(&self, node: usize) -> Catalog {
        Catalog::after(&self.log[..self.nodes[node].applied])
    }

    fn newest(&self) -> Catalog {
        Catalog::after(&self.log)
    }

    fn copies(&self) -> u32 {
        self.nodes.iter().map(|node| u32::from(node.copy.is_some())).sum()
    }
}

impl Cluster {
    fn appendable(&self, state: &State) -> Vec<Entry> {
        let newest = state.newest();
        if state.log.len() >= self.log_max {
            return Vec::new();
        }
        let epoch = usize::try_from(newest.moment.epoch).expect("few layouts");
        let mut entries: Vec<_> = self.layouts.get(epoch).into_iter().flatten().copied().collect();
        entries.retain(|holders| *holders != newest.holders);
        let mut entries: Vec<_> = entries.into_iter().map(Entry::Layout).collect();
        if self.collection && newest.is_needed() {
            entries.push(Entry::Unreference);
        }
        if newest.waiting {
            entries.push(Entry::Reap);
        }
        if let Some(put_index) = state.put
            && !newest.is_needed()
            && newest.admits(put_index)
        {
            entries.push(Entry::Name { put_index });
        }
        entries
    }

    fn confirms(&self, state: &State, question: &Question, holder: usize) -> bool {
        let own = state.catalog_of(holder);
        let (mut at, mut holders) = (own.moment, own.holders);
        match self.flaw {
            Some(Flaw::TheirLayout) => {
                holders = question.holders;
                at = question.asked;
            }
            Some(Flaw::LayoutAlone) => at.applied = question.asked.applied,
            Some(Flaw::OtherLayout | Flaw::PutAgain | Flaw::PutAhead | Flaw::OldVerdict) | None => {
            }
        }
        let ids: Vec<NodeId> = (0..self.nodes).filter(|node| has(holders, *node)).map(id).collect();
        let has_copy = state.nodes[holder].copy.is_some();
        may_confirm(question.asked, at, &ids, id(holder), Some(&own.row), has_copy)
    }

    fn releases(&self, question: &Question, now: &Catalog, mut put_index: u64) -> bool {
        let mut epoch = now.moment.epoch;
        match self.flaw {
            Some(Flaw::OtherLayout) => epoch = question.asked.epoch,
            Some(Flaw::PutAgain) => put_index = question.put_index,
            Some(Flaw::TheirLayout | Flaw::LayoutAlone | Flaw::PutAhead | Flaw::OldVerdict)
            | None => {}
        }
        may_release(question.asked, question.put_index, epoch, put_index)
    }
}

fn id(node: usize) -> NodeId {
    NodeId(node as u64 + 1)
}

impl Model for Cluster {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let first = self.layouts[0][0];
        let nodes = (0..self.nodes)
            .map(|node| NodeState {
                applied: 1,
                copy: has(first, node).then_some(0),
                ..NodeState::default()
            })
            .collect();
        vec![State { log: vec![Entry::Layout(first)], nodes, put: None, released: false }]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        acts.extend(self.appendable(state).into_iter().map(Act::Append));
        for (node, own) in state.nodes.iter().enumerate() {
            if own.applied < state.log.len() {
                acts.push(Act::Apply(node));
            }
            let catalog = state.catalog_of(node);
            if self.collection && state.put.is_none() && !state.newest().is_needed() {
                acts.extend((0..self.nodes).map(|to| Act::Put(node, to)));
            }
            match own.copy {
                None => {
                    if catalog.is_holder(node) && catalog.is_needed() && state.copies() > 0 {
                        acts.push(Act::Pull(node));
                    }
                }
                Some(put_index) => {
                    let ahead = self.flaw == Some(Flaw::PutAhead);
                    let known = if ahead { 0 } else { put_index };
                    if own.question.is_none()
                        && !catalog.is_holder(node)
                        && may_ask(catalog.moment, Some(&catalog.row), known)
                    {
                        acts.push(Act::Ask(node));
                    }
                    if self.flaw == Some(Flaw::OldVerdict)
                        && own.verdict.is_none()
                        && catalog.deletable_below() > 0
                    {
                        acts.push(Act::Judge(node));
                    }
                    if put_index < own.verdict.unwrap_or_else(|| catalog.deletable_below()) {
                        acts.push(Act::Collect(node));
                    }
                }
            }
            if let Some(question) = own.question {
                acts.push(Act::GiveUp(node));
                for holder in 0..self.nodes {
                    if has(question.holders & !question.confirmed, holder)
                        && self.confirms(state, &question, holder)
                    {
                        acts.push(Act::Confirm(node, holder));
                    }
                }
                if question.confirmed == question.holders
                    && own.copy.is_some_and(|now| self.releases(&question, &catalog, now))
                {
                    acts.push(Act::Delete(node));
                }
            }
        }
    }

    fn next_state(&self, state: &State, act: Act) -> Option<State> {
        let mut next = state.clone();
        match act {
            Act::Append(entry) => {
                if matches!(entry, Entry::Name { .. }) {
                    next.put = None;
                }
                next.log.push(entry);
            }
            Act::Apply(node) => next.nodes[node].applied += 1,
            Act::Pull(node) => {
                next.nodes[node].copy = Some(next.nodes[node].applied as u64);
            }
            Act::Put(by, to) => {
                let put_index = state.nodes[by].applied as u64;
                next.nodes[to].copy = next.nodes[to].copy.max(Some(put_index));
                next.put = Some(put_index);
            }
            Act::Ask(node) => {
                let catalog = state.catalog_of(node);
                next.nodes[node].question = Some(Question {
                    asked: catalog.moment,
                    put_index: state.nodes[node].copy?,
                    holders: catalog.holders,
                    confirmed: 0,
                });
            }
            Act::Confirm(node, holder) => {
                next.nodes[node].question.as_mut()?.confirmed |= 1 << holder;
            }
            Act::Delete(node) => {
                next.nodes[node].question = None;
                next.nodes[node].copy = None;
                next.released = true;
            }
            Act::GiveUp(node) => next.nodes[node].question = None,
            Act::Judge(node) => {
                next.nodes[node].verdict = Some(state.catalog_of(node).deletable_below());
            }
            Act::Collect(node) => {
                next.nodes[node].copy = None;
                next.nodes[node].verdict = None;
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what is needed has its copies", |model: &Self, state: &State| {
                !state.newest().is_needed() || state.copies() >= model.copies
            }),
            Property::sometimes("copies are released", |_: &Self, state: &State| state.released),
        ]
    }
}

/// Layouts of two holders out of three or four, three of them in a row.
fn moving(nodes: usize) -> Cluster {
    let pairs: Vec<Nodes> = (0..1 << nodes).filter(|set: &Nodes| set.count_ones() == 2).collect();
    Cluster {
        nodes,
        layouts: vec![vec![0b0011], pairs.clone(), pairs.clone(), pairs],
        collection: false,
        log_max: 3,
        copies: 2,
        flaw: None,
    }
}

/// One holder, another one after it, and a block that is given up and put again meanwhile, by one acknowledged copy.
fn collecting() -> Cluster {
    Cluster {
        nodes: 2,
        layouts: vec![vec![0b01], vec![0b10], vec![0b01]],
        collection: true,
        log_max: 6,
        copies: 1,
        flaw: None,
    }
}

/// One holder, another node, and a third one that puts.
fn bystander() -> Cluster {
    Cluster { nodes: 3, layouts: vec![vec![0b001]], log_max: 5, ..collecting() }
}

fn loses(cluster: Cluster) -> bool {
    let checker = cluster.checker().spawn_bfs().join();
    assert!(checker.discovery("copies are released").is_some(), "nothing was tried");
    let lost = checker.discovery("what is needed has its copies");
    if let Some(path) = &lost {
        // Shown when a test fails.
        println!("{:?}", path.clone().into_actions());
    }
    lost.is_some()
}

#[test]
fn no_order_of_layouts_loses_a_copy() {
    assert!(!loses(Cluster { log_max: 4, ..moving(3) }));
    assert!(!loses(moving(4)));
}

#[test]
fn no_order_of_layouts_and_collections_loses_the_last_copy() {
    assert!(!loses(collecting()));
    assert!(!loses(bystander()));
}

#[test]
fn without_any_of_its_conditions_a_copy_is_lost() {
    for flaw in [Flaw::OtherLayout, Flaw::TheirLayout] {
        assert!(loses(Cluster { flaw: Some(flaw), ..moving(3) }), "{flaw:?}");
    }
    for flaw in [Flaw::LayoutAlone, Flaw::PutAhead] {
        assert!(loses(Cluster { flaw: Some(flaw), ..bystander() }), "{flaw:?}");
    }
    for flaw in [Flaw::PutAgain, Flaw::OldVerdict] {
        assert!(loses(Cluster { flaw: Some(flaw), ..collecting() }), "{flaw:?}");
    }
}
