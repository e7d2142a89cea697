//! Copies that belong on other nodes by now are given up when those have them, and not before.

use cluster::placement::release::Moment;

use super::super::release::{Release, ReleaseParts};
use super::*;
use crate::rpc::blocks::Confirms;

fn release(node: &Node) -> Release {
    let up = Arc::clone(&node.up);
    Release::new(ReleaseParts {
        node: node.local.node_id,
        store: Arc::new(node.store.clone()),
        client: BlocksClient::new(node.peers.clone()),
        moments: node.catalog.moments(),
        placement: node.catalog.applied.subscribe(),
        outlook: Arc::new(move |id| up.lock().unwrap().get(&id).copied().unwrap_or(Standing::Well)),
    })
}

fn run_release(release: &Release) -> tokio_util::sync::DropGuard {
    let stop = CancellationToken::new();
    let (release, stopped) = (release.clone(), stop.clone());
    tokio::spawn(async move { release.run(stopped).await });
    stop.drop_guard()
}

fn holders(epoch: u64, nodes: [u64; 3]) -> Layout {
    let holders = (0..GROUPS).flat_map(|_| nodes.map(NodeId)).collect();
    Layout::new(epoch, 3, holders).unwrap()
}

/// Has node 1 put a block, and the catalog name it.
async fn put(cluster: &Cluster, seed: u64) -> BlockRef {
    let block = cluster.nodes[0].content.put(bytes(seed, 10_000)).await.unwrap().block;
    for node in &cluster.nodes[..3] {
        until("all have it", || node.has(block)).await;
    }
    cluster.catalog.refer_to(block);
    block
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_copy_goes_when_all_present_holders_have_theirs() {
    let mut cluster = Cluster::start(4).await;
    let mut blocks = Vec::new();
    for seed in 0..20 {
        blocks.push(put(&cluster, seed).await);
    }
    let nobody_needs = cluster.nodes[0].content.put(bytes(99, 10_000)).await.unwrap().block;
    let release = release(&cluster.nodes[0]);
    let _releasing = run_release(&release);
    until("nothing is surplus", || async { release.observe().surplus_blocks == Some(0) }).await;

    // Node 4 takes over from node 1, and has nothing yet. Node 2 does not answer.
    cluster.nodes[1].stop_serving().await;
    cluster.catalog.change(|tx| LAYOUT.put(tx, &(), &holders(2, [2, 3, 4])));
    until("it has looked", || async { release.observe().surplus_blocks == Some(20) }).await;
    assert!(release.observe().waiting_for.is_some());
    let _pulling = run(&cluster.nodes[3].content);
    for block in &blocks {
        until("node 4 has it", || cluster.nodes[3].has(*block)).await;
    }
    let observed = release.observe();
    assert_eq!((observed.released_blocks, observed.surplus_bytes), (0, 200_000));
    assert!(observed.surplus_groups.len() > 10);

    cluster.nodes[1].serve().await;
    until("all are given up", || async { release.observe().released_blocks == 20 }).await;
    for block in &blocks {
        assert!(!cluster.nodes[0].has(*block).await);
        assert_eq!(cluster.nodes[0].content.get_once(*block).await.unwrap().len(), 10_000);
    }
    assert!(cluster.nodes[0].has(nobody_needs).await, "that is for the collector");
    until("it says so", || async {
        let observed = release.observe();
        (observed.surplus_blocks, observed.waiting_for) == (Some(0), None)
    })
    .await;
    assert_eq!(release.observe().released_bytes, 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_answers_for_itself_alone() {
    let cluster = Cluster::start(4).await;
    let block = put(&cluster, 1).await;
    let garbage = cluster.nodes[0].content.put(bytes(2, 100)).await.unwrap().block;
    until("the holders have it", || cluster.nodes[1].has(garbage)).await;
    let unknown = BlockHash::of(b"nobody has this");
    let client = BlocksClient::new(cluster.nodes[3].peers.clone());
    let now = || Moment { epoch: 1, applied: *cluster.catalog.applied.borrow() };
    let asked = [block.hash, garbage.hash, unknown];
    let answer = client.confirm(NodeId(2), &asked, now()).await.unwrap();
    assert_eq!(answer, [true, false, false]);
    // One that is no holder, though it has a copy.
    cluster.catalog.change(|tx| LAYOUT.put(tx, &(), &holders(2, [1, 3, 4])));
    assert_eq!(client.confirm(NodeId(2), &asked[..1], now()).await.unwrap(), [false]);
    assert_eq!(client.confirm(NodeId(1), &asked[..1], now()).await.unwrap(), [true]);
    assert_eq!(cluster.nodes[0].store.stats().blocks, 2, "looking deletes nothing");

    // It waits for what the asker knows, and gives up in time.
    let ahead = Moment { applied: now().applied + 1, ..now() };
    let waiting = client.confirm(NodeId(1), &asked[..1], ahead);
    let change = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        cluster.catalog.change(|_| {});
    };
    let (answer, ()) = tokio::join!(waiting, change);
    assert_eq!(answer.unwrap(), [true]);
    let far = Moment { applied: u64::MAX, ..now() };
    let refused = client.confirm(NodeId(1), &asked[..1], far).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Aborted);
    let many = vec![unknown; rpc::blocks::CONFIRM_MAX + 1];
    let refused = client.confirm(NodeId(1), &many, now()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn a_copy_that_was_confirmed_counts_as_put_when_it_was_asked_for() {
    let cluster = Cluster::start(1).await;
    let node = &cluster.nodes[0];
    let bytes = Bytes::from_static(b"asked for");
    let block = BlockRef { hash: BlockHash::of(&bytes), len: 9 };
    node.store.put(block.hash, bytes, 0).await.unwrap();
    let applied = cluster.catalog.applied.subscribe();
    let store = Arc::new(node.store.clone());
    let moments = cluster.catalog.moments();
    let confirming = release::Confirming::new(node.local.node_id, store, moments, applied);
    let put_index = async || {
        let listed = node.store.list(block.hash, block.hash, 1).await.unwrap();
        listed[0].put_index
    };
    let ask = async || {
        let asked = Moment { epoch: 1, applied: *cluster.catalog.applied.borrow() };
        let other = BlockHash::of(b"not here");
        (asked.applied, confirming.confirm(asked, vec![other, block.hash]).await.unwrap())
    };
    // Nothing refers to it: nothing is promised.
    assert_eq!(ask().await.1, [false, false]);
    assert_eq!(put_index().await, 0);
    cluster.catalog.refer_to(block);
    let (asked_at, confirmed) = ask().await;
    assert_eq!(confirmed, [false, true]);
    assert!(asked_at > 0);
    assert_eq!(put_index().await, asked_at);
}
