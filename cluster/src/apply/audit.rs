//! Who asked for what, and what it came to.
//!
//! What an operator asks for is recorded, refused or not, in the same transaction that does it; and so is what the cluster
//! does by itself where an operator would want to know when. A command that arrives twice is recorded once. The newest
//! [`AUDIT_ROWS_MAX`] entries are kept.

use super::limits::{
    ACTOR_CHARS_MAX, AUDIT_ROWS_DELETED_PER_COMMAND, AUDIT_ROWS_MAX, AUDIT_TEXT_CHARS_MAX,
};
use crate::catalog;
use crate::command::{Action, Reply};
use crate::ids::{NodeId, TokenId};
use crate::table::KeyRange;
use crate::tables::audit::{AUDIT, AuditRow};
use crate::tables::nodes::{NODES, Role};
use crate::tables::system::SYSTEM;
use crate::tables::tokens::TOKENS;
use crate::view::{Transaction, View, ViewError};

/// Who acts where nobody asked.
const CLUSTER: &str = "the cluster";

/// An action before it is known what it comes to.
pub(super) struct Entry {
    actor: String,
    action: String,
}

impl Entry {
    /// An entry for what is no command.
    pub(super) fn new(actor: &str, action: String) -> Self {
        Self { actor: actor.to_owned(), action }
    }
}

/// What is recorded of an action, told from the tables before it: a removed node's name is gone afterwards.
pub(super) fn entry(
    view: &dyn View,
    now_ms: u64,
    action: &Action,
) -> Result<Option<Entry>, ViewError> {
    let minutes = |until_ms: u64| until_ms.saturating_sub(now_ms).div_ceil(60_000);
    let (actor, action) = match action {
        Action::InitCluster { cluster_id, authority, .. } => {
            let authority = if authority.is_some() { " with an authority" } else { "" };
            (CLUSTER.into(), format!("found cluster {}{authority}", hex::encode(cluster_id)))
        }
        Action::MintToken { token, roles, expires_ms, uses, actor, .. } => {
            let (token, roles) = (short(*token), names(roles));
            let action = format!(
                "make token {token} for {uses} node(s) as {roles}, good for {} min",
                minutes(*expires_ms)
            );
            (actor.clone(), action)
        }
        Action::RevokeToken { token, actor } => {
            (actor.clone(), format!("revoke token {}", short(*token)))
        }
        Action::AdmitNode { token, node, .. } => {
            let made_by = TOKENS.get(view, token)?.map(|row| format!(" of {}", row.created_by));
            let actor = format!("token {}{}", short(*token), made_by.unwrap_or_default());
            let (name, address, roles) = (&node.name, &node.rpc_addr, names(&node.roles));
            (actor, format!("admit {name} at {address} as {roles}"))
        }
        Action::DrainNode { node, actor } => {
            (actor.clone(), format!("drain {}", named(view, *node)?))
        }
        Action::CancelDrain { node, actor } => {
            (actor.clone(), format!("cancel the draining of {}", named(view, *node)?))
        }
        Action::RemoveNode { node, force, actor } => {
            let force = if *force { " by force" } else { "" };
            (actor.clone(), format!("remove {}{force}", named(view, *node)?))
        }
        Action::SetMaintenance { node, until_ms, actor } => {
            let node = named(view, *node)?;
            let action = match until_ms {
                Some(until_ms) => format!("maintain {node} for {} min", minutes(*until_ms)),
                None => format!("end the maintenance of {node}"),
            };
            (actor.clone(), action)
        }
        Action::StartScrub { actor } => (actor.clone(), "start a scrub".to_owned()),
        Action::PauseRepair { paused, actor } => {
            (actor.clone(), if *paused { "pause repair" } else { "resume repair" }.to_owned())
        }
        Action::RaiseFeatureLevel { level } => {
            (CLUSTER.into(), format!("raise the feature level to {level}"))
        }
        Action::RegisterNode { .. }
        | Action::SetLayout { .. }
        | Action::CreateVideo { .. }
        | Action::AppendSource { .. }
        | Action::FinishSource { .. }
        | Action::FailVideo { .. }
        | Action::EditVideo { .. }
        | Action::DeleteVideo { .. }
        | Action::CountViews { .. }
        | Action::ClaimJob { .. }
        | Action::RenewLeases { .. }
        | Action::ReleaseJobs { .. }
        | Action::FailJob { .. }
        | Action::PrepareAgain { .. }
        | Action::SetPlan { .. }
        | Action::CommitSegments { .. }
        | Action::CommitThumbnail { .. }
        | Action::FinishJob { .. }
        | Action::ReapBlocks { .. }
        | Action::ForgetBlocks { .. } => return Ok(None),
    };
    Ok(Some(Entry { actor, action }))
}

/// Appends an entry, and lets go of some that are too old.
pub(super) fn record(
    tx: &mut Transaction<'_>,
    index: u64,
    now_ms: u64,
    entry: Entry,
    reply: &Reply,
) -> Result<(), ViewError> {
    let outcome = match reply {
        Reply::Done | Reply::Version(_) | Reply::Claimed(_) | Reply::Lost(_) => "done".to_owned(),
        Reply::Admitted(node) => format!("done: it is node {node}"),
        Reply::Refused(refusal) => format!("refused: {refusal}"),
    };
    let row = AuditRow {
        time_ms: now_ms,
        actor: clipped(&entry.actor, 2 * ACTOR_CHARS_MAX),
        action: clipped(&entry.action, AUDIT_TEXT_CHARS_MAX),
        outcome: clipped(&outcome, AUDIT_TEXT_CHARS_MAX),
    };
    let mut system = catalog::system(tx)?;
    AUDIT.put(tx, &index, &row);
    system.audit_rows = system.audit_rows.saturating_add(1);
    let excess = usize::try_from(system.audit_rows.saturating_sub(AUDIT_ROWS_MAX))
        .unwrap_or(usize::MAX)
        .min(AUDIT_ROWS_DELETED_PER_COMMAND);
    for old in AUDIT.keys(tx, &KeyRange::all(), excess)? {
        AUDIT.delete(tx, &old);
        system.audit_rows = system.audit_rows.saturating_sub(1);
    }
    SYSTEM.put(tx, &(), &system);
    Ok(())
}

/// The node with its name, if it has one.
fn named(view: &dyn View, node: NodeId) -> Result<String, ViewError> {
    Ok(match NODES.get(view, &node)? {
        Some(row) => format!("node {node} ({})", row.name),
        None => format!("node {node}"),
    })
}

/// Enough of a token to tell it from the others.
fn short(token: TokenId) -> String {
    hex::encode(&token.0[..4])
}

fn names(roles: &[Role]) -> String {
    let names: Vec<_> = roles.iter().take(Role::ALL.len()).map(|role| role.name()).collect();
    names.join(", ")
}

fn clipped(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
