//! Keeps in mind whom the catalog counts as removed, so that each call can be checked without reading the catalog.

use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::rpc::caller::Roster;

/// Between two looks. Nothing that must be safe waits for it: consensus itself forgets a node that is removed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Takes over what the catalog says until `stop`; cancels `removed` when this node is among those.
pub(super) async fn run(
    member: Arc<Member>,
    roster: Roster,
    removed: CancellationToken,
    stop: CancellationToken,
) {
    let mut applied = member.consensus().applied();
    loop {
        match catalog::removed_nodes(member.consensus().catalog().as_ref()) {
            Ok(nodes) => {
                if nodes.contains(&member.id()) {
                    removed.cancel();
                }
                roster.set_removed(nodes.into_iter().collect());
            }
            Err(error) => tracing::warn!(%error, "read who was removed"),
        }
        let next = async {
            tokio::time::sleep(LOOK_EVERY).await;
            // An error means that consensus has stopped: nothing will change any more.
            if applied.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        if stop.run_until_cancelled(next).await.is_none() {
            return;
        }
    }
}
