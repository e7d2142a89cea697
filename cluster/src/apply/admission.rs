//! How a node becomes a member.
//!
//! The key makes the node: whoever comes again with a key that is a member's, because it crashed before it knew its id, is
//! that member, and the token is not used up again. Whoever comes with the key of a removed member is refused for ever.

use super::limits::NODES_MAX;
use super::registration::checked;
use super::step::{Step, Stop, invalid, require};
use crate::catalog;
use crate::command::{Refusal, Reply};
use crate::ids::{NodeId, PublicKeyHash, SecretHash, TokenId};
use crate::table::KeyRange;
use crate::tables::members::{MEMBERS, MemberRow, MemberState};
use crate::tables::nodes::{NODES, NodeRow};
use crate::tables::system::SYSTEM;
use crate::tables::tokens::TOKENS;
use crate::view::{View, ViewError};

pub(super) fn admit(
    step: &mut Step<'_>,
    token: TokenId,
    secret_hash: SecretHash,
    public_key_hash: PublicKeyHash,
    node: &NodeRow,
) -> Result<Reply, Stop> {
    let mut ticket = TOKENS.get(&step.tx, &token)?.ok_or(Refusal::TokenUnknown)?;
    if ticket.secret_hash != secret_hash {
        return Err(Refusal::TokenUnknown.into());
    }
    if let Some((id, member)) = member_with(&step.tx, public_key_hash)? {
        if !member.state.is_living() {
            return Err(Refusal::NodeRemoved.into());
        }
        return Ok(Reply::Admitted(id));
    }
    if step.now_ms >= ticket.expires_ms {
        return Err(Refusal::TokenExpired.into());
    }
    let uses_left = ticket.uses_left.checked_sub(1).ok_or(Refusal::TokenUsed)?;

    let mut system = catalog::system(&step.tx)?;
    let id = NodeId(system.next_node_id);
    system.next_node_id =
        system.next_node_id.checked_add(1).ok_or_else(|| invalid("there are no more node ids"))?;
    let node = checked(&NodeRow { id, ..node.clone() }, &ticket.roles, system.level())?;
    require_own_address(&step.tx, &node)?;
    let members = catalog::members(&step.tx)?.len();
    require(members < NODES_MAX, || format!("there are {members} members already"))?;

    ticket.uses_left = uses_left;
    ticket.uses.push((public_key_hash, id));
    let member = MemberRow {
        state: MemberState::Member,
        maintenance_until_ms: None,
        public_key_hash,
        roles_allowed: ticket.roles.clone(),
        admitted_ms: step.now_ms,
    };
    TOKENS.put(&mut step.tx, &token, &ticket);
    MEMBERS.put(&mut step.tx, &id, &member);
    NODES.put(&mut step.tx, &id, &node);
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Admitted(id))
}

/// The member with this key, removed or not. Reads all members: nodes join seldom.
fn member_with(
    view: &dyn View,
    public_key_hash: PublicKeyHash,
) -> Result<Option<(NodeId, MemberRow)>, ViewError> {
    let members = MEMBERS.collect(view, &KeyRange::all(), usize::MAX)?;
    Ok(members.into_iter().find(|(_, member)| member.public_key_hash == public_key_hash))
}

/// Refuses a name or an RPC address that another node has: people and nodes would reach the wrong one.
fn require_own_address(view: &dyn View, node: &NodeRow) -> Result<(), Stop> {
    for other in catalog::nodes(view)? {
        let taken =
            [("name", &node.name, &other.name), ("RPC address", &node.rpc_addr, &other.rpc_addr)];
        for (what, ours, theirs) in taken {
            if ours == theirs {
                let what = format!("{what} {ours:?}");
                return Err(Refusal::AddressTaken { what, node: other.id }.into());
            }
        }
    }
    Ok(())
}
