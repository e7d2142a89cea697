//! Three nodes in one process, speaking through real sockets and keeping real logs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::ControlFlow;

use cluster::command::Command;
use cluster::ids::{ClientId, VideoId};
use cluster::tables::videos::Visibility;
use cluster::view::{TableId, View};
use proto::cluster::cluster_server::{Cluster as ClusterService, ClusterServer};
use proto::cluster::{PingReply, PingRequest};
use tempfile::TempDir;
use tonic::service::Routes;
use tonic::{Request, Response};

use super::*;
use crate::rpc;
use crate::rpc::envelope::LocalNode;

const CLUSTER: [u8; 16] = [9; 16];

/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The part of the cluster service that consensus answers.
struct Forwarding(Consensus);

#[tonic::async_trait]
impl ClusterService for Forwarding {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        self.0.serve_propose(request.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.0.serve_read_index(request.into_inner()).await.map(Response::new)
    }

    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        Err(Status::unimplemented("nobody pings in these tests"))
    }
}

/// A node that is running. Its sockets live on threads of its own, so that killing it closes them.
struct Running {
    consensus: Consensus,
    /// Taken when it is dropped.
    sockets: Option<Runtime>,
}

impl Running {
    /// Ends the threads as a crash would, and waits until they are gone.
    fn end(&mut self) {
        let threads = self.consensus.inner.runtime.lock().unwrap().take();
        for runtime in self.sockets.take().into_iter().chain(threads) {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Running {
    /// Nobody may use a database any more when the process ends and RocksDB tears down what it keeps for all of them.
    fn drop(&mut self) {
        // On a thread of its own: those that run tasks must not wait for a runtime.
        std::thread::scope(|scope| {
            scope.spawn(|| self.end());
        });
    }
}

struct Node {
    id: NodeId,
    address: SocketAddr,
    directory: TempDir,
    settings: RaftSettings,
    running: Option<Running>,
}

impl Node {
    async fn start(&mut self) {
        let local = LocalNode { cluster_id: CLUSTER, node_id: self.id };
        let sockets = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let consensus = Consensus::start(self.settings, self.directory.path(), Peers::new(local))
            .await
            .unwrap();
        let listener = sockets.spawn(rpc::bind(self.address)).await.unwrap().unwrap();
        self.address = listener.local_addr().unwrap();
        let mut services = Routes::builder();
        services.add_service(consensus.service());
        services.add_service(ClusterServer::new(Forwarding(consensus.clone())));
        sockets.spawn(rpc::serve(listener, services.routes(), std::future::pending()));
        self.running = Some(Running { consensus, sockets: Some(sockets) });
    }

    /// Ends the node as a crash would: nothing is told to stop, nothing is flushed.
    async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        tokio::task::spawn_blocking(move || drop(running)).await.unwrap();
    }

    fn consensus(&self) -> &Consensus {
        &self.running.as_ref().unwrap().consensus
    }
}

struct Cluster {
    nodes: Vec<Node>,
    next_video: u8,
}

impl Cluster {
    async fn start(settings: RaftSettings) -> Self {
        let mut cluster = Self::not_yet_made(settings).await;
        let members: Vec<_> =
            cluster.nodes.iter().map(|node| (node.id, node.address.to_string())).collect();
        cluster.nodes[0].consensus().init(&members).await.unwrap();
        cluster.leader().await;
        cluster.next_video = 1;
        cluster
    }

    async fn not_yet_made(settings: RaftSettings) -> Self {
        let mut nodes = Vec::new();
        for id in 1..=3 {
            let mut node = Node {
                id: NodeId(id),
                address: ([127, 0, 0, 1], 0).into(),
                directory: tempfile::tempdir().unwrap(),
                settings,
                running: None,
            };
            node.start().await;
            nodes.push(node);
        }
        Self { nodes, next_video: 1 }
    }

    fn running(&self) -> impl Iterator<Item = &Consensus> {
        self.nodes.iter().filter_map(|node| node.running.as_ref()).map(|node| &node.consensus)
    }

    /// The position of the leader that all running nodes agree on.
    async fn leader(&self) -> usize {
        let mut agreed = None;
        eventually("all nodes agree on a leader", || {
            let mut leaders = self.running().map(|consensus| consensus.status().leader);
            let first = leaders.next().flatten();
            let alive =
                self.nodes.iter().position(|node| Some(node.id) == first && node.running.is_some());
            agreed = alive.filter(|_| leaders.all(|leader| leader == first));
            agreed.is_some()
        })
        .await;
        agreed.unwrap()
    }

    async fn propose_on(&mut self, position: usize) -> (VideoId, u64) {
        let id = VideoId([self.next_video; 16]);
        self.next_video += 1;
        let consensus = self.nodes[position].consensus();
        let (reply, index) = consensus.propose(create(id)).await.unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        // Read your writes.
        assert!(catalog::video(consensus.catalog().as_ref(), id).unwrap().is_some());
        (id, index)
    }

    /// Waits until all running nodes have applied the same entries, and compares every row of their catalogs.
    async fn assert_equal(&self) {
        let last = self.running().map(|consensus| consensus.status().last_log_index).max().unwrap();
        for consensus in self.running() {
            consensus.wait_applied(last, PATIENCE).await.unwrap();
        }
        let catalogs: Vec<_> =
            self.running().map(|consensus| rows(consensus.catalog().as_ref())).collect();
        for other in &catalogs[1..] {
            assert_eq!(catalogs[0], *other);
        }
    }
}

fn create(id: VideoId) -> Action {
    Action::CreateVideo {
        id,
        title: "A title".to_owned(),
        description: String::new(),
        visibility: Visibility::Public,
        filename: None,
        announced_bytes: None,
        upload_key: None,
        keep_source: false,
    }
}

type Rows = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

fn rows(view: &dyn View) -> Rows {
    let mut rows = Rows::new();
    for table in TableId::ALL {
        view.scan(table, b"", b"", &mut |key, value| {
            rows.insert((table, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        })
        .unwrap();
    }
    rows
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

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
    let settings =
        RaftSettings { snapshot_every_entries: 50, keep_entries: 60, ..RaftSettings::default() };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    cluster.propose_on(behind).await;
    cluster.nodes[behind].kill().await;
    let away = 60 + 50 + 60;
    for _ in 0..away {
        cluster.propose_on(leader).await;
    }
    eventually("the entries that the node needs are gone", || {
        cluster.nodes[leader].consensus().status().purged_index > 20
    })
    .await;
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
    let started = Consensus::start(node.settings, node.directory.path(), Peers::new(local)).await;
    let Err(error) = started else { panic!("node {} started", node.id) };
    format!("{:#}", anyhow::Error::from(error))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_log_or_its_catalog_does_not_start() {
    let settings =
        RaftSettings { snapshot_every_entries: 10, keep_entries: 11, ..RaftSettings::default() };
    let mut cluster = Cluster::start(settings).await;
    let leader = cluster.leader().await;
    for _ in 0..40 {
        cluster.propose_on(leader).await;
    }
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    eventually("the beginning of the log is removed", || {
        cluster.nodes[other].consensus().status().purged_index > 0
    })
    .await;
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
