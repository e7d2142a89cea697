//! A process that proposes commands, and sends each again until it has an answer or gives up.

use std::collections::BTreeMap;

use crate::command::{Action, Command};
use crate::ids::ClientId;

/// Commands under way at a time.
const IN_FLIGHT_MAX: usize = 4;

/// A proposer.
pub(super) struct Proposer {
    pub(super) client: ClientId,
    last: u64,
    waiting: BTreeMap<u64, Command>,
}

impl Proposer {
    pub(super) fn new(client: ClientId) -> Self {
        Self { client, last: 0, waiting: BTreeMap::new() }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.waiting.len() >= IN_FLIGHT_MAX
    }

    /// A new command, with the next number.
    pub(super) fn propose(&mut self, action: Action) -> Command {
        self.last += 1;
        let sequence = self.last;
        let answered_below = self.waiting.keys().next().copied().unwrap_or(sequence);
        let client = self.client;
        let command = Command { client, sequence, answered_below, time_ms: 0, action };
        self.waiting.insert(sequence, command.clone());
        command
    }

    /// The numbers that it has no answer to.
    pub(super) fn waiting(&self) -> Vec<u64> {
        self.waiting.keys().copied().collect()
    }

    /// The command with this number, if it waits for its answer.
    pub(super) fn command(&self, sequence: u64) -> Option<&Command> {
        self.waiting.get(&sequence)
    }

    /// It has its answer, or does not care any more.
    pub(super) fn settle(&mut self, sequence: u64) -> Option<Command> {
        self.waiting.remove(&sequence)
    }
}
