//! What an operator asks about missing copies: hold on, go on, and are they all there?
//!
//! Served behind the same socket as [`super::operations`].

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use cluster::command::Action;
use futures::Stream;
use proto::repair::repair_client::RepairClient;
use proto::repair::repair_server::{Repair, RepairServer};
use proto::repair::{CountReply, CountRequest, PauseReply, PauseRequest};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::admin::{actor, ask, member_of, propose, words};
use crate::content::{Census, CensusDepth};
use crate::run::{Daemon, Member};

/// Messages about a count that nobody has read yet. Whoever reads slowly misses some that tell how far it is.
const REPLIES_AHEAD: usize = 4;

/// How long whoever waits for a count may hear nothing. A page whose copies are read takes seconds, and a holder that hangs
/// holds up its page for half a minute.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// The server's side.
pub struct RepairService {
    daemon: Arc<Daemon>,
}

impl RepairService {
    #[must_use]
    pub fn server(daemon: Arc<Daemon>) -> RepairServer<Self> {
        RepairServer::new(Self { daemon })
    }
}

#[tonic::async_trait]
impl Repair for RepairService {
    type CountStream = Pin<Box<dyn Stream<Item = Result<CountReply, Status>> + Send>>;

    async fn pause(&self, request: Request<PauseRequest>) -> Result<Response<PauseReply>, Status> {
        let member = member_of(&self.daemon)?;
        let actor = actor(request.extensions(), &member);
        let PauseRequest { paused } = request.into_inner();
        propose(&member, Action::PauseRepair { paused, actor }).await?;
        Ok(Response::new(PauseReply {}))
    }

    async fn count(
        &self,
        request: Request<CountRequest>,
    ) -> Result<Response<Self::CountStream>, Status> {
        let member = member_of(&self.daemon)?;
        let depth = if request.into_inner().read { CensusDepth::Bytes } else { CensusDepth::Names };
        // What was acknowledged before this was asked for is counted.
        let consensus = member.consensus();
        let newest =
            async { consensus.wait_applied(consensus.read_index().await?, SILENCE_MAX).await };
        newest.await.map_err(|error| Status::aborted(error.to_string()))?;
        let (replies, receiver) = mpsc::channel(REPLIES_AHEAD);
        tokio::spawn(async move {
            let counting = count(&member, depth, &replies);
            tokio::select! {
                () = counting => {}
                () = replies.closed() => {}
            }
        });
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|reply| (reply, receiver))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

async fn count(
    member: &Member,
    depth: CensusDepth,
    replies: &mpsc::Sender<Result<CountReply, Status>>,
) {
    let progress = |so_far: &Census| {
        // One that finds no room is followed by others.
        let _ = replies.try_send(Ok(told(so_far, false)));
    };
    let result = match member.content().count_copies(depth, progress).await {
        Ok(census) => Ok(told(&census, true)),
        Err(error) => Err(Status::aborted(error.to_string())),
    };
    // Whoever asked may have gone.
    let _ = replies.send(result).await;
}

fn told(census: &Census, finished: bool) -> CountReply {
    let census = census.clone();
    CountReply {
        finished,
        layout_epoch: census.layout_epoch,
        blocks: census.blocks,
        bytes: census.bytes,
        copies: census.copies,
        lacking: census.lacking,
        unknown: census.unknown,
        lost: census.lost,
        examples: census.examples,
        violations: census.violations,
    }
}

/// The operator's side: speaks to the node that runs on a directory.
#[derive(Clone, Debug)]
pub struct RepairApi {
    client: RepairClient<Channel>,
}

impl RepairApi {
    /// # Errors
    /// When no node runs on `data_dir`, or this user may not speak to it.
    pub async fn connect(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { client: RepairClient::new(super::local::connect(data_dir).await?) })
    }

    /// Lets no node make missing copies, or lets them go on.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn pause(&self, paused: bool) -> anyhow::Result<()> {
        ask(self.client.clone().pause(PauseRequest { paused })).await.map(drop)
    }

    /// Counts all copies. `progress` is told how far it is now and then.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn count(
        &self,
        read: bool,
        mut progress: impl FnMut(&CountReply),
    ) -> anyhow::Result<CountReply> {
        let mut replies = ask(self.client.clone().count(CountRequest { read })).await?;
        loop {
            let next = timeout(SILENCE_MAX, replies.message()).await;
            let next =
                next.map_err(|_| anyhow!("the node has said nothing for {SILENCE_MAX:?}"))?;
            let reply = next
                .map_err(|status| words(&status))?
                .context("the node ended the count before its result")?;
            if reply.finished {
                return Ok(reply);
            }
            progress(&reply);
        }
    }
}
