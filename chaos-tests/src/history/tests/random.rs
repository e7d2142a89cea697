//! Long histories of a register that works, and of the same with one thing gone wrong.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::Index;

use super::{Verdict, change, content, initial, judge, operation};
use crate::history::{Content, Fate, Operation, Version, What};

/// What a client asks next.
#[derive(Clone, Debug)]
enum Ask {
    Read,
    Write,
    /// Over the newest version that anybody was told of, or one that is older by so many.
    Swap {
        older: usize,
    },
}

/// One thing that happens: a client asks, what it asked takes effect, it is answered, or it gives up.
#[derive(Clone, Debug)]
struct Happening {
    client: usize,
    ask: Ask,
    /// When this is its answer: whether the answer is lost, and whether it says the version.
    lost: bool,
    told: bool,
    /// How far versions grow.
    step: u64,
    /// Which of the changes of clients that have given up takes effect now, if any.
    late: Option<Index>,
}

fn any_happening(clients: usize) -> impl Strategy<Value = Happening> {
    let ask = prop_oneof![
        2 => Just(Ask::Read),
        2 => Just(Ask::Write),
        1 => (0..3_usize).prop_map(|older| Ask::Swap { older }),
    ];
    let late = prop::option::weighted(0.1, any::<Index>());
    (0..clients, ask, prop::bool::weighted(0.15), any::<bool>(), 1..4_u64, late).prop_map(
        |(client, ask, lost, told, step, late)| Happening { client, ask, lost, told, step, late },
    )
}

/// Where a client is with what it asked.
enum Progress {
    Asked(usize),
    TookEffect(usize, What),
}

/// A register that does everything at one instant.
struct Real {
    past: Vec<Content>,
    told: BTreeSet<Version>,
    operations: Vec<Operation>,
    /// Changes of those who have given up.
    abandoned: Vec<usize>,
}

impl Real {
    fn take_effect(&mut self, place: usize, step: u64, told: bool) -> What {
        let now = self.past.last().expect("it begins with the initial one").clone();
        match &self.operations[place].what {
            What::Read(_) => What::Read(Some(now)),
            What::Change { value, expected, .. } => {
                let fate = if expected.is_none_or(|expected| expected == now.version) {
                    let version = now.version + step;
                    self.past.push(content(version, value));
                    Fate::Applied { version: told.then_some(version), index: version }
                } else {
                    Fate::Mismatch { actual: now.version }
                };
                What::Change { value: value.clone(), expected: *expected, fate }
            }
        }
    }
}

fn version_in(answer: &What) -> Option<Version> {
    match answer {
        What::Read(seen) => seen.as_ref().map(|seen| seen.version),
        What::Change { fate: Fate::Applied { version, .. }, .. } => *version,
        What::Change { fate: Fate::Mismatch { actual }, .. } => Some(*actual),
        What::Change { fate: Fate::Never | Fate::Unknown, .. } => None,
    }
}

/// The history that comes of it, and all that the register ever showed.
fn run(happenings: Vec<Happening>) -> (Vec<Operation>, Vec<Content>) {
    let mut real = Real {
        past: vec![initial()],
        told: BTreeSet::from([initial().version]),
        operations: Vec::new(),
        abandoned: Vec::new(),
    };
    let mut clients: Vec<Option<Progress>> = (0..8).map(|_| None).collect();
    for (order, happening) in (1..).zip(happenings) {
        if let Some(index) = happening.late.filter(|_| !real.abandoned.is_empty()) {
            let place = real.abandoned.remove(index.index(real.abandoned.len()));
            real.take_effect(place, happening.step, false);
        }
        let progress = clients[happening.client].take();
        clients[happening.client] = match progress {
            None => {
                let place = real.operations.len();
                let what = match happening.ask {
                    Ask::Read => What::Read(None),
                    Ask::Write => change(0, 0, &format!("{place}"), None, Fate::Unknown).what,
                    Ask::Swap { older } => {
                        let expected = real.told.iter().rev().nth(older).copied();
                        let expected = expected.or(Some(initial().version));
                        change(0, 0, &format!("{place}"), expected, Fate::Unknown).what
                    }
                };
                real.operations.push(operation(order, order, what));
                Some(Progress::Asked(place))
            }
            Some(Progress::Asked(place)) if happening.lost => {
                real.operations[place].ended.order = order;
                real.abandoned.push(place);
                None
            }
            Some(Progress::Asked(place)) => {
                let answer = real.take_effect(place, happening.step, happening.told);
                Some(Progress::TookEffect(place, answer))
            }
            Some(Progress::TookEffect(place, answer)) => {
                real.operations[place].ended.order = order;
                if !happening.lost {
                    real.told.extend(version_in(&answer));
                    real.operations[place].what = answer;
                }
                None
            }
        };
    }
    (real.operations, real.past)
}

/// Up to eight.
pub(super) fn few_operations() -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(any_happening(3), 4..24).prop_map(|happenings| {
        let mut operations = run(happenings).0;
        operations.truncate(8);
        operations
    })
}

fn any_history() -> impl Strategy<Value = (Vec<Operation>, Vec<Content>)> {
    prop::collection::vec(any_happening(8), 50..400).prop_map(run)
}

/// A moment after everything.
fn end_of(operations: &[Operation]) -> u64 {
    operations.iter().map(|operation| operation.ended.order).max().unwrap_or(0) + 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn what_happened_can_happen((operations, _) in any_history()) {
        prop_assert_eq!(judge(&operations), Verdict::Linearizable);
    }

    #[test]
    fn a_read_of_what_was_replaced_is_found((mut operations, past) in any_history(), which in any::<Index>()) {
        prop_assume!(past.len() > 1);
        // Everything has ended, so only the last content can be read, or what those without answer still write.
        let old = past[which.index(past.len() - 1)].clone();
        let end = end_of(&operations);
        operations.push(operation(end, end + 1, What::Read(past.last().cloned())));
        operations.push(operation(end + 2, end + 3, What::Read(Some(old))));
        prop_assert!(matches!(judge(&operations), Verdict::Broken(_)));
    }

    #[test]
    fn an_acknowledged_write_that_is_lost_is_found((mut operations, past) in any_history()) {
        let last = past.last().expect("never empty").clone();
        let end = end_of(&operations);
        let next = last.version + 1;
        let acknowledged = Fate::Applied { version: Some(next), index: next };
        operations.push(change(end, end + 1, "lost", None, acknowledged));
        operations.push(operation(end + 2, end + 3, What::Read(Some(last))));
        prop_assert!(matches!(judge(&operations), Verdict::Broken(_)));
    }

    #[test]
    fn a_write_that_is_applied_twice_is_found((mut operations, past) in any_history(), which in any::<Index>()) {
        let again = &past[which.index(past.len())];
        let version = past.last().expect("never empty").version + 1;
        let seen = |operations: &[Operation]| operations.iter().any(|operation| match &operation.what {
            What::Read(Some(seen)) => seen == again,
            What::Change { fate: Fate::Applied { version, .. }, .. } => *version == Some(again.version),
            What::Read(None) | What::Change { .. } => false,
        });
        prop_assume!(*again == past[0] || seen(&operations));
        let end = end_of(&operations);
        operations.push(operation(end, end + 1, What::Read(Some(content(version, &again.value)))));
        prop_assert!(matches!(judge(&operations), Verdict::Broken(_)));
    }

    #[test]
    fn two_winners_are_found((mut operations, past) in any_history()) {
        let last = past.last().expect("never empty").version;
        let end = end_of(&operations);
        operations.push(change(end, end + 2, "winner", Some(last), Fate::Applied { version: None, index: 0 }));
        operations.push(change(end + 1, end + 3, "other winner", Some(last), Fate::Applied { version: None, index: 0 }));
        prop_assert!(matches!(judge(&operations), Verdict::Broken(_)));
    }
}
