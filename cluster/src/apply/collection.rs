//! Blocks that nobody names any more: from waiting to reaped to forgotten. What that means is in [`crate::collection`].

use std::ops::ControlFlow;

use super::limits::{FORGET_BLOCKS_MAX, REAP_BLOCKS_MAX};
use super::step::{Step, Stop, require};
use crate::catalog;
use crate::collection;
use crate::command::Reply;
use crate::ids::BlockHash;
use crate::table::KeyRange;
use crate::tables::blocks::{BLOCKS, BlockState, REAPED, WAITING};
use crate::tables::system::{ReapMark, SYSTEM};

/// From now on the tables of collection are kept: they get what is in the others already. Happens once in the life of a
/// cluster, and reads every row of its blocks: about a second for a million.
pub(super) fn begin(step: &mut Step<'_>) -> Result<(), Stop> {
    let mut waiting = Vec::new();
    BLOCKS.scan(&step.tx, &KeyRange::all(), &mut |hash, row| {
        if let BlockState::Waiting { since_ms } = row.state() {
            waiting.push(((since_ms, hash), row.len));
        }
        ControlFlow::Continue(())
    })?;
    for (key, len) in waiting {
        WAITING.put(&mut step.tx, &key, &len);
    }
    step.collects = true;
    Ok(())
}

pub(super) fn reap(
    step: &mut Step<'_>,
    hashes: &[BlockHash],
    unreferenced_before_ms: u64,
) -> Result<Reply, Stop> {
    require_level(step)?;
    require(hashes.len() <= REAP_BLOCKS_MAX, || {
        format!("at most {REAP_BLOCKS_MAX} blocks can be reaped at once")
    })?;
    for hash in hashes {
        let Some(before) = BLOCKS.get(&step.tx, hash)? else {
            continue;
        };
        if let Some(after) = collection::reaped(before.clone(), step.index, unreferenced_before_ms)
        {
            step.change(*hash, Some(&before), Some(&after));
        }
    }
    Ok(Reply::Done)
}

pub(super) fn forget(step: &mut Step<'_>, marked_before_ms: u64) -> Result<Reply, Stop> {
    require_level(step)?;
    let mut system = catalog::system(&step.tx)?;
    let due = match system.reap_mark {
        Some(mark) if mark.time_ms <= marked_before_ms => {
            system.reap_floor = system.reap_floor.max(mark.index);
            true
        }
        Some(_) => false,
        None => true,
    };
    if due {
        system.reap_mark = Some(ReapMark { index: step.index, time_ms: step.now_ms });
        SYSTEM.put(&mut step.tx, &(), &system);
    }
    let range = KeyRange::all().ending_before(&system.reap_floor.saturating_add(1));
    for (_, hash) in REAPED.keys(&step.tx, &range, FORGET_BLOCKS_MAX)? {
        let row = BLOCKS.get(&step.tx, &hash)?;
        step.change(hash, row.as_ref(), None);
    }
    Ok(Reply::Done)
}

/// Proposers see to it; but a log is a log.
fn require_level(step: &Step<'_>) -> Result<(), Stop> {
    Ok(require(step.collects, || "some node's program does not know of collection".into())?)
}
