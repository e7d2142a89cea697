//! The other members speaking to this node's consensus.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use cluster::codec;
use cluster::ids::NodeId;
use futures::{Stream, StreamExt};
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use openraft::storage::Snapshot;
use proto::raft::raft_server::{Raft as RaftService, RaftServer};
use proto::raft::snapshot_part::Part;
use proto::raft::{RaftMessage, SnapshotPart};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tonic::{Request, Response, Status, Streaming};

use super::Raft;
use super::network::{SNAPSHOT_STALL_TIMEOUT, SnapshotHeader};
use super::snapshot::{PARTS_AHEAD, Receiving, SnapshotStore};
use super::types::TypeConfig;
use crate::rpc::MESSAGE_BYTES_MAX;
use crate::rpc::envelope::LocalNode;

/// The service behind `reelraft.raft.v1.Raft`.
pub struct Server {
    raft: Raft,
    local: LocalNode,
    snapshots: Arc<SnapshotStore>,
    /// One snapshot is received at a time: there is one leader, and two would only share the disk.
    receiving: Semaphore,
}

impl Server {
    pub(super) fn new(
        raft: Raft,
        local: LocalNode,
        snapshots: Arc<SnapshotStore>,
    ) -> RaftServer<Self> {
        RaftServer::new(Self { raft, local, snapshots, receiving: Semaphore::new(1) })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// The sender and the content of a message to this node.
fn open<T: DeserializeOwned>(
    local: LocalNode,
    message: &RaftMessage,
) -> Result<(NodeId, T), Status> {
    let from = local.verify(message.envelope.as_ref())?;
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
    type StreamAppendStream = Pin<Box<dyn Stream<Item = Result<RaftMessage, Status>> + Send>>;

    async fn stream_append(
        &self,
        request: Request<Streaming<RaftMessage>>,
    ) -> Result<Response<Self::StreamAppendStream>, Status> {
        let local = self.local;
        let stream = Arc::new(Incoming::default());
        let requests = futures::stream::unfold((request.into_inner(), Arc::clone(&stream)), {
            move |(mut messages, stream)| async move {
                let next = match messages.message().await {
                    Ok(Some(message)) => open(local, &message),
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
        let (from, request) =
            open::<AppendEntriesRequest<TypeConfig>>(self.local, request.get_ref())?;
        let response = self.raft.append_entries(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<VoteRequest<TypeConfig>>(self.local, request.get_ref())?;
        let response = self.raft.vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn pre_vote(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let (from, request) = open::<VoteRequest<TypeConfig>>(self.local, request.get_ref())?;
        let response = self.raft.pre_vote(request).await.map_err(|error| failed(&error))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn transfer_leader(
        &self,
        request: Request<RaftMessage>,
    ) -> Result<Response<RaftMessage>, Status> {
        let (from, request) =
            open::<TransferLeaderRequest<TypeConfig>>(self.local, request.get_ref())?;
        let response =
            self.raft.handle_transfer_leader(request).await.map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotPart>>,
    ) -> Result<Response<RaftMessage>, Status> {
        let Ok(_one) = self.receiving.try_acquire() else {
            return Err(Status::resource_exhausted("another snapshot is being received"));
        };
        let mut messages = request.into_inner();
        let Some(SnapshotPart { envelope, part: Some(Part::Header(header)) }) =
            next_part(&mut messages).await?
        else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let from = self.local.verify(envelope.as_ref())?;
        let header: SnapshotHeader = codec::decode(&header).map_err(|error| {
            Status::invalid_argument(format!("the header cannot be decoded: {error}"))
        })?;
        let meta = header.manifest.meta.clone();
        tracing::info!(%from, last = ?meta.last_log_id, files = header.manifest.files.len(), "receiving a snapshot");

        let snapshots = Arc::clone(&self.snapshots);
        let (parts, received) = mpsc::channel::<Bytes>(PARTS_AHEAD);
        let writing = tokio::task::spawn_blocking(move || {
            Receiving::begin(&snapshots, header.manifest)?.receive(received)
        });
        let fed = feed(self.local, from, &mut messages, &parts).await;
        drop(parts);
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        // A refused part explains more than the stream that broke off because of it.
        fed?;
        let snapshot = written.map_err(|error| {
            tracing::warn!(%from, %error, "a snapshot was refused");
            Status::data_loss(format!("the snapshot was refused: {error}"))
        })?;
        let response = self
            .raft
            .install_full_snapshot(header.vote, Snapshot { meta, snapshot })
            .await
            .map_err(|fatal| stopped(&fatal))?;
        Ok(Response::new(answer(self.local, from, &response)))
    }
}

async fn next_part(messages: &mut Streaming<SnapshotPart>) -> Result<Option<SnapshotPart>, Status> {
    timeout(SNAPSHOT_STALL_TIMEOUT, messages.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the snapshot makes no progress"))?
}

/// Hands the parts of a snapshot to whoever writes them, until the end or until that one gives up.
async fn feed(
    local: LocalNode,
    from: NodeId,
    messages: &mut Streaming<SnapshotPart>,
    parts: &mpsc::Sender<Bytes>,
) -> Result<(), Status> {
    while let Some(next) = next_part(messages).await? {
        local.verify_from(next.envelope.as_ref(), from)?;
        let Some(Part::Data(data)) = next.part else {
            return Err(Status::invalid_argument("a snapshot has one header"));
        };
        if parts.send(data).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
