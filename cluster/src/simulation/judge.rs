//! Says what is wrong with a run.
//!
//! The judge applies the log too, one entry at a time, and keeps the tables after each: that is what every replica's tables
//! are compared with. What each entry may do, it knows without looking at the catalog: from the log alone it follows which
//! commands are new, which were there before, and which their proposer has given up.

use std::collections::{BTreeMap, BTreeSet};

use super::Apply;
use super::replica::{Replica, State};
use crate::catalog;
use crate::command::{Action, Command, Refusal, Reply};
use crate::features;
use crate::ids::{ClientId, VideoId};
use crate::invariants;
use crate::tables::system::SystemRow;
use crate::testing::{World, copy_plan};
use crate::view::{MemoryView, TableId, Transaction};

/// What is wrong, for a person.
pub(super) type Finding = String;

/// Every so many entries all invariants are checked, and at the end.
const CHECK_EVERY: u64 = 64;

/// One proposer's commands, as the log tells of them.
#[derive(Clone, Default)]
struct History {
    /// What the first command of each number came to.
    replies: BTreeMap<u64, Reply>,
    /// It waits for nothing below.
    answered_below: u64,
}

/// Knows what has to be.
pub(super) struct Judge {
    apply: Apply,
    first: u64,
    /// The tables after each entry, from the start on.
    views: Vec<MemoryView>,
    replies: Vec<Reply>,
    commands: Vec<(ClientId, u64)>,
    clients: BTreeMap<ClientId, History>,
    /// How often each video that exists was viewed.
    viewed: BTreeMap<VideoId, u64>,
    pub(super) seen: BTreeSet<(&'static str, &'static str)>,
}

impl Judge {
    /// Where all schedules begin: three members, one upload that is arriving, and one of which pieces wait to be made.
    pub(super) fn start() -> State {
        let mut world = World::new();
        world.done(Action::RaiseFeatureLevel { level: features::NEWEST });
        world.upload_with_plan(1, copy_plan(3));
        let arriving = world.create(0, Some(4000));
        world.append(arriving, 1000);
        State { view: world.view, applied: world.index }
    }

    pub(super) fn new(apply: Apply, start: &State) -> Self {
        Self {
            apply,
            first: start.applied,
            views: vec![start.view.clone()],
            replies: Vec::new(),
            commands: Vec::new(),
            clients: BTreeMap::new(),
            viewed: BTreeMap::new(),
            seen: BTreeSet::new(),
        }
    }

    /// An entry is committed.
    pub(super) fn committed(&mut self, index: u64, command: &Command) -> Result<(), Finding> {
        let before = self.views.last().expect("there is a first one");
        let mut tx = Transaction::new(before);
        let applied = (self.apply)(&mut tx, index, command).expect("memory can be read");
        let batch = tx.into_batch();
        let mut after = before.clone();
        after.write(batch);

        let reply = applied.reply;
        let forgotten = reply == Reply::Refused(Refusal::Forgotten);
        let client = self.clients.entry(command.client).or_default();
        let answered_below = command.answered_below.min(command.sequence);
        client.answered_below = client.answered_below.max(answered_below);
        if forgotten && command.sequence >= client.answered_below {
            return Err(format!("{command} was not applied, although it was waited for"));
        }
        if !forgotten && command.sequence < client.answered_below {
            return Err(format!("{command} was applied, although it had been given up"));
        }
        let first = client.replies.get(&command.sequence);
        if first.is_some() || forgotten {
            let event = if forgotten { "command forgotten" } else { "command repeated in the log" };
            self.seen.insert(("event", event));
            if lasting(before) != lasting(&after) || !applied.changed.is_empty() {
                return Err(format!("{command} took effect again, at {index}"));
            }
            if let Some(first) = first.filter(|first| !forgotten && **first != reply) {
                return Err(format!("{command} came to {first:?}, and again to {reply:?}"));
            }
        } else {
            let outcome = if matches!(reply, Reply::Refused(_)) { "refused" } else { "done" };
            self.seen.insert((command.action.name(), outcome));
            if matches!(reply, Reply::Refused(Refusal::NeedBlocks { .. })) {
                self.seen.insert(("event", "blocks have to be put again"));
            }
            if let Action::CountViews { views } = &command.action {
                for (id, viewed) in views {
                    if catalog::video(before, *id).expect("memory can be read").is_some() {
                        *self.viewed.entry(*id).or_default() += u64::from(*viewed);
                    }
                }
            }
            if let (Action::DeleteVideo { id, .. }, Reply::Done) = (&command.action, &reply) {
                self.viewed.remove(id);
            }
        }
        let client = self.clients.entry(command.client).or_default();
        client.replies.entry(command.sequence).or_insert_with(|| reply.clone());
        self.views.push(after);
        self.replies.push(reply);
        self.commands.push((command.client, command.sequence));
        if index.is_multiple_of(CHECK_EVERY) { self.check_invariants() } else { Ok(()) }
    }

    /// A replica has applied entries up to where it is now, and given these replies.
    pub(super) fn applied(
        &self,
        number: usize,
        replica: &State,
        answers: &[super::replica::Answer],
    ) -> Result<(), Finding> {
        for answer in answers {
            if self.reply(answer.index) != Some(&answer.reply) {
                return Err(format!(
                    "replica {number} and the log differ: {:?} at {}",
                    answer.reply, answer.index
                ));
            }
        }
        match self.view(replica.applied) {
            Some(view) if *view == replica.view => Ok(()),
            Some(view) => Err(format!(
                "the tables of replica {number} differ at {}: {}",
                replica.applied,
                differing(view, &replica.view)
            )),
            None => Err(format!("replica {number} is at {}, beyond the log", replica.applied)),
        }
    }

    /// A proposer has its answer.
    pub(super) fn acknowledged(
        &self,
        command: &Command,
        index: u64,
        reply: &Reply,
    ) -> Result<(), Finding> {
        let there = self.place(index).and_then(|place| self.commands.get(place));
        if there != Some(&(command.client, command.sequence)) {
            return Err(format!("{command} was acknowledged and is not in the log at {index}"));
        }
        if self.reply(index) != Some(reply) {
            return Err(format!("{command} was answered with another reply than that of {index}"));
        }
        Ok(())
    }

    /// A replica that is ready is read.
    pub(super) fn read(&self, number: usize, replica: &mut Replica) -> Result<(), Finding> {
        let applied = replica.live.applied;
        if applied < replica.read {
            let read = replica.read;
            return Err(format!("reads at replica {number} went back from {read} to {applied}"));
        }
        replica.read = applied;
        self.applied(number, &replica.live, &[])
    }

    /// The catalog after the last entry.
    pub(super) fn newest(&self) -> &MemoryView {
        self.views.last().expect("there is a first one")
    }

    pub(super) fn check_invariants(&self) -> Result<(), Finding> {
        let view = self.views.last().expect("there is a first one");
        let violations = invariants::check(view).expect("memory can be read");
        match violations.first() {
            None => Ok(()),
            Some(violation) => Err(format!("invariant {violation}")),
        }
    }

    /// Once more after all, from another side: views are not just counted the same way everywhere, but right.
    pub(super) fn check_views(&self) -> Result<(), Finding> {
        let view = self.views.last().expect("there is a first one");
        for (id, viewed) in &self.viewed {
            if let Some(video) = catalog::video(view, *id).expect("memory can be read")
                && video.views != *viewed
            {
                return Err(format!("{id} was viewed {viewed} times, not {}", video.views));
            }
        }
        Ok(())
    }

    /// Where in `commands` and `replies` an entry is that the schedule brought about. `views` has one more, the first.
    fn place(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.first + 1)?).ok()
    }

    fn reply(&self, index: u64) -> Option<&Reply> {
        self.replies.get(self.place(index)?)
    }

    fn view(&self, applied: u64) -> Option<&MemoryView> {
        self.views.get(usize::try_from(applied.checked_sub(self.first)?).ok()?)
    }
}

/// All that a repeated command must not change.
fn lasting(view: &MemoryView) -> (MemoryView, SystemRow) {
    let system = catalog::system(view).expect("memory can be read");
    let rows = view.without(&[TableId::System, TableId::Sessions, TableId::Replies]);
    (rows, SystemRow { time_ms: 0, session_cursor: None, ..system })
}

/// The names of the tables that are not the same.
fn differing(one: &MemoryView, other: &MemoryView) -> String {
    let differs = |table: &TableId| {
        let rest: Vec<_> = TableId::ALL.into_iter().filter(|other| other != table).collect();
        one.without(&rest) != other.without(&rest)
    };
    let names: Vec<_> = TableId::ALL.into_iter().filter(differs).map(TableId::name).collect();
    names.join(", ")
}
