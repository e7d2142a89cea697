//! The operator's requests to a node: who are you, become this, make one cluster of these.
//!
//! The service is there from the first moment of a process on, before the node belongs to anything. Its callers are not
//! nodes, so its messages have no envelope; as long as there is no other proof of who is asking, it is served on loopback
//! only, like everything else on this port.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use cluster::ids::NodeId;
use proto::cluster::admin_client::AdminClient;
use proto::cluster::admin_server::Admin;
use proto::cluster::{
    AdoptReply, AdoptRequest, IdentifyReply, IdentifyRequest, InitReply, InitRequest,
};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::bootstrap;
use crate::identity::Identity;
use crate::run::Daemon;

/// The whole of `cluster init` on the receiver: asking all, adoption, an election, the first command. Longer than the sum of
/// the deadlines inside, so that the receiver's own words arrive.
const INIT_MAX: Duration = Duration::from_secs(60);

/// The server's side.
pub struct AdminService {
    daemon: Arc<Daemon>,
}

impl AdminService {
    #[must_use]
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon }
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn identify(
        &self,
        _: Request<IdentifyRequest>,
    ) -> Result<Response<IdentifyReply>, Status> {
        Ok(Response::new(self.daemon.identify()))
    }

    async fn adopt(&self, request: Request<AdoptRequest>) -> Result<Response<AdoptReply>, Status> {
        let request = request.into_inner();
        let cluster_id = cluster_id(&request.cluster_id)?;
        if request.node_id == 0 || request.members.is_empty() {
            return Err(Status::invalid_argument("a node id and the members are needed"));
        }
        let identity = Identity::new(cluster_id, NodeId(request.node_id), request.members);
        let daemon = self.daemon.clone();
        // A caller that goes away must not leave a node half started.
        let adopted = tokio::spawn(async move { daemon.adopt(identity).await }).await;
        match adopted {
            Ok(Ok(())) => Ok(Response::new(AdoptReply {})),
            Ok(Err(error)) => Err(Status::failed_precondition(format!("{error:#}"))),
            Err(_) => Err(Status::internal("the node is stopping")),
        }
    }

    async fn init(&self, request: Request<InitRequest>) -> Result<Response<InitReply>, Status> {
        let daemon = self.daemon.clone();
        let nodes = request.into_inner().nodes;
        match tokio::spawn(async move { bootstrap::init(&daemon, &nodes).await }).await {
            Ok(Ok(founded)) => Ok(Response::new(InitReply {
                cluster_id: founded.cluster_id.to_vec().into(),
                node_ids: founded.node_ids.iter().map(|id| id.0).collect(),
            })),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(Status::internal("the node is stopping")),
        }
    }
}

/// Sixteen bytes, or a refusal.
fn cluster_id(bytes: &[u8]) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| Status::invalid_argument("a cluster id has 16 bytes"))
}

/// Asks the node at `address` who it is.
///
/// # Errors
/// When it cannot be reached in time or does not understand the question.
pub async fn identify(address: &str, wait: Duration) -> anyhow::Result<IdentifyReply> {
    let mut client = client(address)?;
    let answer = tokio::time::timeout(wait, client.identify(IdentifyRequest {})).await;
    Ok(answer
        .map_err(|_| anyhow!("no answer from {address} within {wait:?}"))?
        .map_err(|status| words(address, &status))?
        .into_inner())
}

/// Makes the node at `address` a member.
///
/// # Errors
/// When it cannot be reached in time, or refuses.
pub async fn adopt(address: &str, request: AdoptRequest, wait: Duration) -> anyhow::Result<()> {
    let mut client = client(address)?;
    let answer = tokio::time::timeout(wait, client.adopt(request)).await;
    answer
        .map_err(|_| anyhow!("no answer from {address} within {wait:?}"))?
        .map_err(|status| words(address, &status))?;
    Ok(())
}

/// Lets the node at `to` make one cluster of the nodes at `nodes`.
///
/// # Errors
/// In the words of the receiver.
pub async fn init(to: &str, nodes: &[String]) -> anyhow::Result<InitReply> {
    let mut client = client(to)?;
    let request = InitRequest { nodes: nodes.to_vec() };
    let answer = tokio::time::timeout(INIT_MAX, client.init(request)).await;
    Ok(answer
        .map_err(|_| {
            anyhow!("no answer from {to} within {INIT_MAX:?}; `cluster init` may be repeated")
        })?
        .map_err(|status| words(to, &status))?
        .into_inner())
}

fn client(address: &str) -> anyhow::Result<AdminClient<Channel>> {
    let channel = super::channel(address)
        .with_context(|| format!("{address:?} is no RPC address: it has the form host:port"))?;
    Ok(AdminClient::new(channel))
}

/// What a status says to a person: the receiver's own words, or that there is no receiver.
fn words(address: &str, status: &Status) -> anyhow::Error {
    if status.code() == tonic::Code::Unavailable && std::error::Error::source(status).is_some() {
        anyhow!(
            "nobody answers on {address}: is `reelraft serve` running there, and is this its RPC port?"
        )
    } else if !speaks_rpc(status) {
        anyhow!(
            "{address} answers, but not as the RPC port of a node does: is it the HTTP port? The RPC port is the one of \
             `--rpc-listen`, 9080 unless set"
        )
    } else {
        anyhow!("{}", status.message())
    }
}

/// Whether an answer came from a node. This side makes up a status itself when the other one speaks another protocol or knows
/// no such service.
fn speaks_rpc(status: &Status) -> bool {
    let other_protocol = std::error::Error::source(status).is_some()
        && matches!(status.code(), tonic::Code::Internal | tonic::Code::Unknown);
    let no_rpc = ["grpc-status header missing", "protocol error"]
        .iter()
        .any(|beginning| status.message().starts_with(beginning));
    !other_protocol && !no_rpc && status.code() != tonic::Code::Unimplemented
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_rpc_port_is_told_from_a_node_that_refuses() {
        // What the HTTP port of a node makes of it.
        let page =
            Status::internal("protocol error: received message with invalid compression flag");
        assert!(words("a:1", &page).to_string().contains("is it the HTTP port?"));
        let refusal = Status::failed_precondition("it belongs to another cluster");
        assert_eq!(words("a:1", &refusal).to_string(), "it belongs to another cluster");
    }
}
