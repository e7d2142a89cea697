//! A node gets the whole catalog while the cluster goes on.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::view::{TableId, View, WriteBatch};

use super::super::snapshot::{Receiving, SnapshotStore, Tail, send};
use super::super::{Consensus, RaftSettings};
use super::harness::{Cluster, Writer, eventually};
use crate::state::StateDb;

/// Rows of a catalog with some thousands of videos.
const ROWS: u64 = 1_000_000;

/// Often, so that the beginning of the log is gone soon.
const SETTINGS: RaftSettings = RaftSettings {
    heartbeat_ms: 80,
    election_min_ms: 300,
    election_max_ms: 500,
    snapshot_every_entries: 50,
    snapshot_pause_ms: 0,
    keep_entries: 60,
    stall_ms: 3_000,
    hang_ms: 15_000,
};

/// Fills the catalog of a node that does not run. The rows mean nothing to the program, which never looks at them here.
fn fill(root: &Path) {
    let state = StateDb::open(root).unwrap();
    let mut noise = blake3::Hasher::new().finalize_xof();
    for first in (0..ROWS).step_by(20_000) {
        let mut batch = WriteBatch::default();
        for number in first..first + 20_000 {
            // Half of it can be compressed, as in real rows.
            let mut value = vec![0; 120];
            noise.fill(&mut value[..60]);
            batch.writes.insert((TableId::Segments, number.to_be_bytes().to_vec()), Some(value));
        }
        state.write(&batch, &[]).unwrap();
    }
}

/// The number of all rows of a catalog, and a hash over them.
fn digest(consensus: &Consensus) -> (u64, blake3::Hash) {
    let (catalog, mut hasher, mut rows) = (consensus.catalog(), blake3::Hasher::new(), 0);
    for table in TableId::ALL {
        let mut visit = |key: &[u8], value: &[u8]| {
            hasher.update(key);
            hasher.update(value);
            rows += 1;
            ControlFlow::Continue(())
        };
        catalog.scan(table, b"", b"", &mut visit).unwrap();
    }
    (rows, hasher.finalize())
}

fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_million_rows_reach_a_new_node_that_is_killed_on_the_way_while_writes_go_on() {
    let mut cluster = Cluster::founded(SETTINGS).await;
    cluster.nodes[0].kill().await;
    fill(&cluster.nodes[0].directory.path().join("state"));
    cluster.nodes[0].start().await;
    cluster.leader().await;
    cluster.write_until_purged(0, 20).await;

    let writer = Writer::start(cluster.nodes[0].consensus().clone());
    cluster.add_node(SETTINGS).await;
    let (id, address) = (cluster.nodes[1].id, cluster.nodes[1].address.to_string());
    let leader = cluster.nodes[0].consensus().clone();
    let started = Instant::now();
    leader.add_learner(id, &address).await.unwrap();
    let incoming = cluster.nodes[1].directory.path().join("state/incoming");
    eventually("some of it has arrived", || bytes_below(&incoming) > 8 << 20).await;
    cluster.nodes[1].kill().await;
    let arrived = bytes_below(&incoming);
    cluster.nodes[1].start().await;
    assert!(bytes_below(&incoming) >= arrived, "what arrived was thrown away");
    eventually("the new node has caught up", || {
        leader.membership().progress.get(&id).is_some_and(|seen| seen.lag < 20)
    })
    .await;
    println!("caught up in {:?}", started.elapsed());
    writer.some_more().await;
    writer.end(cluster.nodes[1].consensus()).await;

    let last = leader.status().last_log_index;
    for node in &cluster.nodes {
        node.consensus().wait_applied(last, Duration::from_secs(10)).await.unwrap();
    }
    let (one, other) = (digest(&leader), digest(cluster.nodes[1].consensus()));
    assert!(one.0 > ROWS);
    assert_eq!(one, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_complete_when_the_node_died_is_installed_at_the_start() {
    let mut cluster = Cluster::start(SETTINGS).await;
    cluster.propose_on(0).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.nodes[behind].kill().await;
    for _ in 0..120 {
        cluster.propose_on(leader).await;
    }
    let source = cluster.nodes[leader].consensus().inner.snapshots.current().unwrap();
    let last = source.meta().last_log_id.unwrap().index;
    let root = cluster.nodes[behind].directory.path().join("state");
    tokio::task::spawn_blocking(move || {
        let store = SnapshotStore::open(&root).unwrap();
        let receiving = Receiving::begin(&store, source.manifest().clone()).unwrap();
        let wanted: Vec<Tail> = receiving.wanted().to_vec();
        let (sender, receiver) = tokio::sync::mpsc::channel(1000);
        send(&source, &wanted, &sender).unwrap();
        drop(sender);
        store.keep(receiving.receive(receiver).unwrap()).unwrap();
    })
    .await
    .unwrap();

    // Nobody is there to help it.
    for position in [leader, (leader + 2) % 3] {
        cluster.nodes[position].kill().await;
    }
    cluster.nodes[behind].start().await;
    let status = cluster.nodes[behind].consensus().status();
    assert!(status.applied_index >= last, "{status:?}");
    cluster.nodes[leader].start().await;
    cluster.nodes[(leader + 2) % 3].start().await;
    cluster.leader().await;
    cluster.propose_on(behind).await;
    cluster.assert_equal().await;
}
