//! The leader says which node holds which blocks: it proposes the layouts.
//!
//! The table itself is computed by [`cluster::placement`]; here is only *when*: once all nodes that the cluster began with
//! have registered, and again when there is a node with the role `store` that the layout does not name. Nodes that are gone
//! stay in it: taking one out means copying its blocks, which is a decision of its own.
//!
//! The loop runs on every node and does nothing on all but the leader. Two nodes that both believe to be it do no harm: a
//! layout is refused unless it follows the present one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::placement::{self, Candidate, Layout};
use cluster::tables::nodes::{NodeRow, Role};
use cluster::view::{View, ViewError};
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

/// How often the leader looks. A new cluster waits for it; it costs two reads.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long the first layout waits for nodes that have not registered. They were all there when the cluster was made; one
/// that died in between must not keep the others from starting.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes layouts until `stop`, whenever this node leads. `founders` is how many nodes the cluster began with.
pub(super) async fn run(backend: Arc<dyn Backend>, founders: usize, stop: CancellationToken) {
    let mut leading_since = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !leads(backend.as_ref()) {
            leading_since = None;
            continue;
        }
        let waited = leading_since.get_or_insert_with(Instant::now).elapsed();
        match due(backend.catalog().as_ref(), founders, waited) {
            Ok(Some(layout)) => propose(backend.as_ref(), layout).await,
            Ok(None) => {}
            Err(error) => tracing::warn!(%error, "read what the layout depends on"),
        }
    }
}

fn leads(backend: &dyn Backend) -> bool {
    let seen = backend.observe();
    seen.leader.is_some() && seen.leader == seen.this_node
}

fn due(view: &dyn View, founders: usize, waited: Duration) -> Result<Option<Layout>, ViewError> {
    if catalog::system(view)?.cluster_id == [0; 16] {
        return Ok(None);
    }
    Ok(next(&catalog::layout(view)?, &catalog::nodes(view)?, founders, waited))
}

/// The layout that should follow `present`, if one should.
fn next(present: &Layout, nodes: &[NodeRow], founders: usize, waited: Duration) -> Option<Layout> {
    let named: BTreeSet<_> = present.nodes().into_iter().collect();
    let candidates: Vec<Candidate> = nodes
        .iter()
        .filter(|node| node.roles.contains(&Role::Store) || named.contains(&node.id))
        .map(|node| Candidate { id: node.id, zone: node.zone.clone(), weight: node.capacity_bytes })
        .collect();
    let first = present.epoch() == 0;
    if candidates.is_empty() || (first && nodes.len() < founders && waited < PATIENCE) {
        return None;
    }
    let newcomer = candidates.iter().any(|node| node.weight > 0 && !named.contains(&node.id));
    if !newcomer {
        return None;
    }
    let layout = placement::compute(&candidates, (!first).then_some(present));
    // A newcomer may be too small for even one group; then nothing changes, and nothing is proposed again and again.
    (first || layout.nodes() != present.nodes()).then_some(layout)
}

async fn propose(backend: &dyn Backend, layout: Layout) {
    let (epoch, nodes) = (layout.epoch(), layout.nodes().len());
    match backend.propose(Action::SetLayout { layout }).await.map(|applied| applied.reply) {
        Ok(Reply::Refused(refusal)) => tracing::info!(epoch, %refusal, "the layout was not taken"),
        Ok(
            Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_),
        ) => {
            tracing::info!(epoch, nodes, "new layout");
        }
        Err(error) => tracing::warn!(epoch, %error, "propose a layout"),
    }
}

#[cfg(test)]
mod tests {
    use cluster::ids::NodeId;

    use super::*;

    fn node(id: u64, roles: &[Role]) -> NodeRow {
        NodeRow {
            id: NodeId(id),
            name: format!("node-{id}"),
            zone: format!("node-{id}"),
            roles: roles.to_vec(),
            http_url: String::new(),
            rpc_addr: String::new(),
            version: String::new(),
            capacity_bytes: 1 << 30,
            feature_level: cluster::features::NEWEST,
        }
    }

    fn ids(layout: &Layout) -> Vec<u64> {
        layout.nodes().iter().map(|id| id.0).collect()
    }

    #[test]
    fn the_first_layout_waits_for_everybody_but_not_for_ever() {
        let none = Layout::default();
        let two = [node(1, &[Role::Store]), node(2, &[Role::Store])];
        assert_eq!(next(&none, &two, 3, Duration::ZERO), None);
        assert_eq!(ids(&next(&none, &two, 3, PATIENCE).unwrap()), [1, 2]);

        let three = [two[0].clone(), two[1].clone(), node(3, &[Role::Store])];
        let layout = next(&none, &three, 3, Duration::ZERO).unwrap();
        assert_eq!((layout.epoch(), layout.copies(), ids(&layout)), (1, 3, vec![1, 2, 3]));
        assert_eq!(next(&none, &[], 3, PATIENCE), None);
    }

    #[test]
    fn nodes_without_the_role_hold_nothing() {
        let nodes = [node(1, &[Role::Store]), node(2, &[Role::Gateway])];
        assert_eq!(ids(&next(&Layout::default(), &nodes, 2, Duration::ZERO).unwrap()), [1]);
    }

    #[test]
    fn a_layout_grows_and_never_shrinks_by_itself() {
        let mut nodes: Vec<NodeRow> = (1..=3).map(|id| node(id, &[Role::Store])).collect();
        let present = next(&Layout::default(), &nodes, 3, Duration::ZERO).unwrap();
        assert_eq!(next(&present, &nodes, 3, Duration::ZERO), None);

        nodes[0].roles = vec![Role::Gateway];
        assert_eq!(next(&present, &nodes, 3, Duration::ZERO), None);

        nodes.push(node(4, &[Role::Store]));
        let grown = next(&present, &nodes, 3, Duration::ZERO).unwrap();
        assert_eq!((grown.epoch(), ids(&grown)), (2, vec![1, 2, 3, 4]));
    }
}
