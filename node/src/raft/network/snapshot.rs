//! Sending a snapshot: only what the receiver lacks, and no faster than leaves room for everything else.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cluster::codec;
use openraft::OptionalSend;
use openraft::errors::{ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{NetSnapshot, RPCOption};
use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::SnapshotOf;
use proto::raft::snapshot_answer::Answer;
use proto::raft::snapshot_part::Part;
use proto::raft::{SnapshotAnswer, SnapshotPart};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Streaming;

use super::super::snapshot::{Manifest, PARTS_AHEAD, StoredSnapshot, Tail, send};
use super::super::types::{TypeConfig, Vote};
use super::{Connection, unreachable};
use crate::rpc::peers::Purpose;

/// How long either side may hear nothing, or not get rid of a part, before it gives the transfer up. What has arrived by
/// then is not sent again.
pub(in crate::raft) const SNAPSHOT_STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The pace of one snapshot: a catalog of a gigabyte takes a quarter of a minute, and a network or disk of today has room
/// for the rest beside it.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// What goes ahead of a snapshot.
#[derive(Serialize, Deserialize)]
pub(in crate::raft) struct SnapshotHeader {
    pub(in crate::raft) vote: Vote,
    pub(in crate::raft) manifest: Manifest,
}

/// What the receiver says.
enum Said {
    Wanted(Vec<Tail>),
    End(SnapshotResponse<TypeConfig>),
}

impl Connection {
    /// The next thing that the receiver says, as long as it gives signs of life.
    async fn hear(
        &self,
        answers: &mut Streaming<SnapshotAnswer>,
    ) -> Result<Said, Unreachable<TypeConfig>> {
        loop {
            let answer = timeout(SNAPSHOT_STALL_TIMEOUT, answers.message())
                .await
                .map_err(|_| unreachable("the receiver of the snapshot fell silent"))?
                .map_err(unreachable)?
                .ok_or_else(|| unreachable("the receiver of the snapshot broke off"))?;
            self.peers
                .local()
                .verify_from(answer.envelope.as_ref(), self.target)
                .map_err(|status| unreachable(status.message()))?;
            match answer.answer {
                Some(Answer::Working(_)) => {}
                Some(Answer::Wanted(wanted)) => {
                    let tails = wanted.files.iter().map(|tail| {
                        let file = usize::try_from(tail.file).unwrap_or(usize::MAX);
                        Tail { file, from: tail.from }
                    });
                    return Ok(Said::Wanted(tails.collect()));
                }
                Some(Answer::End(end)) => {
                    return codec::decode(&end).map(Said::End).map_err(|error| {
                        unreachable(format!("its answer cannot be decoded: {error}"))
                    });
                }
                None => return Err(unreachable("its answer is not understood")),
            }
        }
    }

    fn part(&self, part: Part) -> SnapshotPart {
        let envelope = Some(self.peers.local().envelope_to(self.target));
        SnapshotPart { envelope, part: Some(part) }
    }

    /// Sends what is wanted. Ends when all has been handed to the connection, or nobody takes it any more.
    async fn feed(
        &self,
        snapshot: Arc<StoredSnapshot>,
        wanted: Vec<Tail>,
        outgoing: mpsc::Sender<SnapshotPart>,
    ) -> Result<(), Unreachable<TypeConfig>> {
        let (parts, mut read) = mpsc::channel(PARTS_AHEAD);
        let reading = tokio::task::spawn_blocking(move || send(&snapshot, &wanted, &parts));
        let started = Instant::now();
        let mut sent = 0;
        while let Some(data) = read.recv().await {
            sent += data.len() as u64;
            metrics::counter!("reelraft_raft_snapshot_bytes_total", "direction" => "sent")
                .increment(data.len() as u64);
            match timeout(SNAPSHOT_STALL_TIMEOUT, outgoing.send(self.part(Part::Data(data)))).await
            {
                Ok(Ok(())) => {}
                // The call has ended; its result says why.
                Ok(Err(_)) => return Ok(()),
                Err(_) => return Err(unreachable("the snapshot makes no progress")),
            }
            sleep_until(started + Duration::from_secs_f64(sent as f64 / BYTES_PER_SECOND as f64))
                .await;
        }
        // A file that cannot be read ends the stream early, which the receiver refuses.
        match reading.await {
            Ok(Err(error)) => Err(unreachable(format!("the snapshot cannot be read: {error}"))),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    async fn transfer(
        &self,
        header: SnapshotHeader,
        snapshot: Arc<StoredSnapshot>,
        install: Duration,
    ) -> Result<SnapshotResponse<TypeConfig>, Unreachable<TypeConfig>> {
        let (outgoing, requests) = mpsc::channel(1);
        let requests = futures::stream::unfold(requests, |mut requests| async {
            requests.recv().await.map(|next| (next, requests))
        });
        // There is room for it: the channel is new.
        let _ = outgoing.try_send(self.part(Part::Header(codec::encode(&header).into())));
        let mut client = self.client(Purpose::Snapshot)?;
        let mut answers = timeout(SNAPSHOT_STALL_TIMEOUT, client.install_snapshot(requests))
            .await
            .map_err(|_| unreachable("the receiver does not answer"))?
            .map_err(unreachable)?
            .into_inner();
        let wanted = match self.hear(&mut answers).await? {
            Said::Wanted(wanted) => wanted,
            // It knows of a newer leader.
            Said::End(response) => return Ok(response),
        };
        tracing::info!(to = %self.target, files = wanted.len(), "sending a snapshot");
        let listening = self.hear(&mut answers);
        tokio::pin!(listening);
        tokio::select! {
            // It ended early, for a reason that matters more than what was not sent.
            said = &mut listening => return end(said?),
            fed = self.feed(snapshot, wanted, outgoing) => fed?,
        }
        let said = timeout(install, listening)
            .await
            .map_err(|_| unreachable("the snapshot is not installed in time"))?;
        end(said?)
    }
}

fn end(said: Said) -> Result<SnapshotResponse<TypeConfig>, Unreachable<TypeConfig>> {
    match said {
        Said::End(response) => Ok(response),
        Said::Wanted(_) => Err(unreachable("the receiver asks twice for what it lacks")),
    }
}

impl NetSnapshot<TypeConfig> for Connection {
    type SnapshotData = Arc<StoredSnapshot>;

    /// Gives up when nothing moves for [`SNAPSHOT_STALL_TIMEOUT`], however long the whole takes; the receiver's installation
    /// after the last part gets what openraft allows for it.
    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<TypeConfig, Arc<StoredSnapshot>>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let header = SnapshotHeader { vote, manifest: snapshot.snapshot.manifest().clone() };
        let transfer = self.transfer(header, snapshot.snapshot, option.soft_ttl());
        tokio::select! {
            done = transfer => done.map_err(|error| {
                tracing::info!(to = %self.target, %error, "a snapshot was not delivered");
                error.into()
            }),
            closed = cancel => Err(closed.into()),
        }
    }
}
