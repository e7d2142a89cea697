//! What runs beside consensus for as long as it does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::catalog;
use cluster::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Raft;
use super::state_machine::Failure;
use super::watchdog::GiveUp;
use crate::files::{REMEDY_FOR_FULL_DISK, says_disk_is_full};
use crate::rpc::peers::Peers;
use crate::state::{StateDb, StateError};

/// Between two looks at the catalog's table of nodes for addresses that have changed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// Says in the log who leads, once for each change, and counts elections.
pub(super) async fn announce_leaders(raft: Raft) {
    let mut metrics = raft.server_metrics();
    let mut announced = None;
    let mut term = metrics.borrow_watched().vote.leader_id.term;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            // Each election is for a term of its own.
            let elections = metrics.vote.leader_id.term.saturating_sub(term);
            metrics::counter!("reelraft_raft_elections_total").increment(elections);
            term = metrics.vote.leader_id.term;
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

/// Ends the process.
pub(super) fn abort(reason: &str) {
    tracing::error!(
        reason,
        "consensus cannot go on on this node; the process ends and must be started again"
    );
    std::process::abort();
}

/// Gives up when consensus has failed: it could neither vote nor apply, and everything else here relies on it.
pub(super) async fn give_up_when_fatal(
    raft: Raft,
    failure: Failure,
    state_dir: PathBuf,
    give_up: GiveUp,
) {
    let mut metrics = raft.metrics();
    let failure = loop {
        match &metrics.borrow_and_update().running_state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            // The library may only have seen that the catalog does not answer any more.
            Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => match failure.get() {
                Some(failure) => break failure.clone(),
                None => break error.to_string(),
            },
        }
        if metrics.changed().await.is_err() {
            return;
        }
    };
    if let Err(condemned) = StateDb::refuse_condemned(&state_dir) {
        give_up(&condemned.to_string());
    } else if says_disk_is_full(&failure) {
        give_up(&format!("{failure}. {REMEDY_FOR_FULL_DISK}"));
    } else {
        give_up(&failure);
    }
}

/// Reads the whole catalog once, and gives up when it is damaged: it would be found out later, by somebody who needs it.
pub(super) fn verify_catalog(state: &StateDb, stop: &CancellationToken, give_up: &GiveUp) {
    let started = Instant::now();
    match state.verify(|| stop.is_cancelled()) {
        Ok(()) if stop.is_cancelled() => {}
        Ok(()) => tracing::info!(seconds = started.elapsed().as_secs_f64(), "the catalog is sound"),
        // Nothing was found out about what is on it: the next start looks again.
        Err(error @ StateError::Disk { .. }) => {
            tracing::error!(%error, "the catalog could not be read whole")
        }
        Err(error) => give_up(&format!(
            "{error}. The catalog on this disk is damaged and will not be used again: move the data directory away and let \
             this node join again as a new node"
        )),
    }
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
