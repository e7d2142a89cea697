//! The time that a leader gives to commands.
//!
//! The catalog's clock is the highest time that any command carried, so a leader whose clock was an hour ahead leaves a
//! catalog that is an hour ahead. Were its successors to stamp their own time, the catalog's clock would stand still for
//! that hour: no lease would expire, no pause would end. So a leader's time is its wall clock or, if that is higher, the
//! catalog's clock plus what has passed since: it may be ahead of the world, but it goes.
//!
//! Everybody else goes by that clock too, where it matters what time it is for the cluster: whether a lease is over, until
//! when a token is good. A node that does not lead cannot read it, but knows what was stamped last and how long ago it heard
//! of that ([`FollowedClock`]). Its own wall clock may be hours off, and does not count.
//!
//! What is pure of that is here. Reading the clocks is the caller's business: the wall clock, which people and NTP set, and
//! one that only counts what passes.

/// How often the catalog's clock is looked at again, in milliseconds. A new leader may not have applied all that its
/// predecessor has stamped, and learns soon after how far ahead that was.
const LOOK_EVERY_MS: u64 = 100;

/// What the clocks of a machine show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The term in which this node leads.
    pub term: u64,
    /// Milliseconds since 1970, as far as this machine knows.
    pub wall_ms: u64,
    /// Milliseconds since some moment, such as the start of the process. Never goes back.
    pub monotonic_ms: u64,
}

/// The clock of a leader: within a term it goes at least as fast as time passes, and never back.
#[derive(Clone, Debug, Default)]
pub struct LeaderClock {
    last: Option<Stamp>,
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    given_ms: u64,
    at: Reading,
    /// By the monotonic clock.
    looked_ms: u64,
}

impl LeaderClock {
    /// The time for a command: milliseconds since 1970. `catalog_ms` reads the catalog's clock; it is called for the first
    /// command of a term and then now and then.
    pub fn stamp_ms(&mut self, now: Reading, catalog_ms: impl FnOnce() -> u64) -> u64 {
        let (running_ms, looked_ms) = match self.last {
            // What it stamped in an earlier term may never have been committed: it counts only if the catalog has it.
            Some(last) if last.at.term == now.term => {
                let passed_ms = now.monotonic_ms.saturating_sub(last.at.monotonic_ms);
                let running_ms = last.given_ms.saturating_add(passed_ms);
                if now.monotonic_ms.saturating_sub(last.looked_ms) >= LOOK_EVERY_MS {
                    (running_ms.max(catalog_ms()), now.monotonic_ms)
                } else {
                    (running_ms, last.looked_ms)
                }
            }
            Some(_) | None => (catalog_ms(), now.monotonic_ms),
        };
        let given_ms = now.wall_ms.max(running_ms);
        self.last = Some(Stamp { given_ms, at: now, looked_ms });
        given_ms
    }
}

/// The clock of the leader, as a node knows it that applies what the leader has stamped: behind it by what a command takes
/// to come here, and no more as long as the leader stays the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct FollowedClock {
    /// What the catalog's clock showed last, and when that was learnt, by the monotonic clock.
    last: Option<(u64, u64)>,
}

impl FollowedClock {
    /// Takes over the catalog's clock when it has gone on.
    pub fn learn(&mut self, catalog_ms: u64, monotonic_ms: u64) {
        if self.last.is_none_or(|(last_ms, _)| catalog_ms > last_ms) {
            self.last = Some((catalog_ms, monotonic_ms));
        }
    }

    /// Milliseconds since 1970, for the cluster.
    #[must_use]
    pub fn now_ms(&self, monotonic_ms: u64) -> u64 {
        let Some((catalog_ms, learnt_ms)) = self.last else { return 0 };
        catalog_ms.saturating_add(monotonic_ms.saturating_sub(learnt_ms))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(term: u64, wall_ms: u64, monotonic_ms: u64) -> Reading {
        Reading { term, wall_ms, monotonic_ms }
    }

    #[test]
    fn a_clock_that_is_right_is_used_as_it_is() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.stamp_ms(at(1, 1_000, 7), || 900), 1_000);
        assert_eq!(clock.stamp_ms(at(1, 1_500, 507), || 1_000), 1_500);
    }

    #[test]
    fn after_a_leader_whose_clock_was_ahead_time_goes_on_from_there() {
        let hour = 3_600_000;
        let mut clock = LeaderClock::default();
        assert_eq!(clock.stamp_ms(at(2, 1_000, 50), || hour), hour);
        assert_eq!(clock.stamp_ms(at(2, 1_010, 60), || hour), hour + 10);
        assert_eq!(clock.stamp_ms(at(2, 9_000, 8_050), || hour + 10), hour + 8_000);
        // In the end the world has caught up.
        assert_eq!(clock.stamp_ms(at(2, 2 * hour, 8_060), || hour + 8_000), 2 * hour);
    }

    #[test]
    fn what_the_catalog_learns_late_counts_too() {
        let mut clock = LeaderClock::default();
        assert_eq!(clock.stamp_ms(at(2, 1_000, 0), || 0), 1_000);
        // Meanwhile an entry of the last leader was applied, but it is too soon to look.
        assert_eq!(clock.stamp_ms(at(2, 1_099, 99), || unreachable!()), 1_099);
        assert_eq!(clock.stamp_ms(at(2, 1_100, 100), || 50_000), 50_000);
        assert_eq!(clock.stamp_ms(at(2, 1_150, 150), || unreachable!()), 50_050);
    }

    #[test]
    fn a_wall_clock_that_is_set_back_does_not_stop_time() {
        let mut clock = LeaderClock::default();
        clock.stamp_ms(at(1, 100_000, 0), || 0);
        assert_eq!(clock.stamp_ms(at(1, 5, 20), || unreachable!()), 100_020);
        // In a new term only what the catalog has seen counts.
        assert_eq!(clock.stamp_ms(at(2, 30, 40), || 90_000), 90_000);
    }

    #[test]
    fn between_two_commands_time_goes_on_for_those_who_follow() {
        let mut clock = FollowedClock::default();
        clock.learn(50_000, 10);
        assert_eq!(clock.now_ms(10), 50_000);
        assert_eq!(clock.now_ms(1_010), 51_000);
        // Another leader has not counted what passed between the two.
        clock.learn(50_200, 1_010);
        assert_eq!(clock.now_ms(1_030), 50_220);
        // An older command, such as one of those that are applied again after a start.
        clock.learn(40_000, 1_040);
        assert_eq!(clock.now_ms(1_050), 50_240);
    }

    proptest! {
        #[test]
        fn who_follows_is_never_ahead_of_who_leads(
            steps in prop::collection::vec((0_u64..10_000, 0_u64..300, 0_u64..50), 1..50),
        ) {
            let (mut leader, mut follower) = (LeaderClock::default(), FollowedClock::default());
            let (mut monotonic_ms, mut catalog_ms) = (0, 0);
            for (wall_ms, passed_ms, way_ms) in steps {
                monotonic_ms += passed_ms;
                let stamp = leader.stamp_ms(at(1, wall_ms, monotonic_ms), || catalog_ms);
                prop_assert!(follower.now_ms(monotonic_ms) <= stamp);
                catalog_ms = stamp;
                monotonic_ms += way_ms;
                follower.learn(stamp, monotonic_ms);
            }
        }

        #[test]
        fn within_a_term_time_passes_and_is_never_behind(
            steps in prop::collection::vec((0_u64..10_000, 0_u64..300, 0_u64..10_000), 1..50),
        ) {
            let mut clock = LeaderClock::default();
            let mut catalog_ms = 0;
            let mut monotonic_ms = 0;
            let mut last = None;
            for (wall_ms, passed_ms, others_ms) in steps {
                monotonic_ms += passed_ms;
                let stamp = clock.stamp_ms(at(1, wall_ms, monotonic_ms), || catalog_ms);
                prop_assert!(stamp >= wall_ms);
                if let Some(last) = last {
                    prop_assert!(stamp >= last + passed_ms);
                }
                catalog_ms = catalog_ms.max(stamp).max(others_ms);
                last = Some(stamp);
            }
        }
    }
}
