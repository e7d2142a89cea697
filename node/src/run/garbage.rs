//! The leader gives up the blocks that nobody names any more.
//!
//! What follows from that, on which node and when, is in [`cluster::collection`]; the nodes' part is in
//! [`crate::content`]. Here is only patience: blocks wait for the setting `content.collect_after` before they are reaped, and
//! what is older than `content.forget_after` is forgotten. Being impatient would lose nothing that is needed, but whoever is
//! just putting a block would have to do it again.
//!
//! Two leaders at once do no harm: what one has reaped, the other finds reaped.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use cluster::apply::REAP_BLOCKS_MAX;
use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::features;
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::raft::RaftRole;

/// Between two looks, at most and at least.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY_MIN: Duration = Duration::from_millis(100);

/// The share of the shorter patience that may pass between two looks.
const LOOKS_PER_PATIENCE: u32 = 4;

/// Between two commands of one look: the log has other things to carry too.
const PAUSE: Duration = Duration::from_millis(100);

/// How long what lasts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Before a block that nobody names is given up.
    pub(super) collect_after: Duration,
    /// Before that is forgotten, and before copies go that were never named.
    pub(super) forget_after: Duration,
}

/// Gives up and forgets whenever this node leads, until `stop`.
pub(super) async fn run(
    member: Arc<Member>,
    backend: Arc<dyn Backend>,
    patience: Patience,
    stop: CancellationToken,
) {
    let shorter = patience.collect_after.min(patience.forget_after);
    let look_every = (shorter / LOOKS_PER_PATIENCE).clamp(LOOK_EVERY_MIN, LOOK_EVERY_MAX);
    while stop.run_until_cancelled(tokio::time::sleep(look_every)).await.is_some() {
        if member.consensus().status().role != RaftRole::Leader {
            continue;
        }
        match stop.run_until_cancelled(look(&member, backend.as_ref(), patience)).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::info!(error = format!("{error:#}"), "garbage is not given up for now");
            }
        }
    }
}

/// Proposes all that is due, in portions.
async fn look(member: &Member, backend: &dyn Backend, patience: Patience) -> anyhow::Result<()> {
    let consensus = member.consensus();
    let ago = |time: Duration| {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        consensus.now_ms().saturating_sub(ms)
    };
    loop {
        let action = {
            let view = consensus.catalog().snapshot_view();
            if catalog::system(&view)?.level() < features::UPKEEP {
                return Ok(());
            }
            let (unreferenced_before_ms, marked_before_ms) =
                (ago(patience.collect_after), ago(patience.forget_after));
            let hashes = catalog::waiting_blocks(&view, unreferenced_before_ms, REAP_BLOCKS_MAX)?;
            if !hashes.is_empty() {
                tracing::info!(blocks = hashes.len(), "giving up blocks that nobody names");
                Action::ReapBlocks { hashes, unreferenced_before_ms }
            } else if catalog::is_forgetting_due(&view, marked_before_ms)? {
                Action::ForgetBlocks { marked_before_ms }
            } else {
                return Ok(());
            }
        };
        let name = action.name();
        let applied = backend.propose(action).await.with_context(|| format!("propose {name}"))?;
        if let Reply::Refused(refusal) = applied.reply {
            bail!("{name} was refused: {refusal}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}
