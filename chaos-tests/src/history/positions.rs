//! The places in the log that writes were told: one log for all registers, so they say more than each register alone.
//!
//! A write that was acknowledged before another one began stands before it in the log, whichever registers and nodes the two
//! went to; and no two stand in one place. A cluster that has lost acknowledged entries and filled their places with others
//! breaks this even where nobody reads what was lost.

use std::collections::HashMap;

use super::{Fate, Operation, What};

/// # Errors
/// With two operations whose places cannot both be true.
pub fn check(operations: &[Operation]) -> Result<(), String> {
    let mut taken = HashMap::new();
    let mut events = Vec::new();
    for operation in operations {
        if let What::Change { fate: Fate::Applied { index, .. }, .. } = operation.what {
            if let Some(other) = taken.insert(index, operation) {
                return Err(format!("two writes at one place of the log:\n{other}\n{operation}"));
            }
            events.push((operation.began.order, None, operation));
            events.push((operation.ended.order, Some(index), operation));
        }
    }
    events.sort_by_key(|(order, ..)| *order);
    let mut last: Option<(u64, &Operation)> = None;
    let mut before_beginning = HashMap::new();
    for (_, ended, operation) in events {
        match ended {
            None => {
                before_beginning.insert(operation.began.order, last);
            }
            Some(index) => {
                if let Some(Some((before, other))) = before_beginning.remove(&operation.began.order)
                    && before > index
                {
                    return Err(format!(
                        "a later write has an earlier place in the log:\n{other}\n{operation}"
                    ));
                }
                if last.is_none_or(|(before, _)| before < index) {
                    last = Some((index, operation));
                }
            }
        }
    }
    Ok(())
}
