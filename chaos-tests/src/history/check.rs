//! Looking for an order of operations that explains all answers.
//!
//! A search after Wing and Gong (1993) in the form of Lowe (2017, "just-in-time linearization"): beginnings and ends of
//! operations are gone through in their real order, with the set of all **configurations** in which the register can be: its
//! state, and which of the operations under way have taken effect. Only when an operation ends must it have taken effect;
//! then those under way are tried before it, in all orders. Equal configurations are one. Registers are independent, so each
//! is checked alone.
//!
//! # What keeps it small
//!
//! - Versions grow, so the next version that anybody was told of is known, and so (mostly) is the change that made it.
//! - An operation that only looks takes effect as soon as it can: it disturbs nobody.
//! - Of changes that nobody saw, with the same condition, the one that ends first is used first: each could stand for the
//!   others. One that has no answer is used only where a version would have no maker otherwise.
//!
//! The property is decidable but not cheap (NP-complete), so the search is bounded all the same; a history that it cannot
//! decide is reported as such, and fails the test that wanted to know.

use std::collections::HashSet;
use std::fmt::Write as _;

use super::register::{Register, State, Step};
use super::{Content, Operation, What};

/// Configurations that are looked at per register, before the search gives up: some seconds and some hundred MiB.
pub const CONFIGURATIONS_MAX: usize = 1_000_000;

/// Operations that are shown when there is no order.
const SHOWN_MAX: usize = 40;

/// Whether a history can have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    /// It cannot: the reason, with the operations around it.
    Broken(String),
    /// The search was given up.
    Undecided(String),
}

/// A state, and the operations under way that have taken effect, in order of their places.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Configuration {
    state: State,
    done: Vec<usize>,
}

impl Configuration {
    /// This one after an operation more.
    fn after(&self, operation: usize, state: State) -> Self {
        let mut done = self.done.clone();
        if let Err(place) = done.binary_search(&operation) {
            done.insert(place, operation);
        }
        Self { state, done }
    }

    fn without(mut self, operation: usize) -> Self {
        self.done.retain(|done| *done != operation);
        self
    }

    fn has_done(&self, operation: usize) -> bool {
        self.done.binary_search(&operation).is_ok()
    }
}

/// Checks the operations on one register, which showed `initial` before the first of them, looking at no more than
/// `configurations_max` ([`CONFIGURATIONS_MAX`]) configurations.
#[must_use]
pub fn check(initial: &Content, operations: &[Operation], configurations_max: usize) -> Verdict {
    let register = match Register::of(initial, operations) {
        Ok(register) => register,
        Err(reason) => return Verdict::Broken(reason),
    };
    Search::new(&register, operations, configurations_max).run()
}

struct Search<'a> {
    register: &'a Register,
    operations: &'a [Operation],
    /// Those that have begun and not ended; without answer, they never end.
    under_way: Vec<usize>,
    configurations: HashSet<Configuration>,
    left: usize,
}

/// Of two at the same moment, the beginning comes first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Begins(usize),
    Ends(usize),
}

/// There is no order up to this operation's end.
struct Stuck(Verdict);

impl<'a> Search<'a> {
    fn new(register: &'a Register, operations: &'a [Operation], left: usize) -> Self {
        let initial = Configuration { state: State { known: 0, hidden: 0 }, done: Vec::new() };
        Self {
            register,
            operations,
            under_way: Vec::new(),
            configurations: HashSet::from([initial]),
            left,
        }
    }

    fn run(mut self) -> Verdict {
        let mut events = Vec::new();
        for (place, operation) in self.operations.iter().enumerate() {
            match self.register.steps[place] {
                Step::Nothing => continue,
                Step::Look { .. } | Step::Change { definite: true, .. } => {
                    events.push((operation.ended.order, Event::Ends(place)));
                }
                Step::Change { definite: false, .. } => {}
            }
            events.push((operation.began.order, Event::Begins(place)));
        }
        events.sort_unstable();
        for (_, event) in events {
            match event {
                Event::Begins(place) => self.begin(place),
                Event::Ends(place) => {
                    if let Err(Stuck(verdict)) = self.end(place) {
                        return verdict;
                    }
                }
            }
        }
        Verdict::Linearizable
    }

    fn begin(&mut self, place: usize) {
        self.under_way.push(place);
        let configurations = std::mem::take(&mut self.configurations);
        self.configurations =
            configurations.into_iter().map(|configuration| self.look(configuration)).collect();
    }

    /// Lets all operations take effect that only look and see what they saw.
    fn look(&self, mut configuration: Configuration) -> Configuration {
        if configuration.state.hidden == 0 {
            let seen = Step::Look { known: configuration.state.known };
            for &place in &self.under_way {
                if self.register.steps[place] == seen {
                    configuration = configuration.after(place, configuration.state);
                }
            }
        }
        configuration
    }

    /// Keeps the configurations in which that operation has taken effect, after others perhaps.
    fn end(&mut self, ending: usize) -> Result<(), Stuck> {
        let mut next = HashSet::new();
        let mut visited = HashSet::new();
        let before = std::mem::take(&mut self.configurations);
        let states: HashSet<State> =
            before.iter().map(|configuration| configuration.state).collect();
        let mut open: Vec<_> = before.into_iter().collect();
        while let Some(configuration) = open.pop() {
            if configuration.has_done(ending) {
                next.insert(configuration.without(ending));
                continue;
            }
            if !visited.insert(configuration.clone()) {
                continue;
            }
            let Some(left) = self.left.checked_sub(1) else {
                return Err(Stuck(Verdict::Undecided(format!(
                    "too many possible orders at the end of\n{}",
                    self.operations[ending]
                ))));
            };
            self.left = left;
            for place in self.changes(&configuration) {
                let step = self.register.steps[place];
                let made = self.register.make(configuration.state, step);
                let hidden = self.register.hide(configuration.state, step);
                for state in made.into_iter().chain(hidden) {
                    open.push(self.look(configuration.after(place, state)));
                }
            }
        }
        self.under_way.retain(|place| *place != ending);
        if next.is_empty() {
            return Err(Stuck(Verdict::Broken(self.explain(ending, &states))));
        }
        self.configurations = next;
        self.forget();
        Ok(())
    }

    /// The changes under way to be tried next: of those that could stand for each other, the one that ends first.
    fn changes(&self, configuration: &Configuration) -> Vec<usize> {
        let mut chosen: Vec<usize> = Vec::new();
        for &place in &self.under_way {
            let step = self.register.steps[place];
            let Step::Change { over, makes, definite } = step else { continue };
            if configuration.has_done(place) {
                continue;
            }
            let ends = |place: usize| self.operations[place].ended.order;
            let rival = chosen.iter_mut().find(|rival| match self.register.steps[**rival] {
                Step::Change { over: other, makes: None, definite: alike } => {
                    makes.is_none() && over == other && definite == alike
                }
                Step::Change { makes: Some(_), .. } | Step::Look { .. } | Step::Nothing => false,
            });
            match rival {
                Some(rival) if definite && ends(place) < ends(*rival) => *rival = place,
                Some(_) => {}
                None => chosen.push(place),
            }
        }
        chosen
    }

    /// An operation without answer that has taken effect in all configurations need not be remembered in each.
    fn forget(&mut self) {
        let mut everywhere: Option<Vec<usize>> = None;
        for configuration in &self.configurations {
            match &mut everywhere {
                None => everywhere = Some(configuration.done.clone()),
                Some(everywhere) => everywhere.retain(|place| configuration.has_done(*place)),
            }
        }
        let everywhere: Vec<_> = everywhere
            .unwrap_or_default()
            .into_iter()
            .filter(|place| {
                matches!(self.register.steps[*place], Step::Change { definite: false, .. })
            })
            .collect();
        if everywhere.is_empty() {
            return;
        }
        self.under_way.retain(|place| !everywhere.contains(place));
        let configurations = std::mem::take(&mut self.configurations);
        self.configurations = configurations
            .into_iter()
            .map(|configuration| {
                everywhere.iter().fold(configuration, |c, place| c.without(*place))
            })
            .collect();
    }

    fn explain(&self, ending: usize, states: &HashSet<State>) -> String {
        let operation = &self.operations[ending];
        let mut shown: Vec<_> = states.iter().map(|state| self.register.describe(*state)).collect();
        shown.sort();
        let mut text = format!(
            "no order of the operations explains\n{operation}\nBefore its end the register could be at: {}\nAround it:",
            shown.join("; ")
        );
        let around = self.operations.iter().filter(|other| {
            other.began < operation.ended
                && (other.ended > operation.began
                    || operation.began.order - other.ended.order < SHOWN_MAX as u64)
                && other.what != What::Read(None)
        });
        let around: Vec<_> = around.collect();
        for other in &around[around.len().saturating_sub(SHOWN_MAX)..] {
            let _ = write!(text, "\n{other}");
        }
        text
    }
}
