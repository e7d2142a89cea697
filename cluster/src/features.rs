//! Which commands every node understands.
//!
//! A node that meets a command which it cannot decode has to stop: going on would make it differ from the others. So while
//! a cluster is upgraded node by node, nobody may propose what the oldest program among them does not know. Each program
//! has a level, the highest whose commands it understands; each node registers it; the catalog holds the *active* level
//! ([`SystemRow::level`]), and a proposer refuses commands that need more ([`Action::feature_level`]).
//!
//! The active level rises by a command of its own, which is refused until every member has registered that level, and never
//! falls; a node whose program is older than the active level is not admitted and cannot register.
//!
//! [`SystemRow::level`]: crate::tables::system::SystemRow::level
//! [`Action::feature_level`]: crate::command::Action::feature_level

/// The level of programs that knew of none: videos, jobs, layouts.
pub const FIRST: u32 = 1;

/// Adds admission by token, the life of a member, maintenance, and the levels themselves.
pub const ADMISSION: u32 = 2;

/// Adds what keeps the store of blocks in order: pausing repair, asking for a scrub, the memory of who held blocks before, and
/// the collection of blocks that nobody names. Programs below it know neither the commands nor the refusal of blocks that may
/// be gone, and do not keep the tables.
pub const UPKEEP: u32 = 3;

/// The highest level that this program understands.
pub const NEWEST: u32 = UPKEEP;
