//! Every order in which the steps of collection can happen to one block on three nodes, as far as some bounds go.
//!
//! The model has a log, nodes with at most one copy of the block each, and puts by gateways that may vanish at any point.
//! Who looks at the catalog may see it as it was after any entry, and act by what it saw at any later time: so nodes lag,
//! are stopped between looking and acting, jump ahead by a snapshot, and fall back in a power failure. What decides is the
//! code of [`collection`](super): the model knows when something may happen, not whether it is right.
//!
//! What has to hold in every state: as long as some row names the block, at least the two copies that were acknowledged are
//! there, less those whose disk was lost; and from every state the loops of the nodes, left to themselves, get rid of all
//! copies that nobody names.
//!
//! [`Planted`] takes away one part of the protocol at a time; then the search has to find how a needed block is lost.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::{admits, deletable_below, dereferenced, reaped, referenced};
use crate::tables::blocks::{BlockRow, BlockState};

const NODES: usize = 3;

/// Copies that have to be durable before the log may name the block.
const ACKNOWLEDGED: usize = 2;

/// What is built wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    Nothing,
    /// Commands name blocks without saying when they were put.
    NoFenceInCommits,
    /// Nodes delete a copy of a reaped block whenever it was put.
    NoFenceInDeletes,
    /// A holder that has the block already says so, and does nothing.
    DuplicatesKeepTheirIndex,
    /// Who confirms that it has a copy, so that another one can be let go of, does not note when it was asked.
    ConfirmationsKeepTheirIndex,
    /// Rows of reaped blocks are forgotten, and nothing stays of them.
    NoFloor,
}

/// How far the search goes.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Entries of the log.
    entries: usize,
    /// Puts, under way at the same time or one after the other.
    puts: usize,
    /// Disks that are lost.
    losses: usize,
}

struct Protocol {
    planted: Planted,
    bounds: Bounds,
}

/// The catalog after an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct Catalog {
    row: Option<BlockRow>,
    floor: u64,
}

/// A put on its way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Put {
    index: u64,
    /// Holders that have acknowledged it, in bits.
    stored: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// The catalog before the first entry, after it, and so on.
    log: Vec<Catalog>,
    /// The put index of each node's copy.
    copies: [Option<u64>; NODES],
    puts: Vec<Put>,
    puts_begun: usize,
    lost: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// A gateway begins to put the block, on a node that had applied so many entries.
    Begin {
        applied: usize,
    },
    /// A holder stores it.
    Store {
        put: usize,
        holder: usize,
    },
    /// The gateway has enough copies and proposes to name the block.
    Commit {
        put: usize,
    },
    Vanish {
        put: usize,
    },
    Dereference,
    Reap,
    /// The floor rises to this index, and what is below it is forgotten.
    Forget {
        floor: u64,
    },
    /// A node deletes its copy, by what it saw when it had applied so many entries.
    Delete {
        node: usize,
        applied: usize,
    },
    /// A node pulls a copy, because it was its duty when it had applied so many entries.
    Pull {
        node: usize,
        applied: usize,
    },
    /// A node lets go of its copy, because it is one too many: the two others have confirmed that they have theirs.
    Release {
        node: usize,
    },
    LoseDisk {
        node: usize,
    },
}

impl State {
    fn newest(&self) -> &Catalog {
        self.log.last().expect("there is a catalog before the first entry")
    }

    fn copies(&self) -> usize {
        self.copies.iter().flatten().count()
    }

    /// The same state, where which node is which and which put is which does not matter.
    fn representative(mut self) -> Self {
        let mut order: Vec<usize> = (0..NODES).collect();
        let has = |node: usize| self.puts.iter().map(move |put| put.stored >> node & 1);
        order.sort_by_key(|node| (self.copies[*node], has(*node).collect::<Vec<_>>()));
        self.copies = std::array::from_fn(|place| self.copies[order[place]]);
        for put in &mut self.puts {
            let stored = put.stored;
            put.stored = order.iter().rev().fold(0, |bits, node| bits << 1 | stored >> node & 1);
        }
        self.puts.sort_unstable_by_key(|put| (put.index, put.stored));
        self
    }
}

impl Catalog {
    fn needs_it(&self) -> bool {
        self.row.as_ref().is_some_and(|row| row.state() == BlockState::Needed)
    }
}

impl Protocol {
    fn admits(&self, catalog: &Catalog, put_index: u64) -> bool {
        self.planted == Planted::NoFenceInCommits
            || admits(catalog.row.as_ref(), catalog.floor, put_index)
    }

    fn bound(&self, catalog: &Catalog) -> u64 {
        let bound = deletable_below(catalog.row.as_ref(), catalog.floor);
        let unfenced = self.planted == Planted::NoFenceInDeletes && bound > 0;
        if unfenced { u64::MAX } else { bound }
    }

    fn commit(&self, catalog: &Catalog, put_index: u64) -> Catalog {
        if !self.admits(catalog, put_index) {
            return catalog.clone();
        }
        let row = referenced(catalog.row.clone(), 1).expect("there are few references");
        Catalog { row: Some(row), ..catalog.clone() }
    }

    fn forget(&self, catalog: &Catalog, floor: u64) -> Catalog {
        let forgotten =
            |row: &BlockRow| matches!(row.state(), BlockState::Reaped { at } if at <= floor);
        let row = catalog.row.clone().filter(|row| !forgotten(row));
        let floor = if self.planted == Planted::NoFloor { 0 } else { floor };
        Catalog { row, floor }
    }

    /// The copies that are left when nothing is put or named any more and the loops have done what they do: reap, forget, and
    /// look at it with the newest catalog.
    fn settled_copies(&self, state: &State) -> usize {
        let Catalog { row, floor } = state.newest().clone();
        let index = state.log.len() as u64;
        let row = row.map(|row| reaped(row.clone(), index, u64::MAX).unwrap_or(row));
        // Later puts may have been stored by somebody who vanished: the floor passes them too.
        let last = self.forget(&Catalog { row, floor }, index);
        let bound = self.bound(&last);
        state.copies.iter().flatten().filter(|put_index| **put_index >= bound).count()
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            log: vec![Catalog::default()],
            copies: [None; NODES],
            puts: Vec::new(),
            puts_begun: 0,
            lost: 0,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let last = state.log.len() - 1;
        if state.puts_begun < self.bounds.puts {
            steps.extend((0..=last).map(|applied| Step::Begin { applied }));
        }
        for (put, under_way) in state.puts.iter().enumerate() {
            let missing = (0..NODES).filter(|holder| under_way.stored >> holder & 1 == 0);
            steps.extend(missing.map(|holder| Step::Store { put, holder }));
            let enough = under_way.stored.count_ones() as usize >= ACKNOWLEDGED;
            if enough && last < self.bounds.entries {
                steps.push(Step::Commit { put });
            }
            steps.push(Step::Vanish { put });
        }
        for (node, copy) in state.copies.iter().enumerate() {
            for (applied, catalog) in state.log.iter().enumerate() {
                match copy {
                    Some(put_index) if *put_index < self.bound(catalog) => {
                        steps.push(Step::Delete { node, applied });
                    }
                    None if catalog.needs_it() && state.copies() > 0 => {
                        steps.push(Step::Pull { node, applied });
                    }
                    Some(_) | None => {}
                }
            }
            if state.copies() == NODES && state.newest().needs_it() {
                steps.push(Step::Release { node });
            }
            if copy.is_some() && state.lost < self.bounds.losses {
                steps.push(Step::LoseDisk { node });
            }
        }
        if last < self.bounds.entries {
            match state.newest().row.as_ref().map(BlockRow::state) {
                Some(BlockState::Needed) => steps.push(Step::Dereference),
                Some(BlockState::Waiting { .. }) => steps.push(Step::Reap),
                Some(BlockState::Reaped { .. }) | None => {}
            }
            // To be safe, forgetting has to need no patience: the floor may rise to anything that has been.
            let higher = state.newest().floor + 1..=last as u64;
            steps.extend(higher.map(|floor| Step::Forget { floor }));
        }
    }

    fn next_state(&self, before: &State, step: Step) -> Option<State> {
        let mut state = before.clone();
        let newest = state.newest().clone();
        let index = state.log.len() as u64;
        match step {
            Step::Begin { applied } => {
                state.puts.push(Put { index: applied as u64, stored: 0 });
                state.puts_begun += 1;
            }
            Step::Store { put, holder } => {
                let put = &mut state.puts[put];
                put.stored |= 1 << holder;
                let copy = &mut state.copies[holder];
                *copy = match *copy {
                    Some(there) if self.planted == Planted::DuplicatesKeepTheirIndex => Some(there),
                    Some(there) => Some(there.max(put.index)),
                    None => Some(put.index),
                };
            }
            Step::Commit { put } => {
                let put = state.puts.remove(put);
                state.log.push(self.commit(&newest, put.index));
            }
            Step::Vanish { put } => drop(state.puts.remove(put)),
            Step::Dereference => {
                let row = newest.row.map(|row| dereferenced(row, 0));
                state.log.push(Catalog { row, ..newest });
            }
            Step::Reap => {
                let row = newest.row.and_then(|row| reaped(row, index, 0));
                state.log.push(Catalog { row, ..newest });
            }
            Step::Forget { floor } => state.log.push(self.forget(&newest, floor)),
            Step::Delete { node, .. } | Step::LoseDisk { node } => state.copies[node] = None,
            Step::Release { node } => {
                for copy in state.copies.iter_mut().flatten() {
                    if self.planted != Planted::ConfirmationsKeepTheirIndex {
                        *copy = index - 1;
                    }
                }
                state.copies[node] = None;
            }
            Step::Pull { node, applied } => state.copies[node] = Some(applied as u64),
        }
        state.lost += usize::from(matches!(step, Step::LoseDisk { .. }));
        Some(state.representative())
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEEDED_IS_THERE, |_, state: &State| {
                !state.newest().needs_it() || state.copies() + state.lost >= ACKNOWLEDGED
            }),
            Property::always(GARBAGE_GOES, |protocol: &Self, state: &State| {
                state.newest().needs_it() || protocol.settled_copies(state) == 0
            }),
            Property::sometimes(
                "a block is needed again after it was reaped",
                |_, state: &State| {
                    let row = state.newest().row.as_ref();
                    state.newest().needs_it() && row.is_some_and(|row| row.reaped_at.is_some())
                },
            ),
            Property::sometimes(
                "a block is needed again after it was forgotten",
                |_, state: &State| {
                    let row = state.newest().row.as_ref();
                    let was_known = state.log.iter().any(|catalog| catalog.row.is_some());
                    was_known
                        && row.is_some_and(|row| row.references > 0 && row.reaped_at.is_none())
                        && state
                            .log
                            .iter()
                            .any(|catalog| catalog.floor > 0 && catalog.row.is_none())
                },
            ),
            Property::sometimes("all copies of a block are gone", |_, state: &State| {
                state.log.len() > 1 && state.lost == 0 && state.copies() == 0
            }),
        ]
    }
}

const NEEDED_IS_THERE: &str = "what is needed is there";
const GARBAGE_GOES: &str = "garbage goes";

fn search(planted: Planted, bounds: Bounds) -> impl Checker<Protocol> {
    let protocol = Protocol { planted, bounds }.checker();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Garbage that stays is another matter.
    let enough = HasDiscoveries::AllOf(BTreeSet::from([NEEDED_IS_THERE]));
    protocol.threads(threads).finish_when(enough).spawn_bfs().join()
}

#[test]
fn no_order_of_steps_loses_a_needed_block_or_keeps_garbage() {
    search(Planted::Nothing, Bounds { entries: 6, puts: 2, losses: 0 }).assert_properties();
}

#[test]
fn nor_does_a_lost_disk() {
    search(Planted::Nothing, Bounds { entries: 5, puts: 2, losses: 1 }).assert_properties();
}

#[test]
fn nor_do_three_puts() {
    let found = search(Planted::Nothing, Bounds { entries: 4, puts: 3, losses: 0 });
    found.assert_no_discovery(NEEDED_IS_THERE);
    found.assert_no_discovery(GARBAGE_GOES);
}

#[test]
fn each_part_of_the_protocol_is_needed() {
    for planted in [
        Planted::NoFenceInCommits,
        Planted::NoFenceInDeletes,
        Planted::DuplicatesKeepTheirIndex,
        Planted::ConfirmationsKeepTheirIndex,
        Planted::NoFloor,
    ] {
        let found = search(planted, Bounds { entries: 5, puts: 2, losses: 0 });
        assert!(found.discovery(NEEDED_IS_THERE).is_some(), "{planted:?} does no harm");
    }
}
