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
//!   again is the same path as after a crash. A disk that only hangs costs this node its leadership first ([`watchdog`]).
//! - Consensus and its connections have one thread of their own, so that work elsewhere in the process cannot hold back a
//!   heartbeat. Nothing on it may block for long: fsync, snapshots and handshakes that come in run elsewhere.

mod announce;
mod background;
mod clock;
mod leadership;
mod log_store;
mod membership;
mod network;
mod propose;
mod read;
mod salvage;
mod seed;
mod server;
mod settings;
mod snapshot;
mod start;
mod state_machine;
mod status;
mod types;
mod watchdog;
mod window;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::command::{Action, Reply};
use proto::cluster::{ProposeReply, ProposeRequest};
use proto::raft::raft_server::RaftServer;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub use self::clock::ClusterClock;
pub use self::leadership::TransferError;
pub use self::log_store::LogStoreError;
pub use self::membership::{InitError, Membership, MembershipError, MembershipVersion, Progress};
pub use self::propose::ProposeError;
pub use self::read::ReadError;
pub use self::salvage::{SalvageError, Salvaged, salvage};
pub use self::seed::{SeedError, seed};
pub use self::server::Server;
pub use self::settings::{RaftSettings, SettingsError};
pub use self::start::StartError;
pub use self::status::{RaftRole, RaftStatus};

use self::announce::Announcements;
use self::leadership::Leader;
use self::log_store::DiskHealth;
use self::network::Hurry;
use self::propose::Proposer;
use self::snapshot::SnapshotStore;
use self::state_machine::StateMachine;
use self::types::TypeConfig;
use self::watchdog::Watchdog;
use crate::rpc::peers::Peers;
use crate::state::{SnapshotView, StateDb, StateError};

type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// How long tasks of consensus get to end when it is stopped.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

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
    disk: Arc<DiskHealth>,
    announcements: Announcements,
    hurry: Hurry,
    threads: Handle,
    clock: ClusterClock,
    /// Taken when consensus is stopped.
    runtime: Mutex<Option<Runtime>>,
    /// Taken when consensus is stopped.
    watchdog: Mutex<Option<Watchdog>>,
    /// Ends what runs for long.
    stopping: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stopping.cancel();
        // A runtime must not be waited for on a thread that runs tasks.
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

impl Consensus {
    /// Has `action` applied, on the leader and on this node. Returns its reply and its index in the log.
    ///
    /// # Errors
    /// Within four seconds, when there is no leader or no answer. Only [`ProposeError::NoLeader`],
    /// [`ProposeError::TooLarge`] and [`ProposeError::TooNew`] are certain that nothing came of it.
    pub async fn propose(&self, action: Action) -> Result<(Reply, u64), ProposeError> {
        self.inner.proposer.propose(action).await
    }

    /// Answers another node's `Propose`, on the leader.
    ///
    /// # Errors
    /// As the service definition says.
    pub async fn serve_propose(&self, request: ProposeRequest) -> Result<ProposeReply, Status> {
        self.inner.proposer.serve(request).await
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

    /// The thread of consensus. Its service is best served there, and nothing else.
    #[must_use]
    pub fn threads(&self) -> Handle {
        self.inner.threads.clone()
    }

    /// The catalog as applied on this node.
    #[must_use]
    pub fn catalog(&self) -> Arc<StateDb> {
        Arc::clone(&self.inner.state)
    }

    /// The catalog as it is now, and the last entry in it.
    ///
    /// # Errors
    /// When the catalog does not say how far it has come.
    pub fn moment(&self) -> Result<(SnapshotView, u64), StateError> {
        state_machine::moment(&self.inner.state)
    }

    /// The index of the last entry applied on this node; changes with each batch.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.announcements.applied.clone()
    }

    /// Changes whenever there may be jobs to claim that were not there before.
    #[must_use]
    pub fn work(&self) -> watch::Receiver<u64> {
        self.inner.announcements.work.clone()
    }

    /// Changes whenever blocks may belong elsewhere than before.
    #[must_use]
    pub fn placement(&self) -> watch::Receiver<u64> {
        self.inner.announcements.placement.clone()
    }

    /// What time it is for the cluster.
    #[must_use]
    pub fn clock(&self) -> &ClusterClock {
        &self.inner.clock
    }

    /// What time it is for the cluster, in milliseconds since 1970. A leader stamps its own time as soon as that is later
    /// than what it follows, and goes by it before it has something to stamp.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        let followed_ms = self.clock().now_ms();
        if self.is_leader() { followed_ms.max(crate::now_ms()) } else { followed_ms }
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
        self.inner.stopping.cancel();
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "consensus did not stop cleanly");
        }
        let runtime = self.inner.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let watchdog = self.inner.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
        let state = Arc::clone(&self.inner.state);
        let stopping = tokio::task::spawn_blocking(move || {
            drop(watchdog);
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

#[cfg(test)]
pub(crate) mod tests;
