//! What a history of one register says before any order is looked for.
//!
//! Versions grow with each change, so those that anybody was told of stand in a known order: the **known** versions. The
//! register goes through them one after the other. Between two of them it may have versions that nobody was told of: those
//! of **hidden** changes. Each known version was made by one change: by the one that was told so, or whose value somebody
//! read under it. If nobody did either (only a refused change named the version), any hidden change may have made it.
//!
//! Some lies show here already: a value that nobody wrote, one value under two versions (a change was applied twice), two
//! values under one version, a version from before the beginning.

use std::collections::{BTreeMap, HashMap};

use super::{Content, Fate, Operation, Version, What};

/// A register at an instant. Only without hidden changes since the last known version can anything be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// Place of the last known version.
    pub(super) known: usize,
    /// Changes since then that nobody has seen.
    pub(super) hidden: u64,
}

/// What an operation needs of the register, and does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It saw the known version at this place.
    Look { known: usize },
    Change {
        /// The known version that it replaced, if it said which one it wanted to.
        over: Option<usize>,
        /// The known version that it made; `None` when nobody can tell.
        makes: Option<usize>,
        /// Whether it has taken effect when it ends.
        definite: bool,
    },
    /// It tells nothing and changes nothing that anybody saw.
    Nothing,
}

/// The known versions of a register, and a step for each operation.
#[derive(Debug)]
pub(super) struct Register {
    versions: Vec<Version>,
    /// Whether the known version at that place was made by no change that we know.
    orphan: Vec<bool>,
    pub(super) steps: Vec<Step>,
}

impl Register {
    /// # Errors
    /// What cannot be true in any order.
    pub(super) fn of(initial: &Content, operations: &[Operation]) -> Result<Self, String> {
        let mut seen = Seen::default();
        seen.note(&initial.value, initial.version)?;
        let mut writers: HashMap<&str, (Fate, &Operation)> = HashMap::new();
        for operation in operations {
            match &operation.what {
                What::Read(None) => {}
                What::Read(Some(content)) => seen.note(&content.value, content.version)?,
                What::Change { value, fate, .. } => {
                    if *value == initial.value
                        || writers.insert(value, (*fate, operation)).is_some()
                    {
                        return Err(format!("the workload wrote {value:?} twice"));
                    }
                    match fate {
                        Fate::Applied { version: Some(version), .. } => {
                            seen.note(value, *version)?;
                        }
                        Fate::Mismatch { actual } => {
                            seen.values.entry(*actual).or_default();
                        }
                        Fate::Applied { version: None, .. } | Fate::Never | Fate::Unknown => {}
                    }
                }
            }
        }
        // A change that took effect is a witness of the version that it replaced.
        for operation in operations {
            if let What::Change { value, expected: Some(expected), fate } = &operation.what
                && (matches!(fate, Fate::Applied { .. }) || seen.versions.contains_key(value))
            {
                seen.values.entry(*expected).or_default();
            }
        }
        for (value, version) in &seen.versions {
            match writers.get(value.as_str()) {
                _ if *value == initial.value => {}
                None => {
                    return Err(format!("{value:?} was read as version {version}: never written"));
                }
                Some((Fate::Mismatch { .. } | Fate::Never, operation)) => {
                    return Err(format!(
                        "{value:?} was read as version {version}, but was refused:\n{operation}"
                    ));
                }
                Some((Fate::Applied { .. } | Fate::Unknown, _)) => {}
            }
        }
        if let Some((first, _)) = seen.values.first_key_value()
            && *first < initial.version
        {
            return Err(format!("version {first} was seen after version {}", initial.version));
        }
        Ok(Self::steps_of(&seen, operations))
    }

    fn steps_of(seen: &Seen, operations: &[Operation]) -> Self {
        let versions: Vec<Version> = seen.values.keys().copied().collect();
        let orphan: Vec<bool> = seen.values.values().map(Option::is_none).collect();
        let orphans = orphan.contains(&true);
        let place = |version: &Version| versions.binary_search(version).ok();
        let known = |version: &Version| {
            place(version).expect("versions that operations were told of are known")
        };
        let steps = operations
            .iter()
            .map(|operation| match &operation.what {
                What::Read(None) | What::Change { fate: Fate::Never, .. } => Step::Nothing,
                What::Read(Some(content)) => Step::Look { known: known(&content.version) },
                What::Change { fate: Fate::Mismatch { actual }, .. } => {
                    Step::Look { known: known(actual) }
                }
                What::Change { value, expected, fate } => {
                    let definite = matches!(fate, Fate::Applied { .. });
                    let makes = seen.versions.get(value).map(known);
                    // Nobody saw what it did, and nothing else needs it: leaving it out explains as much.
                    if !definite && makes.is_none() && !orphans {
                        return Step::Nothing;
                    }
                    match expected.as_ref().map(|version| (version, place(version))) {
                        None => Step::Change { over: None, makes, definite },
                        Some((_, Some(over))) => Step::Change { over: Some(over), makes, definite },
                        // Nobody was told of that version, so nobody can want to replace it: it was invented.
                        Some((_, None)) => Step::Nothing,
                    }
                }
            })
            .collect();
        Self { versions, orphan, steps }
    }

    /// The state after a change in this one, if it can happen in it.
    ///
    /// A change that may have made more than one version makes the next known one if that is an orphan, or stays hidden:
    /// [`Self::hide`] is the second.
    pub(super) fn make(&self, state: State, step: Step) -> Option<State> {
        let Step::Change { over, makes, .. } = step else { return None };
        if !over.is_none_or(|over| state == State { known: over, hidden: 0 }) {
            return None;
        }
        let next = state.known + 1;
        let fits = match makes {
            Some(known) => known == next,
            None => *self.orphan.get(next)?,
        };
        // A version for each hidden change lies between the two.
        let room = *self.versions.get(next)? > self.versions[state.known] + state.hidden;
        (fits && room).then_some(State { known: next, hidden: 0 })
    }

    /// The state after a change in this one that nobody saw.
    pub(super) fn hide(&self, state: State, step: Step) -> Option<State> {
        let Step::Change { over, makes: None, definite: true } = step else { return None };
        if !over.is_none_or(|over| state == State { known: over, hidden: 0 }) {
            return None;
        }
        let hidden = state.hidden + 1;
        let room = self
            .versions
            .get(state.known + 1)
            .is_none_or(|next| *next > self.versions[state.known] + hidden);
        room.then_some(State { hidden, ..state })
    }

    /// What the register shows in that state, for people.
    pub(super) fn describe(&self, state: State) -> String {
        match state.hidden {
            0 => format!("version {}", self.versions[state.known]),
            hidden => format!("version {} and {hidden} change(s)", self.versions[state.known]),
        }
    }
}

/// Who was told what.
#[derive(Default)]
struct Seen {
    /// Value → its version.
    versions: HashMap<String, Version>,
    /// Version → its value, where somebody read it.
    values: BTreeMap<Version, Option<String>>,
}

impl Seen {
    fn note(&mut self, value: &str, version: Version) -> Result<(), String> {
        let before = *self.versions.entry(value.to_owned()).or_insert(version);
        if before != version {
            return Err(format!(
                "{value:?} was seen as version {before} and as version {version}: it was applied twice"
            ));
        }
        let known = self.values.entry(version).or_default();
        let known = known.get_or_insert_with(|| value.to_owned());
        if known != value {
            return Err(format!("version {version} was seen with {known:?} and with {value:?}"));
        }
        Ok(())
    }
}
