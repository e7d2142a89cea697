//! Bringing a command to the leader, whoever that is, until it is known what it came to.
//!
//! A command that got no answer may have been appended or not, so it is sent again under the same number, and the catalog
//! applies it once. Every wait ends with the deadline of the proposal, which lies below the five seconds within which a
//! client of the API hears that the cluster cannot write.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::catalog;
use cluster::clock::{LeaderClock, Reading};
use cluster::codec;
use cluster::command::{Action, Command, Reply};
use cluster::features;
use cluster::ids::{ClientId, NodeId};
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, Fatal, ForwardReason, RaftError};
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::{ProposeReply, ProposeRequest};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::Raft;
use super::leadership::Leader;
use super::network::Hurry;
use super::types::LoggedCommand;
use super::window::Window;
use crate::identity::random_id;
use crate::rpc::peers::{Peers, Purpose};
use crate::state::StateDb;

/// How long a command is tried. A client of the API is to hear within 5 s that nothing can be written.
pub(super) const PROPOSE_TIMEOUT: Duration = Duration::from_secs(4);

/// Commands of this node under way at the same time. Bounds memory; more would only wait in the leader's queue.
const IN_FLIGHT_MAX: usize = 1024;

/// Commands of other nodes that a leader works on at the same time.
const FORWARDED_MAX: usize = 4096;

/// The longest command, in bytes. The longest there is, a thousand blocks or a plan, has a tenth of it.
const COMMAND_BYTES_MAX: usize = 1 << 20;

/// Waits between tries; a change of leader cuts them short.
const RETRY_FIRST: Duration = Duration::from_millis(10);
const RETRY_MAX: Duration = Duration::from_millis(160);

/// Marks a refusal of a command that not every node understands.
const TOO_NEW_HEADER: &str = "reelraft-too-new";

/// Names the leader in a refusal, if the refuser knows it.
const LEADER_HEADER: &str = "reelraft-leader";

/// Why a command has no reply.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProposeError {
    /// It was certainly not appended anywhere.
    #[error("there is no leader that a majority follows: {0}")]
    NoLeader(String),
    /// It may or may not take effect.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// This node's consensus is stopping or has stopped.
    #[error("consensus has stopped on this node")]
    Stopped,
    /// This node's storage failed.
    #[error("this node's storage failed: {0}")]
    Storage(String),
    /// It was not sent.
    #[error("the command has {bytes} bytes, {COMMAND_BYTES_MAX} at most are allowed")]
    TooLarge { bytes: usize },
    /// Some node's program would not understand it, so it was not appended.
    #[error("{0}")]
    TooNew(String),
}

/// What one try came to.
enum Outcome {
    Applied(Reply, u64),
    /// Not appended; perhaps this node knows more.
    Elsewhere(Option<NodeId>, String),
    /// Nobody knows.
    Unknown(String),
    Failed(ProposeError),
}

/// The proposer of this process.
pub(super) struct Proposer {
    raft: Raft,
    peers: Peers,
    leader: Leader,
    applied: watch::Receiver<u64>,
    client: ClientId,
    window: Arc<Window>,
    in_flight: Semaphore,
    forwarded: Semaphore,
    clocks: Clocks,
    state: Arc<StateDb>,
    /// The cluster's feature level, or an earlier one: it never falls.
    level: AtomicU32,
    hurry: Hurry,
}

impl Proposer {
    pub(super) fn new(
        raft: Raft,
        peers: Peers,
        state: Arc<StateDb>,
        applied: watch::Receiver<u64>,
        hurry: Hurry,
    ) -> Self {
        Self {
            leader: Leader::new(&raft),
            raft,
            peers,
            applied,
            client: ClientId(random_id()),
            window: Arc::default(),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            forwarded: Semaphore::new(FORWARDED_MAX),
            clocks: Clocks::new(Arc::clone(&state)),
            state,
            level: AtomicU32::new(features::FIRST),
            hurry,
        }
    }

    /// Has `action` applied, on this node too. Returns its reply and its index in the log.
    pub(super) async fn propose(&self, action: Action) -> Result<(Reply, u64), ProposeError> {
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let busy = || ProposeError::NoLeader("too many commands wait for an answer".to_owned());
        let _permit = timeout_at(deadline, self.in_flight.acquire())
            .await
            .map_err(|_| busy())?
            .map_err(|_| ProposeError::Stopped)?;
        let ticket = timeout_at(deadline, self.window.take()).await.map_err(|_| busy())?;
        let command = Command {
            client: self.client,
            sequence: ticket.sequence,
            answered_below: ticket.answered_below,
            time_ms: 0,
            action,
        };
        let (reply, index) = self.deliver(&command, deadline).await?;
        let mut applied = self.applied.clone();
        timeout_at(deadline, applied.wait_for(|applied| *applied >= index))
            .await
            .map_err(|_| ProposeError::Timeout(format!("this node has not applied {index} yet")))?
            .map_err(|_| ProposeError::Stopped)?;
        Ok((reply, index))
    }

    async fn deliver(
        &self,
        command: &Command,
        deadline: Instant,
    ) -> Result<(Reply, u64), ProposeError> {
        let encoded = bytes::Bytes::from(codec::encode(command));
        if encoded.len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge { bytes: encoded.len() });
        }
        let local = self.peers.local().node_id;
        let mut hint = None;
        let mut wait = RETRY_FIRST;
        let mut maybe_appended = false;
        let mut reason = "none is known".to_owned();
        loop {
            // Somebody else may know of a newer leader than this node does.
            let known = self.leader.now();
            let leader = hint.take().or(known);
            let outcome = match leader {
                None => Outcome::Elsewhere(None, reason.clone()),
                Some(leader) => {
                    let attempt = async {
                        if leader == local {
                            self.append(command.clone()).await
                        } else {
                            self.forward(leader, encoded.clone(), deadline).await
                        }
                    };
                    tokio::select! {
                        outcome = timeout_at(deadline, attempt) => outcome
                            .unwrap_or_else(|_| Outcome::Unknown(format!("node {leader} did not answer"))),
                        // The one that was asked may never answer.
                        () = self.leader.neither(Some(leader), known) =>
                            Outcome::Unknown(format!("node {leader} is no longer the leader")),
                    }
                }
            };
            match outcome {
                Outcome::Applied(reply, index) => return Ok((reply, index)),
                Outcome::Failed(error) => return Err(error),
                Outcome::Elsewhere(known, why) => {
                    reason = why;
                    hint = known.filter(|known| Some(*known) != leader);
                }
                Outcome::Unknown(why) => {
                    maybe_appended = true;
                    reason = why;
                }
            }
            if hint.is_none() {
                tokio::select! {
                    () = sleep(jittered(wait)) => {}
                    () = self.leader.neither(leader, known) => {}
                }
                wait = (wait * 2).min(RETRY_MAX);
            }
            if Instant::now() >= deadline {
                return Err(if maybe_appended {
                    ProposeError::Timeout(reason)
                } else {
                    ProposeError::NoLeader(reason)
                });
            }
        }
    }

    /// Appends a command on this node, which has to be the leader, and waits until it is applied.
    async fn append(&self, mut command: Command) -> Outcome {
        if let Err(outcome) = self.require_understood(&command.action).await {
            return outcome;
        }
        command.time_ms = self.clocks.stamp_ms(self.leader.term());
        match self.raft.client_write(LoggedCommand::new(&command)).await {
            Ok(written) => Outcome::Applied(written.data, written.log_id.index),
            Err(RaftError::Fatal(Fatal::StorageError(error))) => {
                Outcome::Failed(ProposeError::Storage(error.to_string()))
            }
            Err(RaftError::Fatal(Fatal::Panicked | Fatal::Stopped)) => {
                Outcome::Failed(ProposeError::Stopped)
            }
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(elsewhere))) => {
                Outcome::Elsewhere(
                    elsewhere.leader_id.map(NodeId),
                    format!("node {} {}", self.peers.local().node_id, in_words(&elsewhere.reason)),
                )
            }
            Err(RaftError::APIError(ClientWriteError::LogEntryDiscarded(_))) => {
                Outcome::Unknown("another leader replaced the entry".to_owned())
            }
            Err(RaftError::APIError(
                error @ (ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            )) => Outcome::Unknown(error.to_string()),
        }
    }

    /// Refuses a command that some node's program does not understand: that node would have to stop.
    async fn require_understood(&self, action: &Action) -> Result<(), Outcome> {
        let needs = action.feature_level();
        if needs <= self.level.load(Ordering::Relaxed) || needs <= self.read_level()? {
            return Ok(());
        }
        // What raised the level may stand in the log and not be applied here yet, if this node has just begun to lead.
        let newest = match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => linearizer.read_log_id().index(),
            Err(RaftError::APIError(error)) => {
                return Err(Outcome::Elsewhere(None, error.to_string()));
            }
            Err(RaftError::Fatal(_)) => return Err(Outcome::Failed(ProposeError::Stopped)),
        };
        let stopped = |_| Outcome::Failed(ProposeError::Stopped);
        let mut applied = self.applied.clone();
        applied.wait_for(|applied| *applied >= newest).await.map(drop).map_err(stopped)?;
        let active = self.read_level()?;
        if needs <= active {
            return Ok(());
        }
        Err(Outcome::Failed(ProposeError::TooNew(format!(
            "not every node understands {} yet: it needs feature level {needs}, and the cluster is at {active} until the programs of all nodes have been upgraded",
            action.name()
        ))))
    }

    /// The cluster's feature level as of this node's catalog.
    fn read_level(&self) -> Result<u32, Outcome> {
        let system = catalog::system(self.state.as_ref())
            .map_err(|error| Outcome::Failed(ProposeError::Storage(error.to_string())))?;
        Ok(self.level.fetch_max(system.level(), Ordering::Relaxed).max(system.level()))
    }

    /// Has another node append a command.
    async fn forward(&self, leader: NodeId, command: bytes::Bytes, deadline: Instant) -> Outcome {
        let channel = match self.peers.channel(leader, Purpose::Cluster) {
            Ok(channel) => channel,
            Err(error) => return Outcome::Elsewhere(None, error.to_string()),
        };
        let mut request = tonic::Request::new(ProposeRequest {
            envelope: Some(self.peers.local().envelope_to(leader)),
            command,
        });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        match ClusterClient::new(channel).propose(request).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                match codec::decode(&answer.reply) {
                    Ok(reply) => Outcome::Applied(reply, answer.index),
                    Err(error) => Outcome::Unknown(format!("the reply cannot be decoded: {error}")),
                }
            }
            Err(status) if status.metadata().contains_key(TOO_NEW_HEADER) => {
                Outcome::Failed(ProposeError::TooNew(status.message().to_owned()))
            }
            Err(status) if status.code() == Code::FailedPrecondition => {
                let known = status.metadata().get(LEADER_HEADER);
                let known = known.and_then(|id| id.to_str().ok()?.parse().ok()).map(NodeId);
                Outcome::Elsewhere(known, status.message().to_owned())
            }
            Err(status) if status.code() == Code::ResourceExhausted => {
                Outcome::Elsewhere(None, status.message().to_owned())
            }
            Err(status) => Outcome::Unknown(format!("node {leader}: {}", status.message())),
        }
    }

    /// Answers a node that takes this one for the leader.
    pub(super) async fn serve(&self, request: ProposeRequest) -> Result<ProposeReply, Status> {
        let from = self.peers.local().verify(request.envelope.as_ref())?;
        if request.command.len() > COMMAND_BYTES_MAX {
            return Err(Status::invalid_argument("the command is too long"));
        }
        let command: Command = codec::decode(&request.command).map_err(|error| {
            Status::invalid_argument(format!("the command cannot be decoded: {error}"))
        })?;
        let Ok(_permit) = self.forwarded.try_acquire() else {
            return Err(Status::resource_exhausted("the leader has too many commands to work on"));
        };
        let outcome = tokio::time::timeout(PROPOSE_TIMEOUT, self.append(command))
            .await
            .unwrap_or_else(|_| Outcome::Unknown("no majority confirmed it in time".to_owned()));
        match outcome {
            Outcome::Applied(reply, index) => {
                // It is not done there before it is applied there.
                self.hurry.up(from);
                Ok(ProposeReply { reply: codec::encode(&reply).into(), index })
            }
            Outcome::Elsewhere(known, reason) => {
                let mut status = Status::failed_precondition(reason);
                if let Some(known) = known {
                    status.metadata_mut().insert(LEADER_HEADER, known.0.into());
                }
                Err(status)
            }
            Outcome::Unknown(reason) => Err(Status::deadline_exceeded(reason)),
            Outcome::Failed(ProposeError::TooNew(reason)) => {
                let mut status = Status::failed_precondition(reason);
                status.metadata_mut().insert(TOO_NEW_HEADER, MetadataValue::from_static("1"));
                Err(status)
            }
            Outcome::Failed(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// `wait`, or up to half of it less, so that proposers do not come back all at once.
fn jittered(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait.mul_f64(1.0 - 0.5 * f64::from(random) / f64::from(u32::MAX))
}

/// Reads this machine's clocks, and the catalog's, for [`LeaderClock`].
struct Clocks {
    leader: Mutex<LeaderClock>,
    started: Instant,
    state: Arc<StateDb>,
}

impl Clocks {
    fn new(state: Arc<StateDb>) -> Self {
        Self { leader: Mutex::default(), started: Instant::now(), state }
    }

    /// The time for a command, in milliseconds since 1970, on the leader of `term`.
    fn stamp_ms(&self, term: u64) -> u64 {
        // Read inside, so that no other command's reading comes between.
        let mut leader = self.leader.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = self.started.elapsed().as_millis();
        let monotonic_ms = u64::try_from(elapsed).unwrap_or(u64::MAX);
        let reading = Reading { term, wall_ms: crate::now_ms(), monotonic_ms };
        // A catalog that cannot be read stops this node where it is applied; here it says nothing about time.
        let catalog_ms = || catalog::system(self.state.as_ref()).map_or(0, |system| system.time_ms);
        leader.stamp_ms(reading, catalog_ms)
    }
}

/// Why a node does not take a command itself.
fn in_words(reason: &ForwardReason) -> &'static str {
    match reason {
        ForwardReason::NotLeader => "does not lead",
        ForwardReason::LeadershipTransfer => "is handing leadership over",
        ForwardReason::LeaseExpired => "has not been confirmed as the leader by a majority of late",
    }
}
