//! Consensus as its users see it: real nodes, real sockets, real disks, and crashes.

mod disks;
pub(crate) mod harness;
mod levels;
mod membership;
mod snapshots;

use std::time::Duration;

use cluster::catalog;
use cluster::command::Command;
use cluster::ids::{ClientId, NodeId, VideoId};
use proto::cluster::ProposeRequest;
use tokio::time::Instant;

use self::harness::{CLUSTER, Cluster, Node, create};
use super::read::{READ_TIMEOUT, READ_TRY_TIMEOUT};
use super::*;
use crate::rpc::envelope::LocalNode;
use crate::rpc::testing;

#[tokio::test(flavor = "multi_thread")]
async fn any_node_takes_commands_and_all_apply_them() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    let mut last = 0;
    for position in 0..3 {
        let (_, index) = cluster.propose_on(position).await;
        assert!(index > last);
        last = index;
        for node in &cluster.nodes {
            let read = node.consensus().read_index().await.unwrap();
            assert!(read >= index, "{read} was read after {index} had been acknowledged");
        }
    }
    cluster.assert_equal().await;
    let again = cluster.nodes[1].consensus().init(&[(NodeId(2), String::new())]).await;
    assert!(matches!(again, Err(InitError::AlreadyInitialized)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_sent_twice_is_applied_once() {
    let cluster = Cluster::start(RaftSettings::default()).await;
    let leader = cluster.leader().await;
    let follower = &cluster.nodes[(leader + 1) % 3];
    let command = Command {
        client: ClientId([1; 16]),
        sequence: 1,
        answered_below: 1,
        time_ms: 0,
        action: create(VideoId([1; 16])),
    };
    let request = ProposeRequest {
        envelope: Some(
            LocalNode { cluster_id: CLUSTER, node_id: follower.id }
                .envelope_to(cluster.nodes[leader].id),
        ),
        command: cluster::codec::encode(&command).into(),
    };
    let consensus = cluster.nodes[leader].consensus();
    // A new leader takes commands when a majority has answered it.
    consensus.read_index().await.unwrap();
    let first = consensus.serve_propose(request.clone()).await.unwrap();
    let second = consensus.serve_propose(request.clone()).await.unwrap();
    assert_eq!(first.reply, second.reply);
    assert!(second.index > first.index);

    // A node that does not lead says who does, and one that is not meant refuses.
    let envelope = LocalNode { cluster_id: CLUSTER, node_id: cluster.nodes[leader].id }
        .envelope_to(follower.id);
    let astray = ProposeRequest { envelope: Some(envelope), ..request.clone() };
    let status = follower.consensus().serve_propose(astray).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert_eq!(
        status.metadata().get("reelraft-leader").unwrap().to_str().unwrap(),
        cluster.nodes[leader].id.to_string()
    );
    assert!(follower.consensus().serve_propose(request).await.is_err());
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn time_goes_on_after_a_leader_whose_clock_was_ahead() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    let time_ms =
        |consensus: &Consensus| catalog::system(consensus.catalog().as_ref()).unwrap().time_ms;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let consensus = cluster.nodes[leader].consensus();
    let ahead_ms = time_ms(consensus) + 3_600_000;
    let command = Command {
        client: ClientId([1; 16]),
        sequence: 1,
        answered_below: 1,
        time_ms: ahead_ms,
        action: create(VideoId([200; 16])),
    };
    consensus.inner.raft.client_write(types::LoggedCommand::new(&command)).await.unwrap();
    cluster.nodes[leader].kill().await;
    let other = (leader + 1) % 3;
    cluster.propose_on(other).await;
    let mut last = time_ms(cluster.nodes[other].consensus());
    assert!(last >= ahead_ms);
    for _ in 0..3 {
        // Time has to pass for this one.
        tokio::time::sleep(Duration::from_millis(120)).await;
        cluster.propose_on(other).await;
        let now = time_ms(cluster.nodes[other].consensus());
        assert!(now > last, "the clock stands still at {now}");
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_go_on_when_the_leader_dies_and_it_catches_up_when_it_is_back() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].kill().await;
    cluster.propose_on((leader + 1) % 3).await;
    cluster.propose_on((leader + 2) % 3).await;
    assert_ne!(cluster.leader().await, leader);
    cluster.nodes[leader].start().await;
    cluster.assert_equal().await;
    cluster.propose_on(leader).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_fail_in_time_and_reads_go_on() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    let (video, _) = cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let (alone, others) = (leader, [(leader + 1) % 3, (leader + 2) % 3]);
    for other in others {
        cluster.nodes[other].kill().await;
    }
    let consensus = cluster.nodes[alone].consensus();
    for _ in 0..2 {
        let started = Instant::now();
        let error = consensus.propose(create(VideoId([200; 16]))).await.unwrap_err();
        assert!(matches!(error, ProposeError::NoLeader(_) | ProposeError::Timeout(_)), "{error}");
        assert!(started.elapsed() < Duration::from_millis(4900), "{:?}", started.elapsed());
    }
    let started = Instant::now();
    assert!(consensus.read_index().await.is_err());
    assert!(started.elapsed() < READ_TIMEOUT + READ_TRY_TIMEOUT);
    assert!(catalog::video(consensus.catalog().as_ref(), video).unwrap().is_some());

    for other in others {
        cluster.nodes[other].start().await;
    }
    cluster.leader().await;
    cluster.propose_on(others[0]).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_go_on_where_they_were() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    let (video, index) = cluster.propose_on(2).await;
    for node in &mut cluster.nodes {
        node.kill().await;
    }
    for node in &mut cluster.nodes {
        node.start().await;
        // What was applied is there at once, without waiting for the others.
        let catalog = node.consensus().catalog();
        if node.consensus().status().applied_index >= index {
            assert!(catalog::video(catalog.as_ref(), video).unwrap().is_some());
        }
    }
    cluster.leader().await;
    cluster.propose_on(0).await;
    cluster.assert_equal().await;
    let catalog = cluster.nodes[0].consensus().catalog();
    assert!(catalog::video(catalog.as_ref(), video).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_is_handed_over() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let follower = cluster.nodes[(leader + 1) % 3].consensus();
    assert!(matches!(follower.transfer_leadership().await, Err(TransferError::NotLeader)));
    let heir = cluster.nodes[leader].consensus().transfer_leadership().await.unwrap();
    assert_ne!(heir, cluster.nodes[leader].id);
    cluster.propose_on(leader).await;
    assert_eq!(cluster.nodes[cluster.leader().await].id, heir);
    for node in &mut cluster.nodes {
        let running = node.running.take().unwrap();
        running.consensus.shutdown().await;
        assert!(matches!(
            running.consensus.propose(create(VideoId([99; 16]))).await,
            Err(ProposeError::Stopped | ProposeError::NoLeader(_))
        ));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_entries_are_gone_catches_up_by_a_snapshot() {
    let settings = RaftSettings {
        snapshot_every_entries: 50,
        snapshot_pause_ms: 0,
        keep_entries: 60,
        ..RaftSettings::default()
    };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.propose_on(behind).await;
    cluster.nodes[behind].kill().await;
    cluster.write_until_purged(leader, 20).await;
    cluster.nodes[behind].start().await;
    // The cluster takes writes meanwhile.
    for _ in 0..20 {
        cluster.propose_on(leader).await;
    }
    cluster.assert_equal().await;
    let status = cluster.nodes[behind].consensus().status();
    assert!(status.snapshot_index > 20, "{status:?}");

    // What it received is durable, and it can pass it on: it starts from there, and leads another one that was away.
    cluster.nodes[behind].kill().await;
    cluster.nodes[behind].start().await;
    cluster.propose_on(behind).await;
    cluster.assert_equal().await;
}

/// Starts the node, which must fail, and says how.
async fn refusal_of(node: &Node) -> String {
    let local = LocalNode { cluster_id: CLUSTER, node_id: node.id };
    let started =
        Consensus::start(node.settings, node.directory.path(), testing::peers(local)).await;
    let Err(error) = started else { panic!("node {} started", node.id) };
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_log_or_its_catalog_does_not_start() {
    let settings = RaftSettings {
        snapshot_every_entries: 10,
        snapshot_pause_ms: 0,
        keep_entries: 11,
        ..RaftSettings::default()
    };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    for position in [one, other] {
        cluster.write_until_purged(position, 0).await;
    }
    for (lost, directory) in [(one, "raft"), (other, "state")] {
        cluster.nodes[lost].kill().await;
        let node = &cluster.nodes[lost];
        let (path, aside) =
            (node.directory.path().join(directory), node.directory.path().join("aside"));
        std::fs::rename(&path, &aside).unwrap();
        for _ in 0..2 {
            let refusal = refusal_of(node).await;
            assert!(refusal.contains("it is empty"), "{refusal}");
            assert!(refusal.contains("join again as a new node"), "{refusal}");
        }
        // With what was lost in its place again, nothing has happened.
        std::fs::remove_dir_all(&path).unwrap();
        std::fs::rename(&aside, &path).unwrap();
        cluster.nodes[lost].start().await;
    }
    cluster.propose_on(one).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_from_an_old_backup_is_refused() {
    let mut cluster = Cluster::start(RaftSettings::default()).await;
    cluster.propose_on(0).await;
    let node = (cluster.leader().await + 1) % 3;
    cluster.nodes[node].kill().await;
    let path = cluster.nodes[node].directory.path().join("raft");
    let backup = cluster.nodes[node].directory.path().join("backup");
    crate::state::link_or_copy_all(&path, &backup).unwrap();
    cluster.nodes[node].start().await;
    for _ in 0..10 {
        cluster.propose_on(node).await;
    }
    cluster.nodes[node].kill().await;
    std::fs::remove_dir_all(&path).unwrap();
    std::fs::rename(&backup, &path).unwrap();
    let refusal = refusal_of(&cluster.nodes[node]).await;
    assert!(refusal.contains("the log went back in time"), "{refusal}");
    assert!(refusal.contains("join again as a new node"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_not_made_a_member_waits() {
    let cluster = Cluster::not_yet_made(RaftSettings::default()).await;
    let consensus = cluster.nodes[0].consensus();
    assert_eq!(consensus.status().leader, None);
    assert!(matches!(
        consensus.propose(create(VideoId([1; 16]))).await,
        Err(ProposeError::NoLeader(_))
    ));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let defaults = RaftSettings::default();
    assert!(defaults.config().is_ok());
    for settings in [
        RaftSettings { heartbeat_ms: 400, ..defaults },
        RaftSettings { election_min_ms: 600, ..defaults },
        RaftSettings { keep_entries: 100, ..defaults },
    ] {
        assert!(settings.config().is_err(), "{settings:?}");
    }
}
