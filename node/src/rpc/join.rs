//! Strangers who want to become members: the only question that is answered without a certificate.
//!
//! What a stranger says is checked as far as possible before it costs the cluster anything: only somebody who knows the
//! secret of a token that exists gets an entry into the log. The log decides; this node then signs what was decided.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Refusal, Reply};
use cluster::ids::{NodeId, SecretHash, TokenId};
use cluster::tables::nodes::{NodeRow, Role};
use proto::join::join_server::{Join, JoinServer};
use proto::join::{JoinReply, JoinRequest, Member as MemberAddress};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use crate::authority::SigningRequest;
use crate::run::Member;

/// The longest question, in bytes: some names and a request for a certificate.
const QUESTION_BYTES_MAX: usize = 64 << 10;

/// How many strangers are attended to at once.
const AT_ONCE: usize = 8;

/// How long this node may take to catch up with the log before it says that it does not know a token.
const CATCH_UP_MAX: Duration = Duration::from_secs(5);

/// The server's side.
pub struct JoinService {
    member: Arc<Member>,
    /// Where nodes reach this one.
    rpc_addr: String,
    attended: Semaphore,
}

impl JoinService {
    /// The service, ready to be added to the server.
    #[must_use]
    pub fn server(member: Arc<Member>, rpc_addr: String) -> JoinServer<Self> {
        JoinServer::new(Self { member, rpc_addr, attended: Semaphore::new(AT_ONCE) })
            .max_decoding_message_size(QUESTION_BYTES_MAX)
    }

    /// Whether a token exists and this is its secret. A token that was made a moment ago may not have arrived here yet.
    async fn know(&self, token: TokenId, secret: SecretHash) -> Result<(), Status> {
        if self.knows(token, secret)? {
            return Ok(());
        }
        let consensus = self.member.consensus();
        let index = consensus.read_index().await.map_err(unavailable)?;
        consensus.wait_applied(index, CATCH_UP_MAX).await.map_err(unavailable)?;
        if self.knows(token, secret)? { Ok(()) } else { Err(refused(&Refusal::TokenUnknown)) }
    }

    fn knows(&self, token: TokenId, secret: SecretHash) -> Result<bool, Status> {
        let row = catalog::token(self.member.consensus().catalog().as_ref(), token);
        Ok(row.map_err(unavailable)?.is_some_and(|row| row.secret_hash == secret))
    }

    fn other_members(&self, but: NodeId) -> Result<Vec<MemberAddress>, Status> {
        let nodes = catalog::nodes(self.member.consensus().catalog().as_ref());
        let mut members: Vec<_> = nodes
            .map_err(unavailable)?
            .into_iter()
            .filter(|node| node.id != but && node.id != self.member.id())
            .map(|node| MemberAddress { node_id: node.id.0, rpc_addr: node.rpc_addr })
            .collect();
        // Itself it knows before the catalog does.
        members
            .push(MemberAddress { node_id: self.member.id().0, rpc_addr: self.rpc_addr.clone() });
        members.sort_unstable_by_key(|member| member.node_id);
        Ok(members)
    }
}

#[tonic::async_trait]
impl Join for JoinService {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let Ok(_attended) = self.attended.try_acquire() else {
            return Err(Status::unavailable(
                "many nodes are joining at once: try again in a moment",
            ));
        };
        let asked = request.into_inner();
        let token = TokenId(
            asked.token_id.as_ref().try_into().map_err(|_| invalid("a token id has 16 bytes"))?,
        );
        let secret_hash = SecretHash::of(&asked.secret);
        let signing_request =
            SigningRequest::parse(&asked.signing_request).map_err(|error| invalid(&error))?;
        let roles = roles_of(&asked.roles)?;
        let rpc_addr = asked.rpc_addr.clone();
        check_address(&rpc_addr, &self.rpc_addr)?;
        self.know(token, secret_hash).await?;

        let action = Action::AdmitNode {
            token,
            secret_hash,
            public_key_hash: signing_request.public_key_hash(),
            node: NodeRow {
                id: NodeId(0),
                name: asked.name,
                zone: asked.zone,
                roles,
                http_url: asked.http_url,
                rpc_addr: asked.rpc_addr,
                version: asked.version,
                capacity_bytes: asked.capacity_bytes,
                feature_level: asked.feature_level,
            },
        };
        let (reply, _) = self.member.consensus().propose(action).await.map_err(unavailable)?;
        let node = match reply {
            Reply::Admitted(node) => node,
            Reply::Refused(refusal) => return Err(refused(&refusal)),
            Reply::Done | Reply::Version(_) | Reply::Claimed(_) | Reply::Lost(_) => {
                return Err(Status::internal("the catalog gave another answer than was asked for"));
            }
        };
        let certificate = self
            .member
            .certify(&signing_request, node)
            .map_err(|error| unavailable(format!("{error:#}")))?;
        tracing::info!(%node, "a node has joined");
        // Sooner than the catalog is looked at for addresses: whoever lets it in will be asked first how it is.
        self.member.peers().learn_registered(node, &rpc_addr);
        Ok(Response::new(JoinReply {
            node_id: node.0,
            cluster_id: self.member.identity().cluster_id.to_vec().into(),
            certificate: certificate.to_vec().into(),
            members: self.other_members(node)?,
        }))
    }
}

/// The roles with these names.
pub(super) fn roles_of(names: &[String]) -> Result<Vec<Role>, Status> {
    let role = |name: &String| {
        Role::ALL.into_iter().find(|role| role.name() == name).ok_or_else(|| {
            invalid(&format!("{name:?} is no role: there are store, gateway, transcoder"))
        })
    };
    names.iter().map(role).collect()
}

/// Refuses an address at which the others cannot reach the node: one of a machine that every machine is to itself.
fn check_address(theirs: &str, ours: &str) -> Result<(), Status> {
    let (theirs_ip, ours_ip) = (ip_of(theirs), ip_of(ours));
    let local = |ip: Option<IpAddr>| ip.is_some_and(|ip| ip.is_loopback());
    if theirs_ip.is_some_and(|ip| ip.is_unspecified()) || (local(theirs_ip) && !local(ours_ip)) {
        return Err(Status::failed_precondition(format!(
            "the node says that it is reached at {theirs}, where the other nodes would find themselves: set rpc.advertise \
             (--rpc-advertise) to an address of that machine, and rpc.listen so that it listens there"
        )));
    }
    Ok(())
}

fn ip_of(address: &str) -> Option<IpAddr> {
    let (host, _) = address.rsplit_once(':')?;
    if host == "localhost" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

fn refused(refusal: &Refusal) -> Status {
    let no_token =
        matches!(refusal, Refusal::TokenUnknown | Refusal::TokenExpired | Refusal::TokenUsed);
    let text = refusal.to_string();
    if no_token { Status::unauthenticated(text) } else { Status::failed_precondition(text) }
}

fn invalid(reason: &(impl std::fmt::Display + ?Sized)) -> Status {
    Status::invalid_argument(reason.to_string())
}

#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn unavailable(error: impl std::fmt::Display) -> Status {
    Status::unavailable(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_names_an_address_at_which_others_reach_it() {
        for (theirs, ours) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("localhost:1", "127.0.0.1:2"),
            ("10.0.0.1:1", "10.0.0.2:2"),
            ("10.0.0.1:1", "127.0.0.1:2"),
            ("node.example:1", "10.0.0.2:2"),
            ("[fd00::1]:1", "[fd00::2]:1"),
        ] {
            check_address(theirs, ours).unwrap();
        }
        for (theirs, ours) in [
            ("0.0.0.0:1", "127.0.0.1:2"),
            ("[::]:1", "10.0.0.1:2"),
            ("127.0.0.1:1", "10.0.0.2:2"),
            ("localhost:1", "node.example:2"),
            ("[::1]:1", "10.0.0.2:2"),
        ] {
            let error = check_address(theirs, ours).unwrap_err();
            assert!(error.message().contains("rpc.advertise"), "{theirs} {ours}");
        }
    }

    #[test]
    fn roles_have_names() {
        let names = ["store".to_owned(), "transcoder".to_owned()];
        assert_eq!(roles_of(&names).unwrap(), [Role::Store, Role::Transcoder]);
        assert!(roles_of(&["king".to_owned()]).is_err());
    }
}
