//! One history for each way in which a cluster can be right or wrong.

use super::super::positions;
use super::{DONE, Fate, Verdict, change, check, done, initial, judge, operation, read};
use crate::history::{Operation, What};

#[track_caller]
fn good(operations: &[Operation]) {
    assert_eq!(judge(operations), Verdict::Linearizable);
}

#[track_caller]
fn bad(reason: &str, operations: &[Operation]) {
    let verdict = judge(operations);
    assert!(
        matches!(&verdict, Verdict::Broken(text) if text.contains(reason)),
        "not for that reason: {verdict:?}"
    );
}

#[test]
fn nothing_happened() {
    good(&[]);
    good(&[operation(1, 2, What::Read(None))]);
    good(&[read(1, 2, 10, "first")]);
}

#[test]
fn one_after_the_other() {
    good(&[
        change(1, 2, "a", None, done(11)),
        read(3, 4, 11, "a"),
        change(5, 6, "b", Some(11), done(15)),
        read(7, 8, 15, "b"),
        change(9, 10, "c", Some(11), Fate::Mismatch { actual: 15 }),
        read(11, 12, 15, "b"),
    ]);
}

#[test]
fn at_the_same_time() {
    // Either read may come before the write, but not both orders at once.
    good(&[change(1, 6, "a", None, done(11)), read(2, 5, 10, "first"), read(3, 4, 11, "a")]);
    bad(
        "version 10",
        &[change(1, 8, "a", None, done(11)), read(2, 3, 11, "a"), read(4, 5, 10, "first")],
    );
}

#[test]
fn a_stale_read() {
    bad("no order", &[change(1, 2, "a", None, done(11)), read(3, 4, 10, "first")]);
    bad("no order", &[change(1, 2, "a", None, DONE), read(3, 4, 10, "first")]);
    // A refused condition is a look at the version.
    bad(
        "no order",
        &[
            change(1, 2, "a", None, done(11)),
            change(3, 4, "b", Some(11), done(12)),
            change(5, 6, "c", Some(12), Fate::Mismatch { actual: 11 }),
        ],
    );
}

#[test]
fn a_lost_write() {
    bad(
        "no order",
        &[
            change(1, 2, "a", None, done(11)),
            change(3, 4, "b", None, done(12)),
            read(5, 6, 11, "a"),
        ],
    );
    // Lost, and then something else was written over what was before it.
    bad(
        "no order",
        &[
            change(1, 2, "a", None, done(11)),
            change(3, 4, "b", None, done(12)),
            change(5, 6, "c", Some(11), done(13)),
        ],
    );
    // No version is left for the acknowledged write.
    bad(
        "no order",
        &[
            change(1, 2, "a", None, done(11)),
            change(3, 4, "b", None, DONE),
            change(5, 6, "c", None, done(12)),
        ],
    );
    good(&[
        change(1, 2, "a", None, done(11)),
        change(3, 4, "b", None, DONE),
        change(5, 6, "c", None, done(13)),
    ]);
}

#[test]
fn a_value_that_nobody_wrote() {
    bad("never written", &[read(1, 2, 11, "ghost")]);
    bad("was refused", &[change(1, 2, "a", None, Fate::Never), read(3, 4, 11, "a")]);
    let refused = Fate::Mismatch { actual: 10 };
    bad("was refused", &[change(1, 2, "a", Some(9), refused), read(3, 4, 11, "a")]);
    // From the future.
    bad("no order", &[read(1, 2, 11, "a"), change(3, 4, "a", None, done(11))]);
}

#[test]
fn a_value_that_goes_back() {
    let writes = [change(1, 2, "a", None, done(11)), change(3, 4, "b", None, done(12))];
    let again = [writes.to_vec(), vec![read(5, 6, 12, "b"), read(7, 8, 11, "a")]].concat();
    bad("no order", &again);
    // The same under a new version is a change that was applied twice.
    let twice = [writes.to_vec(), vec![read(5, 6, 12, "b"), read(7, 8, 13, "a")]].concat();
    bad("applied twice", &twice);
    let early = [read(1, 2, 9, "z"), change(3, 4, "z", None, Fate::Unknown)];
    bad("after version 10", &early);
}

#[test]
fn two_winners_of_one_comparison() {
    bad(
        "no order",
        &[change(1, 3, "a", Some(10), done(11)), change(2, 4, "b", Some(10), done(12))],
    );
    bad("no order", &[change(1, 3, "a", Some(10), DONE), change(2, 4, "b", Some(10), DONE)]);
    good(&[
        change(1, 3, "a", Some(10), done(11)),
        change(2, 4, "b", Some(10), Fate::Mismatch { actual: 11 }),
    ]);
}

#[test]
fn a_write_without_answer() {
    let lost = change(1, 2, "a", None, Fate::Unknown);
    good(&[lost.clone(), read(3, 4, 10, "first")]);
    good(&[lost.clone(), read(3, 4, 11, "a")]);
    // Late.
    good(&[lost.clone(), change(3, 4, "b", None, done(11)), read(5, 6, 12, "a")]);
    // Late, and seen by nobody but somebody who was refused.
    let refused = change(5, 6, "c", Some(11), Fate::Mismatch { actual: 12 });
    good(&[lost.clone(), change(3, 4, "b", None, done(11)), refused.clone()]);
    bad("no order", &[change(3, 4, "b", None, done(11)), refused]);
    // Not before it began, not twice, and not without its condition.
    bad("no order", &[read(1, 2, 11, "a"), change(3, 4, "a", None, Fate::Unknown)]);
    bad("applied twice", &[lost, read(3, 4, 11, "a"), read(5, 6, 12, "a")]);
    bad(
        "no order",
        &[
            change(1, 2, "a", Some(10), Fate::Unknown),
            change(3, 4, "b", None, done(11)),
            read(5, 6, 12, "a"),
        ],
    );
}

#[test]
fn one_version_of_two_values() {
    bad(
        "version 11 was seen with",
        &[change(1, 2, "a", None, done(11)), change(3, 4, "b", None, done(11))],
    );
}

/// After twenty killed leaders: hundreds of writes without answer, most of them seen by nobody, and as many under way.
#[test]
fn many_writes_without_answer_are_decided_quickly() {
    let mut operations = Vec::new();
    for n in 0..300 {
        operations.push(change(n + 1, n + 1, &format!("lost {n}"), None, Fate::Unknown));
    }
    for n in 0..100 {
        operations.push(change(1000 + n, 2000 + n, &format!("held {n}"), None, DONE));
    }
    operations.push(change(3000, 3001, "a", Some(10), Fate::Mismatch { actual: 400 }));
    operations.push(read(3002, 3003, 500, "lost 77"));
    good(&operations);
    operations.push(read(3004, 3005, 400, "lost 78"));
    bad("no order", &operations);
}

#[test]
fn a_search_without_end_is_no_success() {
    let operations: Vec<_> =
        (0..10).map(|n| change(n + 1, 100 + n, &format!("{n}"), None, DONE)).collect();
    assert!(matches!(check(&initial(), &operations, 3), Verdict::Undecided(_)));
    good(&operations);
}

#[test]
fn places_in_the_log_follow_the_order_of_writes() {
    let at = |began, ended, index| {
        change(began, ended, &format!("{began}"), None, Fate::Applied { version: None, index })
    };
    assert!(positions::check(&[at(1, 2, 11), at(3, 5, 13), at(4, 6, 12)]).is_ok());
    assert!(positions::check(&[at(1, 4, 11), at(3, 5, 11)]).unwrap_err().contains("one place"));
    let back = positions::check(&[at(1, 2, 12), at(3, 4, 11), at(5, 6, 13)]);
    assert!(back.unwrap_err().contains("earlier place"));
}
