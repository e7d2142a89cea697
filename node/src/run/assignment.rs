//! The leader says which node holds which blocks: it proposes the layouts.
//!
//! The table itself is computed by [`cluster::placement`]; here is only *when*: whenever there is a node with the role `store`
//! that the layout does not name, and that has been heard of. Nodes that were admitted and have not come yet are waited for
//! a little, so that a cluster which grows by two nodes at once moves its blocks once. Nodes that are away stay in the
//! layout: taking one out means copying its blocks, which is a decision of its own.
//!
//! The loop runs on every node and does nothing on all but the leader. Two nodes that both believe to be it do no harm: a
//! layout is refused unless it follows the present one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::NodeId;
use cluster::placement::{self, Candidate, Layout};
use cluster::tables::nodes::{NodeRow, Role};
use cluster::view::{View, ViewError};
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

/// How often the leader looks. A new cluster waits for it; it costs two reads.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a new layout waits for nodes that were admitted and have not been heard of. One that died in between must not
/// keep the others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes layouts until `stop`, whenever this node leads. `is_here` says whether a node has been heard of.
pub(super) async fn run(
    backend: Arc<dyn Backend>,
    is_here: impl Fn(NodeId) -> bool + Send,
    stop: CancellationToken,
) {
    let mut waiting_since = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        if !leads(backend.as_ref()) {
            waiting_since = None;
            continue;
        }
        let newcomers = match newcomers(backend.catalog().as_ref()) {
            Ok(newcomers) => newcomers,
            Err(error) => {
                tracing::warn!(%error, "read what the layout depends on");
                continue;
            }
        };
        let Some(newcomers) = newcomers else {
            waiting_since = None;
            continue;
        };
        let waited = waiting_since.get_or_insert_with(Instant::now).elapsed();
        if let Some(layout) = newcomers.layout(&is_here, waited) {
            propose(backend.as_ref(), layout).await;
        }
    }
}

fn leads(backend: &dyn Backend) -> bool {
    let seen = backend.observe();
    seen.leader.is_some() && seen.leader == seen.this_node
}

/// A layout, and the nodes that it does not name.
struct Newcomers {
    present: Layout,
    /// Those that the layout names.
    named: Vec<Candidate>,
    /// Those that it should name as well. Never empty.
    new: Vec<Candidate>,
}

fn newcomers(view: &dyn View) -> Result<Option<Newcomers>, ViewError> {
    if catalog::system(view)?.cluster_id == [0; 16] {
        return Ok(None);
    }
    Ok(Newcomers::among(&catalog::nodes(view)?, catalog::layout(view)?))
}

impl Newcomers {
    fn among(nodes: &[NodeRow], present: Layout) -> Option<Self> {
        let holders: BTreeSet<_> = present.nodes().into_iter().collect();
        let (named, others): (Vec<_>, Vec<_>) =
            nodes.iter().partition(|node| holders.contains(&node.id));
        let candidate = |node: &NodeRow| Candidate {
            id: node.id,
            zone: node.zone.clone(),
            weight: node.capacity_bytes,
        };
        let new: Vec<Candidate> = others
            .into_iter()
            .filter(|node| node.roles.contains(&Role::Store) && node.capacity_bytes > 0)
            .map(candidate)
            .collect();
        let named = named.into_iter().map(candidate).collect();
        (!new.is_empty()).then_some(Self { present, named, new })
    }

    /// The layout that should follow, if one should by now.
    fn layout(&self, is_here: impl Fn(NodeId) -> bool, waited: Duration) -> Option<Layout> {
        let (here, missing): (Vec<_>, Vec<_>) =
            self.new.iter().cloned().partition(|node| is_here(node.id));
        if here.is_empty() || (!missing.is_empty() && waited < PATIENCE) {
            return None;
        }
        let candidates = [self.named.clone(), here].concat();
        let first = self.present.epoch() == 0;
        let layout = placement::compute(&candidates, (!first).then_some(&self.present));
        // A newcomer may be too small for even one group; then nothing changes, and nothing is proposed again and again.
        (first || layout.nodes() != self.present.nodes()).then_some(layout)
    }
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

    fn after(present: Layout, nodes: &[NodeRow]) -> Option<Layout> {
        Newcomers::among(nodes, present)?.layout(|_| true, Duration::ZERO)
    }

    #[test]
    fn a_cluster_of_one_grows_to_three_copies() {
        let nodes: Vec<NodeRow> = (1..=3).map(|id| node(id, &[Role::Store])).collect();
        let one = after(Layout::default(), &nodes[..1]).unwrap();
        assert_eq!((one.epoch(), one.copies(), ids(&one)), (1, 1, vec![1]));

        // Both at once, when both are there.
        let growing = Newcomers::among(&nodes, one.clone()).unwrap();
        let second_is_here = |id: NodeId| id.0 <= 2;
        assert_eq!(growing.layout(second_is_here, Duration::ZERO), None);
        let three = growing.layout(|_| true, Duration::ZERO).unwrap();
        assert_eq!((three.epoch(), three.copies(), ids(&three)), (2, 3, vec![1, 2, 3]));

        // Whoever does not come keeps nobody out, and comes in later.
        let two = growing.layout(second_is_here, PATIENCE).unwrap();
        assert_eq!((two.epoch(), two.copies(), ids(&two)), (2, 2, vec![1, 2]));
        assert_eq!(growing.layout(|_| false, PATIENCE), None);
        let three = after(two, &nodes).unwrap();
        assert_eq!((three.epoch(), three.copies(), ids(&three)), (3, 3, vec![1, 2, 3]));
    }

    #[test]
    fn nodes_without_the_role_hold_nothing() {
        let nodes = [node(1, &[Role::Store]), node(2, &[Role::Gateway])];
        assert_eq!(ids(&after(Layout::default(), &nodes).unwrap()), [1]);
        assert!(Newcomers::among(&nodes[1..], Layout::default()).is_none());
    }

    #[test]
    fn a_layout_grows_and_never_shrinks_by_itself() {
        let mut nodes: Vec<NodeRow> = (1..=3).map(|id| node(id, &[Role::Store])).collect();
        let present = after(Layout::default(), &nodes).unwrap();
        assert_eq!(after(present.clone(), &nodes), None);

        nodes[0].roles = vec![Role::Gateway];
        assert_eq!(after(present.clone(), &nodes), None);

        nodes.push(node(4, &[Role::Store]));
        let grown = after(present, &nodes).unwrap();
        assert_eq!((grown.epoch(), ids(&grown)), (2, vec![1, 2, 3, 4]));
    }
}
