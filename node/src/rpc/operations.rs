//! What an operator asks of a cluster that runs: take nodes out of it, look after them, look back, make backups.
//!
//! Served beside [`super::admin`] behind the same socket. Any node of the cluster takes these requests; what they change
//! goes through the log and is recorded there with who asked for it.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use cluster::catalog;
use cluster::command::{Action, Refusal};
use cluster::ids::NodeId;
use cluster::tables::members::MemberState;
use cluster::view::ViewError;
use futures::Stream;
use proto::operations::operations_client::OperationsClient;
use proto::operations::operations_server::{Operations, OperationsServer};
use proto::operations::watch_drain_reply::State;
use proto::operations::{
    AuditEntry, BackupPart, BackupRequest, DrainReply, DrainRequest, ListAuditReply,
    ListAuditRequest, NodePlan, PlanReply, PlanRequest, RemoveReply, RemoveRequest, ScrubOfNode,
    SetMaintenanceReply, SetMaintenanceRequest, StartScrubReply, StartScrubRequest, Waiting,
    WatchDrainReply, WatchDrainRequest, WatchScrubReply, WatchScrubRequest,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::admin::{LOOK, actor, ask, member_of, refusal_of, refused, words};
use super::scrub;
use crate::backup;
use crate::run::{Change, Daemon, Member, Situation, plan, removal};

/// The most entries of the audit log in one answer.
const AUDIT_MAX: u32 = 1000;

/// Bytes of a backup in one message, and messages ahead of the reader.
const PART_BYTES: usize = 256 << 10;
const PARTS_AHEAD: usize = 4;

/// How long whoever asked for a backup may not take any of it. It holds a thread and a snapshot of the catalog.
const READER_STALL_MAX: Duration = Duration::from_secs(60);

/// How long one look at a drain may take: asking the leader, and catching up with it.
const WATCH_MAX: Duration = Duration::from_secs(15);

/// How long a node that is behind may take to have the newest catalog before something is decided on it.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// The server's side.
pub struct OperationsService {
    daemon: Arc<Daemon>,
}

impl OperationsService {
    #[must_use]
    pub fn server(daemon: Arc<Daemon>) -> OperationsServer<Self> {
        OperationsServer::new(Self { daemon })
    }

    fn member(&self) -> Result<Arc<Member>, Status> {
        member_of(&self.daemon)
    }
}

#[tonic::async_trait]
impl Operations for OperationsService {
    type BackupStream = std::pin::Pin<Box<dyn Stream<Item = Result<BackupPart, Status>> + Send>>;

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        let DrainRequest { node, cancel } = request.into_inner();
        let node = NodeId(node);
        let action = if cancel {
            Action::CancelDrain { node, actor }
        } else {
            Action::DrainNode { node, actor }
        };
        propose(&member, node, action).await?;
        Ok(Response::new(DrainReply {}))
    }

    async fn watch_drain(
        &self,
        request: Request<WatchDrainRequest>,
    ) -> Result<Response<WatchDrainReply>, Status> {
        let member = self.member()?;
        let node = NodeId(request.into_inner().node);
        newest(&member).await?;
        let row = catalog::member(member.consensus().catalog().as_ref(), node);
        let row = row.map_err(unreadable)?;
        let row = row.ok_or_else(|| no_such(node))?;
        let (state, waiting) = match row.state {
            MemberState::Member => (State::Stays, None),
            MemberState::Removed { .. } => (State::Removed, None),
            MemberState::Draining { .. } => {
                let progress = removal::progress(&member, node).map_err(unreadable)?;
                (State::Draining, Some(waiting(progress)))
            }
        };
        Ok(Response::new(WatchDrainReply { state: state.into(), waiting }))
    }

    async fn remove(
        &self,
        request: Request<RemoveRequest>,
    ) -> Result<Response<RemoveReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        let RemoveRequest { node, force } = request.into_inner();
        let node = NodeId(node);
        // Decided on what is newest: somebody may have taken another node out a moment ago.
        newest(&member).await?;
        let catalog = member.consensus().catalog();
        match catalog::member(catalog.as_ref(), node).map_err(unreadable)?.map(|row| row.state) {
            None => return Err(no_such(node)),
            Some(MemberState::Removed { .. }) => return Err(removed_already(node)),
            Some(MemberState::Member | MemberState::Draining { .. }) => {}
        }
        let reasons = removal::why_not(&member, node, force);
        if !reasons.is_empty() {
            return Err(Status::failed_precondition(cannot_be_removed(node, &reasons)));
        }
        propose(&member, node, Action::RemoveNode { node, force, actor }).await?;
        Ok(Response::new(RemoveReply {}))
    }

    async fn set_maintenance(
        &self,
        request: Request<SetMaintenanceRequest>,
    ) -> Result<Response<SetMaintenanceReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        let SetMaintenanceRequest { node, length_ms } = request.into_inner();
        let now_ms = member.consensus().now_ms();
        let until_ms = (length_ms > 0).then(|| now_ms.saturating_add(length_ms));
        let node = NodeId(node);
        propose(&member, node, Action::SetMaintenance { node, until_ms, actor }).await?;
        Ok(Response::new(SetMaintenanceReply { until_ms: until_ms.unwrap_or(0) }))
    }

    async fn list_audit(
        &self,
        request: Request<ListAuditRequest>,
    ) -> Result<Response<ListAuditReply>, Status> {
        let member = self.member()?;
        let limit = request.into_inner().limit.min(AUDIT_MAX);
        let rows = catalog::audit(member.consensus().catalog().as_ref(), limit as usize)
            .map_err(|error| Status::unavailable(error.to_string()))?;
        let entries = rows.into_iter().map(|(index, row)| AuditEntry {
            index,
            time_ms: row.time_ms,
            actor: row.actor,
            action: row.action,
            outcome: row.outcome,
        });
        Ok(Response::new(ListAuditReply { entries: entries.collect() }))
    }

    async fn start_scrub(
        &self,
        request: Request<StartScrubRequest>,
    ) -> Result<Response<StartScrubReply>, Status> {
        let member = self.member()?;
        let actor = actor(request.extensions(), &member);
        super::admin::propose(&member, Action::StartScrub { actor }).await?;
        Ok(Response::new(StartScrubReply {}))
    }

    async fn watch_scrub(
        &self,
        _: Request<WatchScrubRequest>,
    ) -> Result<Response<WatchScrubReply>, Status> {
        let member = self.member()?;
        newest(&member).await?;
        scrub::of_all(&member).map(Response::new).map_err(unreadable)
    }

    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanReply>, Status> {
        let member = self.member()?;
        let request = request.into_inner();
        newest(&member).await?;
        let ids = |nodes: Vec<u64>| nodes.into_iter().map(NodeId).collect();
        let capacities = request.capacity.into_iter();
        let added = request.add.into_iter();
        let change = Change {
            add: added.map(|node| (node.zone, node.capacity_bytes)).collect(),
            drain: ids(request.drain),
            remove: ids(request.remove),
            capacity: capacities.map(|of| (NodeId(of.node), of.capacity_bytes)).collect(),
        };
        let situation = Situation::look(&member).map_err(unreadable)?;
        let situation =
            situation.ok_or_else(|| Status::failed_precondition("there is no cluster yet"))?;
        let rate = u64::from(self.daemon.config().repair_bytes_per_second);
        let plan = plan(&situation, &change, rate).map_err(Status::failed_precondition)?;
        Ok(Response::new(PlanReply {
            layout_epoch: plan.layout_epoch,
            copies: plan.copies,
            bytes: plan.bytes,
            steps: plan.steps,
            seconds: plan.time.as_secs(),
            nodes: plan.nodes.into_iter().map(node_plan).collect(),
            waiting_for: plan.waiting_for.unwrap_or_default(),
            warnings: plan.warnings,
        }))
    }

    async fn backup(
        &self,
        _: Request<BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let member = self.member()?;
        // Not older than what whoever asks has seen acknowledged.
        let index = member.consensus().read_index().await.map_err(|error| {
            Status::aborted(format!("the catalog is not known to be the newest: {error}{LOOK}"))
        })?;
        member.consensus().wait_applied(index, READER_STALL_MAX).await.map_err(|error| {
            Status::aborted(format!("this node does not catch up in time: {error}"))
        })?;
        let (parts, receiver) = mpsc::channel(PARTS_AHEAD);
        let runtime = Handle::current();
        tokio::task::spawn_blocking(move || {
            let out = Parts { parts: parts.clone(), runtime: runtime.clone() };
            if let Err(error) = write_backup(&member, out) {
                let failed = Err(Status::aborted(format!("the backup broke off: {error:#}")));
                // The reader may be what broke off.
                let _ = runtime.block_on(timeout(READER_STALL_MAX, parts.send(failed)));
            }
        });
        let stream = futures::stream::unfold(receiver, |mut receiver| async {
            receiver.recv().await.map(|part| (part, receiver))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// Has a command applied that is about `node`.
async fn propose(member: &Member, node: NodeId, action: Action) -> Result<(), Status> {
    match refusal_of(member, action).await? {
        None => Ok(()),
        Some(Refusal::UnknownNode) => Err(no_such(node)),
        Some(Refusal::NodeRemoved) => Err(removed_already(node)),
        Some(refusal) => Err(refused(&refusal)),
    }
}

fn no_such(node: NodeId) -> Status {
    Status::not_found(format!(
        "there is no node {node}; `reelraft node list` shows those that there are"
    ))
}

fn removed_already(node: NodeId) -> Status {
    Status::failed_precondition(format!("node {node} was removed from the cluster already"))
}

fn unreadable(error: ViewError) -> Status {
    Status::aborted(error.to_string())
}

/// Waits until this node has the newest catalog.
async fn newest(member: &Member) -> Result<(), Status> {
    let consensus = member.consensus();
    let newest =
        async { consensus.wait_applied(consensus.read_index().await?, CATCH_UP_MAX).await };
    newest.await.map_err(|error| {
        Status::aborted(format!("the catalog is not known to be the newest: {error}{LOOK}"))
    })
}

/// One reason in the sentence, several below each other.
fn cannot_be_removed(node: NodeId, reasons: &[String]) -> String {
    match reasons {
        [reason] => format!("node {node} cannot be removed now: {reason}"),
        reasons => format!("node {node} cannot be removed now:\n  - {}", reasons.join("\n  - ")),
    }
}

fn node_plan(plan: crate::run::NodePlan) -> NodePlan {
    NodePlan {
        id: plan.id.0,
        zone: plan.zone,
        new: plan.new,
        capacity_bytes: plan.capacity_bytes,
        groups_before: plan.groups_before,
        groups_after: plan.groups_after,
        gained: plan.gained,
        lost: plan.lost,
        bytes_before: plan.bytes_before,
        bytes_after: plan.bytes_after,
    }
}

fn waiting(progress: removal::Progress) -> Waiting {
    Waiting {
        groups: progress.groups,
        copies_missing: progress.copies_missing,
        leads: progress.leads,
        votes: progress.votes,
        jobs: progress.jobs,
        uploads: progress.uploads,
        reasons: progress.reasons,
        stuck: progress.stuck.unwrap_or_default(),
    }
}

fn write_backup(member: &Member, out: Parts) -> anyhow::Result<()> {
    let (view, index) = member.consensus().moment()?;
    let mut out = BufWriter::with_capacity(PART_BYTES, out);
    let rows = backup::write(&view, index, &mut out)?;
    out.flush()?;
    tracing::info!(rows, index, "the catalog was backed up");
    Ok(())
}

/// Bytes for whoever asked for a backup. Used on a thread that may block.
struct Parts {
    parts: mpsc::Sender<Result<BackupPart, Status>>,
    runtime: Handle,
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let data = Bytes::copy_from_slice(&bytes[..bytes.len().min(PART_BYTES)]);
        let taken = data.len();
        let sending = self.parts.send(Ok(BackupPart { data }));
        match self.runtime.block_on(async { timeout(READER_STALL_MAX, sending).await }) {
            Ok(Ok(())) => Ok(taken),
            Ok(Err(_)) => Err(io::Error::other("nobody takes the backup any more")),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The operator's side: speaks to the node that runs on a directory.
#[derive(Clone, Debug)]
pub struct OperationsApi {
    client: OperationsClient<Channel>,
}

impl OperationsApi {
    /// # Errors
    /// When no node runs on `data_dir`, or this user may not speak to it.
    pub async fn connect(data_dir: &Path) -> anyhow::Result<Self> {
        Ok(Self { client: OperationsClient::new(super::local::connect(data_dir).await?) })
    }

    /// Begins to drain a node, or ends it.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn drain(&self, node: u64, cancel: bool) -> anyhow::Result<()> {
        ask(self.client.clone().drain(DrainRequest { node, cancel })).await.map(drop)
    }

    /// What a change would move.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn plan(&self, request: PlanRequest) -> anyhow::Result<PlanReply> {
        ask(self.client.clone().plan(request)).await
    }

    /// What a node that is being drained still waits for.
    ///
    /// # Errors
    /// A status: `aborted` and `unavailable` may pass.
    pub async fn watch_drain(&self, node: u64) -> Result<WatchDrainReply, Status> {
        let mut client = self.client.clone();
        match timeout(WATCH_MAX, client.watch_drain(WatchDrainRequest { node })).await {
            Ok(answer) => answer.map(Response::into_inner),
            Err(_) => Err(Status::aborted(format!("no answer within {WATCH_MAX:?}"))),
        }
    }

    /// Takes a node out of the cluster for ever.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn remove(&self, node: u64, force: bool) -> anyhow::Result<()> {
        ask(self.client.clone().remove(RemoveRequest { node, force })).await.map(drop)
    }

    /// Begins a node's maintenance, or ends it when there is no `length`. Returns until when, in milliseconds since 1970.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn set_maintenance(
        &self,
        node: u64,
        length: Option<Duration>,
    ) -> anyhow::Result<u64> {
        let length_ms =
            length.map_or(0, |length| u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1));
        let request = SetMaintenanceRequest { node, length_ms };
        Ok(ask(self.client.clone().set_maintenance(request)).await?.until_ms)
    }

    /// Has all nodes read all their blocks again.
    ///
    /// # Errors
    /// In the words of the node.
    pub async fn start_scrub(&self) -> anyhow::Result<()> {
        ask(self.client.clone().start_scrub(StartScrubRequest {})).await.map(drop)
    }

    /// How far the nodes are with that.
    ///
    /// # Errors
    /// A status: `aborted` and `unavailable` may pass.
    pub async fn watch_scrub(&self) -> Result<Vec<ScrubOfNode>, Status> {
        let mut client = self.client.clone();
        match timeout(WATCH_MAX, client.watch_scrub(WatchScrubRequest {})).await {
            Ok(answer) => answer.map(|answer| answer.into_inner().nodes),
            Err(_) => Err(Status::aborted(format!("no answer within {WATCH_MAX:?}"))),
        }
    }

    /// # Errors
    /// In the words of the node.
    pub async fn audit(&self, limit: u32) -> anyhow::Result<Vec<AuditEntry>> {
        Ok(ask(self.client.clone().list_audit(ListAuditRequest { limit })).await?.entries)
    }

    /// Writes a backup of the catalog to `to`. Returns its length in bytes.
    ///
    /// # Errors
    /// In the words of the node, or when `to` cannot be written. What was written is no backup then.
    pub async fn backup(&self, to: &mut dyn Write) -> anyhow::Result<u64> {
        let mut parts = ask(self.client.clone().backup(BackupRequest {})).await?;
        let mut bytes = 0;
        loop {
            let next = timeout(READER_STALL_MAX, parts.message()).await;
            match next.map_err(|_| anyhow!("the node has sent nothing for {READER_STALL_MAX:?}"))? {
                Ok(Some(part)) => {
                    bytes += part.data.len() as u64;
                    to.write_all(&part.data)?;
                }
                Ok(None) => return Ok(bytes),
                Err(status) => return Err(words(&status)),
            }
        }
    }
}
