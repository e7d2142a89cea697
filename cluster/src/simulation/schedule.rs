//! One run: what happens, in an order that follows from a number.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::Faults;
use super::consensus::{Consensus, Waiting};
use super::judge::{Finding, Judge};
use super::proposer::Proposer;
use super::replica::{Answer, Replica, State};
use super::stores::Stores;
use super::workload::Workload;
use crate::catalog;
use crate::command::{Command, Refusal, Reply};
use crate::ids::ClientId;

const REPLICAS: usize = 3;
const PROPOSERS: usize = 3;

/// Events of a schedule, before all is let run to its end.
const EVENTS: usize = 300;

/// Rounds in which everything has to come to its end when nothing goes wrong any more.
const ROUNDS_MAX: usize = 20;

/// How far the clocks of the nodes are off, in milliseconds.
const SKEWS_MS: [u64; 4] = [0, 50, 2_000, 3_600_000];

/// On its way between a proposer and a node.
#[derive(Clone)]
enum Message {
    Command { from: Waiting, to: usize, command: Box<Command> },
    Answer { to: Waiting, client: ClientId, index: u64, reply: Reply },
}

/// A cluster, and all that happens to it.
pub(super) struct Schedule {
    rng: Rng,
    faults: Faults,
    now_ms: u64,
    born_ms: u64,
    skews_ms: [u64; REPLICAS],
    log: Consensus,
    replicas: Vec<Replica>,
    proposers: Vec<Proposer>,
    wire: Vec<Message>,
    workload: Workload,
    /// What proposers were told, for as long as somebody may tell them something else.
    answered: BTreeMap<(ClientId, u64), Reply>,
    /// The highest index that a reader who goes from node to node has seen.
    reader: u64,
    stores: Stores,
    judge: Judge,
    story: Option<String>,
}

impl Schedule {
    pub(super) fn new(seed: u64, start: &State, faults: Faults, told: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let born_ms = catalog::system(&start.view).expect("memory can be read").time_ms;
        let proposers = (0..PROPOSERS).map(|_| Proposer::new(client(&mut rng))).collect();
        Self {
            faults,
            now_ms: born_ms,
            born_ms,
            skews_ms: std::array::from_fn(|_| SKEWS_MS[rng.usize(0..SKEWS_MS.len())]),
            log: Consensus::new(start.applied, rng.usize(0..REPLICAS)),
            replicas: (0..REPLICAS).map(|_| Replica::new(start)).collect(),
            proposers,
            wire: Vec::new(),
            workload: Workload::new(&mut rng),
            answered: BTreeMap::new(),
            reader: 0,
            stores: Stores::new(REPLICAS, &start.view, faults.deletes_unfenced),
            judge: Judge::new(faults.apply, start),
            story: told.then(String::new),
            rng,
        }
    }

    /// Lets everything happen that happens, and then come to its end.
    pub(super) fn run(&mut self) -> Result<(), Finding> {
        for _ in 0..EVENTS {
            self.event()?;
        }
        self.settle()?;
        self.judge.check_invariants()?;
        self.judge.check_views()
    }

    /// What happened, in kinds.
    pub(super) fn seen(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.judge.seen.iter().copied()
    }

    /// What happened, in sentences.
    pub(super) fn told(&self) -> String {
        self.story.clone().unwrap_or_default()
    }

    fn tell(&mut self, sentence: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push_str(&sentence());
            story.push('\n');
        }
    }

    fn saw(&mut self, event: &'static str) {
        self.judge.seen.insert(("event", event));
        self.tell(|| format!("  ({event})"));
    }

    fn event(&mut self) -> Result<(), Finding> {
        self.now_ms += self.rng.u64(0..200);
        match self.rng.u8(0..90) {
            0..14 => self.propose(),
            14..34 => self.deliver()?,
            34..36 => self.lose(),
            36..38 => self.duplicate(),
            38..43 => self.send_again(),
            43..44 => self.give_up(),
            44..54 => self.commit()?,
            54..64 => self.apply()?,
            64..67 => self.flush(),
            67..69 => self.crash(),
            69..71 => self.elect(),
            71..73 => self.install(),
            73..74 => self.purge(),
            74..75 => self.start_anew(),
            75..79 => self.read()?,
            79..84 => self.look(),
            84..89 => self.delete()?,
            _ => self.now_ms += [1_000, 20_000, 600_000][self.rng.usize(0..3)],
        }
        Ok(())
    }

    fn propose(&mut self) {
        let proposer = self.rng.usize(0..PROPOSERS);
        if self.proposers[proposer].is_busy() {
            return;
        }
        let here = &self.replicas[self.rng.usize(0..REPLICAS)].live;
        let action = self.workload.next(&mut self.rng, &here.view, self.now_ms);
        let action = action.put_at(here.applied);
        self.stores.put(&mut self.rng, &action, here.applied);
        let command = self.proposers[proposer].propose(action);
        let sequence = command.sequence;
        self.tell(|| format!("proposer {proposer} proposes {sequence}: {:?}", command.action));
        self.send(Waiting { proposer, sequence }, command);
    }

    /// Sends a command to the leader, or to whom the proposer takes for it.
    fn send(&mut self, from: Waiting, command: Command) {
        let mistaken = self.rng.u8(0..10) == 0;
        let to = if mistaken { self.rng.usize(0..REPLICAS) } else { self.log.leader };
        self.wire.push(Message::Command { from, to, command: command.into() });
    }

    fn deliver(&mut self) -> Result<(), Finding> {
        if self.wire.is_empty() {
            return Ok(());
        }
        // Any message: they overtake each other.
        let message = self.wire.swap_remove(self.rng.usize(0..self.wire.len()));
        match message {
            Message::Command { from, to, command } => {
                self.arrive(from, to, *command);
                Ok(())
            }
            Message::Answer { to, client, index, reply } => self.answer(to, client, index, reply),
        }
    }

    fn arrive(&mut self, from: Waiting, to: usize, command: Command) {
        if to != self.log.leader {
            self.saw("command lost");
            return;
        }
        let client = command.client;
        let (wall_ms, passed_ms) = (self.now_ms + self.skews_ms[to], self.now_ms - self.born_ms);
        let system = catalog::system(&self.replicas[to].live.view).expect("memory can be read");
        let index = self.log.append(command, from, wall_ms, passed_ms, system.time_ms);
        let Waiting { proposer, sequence } = from;
        self.tell(|| format!("node {to} appends {proposer}/{sequence}, as {index} if it stays"));
        if self.faults.answers_early {
            self.wire.push(Message::Answer { to: from, client, index, reply: Reply::Done });
        }
    }

    /// A proposer hears what its command came to.
    fn answer(
        &mut self,
        to: Waiting,
        client: ClientId,
        index: u64,
        reply: Reply,
    ) -> Result<(), Finding> {
        let Waiting { proposer, sequence } = to;
        if self.proposers[proposer].client != client {
            // It was for the one before.
            return Ok(());
        }
        self.tell(|| format!("proposer {proposer} hears of {sequence}, at {index}: {reply:?}"));
        let forgotten = reply == Reply::Refused(Refusal::Forgotten);
        if let Some(command) = self.proposers[proposer].settle(sequence) {
            if forgotten {
                return Err(format!("{command} was forgotten, although it was waited for"));
            }
            self.judge.acknowledged(&command, index, &reply)?;
            self.workload.learn(&command.action, &reply);
            self.reader = self.reader.max(index);
            self.answered.insert((client, sequence), reply);
            return Ok(());
        }
        match self.answered.get(&(client, sequence)) {
            Some(first) if !forgotten => {
                let same = *first == reply;
                self.saw("answered again");
                if same { Ok(()) } else { Err(format!("{client}/{sequence} was answered twice")) }
            }
            Some(_) | None => Ok(()),
        }
    }

    fn lose(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        match self.wire.swap_remove(self.rng.usize(0..self.wire.len())) {
            Message::Command { .. } => self.saw("command lost"),
            Message::Answer { .. } => self.saw("answer lost"),
        }
    }

    fn duplicate(&mut self) {
        if let Some(message) = self.rng.choice(&self.wire).cloned() {
            self.wire.push(message);
        }
    }

    /// A proposer has waited long enough for one answer.
    fn send_again(&mut self) {
        let proposer = self.rng.usize(0..PROPOSERS);
        let Some(sequence) = self.rng.choice(self.proposers[proposer].waiting()) else {
            return;
        };
        let command = self.proposers[proposer].command(sequence).expect("it waits").clone();
        self.saw("command sent again");
        self.tell(|| format!("proposer {proposer} sends {sequence} again"));
        self.send(Waiting { proposer, sequence }, command);
    }

    fn give_up(&mut self) {
        let proposer = self.rng.usize(0..PROPOSERS);
        if let Some(sequence) = self.rng.choice(self.proposers[proposer].waiting()) {
            self.proposers[proposer].settle(sequence);
            self.saw("command given up");
        }
    }

    fn commit(&mut self) -> Result<(), Finding> {
        let entries = self.rng.usize(0..=self.log.uncommitted());
        self.commit_some(entries)
    }

    fn commit_some(&mut self, entries: usize) -> Result<(), Finding> {
        let first = self.log.commit(entries);
        for index in first..=self.log.last() {
            let command = &self.log.entry(index).expect("it was just committed").command;
            self.judge.committed(index, command)?;
            self.stores.committed(&command.action, self.judge.newest())?;
            if let Some(story) = &mut self.story {
                story.push_str(&format!("{index} is {command}\n"));
            }
        }
        Ok(())
    }

    fn apply(&mut self) -> Result<(), Finding> {
        let number = self.rng.usize(0..REPLICAS);
        let entries = self.rng.usize(1..9);
        self.apply_on(number, entries)
    }

    fn apply_on(&mut self, number: usize, entries: usize) -> Result<(), Finding> {
        let replica = &mut self.replicas[number];
        if replica.live.applied < self.log.purged() {
            self.saw("replica has to have a snapshot");
            return Ok(());
        }
        let answers = replica.apply(self.faults.apply, &self.log, entries);
        if answers.is_empty() {
            return Ok(());
        }
        self.judge.applied(number, &replica.live, &answers)?;
        let applied = replica.live.applied;
        self.tell(|| format!("replica {number} has applied {applied}"));
        if number == self.log.leader {
            for answer in answers {
                if let Some(to) = answer.waiting {
                    let Answer { client, index, reply, .. } = answer;
                    self.wire.push(Message::Answer { to, client, index, reply });
                }
            }
        }
        Ok(())
    }

    fn flush(&mut self) {
        let number = self.rng.usize(0..REPLICAS);
        self.replicas[number].flush();
    }

    /// A node fails with all that is not on its disk. If it leads, somebody else takes over.
    fn crash(&mut self) {
        let number = self.rng.usize(0..REPLICAS);
        let last = self.log.last();
        let replica = &mut self.replicas[number];
        let before = replica.live.applied;
        replica.crash(last);
        let after = replica.live.applied;
        self.tell(|| format!("replica {number} crashes at {before} and goes on from {after}"));
        if after < before {
            self.saw("replica crashed behind");
        }
        if number == self.log.leader {
            self.elect();
        }
    }

    fn elect(&mut self) {
        let uncommitted = self.log.uncommitted();
        let kept = self.rng.usize(0..=uncommitted);
        let leader = self.rng.usize(0..REPLICAS);
        if kept > 0 {
            self.saw("entries kept by the next leader");
        }
        if kept < uncommitted {
            self.saw("entries lost");
        }
        self.log.elect(leader, kept);
        self.tell(|| format!("node {leader} leads, {} entries are lost", uncommitted - kept));
    }

    /// A replica gets the durable tables of another one, if they are newer than its own.
    fn install(&mut self) {
        let to = self.rng.usize(0..REPLICAS);
        let from = self.rng.usize(0..REPLICAS);
        self.install_on(to, from);
    }

    fn install_on(&mut self, to: usize, from: usize) {
        let newer = self.replicas[from].durable() > self.replicas[to].live.applied;
        if from == to || !(newer || self.faults.takes_old_snapshots) {
            return;
        }
        let [source, target] =
            self.replicas.get_disjoint_mut([from, to]).expect("they are two of them");
        target.install(source, self.faults);
        let applied = target.live.applied;
        self.saw("snapshot installed");
        self.tell(|| format!("replica {to} gets the tables of {from}, at {applied}"));
    }

    /// Entries that are in a snapshot are removed.
    fn purge(&mut self) {
        let number = self.rng.usize(0..REPLICAS);
        self.log.purge(self.replicas[number].durable());
    }

    /// A proposer's process ends, and another one begins.
    fn start_anew(&mut self) {
        let proposer = self.rng.usize(0..PROPOSERS);
        self.proposers[proposer] = Proposer::new(client(&mut self.rng));
        self.saw("proposer restarted");
    }

    /// Somebody reads at a node: one who goes from node to node with the index that it has seen.
    fn read(&mut self) -> Result<(), Finding> {
        let number = self.rng.usize(0..REPLICAS);
        let replica = &mut self.replicas[number];
        if replica.live.applied < replica.ready_at {
            return Ok(());
        }
        self.judge.read(number, replica)?;
        let applied = replica.live.applied;
        if applied < self.reader {
            self.saw("read waited");
        } else {
            self.reader = applied;
        }
        Ok(())
    }

    /// A node looks what is garbage.
    fn look(&mut self) {
        let number = self.rng.usize(0..REPLICAS);
        self.stores.look(number, &self.replicas[number].live.view);
    }

    /// A node deletes the copies that it found to be garbage.
    fn delete(&mut self) -> Result<(), Finding> {
        let number = self.rng.usize(0..REPLICAS);
        if self.stores.delete(number, self.judge.newest())? {
            self.saw("copies deleted");
        }
        Ok(())
    }

    /// Nothing goes wrong any more: everybody gets an answer, and all replicas come to the end of the log.
    fn settle(&mut self) -> Result<(), Finding> {
        for _ in 0..ROUNDS_MAX {
            while !self.wire.is_empty() {
                self.deliver()?;
            }
            self.commit_some(self.log.uncommitted())?;
            for number in 0..REPLICAS {
                let newest = (0..REPLICAS).max_by_key(|other| self.replicas[*other].durable());
                if self.replicas[number].live.applied < self.log.purged() {
                    self.install_on(number, newest.expect("there are replicas"));
                }
                self.apply_on(number, usize::MAX)?;
                let replica = &self.replicas[number].live;
                if replica.applied != self.log.last() {
                    return Err(format!("replica {number} stays at {}", replica.applied));
                }
            }
            self.now_ms += 1_000;
            for proposer in 0..PROPOSERS {
                for sequence in self.proposers[proposer].waiting() {
                    let command = self.proposers[proposer].command(sequence).expect("it waits");
                    let (from, to) = (Waiting { proposer, sequence }, self.log.leader);
                    self.wire.push(Message::Command { from, to, command: command.clone().into() });
                }
            }
            if self.wire.is_empty() {
                return Ok(());
            }
        }
        Err("there is no end to it".into())
    }
}

fn client(rng: &mut Rng) -> ClientId {
    ClientId(rng.u128(..).to_be_bytes())
}
