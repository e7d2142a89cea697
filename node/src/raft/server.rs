//! The other members speaking to this node's consensus.

mod snapshot;

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use cluster::codec;
use cluster::ids::NodeId;
use futures::{Stream, StreamExt};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use proto::raft::raft_server::{Raft as RaftService, RaftServer};
use proto::raft::{RaftMessage, SnapshotAnswer, SnapshotPart};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use self::snapshot::IncomingSnapshot;
use super::Raft;
use super::snapshot::SnapshotStore;
use super::types::TypeConfig;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::caller::Caller;
use crate::rpc::envelope::LocalNode;

/// The service behind `reelraft.raft.v1.Raft`.
pub struct Server {
    raft: Raft,
    local: LocalNode,
    snapshots: Arc<SnapshotStore>,
    /// One snapshot is received at a time: there is one leader, and two would only share the disk.
    receiving: Arc<Semaphore>,
}

impl Server {
    pub(super) fn new(
        raft: Raft,
        local: LocalNode,
        snapshots: Arc<SnapshotStore>,
    ) -> RaftServer<Self> {
        RaftServer::new(Self { raft, local, snapshots, receiving: Arc::new(Semaphore::new(1)) })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// The sender and the content of a message to this node.
fn open<T: DeserializeOwned>(
    local: LocalNode,
    caller: Caller,
    message: &RaftMessage,
) -> Result<(NodeId, T), Status> {
    let from = local.verify_caller(caller, message.envelope.as_ref())?;
    let content = codec::decode(&message.payload).map_err(|error| {
        Status::invalid_argument(format!("the message cannot be decoded: {error}"))
    })?;
    Ok((from, content))
}

fn answer<T: Serialize>(local: LocalNode, to: NodeId, content: &T) -> RaftMessage {
    RaftMessage { envelope: Some(local.envelope_to(to)), payload: codec::encode(content).into() }
}

fn stopped(fatal: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(format!("consensus has stopped on this node: {fatal}"))
}

fn failed(error: &RaftError<TypeConfig>) -> Status {
    Status::unavailable(format!("consensus has stopped on this node: {error}"))
}

/// What is known of a stream of entries.
#[derive(Default)]
struct Incoming {
    from: OnceLock<NodeId>,
    /// What ended it, if it did not end by itself.
    refused: OnceLock<Status>,
}

#[tonic::async_trait]
impl RaftService for Server {
    type InstallSnapshotStream = Pin<Box<dyn Stream<Item = Result<SnapshotAnswer, Status>> + Send>>;
    type StreamAppendStream = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let (local, caller) = (self.local, Caller::of(request.extensions()));
        let stream = Arc::new(Incoming::default());
        let requests = futures::stream::unfold((request.into_inner(), Arc::clone(&stream)), {
            move |(mut messages, stream)| async move {
                let next = match messages.message().await {
                    Ok(Some(message)) => open(local, caller, &message),
                    Ok(None) => return None,
                    Err(status) => Err(status),
                };
                match next {
                    Ok((from, request)) => {
                        // The same with each message of the stream, or its own answer goes astray.
                        let _ = stream.from.set(from);
                        Some((request, (messages, stream)))
                    }
                    Err(status) => {
                        let _ = stream.refused.set(status);
                        None
                    }
                }
            }
        });
        let from = Arc::clone(&stream);
        let answers = self.raft.stream_append(requests).map(move |result| match result {
            // There is no answer before the first request.
            Ok(result) => Ok(answer(local, from.from.get().copied().unwrap_or(NodeId(0)), &result)),
            Err(fatal) => Err(stopped(&fatal)),
        });
        let end = futures::stream::once(async move { stream.refused.get().cloned() })
            .filter_map(|status| async move { status.map(Err) });
        Ok(Response::new(Box::pin(answers.chain(end))))
    }

    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<AppendEntriesRequest<TypeConfig>>(
            self.local,
            Caller::of(request.extensions()),
            request.get_ref(),
        )?;
        let response = self.raft.append_entries(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<VoteRequest<TypeConfig>>(
            self.local,
            Caller::of(request.extensions()),
            request.get_ref(),
        )?;
        let response = self.raft.vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn pre_vote(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<VoteRequest<TypeConfig>>(
            self.local,
            Caller::of(request.extensions()),
            request.get_ref(),
        )?;
        let response = self.raft.pre_vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<TransferLeaderRequest<TypeConfig>>(
            self.local,
            Caller::of(request.extensions()),
            request.get_ref(),
        )?;
        let response =
            self.raft.handle_transfer_leader(request).await.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<Self::InstallSnapshotStream>, Status> {
        let Ok(one) = Arc::clone(&self.receiving).try_acquire_owned() else {
            return Err(Status::resource_exhausted("another snapshot is being received"));
        };
        let caller = Caller::of(request.extensions());
        let incoming = IncomingSnapshot {
            raft: self.raft.clone(),
            local: self.local,
            snapshots: Arc::clone(&self.snapshots),
        };
        Ok(Response::new(Box::pin(incoming.answers(caller, request.into_inner(), one).await?)))
    }
}
