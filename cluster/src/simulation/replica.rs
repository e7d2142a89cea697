//! One node's tables: what it has applied, and what of that is durable.

use std::ops::ControlFlow;

use super::consensus::{Consensus, Waiting};
use super::{Apply, Faults};
use crate::command::Reply;
use crate::ids::ClientId;
use crate::view::{MemoryView, TableId, Transaction, View};

/// Tables, and how far they have come.
#[derive(Clone)]
pub(super) struct State {
    pub(super) view: MemoryView,
    pub(super) applied: u64,
}

/// A node that holds the catalog.
pub(super) struct Replica {
    pub(super) live: State,
    durable: State,
    /// How far it had come when it was last read.
    pub(super) read: u64,
    /// What it must have applied before it is read: what it knew to be committed when it started.
    pub(super) ready_at: u64,
}

/// What applying an entry gave.
pub(super) struct Answer {
    pub(super) index: u64,
    pub(super) reply: Reply,
    pub(super) waiting: Option<Waiting>,
    pub(super) client: ClientId,
}

impl Replica {
    pub(super) fn new(state: &State) -> Self {
        Self { live: state.clone(), durable: state.clone(), read: 0, ready_at: 0 }
    }

    /// Applies up to so many entries as one batch.
    pub(super) fn apply(&mut self, apply: Apply, log: &Consensus, entries: usize) -> Vec<Answer> {
        let mut tx = Transaction::new(&self.live.view);
        let mut answers = Vec::new();
        let mut applied = self.live.applied;
        while let Some(entry) = log.entry(applied + 1).filter(|_| answers.len() < entries) {
            applied += 1;
            let outcome = apply(&mut tx, applied, &entry.command).expect("memory can be read");
            let (waiting, client) = (entry.waiting, entry.command.client);
            answers.push(Answer { index: applied, reply: outcome.reply, waiting, client });
        }
        let batch = tx.into_batch();
        self.live.view.write(batch);
        self.live.applied = applied;
        answers
    }

    pub(super) fn flush(&mut self) {
        self.durable = self.live.clone();
    }

    /// How far its durable tables have come.
    pub(super) fn durable(&self) -> u64 {
        self.durable.applied
    }

    /// Loses what is not durable, and starts again.
    pub(super) fn crash(&mut self, committed: u64) {
        self.live = self.durable.clone();
        self.ready_at = committed;
    }

    /// Takes over the durable tables of another replica, row by row.
    pub(super) fn install(&mut self, from: &Self, faults: Faults) {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        for table in TableId::ALL {
            if Some(table) == faults.forgotten_table {
                continue;
            }
            let copied = from.durable.view.scan(table, &[], &[], &mut |key, row| {
                tx.put(table, key.to_vec(), row.to_vec());
                ControlFlow::Continue(())
            });
            copied.expect("memory can be read");
        }
        let batch = tx.into_batch();
        view.write(batch);
        self.live = State { view, applied: from.durable.applied };
        self.flush();
    }
}
