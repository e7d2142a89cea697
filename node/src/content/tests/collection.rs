//! Garbage on three nodes: what goes, what stays, and what is saved by being put again.

use cluster::command::PutBlock;
use cluster::tables::blocks::REAPED;
use cluster::tables::system::{SYSTEM, SystemRow};

use super::*;

/// Runs a node's collection until the guard is dropped.
fn collect(content: &Content) -> tokio_util::sync::DropGuard {
    let stop = CancellationToken::new();
    let (content, stopped) = (content.clone(), stop.clone());
    tokio::spawn(async move { content.collect(stopped).await });
    stop.drop_guard()
}

impl Catalog {
    /// The log is at this index, without further consequences.
    fn reach(&self, index: u64) {
        self.applied.send_replace(index);
    }

    /// The entry at `at` has reaped the block.
    fn reap(&self, block: BlockRef, at: u64) {
        let row = BlockRow { reaped_at: Some(at), ..BlockRow::needed(block.len, 0) };
        self.change(|tx| {
            BLOCKS.put(tx, &block.hash, &row);
            REAPED.put(tx, &(at, block.hash), &block.len);
        });
    }

    fn forget(&self, block: BlockRef, at: u64) {
        self.change(|tx| {
            BLOCKS.delete(tx, &block.hash);
            REAPED.delete(tx, &(at, block.hash));
        });
    }

    fn raise_floor(&self, reap_floor: u64) {
        let row = SystemRow { reap_floor, ..SystemRow::default() };
        self.change(|tx| SYSTEM.put(tx, &(), &row));
    }
}

impl Cluster {
    async fn put(&self, seed: u64) -> BlockRef {
        self.nodes[0].content.put(bytes(seed, 3000)).await.unwrap().block
    }

    async fn copies(&self, block: BlockRef) -> usize {
        let mut copies = 0;
        for node in &self.nodes {
            copies += usize::from(node.has(block).await);
        }
        copies
    }

    async fn until_copies(&self, block: BlockRef, expected: usize) {
        until(&format!("there are {expected} copies"), || async {
            self.copies(block).await == expected
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_reaped_goes_from_all_nodes_and_the_rest_stays() {
    let cluster = Cluster::start(3).await;
    let _collecting: Vec<_> = cluster.nodes.iter().map(|node| collect(&node.content)).collect();
    cluster.catalog.reach(10);
    let (garbage, needed) = (cluster.put(1).await, cluster.put(2).await);
    let (waiting, unnamed) = (cluster.put(3).await, cluster.put(4).await);
    let blocks = [garbage, needed, waiting, unnamed];
    for block in blocks {
        cluster.until_copies(block, 3).await;
    }
    cluster.catalog.refer_to(needed);
    let row = BlockRow { unreferenced_since_ms: Some(1), ..BlockRow::needed(waiting.len, 0) };
    cluster.catalog.change(|tx| BLOCKS.put(tx, &waiting.hash, &row));
    cluster.catalog.reap(garbage, 20);
    cluster.until_copies(garbage, 0).await;
    for block in [needed, waiting, unnamed] {
        assert_eq!(cluster.copies(block).await, 3);
    }
    // What nobody ever named goes when the floor has passed it.
    cluster.catalog.raise_floor(10);
    cluster.catalog.reap(waiting, 30);
    cluster.until_copies(waiting, 0).await;
    assert_eq!(cluster.copies(unnamed).await, 3, "it was put at the floor, not below");
    cluster.catalog.raise_floor(20);
    cluster.until_copies(unnamed, 0).await;
    assert_eq!(cluster.copies(needed).await, 3);
    for node in &cluster.nodes {
        let seen = node.content.observe_collection();
        assert_eq!((seen.deleted.blocks, seen.deleted.bytes), (3, 9000));
        assert_eq!(seen.waiting_for, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_again_after_it_was_reaped_stays() {
    let cluster = Cluster::start(3).await;
    cluster.catalog.reach(10);
    let block = cluster.put(1).await;
    cluster.until_copies(block, 3).await;
    cluster.catalog.reap(block, 20);
    cluster.catalog.reach(20);
    let again = cluster.nodes[1].content.put(bytes(1, 3000)).await.unwrap();
    assert_eq!(again, PutBlock { block, put_index: 20 });
    let others = cluster.put(2).await;
    cluster.until_copies(others, 3).await;
    cluster.catalog.reap(others, 30);
    let _collecting: Vec<_> = cluster.nodes.iter().map(|node| collect(&node.content)).collect();
    cluster.until_copies(others, 0).await;
    assert!(cluster.copies(block).await >= 2, "they were acknowledged");
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_and_deletes_of_one_block_at_the_same_time_leave_what_was_acknowledged() {
    let cluster = Cluster::start(3).await;
    let _collecting: Vec<_> = cluster.nodes.iter().map(|node| collect(&node.content)).collect();
    for round in 1..=12 {
        cluster.catalog.reach(round * 10);
        let block = cluster.put(1).await;
        // The nodes hear of it while the next put is on its way.
        let reaped_at = round * 10 + 5;
        cluster.catalog.reap(block, reaped_at);
        cluster.catalog.reach(reaped_at);
        let again = cluster.put(1).await;
        cluster.catalog.forget(block, reaped_at);
        cluster.catalog.refer_to(again);
        tokio::time::sleep(Duration::from_millis(fastrand::u64(0..700))).await;
        assert!(cluster.copies(again).await >= 2, "in round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_gets_rid_of_what_was_forgotten_meanwhile() {
    let cluster = Cluster::start(3).await;
    cluster.catalog.reach(10);
    let block = cluster.put(1).await;
    cluster.until_copies(block, 3).await;
    let here: Vec<_> = cluster.nodes[..2].iter().map(|node| collect(&node.content)).collect();
    cluster.catalog.reap(block, 20);
    cluster.until_copies(block, 1).await;
    drop(here);
    cluster.catalog.forget(block, 20);
    cluster.catalog.raise_floor(20);
    let _back = collect(&cluster.nodes[2].content);
    cluster.until_copies(block, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_that_nobody_needs_goes_too() {
    let mut cluster = Cluster::start(3).await;
    cluster.catalog.reach(10);
    let good = bytes(1, 3000);
    let block = cluster.put(1).await;
    cluster.until_copies(block, 3).await;
    damage(&mut cluster, 0, &good).await;
    let node = &cluster.nodes[0];
    assert_eq!(node.store.verify(block.hash).await, Err(StoreError::Damaged(block.hash)));
    assert_eq!(node.store.stats().quarantined, 1);
    // It was reaped and forgotten before this node looked, so that only a sweep can find it.
    cluster.catalog.raise_floor(20);
    let _collecting = collect(&node.content);
    until("it is gone", || async { node.store.stats().quarantined == 0 }).await;
    assert_eq!(node.store.verify(block.hash).await, Err(StoreError::NotFound(block.hash)));
}
