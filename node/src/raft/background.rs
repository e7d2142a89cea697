//! What runs beside consensus for as long as it does.

use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio::time::sleep;

use super::Raft;
use crate::rpc::peers::Peers;
use crate::state::StateDb;

/// Between two looks at the catalog's table of nodes for addresses that have changed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// Says in the log who leads, once for each change.
pub(super) async fn announce_leaders(raft: Raft) {
    let mut metrics = raft.server_metrics();
    let mut announced = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            metrics.current_leader.map(|leader| (leader, metrics.vote.leader_id.term))
        };
        if let Some((leader, term)) = now
            && announced != now
        {
            tracing::info!(leader, term, "node {leader} leads, term {term}");
            announced = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the process when consensus has failed: it could neither vote nor apply, and everything else here relies on it.
pub(super) async fn abort_when_fatal(raft: Raft) {
    let mut metrics = raft.metrics();
    let failure = loop {
        match &metrics.borrow_and_update().running_state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => break error.to_string(),
        }
        if metrics.changed().await.is_err() {
            return;
        }
    };
    tracing::error!(
        failure,
        "consensus has failed on this node; the process ends and must be started again"
    );
    std::process::abort();
}

/// Keeps the address book up to date from the membership and from the catalog's table of nodes.
pub(super) async fn learn_addresses(
    raft: Raft,
    peers: Peers,
    state: Arc<StateDb>,
    mut applied: watch::Receiver<u64>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        for (node, member) in metrics.borrow_and_update().membership_config.nodes() {
            peers.learn_member(NodeId(*node), &member.rpc_addr);
        }
        applied.mark_unchanged();
        match catalog::nodes(state.as_ref()) {
            Ok(rows) => {
                for row in rows {
                    peers.learn_registered(row.id, &row.rpc_addr);
                }
            }
            Err(error) => tracing::warn!(%error, "the nodes' addresses could not be read"),
        }
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = applied.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
        sleep(ADDRESSES_EVERY).await;
    }
}
