//! How a cluster is born: it gets its identity, its authority and its first member.

use super::limits::AUTHORITY_BYTES_MAX;
use super::step::{Step, Stop, require};
use crate::catalog;
use crate::command::{Refusal, Reply};
use crate::features;
use crate::ids::{NodeId, PublicKeyHash};
use crate::tables::authority::{AUTHORITY, AuthorityRow};
use crate::tables::members::{MEMBERS, MemberRow, MemberState};
use crate::tables::nodes::Role;
use crate::tables::system::SYSTEM;

/// The first member.
const FOUNDER: NodeId = NodeId(1);

pub(super) fn init_cluster(
    step: &mut Step<'_>,
    cluster_id: [u8; 16],
    authority: Option<&AuthorityRow>,
    founder: Option<PublicKeyHash>,
) -> Result<Reply, Stop> {
    require(cluster_id != [0; 16], || "the cluster id is all zeros".into())?;
    let mut system = catalog::system(&step.tx)?;
    if system.cluster_id != [0; 16] {
        return Err(Refusal::AlreadyInitialized.into());
    }
    system.cluster_id = cluster_id;
    match (authority, founder) {
        (None, None) => {}
        (Some(authority), Some(public_key_hash)) => {
            require_authority(authority)?;
            let earlier = catalog::nodes(&step.tx)?;
            require(earlier.iter().all(|node| node.id == FOUNDER), || {
                "nodes have registered before the cluster got its authority".into()
            })?;
            AUTHORITY.put(&mut step.tx, &(), authority);
            MEMBERS.put(&mut step.tx, &FOUNDER, &founding_member(public_key_hash, step.now_ms));
            system.next_node_id = FOUNDER.0 + 1;
            // Whoever founds a cluster with an authority understands admission, and so does everybody after it.
            system.feature_level = features::ADMISSION;
        }
        (Some(_), None) | (None, Some(_)) => {
            require(false, || "an authority needs a founder, and a founder an authority".into())?;
        }
    }
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(Reply::Done)
}

/// Refuses an authority that is none.
pub(super) fn require_authority(authority: &AuthorityRow) -> Result<(), Refusal> {
    for (what, der) in [("certificate", &authority.certificate_der), ("key", &authority.key_der.0)]
    {
        require((1..=AUTHORITY_BYTES_MAX).contains(&der.len()), || {
            format!("the authority's {what} has {} bytes", der.len())
        })?;
    }
    Ok(())
}

/// The first member: nobody let it in, so nobody limits what it does.
pub(super) fn founding_member(public_key_hash: PublicKeyHash, now_ms: u64) -> MemberRow {
    MemberRow {
        state: MemberState::Member,
        maintenance_until_ms: None,
        public_key_hash,
        roles_allowed: Role::ALL.to_vec(),
        admitted_ms: now_ms,
    }
}
