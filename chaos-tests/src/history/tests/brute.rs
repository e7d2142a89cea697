//! The same question, answered by trying everything: slow, and too simple to be wrong in the same way.

use proptest::prelude::*;
use proptest::sample::Index;

use super::random::few_operations;
use super::{Verdict, change, content, initial, judge, operation};
use crate::history::{Fate, Operation, Version, What};

/// Whether some order of the operations, with any of those without answer left out, explains all answers.
fn possible(operations: &[Operation]) -> bool {
    let left: Vec<_> = operations
        .iter()
        .filter(|operation| {
            !matches!(operation.what, What::Read(None) | What::Change { fate: Fate::Never, .. })
        })
        .collect();
    let first = initial();
    extend(&mut vec![(first.value, Some(first.version))], &left)
}

/// `past` has what the register showed so far, with its version once somebody was told.
fn extend(past: &mut Vec<(String, Option<Version>)>, left: &[&Operation]) -> bool {
    let definite =
        |operation: &Operation| !matches!(operation.what, What::Change { fate: Fate::Unknown, .. });
    if !left.iter().any(|operation| definite(operation)) && grows(past) {
        return true;
    }
    left.iter().enumerate().any(|(place, next)| {
        let waits = |other: &&Operation| definite(other) && other.ended < next.began;
        if left.iter().any(waits) {
            return false;
        }
        let mut rest = left.to_vec();
        rest.remove(place);
        let before = past.clone();
        let found = apply(past, &next.what) && grows(past) && extend(past, &rest);
        *past = before;
        found
    })
}

fn apply(past: &mut Vec<(String, Option<Version>)>, what: &What) -> bool {
    let (value, version) = past.last_mut().expect("it begins with the initial one");
    match what {
        What::Read(None) | What::Change { fate: Fate::Never, .. } => unreachable!(),
        What::Read(Some(seen)) => {
            *value == seen.value && *version.get_or_insert(seen.version) == seen.version
        }
        What::Change { fate: Fate::Mismatch { actual }, .. } => {
            version.get_or_insert(*actual) == actual
        }
        What::Change { value: next, expected, fate } => {
            if expected.is_some_and(|expected| *version.get_or_insert(expected) != expected) {
                return false;
            }
            let made = match fate {
                Fate::Applied { version, .. } => *version,
                Fate::Mismatch { .. } | Fate::Never | Fate::Unknown => None,
            };
            past.push((next.clone(), made));
            true
        }
    }
}

/// Whether versions can be found for those changes of which nobody was told any.
fn grows(past: &[(String, Option<Version>)]) -> bool {
    let mut least = 0;
    past.iter().all(|(_, version)| {
        let fits = version.is_none_or(|version| version >= least);
        least = version.unwrap_or(least) + 1;
        fits
    })
}

fn any_operation(value: usize) -> impl Strategy<Value = Operation> {
    let version = 9..15_u64;
    let fate = prop_oneof![
        3 => prop::option::of(11..15_u64).prop_map(|version| Fate::Applied { version, index: 0 }),
        2 => Just(Fate::Unknown),
        1 => (10..15_u64).prop_map(|actual| Fate::Mismatch { actual }),
        1 => Just(Fate::Never),
    ];
    let written = (prop::option::of(version), fate)
        .prop_map(move |(expected, fate)| change(0, 0, &format!("{value}"), expected, fate).what);
    let read = (10..15_u64, 0..6_usize).prop_map(|(version, value)| {
        let value = if value == 5 { "first".to_owned() } else { format!("{value}") };
        What::Read(Some(content(version, &value)))
    });
    prop_oneof![written, read].prop_map(|what| operation(0, 0, what))
}

/// Up to six operations with random answers, which begin and end in random order.
fn any_history() -> impl Strategy<Value = Vec<Operation>> {
    (1..7_usize)
        .prop_flat_map(|count| {
            let operations: Vec<_> = (0..count).map(any_operation).collect();
            let moments: Vec<u64> = (1..=2 * count as u64).collect();
            (operations, Just(moments).prop_shuffle())
        })
        .prop_map(|(mut operations, moments)| {
            for (operation, moments) in operations.iter_mut().zip(moments.chunks(2)) {
                operation.began.order = moments[0].min(moments[1]);
                operation.ended.order = moments[0].max(moments[1]);
            }
            operations
        })
}

/// What a real register answered to a few, with one operation more or less, or one answer changed.
fn almost_real_history() -> impl Strategy<Value = Vec<Operation>> {
    (few_operations(), any::<Index>(), any_operation(99), 0..3_usize).prop_map(
        |(mut operations, which, other, how)| {
            if operations.is_empty() {
                return operations;
            }
            let which = which.index(operations.len());
            match how {
                0 => drop(operations.remove(which)),
                1 => operations[which].what = other.what,
                _ => {}
            }
            operations
        },
    )
}

/// Whether a change without answer waits for a version that nobody was told of. No client does that.
fn invents(operations: &[Operation]) -> bool {
    let mut told = vec![initial().version];
    for operation in operations {
        match &operation.what {
            What::Read(Some(seen)) => told.push(seen.version),
            What::Change { expected, fate: Fate::Applied { version, .. }, .. } => {
                told.extend(expected.iter().chain(version));
            }
            What::Change { fate: Fate::Mismatch { actual }, .. } => told.push(*actual),
            What::Read(None) | What::Change { .. } => {}
        }
    }
    operations.iter().any(|operation| match &operation.what {
        What::Change { expected: Some(expected), fate: Fate::Unknown, .. } => {
            !told.contains(expected)
        }
        What::Read(_) | What::Change { .. } => false,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, max_global_rejects: 1_000_000, ..ProptestConfig::default() })]

    #[test]
    fn the_search_agrees_with_trying_everything(operations in prop_oneof![any_history(), almost_real_history()]) {
        prop_assume!(!invents(&operations));
        let found = judge(&operations);
        prop_assert!(!matches!(found, Verdict::Undecided(_)));
        prop_assert_eq!(found == Verdict::Linearizable, possible(&operations), "{:?}", found);
    }
}
