//! Taking a snapshot from the leader.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::codec;
use cluster::ids::NodeId;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::raft::SnapshotResponse;
use openraft::storage::Snapshot;
use proto::raft::snapshot_answer::Answer;
use proto::raft::snapshot_part::Part;
use proto::raft::{FileTail, SnapshotAnswer, SnapshotPart, SnapshotWanted, SnapshotWorking};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tonic::{Status, Streaming};

use super::super::Raft;
use super::super::network::{SNAPSHOT_STALL_TIMEOUT, SnapshotHeader};
use super::super::snapshot::{Manifest, PARTS_AHEAD, Receiving, SnapshotStore};
use super::super::types::TypeConfig;
use super::stopped;
use crate::rpc::caller::Caller;
use crate::rpc::envelope::LocalNode;

/// How often the sender is told that this node still works: several times before it would give up.
const WORKING_EVERY: Duration = Duration::from_secs(1);

/// What takes one snapshot.
pub(super) struct IncomingSnapshot {
    pub(super) raft: Raft,
    pub(super) local: LocalNode,
    pub(super) snapshots: Arc<SnapshotStore>,
}

impl IncomingSnapshot {
    /// Begins, and returns what this node has to say until it has installed the snapshot or refused it. `one` is held until
    /// then, whether the sender listens or not.
    pub(super) async fn answers(
        self,
        caller: Caller,
        mut messages: Streaming<SnapshotPart>,
        one: OwnedSemaphorePermit,
    ) -> Result<impl Stream<Item = Result<SnapshotAnswer, Status>> + Send + use<>, Status> {
        let Some(SnapshotPart { envelope, part: Some(Part::Header(header)) }) =
            next_part(&mut messages).await?
        else {
            return Err(Status::invalid_argument("a snapshot begins with its header"));
        };
        let from = self.local.verify_caller(caller, envelope.as_ref())?;
        let header: SnapshotHeader = codec::decode(&header).map_err(|error| {
            Status::invalid_argument(format!("the header cannot be decoded: {error}"))
        })?;
        let envelope = self.local.envelope_to(from);
        let (answers, said) = mpsc::channel(4);
        tokio::spawn(async move {
            let _one = one;
            let work = self.take(header, from, messages, &answers);
            tokio::pin!(work);
            let outcome = loop {
                tokio::select! {
                    outcome = &mut work => break outcome,
                    () = tokio::time::sleep(WORKING_EVERY) => {
                        let working = Answer::Working(SnapshotWorking {});
                        // If nobody listens any more, the work ends by itself, and until then nobody else begins.
                        let _ = answers.send(Ok(working)).await;
                    }
                }
            };
            if let Err(status) = &outcome {
                tracing::warn!(%from, reason = status.message(), "a snapshot was not taken");
            }
            let end = outcome.map(|response| Answer::End(codec::encode(&response).into()));
            let _ = answers.send(end).await;
        });
        let said = futures::stream::unfold(said, |mut said| async {
            said.recv().await.map(|next| (next, said))
        });
        Ok(said.map(move |answer| {
            let envelope = Some(envelope.clone());
            answer.map(|answer| SnapshotAnswer { envelope, answer: Some(answer) })
        }))
    }

    async fn take(
        self,
        header: SnapshotHeader,
        from: NodeId,
        mut messages: Streaming<SnapshotPart>,
        answers: &mpsc::Sender<Result<Answer, Status>>,
    ) -> Result<SnapshotResponse<TypeConfig>, Status> {
        let known = self.raft.metrics().borrow_watched().vote;
        if header.vote < known {
            // A leader of the past: it need not send anything.
            return Ok(SnapshotResponse::new(known));
        }
        let meta = header.manifest.meta.clone();
        let receiving = self.begin(header.manifest).await?;
        tracing::info!(
            %from,
            last = ?meta.last_log_id,
            files = receiving.wanted().len(),
            bytes = receiving.wanted_bytes(),
            "receiving a snapshot"
        );
        let tails = receiving.wanted().iter().map(|tail| FileTail {
            file: u32::try_from(tail.file).expect("a manifest has fewer files"),
            from: tail.from,
        });
        let wanted = Answer::Wanted(SnapshotWanted { files: tails.collect() });
        if answers.send(Ok(wanted)).await.is_err() {
            return Err(Status::cancelled("the sender has gone"));
        }
        let (parts, received) = mpsc::channel::<Bytes>(PARTS_AHEAD);
        let writing = tokio::task::spawn_blocking(move || receiving.receive(received));
        let fed = feed(self.local, from, &mut messages, &parts).await;
        drop(parts);
        let written = writing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        // A refused part explains more than the stream that broke off because of it.
        fed?;
        let snapshot = written
            .map_err(|error| Status::data_loss(format!("the snapshot was refused: {error}")))?;
        tracing::info!(%from, last = ?meta.last_log_id, "installing a snapshot");
        self.raft
            .install_full_snapshot(header.vote, Snapshot { meta, snapshot })
            .await
            .map_err(|fatal| stopped(&fatal))
    }

    /// Looks what is here already, where it may block.
    async fn begin(&self, manifest: Manifest) -> Result<Receiving, Status> {
        let snapshots = Arc::clone(&self.snapshots);
        tokio::task::spawn_blocking(move || Receiving::begin(&snapshots, manifest))
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(|error| Status::data_loss(format!("the snapshot was refused: {error}")))
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
        metrics::counter!("reelraft_raft_snapshot_bytes_total", "direction" => "received")
            .increment(data.len() as u64);
        if parts.send(data).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
