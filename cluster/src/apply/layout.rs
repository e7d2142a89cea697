//! Which nodes hold what.

use super::step::{Step, Stop, require};
use crate::command::{Refusal, Reply};
use crate::placement::Layout;
use crate::tables::nodes::{LAYOUT, NODES};

pub(super) fn set_layout(step: &mut Step<'_>, layout: &Layout) -> Result<Reply, Stop> {
    let present = LAYOUT.get(&step.tx, &())?.map_or(0, |layout| layout.epoch());
    let expected = present.saturating_add(1);
    if layout.epoch() != expected {
        return Err(Refusal::LayoutEpoch { expected }.into());
    }
    for node in layout.nodes() {
        require(NODES.has(&step.tx, &node)?, || format!("node {node} is not registered"))?;
    }
    LAYOUT.put(&mut step.tx, &(), layout);
    Ok(Reply::Done)
}
