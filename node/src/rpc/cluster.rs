//! What nodes ask each other about decisions, and about how they are.
//!
//! Commands and read indexes go to consensus. A ping is answered from memory, so that a node whose disk is slow still says
//! that it is there.

use std::sync::Arc;

use proto::cluster::cluster_server::{Cluster, ClusterServer};
use proto::cluster::{
    PingReply, PingRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest,
};
use tonic::{Request, Response, Status};

use super::MESSAGE_BYTES_MAX;
use super::envelope::LocalNode;
use crate::observe::now_ms;
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
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn propose(
        &self,
        request: Request<ProposeRequest>,
    ) -> Result<Response<ProposeReply>, Status> {
        self.member.consensus().serve_propose(request.into_inner()).await.map(Response::new)
    }

    async fn read_index(
        &self,
        request: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        self.member.consensus().serve_read_index(request.into_inner()).await.map(Response::new)
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        self.local.verify(request.get_ref().envelope.as_ref())?;
        let stats = self.member.stats();
        Ok(Response::new(PingReply {
            incarnation: self.incarnation.to_vec().into(),
            applied_index: stats.applied_index,
            blocks: stats.blocks,
            bytes: stats.bytes,
            capacity_bytes: stats.capacity_bytes,
            missing_blocks: stats.missing_blocks.unwrap_or(0),
            missing_known: stats.missing_blocks.is_some(),
            stopping: stats.stopping,
            trouble: stats.trouble.unwrap_or_default(),
            time_ms: now_ms(),
            disk_free_bytes: stats.disk.map_or(0, |disk| disk.free_bytes),
            disk_total_bytes: stats.disk.map_or(0, |disk| disk.total_bytes),
            certificate_ends_ms: stats.certificate_ends_ms.unwrap_or(0),
        }))
    }
}
