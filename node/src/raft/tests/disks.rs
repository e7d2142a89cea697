//! Disks that hang and disks that fail.

use std::time::{Duration, Instant};

use cluster::ids::VideoId;

use super::super::{ProposeError, RaftRole, RaftSettings};
use super::harness::{Cluster, Disease, Writer, create, eventually};

/// Impatient, so that tests need not be patient.
const SETTINGS: RaftSettings = RaftSettings {
    heartbeat_ms: 80,
    election_min_ms: 300,
    election_max_ms: 500,
    snapshot_every_entries: 20_000,
    snapshot_pause_ms: 0,
    keep_entries: 50_000,
    stall_ms: 1_000,
    hang_ms: 60_000,
};

impl Cluster {
    /// Waits until somebody else than the node at `position` leads.
    async fn another_leads(&self, position: usize) -> usize {
        let mut found = None;
        eventually("another node leads", || {
            found = (0..self.nodes.len()).find(|other| {
                *other != position
                    && self.nodes[*other].consensus().status().role == RaftRole::Leader
            });
            found.is_some()
        })
        .await;
        found.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_lets_another_node_lead() {
    let mut cluster = Cluster::start(SETTINGS).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    // Nobody writes: that it hangs is found by asking it.
    cluster.nodes[leader].disk.set(Disease::Hangs);
    let started = Instant::now();
    let next = cluster.another_leads(leader).await;
    assert!(cluster.nodes[leader].consensus().status().disk_stalled);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    let writer = Writer::start(cluster.nodes[next].consensus().clone());
    writer.some_more().await;
    cluster.nodes[leader].disk.set(Disease::None);
    writer.some_more().await;
    writer.end(cluster.nodes[leader].consensus()).await;
    cluster.assert_equal().await;
    // Well again, it may lead again.
    eventually("it is well", || !cluster.nodes[leader].consensus().status().disk_stalled).await;
    cluster.leader().await;
    let well = cluster.nodes[leader].id;
    eventually("it takes over", || {
        cluster.nodes[leader].consensus().is_leader() || {
            let consensus = cluster.nodes[next].consensus().clone();
            tokio::spawn(async move { consensus.transfer_leadership_to(well).await.ok() });
            std::thread::sleep(Duration::from_millis(100));
            false
        }
    })
    .await;
    assert!(cluster.nodes.iter().all(|node| node.gave_up.lock().unwrap().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_under_load_costs_the_leader_its_place_and_no_write() {
    let mut cluster = Cluster::start(SETTINGS).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let writers: Vec<_> =
        cluster.nodes.iter().map(|node| Writer::start(node.consensus().clone())).collect();
    writers[0].some_more().await;
    cluster.nodes[leader].disk.set(Disease::Hangs);
    let next = cluster.another_leads(leader).await;
    writers[next].some_more().await;
    cluster.nodes[leader].disk.set(Disease::None);
    for writer in writers {
        writer.some_more().await;
        writer.end(cluster.nodes[next].consensus()).await;
    }
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_hangs_acknowledges_nothing_and_does_not_vote() {
    let mut cluster = Cluster::start(SETTINGS).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let (sick, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[sick].disk.set(Disease::Hangs);
    cluster.nodes[other].kill().await;
    let proposed = cluster.nodes[leader].consensus().propose(create(VideoId([200; 16]))).await;
    assert!(matches!(proposed, Err(ProposeError::Timeout(_) | ProposeError::NoLeader(_))));

    // Its vote would make a leader of the one that comes back.
    cluster.nodes[leader].kill().await;
    cluster.nodes[other].start().await;
    tokio::time::sleep(Duration::from_millis(3 * SETTINGS.election_max_ms)).await;
    assert_ne!(cluster.nodes[other].consensus().status().role, RaftRole::Leader);

    cluster.nodes[sick].disk.set(Disease::None);
    cluster.leader().await;
    cluster.propose_on(sick).await;
    cluster.nodes[leader].start().await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_does_not_come_back_ends_itself() {
    let settings = RaftSettings { hang_ms: 2_000, ..SETTINGS };
    let mut cluster = Cluster::start(settings).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    cluster.nodes[leader].disk.set(Disease::Hangs);
    eventually("it gives up", || cluster.nodes[leader].gave_up.lock().unwrap().is_some()).await;
    let reason = cluster.nodes[leader].gave_up.lock().unwrap().clone().unwrap();
    assert!(reason.contains("has not answered"), "{reason}");
    cluster.nodes[leader].kill().await;
    cluster.leader().await;
    cluster.propose_on((leader + 1) % 3).await;
    cluster.nodes[leader].start().await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_disk_fails_ends_itself_and_goes_on_when_it_is_replaced() {
    let mut cluster = Cluster::start(SETTINGS).await;
    let leader = cluster.leader().await;
    for position in [leader, (leader + 1) % 3] {
        cluster.propose_on(position).await;
        let witness = (leader + 2) % 3;
        let writer = Writer::start(cluster.nodes[witness].consensus().clone());
        writer.some_more().await;
        let matched = cluster.nodes[position].consensus().status().applied_index;
        cluster.nodes[position].disk.set(Disease::Fails);
        eventually("it gives up", || cluster.nodes[position].gave_up.lock().unwrap().is_some())
            .await;
        let reason = cluster.nodes[position].gave_up.lock().unwrap().take().unwrap();
        assert!(reason.contains("Input/output error"), "{reason}");
        // A second fsync might succeed, but nobody asks for one.
        cluster.nodes[position].disk.set(Disease::None);
        writer.some_more().await;
        assert_eq!(cluster.nodes[position].consensus().status().role, RaftRole::Stopped);
        cluster.nodes[position].kill().await;
        writer.some_more().await;
        cluster.nodes[position].start().await;
        writer.end(cluster.nodes[witness].consensus()).await;
        cluster.assert_equal().await;
        assert!(cluster.nodes[position].consensus().status().applied_index > matched);
    }
}
