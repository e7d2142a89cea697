//! Starting consensus on what is on disk.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::announce::announcer;
use super::clock::ClusterClock;
use super::leadership::Leader;
use super::log_store::{Disk, LogStore, LogStoreError};
use super::network::{Hurry, Network};
use super::propose::Proposer;
use super::settings::{RaftSettings, SettingsError};
use super::snapshot::SnapshotStore;
use super::state_machine::{Failure, StateMachine};
use super::types::LogId;
use super::watchdog::{GiveUp, Watchdog};
use super::{Consensus, Inner, Raft, background};
use crate::rpc::peers::Peers;
use crate::state::{StateDb, StateError};

/// Threads for consensus. It does many small things that wake each other, its connections among them, and waking another
/// thread costs more than most of them take. What takes long has threads of its own: fsync, snapshots, the rest of the node.
/// [`DiskHealth`](super::log_store::DiskHealth) counts on its being one.
const THREADS: usize = 1;

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
        Self::start_on(settings, data_dir, peers, Machine::default()).await
    }

    /// Like [`start`](Self::start), on a machine that may be a sick one.
    pub(super) async fn start_on(
        settings: RaftSettings,
        data_dir: &Path,
        peers: Peers,
        machine: Machine,
    ) -> Result<Self, StartError> {
        let Machine { disk, give_up } = machine;
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
        let (announcer, announcements) = announcer();
        let hurry = Hurry::default();
        let applied = announcements.applied.clone();
        let (clock, failure) = (ClusterClock::new(), Failure::default());
        let starting = runtime.spawn({
            let network = Network::new(peers.clone(), hurry.clone());
            let (followed, failure) = (clock.clone(), Arc::clone(&failure));
            async move {
                let state = Arc::new(StateDb::open(&state_dir)?);
                let snapshots =
                    Arc::new(SnapshotStore::open(&state_dir).map_err(io("open the snapshots"))?);
                let log = LogStore::open_on(&raft_dir, local, disk)?;
                let machine = StateMachine::open(
                    Arc::clone(&state),
                    Arc::clone(&snapshots),
                    log.health(),
                    announcer,
                )
                .map_err(io("read how far the catalog has come"))?
                .with_snapshot_pause(Duration::from_millis(settings.snapshot_pause_ms))
                .with_failure(failure)
                .with_clock(followed)
                .map_err(io("read what time it is in the catalog"))?;
                let position = Position {
                    applied: machine.applied(),
                    durable: machine.durable().map_err(io("read how far the catalog has come"))?,
                    stored: snapshots.current().and_then(|snapshot| snapshot.meta().last_log_id),
                };
                fit_together(&log, &raft_dir, &position, &state_dir)?;
                let raft =
                    match Raft::new(local.node_id.0, config, network, log.clone(), machine).await {
                        Ok(raft) => raft,
                        Err(error) => {
                            // The library may only have seen that the catalog does not answer any more.
                            StateDb::refuse_condemned(&state_dir)?;
                            return Err(StartError::Consensus(error.to_string()));
                        }
                    };
                Ok::<_, StartError>((raft, state, snapshots, log))
            }
        });
        let (raft, state, snapshots, log) = match starting.await {
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
        let stopping = CancellationToken::new();
        let disk = log.health();
        let handle = runtime.handle().clone();
        let watching = Watchdog::start(&settings, raft.clone(), log, handle, Arc::clone(&give_up));
        let watchdog = match watching {
            Ok(watchdog) => watchdog,
            Err(error) => {
                runtime.shutdown_background();
                return Err(io("start the watch over the disk")(error));
            }
        };
        runtime.spawn_blocking({
            let (state, stop) = (Arc::clone(&state), stopping.clone());
            let give_up = Arc::clone(&give_up);
            move || background::verify_catalog(&state, &stop, &give_up)
        });
        let state_dir = data_dir.join("state");
        runtime.spawn(background::give_up_when_fatal(raft.clone(), failure, state_dir, give_up));
        runtime.spawn(background::announce_leaders(raft.clone()));
        runtime.spawn(background::learn_addresses(
            raft.clone(),
            peers.clone(),
            Arc::clone(&state),
            applied.clone(),
        ));
        Ok(Self {
            inner: Arc::new(Inner {
                proposer: Proposer::new(
                    raft.clone(),
                    peers.clone(),
                    Arc::clone(&state),
                    applied.clone(),
                    hurry.clone(),
                ),
                leader: Leader::new(&raft),
                disk,
                clock,
                raft,
                peers,
                state,
                snapshots,
                announcements,
                hurry,
                threads: runtime.handle().clone(),
                runtime: Mutex::new(Some(runtime)),
                watchdog: Mutex::new(Some(watchdog)),
                stopping,
            }),
        })
    }
}

/// Puts something around a disk.
type AroundDisk = Box<dyn FnOnce(Box<dyn Disk>) -> Box<dyn Disk> + Send>;

/// What consensus runs on. Tests run it on machines whose disks fail.
pub(super) struct Machine {
    /// Stands between the log and its disk.
    pub(super) disk: AroundDisk,
    /// Called when this node must not go on.
    pub(super) give_up: GiveUp,
}

impl Default for Machine {
    fn default() -> Self {
        Self { disk: Box::new(|disk| disk), give_up: Arc::new(background::abort) }
    }
}

/// What a catalog says about the log beside it.
struct Position {
    /// The last entry in it.
    applied: Option<LogId>,
    /// The last entry in it that was on disk in the log as well.
    durable: Option<u64>,
    /// The last entry in the newest snapshot of it.
    stored: Option<LogId>,
}

/// Refuses a log and a catalog that cannot have been left behind by one node: one of the two is gone, or older than the
/// other. A log that forgot its vote could vote twice, and a catalog cannot be made again from a log whose beginning was
/// removed.
fn fit_together(
    log: &LogStore,
    log_path: &Path,
    position: &Position,
    state_path: &Path,
) -> Result<(), StartError> {
    let lost_log = |reason: String| LogStoreError::Damaged { path: log_path.to_owned(), reason };
    let Position { applied, durable, stored } = position;
    if let Some(applied) = applied
        && log.is_pristine()
    {
        return Err(lost_log(format!(
            "it is empty, but the catalog beside it has entry {}: the log was lost or moved away",
            applied.index
        ))
        .into());
    }
    let end = log.last().max(*stored).map_or(0, |last| last.index);
    if let Some(durable) = durable
        && *durable > end
    {
        return Err(lost_log(format!(
            "it ends at entry {end}, but entry {durable} was in it when the catalog beside it was written: the log went back \
             in time"
        ))
        .into());
    }
    let reached = *applied.max(stored);
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
