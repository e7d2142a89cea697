//! The leader keeps consensus in step with the catalog: who joined receives the log and gets a vote when a seat is free, who
//! is dead is replaced, who is to leave loses leadership, vote and place.
//!
//! What to do is decided by [`cluster::lifecycle`]; here is where it looks and how it acts. The loop runs on every node and
//! does nothing on all but the leader. It remembers nothing: after a crash, or under another leader, it goes on from what it
//! finds, a change of voters that was cut off included.
//!
//! # Invariants
//!
//! - One step at a time, and each is made only on the membership that it was decided on. Two nodes that both believe to lead
//!   do no harm.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use cluster::catalog;
use cluster::ids::NodeId;
use cluster::lifecycle::{self, Peer, Situation, Step};
use cluster::table::KeyRange;
use cluster::tables::members::{MEMBERS, MemberRow};
use tokio_util::sync::CancellationToken;

use crate::raft::{Consensus, Membership, Progress, RaftRole};

/// Between two looks: whoever starts a cluster or lets a node join waits for it. It costs some reads of small tables.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// After a step that failed. What was in the way needs a moment to pass.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Brings consensus in step with the catalog until `stop`, whenever this node leads.
pub(crate) async fn run(consensus: Consensus, local: NodeId, stop: CancellationToken) {
    let mut leading_since = None;
    let mut pause = LOOK_EVERY;
    while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
        pause = LOOK_EVERY;
        if consensus.status().role != RaftRole::Leader {
            leading_since = None;
            continue;
        }
        let leading_for = leading_since.get_or_insert_with(Instant::now).elapsed();
        let membership = consensus.membership();
        let step = match look(&consensus, local, &membership, leading_for) {
            Ok(situation) => lifecycle::next(&situation),
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "read what the membership depends on");
                pause = PAUSE_AFTER_FAILURE;
                continue;
            }
        };
        let Some(step) = step else { continue };
        tracing::info!(?step, "changing the members of consensus");
        let acting = act(&consensus, &membership, &step);
        match stop.run_until_cancelled(acting).await {
            None => return,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::info!(?step, error = format!("{error:#}"), "it comes to nothing for now");
                pause = PAUSE_AFTER_FAILURE;
            }
        }
    }
}

/// The cluster as this node, which leads, sees it.
fn look(
    consensus: &Consensus,
    local: NodeId,
    membership: &Membership,
    leading_for: Duration,
) -> anyhow::Result<Situation> {
    let catalog = consensus.catalog();
    let view = catalog.snapshot_view();
    let zones: BTreeMap<NodeId, String> =
        catalog::nodes(&view)?.into_iter().map(|row| (row.id, row.zone)).collect();
    let now_ms = consensus.now_ms();
    let peers = MEMBERS
        .collect(&view, &KeyRange::all(), usize::MAX)?
        .into_iter()
        .map(|(id, row)| {
            let zone = zones.get(&id).cloned().unwrap_or_default();
            (id, peer(id == local, &row, zone, now_ms, membership.progress.get(&id), leading_for))
        })
        .collect();
    Ok(Situation {
        leader: local,
        peers,
        voters: membership.voters.clone(),
        learners: membership.learners.clone(),
        joint: membership.joint,
        committed: membership.committed,
    })
}

fn peer(
    leads: bool,
    row: &MemberRow,
    zone: String,
    now_ms: u64,
    progress: Option<&Progress>,
    leading_for: Duration,
) -> Peer {
    let silent_for = progress.and_then(|progress| progress.silent_for).unwrap_or(leading_for);
    let lag = progress.filter(|progress| progress.matched.is_some()).map(|progress| progress.lag);
    Peer {
        state: row.state,
        zone,
        in_maintenance: row.in_maintenance(now_ms),
        silent_ms: if leads {
            0
        } else {
            u64::try_from(silent_for.as_millis()).unwrap_or(u64::MAX)
        },
        lag: if leads { Some(0) } else { lag },
    }
}

async fn act(consensus: &Consensus, membership: &Membership, step: &Step) -> anyhow::Result<()> {
    match step {
        Step::FinishJoint => consensus.finish_change().await?,
        Step::AddLearner(node) => {
            let row = catalog::node(consensus.catalog().as_ref(), *node)?;
            let row = row.context("know the address of a new member")?;
            consensus.add_learner(*node, &row.rpc_addr).await?;
        }
        Step::ChangeVoters { set } => consensus.change_voters(membership.version, set).await?,
        Step::TransferLeadership { to } => {
            consensus.transfer_leadership_to(*to).await?;
        }
        Step::RemoveLearner(node) => consensus.remove_learner(*node).await?,
    }
    Ok(())
}

#[cfg(test)]
mod tests;
