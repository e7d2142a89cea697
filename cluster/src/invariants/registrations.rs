//! What nodes have registered is what they may: as living members, where there are members, with roles that their tokens
//! allow, and with programs that understand the commands which may be proposed.

use super::Findings;
use crate::apply::NODES_MAX;
use crate::catalog;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let level = catalog::system(view)?.level();
    let authority = catalog::has_authority(view)?;
    let nodes = catalog::nodes(view)?;
    findings.require(nodes.len() <= NODES_MAX, || format!("there are {} nodes", nodes.len()));
    for node in nodes {
        findings.require(node.level() >= level, || {
            format!("node {} understands level {}, {level} is active", node.id, node.level())
        });
        findings.require(node.roles.is_sorted_by(|one, next| one < next), || {
            format!("the roles of node {} are {:?}", node.id, node.roles)
        });
        if !authority {
            continue;
        }
        let member = catalog::member(view, node.id)?;
        let member = member.filter(|member| member.state.is_living());
        let Some(member) = member else {
            findings.require(false, || format!("node {} is not a member", node.id));
            continue;
        };
        findings.require(node.roles.iter().all(|role| member.roles_allowed.contains(role)), || {
            format!("node {} has roles that it was not allowed: {:?}", node.id, node.roles)
        });
    }
    Ok(())
}
