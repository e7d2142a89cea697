//! There are members if and only if there is an authority. Their ids have been given out, their keys are their own, and one
//! of them is there to stay.

use std::collections::BTreeSet;

use super::Findings;
use crate::catalog;
use crate::ids::NodeId;
use crate::table::KeyRange;
use crate::tables::members::{MEMBERS, MemberState};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let next = NodeId(catalog::system(view)?.next_node_id);
    let members = MEMBERS.collect(view, &KeyRange::all(), usize::MAX)?;
    let authority = catalog::has_authority(view)?;
    findings.require(authority != members.is_empty(), || {
        format!("there are {} members, and an authority: {authority}", members.len())
    });
    let mut keys = BTreeSet::new();
    for (id, member) in &members {
        findings.require(NodeId(0) < *id && *id < next, || {
            format!("node {id} is a member, but the next id is {next}")
        });
        findings.require(keys.insert(member.public_key_hash), || {
            format!("the key of node {id} is also another's")
        });
    }
    let stays = members.iter().any(|(_, member)| member.state == MemberState::Member);
    findings.require(members.is_empty() || stays, || "no member stays".into());
    Ok(())
}
