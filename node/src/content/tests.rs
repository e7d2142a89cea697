//! Three nodes' content over real connections and real stores, with a catalog that the test writes.

mod collection;
mod releasing;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, RwLock};
use std::time::{Duration, Instant};

use cluster::command::BlockRef;
use cluster::placement::{GROUPS, Layout};
use cluster::tables::blocks::{BLOCKS, BlockRow};
use cluster::tables::nodes::{LAYOUT, NODES, NodeRow, Role};
use cluster::tables::system::{RepairPause, SYSTEM, SystemRow};
use cluster::view::{MemoryView, TableId, Transaction, Visitor};
use proto::blocks::blocks_server::{Blocks, BlocksServer};
use proto::blocks::{
    ConfirmReply, ConfirmRequest, GetReply, GetRequest, HasReply, HasRequest, PutReply, PutRequest,
};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::*;
use crate::rpc;
use crate::rpc::envelope::LocalNode;
use crate::rpc::peers::Peers;
use crate::rpc::testing;
use crate::store::{StoreError, VolumeBlockStore, VolumeOptions};

const PATIENCE: Duration = Duration::from_secs(20);

/// A catalog that all nodes of a test share.
struct Catalog {
    view: RwLock<MemoryView>,
    applied: watch::Sender<u64>,
}

impl View for Catalog {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        self.view.read().unwrap().get(table, key)
    }

    fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), ViewError> {
        self.view.read().unwrap().scan(table, from, to, visit)
    }
}

impl Catalog {
    /// With a layout that gives every group to the first three of `nodes`.
    fn new(nodes: &[u64]) -> Arc<Self> {
        let catalog = Arc::new(Self { view: RwLock::default(), applied: watch::Sender::new(0) });
        let nodes = &nodes[..nodes.len().min(COPIES)];
        let holders = (0..GROUPS).flat_map(|_| nodes.iter().copied().map(NodeId)).collect();
        let layout = Layout::new(1, nodes.len(), holders).unwrap();
        catalog.change(|tx| LAYOUT.put(tx, &(), &layout));
        catalog
    }

    fn change(&self, change: impl FnOnce(&mut Transaction<'_>)) {
        let mut view = self.view.write().unwrap();
        let mut tx = Transaction::new(&*view);
        change(&mut tx);
        let batch = tx.into_batch();
        view.write(batch);
        self.applied.send_modify(|index| *index += 1);
    }

    /// As it is now, and the index that goes with it.
    fn moments(self: &Arc<Self>) -> Arc<release::Moments> {
        let catalog = Arc::clone(self);
        Arc::new(move || {
            let view = catalog.view.read().unwrap();
            let applied = *catalog.applied.borrow();
            Ok((Box::new(view.clone()), applied))
        })
    }

    /// Something refers to the block from now on.
    fn refer_to(&self, block: BlockRef) {
        let row = BlockRow::needed(block.len, 1);
        self.change(|tx| BLOCKS.put(tx, &block.hash, &row));
    }
}

struct Node {
    catalog: Arc<Catalog>,
    store: VolumeBlockStore,
    content: Content,
    peers: Peers,
    local: LocalNode,
    address: SocketAddr,
    stop: CancellationToken,
    serving: Option<JoinHandle<()>>,
    up: Arc<Mutex<BTreeMap<NodeId, Standing>>>,
    dir: tempfile::TempDir,
}

impl Node {
    async fn serve(&mut self) {
        let store: Arc<dyn BlockStore> = Arc::new(self.store.clone());
        let applied = self.catalog.applied.subscribe();
        let confirming = release::Confirming::new(
            self.local.node_id,
            store.clone(),
            self.catalog.moments(),
            applied,
        );
        let service = rpc::blocks::service(self.local, store, Arc::new(confirming));
        self.serve_instead(Routes::new(service)).await;
    }

    /// Serves something else under this node's address.
    async fn serve_instead(&mut self, routes: Routes) {
        self.stop_serving().await;
        let listener = rpc::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.stop = CancellationToken::new();
        let (local, stopped) = (self.local, self.stop.clone());
        self.serving = Some(tokio::spawn(async move {
            testing::serve(local, listener, routes, Handle::current(), stopped).await;
        }));
    }

    async fn stop_serving(&mut self) {
        self.stop.cancel();
        if let Some(serving) = self.serving.take() {
            serving.await.unwrap();
        }
    }

    async fn has(&self, block: BlockRef) -> bool {
        self.store.has(vec![block.hash]).await.unwrap()[0]
    }
}

struct Cluster {
    catalog: Arc<Catalog>,
    nodes: Vec<Node>,
}

impl Cluster {
    async fn start(count: u64) -> Self {
        let ids: Vec<_> = (1..=count).collect();
        let catalog = Catalog::new(&ids);
        let mut nodes = Vec::new();
        for id in ids {
            let dir = tempfile::tempdir().unwrap();
            nodes.push(node(NodeId(id), &catalog, dir).await);
        }
        let addresses: Vec<_> =
            nodes.iter().map(|node| (node.local.node_id, node.address.to_string())).collect();
        for node in &nodes {
            for (id, address) in &addresses {
                node.peers.learn_registered(*id, address);
            }
        }
        Self { catalog, nodes }
    }

    /// Tells the catalog of all nodes. `zone`: of a node by its index.
    fn register(&self, zone: impl Fn(usize) -> &'static str) {
        for (index, node) in self.nodes.iter().enumerate() {
            let row = NodeRow {
                id: node.local.node_id,
                name: String::new(),
                zone: zone(index).to_owned(),
                roles: vec![Role::Store],
                http_url: String::new(),
                rpc_addr: node.address.to_string(),
                version: String::new(),
                capacity_bytes: 1,
                feature_level: 1,
            };
            self.catalog.change(|tx| NODES.put(tx, &row.id, &row));
        }
    }

    async fn who_has(&self, block: BlockRef) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.has(block).await {
                found.push(index);
            }
        }
        found
    }

    /// What node `of` believes about node `about`, both by index.
    fn believe(&self, of: usize, about: usize, standing: Standing) {
        let about = self.nodes[about].local.node_id;
        self.nodes[of].up.lock().unwrap().insert(about, standing);
    }
}

async fn node(id: NodeId, catalog: &Arc<Catalog>, dir: tempfile::TempDir) -> Node {
    let local = LocalNode { cluster_id: [3; 16], node_id: id };
    let peers = testing::peers(local);
    let store = VolumeBlockStore::open(dir.path(), &VolumeOptions::default()).unwrap();
    let up = Arc::<Mutex<BTreeMap<_, _>>>::default();
    let mut node = Node {
        catalog: Arc::clone(catalog),
        content: content(&peers, &store, catalog, &up),
        store,
        peers,
        local,
        address: ([127, 0, 0, 1], 0).into(),
        stop: CancellationToken::new(),
        serving: None,
        up,
        dir,
    };
    node.serve().await;
    node
}

fn content(
    peers: &Peers,
    store: &VolumeBlockStore,
    catalog: &Arc<Catalog>,
    up: &Arc<Mutex<BTreeMap<NodeId, Standing>>>,
) -> Content {
    let up = Arc::clone(up);
    Content::new(ContentParts {
        node: peers.local().node_id,
        store: Arc::new(store.clone()),
        client: BlocksClient::new(peers.clone()),
        catalog: Arc::clone(catalog) as Arc<dyn View + Send + Sync>,
        applied: catalog.applied.subscribe(),
        placement: catalog.applied.subscribe(),
        outlook: Arc::new(move |node| {
            let beliefs = up.lock().unwrap();
            beliefs.get(&node).copied().unwrap_or(Standing::Well)
        }),
        disk: Arc::new(DiskPressure::default),
        settings: ContentSettings::default(),
    })
}

fn bytes(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// Waits until a condition holds.
async fn until<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Runs a node's loop until the guard is dropped.
fn run(content: &Content) -> tokio_util::sync::DropGuard {
    let stop = CancellationToken::new();
    let (content, stopped) = (content.clone(), stop.clone());
    tokio::spawn(async move { content.run(stopped).await });
    stop.drop_guard()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_at_one_node_is_on_all_and_read_at_any() {
    let cluster = Cluster::start(3).await;
    for (seed, len) in [(1, 1), (2, 700), (3, 1_500_000), (4, BLOCK_BYTES_MAX)] {
        let bytes = bytes(seed, len);
        let block = cluster.nodes[0].content.put(bytes.clone()).await.unwrap().block;
        assert_eq!(block, BlockRef { hash: BlockHash::of(&bytes), len: len as u32 });
        for node in &cluster.nodes {
            until("all have it", || node.has(block)).await;
            assert_eq!(node.content.get(block).await.unwrap(), bytes);
            assert_eq!(node.content.get_once(block).await.unwrap(), bytes);
        }
    }
    cluster.nodes[1].content.can_store().unwrap();
    assert!(matches!(
        cluster.nodes[0].content.put(Bytes::new()).await,
        Err(PutError::BadLength(0))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_copies_suffice_and_the_third_is_brought_when_the_node_is_back() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].stop_serving().await;
    // Once before anybody has noticed, once after that.
    let unnoticed = cluster.nodes[0].content.put(bytes(1, 300_000)).await.unwrap().block;
    cluster.believe(0, 2, Standing::Away);
    let noticed = cluster.nodes[0].content.put(bytes(2, 300_000)).await.unwrap().block;
    cluster.nodes[0].content.can_store().unwrap();
    for block in [unnoticed, noticed] {
        assert!(cluster.nodes[0].has(block).await && cluster.nodes[1].has(block).await);
        assert!(!cluster.nodes[2].has(block).await);
    }
    until("both copies are owed", || async {
        cluster.nodes[0].content.observe().repair.queued_blocks == 2
    })
    .await;

    cluster.nodes[2].serve().await;
    let _running = run(&cluster.nodes[0].content);
    cluster.believe(0, 2, Standing::Well);
    for block in [unnoticed, noticed] {
        until("the copy was brought", || cluster.nodes[2].has(block)).await;
    }
    until("nothing is owed", || async {
        cluster.nodes[0].content.observe().repair.queued_blocks == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_nodes_keep_the_copies_of_holders_that_are_away_or_full() {
    let mut cluster = Cluster::start(5).await;
    cluster.register(|_| "");
    cluster.nodes[1].stop_serving().await;
    cluster.believe(0, 1, Standing::Away);
    cluster.believe(0, 2, Standing::ReadsOnly);
    let good = bytes(1, 300_000);
    let block = cluster.nodes[0].content.put(good.clone()).await.unwrap().block;
    cluster.catalog.refer_to(block);
    until("all whom it was sent to have it", || async {
        cluster.who_has(block).await == [0, 3, 4]
    })
    .await;
    cluster.nodes[0].content.can_store().unwrap();

    // With the one holder that has a copy gone, readers still find it.
    cluster.nodes[0].stop_serving().await;
    assert_eq!(cluster.nodes[2].content.get(block).await.unwrap(), good);

    // Both holders are down: the others are enough.
    cluster.believe(2, 0, Standing::Away);
    cluster.believe(2, 1, Standing::Away);
    let other = cluster.nodes[2].content.put(bytes(2, 300_000)).await.unwrap().block;
    until("three have it", || async { cluster.who_has(other).await == [2, 3, 4] }).await;
    assert_eq!(cluster.nodes[2].content.observe().repair.queued_blocks, 2, "owed to the holders");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_hangs_is_not_waited_for_when_another_node_can_take_its_copy() {
    let mut cluster = Cluster::start(4).await;
    cluster.register(|_| "");
    for silent in [1, 2] {
        let strange = Strange { answers: false, asked: Arc::default() };
        cluster.nodes[silent].serve_instead(Routes::new(BlocksServer::new(strange))).await;
    }
    let block = cluster.nodes[0].content.put(bytes(1, 300_000)).await.unwrap().block;
    assert_eq!(cluster.who_has(block).await, [0, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_waits_a_little_for_a_second_zone_and_not_for_ever() {
    let mut cluster = Cluster::start(3).await;
    cluster.register(|index| if index == 2 { "west" } else { "east" });
    let near = cluster.nodes[0].content.put(bytes(1, 300_000)).await.unwrap().block;
    assert!(cluster.nodes[2].has(near).await, "two copies in one zone are not enough yet");

    let strange = Strange { answers: false, asked: Arc::default() };
    cluster.nodes[2].serve_instead(Routes::new(BlocksServer::new(strange))).await;
    let began = Instant::now();
    cluster.nodes[0].content.put(bytes(2, 300_000)).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "the other zone was waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_that_is_paused_says_who_paused_it_and_goes_on_when_it_may() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].stop_serving().await;
    cluster.believe(0, 2, Standing::Away);
    let block = cluster.nodes[0].content.put(bytes(1, 20_000)).await.unwrap().block;
    cluster.catalog.refer_to(block);
    let pause = |paused: bool| {
        let pause = RepairPause { actor: "anna".into(), since_ms: 1 };
        let system = SystemRow { repair_paused: paused.then_some(pause), ..SystemRow::default() };
        cluster.catalog.change(|tx| SYSTEM.put(tx, &(), &system));
    };
    pause(true);
    let lacking = &cluster.nodes[2];
    let _running = run(&lacking.content);
    until("it says why it waits", || async {
        let waiting_for = lacking.content.observe().repair.waiting_for;
        waiting_for.is_some_and(|reason| reason.contains("anna"))
    })
    .await;
    assert!(!lacking.has(block).await);
    pause(false);
    until("it goes on", || lacking.has(block)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_counted_by_asking_those_who_should_have_them() {
    let mut cluster = Cluster::start(3).await;
    cluster.register(|_| "");
    let good = bytes(0, 30_000);
    let mut blocks = Vec::new();
    for seed in 0..40 {
        let block = cluster.nodes[0].content.put(bytes(seed, 30_000)).await.unwrap().block;
        until("all have it", || async { cluster.who_has(block).await.len() == 3 }).await;
        cluster.catalog.refer_to(block);
        blocks.push(block);
    }
    cluster.nodes[0].content.put(bytes(99, 30_000)).await.unwrap();
    damage(&mut cluster, 1, &good).await;
    cluster.nodes[2].store.delete_if(blocks[7].hash, Box::new(|_| true)).await.unwrap();

    let count = async |depth| {
        let mut pages = 0;
        let census = cluster.nodes[0].content.count_copies(depth, |_| pages += 1).await.unwrap();
        (census, pages)
    };
    let (census, pages) = count(CensusDepth::Names).await;
    assert_eq!((census.blocks, census.copies, census.bytes), (40, 120, 40 * 30_000));
    assert_eq!((census.lacking, census.unknown, census.lost, pages), (1, 0, 0, 1));
    assert!(census.examples[0].contains(&blocks[7].hash.to_string()) && !census.is_whole());
    let (census, pages) = count(CensusDepth::Bytes).await;
    assert_eq!((census.lacking, census.unknown, census.lost, pages), (2, 0, 0, 3));

    for node in &cluster.nodes {
        node.store.delete_if(blocks[9].hash, Box::new(|_| true)).await.unwrap();
    }
    let (census, _) = count(CensusDepth::Names).await;
    assert_eq!((census.lacking, census.lost), (5, 1), "with the one in quarantine");
    cluster.nodes[2].stop_serving().await;
    let census = cluster.nodes[0].content.count_copies(CensusDepth::Names, |_| {}).await.unwrap();
    assert_eq!((census.lacking, census.unknown, census.lost), (3, 40, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_owed_to_a_node_that_holds_nothing_any_more() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].stop_serving().await;
    cluster.believe(0, 2, Standing::Away);
    cluster.nodes[0].content.put(bytes(1, 300_000)).await.unwrap();
    assert_eq!(cluster.nodes[0].content.observe().repair.queued_blocks, 1);

    let holders = (0..GROUPS).flat_map(|_| [NodeId(1), NodeId(2)]).collect();
    let layout = Layout::new(2, 2, holders).unwrap();
    cluster.catalog.change(|tx| LAYOUT.put(tx, &(), &layout));
    let _running = run(&cluster.nodes[0].content);
    until("nothing is owed", || async {
        cluster.nodes[0].content.observe().repair.queued_blocks == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_fetches_what_it_should_hold() {
    let mut cluster = Cluster::start(3).await;
    cluster.nodes[2].stop_serving().await;
    cluster.believe(0, 2, Standing::Away);
    let mut blocks = Vec::new();
    for seed in 0..30 {
        let block = cluster.nodes[0].content.put(bytes(seed, 20_000)).await.unwrap().block;
        cluster.catalog.refer_to(block);
        blocks.push(block);
    }
    let garbage = cluster.nodes[0].content.put(bytes(99, 20_000)).await.unwrap().block;

    let returned = &cluster.nodes[2];
    assert_eq!(returned.content.observe().missing_blocks, None, "nobody has looked yet");
    let _running = run(&returned.content);
    until("nothing is missing", || async { returned.content.observe().missing_blocks == Some(0) })
        .await;
    for block in blocks {
        assert!(returned.has(block).await);
    }
    assert!(!returned.has(garbage).await, "nothing refers to it");
    assert_eq!(returned.content.observe().blocks, 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_is_not_enough() {
    let mut cluster = Cluster::start(3).await;
    for at in [1, 2] {
        cluster.nodes[at].stop_serving().await;
    }
    let began = Instant::now();
    let error = cluster.nodes[0].content.put(bytes(1, 5000)).await.unwrap_err();
    assert!(
        matches!(error, PutError::TooFewCopies { durable: 1, required: 2, .. }),
        "{error}: it was tried"
    );
    assert!(error.to_string().contains("node 2"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
    for at in [1, 2] {
        cluster.believe(0, at, Standing::Away);
    }
    let error = cluster.nodes[0].content.can_store().unwrap_err();
    assert!(error.to_string().contains("node 3"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_comes_back_in_time_saves_the_put() {
    let mut cluster = Cluster::start(3).await;
    for at in [1, 2] {
        cluster.nodes[at].stop_serving().await;
        cluster.believe(0, at, Standing::Away);
    }
    let content = cluster.nodes[0].content.clone();
    let putting = tokio::spawn(async move { content.put(bytes(1, 5000)).await });
    until("the first copy is there", || async { cluster.nodes[0].store.stats().blocks == 1 }).await;
    cluster.nodes[1].serve().await;
    let block = putting.await.unwrap().unwrap().block;
    assert!(cluster.nodes[1].has(block).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_stores_and_says_that_durability_is_reduced() {
    let cluster = Cluster::start(1).await;
    let content = &cluster.nodes[0].content;
    let block = content.put(bytes(1, 5000)).await.unwrap().block;
    assert_eq!(content.get(block).await.unwrap(), bytes(1, 5000));
    assert_eq!(content.reduced_copies().unwrap(), Some(1));
    content.can_store().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layout_that_changes_loses_nothing_and_its_new_holders_fetch_their_copies() {
    let cluster = Cluster::start(4).await;
    let holders = |epoch, nodes: [u64; 3]| {
        let holders = (0..GROUPS).flat_map(|_| nodes.map(NodeId)).collect();
        Layout::new(epoch, 3, holders).unwrap()
    };
    cluster.register(|_| "");
    // Only the first node has a copy by the old layout, and it is no holder by the new one.
    let alone = Layout::new(2, 1, (0..GROUPS).map(|_| NodeId(1)).collect()).unwrap();
    cluster.catalog.change(|tx| LAYOUT.put(tx, &(), &alone));
    let content = bytes(3, 100_000);
    let block = cluster.nodes[0].content.put(content.clone()).await.unwrap().block;
    cluster.catalog.refer_to(block);
    cluster.catalog.change(|tx| LAYOUT.put(tx, &(), &holders(3, [2, 3, 4])));
    assert_eq!(cluster.nodes[3].content.get(block).await.unwrap(), content);

    let _loops: Vec<_> = cluster.nodes.iter().map(|node| run(&node.content)).collect();
    until("the new holders have it", || async {
        for node in &cluster.nodes[1..] {
            if !node.has(block).await {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_layout_nothing_can_be_put() {
    let catalog = Catalog::new(&[]);
    let node = node(NodeId(1), &catalog, tempfile::tempdir().unwrap()).await;
    assert!(matches!(node.content.put(bytes(1, 10)).await, Err(PutError::NoLayout)));
    assert!(matches!(node.content.can_store(), Err(PutError::NoLayout)));
}

/// Flips a bit of a block in a node's files. The node's store is closed for that.
async fn damage(cluster: &mut Cluster, at: usize, bytes: &Bytes) {
    let catalog = Arc::clone(&cluster.catalog);
    let mut old = cluster.nodes.remove(at);
    old.stop_serving().await;
    let Node { store, content: old_content, peers, local, address, stop, up, dir, .. } = old;
    drop((store, old_content));
    // The files are closed by whichever thread has the last handle.
    let options = VolumeOptions::default();
    let deadline = Instant::now() + PATIENCE;
    let reopened = loop {
        match VolumeBlockStore::open(dir.path(), &options) {
            Ok(store) => break store,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    drop(reopened);
    assert_eq!(flip_bit(dir.path(), bytes), 1);
    let store = VolumeBlockStore::open(dir.path(), &options).unwrap();
    let content = content(&peers, &store, &catalog, &up);
    let mut node = Node {
        catalog: Arc::clone(&catalog),
        store,
        content,
        peers,
        local,
        address,
        stop,
        serving: None,
        up,
        dir,
    };
    node.serve().await;
    cluster.nodes.insert(at, node);
}

fn flip_bit(path: &Path, bytes: &[u8]) -> usize {
    let mut flipped = 0;
    for entry in std::fs::read_dir(path.join("volumes")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "volume") {
            let mut content = std::fs::read(&file).unwrap();
            if let Some(found) = content.windows(64).position(|window| window == &bytes[..64]) {
                content[found + 9] ^= 1;
                std::fs::write(&file, content).unwrap();
                flipped += 1;
            }
        }
    }
    flipped
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_read_elsewhere_and_healed() {
    let mut cluster = Cluster::start(3).await;
    let good = bytes(1, 300_000);
    let block = cluster.nodes[0].content.put(good.clone()).await.unwrap().block;
    cluster.catalog.refer_to(block);
    damage(&mut cluster, 0, &good).await;

    let node = &cluster.nodes[0];
    assert!(node.has(block).await, "nobody has looked at it");
    assert_eq!(node.content.get(block).await.unwrap(), good);
    until("the copy is good again", || async { node.store.get(block.hash).await.is_ok() }).await;
    assert_eq!(node.content.observe().quarantined_blocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_that_nobody_asks_for_is_found_by_a_scrub() {
    let mut cluster = Cluster::start(3).await;
    let good = bytes(1, 900_000);
    let block = cluster.nodes[0].content.put(good.clone()).await.unwrap().block;
    cluster.catalog.refer_to(block);
    for node in &cluster.nodes {
        until("all have it", || node.has(block)).await;
    }
    damage(&mut cluster, 0, &good).await;
    let node = &cluster.nodes[0];
    let record = node.dir.path().join("scrub.json");
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let settings =
        ScrubSettings { every: Duration::from_secs(3600), bytes_per_second_max: 64 << 20, record };
    let content = node.content.clone();
    tokio::spawn(async move { content.scrub(settings, stop).await });
    let _running = run(&node.content);
    for (asked, damaged) in [(1, 1), (2, 0)] {
        cluster.catalog.change(|tx| {
            let system = SystemRow { scrub_asked: asked, ..SystemRow::default() };
            SYSTEM.put(tx, &(), &system);
        });
        // Whoever reads the block to find out would be who finds it.
        until("it was checked", || async {
            let stats = node.content.scrub_stats().filter(|stats| stats.asked == asked);
            let last = stats.and_then(|stats| stats.last).map(|last| last.checked);
            last.is_some_and(|last| (last.blocks, last.damaged_blocks) == (1, damaged))
        })
        .await;
        until("the copy is good", || node.has(block)).await;
    }
    assert_eq!(node.content.observe().quarantined_blocks, 0);
    assert_eq!(node.store.get(block.hash).await.unwrap(), good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_that_others_ask_for_is_healed_by_the_loop() {
    let mut cluster = Cluster::start(3).await;
    let good = bytes(1, 300_000);
    let block = cluster.nodes[0].content.put(good.clone()).await.unwrap().block;
    cluster.catalog.refer_to(block);
    damage(&mut cluster, 1, &good).await;
    cluster.nodes[0].store.delete_if(block.hash, Box::new(|_| true)).await.unwrap();
    // Node 1 is asked first, having the lower number, and then node 2.
    assert_eq!(cluster.nodes[0].content.get_once(block).await.unwrap(), good);
    let damaged = &cluster.nodes[1];
    assert_eq!(damaged.store.get(block.hash).await, Err(StoreError::Damaged(block.hash)));
    let _running = run(&damaged.content);
    until("the copy is good again", || async { damaged.store.get(block.hash).await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_stays_in_memory_unless_read_once() {
    let cluster = Cluster::start(3).await;
    let content = &cluster.nodes[0].content;
    let kept = content.put(bytes(1, 5000)).await.unwrap().block;
    let not_kept = content.put(bytes(2, 5000)).await.unwrap().block;
    for block in [kept, not_kept] {
        for node in &cluster.nodes {
            until("all have it", || node.has(block)).await;
        }
    }
    content.get(kept).await.unwrap();
    content.get_once(not_kept).await.unwrap();
    for node in &cluster.nodes {
        node.store.delete_if(kept.hash, Box::new(|_| true)).await.unwrap();
        node.store.delete_if(not_kept.hash, Box::new(|_| true)).await.unwrap();
    }
    assert_eq!(content.get(kept).await.unwrap(), bytes(1, 5000));
    let error = content.get(not_kept).await.unwrap_err();
    assert!(error.to_string().contains(&not_kept.hash.to_string()), "{error}");
}

/// A node that lies, or never answers.
struct Strange {
    answers: bool,
    asked: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Blocks for Strange {
    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutReply>, Status> {
        if !self.answers {
            std::future::pending::<()>().await;
        }
        Err(Status::unimplemented("not asked here"))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetReply>, Status> {
        self.asked.store(true, Ordering::SeqCst);
        if !self.answers {
            std::future::pending::<()>().await;
        }
        let data = request.into_inner().hash;
        Ok(Response::new(GetReply { data }))
    }

    async fn has(&self, _: Request<HasRequest>) -> Result<Response<HasReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }

    async fn confirm(&self, _: Request<ConfirmRequest>) -> Result<Response<ConfirmReply>, Status> {
        Err(Status::unimplemented("not asked here"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_a_lying_nor_a_silent_holder_hurts_a_reader() {
    for answers in [true, false] {
        let mut cluster = Cluster::start(3).await;
        let good = bytes(1, 300_000);
        let block = cluster.nodes[0].content.put(good.clone()).await.unwrap().block;
        for node in &cluster.nodes {
            until("all have it", || node.has(block)).await;
        }
        let asked = Arc::new(AtomicBool::new(false));
        let strange = Strange { answers, asked: Arc::clone(&asked) };
        cluster.nodes[1].serve_instead(Routes::new(BlocksServer::new(strange))).await;
        cluster.nodes[0].store.delete_if(block.hash, Box::new(|_| true)).await.unwrap();

        let began = Instant::now();
        assert_eq!(cluster.nodes[0].content.get(block).await.unwrap(), good);
        assert!(asked.load(Ordering::SeqCst), "it was asked first");
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        if !answers {
            assert!(began.elapsed() >= Duration::from_millis(60), "only then the next one");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_for_others_are_refused() {
    let cluster = Cluster::start(2).await;
    let own_certificate = testing::tls(cluster.nodes[0].local);
    let elsewhere = LocalNode { cluster_id: [9; 16], node_id: NodeId(1) };
    let stranger = Peers::new(elsewhere, own_certificate);
    stranger.learn_registered(NodeId(2), &cluster.nodes[1].address.to_string());
    let client = BlocksClient::new(stranger);
    let bytes = bytes(1, 10);
    let hash = BlockHash::of(&bytes);
    let refused = client.put(NodeId(2), hash, bytes, 1).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(client.has(NodeId(2), &[hash], false).await.is_err());
    assert_eq!(cluster.nodes[1].store.stats().blocks, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_says_what_is_wrong_with_a_call() {
    use proto::blocks::blocks_client::BlocksClient as Raw;
    let cluster = Cluster::start(2).await;
    let channel = cluster.nodes[0].peers.channel(NodeId(2), rpc::peers::Purpose::Blocks).unwrap();
    let mut raw = Raw::new(channel);
    let envelope = Some(cluster.nodes[0].local.envelope_to(NodeId(2)));
    let hash = Bytes::copy_from_slice(&[1; 32]);

    let get = GetRequest { envelope: envelope.clone(), hash: hash.clone() };
    assert_eq!(raw.get(get).await.unwrap_err().code(), tonic::Code::NotFound);
    let get = GetRequest { envelope: envelope.clone(), hash: hash.slice(..7) };
    assert_eq!(raw.get(get).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let get = GetRequest { envelope: None, hash: hash.clone() };
    assert_eq!(raw.get(get).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let put = PutRequest {
        envelope: envelope.clone(),
        hash: hash.clone(),
        data: Bytes::from_static(b"something else"),
        put_index: 1,
    };
    assert_eq!(raw.put(put).await.unwrap_err().code(), tonic::Code::DataLoss);
    let put = PutRequest {
        envelope: envelope.clone(),
        hash: hash.clone(),
        data: Bytes::new(),
        put_index: 1,
    };
    assert_eq!(raw.put(put).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let has = HasRequest { envelope, hashes: vec![hash; rpc::blocks::HAS_MAX + 1], read: false };
    assert_eq!(raw.has(has).await.unwrap_err().code(), tonic::Code::InvalidArgument);
}
