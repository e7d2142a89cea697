//! The checker on histories that are known to be good or bad.

mod brute;
mod examples;
mod random;

use super::{Content, Fate, Moment, Operation, Verdict, Version, What, check};

/// Enough for any history here.
const ENOUGH: usize = 100_000;

fn initial() -> Content {
    content(10, "first")
}

fn content(version: Version, value: &str) -> Content {
    Content { version, value: value.to_owned() }
}

fn judge(operations: &[Operation]) -> Verdict {
    check(&initial(), operations, ENOUGH)
}

fn operation(began: u64, ended: u64, what: What) -> Operation {
    let moment = |order| Moment { order, ..Moment::default() };
    Operation {
        client: format!("client {began}"),
        register: "r".to_owned(),
        began: moment(began),
        ended: moment(ended),
        what,
    }
}

fn read(began: u64, ended: u64, version: Version, value: &str) -> Operation {
    operation(began, ended, What::Read(Some(content(version, value))))
}

fn change(began: u64, ended: u64, value: &str, expected: Option<Version>, fate: Fate) -> Operation {
    operation(began, ended, What::Change { value: value.to_owned(), expected, fate })
}

/// Acknowledged as that version.
fn done(version: Version) -> Fate {
    Fate::Applied { version: Some(version), index: version }
}

/// Acknowledged, but the answer did not say as which version.
const DONE: Fate = Fate::Applied { version: None, index: 0 };
