//! The leader brings those who have joined into consensus: as learners first, and as voters while seats are free.
//!
//! The loop runs on every node and does nothing on all but the leader. Each change is decided on the membership that is
//! read here, and refused when that has changed meanwhile, so two nodes that both believe to lead do no harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use cluster::catalog;
use cluster::ids::NodeId;
use cluster::lifecycle::{CAUGHT_UP_ENTRIES, SILENT_MS, seats};
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::raft::RaftRole;

/// Between two looks: whoever starts a cluster waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Who has not answered for so long does not get a vote.
const SILENT_MAX: Duration = Duration::from_millis(SILENT_MS);

/// Brings members of the catalog into consensus until `stop`, whenever this node leads.
pub(super) async fn run(member: Arc<Member>, stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if member.consensus().status().role == RaftRole::Leader
            && let Err(error) = step(&member).await
        {
            tracing::debug!(error = format!("{error:#}"), "bring a new node into consensus");
        }
    }
}

/// Makes the next change, if one is due.
async fn step(member: &Member) -> anyhow::Result<()> {
    let consensus = member.consensus();
    let membership = consensus.membership();
    if !membership.committed {
        return Ok(());
    }
    if membership.joint {
        return Ok(consensus.finish_change().await?);
    }
    let catalog = consensus.catalog();
    let present: BTreeSet<NodeId> = membership.members().collect();
    let living: Vec<NodeId> =
        catalog::members(catalog.as_ref())?.into_iter().map(|(id, _)| id).collect();
    if let Some(new) = living.iter().find(|node| !present.contains(node)) {
        let row = catalog::node(catalog.as_ref(), *new)?.context("a member has registered")?;
        tracing::info!(node = %new, "a new node receives the log");
        return Ok(consensus.add_learner(*new, &row.rpc_addr).await?);
    }
    let can_vote = |node: &NodeId| {
        membership.voters.contains(node)
            || membership.progress.get(node).is_some_and(|progress| {
                progress.lag < CAUGHT_UP_ENTRIES
                    && progress.matched.is_some()
                    && progress.silent_for.is_some_and(|silent| silent < SILENT_MAX)
            })
    };
    let ready: BTreeSet<NodeId> = living.into_iter().filter(can_vote).collect();
    let seats = seats(ready.len());
    if seats <= membership.voters.len() {
        return Ok(());
    }
    let mut voters = membership.voters.clone();
    voters.extend(
        ready.iter().filter(|node| !membership.voters.contains(node)).take(seats - voters.len()),
    );
    tracing::info!(?voters, "more nodes vote");
    Ok(consensus.change_voters(membership.version, &voters).await?)
}
