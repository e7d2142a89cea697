//! Linearizable reads, on any node.
//!
//! A majority confirms that the leader still leads; what it had committed by then is the index that the reader waits for. A
//! node that does not lead asks the leader for that index and reads from its own catalog.

use std::time::Duration;

use cluster::ids::NodeId;
use openraft::ReadPolicy;
use openraft::errors::RaftError;
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::{ReadIndexReply, ReadIndexRequest};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Status;

use super::Consensus;
use crate::rpc::peers::Purpose;

/// How long a linearizable read may wait for the confirmation of a majority.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a try at a leader may take before another one is asked, and the wait between tries.
pub(super) const READ_TRY_TIMEOUT: Duration = Duration::from_secs(1);
const READ_RETRY: Duration = Duration::from_millis(50);

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

impl Consensus {
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
        let mut applied = self.inner.announcements.applied.clone();
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

    /// Answers another node's `ReadIndex`, on the leader.
    ///
    /// # Errors
    /// As the service definition says.
    pub async fn serve_read_index(
        &self,
        request: ReadIndexRequest,
    ) -> Result<ReadIndexReply, Status> {
        let from = self.inner.peers.local().verify(request.envelope.as_ref())?;
        let index = timeout(READ_TRY_TIMEOUT, self.confirm_leadership())
            .await
            .map_err(|_| Status::deadline_exceeded("no majority confirmed the leader in time"))?
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        self.inner.hurry.up(from);
        Ok(ReadIndexReply { index })
    }
}
