//! What clients asked of a cluster and what they were told, and whether that can have happened.
//!
//! A history is a list of operations on registers: a register is the description of one video, which can be read, written,
//! and written on the condition that it still has a version (`If-Match`). The [`Recorder`] notes when each operation began
//! and when its answer came; [`check()`] looks for an order of the operations that explains all answers, in which each takes
//! effect at one instant between the two. That property, linearizability, is what `?consistency=linearizable` and the
//! answers to writes promise; an acknowledged write that was lost, a stale read, or a write that was applied twice all
//! show as a history for which there is no such order.
//!
//! # What is not known
//!
//! A write whose answer did not come may take effect at any later time, or never: it is kept as [`Fate::Unknown`], and the
//! checker may use it once, from its beginning on. A write that the cluster says it did not do ([`Fate::Never`]) must not be
//! seen by anybody.
//!
//! # Why not a library
//!
//! `stateright` has a tester of linearizability that tries orders without remembering where it has been; it is meant for
//! some thirty operations and for models that it steps through itself. `todc-utils` remembers, but wants an answer for each
//! operation, and a write without answer that nobody saw doubles its work. After twenty killed leaders there are hundreds of
//! these. What they do not use is that versions grow: see [`mod@check`].

pub mod check;
pub mod positions;
pub mod recorder;
mod register;

#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use check::{Verdict, check};
pub use recorder::{Pending, Recorder};

/// A register's version: grows with each change, by steps that nobody promises.
pub type Version = u64;

/// When something happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The order in which the recorder heard of it. No two moments of a history are equal.
    pub order: u64,
    /// Since the beginning of the history, for people.
    pub at: Duration,
}

/// What a register shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Content {
    pub version: Version,
    pub value: String,
}

/// One operation on one register.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked, and whom: for people.
    pub client: String,
    pub register: String,
    pub began: Moment,
    /// When the answer came, or when it was clear that none would come.
    pub ended: Moment,
    pub what: What,
}

/// What was asked, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A linearizable read. `None` when it got no answer, which tells nothing.
    Read(Option<Content>),
    Change {
        /// Written by no other operation on this register.
        value: String,
        /// Only if the register has this version.
        expected: Option<Version>,
        fate: Fate,
    },
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was acknowledged.
    Applied {
        /// The version that it gave the register, if the answer says so.
        version: Option<Version>,
        /// Its place in the log of the cluster.
        index: u64,
    },
    /// It was refused because the register had this other version.
    Mismatch { actual: Version },
    /// The cluster says that it has not happened and will not.
    Never,
    /// It may take effect at any time from its beginning on, once, or never.
    Unknown,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (began, ended) = (self.began.at.as_secs_f64(), self.ended.at.as_secs_f64());
        write!(f, "{began:9.4}..{ended:<9.4} {:12} ", self.client)?;
        match &self.what {
            What::Read(None) => write!(f, "read: no answer"),
            What::Read(Some(Content { version, value })) => {
                write!(f, "read: version {version}, {value:?}")
            }
            What::Change { value, expected, fate } => {
                write!(f, "write {value:?}")?;
                if let Some(expected) = expected {
                    write!(f, " over version {expected}")?;
                }
                match fate {
                    Fate::Applied { version: Some(version), index } => {
                        write!(f, ": done as version {version}, index {index}")
                    }
                    Fate::Applied { version: None, index } => write!(f, ": done, index {index}"),
                    Fate::Mismatch { actual } => {
                        write!(f, ": refused, the version is {actual}")
                    }
                    Fate::Never => write!(f, ": not done"),
                    Fate::Unknown => write!(f, ": unknown"),
                }
            }
        }
    }
}
