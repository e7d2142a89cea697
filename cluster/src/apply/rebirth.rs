//! How a catalog goes on in another cluster: after a restored backup, or when a majority of the voters is lost for good.
//!
//! The new cluster has an identity, an authority and a first member of its own, and nobody else: what the old members know
//! may be newer than this catalog, or older, and none of them must be able to join in with it. So they count as removed for
//! ever; their machines come back as new nodes, and may keep the blocks that they hold.
//!
//! This is no command of the log. It happens to the tables of one node while nothing runs on them, and everybody else gets
//! the result as a snapshot.

use super::audit;
use super::birth;
use super::jobs;
use super::step::{Step, Stop, require};
use crate::catalog;
use crate::command::{Refusal, Reply};
use crate::features;
use crate::ids::{NodeId, PublicKeyHash};
use crate::table::KeyRange;
use crate::tables::authority::{AUTHORITY, AuthorityRow};
use crate::tables::members::{MEMBERS, MemberRow, MemberState};
use crate::tables::nodes::{EARLIER, EARLIER_KEY, LAYOUT, NODES};
use crate::tables::system::SYSTEM;
use crate::tables::tokens::TOKENS;
use crate::view::{Transaction, ViewError};

/// The cluster that takes over a catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebirth {
    /// Random, another one than before.
    pub cluster_id: [u8; 16],
    pub authority: AuthorityRow,
    /// Of the first member's key.
    pub founder: PublicKeyHash,
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Who asked for it.
    pub actor: String,
}

/// Why a catalog cannot be taken over.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RebirthError {
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Catalog(#[from] ViewError),
}

/// Makes the tables those of the new cluster, as if it were the entry at `index` of the log. Returns the id of its first
/// member, which no node ever had.
///
/// # Errors
/// When the catalog is nobody's, already the new cluster's, or cannot be read.
pub fn rebirth(
    tx: &mut Transaction<'_>,
    index: u64,
    new: &Rebirth,
) -> Result<NodeId, RebirthError> {
    let below: &Transaction<'_> = tx;
    let mut system = catalog::system(below)?;
    system.time_ms = system.time_ms.max(new.time_ms);
    let now_ms = system.time_ms;
    let mut step = Step::new(Transaction::new(below), index, &system);
    let old = catalog::system(&step.tx)?.cluster_id;
    let first = match take_over(&mut step, new) {
        Ok(first) => first,
        Err(Stop::Refused(refusal)) => return Err(refusal.into()),
        Err(Stop::View(error)) => return Err(error.into()),
    };
    let batch = step.tx.into_batch();
    tx.absorb(batch);
    let entry = audit::Entry::new(
        &new.actor,
        format!(
            "continue cluster {} as {} with one member",
            hex::encode(old),
            hex::encode(new.cluster_id)
        ),
    );
    audit::record(tx, index, now_ms, entry, &Reply::Admitted(first))?;
    Ok(first)
}

fn take_over(step: &mut Step<'_>, new: &Rebirth) -> Result<NodeId, Stop> {
    let before = catalog::system(&step.tx)?;
    require(before.cluster_id != [0; 16], || "there is no cluster in this catalog".into())?;
    require(before.cluster_id != new.cluster_id, || {
        "this catalog is the new cluster's already".into()
    })?;
    let state = MemberState::Removed { at_ms: step.now_ms, forced: true };
    let mut highest = 0;
    for (id, member) in catalog::members(&step.tx)? {
        highest = highest.max(id.0);
        if member.state.is_living() {
            let row = MemberRow { state, maintenance_until_ms: None, ..member };
            MEMBERS.put(&mut step.tx, &id, &row);
        }
    }
    for node in catalog::nodes(&step.tx)? {
        highest = highest.max(node.id.0);
        jobs::release(step, node.id, &[])?;
        NODES.delete(&mut step.tx, &node.id);
    }
    for token in TOKENS.keys(&step.tx, &KeyRange::all(), usize::MAX)? {
        TOKENS.delete(&mut step.tx, &token);
    }
    LAYOUT.delete(&mut step.tx, &());
    EARLIER.delete(&mut step.tx, &EARLIER_KEY);

    birth::require_authority(&new.authority)?;
    AUTHORITY.put(&mut step.tx, &(), &new.authority);
    let mut system = catalog::system(&step.tx)?;
    let first = NodeId(system.next_node_id.max(highest.saturating_add(1)));
    MEMBERS.put(&mut step.tx, &first, &birth::founding_member(new.founder, step.now_ms));
    system.cluster_id = new.cluster_id;
    system.time_ms = step.now_ms;
    system.next_node_id = first.0.saturating_add(1);
    system.generation = system.generation.saturating_add(1);
    system.feature_level = system.level().max(features::ADMISSION);
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(first)
}
