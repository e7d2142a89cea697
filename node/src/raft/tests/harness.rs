//! Nodes in one process that speak through real sockets and keep real logs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::{NodeId, VideoId};
use cluster::tables::videos::Visibility;
use cluster::view::{TableId, View};
use proto::cluster::cluster_server::{Cluster as ClusterService, ClusterServer};
use proto::cluster::{
    PingReply, PingRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest,
    RenewReply, RenewRequest,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use super::super::log_store::Disk;
use super::super::start::Machine;
use super::super::{Consensus, MembershipError, RaftSettings};
use crate::rpc;
use crate::rpc::envelope::LocalNode;
use crate::rpc::testing;

pub(crate) const CLUSTER: [u8; 16] = [9; 16];

/// How long anything that must happen may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

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

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Err(Status::unimplemented("certificates last longer than these tests"))
    }
}

/// A node that is running. Its sockets live on threads of its own, so that killing it closes them.
pub(crate) struct Running {
    pub(crate) consensus: Consensus,
    /// Taken when it is dropped.
    sockets: Option<Runtime>,
}

impl Running {
    /// Ends the threads as a crash would, and waits until they are gone.
    fn end(&mut self) {
        self.consensus.inner.stopping.cancel();
        drop(self.consensus.inner.watchdog.lock().unwrap().take());
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

/// What a disk suffers from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disease {
    #[default]
    None,
    /// Nothing comes back.
    Hangs,
    /// Writes fail.
    Fails,
}

/// Makes the disk of a node sick and well.
#[derive(Clone, Default)]
pub(crate) struct DiskSwitch(Arc<(Mutex<Disease>, Condvar)>);

impl DiskSwitch {
    pub(crate) fn set(&self, disease: Disease) {
        *self.0.0.lock().unwrap() = disease;
        self.0.1.notify_all();
    }
}

struct SickDisk {
    well: Box<dyn Disk>,
    switch: DiskSwitch,
}

impl Disk for SickDisk {
    fn sync(&self) -> Result<(), String> {
        let (disease, changed) = &*self.switch.0;
        let disease = disease.lock().unwrap();
        let disease = *changed.wait_while(disease, |now| *now == Disease::Hangs).unwrap();
        match disease {
            Disease::Fails => Err("Input/output error".to_owned()),
            Disease::None | Disease::Hangs => self.well.sync(),
        }
    }

    fn mark(&self) -> Result<(), String> {
        self.well.mark()
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) directory: TempDir,
    pub(crate) settings: RaftSettings,
    pub(crate) disk: DiskSwitch,
    /// Why it ended itself.
    pub(crate) gave_up: Arc<Mutex<Option<String>>>,
    pub(crate) running: Option<Running>,
}

impl Node {
    pub(crate) async fn start(&mut self) {
        let local = LocalNode { cluster_id: CLUSTER, node_id: self.id };
        let sockets = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (disk, gave_up) = (self.disk.clone(), Arc::clone(&self.gave_up));
        let machine = Machine {
            disk: Box::new(move |well| Box::new(SickDisk { well, switch: disk })),
            give_up: Arc::new(move |reason| {
                gave_up.lock().unwrap().get_or_insert(reason.to_owned());
            }),
        };
        let (directory, peers) = (self.directory.path(), testing::peers(local));
        let consensus =
            Consensus::start_on(self.settings, directory, peers, machine).await.unwrap();
        let listener = sockets.spawn(rpc::bind(self.address)).await.unwrap().unwrap();
        self.address = listener.local_addr().unwrap();
        let mut services = Routes::builder();
        services.add_service(consensus.service());
        services.add_service(ClusterServer::new(Forwarding(consensus.clone())));
        let (services, threads) = (services.routes(), consensus.threads());
        let stop = CancellationToken::new();
        sockets.spawn(testing::serve(local, listener, services, threads, stop));
        self.running = Some(Running { consensus, sockets: Some(sockets) });
    }

    /// Ends the node as a crash would: nothing is told to stop, nothing is flushed.
    pub(crate) async fn kill(&mut self) {
        let running = self.running.take().unwrap();
        // The threads that wait for the disk have to end.
        self.disk.set(Disease::None);
        tokio::task::spawn_blocking(move || drop(running)).await.unwrap();
    }

    pub(crate) fn consensus(&self) -> &Consensus {
        &self.running.as_ref().unwrap().consensus
    }
}

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    pub(crate) next_video: u128,
}

impl Cluster {
    pub(crate) async fn start(settings: RaftSettings) -> Self {
        let mut cluster = Self::not_yet_made(settings).await;
        let members: Vec<_> =
            cluster.nodes.iter().map(|node| (node.id, node.address.to_string())).collect();
        cluster.nodes[0].consensus().init(&members).await.unwrap();
        cluster.leader().await;
        cluster.next_video = 1;
        cluster
    }

    /// Three nodes without a log.
    pub(crate) async fn not_yet_made(settings: RaftSettings) -> Self {
        let mut cluster = Self { nodes: Vec::new(), next_video: 1 };
        for _ in 0..3 {
            cluster.add_node(settings).await;
        }
        cluster
    }

    /// A cluster of one node.
    pub(crate) async fn founded(settings: RaftSettings) -> Self {
        let mut cluster = Self { nodes: Vec::new(), next_video: 1 };
        cluster.add_node(settings).await;
        let founder = &cluster.nodes[0];
        let members = [(founder.id, founder.address.to_string())];
        founder.consensus().init(&members).await.unwrap();
        cluster.leader().await;
        cluster
    }

    /// Starts one more node, which is not a member yet. Returns its position.
    pub(crate) async fn add_node(&mut self, settings: RaftSettings) -> usize {
        let position = self.nodes.len();
        let mut node = Node {
            id: NodeId(position as u64 + 1),
            address: ([127, 0, 0, 1], 0).into(),
            directory: tempfile::tempdir().unwrap(),
            settings,
            disk: DiskSwitch::default(),
            gave_up: Arc::default(),
            running: None,
        };
        node.start().await;
        self.nodes.push(node);
        position
    }

    pub(crate) async fn leading(&self) -> &Consensus {
        self.nodes[self.leader().await].consensus()
    }

    /// Has the leader change the membership, again as long as it says that a later moment will do. Returns the leader.
    pub(crate) async fn change(
        &self,
        change: impl AsyncFn(&Consensus) -> Result<(), MembershipError>,
    ) -> &Consensus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.nodes[self.position_of_any_leader().await].consensus();
            match change(leader).await {
                Ok(()) => return leader,
                Err(
                    MembershipError::NotLeader(_)
                    | MembershipError::Unconfirmed
                    | MembershipError::InProgress,
                ) if Instant::now() < deadline => sleep(Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn change_voters(&self, voters: &BTreeSet<NodeId>) -> &Consensus {
        self.change(async |leader| leader.change_voters(leader.membership().version, voters).await)
            .await
    }

    /// Starts one more node, makes it a learner and waits until it has caught up.
    pub(crate) async fn add_learner(&mut self, settings: RaftSettings) -> NodeId {
        let position = self.add_node(settings).await;
        let (id, address) = (self.nodes[position].id, self.nodes[position].address.to_string());
        let leader = self.change(async |leader| leader.add_learner(id, &address).await).await;
        eventually("the learner has caught up", || {
            leader.membership().progress.get(&id).is_some_and(|seen| seen.lag < 20)
        })
        .await;
        id
    }

    /// The position of the leader; nodes that are no members yet know of none.
    pub(crate) async fn position_of_any_leader(&self) -> usize {
        let mut found = None;
        eventually("somebody leads", || {
            found = self.nodes.iter().position(|node| {
                node.running.as_ref().is_some_and(|running| running.consensus.is_leader())
            });
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Consensus> {
        self.nodes.iter().filter_map(|node| node.running.as_ref()).map(|node| &node.consensus)
    }

    /// The position of the leader that all running nodes agree on.
    pub(crate) async fn leader(&self) -> usize {
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

    /// Writes at a node until its log begins after `index`. Only an entry asks for the next snapshot, and how many come while
    /// one is made depends on the machine.
    pub(crate) async fn write_until_purged(&mut self, position: usize, index: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.nodes[position].consensus().status().purged_index <= index {
            assert!(Instant::now() < deadline, "the beginning of the log stays");
            self.propose_on(position).await;
        }
    }

    pub(crate) async fn propose_on(&mut self, position: usize) -> (VideoId, u64) {
        let id = VideoId(self.next_video.to_be_bytes());
        self.next_video += 1;
        let consensus = self.nodes[position].consensus();
        let (reply, index) = consensus.propose(create(id)).await.unwrap();
        assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
        // Read your writes.
        assert!(catalog::video(consensus.catalog().as_ref(), id).unwrap().is_some());
        (id, index)
    }

    /// Waits until all running nodes have applied the same entries, and compares every row of their catalogs.
    pub(crate) async fn assert_equal(&self) {
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

pub(crate) fn create(id: VideoId) -> Action {
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

pub(crate) type Rows = BTreeMap<(TableId, Vec<u8>), Vec<u8>>;

pub(crate) fn rows(view: &dyn View) -> Rows {
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

pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Numbers the writers of this process; the commands of `Cluster::propose_on` have the zeroth place.
static WRITERS: AtomicU64 = AtomicU64::new(1);

/// Writes without a pause, one command after the other.
pub(crate) struct Writer {
    client: u128,
    written: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(consensus: Consensus) -> Self {
        let client = u128::from(WRITERS.fetch_add(1, Ordering::Relaxed));
        let (written, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let task = tokio::spawn({
            let (written, stop) = (Arc::clone(&written), Arc::clone(&stop));
            async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = written.load(Ordering::Relaxed);
                    let (reply, _) =
                        consensus.propose(create(video(client, number))).await.unwrap();
                    assert!(!matches!(reply, Reply::Refused(_)), "{reply:?}");
                    written.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Self { client, written, stop, task }
    }

    pub(crate) async fn some_more(&self) {
        let before = self.written.load(Ordering::Relaxed);
        eventually("writes go on", || self.written.load(Ordering::Relaxed) >= before + 5).await;
    }

    /// Ends it, and verifies that each acknowledged write is in `catalog`.
    pub(crate) async fn end(self, witness: &Consensus) {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        let last = witness.read_index().await.unwrap();
        witness.wait_applied(last, Duration::from_secs(10)).await.unwrap();
        for number in 0..self.written.load(Ordering::Relaxed) {
            let found =
                catalog::video(witness.catalog().as_ref(), video(self.client, number)).unwrap();
            assert!(found.is_some(), "write {number} was acknowledged and is gone");
        }
    }
}

fn video(client: u128, number: u64) -> VideoId {
    VideoId((client << 64 | u128::from(number)).to_be_bytes())
}
