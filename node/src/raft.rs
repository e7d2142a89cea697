//! Consensus: all nodes agree on the order of commands, and each applies them to its catalog.
//!
//! [`Consensus`] is all that the rest of the node sees. It proposes commands on any node (they are brought to the leader),
//! says which index a linearizable read has to wait for, and tells how far this node has applied the log. The catalog that
//! results is read directly, through [`Consensus::catalog`].
//!
//! The protocol itself is the crate `openraft`. This module and those below it are the only ones that know it; they give it
//! a log ([`log_store`]), a state machine ([`state_machine`]), snapshots ([`snapshot`]) and a network ([`network`],
//! [`server`]).
//!
//! # Invariants
//!
//! - A vote, and an entry that counts for a majority, is on disk before anybody is told.
//! - A command is applied once, however often it is sent.
//! - When consensus fails on this node (its disk does, or a bug is met), the process aborts. The others go on, and starting
//!   again is the same path as after a crash.
//! - Consensus has threads of its own, so that work elsewhere in the process cannot hold back a heartbeat.

mod log_store;
mod network;
mod propose;
mod server;
mod settings;
mod snapshot;
mod state_machine;
mod types;
mod window;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{Fatal, InitializeError, RaftError};
use openraft::{ReadPolicy, ServerState};
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::{ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest};
use proto::raft::raft_server::RaftServer;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

pub use self::log_store::LogStoreError;
pub use self::propose::ProposeError;
pub use self::server::Server;
pub use self::settings::{RaftSettings, SettingsError};

use self::log_store::LogStore;
use self::network::Network;
use self::propose::{Leader, Proposer};
use self::snapshot::SnapshotStore;
use self::state_machine::StateMachine;
use self::types::{Member, TypeConfig};
use crate::rpc::peers::{Peers, Purpose};
use crate::state::{StateDb, StateError};

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Threads for consensus. It is bound by the disk and the network; two let an apply run beside a heartbeat.
const THREADS: usize = 2;

/// How long a linearizable read may wait for the confirmation of a majority.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a try at a leader may take before another one is asked, and the wait between tries.
const READ_TRY_TIMEOUT: Duration = Duration::from_secs(1);
const READ_RETRY: Duration = Duration::from_millis(50);

/// How long the new leader may take to be known here after leadership was handed over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(3);

/// How long tasks of consensus get to end when it is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Between two looks at the catalog's table of nodes for addresses that have changed.
const ADDRESSES_EVERY: Duration = Duration::from_secs(1);

/// Why consensus could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error("start consensus: {0}")]
    Consensus(String),
    #[error("{action}: {source}")]
    Io { action: &'static str, source: io::Error },
}

/// Why the cluster could not be made.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// This node has a log already; it is part of a cluster.
    #[error("this node belongs to a cluster already")]
    AlreadyInitialized,
    #[error("make a cluster: {0}")]
    Consensus(String),
}

/// Why a linearizable read is not possible now.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReadError {
    #[error("no majority confirms a leader: {0}")]
    NoLeader(String),
    #[error("this node has not applied the log that far in time")]
    Behind,
    #[error("consensus has stopped on this node")]
    Stopped,
}

/// Why leadership was not handed over.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TransferError {
    #[error("this node is not the leader")]
    NotLeader,
    #[error("no other voter can take over")]
    NobodyElse,
    #[error("the other node did not take over in time")]
    Timeout,
    #[error("consensus has stopped on this node")]
    Stopped,
}

/// What a node is in the eyes of consensus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RaftRole {
    Leader,
    Follower,
    Candidate,
    /// Receives the log without a vote.
    Learner,
    /// Has stopped.
    Stopped,
}

/// Consensus as it stands on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    pub role: RaftRole,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub learners: Vec<NodeId>,
    /// The index of the last entry in this node's log.
    pub last_log_index: u64,
    /// The index of the last entry applied to this node's catalog.
    pub applied_index: u64,
    /// The last index that a snapshot on this node contains.
    pub snapshot_index: u64,
    /// The last index that was removed from this node's log.
    pub purged_index: u64,
    /// On the leader: how far each member's log agrees with its own.
    pub matched: BTreeMap<NodeId, u64>,
}

/// Consensus on this node. Cloning it is cheap and shares it.
#[derive(Clone)]
pub struct Consensus {
    inner: Arc<Inner>,
}

struct Inner {
    raft: Raft,
    peers: Peers,
    state: Arc<StateDb>,
    snapshots: Arc<SnapshotStore>,
    proposer: Proposer,
    leader: Leader,
    applied: watch::Receiver<u64>,
    /// Taken when consensus is stopped.
    runtime: Mutex<Option<Runtime>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        // A runtime must not be waited for on a thread that runs tasks.
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl Consensus {
    /// Starts consensus on the log in `data_dir/raft` and the catalog in `data_dir/state`, as the node that `peers` belongs
    /// to. A node without a log waits to be made a member, by [`init`](Self::init) or by a leader.
    ///
    /// # Errors
    /// When the log or the catalog is damaged or belongs to another node, or the settings contradict each other.
    pub async fn start(
        settings: RaftSettings,
        data_dir: &Path,
        peers: Peers,
    ) -> Result<Self, StartError> {
        let config = settings.config()?;
        let io = |action| move |source| StartError::Io { action, source };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(io("start threads for consensus"))?;
        let local = peers.local();
        let (raft_dir, state_dir) = (data_dir.join("raft"), data_dir.join("state"));
        let (announce, applied) = watch::channel(0);
        let starting = runtime.spawn({
            let network = Network::new(peers.clone());
            async move {
                let state = Arc::new(StateDb::open(&state_dir)?);
                let snapshots =
                    Arc::new(SnapshotStore::open(&state_dir).map_err(io("open the snapshots"))?);
                let log = LogStore::open(&raft_dir, local)?;
                let machine =
                    StateMachine::open(Arc::clone(&state), Arc::clone(&snapshots), announce)
                        .map_err(io("read how far the catalog has come"))?;
                let stored = snapshots.current().and_then(|snapshot| snapshot.meta().last_log_id);
                fit_together(&log, &raft_dir, machine.applied(), stored, &state_dir)?;
                let raft = Raft::new(local.node_id.0, config, network, log, machine)
                    .await
                    .map_err(|error| StartError::Consensus(error.to_string()))?;
                Ok::<_, StartError>((raft, state, snapshots))
            }
        });
        let (raft, state, snapshots) = match starting.await {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => {
                runtime.shutdown_background();
                return Err(error);
            }
            Err(panicked) => {
                runtime.shutdown_background();
                return Err(StartError::Consensus(panicked.to_string()));
            }
        };
        runtime.spawn(abort_when_fatal(raft.clone()));
        runtime.spawn(announce_leaders(raft.clone()));
        runtime.spawn(learn_addresses(
            raft.clone(),
            peers.clone(),
            Arc::clone(&state),
            applied.clone(),
        ));
        Ok(Self {
            inner: Arc::new(Inner {
                proposer: Proposer::new(raft.clone(), peers.clone(), applied.clone()),
                leader: Leader::new(&raft),
                raft,
                peers,
                state,
                snapshots,
                applied,
                runtime: Mutex::new(Some(runtime)),
            }),
        })
    }

    /// Makes a cluster of `members`, all voters, given by id and RPC address. To be called once, on one of them, which must
    /// be among them; the others must have been started without a log.
    ///
    /// # Errors
    /// When this node is part of a cluster already, or is not among `members`.
    pub async fn init(&self, members: &[(NodeId, String)]) -> Result<(), InitError> {
        let members: BTreeMap<u64, Member> = members
            .iter()
            .map(|(node, rpc_addr)| (node.0, Member { rpc_addr: rpc_addr.clone() }))
            .collect();
        self.inner.raft.initialize(members).await.map_err(|error| match error {
            RaftError::APIError(InitializeError::NotAllowed(_)) => InitError::AlreadyInitialized,
            error @ (RaftError::APIError(InitializeError::NotInMembers(_))
            | RaftError::Fatal(_)) => InitError::Consensus(error.to_string()),
        })
    }

    /// Has `action` applied, on the leader and on this node. Returns its reply and its index in the log.
    ///
    /// # Errors
    /// Within four seconds, when there is no leader or no answer. Only [`ProposeError::NoLeader`] and
    /// [`ProposeError::TooLarge`] are certain that nothing came of it.
    pub async fn propose(&self, action: Action) -> Result<(Reply, u64), ProposeError> {
        self.inner.proposer.propose(action).await
    }

    /// The index that a linearizable read has to wait for on this node: a majority has just confirmed that nothing newer was
    /// acknowledged before this call.
    ///
    /// # Errors
    /// Within five seconds, when no majority can be reached.
    pub async fn read_index(&self) -> Result<u64, ReadError> {
        let deadline = Instant::now() + READ_TIMEOUT;
        let local = self.inner.peers.local().node_id;
        loop {
            let leader = self.inner.leader.now();
            let attempt = async {
                match leader {
                    None => Err(ReadError::NoLeader("none is known".to_owned())),
                    Some(leader) if leader == local => self.confirm_leadership().await,
                    Some(leader) => self.ask_read_index(leader).await,
                }
            };
            let limit = deadline.min(Instant::now() + READ_TRY_TIMEOUT);
            let error = match timeout_at(limit, attempt).await {
                Ok(Ok(index)) => return Ok(index),
                Ok(Err(ReadError::Stopped)) => return Err(ReadError::Stopped),
                Ok(Err(error)) => error,
                Err(_) => ReadError::NoLeader("no answer in time".to_owned()),
            };
            tokio::select! {
                () = sleep(READ_RETRY) => {}
                () = self.inner.leader.other_than(leader) => {}
            }
            if Instant::now() >= deadline {
                return Err(error);
            }
        }
    }

    /// Waits until this node has applied `index`.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn wait_applied(&self, index: u64, limit: Duration) -> Result<(), ReadError> {
        let mut applied = self.inner.applied.clone();
        timeout(limit, applied.wait_for(|applied| *applied >= index))
            .await
            .map_err(|_| ReadError::Behind)?
            .map(|_| ())
            .map_err(|_| ReadError::Stopped)
    }

    async fn confirm_leadership(&self) -> Result<u64, ReadError> {
        match self.inner.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(linearizer.read_log_id().index()),
            Err(RaftError::APIError(error)) => Err(ReadError::NoLeader(error.to_string())),
            Err(RaftError::Fatal(_)) => Err(ReadError::Stopped),
        }
    }

    async fn ask_read_index(&self, leader: NodeId) -> Result<u64, ReadError> {
        let no_leader = |reason: String| ReadError::NoLeader(reason);
        let channel = self
            .inner
            .peers
            .channel(leader, Purpose::Cluster)
            .map_err(|error| no_leader(error.to_string()))?;
        let envelope = Some(self.inner.peers.local().envelope_to(leader));
        let answer = ClusterClient::new(channel)
            .read_index(ReadIndexRequest { envelope })
            .await
            .map_err(|status| no_leader(status.message().to_owned()))?;
        Ok(answer.into_inner().index)
    }

    /// Answers another node's `Propose`, on the leader.
    ///
    /// # Errors
    /// As the service definition says.
    pub async fn serve_propose(&self, request: ProposeRequest) -> Result<ProposeReply, Status> {
        self.inner.proposer.serve(request).await
    }

    /// Answers another node's `ReadIndex`, on the leader.
    ///
    /// # Errors
    /// As the service definition says.
    pub async fn serve_read_index(
        &self,
        request: ReadIndexRequest,
    ) -> Result<ReadIndexReply, Status> {
        self.inner.peers.local().verify(request.envelope.as_ref())?;
        let index = timeout(READ_TRY_TIMEOUT, self.confirm_leadership())
            .await
            .map_err(|_| Status::deadline_exceeded("no majority confirmed the leader in time"))?
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        Ok(ReadIndexReply { index })
    }

    /// The service for the other members' consensus, to be served with the others.
    #[must_use]
    pub fn service(&self) -> RaftServer<Server> {
        Server::new(
            self.inner.raft.clone(),
            self.inner.peers.local(),
            Arc::clone(&self.inner.snapshots),
        )
    }

    /// The catalog as applied on this node.
    #[must_use]
    pub fn catalog(&self) -> Arc<StateDb> {
        Arc::clone(&self.inner.state)
    }

    /// The index of the last entry applied on this node; changes with each batch.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// Consensus as it stands on this node.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        let metrics = self.inner.raft.metrics().borrow_watched().clone();
        let index = |id: &Option<types::LogId>| id.map_or(0, |id| id.index);
        let role = match (&metrics.running_state, metrics.state) {
            (Err(_), _) | (_, ServerState::Shutdown) => RaftRole::Stopped,
            (Ok(()), ServerState::Leader) => RaftRole::Leader,
            (Ok(()), ServerState::Follower) => RaftRole::Follower,
            (Ok(()), ServerState::Candidate) => RaftRole::Candidate,
            (Ok(()), ServerState::Learner) => RaftRole::Learner,
        };
        let membership = metrics.membership_config.membership();
        RaftStatus {
            role,
            leader: metrics.current_leader.map(NodeId),
            term: metrics.current_term,
            voters: membership.voter_ids().map(NodeId).collect(),
            learners: membership.learner_ids().map(NodeId).collect(),
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: *self.inner.applied.borrow(),
            snapshot_index: index(&metrics.snapshot),
            purged_index: index(&metrics.purged),
            matched: metrics
                .replication
                .iter()
                .flatten()
                .map(|(node, matched)| (NodeId(*node), index(matched)))
                .collect(),
        }
    }

    /// Whether this node takes itself for the leader. It may have been replaced without knowing yet.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.inner.leader.now() == Some(self.inner.peers.local().node_id)
    }

    /// Hands leadership to the voter whose log is closest to this one, and waits until it leads.
    ///
    /// # Errors
    /// When this node does not lead, or nobody takes over in time.
    pub async fn transfer_leadership(&self) -> Result<NodeId, TransferError> {
        let status = self.status();
        let local = self.inner.peers.local().node_id;
        if status.role != RaftRole::Leader {
            return Err(TransferError::NotLeader);
        }
        let heir = status
            .voters
            .iter()
            .filter(|voter| **voter != local)
            .max_by_key(|voter| status.matched.get(voter).copied().unwrap_or(0))
            .copied()
            .ok_or(TransferError::NobodyElse)?;
        self.inner
            .raft
            .trigger()
            .transfer_leader(heir.0)
            .await
            .map_err(|_| TransferError::Stopped)?;
        timeout(TRANSFER_TIMEOUT, self.inner.leader.other_than(Some(local)))
            .await
            .map_err(|_| TransferError::Timeout)?;
        self.inner.leader.now().ok_or(TransferError::Timeout)
    }

    /// Makes a snapshot now, whatever the settings say.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub async fn snapshot(&self) -> Result<(), ProposeError> {
        self.inner.raft.trigger().snapshot().await.map_err(|_| ProposeError::Stopped)
    }

    /// Stops consensus on this node and brings the catalog to disk. Calls on other clones fail from then on.
    pub async fn shutdown(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
        let runtime = self.inner.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let state = Arc::clone(&self.inner.state);
        let stopping = tokio::task::spawn_blocking(move || {
            if let Some(runtime) = runtime {
                runtime.shutdown_timeout(STOP_TIMEOUT);
            }
            state.sync()
        });
        match stopping.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the catalog could not be brought to disk"),
            Err(error) => tracing::error!(%error, "consensus did not stop cleanly"),
        }
    }
}

/// Refuses a log and a catalog that cannot have been left behind by one node: one of the two is gone. A log that forgot its
/// vote could vote twice, and a catalog cannot be made again from a log whose beginning was removed.
fn fit_together(
    log: &LogStore,
    log_path: &Path,
    applied: Option<types::LogId>,
    stored: Option<types::LogId>,
    state_path: &Path,
) -> Result<(), StartError> {
    if let Some(applied) = applied
        && log.is_pristine()
    {
        let reason = format!(
            "it is empty, but the catalog beside it has entry {}: the log was lost or moved away",
            applied.index
        );
        return Err(LogStoreError::Damaged { path: log_path.to_owned(), reason }.into());
    }
    let reached = applied.max(stored);
    if let Some(purged) = log.purged()
        && reached < Some(purged)
    {
        let reason = match reached {
            None => format!(
                "it is empty, but the log begins after entry {}: the catalog was lost or moved away",
                purged.index
            ),
            Some(reached) => format!(
                "it ends at entry {}, but the log begins after entry {}: the catalog went back in time",
                reached.index, purged.index
            ),
        };
        return Err(StateError::Open { path: state_path.to_owned(), reason }.into());
    }
    Ok(())
}

/// Says in the log who leads, once for each change.
async fn announce_leaders(raft: Raft) {
    let mut metrics = raft.server_metrics();
    let mut announced = None;
    loop {
        let now = {
            let metrics = metrics.borrow_and_update();
            metrics.current_leader.map(|leader| (leader, metrics.vote.leader_id.term))
        };
        if let Some((leader, term)) = now
            && announced != now
        {
            tracing::info!(leader, term, "node {leader} leads, term {term}");
            announced = now;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}

/// Ends the process when consensus has failed: it could neither vote nor apply, and everything else here relies on it.
async fn abort_when_fatal(raft: Raft) {
    let mut metrics = raft.metrics();
    let failure = loop {
        match &metrics.borrow_and_update().running_state {
            Ok(()) => {}
            Err(Fatal::Stopped) => return,
            Err(error @ (Fatal::StorageError(_) | Fatal::Panicked)) => break error.to_string(),
        }
        if metrics.changed().await.is_err() {
            return;
        }
    };
    tracing::error!(
        failure,
        "consensus has failed on this node; the process ends and must be started again"
    );
    std::process::abort();
}

/// Keeps the address book up to date from the membership and from the catalog's table of nodes.
async fn learn_addresses(
    raft: Raft,
    peers: Peers,
    state: Arc<StateDb>,
    mut applied: watch::Receiver<u64>,
) {
    let mut metrics = raft.server_metrics();
    loop {
        for (node, member) in metrics.borrow_and_update().membership_config.nodes() {
            peers.learn_member(NodeId(*node), &member.rpc_addr);
        }
        applied.mark_unchanged();
        match catalog::nodes(state.as_ref()) {
            Ok(rows) => {
                for row in rows {
                    peers.learn_registered(row.id, &row.rpc_addr);
                }
            }
            Err(error) => tracing::warn!(%error, "the nodes' addresses could not be read"),
        }
        let ended = tokio::select! {
            changed = metrics.changed() => changed.is_err(),
            changed = applied.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
        sleep(ADDRESSES_EVERY).await;
    }
}

#[cfg(test)]
mod tests;
