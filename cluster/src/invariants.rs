//! What is true of the catalog after every command: one property, one file, one function.
//!
//! Unit tests check them after each step, simulations after random logs, fault injection on the catalog of real nodes. They
//! read the whole catalog and recompute from the rows what `apply` keeps up to date step by step; so they cost memory and
//! time in proportion to the catalog, and are not for a node at work.

mod audit;
mod collection;
mod contiguity;
mod frontier;
mod leases;
mod listing;
mod members;
mod ownership;
mod queue;
mod references;
mod registrations;
mod removal;
mod sessions;
mod sources;
mod states;
mod tokens;

use std::fmt;

use crate::view::{View, ViewError};

/// A property that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The name of the property.
    pub invariant: &'static str,
    /// Where, and what was found.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.detail)
    }
}

/// Collects what does not hold of one property.
struct Findings<'a> {
    invariant: &'static str,
    violations: &'a mut Vec<Violation>,
}

impl Findings<'_> {
    fn require(&mut self, holds: bool, detail: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation { invariant: self.invariant, detail: detail() });
        }
    }
}

type Check = fn(&dyn View, &mut Findings<'_>) -> Result<(), ViewError>;

const ALL: [(&str, Check); 16] = [
    ("audit", audit::check),
    ("collection", collection::check),
    ("contiguity", contiguity::check),
    ("frontier", frontier::check),
    ("leases", leases::check),
    ("listing", listing::check),
    ("members", members::check),
    ("ownership", ownership::check),
    ("queue", queue::check),
    ("references", references::check),
    ("registrations", registrations::check),
    ("removal", removal::check),
    ("sessions", sessions::check),
    ("sources", sources::check),
    ("states", states::check),
    ("tokens", tokens::check),
];

/// All that does not hold of this catalog; nothing, if all is well.
///
/// # Errors
/// When the view fails.
pub fn check(view: &dyn View) -> Result<Vec<Violation>, ViewError> {
    let mut violations = Vec::new();
    for (invariant, check) in ALL {
        check(view, &mut Findings { invariant, violations: &mut violations })?;
    }
    Ok(violations)
}
