//! Commands that some node's program would not understand are not appended.

use cluster::command::{Action, Refusal, Reply};
use cluster::features;
use cluster::ids::NodeId;
use cluster::tables::nodes::{NodeRow, Role};

use super::harness::{Cluster, Node};
use crate::raft::{ProposeError, RaftSettings};

fn register(node: &Node, feature_level: u32) -> Action {
    Action::RegisterNode {
        node: NodeRow {
            id: node.id,
            name: format!("node-{}", node.id),
            zone: String::new(),
            roles: vec![Role::Store],
            http_url: String::new(),
            rpc_addr: node.address.to_string(),
            version: String::new(),
            capacity_bytes: 1,
            feature_level,
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_oldest_program_does_not_understand_is_proposed_when_it_has_been_replaced() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    let drain = Action::DrainNode { node: NodeId(9), actor: "test".to_owned() };
    for node in &cluster.nodes {
        let level = if node.id == NodeId(3) { features::FIRST } else { features::NEWEST };
        node.consensus().propose(register(node, level)).await.unwrap();
    }
    for node in &cluster.nodes {
        // On the leader, and by way of it.
        match node.consensus().propose(drain.clone()).await {
            Err(ProposeError::TooNew(reason)) => {
                assert!(reason.contains("drain_node") && reason.contains("is at 1"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
        let raise = Action::RaiseFeatureLevel { level: features::ADMISSION };
        let (reply, _) = node.consensus().propose(raise).await.unwrap();
        assert!(matches!(reply, Reply::Refused(_)), "{reply:?}");
    }
    // Nothing else is in the way.
    cluster.propose_on(0).await;

    let upgraded = register(&cluster.nodes[2], features::NEWEST);
    cluster.nodes[2].consensus().propose(upgraded).await.unwrap();
    let raise = Action::RaiseFeatureLevel { level: features::ADMISSION };
    let (reply, _) = cluster.nodes[0].consensus().propose(raise).await.unwrap();
    assert_eq!(reply, Reply::Done);
    for node in &cluster.nodes {
        let (reply, _) = node.consensus().propose(drain.clone()).await.unwrap();
        assert_eq!(reply, Reply::Refused(Refusal::UnknownNode));
    }
}
