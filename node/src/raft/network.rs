//! Consensus speaking to the other members.
//!
//! Entries travel on one long-lived stream per member, many requests ahead of their answers. Heartbeats and votes are single
//! calls on a connection of their own, so that they never wait behind entries; snapshots have a third one. What only says how
//! far the log is decided may wait for the next entry ([`news`]).
//!
//! A member that cannot be reached is reported as such, which makes consensus wait a little before it tries again; the wait
//! is short, so that a member that was restarted has the entries it missed within a second.

mod news;
mod snapshot;

use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::codec;
use cluster::ids::NodeId;
use futures::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, Unreachable};
use openraft::network::{
    Backoff, NetBackoff, NetStreamAppend, NetTransferLeader, NetVote, RPCOption, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use proto::raft::RaftMessage;
use proto::raft::raft_client::RaftClient;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Response, Status};

pub(super) use self::news::Hurry;
pub(super) use self::snapshot::{SNAPSHOT_STALL_TIMEOUT, SnapshotHeader};
use super::types::{Member, TypeConfig};
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::peers::{Peers, Purpose};

/// How long opening the stream of entries may take. Longer than the single calls get, because a connection may have to be
/// made; heartbeats do not wait for it.
const STREAM_SETUP_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a member may leave entries unanswered before the stream is given up and opened anew. Far above any healthy
/// fsync; whether the member is alive is what heartbeats find out.
const STREAM_STALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Waits between attempts to reach a member: a refused connection costs microseconds, so they are short, and a member that
/// comes back is found at once.
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_millis(250);

/// Makes the connections that openraft asks for.
pub(super) struct Network {
    peers: Peers,
    hurry: Hurry,
}

impl Network {
    pub(super) fn new(peers: Peers, hurry: Hurry) -> Self {
        Self { peers, hurry }
    }

    fn connection(&self, target: u64, member: &Member, purpose: Purpose) -> Connection {
        let target = NodeId(target);
        self.peers.learn_member(target, &member.rpc_addr);
        let (peers, hurry) = (self.peers.clone(), self.hurry.of(target));
        Connection { peers, target, purpose, hurry }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, member: &Member) -> Connection {
        self.connection(target, member, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, member: &Member) -> Connection {
        self.connection(target, member, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, member: &Member) -> Connection {
        self.connection(target, member, Purpose::Snapshot)
    }
}

/// One member, for one purpose.
#[derive(Clone)]
pub(super) struct Connection {
    peers: Peers,
    target: NodeId,
    purpose: Purpose,
    hurry: Arc<Notify>,
}

fn unreachable(reason: impl Display) -> Unreachable<TypeConfig> {
    Unreachable::from_string(reason.to_string())
}

impl Connection {
    fn client(&self, purpose: Purpose) -> Result<RaftClient<Channel>, Unreachable<TypeConfig>> {
        let channel = self.peers.channel(self.target, purpose).map_err(unreachable)?;
        Ok(RaftClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn message<T: Serialize>(&self, payload: &T) -> RaftMessage {
        RaftMessage {
            envelope: Some(self.peers.local().envelope_to(self.target)),
            payload: codec::encode(payload).into(),
        }
    }

    fn open<T: DeserializeOwned>(
        &self,
        answer: &RaftMessage,
    ) -> Result<T, Unreachable<TypeConfig>> {
        self.peers
            .local()
            .verify_from(answer.envelope.as_ref(), self.target)
            .map_err(|status| unreachable(status.message()))?;
        codec::decode(&answer.payload)
            .map_err(|error| unreachable(format!("its answer cannot be decoded: {error}")))
    }

    /// One question, one answer.
    async fn call<Q, A, F, Fut>(
        &self,
        question: &Q,
        limit: Duration,
        call: F,
    ) -> Result<A, Unreachable<TypeConfig>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        F: FnOnce(RaftClient<Channel>, RaftMessage) -> Fut,
        Fut: Future<Output = Result<Response<RaftMessage>, Status>>,
    {
        let client = self.client(Purpose::Heartbeat)?;
        let answer = timeout(limit, call(client, self.message(question)))
            .await
            .map_err(|_| unreachable(format!("no answer within {limit:?}")))?
            .map_err(unreachable)?;
        self.open(&answer.into_inner())
    }

    /// A single append: heartbeats.
    async fn append(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
        limit: Duration,
    ) -> Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>> {
        let prev = request.prev_log_id;
        let last = request.entries.last().map(|entry| entry.log_id).or(prev);
        let response: AppendEntriesResponse<TypeConfig> =
            self.call(&request, limit, |mut client, message| async move {
                client.append(message).await
            })
            .await?;
        Ok(response.into_stream_result(prev, last))
    }

    /// Opens the stream of entries.
    async fn stream<S>(
        self,
        input: S,
    ) -> Result<
        BoxStream<'static, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
        RPCError<TypeConfig>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let mut client = self.client(Purpose::Append)?;
        let sent = Arc::new(AtomicU64::new(0));
        let requests = news::held_back(input, Arc::clone(&self.hurry)).map({
            let connection = self.clone();
            let sent = Arc::clone(&sent);
            move |request| {
                sent.fetch_add(1, Ordering::Relaxed);
                connection.message(&request)
            }
        });
        let answers = timeout(STREAM_SETUP_TIMEOUT, client.stream_append(requests))
            .await
            .map_err(|_| unreachable("the stream of entries could not be opened in time"))?
            .map_err(unreachable)?
            .into_inner();
        let answers = Answers { connection: self, answers, sent, answered: 0, sent_before: 0 };
        Ok(Box::pin(futures::stream::unfold(Some(answers), |answers| async {
            let mut answers = answers?;
            match answers.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(answers))),
                Ok(None) => None,
                Err(error) => Some((Err(error.into()), None)),
            }
        })))
    }
}

/// The answers to a stream of entries, and whether they keep coming.
struct Answers {
    connection: Connection,
    answers: tonic::Streaming<RaftMessage>,
    /// Requests that were given to the transport.
    sent: Arc<AtomicU64>,
    answered: u64,
    /// How many had been sent when the last wait began.
    sent_before: u64,
}

impl Answers {
    async fn next(
        &mut self,
    ) -> Result<Option<StreamAppendResult<TypeConfig>>, Unreachable<TypeConfig>> {
        loop {
            match timeout(STREAM_STALL_TIMEOUT, self.answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    self.answered += 1;
                    self.sent_before = self.sent.load(Ordering::Relaxed);
                    return self.connection.open(&answer).map(Some);
                }
                Ok(Ok(None)) => return Ok(None),
                Ok(Err(status)) => return Err(unreachable(status)),
                // Nothing to answer is no reason for complaint, and what was sent during this wait gets another one.
                Err(_) if self.sent_before > self.answered => {
                    return Err(unreachable("it leaves entries unanswered"));
                }
                Err(_) => self.sent_before = self.sent.load(Ordering::Relaxed),
            }
        }
    }
}

impl NetBackoff<TypeConfig> for Connection {
    fn backoff(&self) -> Option<Backoff> {
        let waits =
            std::iter::successors(Some(BACKOFF_FIRST), |wait| Some((*wait * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(waits))
    }
}

impl NetStreamAppend<TypeConfig> for Connection {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<
            BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>>,
            RPCError<TypeConfig>,
        >,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        let connection = self.clone();
        Box::pin(async move {
            if connection.purpose == Purpose::Heartbeat {
                let limit = option.soft_ttl();
                let answers = input.then(move |request| {
                    let connection = connection.clone();
                    async move { connection.append(request, limit).await }
                });
                let answers: BoxStream<'s, _> = Box::pin(answers);
                return Ok(answers);
            }
            let answers: BoxStream<'s, _> = connection.stream(input).await?;
            Ok(answers)
        })
    }
}

impl NetVote<TypeConfig> for Connection {
    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.soft_ttl();
        Ok(self
            .call(&request, limit, |mut client, message| async move { client.vote(message).await })
            .await?)
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.soft_ttl();
        Ok(self
            .call(
                &request,
                limit,
                |mut client, message| async move { client.pre_vote(message).await },
            )
            .await?)
    }
}

impl NetTransferLeader<TypeConfig> for Connection {
    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let limit = option.soft_ttl();
        Ok(self
            .call(&request, limit, |mut client, message| async move {
                client.transfer_leader(message).await
            })
            .await?)
    }
}
