//! A node tells the others its name, its addresses and what it does.
//!
//! The row stands in the catalog, so it is proposed only when it differs from what is there: at the first start, and after
//! an operator changed the configuration or the program.

use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::tables::nodes::NodeRow;
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

/// Between two tries: soon at first, because a new cluster waits for it, and then as often as an outage deserves.
const PAUSE_MIN: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Sees to it that the catalog has `row`, and ends when it does.
pub(super) async fn register(backend: Arc<dyn Backend>, row: NodeRow, stop: CancellationToken) {
    let mut pause = PAUSE_MIN;
    loop {
        match catalog::node(backend.catalog().as_ref(), row.id) {
            Ok(Some(present)) if present == row => return,
            Ok(_) => match backend.propose(Action::RegisterNode { node: row.clone() }).await {
                Ok(applied) => match applied.reply {
                    Reply::Refused(refusal) => {
                        // Repeating changes nothing, but the operator may: the pause keeps this line rare.
                        tracing::error!(%refusal, "the cluster does not take this node's description");
                    }
                    Reply::Done
                    | Reply::Version(_)
                    | Reply::Claimed(_)
                    | Reply::Lost(_)
                    | Reply::Admitted(_) => {
                        tracing::info!(name = row.name, rpc = row.rpc_addr, "registered");
                        return;
                    }
                },
                Err(error) => tracing::debug!(%error, "register this node"),
            },
            Err(error) => tracing::warn!(%error, "read the table of nodes"),
        }
        let jitter = Duration::from_millis(fastrand::u64(0..=PAUSE_MIN.as_millis() as u64));
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause + jitter) => {}
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
