//! The loop and real consensus: nodes join, are drained and removed, and nobody but the loop changes the membership.

use std::collections::BTreeSet;

use cluster::command::{Action, Reply};
use cluster::features;
use cluster::ids::{PublicKeyHash, SecretHash, TokenId};
use cluster::tables::authority::{AuthorityRow, PrivateKey};
use cluster::tables::nodes::{NodeRow, Role};

use super::*;
use crate::raft::RaftSettings;
use crate::raft::tests::harness::{CLUSTER, Cluster, Writer, eventually};

const TOKEN: TokenId = TokenId([1; 16]);
const SECRET: [u8; 32] = [2; 32];

fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

fn row(id: u64, rpc_addr: String) -> NodeRow {
    NodeRow {
        id: NodeId(id),
        name: format!("node-{id}"),
        zone: format!("zone-{id}"),
        roles: vec![Role::Store],
        http_url: String::new(),
        rpc_addr,
        version: String::new(),
        capacity_bytes: 1 << 30,
        feature_level: features::NEWEST,
    }
}

/// A cluster of one, whose catalog knows its members, with the loop on each node.
struct Living {
    cluster: Cluster,
    stop: CancellationToken,
}

impl Drop for Living {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Living {
    async fn found() -> Self {
        let cluster = Cluster::founded(RaftSettings::default()).await;
        let living = Self { cluster, stop: CancellationToken::new() };
        living.watch_over(0);
        let authority =
            AuthorityRow { certificate_der: vec![1], key_der: PrivateKey(vec![2]), created_ms: 0 };
        let founder = PublicKeyHash([1; 32]);
        let birth = Action::InitCluster {
            cluster_id: CLUSTER,
            authority: Some(authority),
            founder: Some(founder),
        };
        assert_eq!(living.propose(birth).await, Reply::Done);
        let address = living.cluster.nodes[0].address.to_string();
        living.propose(Action::RegisterNode { node: row(1, address) }).await;
        let minted = Action::MintToken {
            token: TOKEN,
            secret_hash: SecretHash::of(&SECRET),
            roles: vec![Role::Store],
            expires_ms: crate::now_ms() + 600_000,
            uses: 10,
            actor: "test".to_owned(),
        };
        assert_eq!(living.propose(minted).await, Reply::Done);
        living
    }

    fn watch_over(&self, position: usize) {
        let node = &self.cluster.nodes[position];
        tokio::spawn(run(node.consensus().clone(), node.id, self.stop.clone()));
    }

    async fn propose(&self, action: Action) -> Reply {
        let (reply, _) = self.cluster.nodes[0].consensus().propose(action).await.unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        reply
    }

    async fn join(&mut self) {
        let position = self.cluster.add_node(RaftSettings::default()).await;
        let node = &self.cluster.nodes[position];
        let admission = Action::AdmitNode {
            token: TOKEN,
            secret_hash: SecretHash::of(&SECRET),
            public_key_hash: PublicKeyHash([position as u8 + 1; 32]),
            node: row(node.id.0, node.address.to_string()),
        };
        assert_eq!(self.propose(admission).await, Reply::Admitted(node.id));
        self.watch_over(position);
    }

    async fn becomes(&self, voters: BTreeSet<NodeId>, learners: BTreeSet<NodeId>) {
        let what = format!("{voters:?} vote and {learners:?} learn");
        eventually(&what, || {
            let membership = self.cluster.nodes[0].consensus().membership();
            let settled = membership.committed && !membership.joint;
            settled && membership.voters == voters && membership.learners == learners
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_join_are_drained_and_leave_while_the_cluster_takes_writes() {
    let mut living = Living::found().await;
    let writer = Writer::start(living.cluster.nodes[0].consensus().clone());
    living.join().await;
    // Two votes would be no safer than one.
    living.becomes(ids([1]), ids([2])).await;
    living.join().await;
    living.becomes(ids([1, 2, 3]), ids([])).await;
    living.join().await;
    living.becomes(ids([1, 2, 3]), ids([4])).await;
    writer.some_more().await;

    // Whoever leads is drained: it hands over, and the fourth gets its vote.
    let leader = living.cluster.nodes[living.cluster.leader().await].id;
    living.propose(Action::DrainNode { node: leader, actor: "test".to_owned() }).await;
    let stay: BTreeSet<_> = ids(1..=4).into_iter().filter(|id| *id != leader).collect();
    living.becomes(stay.clone(), BTreeSet::from([leader])).await;
    eventually("somebody else leads", || {
        let now = living.cluster.nodes[0].consensus().status().leader;
        now.is_some_and(|now| stay.contains(&now))
    })
    .await;
    writer.some_more().await;

    // Changed their minds: it may stay, as a learner that gets the next free seat.
    living.propose(Action::CancelDrain { node: leader, actor: "test".to_owned() }).await;
    writer.some_more().await;
    living.becomes(stay.clone(), BTreeSet::from([leader])).await;

    // Another one leaves for ever.
    let leaves = *stay.iter().find(|id| id.0 != 1).unwrap();
    living.propose(Action::DrainNode { node: leaves, actor: "test".to_owned() }).await;
    let stay: BTreeSet<_> = ids(1..=4).into_iter().filter(|id| *id != leaves).collect();
    living.becomes(stay.clone(), BTreeSet::from([leaves])).await;
    let removal = Action::RemoveNode { node: leaves, force: false, actor: "test".to_owned() };
    living.propose(removal).await;
    living.becomes(stay, ids([])).await;
    living.cluster.nodes[leaves.0 as usize - 1].kill().await;
    writer.some_more().await;
    writer.end(living.cluster.nodes[0].consensus()).await;
    living.cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seven_nodes_have_five_voters() {
    let mut living = Living::found().await;
    for _ in 2..=6 {
        living.join().await;
    }
    living.becomes(ids(1..=3), ids(4..=6)).await;
    living.join().await;
    living.becomes(ids(1..=5), ids(6..=7)).await;
    living.cluster.assert_equal().await;
}
