//! The tables of collection list exactly the blocks that wait and those that are reaped, from the level on that has them;
//! nothing that is reaped or marked is from the future, and what the floor has passed comes before all else to be forgotten.

use std::collections::BTreeMap;

use super::Findings;
use crate::catalog;
use crate::features;
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, BlockState, REAPED, WAITING};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let all = KeyRange::all();
    let mut waiting: BTreeMap<_, _> =
        WAITING.collect(view, &all, usize::MAX)?.into_iter().collect();
    let mut reaped: BTreeMap<_, _> = REAPED.collect(view, &all, usize::MAX)?.into_iter().collect();
    let system = catalog::system(view)?;
    let kept = system.level() >= features::UPKEEP;
    for (hash, row) in BLOCKS.collect(view, &all, usize::MAX)? {
        let listed = match row.state() {
            BlockState::Needed => continue,
            BlockState::Waiting { .. } if !kept => continue,
            BlockState::Waiting { since_ms } => waiting.remove(&(since_ms, hash)),
            BlockState::Reaped { at } => reaped.remove(&(at, hash)),
        };
        findings.require(listed == Some(row.len), || {
            format!("{hash} is {:?} and listed with {listed:?} bytes", row.state())
        });
    }
    for ((since_ms, hash), _) in waiting {
        findings.require(false, || format!("{hash} does not wait since {since_ms}"));
    }
    for ((at, hash), _) in reaped {
        findings.require(false, || format!("{hash} is not reaped at {at}"));
    }
    if let Some(mark) = system.reap_mark {
        findings.require(mark.index >= system.reap_floor && mark.time_ms <= system.time_ms, || {
            format!("{mark:?} is not between the floor {} and now", system.reap_floor)
        });
    }
    Ok(())
}
