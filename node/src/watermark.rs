//! How full a disk may be before a node stops doing what.
//!
//! Pure: the size and the free space of a file system go in, a [`DiskPressure`] comes out. What can wait is given up first: a
//! node makes no copies for itself long before it refuses what people upload. Reads and deletions never stop.
//!
//! Each mark is a share of the file system *and* an amount: the smaller of the two decides. A share alone would leave
//! terabytes of a large disk empty, an amount alone would make a small machine useless.

use crate::files::Space;

const GIB: u64 = 1 << 30;

/// Free space below which something is no longer done: a share of the file system, and never more than an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Per cent of the file system.
    percent: u64,
    /// Bytes.
    at_most: u64,
}

impl Mark {
    const fn new(percent: u64, at_most: u64) -> Self {
        Self { percent, at_most }
    }

    /// The mark in bytes, on a file system of this size.
    #[must_use]
    pub fn free_bytes(self, total_bytes: u64) -> u64 {
        // Divided first: a file system may be larger than a hundredth of what fits.
        let share = total_bytes / 100 * self.percent + total_bytes % 100 * self.percent / 100;
        share.min(self.at_most)
    }
}

/// Less free space is worth telling: there is time to do something about it.
pub const LOW: Mark = Mark::new(15, 16 * GIB);

/// With less, no copies are brought here that are elsewhere: the rest is for what people upload.
pub const NO_COPIES: Mark = Mark::new(10, 4 * GIB);

/// With less, no blocks are stored: what is being written at the same time, and what the log and the catalog need, has to
/// fit in.
pub const NO_BLOCKS: Mark = Mark::new(5, 2 * GIB);

/// With less, the [ballast](crate::ballast) is given up. Well below what stops the store, so that blocks never take its place.
pub const RELEASE_BALLAST: Mark = Mark::new(2, GIB / 2);

/// What a node no longer does because its disk is full. Each includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum DiskPressure {
    /// It does everything.
    #[default]
    None,
    /// It does everything, and says that the disk fills up.
    Low,
    /// It pulls no copies: neither those that it lacks nor those that a new layout gives it.
    NoCopies,
    /// It stores no blocks: neither those that it should hold nor those that it would keep for another node.
    NoBlocks,
}

impl DiskPressure {
    /// By the worst mark that the free space is below.
    #[must_use]
    pub fn of(space: Space) -> Self {
        let below = |mark: Mark| space.free_bytes < mark.free_bytes(space.total_bytes);
        if below(NO_BLOCKS) {
            Self::NoBlocks
        } else if below(NO_COPIES) {
            Self::NoCopies
        } else if below(LOW) {
            Self::Low
        } else {
            Self::None
        }
    }

    /// For metrics and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::NoCopies => "no_copies",
            Self::NoBlocks => "no_blocks",
        }
    }

    /// Whether copies may be brought here that are elsewhere.
    #[must_use]
    pub fn takes_copies(self) -> bool {
        self < Self::NoCopies
    }

    /// Whether blocks may be stored.
    #[must_use]
    pub fn takes_blocks(self) -> bool {
        self < Self::NoBlocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn pressure(free_bytes: u64, total_bytes: u64) -> DiskPressure {
        DiskPressure::of(Space { free_bytes, total_bytes })
    }

    /// The pressure just below and just at each mark, given in bytes.
    fn changes_at(marks: [u64; 3], total_bytes: u64) {
        use DiskPressure::{Low, NoBlocks, NoCopies, None};
        let [low, no_copies, no_blocks] = marks;
        assert_eq!(pressure(total_bytes, total_bytes), None);
        for (mark, above, below) in
            [(low, None, Low), (no_copies, Low, NoCopies), (no_blocks, NoCopies, NoBlocks)]
        {
            assert_eq!(pressure(mark, total_bytes), above, "{mark} of {total_bytes}");
            assert_eq!(pressure(mark - 1, total_bytes), below, "{} of {total_bytes}", mark - 1);
        }
        assert_eq!(pressure(0, total_bytes), NoBlocks);
    }

    #[test]
    fn a_small_disk_goes_by_shares() {
        changes_at([15 * GIB, 10 * GIB, 5 * GIB].map(|mark| mark / 10), 10 * GIB);
        changes_at([45 * MIB, 30 * MIB, 15 * MIB], 300 * MIB);
    }

    #[test]
    fn a_large_disk_goes_by_amounts() {
        for total_bytes in [1 << 40, 16 << 40, u64::MAX] {
            changes_at([16 * GIB, 4 * GIB, 2 * GIB], total_bytes);
        }
    }

    #[test]
    fn what_is_given_up_is_not_taken_back_by_less_space() {
        use DiskPressure::{Low, NoBlocks, NoCopies, None};
        let takes = |pressure: DiskPressure| (pressure.takes_copies(), pressure.takes_blocks());
        assert_eq!([None, Low].map(takes), [(true, true); 2]);
        assert_eq!(takes(NoCopies), (false, true));
        assert_eq!(takes(NoBlocks), (false, false));
        let mut before = NoBlocks;
        for free_bytes in (0..100 * GIB).step_by(MIB as usize) {
            let now = pressure(free_bytes, 100 * GIB);
            assert!(now <= before, "{free_bytes}");
            before = now;
        }
    }

    #[test]
    fn nothing_is_refused_where_the_size_is_not_known() {
        assert_eq!(pressure(0, 0), DiskPressure::None);
    }
}
