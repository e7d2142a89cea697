//! A token has let in no more nodes than it may; whom it let in is a member with that key; and nobody was let in twice.

use std::collections::BTreeSet;

use super::Findings;
use crate::apply::{TOKEN_USES_MAX, TOKENS_MAX};
use crate::catalog;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let tokens = catalog::tokens(view)?;
    findings.require(tokens.len() <= TOKENS_MAX, || format!("there are {}", tokens.len()));
    let mut admitted = BTreeSet::new();
    for (id, token) in tokens {
        let uses = (token.uses.len() as u64).saturating_add(u64::from(token.uses_left));
        findings.require((1..=u64::from(TOKEN_USES_MAX)).contains(&uses), || {
            format!("{id} lets in {uses} nodes")
        });
        findings.require(!token.roles.is_empty(), || format!("{id} allows no role"));
        for (key, node) in token.uses {
            let member = catalog::member(view, node)?;
            findings.require(
                member.is_some_and(|member| {
                    member.public_key_hash == key && member.roles_allowed == token.roles
                }),
                || format!("{id} has let in node {node}, which is no such member"),
            );
            findings.require(admitted.insert(node), || format!("node {node} was let in twice"));
        }
    }
    Ok(())
}
