//! Which nodes hold what.

use std::collections::BTreeSet;

use super::step::{Step, Stop, require};
use crate::command::{Refusal, Reply};
use crate::ids::NodeId;
use crate::placement::Layout;
use crate::tables::nodes::{EARLIER, EARLIER_KEY, LAYOUT, NODES};
use crate::{catalog, features};

pub(super) fn set_layout(step: &mut Step<'_>, layout: &Layout) -> Result<Reply, Stop> {
    let present = catalog::layout(&step.tx)?;
    let expected = present.epoch().saturating_add(1);
    if layout.epoch() != expected {
        return Err(Refusal::LayoutEpoch { expected }.into());
    }
    for node in layout.nodes() {
        require(NODES.has(&step.tx, &node)?, || format!("node {node} is not registered"))?;
    }
    LAYOUT.put(&mut step.tx, &(), layout);
    if catalog::system(&step.tx)?.level() >= features::UPKEEP {
        let members: BTreeSet<NodeId> =
            catalog::nodes(&step.tx)?.into_iter().map(|row| row.id).collect();
        let earlier = catalog::earlier_holders(&step.tx)?;
        let earlier = earlier.after(&present, layout, |node| members.contains(&node));
        EARLIER.put(&mut step.tx, &EARLIER_KEY, &earlier);
    }
    Ok(Reply::Done)
}
