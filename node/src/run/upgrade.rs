//! The leader lets the cluster use what every node's program understands.
//!
//! While a cluster is upgraded node by node, its [feature level](cluster::features) is that of the oldest program. When the
//! last member has registered with a newer one, the leader raises the level, and what is new can be used. Two leaders at
//! once do no harm: the catalog refuses a level that some member does not understand, and one that it has already.

use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::view::{View, ViewError};
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::raft::RaftRole;

/// Between two looks. Whoever has upgraded the last node does not wait for it.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Raises the level whenever this node leads and every member understands more, until `stop`.
pub(super) async fn run(member: Arc<Member>, backend: Arc<dyn Backend>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if member.consensus().status().role != RaftRole::Leader {
            continue;
        }
        let level = match next_level(&member.consensus().catalog().snapshot_view()) {
            Ok(Some(level)) => level,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "read what the nodes' programs understand");
                continue;
            }
        };
        let raise = Action::RaiseFeatureLevel { level };
        match backend.propose(raise).await.map(|applied| applied.reply) {
            Ok(Reply::Refused(refusal)) => {
                tracing::info!(level, %refusal, "the feature level stays as it is");
            }
            Ok(
                Reply::Done
                | Reply::Version(_)
                | Reply::Claimed(_)
                | Reply::Lost(_)
                | Reply::Admitted(_),
            ) => tracing::info!(level, "every node understands a higher feature level now"),
            Err(error) => tracing::debug!(%error, "raise the feature level"),
        }
    }
}

/// The level that the cluster could have, when that is higher than the one it has.
fn next_level(view: &dyn View) -> Result<Option<u32>, ViewError> {
    let system = catalog::system(view)?;
    if system.cluster_id == [0; 16] {
        return Ok(None);
    }
    let understood = catalog::level_understood(view)?;
    Ok((understood > system.level()).then_some(understood))
}

#[cfg(test)]
mod tests {
    use cluster::features;
    use cluster::ids::{NodeId, PublicKeyHash};
    use cluster::tables::members::{MEMBERS, MemberRow, MemberState};
    use cluster::tables::nodes::{NODES, NodeRow};
    use cluster::tables::system::{SYSTEM, SystemRow};
    use cluster::view::{MemoryView, Transaction};

    use super::*;

    /// A cluster at the first level, with members whose programs have these levels; `None` has not registered.
    fn view(cluster_id: [u8; 16], levels: &[Option<u32>]) -> MemoryView {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        let system =
            SystemRow { cluster_id, feature_level: features::FIRST, ..SystemRow::default() };
        SYSTEM.put(&mut tx, &(), &system);
        for (id, level) in (1..).map(NodeId).zip(levels) {
            let member = MemberRow {
                state: MemberState::Member,
                maintenance_until_ms: None,
                public_key_hash: PublicKeyHash([1; 32]),
                roles_allowed: Vec::new(),
                admitted_ms: 0,
            };
            MEMBERS.put(&mut tx, &id, &member);
            if let Some(feature_level) = *level {
                let node = NodeRow {
                    id,
                    name: String::new(),
                    zone: String::new(),
                    roles: Vec::new(),
                    http_url: String::new(),
                    rpc_addr: String::new(),
                    version: String::new(),
                    capacity_bytes: 0,
                    feature_level,
                };
                NODES.put(&mut tx, &id, &node);
            }
        }
        let batch = tx.into_batch();
        view.write(batch);
        view
    }

    #[test]
    fn the_level_follows_the_oldest_program() {
        let cases: [(&[Option<u32>], Option<u32>); 5] = [
            (&[Some(1), Some(2), Some(3)], None),
            (&[Some(2), Some(2), Some(3)], Some(2)),
            (&[Some(3), Some(3)], Some(3)),
            // Who has not said anything may be of the oldest.
            (&[Some(2), None], None),
            (&[], None),
        ];
        for (levels, expected) in cases {
            assert_eq!(next_level(&view([7; 16], levels)).unwrap(), expected, "{levels:?}");
        }
        assert_eq!(next_level(&view([0; 16], &[Some(2)])).unwrap(), None, "there is no cluster");
    }
}
