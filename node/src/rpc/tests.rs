//! Who gets in through the port for nodes, and who does not.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::cluster::ids::NodeId;
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::cluster_server::{Cluster, ClusterServer};
use proto::cluster::{
    PingReply, PingRequest, ProposeReply, ProposeRequest, ReadIndexReply, ReadIndexRequest,
    RenewReply, RenewRequest,
};
use proto::join::join_client::JoinClient;
use proto::join::join_server::{Join, JoinServer};
use proto::join::{JoinReply, JoinRequest};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::{Code, Request, Response, Status};

use super::accept::Presence;
use super::caller::{Caller, Roster, says_removed};
use super::envelope::LocalNode;
use super::members_only::MembersOnly;
use super::peers::{Peers, Purpose};
use super::testing::{self, at_once, authority, credentials, listener, node, present};
use super::tls::Tls;
use super::*;
use crate::authority::{Authority, BACKDATE, CERTIFICATE_LIFE};

/// A member that says whom it takes its callers for.
#[derive(Clone, Copy)]
struct Mirror(LocalNode);

#[tonic::async_trait]
impl Cluster for Mirror {
    async fn propose(&self, _: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn read_index(
        &self,
        _: Request<ReadIndexRequest>,
    ) -> Result<Response<ReadIndexReply>, Status> {
        Err(Status::unimplemented("not asked"))
    }

    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingReply>, Status> {
        let caller = Caller::of(request.extensions());
        let from = self.0.verify_caller(caller, request.get_ref().envelope.as_ref())?;
        Ok(Response::new(PingReply { blocks: from.0, ..PingReply::default() }))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<RenewReply>, Status> {
        Err(Status::unimplemented("not asked"))
    }
}

#[tonic::async_trait]
impl Join for Mirror {
    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let stranger = Caller::of(request.extensions()) == Caller::Stranger;
        Ok(Response::new(JoinReply { node_id: u64::from(stranger), ..JoinReply::default() }))
    }
}

struct Member {
    address: SocketAddr,
    roster: Roster,
}

fn everywhere(routes: Routes) -> Services {
    Services { calls: routes.clone(), consensus: routes }
}

/// Serves as node 1 of cluster 1, with `tls`.
async fn serve_with(tls: Arc<Tls>) -> Member {
    let (listener, address) = listener().await;
    let roster = Roster::default();
    let mirror = Mirror(node(1, 1));
    let routes = Routes::new(JoinServer::new(mirror))
        .add_service(MembersOnly::new(ClusterServer::new(mirror), roster.clone()));
    tokio::spawn(serve(listener, at_once(tls), everywhere(routes), CancellationToken::new()));
    Member { address, roster }
}

async fn member() -> Member {
    serve_with(testing::tls(node(1, 1))).await
}

/// Pings `to` as node 1 of cluster 1, with the envelope of `as_node` and the credentials in `tls`.
async fn ping(to: &Member, as_node: LocalNode, tls: Arc<Tls>) -> Result<u64, Status> {
    let peers = Peers::new(as_node, tls);
    peers.learn_member(NodeId(1), &to.address.to_string());
    let channel = peers.channel(NodeId(1), Purpose::Cluster).unwrap();
    let request = PingRequest { envelope: Some(as_node.envelope_to(NodeId(1))) };
    Ok(ClusterClient::new(channel).ping(request).await?.into_inner().blocks)
}

/// An error and its causes.
fn chain(error: &Status) -> String {
    format!("{:#}", anyhow::Error::new(error.clone()))
}

#[tokio::test]
async fn members_know_each_other_by_their_certificates() {
    let member = member().await;
    assert_eq!(ping(&member, node(1, 2), testing::tls(node(1, 2))).await.unwrap(), 2);

    let borrowed = ping(&member, node(1, 3), testing::tls(node(1, 2))).await.unwrap_err();
    assert_eq!(borrowed.code(), Code::PermissionDenied, "{borrowed:?}");
    assert!(borrowed.message().contains("in the name of node 3"), "{borrowed:?}");
}

#[tokio::test]
async fn certificates_of_other_authorities_are_worth_nothing() {
    let member = member().await;
    let forger = Authority::create([1; 16], SystemTime::now()).unwrap();
    let forged = Tls::new(&credentials(&forger, node(1, 2), CERTIFICATE_LIFE)).unwrap();
    let refused = ping(&member, node(1, 2), forged).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // The name of the authority is right and its key is not.
    let reason = chain(&refused);
    assert!(reason.contains("BadSignature") || reason.contains("DecryptError"), "{reason}");

    // And it trusts nobody who shows one.
    let impostor = Tls::new(&credentials(&forger, node(1, 1), CERTIFICATE_LIFE)).unwrap();
    let impostor = serve_with(impostor).await;
    let refused = ping(&impostor, node(1, 2), testing::tls(node(1, 2))).await.unwrap_err();
    assert!(chain(&refused).contains("BadSignature"), "{}", chain(&refused));
}

#[tokio::test]
async fn another_member_at_an_address_is_found_out_by_its_certificate() {
    let misplaced = serve_with(testing::tls(node(1, 3))).await;
    let refused = ping(&misplaced, node(1, 2), testing::tls(node(1, 2))).await.unwrap_err();
    assert!(chain(&refused).contains("not valid for name"), "{}", chain(&refused));
}

#[tokio::test]
async fn certificates_end() {
    let member = member().await;
    let authority = authority([1; 16]);
    // Signed so long ago that it has just ended.
    let key = crate::credentials::NodeKey::generate().unwrap();
    let request = crate::authority::SigningRequest::parse(&key.request().unwrap()).unwrap();
    let then = SystemTime::now() - Duration::from_secs(60);
    let ended =
        authority.sign(&request, [1; 16], NodeId(2), then, Duration::from_secs(30)).unwrap();
    let ended = crate::credentials::Credentials::new(key, ended, authority.certificate().clone());
    let refused = ping(&member, node(1, 2), Tls::new(&ended.unwrap()).unwrap()).await.unwrap_err();
    assert!(chain(&refused).contains("Expired"), "{}", chain(&refused));

    // One that a signer with a clock a little ahead has made is good.
    let key = crate::credentials::NodeKey::generate().unwrap();
    let request = crate::authority::SigningRequest::parse(&key.request().unwrap()).unwrap();
    let soon = SystemTime::now() + BACKDATE / 2;
    let ahead = authority.sign(&request, [1; 16], NodeId(2), soon, CERTIFICATE_LIFE).unwrap();
    let ahead = crate::credentials::Credentials::new(key, ahead, authority.certificate().clone());
    ping(&member, node(1, 2), Tls::new(&ahead.unwrap()).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_counts_without_a_restart() {
    let authority = authority([1; 16]);
    let short = Duration::from_secs(2);
    let server = Tls::new(&credentials(&authority, node(1, 1), short)).unwrap();
    let client = Tls::new(&credentials(&authority, node(1, 2), short)).unwrap();
    let member = serve_with(Arc::clone(&server)).await;
    ping(&member, node(1, 2), Arc::clone(&client)).await.unwrap();

    // Both end, and then one after the other is renewed.
    let ended = server.facts().not_after.max(client.facts().not_after);
    while SystemTime::now() <= ended + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(ping(&member, node(1, 2), Arc::clone(&client)).await.is_err());
    server.renew(&credentials(&authority, node(1, 1), CERTIFICATE_LIFE)).unwrap();
    assert!(ping(&member, node(1, 2), Arc::clone(&client)).await.is_err());
    client.renew(&credentials(&authority, node(1, 2), CERTIFICATE_LIFE)).unwrap();
    assert_eq!(ping(&member, node(1, 2), Arc::clone(&client)).await.unwrap(), 2);
    assert!(client.facts().not_after > ended);
}

#[tokio::test]
async fn strangers_may_ask_to_be_let_in_and_nothing_else() {
    let member = member().await;
    let channel = stranger_to(&member).await;
    let joined = JoinClient::new(channel.clone()).join(JoinRequest::default()).await.unwrap();
    assert_eq!(joined.into_inner().node_id, 1, "taken for a stranger");

    let request = PingRequest { envelope: Some(node(1, 2).envelope_to(NodeId(1))) };
    let refused = ClusterClient::new(channel).ping(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
}

#[tokio::test]
async fn strangers_have_no_part_in_consensus() {
    let member = member().await;
    let mut config = tls::stranger(Arc::new(Trusting)).unwrap();
    config.alpn_protocols = vec![b"reelraft-consensus".to_vec()];
    let Ok(channel) = stranger_with(&member, config).await else { return };
    JoinClient::new(channel).join(JoinRequest::default()).await.unwrap_err();
}

#[tokio::test]
async fn removed_nodes_do_not_get_as_far_as_the_thread_of_consensus() {
    let (listener, address) = listener().await;
    let roster = Roster::default();
    let presence = Presence { roster: roster.clone(), ..present(testing::tls(node(1, 1))) };
    let presence = tokio::sync::watch::Sender::new(Some(presence)).subscribe();
    let mut incoming = accept::connections(listener, presence);
    let peers = Peers::new(node(1, 2), testing::tls(node(1, 2)));
    peers.learn_member(NodeId(1), &address.to_string());
    let mut client = ClusterClient::new(peers.channel(NodeId(1), Purpose::Heartbeat).unwrap());
    let ask = tokio::spawn(async move { client.ping(PingRequest::default()).await });
    assert!(incoming.consensus.recv().await.is_some());
    ask.abort();

    roster.set_removed([NodeId(2)].into());
    let peers = Peers::new(node(1, 2), testing::tls(node(1, 2)));
    peers.learn_member(NodeId(1), &address.to_string());
    let mut client = ClusterClient::new(peers.channel(NodeId(1), Purpose::Heartbeat).unwrap());
    client.ping(PingRequest::default()).await.unwrap_err();
    assert!(incoming.consensus.try_recv().is_err() && incoming.calls.try_recv().is_err());
}

#[tokio::test]
async fn removed_nodes_are_refused_and_told_why() {
    let member = member().await;
    let tls = testing::tls(node(1, 2));
    ping(&member, node(1, 2), Arc::clone(&tls)).await.unwrap();
    member.roster.set_removed([NodeId(2)].into());
    let refused = ping(&member, node(1, 2), tls).await.unwrap_err();
    assert!(says_removed(&refused), "{refused:?}");
    ping(&member, node(1, 3), testing::tls(node(1, 3))).await.unwrap();
}

#[tokio::test]
async fn who_does_not_speak_tls_is_cut_off() {
    let member = member().await;
    for words in [&b"GET / HTTP/1.1\r\nhost: node\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
    {
        let mut stream = TcpStream::connect(member.address).await.unwrap();
        stream.write_all(words).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(4), stream.read_to_end(&mut answer));
        // An alert in the TLS's own words at most.
        match read.await.expect("the connection is closed") {
            Ok(_) => assert!(answer.len() < 16, "{answer:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn who_dawdles_at_the_handshake_is_cut_off() {
    let member = member().await;
    let began = Instant::now();
    let mut silent = TcpStream::connect(member.address).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_secs(20), silent.read(&mut byte));
    assert_eq!(read.await.expect("the connection is closed").unwrap(), 0);
    assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    // And nobody else had to wait.
    ping(&member, node(1, 2), testing::tls(node(1, 2))).await.unwrap();
}

#[tokio::test]
async fn who_belongs_to_nothing_hangs_up() {
    let (listener, address) = listener().await;
    let later = tokio::sync::watch::Sender::new(None);
    let mirror = Mirror(node(1, 1));
    let roster = Roster::default();
    let routes = Routes::new(MembersOnly::new(ClusterServer::new(mirror), roster.clone()));
    let presence = later.subscribe();
    tokio::spawn(serve(listener, presence, everywhere(routes), CancellationToken::new()));
    let member = Member { address, roster };
    let tls = testing::tls(node(1, 2));
    assert!(ping(&member, node(1, 2), Arc::clone(&tls)).await.is_err());
    later.send_replace(Some(present(testing::tls(node(1, 1)))));
    ping(&member, node(1, 2), tls).await.unwrap();
}

#[tokio::test]
async fn connections_end_with_the_one_who_takes_them() {
    let (listener, address) = listener().await;
    drop(accept::connections(listener, at_once(testing::tls(node(1, 1)))));
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "the port is still open");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn stranger_to(member: &Member) -> Channel {
    stranger_with(member, tls::stranger(Arc::new(Trusting)).unwrap()).await.unwrap()
}

async fn stranger_with(
    member: &Member,
    config: ClientConfig,
) -> Result<Channel, tonic::transport::Error> {
    let config = Arc::new(config);
    let address = member.address.to_string();
    let dialler = address.clone();
    endpoint(&address)
        .unwrap()
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let (address, config) = (dialler.clone(), Arc::clone(&config));
            async move { dial(&address, config, tls::any_member([1; 16])).await.map(TokioIo::new) }
        }))
        .await
}

/// Asks nobody who they are.
#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        tls::algorithms().supported_schemes()
    }
}
