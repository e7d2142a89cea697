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
use tokio_util::sync::CancellationToken;

use super::Member;
use crate::raft::RaftRole;

/// Between two looks: whoever starts a cluster waits for it.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A learner that lacks no more entries than this has caught up.
const LAG_MAX: u64 = 100;

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
    let caught_up = |node: &NodeId| {
        membership.voters.contains(node)
            || membership
                .progress
                .get(node)
                .is_some_and(|progress| progress.matched.is_some() && progress.lag <= LAG_MAX)
    };
    let ready: BTreeSet<NodeId> = living.into_iter().filter(caught_up).collect();
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

/// How many nodes vote in a cluster of so many: three survive the loss of one, five of two, and an even number survives no
/// more than one less.
fn seats(nodes: usize) -> usize {
    match nodes {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    }
}
