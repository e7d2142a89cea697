//! What a node remembers of its scrubs, and what follows from that: when the next cycle begins, where it goes on, how fast.
//!
//! Pure: times come in, as milliseconds since 1970 by this node's clock. That clock may be set back or ahead; then a cycle
//! begins at another time, and no later than one length of a cycle from now.

use cluster::ids::BlockHash;
use serde::{Deserialize, Serialize};

/// However much time there is, no slower: a small store is through within minutes, and rests.
pub(super) const BYTES_PER_SECOND_MIN: u64 = 4 << 20;

/// A cycle is to end when this part of its length is over, in tenths: the rest is for what comes in between.
const TENTHS: u64 = 9;

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    pub blocks: u64,
    pub bytes: u64,
    /// Of these blocks, copies that were bad.
    pub damaged_blocks: u64,
}

/// A cycle under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Cycle {
    pub began_ms: u64,
    /// Somebody asked for it, and waits.
    pub urgent: bool,
    /// The first block that has not been checked; none when all have.
    pub from: Option<BlockHash>,
    pub checked: Checked,
}

/// A cycle that came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finished {
    pub began_ms: u64,
    pub ended_ms: u64,
    pub checked: Checked,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// When it was begun.
    pub since_ms: u64,
    /// The request that was followed last, by its log index.
    pub asked: u64,
    /// When the next cycle begins, while there is none.
    pub next_ms: u64,
    pub cycle: Option<Cycle>,
    pub last: Option<Finished>,
}

impl Record {
    /// Of a node that knows nothing yet. Nodes that are set up together would read together; so each begins at a time of its
    /// own: `share` of a cycle from now, 0 to 1.
    pub(super) fn new(now_ms: u64, every_ms: u64, share: f64) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time between now and a cycle later, to the nearest millisecond or so"
        )]
        let pause_ms = (every_ms as f64 * share.clamp(0.0, 1.0)) as u64;
        let next_ms = now_ms.saturating_add(pause_ms);
        Self { since_ms: now_ms, asked: 0, next_ms, cycle: None, last: None }
    }

    /// Begins a cycle if it is time, or if somebody `asked` for one that was not followed yet. Whether it did.
    pub(super) fn begin_if_due(&mut self, now_ms: u64, every_ms: u64, asked: u64) -> bool {
        // A clock that was ahead, or a longer cycle than is set now.
        self.next_ms = self.next_ms.min(now_ms.saturating_add(every_ms));
        let urgent = asked != 0 && asked != self.asked;
        if !urgent && (self.cycle.is_some() || now_ms < self.next_ms) {
            return false;
        }
        if urgent {
            self.asked = asked;
        }
        let from = Some(BlockHash([0; 32]));
        self.cycle = Some(Cycle { began_ms: now_ms, urgent, from, checked: Checked::default() });
        true
    }

    /// Ends the cycle. The next one begins so long after this one began.
    pub(super) fn finish(&mut self, now_ms: u64, every_ms: u64) {
        let Some(Cycle { began_ms, checked, .. }) = self.cycle.take() else { return };
        self.last = Some(Finished { began_ms, ended_ms: now_ms, checked });
        self.next_ms = began_ms.saturating_add(every_ms);
    }
}

impl Cycle {
    /// One block is done: it was good or `damaged`, or it disappeared before it could be read (`None`).
    pub(super) fn checked(&mut self, hash: BlockHash, found: Option<(u32, bool)>) {
        self.from = successor(hash);
        if let Some((len, damaged)) = found {
            self.checked.blocks += 1;
            self.checked.bytes += u64::from(len);
            self.checked.damaged_blocks += u64::from(damaged);
        }
    }

    /// How much is done, in millionths. Hashes are spread evenly, so the place of the next one says it, however many blocks
    /// come and go meanwhile.
    pub(super) fn millionths(&self) -> u32 {
        let Some(from) = self.from else { return 1_000_000 };
        let first = u32::from_be_bytes([from.0[0], from.0[1], from.0[2], from.0[3]]);
        let millionths = (u64::from(first) * 1_000_000) >> 32;
        u32::try_from(millionths).expect("less than a million")
    }

    /// Bytes that are left, of so many in the store.
    pub(super) fn left_bytes(&self, stored_bytes: u64) -> u64 {
        let left = u128::from(1_000_000 - self.millionths());
        u64::try_from(u128::from(stored_bytes) * left / 1_000_000).unwrap_or(u64::MAX)
    }

    /// Bytes per second so that the cycle ends in time, and no faster; at most `most`.
    pub(super) fn pace(&self, now_ms: u64, every_ms: u64, stored_bytes: u64, most: u64) -> u64 {
        if self.urgent {
            return most;
        }
        let ends_ms = self.began_ms.saturating_add(every_ms / 10 * TENTHS);
        let left_ms = ends_ms.saturating_sub(now_ms).min(every_ms);
        let needed = u128::from(self.left_bytes(stored_bytes)) * 1000;
        // Late: as fast as may be.
        let needed = needed.checked_div(u128::from(left_ms)).unwrap_or(u128::from(most));
        u64::try_from(needed).unwrap_or(u64::MAX).max(BYTES_PER_SECOND_MIN).min(most)
    }
}

/// The next hash in order.
fn successor(hash: BlockHash) -> Option<BlockHash> {
    let mut bytes = hash.0;
    for byte in bytes.iter_mut().rev() {
        let (next, carried) = byte.overflowing_add(1);
        *byte = next;
        if !carried {
            return Some(BlockHash(bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 24 * 3600 * 1000;
    const EVERY_MS: u64 = 14 * DAY_MS;
    const MOST: u64 = 64 << 20;
    const NOW_MS: u64 = 1_800_000_000_000;

    fn hash(first: u8) -> BlockHash {
        let mut bytes = [0; 32];
        bytes[0] = first;
        BlockHash(bytes)
    }

    fn cycle(began_ms: u64, from: Option<BlockHash>) -> Cycle {
        Cycle { began_ms, urgent: false, from, checked: Checked::default() }
    }

    #[test]
    fn the_first_cycle_begins_at_any_time_and_the_next_one_a_cycle_later() {
        for (share, pause_ms) in [(0.0, 0), (0.5, EVERY_MS / 2), (1.0, EVERY_MS)] {
            let mut record = Record::new(NOW_MS, EVERY_MS, share);
            let begins_ms = NOW_MS + pause_ms;
            assert!(pause_ms == 0 || !record.begin_if_due(begins_ms - 1, EVERY_MS, 0));
            assert!(record.begin_if_due(begins_ms, EVERY_MS, 0));
            assert!(!record.begin_if_due(begins_ms + 1, EVERY_MS, 0), "it is under way");
            record.finish(begins_ms + 5, EVERY_MS);
            assert_eq!(record.last.unwrap().ended_ms, begins_ms + 5);
            assert!(!record.begin_if_due(begins_ms + EVERY_MS - 1, EVERY_MS, 0));
            assert!(record.begin_if_due(begins_ms + EVERY_MS, EVERY_MS, 0));
        }
    }

    #[test]
    fn whoever_asks_is_followed_once() {
        let mut record = Record::new(NOW_MS, EVERY_MS, 1.0);
        assert!(record.begin_if_due(NOW_MS, EVERY_MS, 7));
        assert!(record.cycle.unwrap().urgent);
        assert!(!record.begin_if_due(NOW_MS, EVERY_MS, 7));
        record.cycle.as_mut().unwrap().checked(hash(9), Some((5, true)));
        // Asked once more, all is read once more.
        assert!(record.begin_if_due(NOW_MS + 1, EVERY_MS, 8));
        assert_eq!(record.cycle.unwrap().checked, Checked::default());
        record.finish(NOW_MS + 2, EVERY_MS);
        assert!(!record.begin_if_due(NOW_MS + 3, EVERY_MS, 8));
        // The log of a cluster that was made of another one begins anew.
        assert!(record.begin_if_due(NOW_MS + 4, EVERY_MS, 2));
        record.finish(NOW_MS + 5, EVERY_MS);
        assert!(!record.begin_if_due(NOW_MS + 6, EVERY_MS, 0), "nobody ever asked there");
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_put_it_off() {
        let mut record = Record::new(NOW_MS + 1000 * EVERY_MS, EVERY_MS, 0.0);
        assert!(!record.begin_if_due(NOW_MS, EVERY_MS, 0));
        assert!(record.begin_if_due(NOW_MS + EVERY_MS, EVERY_MS, 0));
        let late = cycle(NOW_MS + 1000 * EVERY_MS, hash(0).into());
        assert!(late.pace(NOW_MS, EVERY_MS, 1 << 40, MOST) < MOST);
    }

    #[test]
    fn it_is_as_fast_as_it_has_to_be() {
        let pace =
            |cycle: Cycle, after_ms, bytes| cycle.pace(NOW_MS + after_ms, EVERY_MS, bytes, MOST);
        let whole = cycle(NOW_MS, Some(hash(0)));
        assert_eq!(pace(whole, 0, 1 << 30), BYTES_PER_SECOND_MIN);
        let ten_tib = 10 << 40;
        let needed = ten_tib / (EVERY_MS / 10 * TENTHS / 1000);
        assert_eq!(pace(whole, 0, ten_tib), needed);
        // Half of it is done after half of the time.
        let half = cycle(NOW_MS, Some(hash(128)));
        let later = pace(half, EVERY_MS / 10 * TENTHS / 2, ten_tib);
        assert!(later.abs_diff(needed) <= 1, "{later} {needed}");
        assert!(pace(half, EVERY_MS / 10, ten_tib) < needed, "it is ahead");
        assert!(pace(half, EVERY_MS / 10 * 8, ten_tib) > needed, "it is behind");
        assert_eq!(pace(whole, 2 * EVERY_MS, ten_tib), MOST);
        assert_eq!(pace(whole, 0, u64::MAX), MOST);
        assert_eq!(pace(Cycle { urgent: true, ..whole }, 0, 1), MOST);
        assert_eq!(whole.pace(NOW_MS, EVERY_MS, 1, 100), 100, "the setting is a bound");
    }

    #[test]
    fn progress_is_the_place_of_the_next_hash() {
        let mut cycle = cycle(NOW_MS, Some(hash(0)));
        assert_eq!((cycle.millionths(), cycle.left_bytes(1000)), (0, 1000));
        cycle.checked(hash(64), Some((10, false)));
        assert_eq!((cycle.millionths(), cycle.left_bytes(1000)), (250_000, 750));
        cycle.checked(hash(128), Some((10, true)));
        cycle.checked(hash(192), None);
        assert_eq!(cycle.checked, Checked { blocks: 2, bytes: 20, damaged_blocks: 1 });
        cycle.checked(BlockHash([255; 32]), None);
        assert_eq!((cycle.millionths(), cycle.left_bytes(1000)), (1_000_000, 0));
        assert_eq!(cycle.from, None);
    }
}
