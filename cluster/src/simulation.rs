//! The catalog under everything that consensus may do to it, thousands of times.
//!
//! Here the real [`apply`](crate::apply::apply) runs on several replicas. Consensus around it is a model that keeps the
//! promises of Raft and nothing more: one log of committed commands, leaders that come and go, entries that are lost before
//! they are committed. Everything else goes wrong as often as it can: commands and answers are lost, delayed and overtaken;
//! proposers send again what they have no answer to, give up, and start anew; replicas apply in batches of any size, crash
//! and go back to what they had made durable, and are given the tables of another one as a snapshot; the leaders' clocks
//! differ by hours.
//!
//! # What is checked
//!
//! - Replicas that have applied the same entries have the same tables, byte by byte, and gave the same replies.
//! - Each command takes effect once at most, and exactly once if its proposer waits for it long enough; every answer to it
//!   is the same.
//! - What was acknowledged is in the log at the index that the acknowledgement names, and stays.
//! - Who reads at one replica, or anywhere with the index that it has seen, never sees an earlier catalog than before.
//! - As long as a block is named, the copies that its proposer was promised are there, whoever collects garbage when.
//! - All [`invariants`](crate::invariants) hold.
//!
//! A schedule is made from one number, its seed. A failure names it; with `REELRAFT_SIMULATION_SEED` in the environment that
//! schedule alone is run and told event by event. That these checks see what they are for is shown by running them with
//! [`Faults`] planted.

mod consensus;
mod judge;
mod proposer;
mod replica;
mod schedule;
mod stores;
mod workload;

use std::collections::BTreeSet;

use crate::apply::{Applied, apply};
use crate::command::Command;
use crate::ids::ClientId;
use crate::testing::{ACTION_NAMES, JUST_NOW};
use crate::view::{TableId, Transaction, ViewError};

use judge::Judge;
use schedule::Schedule;

/// How replicas apply.
type Apply = fn(&mut Transaction<'_>, u64, &Command) -> Result<Applied, ViewError>;

/// What is built wrong on purpose; nothing by default.
#[derive(Clone, Copy)]
struct Faults {
    apply: Apply,
    /// Left out of every snapshot.
    forgotten_table: Option<TableId>,
    /// Whether leaders answer when they have appended a command, not when it has been applied.
    answers_early: bool,
    /// Whether a replica takes a snapshot that is older than its tables.
    takes_old_snapshots: bool,
    /// Whether nodes delete copies without asking when they were put.
    deletes_unfenced: bool,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            apply,
            forgotten_table: None,
            answers_early: false,
            takes_old_snapshots: false,
            deletes_unfenced: false,
        }
    }
}

/// Schedules in one test. Several tests share the work, because they run at the same time.
const SCHEDULES: u64 = 600;

/// Runs the schedules of these seeds and returns what happened in them.
fn run_all(seeds: std::ops::Range<u64>) -> BTreeSet<(&'static str, &'static str)> {
    let start = Judge::start();
    let mut seen = BTreeSet::new();
    for seed in seeds {
        let mut schedule = Schedule::new(seed, &start, Faults::default(), false);
        if let Err(finding) = schedule.run() {
            panic!(
                "seed {seed}: {finding}\nTo see how it came to this:\n  REELRAFT_SIMULATION_SEED={seed} cargo test -p cluster \
                 simulation::the_schedule_of_one_seed -- --nocapture"
            );
        }
        seen.extend(schedule.seen());
    }
    seen
}

#[test]
fn schedules_of_the_first_seeds() {
    run_all(0..SCHEDULES);
}

#[test]
fn schedules_of_the_next_seeds() {
    run_all(SCHEDULES..2 * SCHEDULES);
}

#[test]
fn schedules_of_the_last_seeds() {
    run_all(2 * SCHEDULES..3 * SCHEDULES);
}

#[test]
fn the_schedule_of_one_seed() {
    #[expect(clippy::disallowed_methods, reason = "chooses what is tested, not what is decided")]
    let seed = std::env::var("REELRAFT_SIMULATION_SEED");
    let seed = seed.map_or(u64::MAX, |seed| seed.parse().expect("a seed is a number"));
    let mut schedule = Schedule::new(seed, &Judge::start(), Faults::default(), true);
    let outcome = schedule.run();
    println!("{}", schedule.told());
    outcome.unwrap();
}

#[test]
fn schedules_see_everything() {
    // What never happens is not tested.
    let seen = run_all(10_000..10_300);
    // The cluster is born already: that is refused always.
    for kind in ACTION_NAMES.into_iter().filter(|kind| *kind != "init_cluster") {
        assert!(seen.contains(&(kind, "done")), "{kind} was never done");
    }
    for event in [
        "command lost",
        "command sent again",
        "command repeated in the log",
        "command forgotten",
        "command given up",
        "answer lost",
        "answered again",
        "entries lost",
        "entries kept by the next leader",
        "replica crashed behind",
        "replica has to have a snapshot",
        "snapshot installed",
        "proposer restarted",
        "read waited",
        "blocks have to be put again",
        "copies deleted",
    ] {
        assert!(seen.contains(&("event", event)), "{event}: never");
    }
}

#[test]
fn the_same_seed_is_the_same_schedule() {
    let start = Judge::start();
    let told = |seed| {
        let mut schedule = Schedule::new(seed, &start, Faults::default(), true);
        schedule.run().unwrap();
        schedule.told()
    };
    assert_eq!(told(5), told(5));
    assert_ne!(told(5), told(6));
}

/// Whether something like this is found within some schedules.
fn finds(faults: Faults, what: &str) -> bool {
    let start = Judge::start();
    (0..SCHEDULES).any(|seed| {
        let outcome = Schedule::new(seed, &start, faults, false).run();
        outcome.is_err_and(|finding| finding.contains(what))
    })
}

#[test]
fn the_checks_find_commands_that_take_effect_twice() {
    /// Takes each command for another one.
    fn without_memory(
        tx: &mut Transaction<'_>,
        index: u64,
        command: &Command,
    ) -> Result<Applied, ViewError> {
        let client = ClientId(u128::from(index).to_be_bytes());
        apply(tx, index, &Command { client, ..command.clone() })
    }
    assert!(finds(Faults { apply: without_memory, ..Faults::default() }, "took effect again"));
}

#[test]
fn the_checks_find_commands_that_never_take_effect() {
    /// Takes a command for an old one if there may be one before it that is still under way.
    fn impatient(
        tx: &mut Transaction<'_>,
        index: u64,
        command: &Command,
    ) -> Result<Applied, ViewError> {
        apply(tx, index, &Command { answered_below: command.sequence, ..command.clone() })
    }
    assert!(finds(Faults { apply: impatient, ..Faults::default() }, "although it was waited for"));
}

#[test]
fn the_checks_find_replicas_that_differ() {
    use std::sync::atomic::{AtomicU64, Ordering};

    static CALLS: AtomicU64 = AtomicU64::new(0);

    /// Has a clock of its own.
    fn with_a_clock(
        tx: &mut Transaction<'_>,
        index: u64,
        command: &Command,
    ) -> Result<Applied, ViewError> {
        let time_ms = command.time_ms + CALLS.fetch_add(1, Ordering::Relaxed);
        apply(tx, index, &Command { time_ms, ..command.clone() })
    }
    assert!(finds(Faults { apply: with_a_clock, ..Faults::default() }, "differ"));
}

#[test]
fn the_checks_find_snapshots_that_lack_something() {
    for table in [TableId::Replies, TableId::Sessions, TableId::JobQueue, TableId::Members] {
        let faults = Faults { forgotten_table: Some(table), ..Faults::default() };
        assert!(finds(faults, "differ"));
    }
}

#[test]
fn the_checks_find_acknowledgements_that_are_too_early() {
    assert!(finds(Faults { answers_early: true, ..Faults::default() }, "is not in the log"));
}

#[test]
fn the_checks_find_reads_that_go_back() {
    assert!(finds(Faults { takes_old_snapshots: true, ..Faults::default() }, "went back"));
}

#[test]
fn the_checks_find_copies_that_are_deleted_although_they_were_put_again() {
    assert!(finds(Faults { deletes_unfenced: true, ..Faults::default() }, "copies are left"));
}

#[test]
fn the_checks_find_commands_that_rely_on_copies_from_long_ago() {
    fn trusting(
        tx: &mut Transaction<'_>,
        index: u64,
        command: &Command,
    ) -> Result<Applied, ViewError> {
        let action = command.action.clone().put_at(JUST_NOW);
        apply(tx, index, &Command { action, ..command.clone() })
    }
    assert!(finds(Faults { apply: trusting, ..Faults::default() }, "copies are left"));
}
