//! A removed node has left: it is not registered, has no leases, no maintenance, and no place in the layout unless it was
//! lost with its blocks.

use std::collections::BTreeSet;

use super::Findings;
use crate::catalog;
use crate::table::KeyRange;
use crate::tables::members::{MEMBERS, MemberState};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let holders: BTreeSet<_> = catalog::layout(view)?.nodes().into_iter().collect();
    for (id, member) in MEMBERS.collect(view, &KeyRange::all(), usize::MAX)? {
        let MemberState::Removed { forced, .. } = member.state else {
            continue;
        };
        findings.require(catalog::node(view, id)?.is_none(), || format!("node {id} is registered"));
        findings
            .require(catalog::leases_of(view, id)?.is_empty(), || format!("node {id} has leases"));
        findings.require(member.maintenance_until_ms.is_none(), || {
            format!("node {id} is in maintenance")
        });
        findings.require(forced || !holders.contains(&id), || {
            format!("the layout gives blocks to node {id}")
        });
    }
    Ok(())
}
