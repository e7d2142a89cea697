//! Noting operations while they happen.
//!
//! All clients of a history live in one process and note beginnings and answers under one lock. So the order of moments is
//! an order that really was: when one operation ended before another began, in whatever task, their moments say so.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::{Content, Fate, Moment, Operation, Version, What};

/// Collects the operations of all clients. Clones write to the same history.
#[derive(Clone, Debug)]
pub struct Recorder {
    shared: Arc<Mutex<Notes>>,
}

#[derive(Debug)]
struct Notes {
    start: Instant,
    moments: u64,
    operations: Vec<Operation>,
}

/// An operation that has begun. Without a word on how it ended, it counts as one that got no answer.
#[derive(Debug)]
#[must_use = "an operation ends with an answer, or is dropped when there is none"]
pub struct Pending {
    recorder: Recorder,
    place: usize,
}

impl Default for Recorder {
    fn default() -> Self {
        let notes = Notes { start: Instant::now(), moments: 0, operations: Vec::new() };
        Self { shared: Arc::new(Mutex::new(notes)) }
    }
}

impl Recorder {
    /// Notes that a client is about to read a register.
    pub fn read(&self, client: &str, register: &str) -> Pending {
        self.begin(client, register, What::Read(None))
    }

    /// Notes that a client is about to write `value`, which nobody else writes to that register, perhaps on the condition
    /// that it has the version `expected`.
    pub fn change(
        &self,
        client: &str,
        register: &str,
        value: &str,
        expected: Option<Version>,
    ) -> Pending {
        let what = What::Change { value: value.to_owned(), expected, fate: Fate::Unknown };
        self.begin(client, register, what)
    }

    /// All that was noted. What has no answer yet is in it without one.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.with(|notes| notes.operations.clone())
    }

    fn begin(&self, client: &str, register: &str, what: What) -> Pending {
        let place = self.with(|notes| {
            let began = notes.moment();
            notes.operations.push(Operation {
                client: client.to_owned(),
                register: register.to_owned(),
                began,
                ended: began,
                what,
            });
            notes.operations.len() - 1
        });
        Pending { recorder: self.clone(), place }
    }

    fn with<T>(&self, note: impl FnOnce(&mut Notes) -> T) -> T {
        // Notes are complete after each statement; a client that panicked elsewhere has not spoilt them.
        note(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Notes {
    fn moment(&mut self) -> Moment {
        self.moments += 1;
        Moment { order: self.moments, at: self.start.elapsed() }
    }
}

impl Pending {
    /// The register showed this.
    pub fn saw(self, content: Content) {
        self.note(|what| {
            if let What::Read(seen) = what {
                *seen = Some(content);
            }
        });
    }

    /// The change came to this.
    pub fn became(self, became: Fate) {
        self.note(|what| {
            if let What::Change { fate, .. } = what {
                *fate = became;
            }
        });
    }

    fn note(&self, set: impl FnOnce(&mut What)) {
        self.recorder.with(|notes| set(&mut notes.operations[self.place].what));
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.recorder.with(|notes| {
            let ended = notes.moment();
            notes.operations[self.place].ended = ended;
        });
    }
}
