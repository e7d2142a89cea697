//! How a node joins a cluster: the work behind `node join`, on the side of the one that joins.
//!
//! The node has a token and the address of a member, and trusts neither the network nor whoever answers there: the token
//! names the cluster's authority by its fingerprint, and the member has to show a certificate of that authority before it is
//! told the token's secret.
//!
//! # The steps, and why each can be repeated
//!
//! 1. The node makes its key, durably. A repeated join is by the same key, and the cluster knows it by that.
//! 2. It asks the member. From here on it may have an id in the catalog without knowing it.
//! 3. It keeps its certificate, then `node.json`, and is a member. The leader brings it into consensus.

use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, ensure};
use cluster::ids::NodeId;
use hyper_util::rt::TokioIo;
use proto::join::join_client::JoinClient;
use proto::join::{JoinReply, JoinRequest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::authority::fingerprint;
use crate::credentials::{CertificateFacts, Credentials, TlsDir};
use crate::identity::{Identity, Peer};
use crate::rpc::{self, tls};
use crate::run::Daemon;
use crate::token::{JoinToken, TokenError};

/// How long the member may take to be connected, and to shake hands.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long the member may take to answer: longer than it waits for the log itself.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How a member says no for good.
const REFUSALS: [Code; 3] =
    [Code::Unauthenticated, Code::FailedPrecondition, Code::InvalidArgument];

/// Why a node did not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(
        "this node is node {node} of cluster {cluster_id} already; to join a cluster as a new node, start it on an empty data \
         directory"
    )]
    Member { cluster_id: String, node: NodeId },
    #[error("{0:?} is no address of a member: it has the form host:port")]
    Address(String),
    #[error(
        "nobody answers on {to} ({reason}): is `reelraft serve` running there, and is this its RPC port?"
    )]
    Nobody { to: String, reason: String },
    #[error(
        "{to} answers, but not as the RPC port of a member does: is it the HTTP port? The RPC port is the one of \
         `--rpc-listen`, 9080 unless set"
    )]
    NotRpc { to: String },
    #[error(
        "{to} hangs up: perhaps the node there belongs to no cluster itself, or it is no RPC port. The token has to be \
         brought to a member of the cluster that made it"
    )]
    HangsUp { to: String },
    #[error(
        "{to} does not belong to the cluster that this token is for (cluster {cluster_id}): its authority is another one"
    )]
    OtherCluster { to: String, cluster_id: String },
    #[error(
        "the certificate of {to} is not good at this time ({reason}): are the clocks of both machines right?"
    )]
    Clock { to: String, reason: String },
    #[error("{to} cannot prove to be a member of the cluster: {reason}")]
    Untrusted { to: String, reason: String },
    #[error("{0}")]
    Refused(String),
    #[error("{to} cannot admit this node at present, and this may be repeated: {reason}")]
    Unavailable { to: String, reason: String },
    #[error("{0:#}")]
    Node(anyhow::Error),
}

impl From<JoinError> for Status {
    fn from(error: JoinError) -> Self {
        let text = error.to_string();
        match error {
            JoinError::Token(_) | JoinError::Address(_) => Self::invalid_argument(text),
            JoinError::Member { .. } => Self::already_exists(text),
            JoinError::Unavailable { .. } => Self::aborted(text),
            JoinError::Nobody { .. }
            | JoinError::NotRpc { .. }
            | JoinError::HangsUp { .. }
            | JoinError::OtherCluster { .. }
            | JoinError::Clock { .. }
            | JoinError::Untrusted { .. }
            | JoinError::Refused(_)
            | JoinError::Node(_) => Self::failed_precondition(text),
        }
    }
}

/// Makes this node a member of the cluster that `token` is for, through the member at `to`.
///
/// # Errors
/// See [`JoinError`].
pub async fn join(daemon: &Arc<Daemon>, token: &str, to: &str) -> Result<Identity, JoinError> {
    let token: JoinToken = token.parse()?;
    refuse_member(daemon)?;
    let well_formed = to
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    if !well_formed {
        return Err(JoinError::Address(to.to_owned()));
    }
    // One at a time: the second one finds out that this node is a member.
    let becoming = daemon.becoming().await;
    refuse_member(daemon)?;
    let tls_dir = daemon.tls_dir();
    let key = tls_dir.key().map_err(JoinError::Node)?;
    let node = daemon.describe(NodeId(0));
    let request = JoinRequest {
        token_id: token.id.to_vec().into(),
        secret: token.secret.to_vec().into(),
        signing_request: key.request().map_err(|error| JoinError::Node(error.into()))?.into(),
        name: node.name,
        zone: node.zone,
        roles: node.roles.iter().map(|role| role.name().to_owned()).collect(),
        rpc_addr: node.rpc_addr,
        http_url: node.http_url,
        version: node.version,
        feature_level: node.feature_level,
        capacity_bytes: node.capacity_bytes,
    };
    let (reply, authority) = ask(&token, to, request).await?;
    refuse_other_time(&reply, to)?;
    let identity = keep(&tls_dir, &token, reply, authority).map_err(JoinError::Node)?;
    let prepare = || Ok(identity);
    let member = becoming.member(prepare).await.map_err(JoinError::Node)?;
    Ok(member.identity().clone())
}

fn refuse_member(daemon: &Daemon) -> Result<(), JoinError> {
    match daemon.identity() {
        None => Ok(()),
        Some(identity) => Err(JoinError::Member {
            cluster_id: hex::encode(identity.cluster_id),
            node: identity.node_id,
        }),
    }
}

/// Brings the request to the member. Returns its answer, and the authority that it proved to belong to.
async fn ask(
    token: &JoinToken,
    to: &str,
    request: JoinRequest,
) -> Result<(JoinReply, CertificateDer<'static>), JoinError> {
    let nobody = |reason: String| JoinError::Nobody { to: to.to_owned(), reason };
    let stream = timeout(CONNECT_MAX, TcpStream::connect(to))
        .await
        .map_err(|_| nobody(format!("no connection within {CONNECT_MAX:?}")))?
        .map_err(|error| nobody(error.to_string()))?;
    let verifier = Arc::new(ByToken { authority: token.authority, found: OnceLock::new() });
    let config = tls::stranger(Arc::clone(&verifier) as Arc<dyn ServerCertVerifier>)
        .map_err(|error| JoinError::Node(error.into()))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let began = Instant::now();
    let name = tls::any_member(token.cluster_id);
    let stream = timeout(CONNECT_MAX, connector.connect(name, stream))
        .await
        .map_err(|_| nobody(format!("no handshake within {:?}", began.elapsed())))?
        .map_err(|error| handshake_failed(token, to, &error))?;
    let authority = verifier
        .found
        .get()
        .cloned()
        .context("the handshake ended without a certificate")
        .map_err(JoinError::Node)?;

    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
        async move { stream.map_err(io::Error::from) }
    });
    let unavailable = |reason: String| JoinError::Unavailable { to: to.to_owned(), reason };
    let channel = rpc::endpoint(to)
        .map_err(|_| JoinError::Address(to.to_owned()))?
        .connect_with_connector(once)
        .await
        .map_err(|error| unavailable(chain(&error)))?;
    let answer = timeout(ANSWER_MAX, JoinClient::new(channel).join(request))
        .await
        .map_err(|_| unavailable(format!("no answer within {ANSWER_MAX:?}")))?;
    match answer {
        Ok(reply) => Ok((reply.into_inner(), authority)),
        Err(status) if REFUSALS.contains(&status.code()) => {
            Err(JoinError::Refused(status.message().to_owned()))
        }
        Err(status) => Err(unavailable(status.message().to_owned())),
    }
}

/// What a failed handshake says to a person.
fn handshake_failed(token: &JoinToken, to: &str, error: &io::Error) -> JoinError {
    let to = to.to_owned();
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    let Some(cause) = cause else {
        return JoinError::HangsUp { to };
    };
    let reason = cause.to_string();
    if let rustls::Error::InvalidMessage(_) = cause {
        return JoinError::NotRpc { to };
    }
    let rustls::Error::InvalidCertificate(problem) = cause else {
        return JoinError::Untrusted { to, reason };
    };
    if *problem == CertificateError::UnknownIssuer {
        JoinError::OtherCluster { to, cluster_id: hex::encode(token.cluster_id) }
    } else if tls::is_about_time(error) {
        JoinError::Clock { to, reason }
    } else {
        JoinError::Untrusted { to, reason }
    }
}

/// Refuses a certificate that nobody would believe now. The node has been admitted, and gets another one when it asks again.
fn refuse_other_time(reply: &JoinReply, to: &str) -> Result<(), JoinError> {
    let certificate = CertificateDer::from(reply.certificate.as_ref());
    let facts =
        CertificateFacts::read(&certificate).map_err(|error| JoinError::Node(error.into()))?;
    if facts.is_good_at(SystemTime::now()) {
        return Ok(());
    }
    let time = |time| humantime::format_rfc3339_seconds(time);
    let reason = format!(
        "the one that it made for this node is good from {} to {}",
        time(facts.not_before),
        time(facts.not_after)
    );
    Err(JoinError::Clock { to: to.to_owned(), reason })
}

/// Checks the answer and keeps what this node will prove itself with.
fn keep(
    tls: &TlsDir,
    token: &JoinToken,
    reply: JoinReply,
    authority: CertificateDer<'static>,
) -> anyhow::Result<Identity> {
    let node_id = NodeId(reply.node_id);
    ensure!(reply.cluster_id == token.cluster_id.as_slice(), "the answer is from another cluster");
    let certificate = CertificateDer::from(reply.certificate.to_vec());
    let credentials = Credentials::new(tls.key()?, certificate, authority)
        .context("the answer has no certificate for this node")?;
    ensure!(
        (credentials.cluster_id(), credentials.node_id()) == (token.cluster_id, node_id),
        "the certificate in the answer is for another node than {node_id}"
    );
    // Left by a founding that broke off. Whoever has it goes on founding when it starts.
    tls.forget_authority_key()?;
    tls.store(credentials.certificate(), credentials.authority())?;
    let peers = reply
        .members
        .into_iter()
        .map(|member| Peer { node_id: NodeId(member.node_id), rpc_addr: member.rpc_addr })
        .collect();
    Ok(Identity::new(token.cluster_id, node_id, peers))
}

/// An error and its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Writing to a string does not fail.
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}

/// Trusts the authority that a token names, once a server has shown it.
#[derive(Debug)]
struct ByToken {
    /// SHA-256 of its certificate.
    authority: [u8; 32],
    found: OnceLock<CertificateDer<'static>>,
}

impl ServerCertVerifier for ByToken {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let authority = chain
            .iter()
            .find(|shown| fingerprint(shown) == self.authority)
            .ok_or(CertificateError::UnknownIssuer)?;
        let verifier = tls::verifier_of(authority)
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let verified = verifier.verify_server_cert(certificate, &[], name, ocsp, now)?;
        // Only the first handshake counts, and there is one.
        let _ = self.found.set(authority.clone().into_owned());
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.3 is the only version".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &tls::algorithms())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::algorithms().supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::authority::{Authority, CERTIFICATE_LIFE, SigningRequest};

    const CLUSTER: [u8; 16] = [5; 16];

    /// The answer to a node with this key.
    fn answer(tls: &TlsDir, authority: &Authority) -> (JoinToken, JoinReply) {
        let request = SigningRequest::parse(&tls.key().unwrap().request().unwrap()).unwrap();
        let now = SystemTime::now();
        let signed = authority.sign(&request, CLUSTER, NodeId(4), now, CERTIFICATE_LIFE).unwrap();
        let token = JoinToken {
            cluster_id: CLUSTER,
            authority: fingerprint(authority.certificate()),
            id: [1; 16],
            secret: [2; 32],
        };
        let reply = JoinReply {
            node_id: 4,
            cluster_id: CLUSTER.to_vec().into(),
            certificate: signed.to_vec().into(),
            members: Vec::new(),
        };
        (token, reply)
    }

    #[test]
    fn a_node_that_joins_forgets_the_founding_that_it_once_began() {
        let home = tempfile::tempdir().unwrap();
        let tls = TlsDir::new(home.path().join("tls"));
        tls.store_authority_key(&Authority::create([9; 16], SystemTime::now()).unwrap()).unwrap();
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let (token, reply) = answer(&tls, &authority);
        let identity = keep(&tls, &token, reply, authority.certificate().clone()).unwrap();
        assert_eq!((identity.cluster_id, identity.node_id), (CLUSTER, NodeId(4)));
        assert!(tls.authority().unwrap().is_none());
        assert_eq!(tls.load().unwrap().node_id(), NodeId(4));
    }

    #[test]
    fn an_answer_for_another_node_or_from_another_cluster_leaves_nothing() {
        let home = tempfile::tempdir().unwrap();
        let tls = TlsDir::new(home.path().join("tls"));
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let wrong: [fn(&mut JoinReply); 3] = [
            |reply| reply.node_id = 5,
            |reply| reply.cluster_id = vec![6; 16].into(),
            |reply| reply.certificate = vec![1, 2, 3].into(),
        ];
        for change in wrong {
            let (token, mut reply) = answer(&tls, &authority);
            change(&mut reply);
            keep(&tls, &token, reply, authority.certificate().clone()).unwrap_err();
            assert!(tls.load().is_err());
        }
    }
}
