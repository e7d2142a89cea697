//! Who belongs to the cluster, who lets nodes in, and what was asked for by operators.

use crate::features;
use crate::ids::{NodeId, TokenId};
use crate::table::KeyRange;
use crate::tables::audit::{AUDIT, AuditRow};
use crate::tables::authority::{AUTHORITY, AuthorityRow};
use crate::tables::members::{MEMBERS, MemberRow};
use crate::tables::nodes::NODES;
use crate::tables::tokens::{TOKENS, TokenRow};
use crate::view::{View, ViewError};

/// Who signs the members' certificates; none in a cluster that was founded without.
///
/// # Errors
/// When the view fails.
pub fn authority(view: &dyn View) -> Result<Option<AuthorityRow>, ViewError> {
    AUTHORITY.get(view, &())
}

/// Whether nodes have to be admitted before they may register.
///
/// # Errors
/// When the view fails.
pub fn has_authority(view: &dyn View) -> Result<bool, ViewError> {
    AUTHORITY.has(view, &())
}

/// A token, expired or not.
///
/// # Errors
/// When the view fails.
pub fn token(view: &dyn View, id: TokenId) -> Result<Option<TokenRow>, ViewError> {
    TOKENS.get(view, &id)
}

/// All tokens. There are never more than [`crate::apply::TOKENS_MAX`].
///
/// # Errors
/// When the view fails.
pub fn tokens(view: &dyn View) -> Result<Vec<(TokenId, TokenRow)>, ViewError> {
    TOKENS.collect(view, &KeyRange::all(), usize::MAX)
}

/// A node that is or was a member.
///
/// # Errors
/// When the view fails.
pub fn member(view: &dyn View, id: NodeId) -> Result<Option<MemberRow>, ViewError> {
    MEMBERS.get(view, &id)
}

/// All members in the order of their ids, without the removed ones. There are never more than [`crate::apply::NODES_MAX`].
///
/// # Errors
/// When the view fails.
pub fn members(view: &dyn View) -> Result<Vec<(NodeId, MemberRow)>, ViewError> {
    let mut rows = MEMBERS.collect(view, &KeyRange::all(), usize::MAX)?;
    rows.retain(|(_, member)| member.state.is_living());
    Ok(rows)
}

/// The nodes that were removed, in the order of their ids.
///
/// # Errors
/// When the view fails.
pub fn removed_nodes(view: &dyn View) -> Result<Vec<NodeId>, ViewError> {
    let mut rows = MEMBERS.collect(view, &KeyRange::all(), usize::MAX)?;
    rows.retain(|(_, member)| !member.state.is_living());
    Ok(rows.into_iter().map(|(id, _)| id).collect())
}

/// The highest feature level that every node has said to understand; [`features::FIRST`] while one has not said anything.
/// The active level may be raised to it.
///
/// # Errors
/// When the view fails.
pub fn level_understood(view: &dyn View) -> Result<u32, ViewError> {
    for (id, _) in members(view)? {
        if !NODES.has(view, &id)? {
            return Ok(features::FIRST);
        }
    }
    let levels = super::nodes(view)?.into_iter().map(|node| node.level());
    Ok(levels.min().unwrap_or(features::FIRST))
}

/// The newest entries of the audit log with their log indexes, newest first, at most `limit`.
///
/// # Errors
/// When the view fails.
pub fn audit(view: &dyn View, limit: usize) -> Result<Vec<(u64, AuditRow)>, ViewError> {
    // Tables are read in one direction only; there are so few entries that stepping over the older keys costs nothing.
    let indexes = AUDIT.keys(view, &KeyRange::all(), usize::MAX)?;
    let Some(first) = indexes.get(indexes.len().saturating_sub(limit)) else {
        return Ok(Vec::new());
    };
    let mut rows = AUDIT.collect(view, &KeyRange::all().starting_at(first), limit)?;
    rows.reverse();
    Ok(rows)
}
