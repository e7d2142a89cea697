//! What nodes ask each other about decisions, and about how they are.
//!
//! Commands and read indexes go to consensus. A ping waits for no read or write of the node's files, so that a node whose disk is
//! slow still says that it is there.

use std::sync::Arc;

use ::cluster::ids::NodeId;
use proto::cluster::cluster_server::{Cluster, ClusterServer};
use proto::cluster::{
    PingReply, PingRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest,
    RenewReply, RenewRequest,
};
use proto::raft::Envelope;
use tonic::{Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use super::caller::Caller;
use super::envelope::LocalNode;
use super::scrub;
use crate::authority::SigningRequest;
use crate::now_ms;
use crate::run::Member;

/// The server's side.
pub struct ClusterService {
    local: LocalNode,
    /// Random, new with each start of the process.
    incarnation: [u8; 16],
    member: Arc<Member>,
}

impl ClusterService {
    /// The service, ready to be added to the server.
    #[must_use]
    pub fn server(incarnation: [u8; 16], member: Arc<Member>) -> ClusterServer<Self> {
        let identity = member.identity();
        let local = LocalNode { cluster_id: identity.cluster_id, node_id: identity.node_id };
        ClusterServer::new(Self { local, incarnation, member })
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn sender<T>(
        &self,
        request: &Request<T>,
        envelope: Option<&Envelope>,
    ) -> Result<NodeId, Status> {
        self.local.verify_caller(Caller::of(request.extensions()), envelope)
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        self.sender(&request, request.get_ref().envelope.as_ref())?;
        self.member.consensus().serve_propose(request.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.sender(&request, request.get_ref().envelope.as_ref())?;
        self.member.consensus().serve_read_index(request.into_inner()).await.map(Response::new)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        let sender = self.sender(&request, request.get_ref().envelope.as_ref())?;
        let request = SigningRequest::parse(&request.get_ref().signing_request)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let known = self.member.is_member(sender, request.public_key_hash());
        if !known.map_err(|error| Status::unavailable(error.to_string()))? {
            return Err(Status::failed_precondition(format!(
                "node {sender} is no member with this key, as far as node {} knows",
                self.local.node_id
            )));
        }
        let certificate = self
            .member
            .certify(&request, sender)
            .map_err(|error| Status::unavailable(format!("{error:#}")))?;
        Ok(Response::new(RenewReply { certificate: certificate.to_vec().into() }))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        self.sender(&request, request.get_ref().envelope.as_ref())?;
        let stats = self.member.stats();
        Ok(Response::new(PingReply {
            incarnation: self.incarnation.to_vec().into(),
            applied_index: stats.applied_index,
            blocks: stats.blocks,
            bytes: stats.bytes,
            capacity_bytes: stats.capacity_bytes,
            missing_blocks: stats.missing_blocks.unwrap_or(0),
            missing_known: stats.missing_blocks.is_some(),
            layout_epoch: stats.layout_epoch,
            layout_known_ms: u64::try_from(stats.layout_known_for.as_millis()).unwrap_or(u64::MAX),
            stopping: stats.stopping,
            trouble: stats.trouble.unwrap_or_default(),
            time_ms: now_ms(),
            disk_free_bytes: stats.disk.map_or(0, |disk| disk.free_bytes),
            disk_total_bytes: stats.disk.map_or(0, |disk| disk.total_bytes),
            certificate_ends_ms: stats.certificate_ends_ms.unwrap_or(0),
            uploads: stats.uploads,
            refuses_blocks: stats.refuses_blocks,
            quarantined_blocks: stats.quarantined_blocks,
            counted: stats.counted.map(|counted| proto::cluster::CopyCount {
                age_ms: u64::try_from(counted.age.as_millis()).unwrap_or(u64::MAX),
                layout_epoch: counted.layout_epoch,
                blocks: counted.blocks,
                copies: counted.copies,
                lacking: counted.lacking,
                unknown: counted.unknown,
            }),
            queued_blocks: stats.repair.queued_blocks,
            queued_bytes: stats.repair.queued_bytes,
            repair_bytes_per_second: stats.repair.bytes_per_second,
            repair_waits_for: stats.repair.waiting_for.unwrap_or_default(),
            ballast_released: stats.ballast_released,
            scrub: stats.scrub.map(scrub::sent),
            allocated_bytes: stats.allocated_bytes,
            frees_whole_volumes_only: stats.frees_whole_volumes_only,
            backlog_blocks: stats.backlog.blocks,
            backlog_bytes: stats.backlog.bytes,
            surplus_blocks: stats.surplus_blocks.unwrap_or(0),
            surplus_bytes: stats.surplus_bytes,
            surplus_known: stats.surplus_blocks.is_some(),
            lacking_groups: stats.lacking_groups.to_bytes().into(),
            surplus_groups: stats.surplus_groups.to_bytes().into(),
        }))
    }
}
