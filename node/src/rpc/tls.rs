//! Encryption between nodes, and the proof of who is at the other end.
//!
//! TLS 1.3 and nothing else, with the cluster's own authority as the only root. A server shows its certificate and the
//! authority's; a client that has a certificate shows it. One without is a stranger, who may ask to be let in and nothing
//! else. A client expects to find one certain node, by the name in its certificate, so a wrong address is found out before
//! anything is said. The name of the protocol says what a connection is for; a node of an earlier version knows only `h2`, and
//! both ends then treat it as any other.
//!
//! # Invariants
//!
//! - A renewed certificate counts from the next handshake on, without a restart.
//! - Sessions are never resumed: each connection proves anew who is there, with a certificate that is good now.

use std::fmt;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use cluster::ids::NodeId;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

use crate::authority::names;
use crate::credentials::{CertificateFacts, Credentials};

/// What gRPC is called in the handshake (RFC 7301).
const GRPC: &[u8] = b"h2";

/// What gRPC about consensus is called.
const CONSENSUS: &[u8] = b"reelraft-consensus";

/// What a connection is used for. Both ends know it once they have shaken hands, so that the one that is called can serve it
/// where it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Everything that may wait a moment.
    Calls,
    /// Entries, heartbeats and votes.
    Consensus,
}

impl Protocol {
    /// What was agreed on in the handshake.
    pub(super) fn of(agreed: Option<&[u8]>) -> Self {
        if agreed == Some(CONSENSUS) { Self::Consensus } else { Self::Calls }
    }
}

/// Why a node's credentials cannot be used on the wire.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("use the node's key and certificate: {0}")]
    Credentials(rustls::Error),
    #[error("trust the cluster's authority: {0}")]
    Authority(String),
}

/// The algorithms. Of the ciphers the one with the shorter key goes first: all that nodes say to each other is megabytes of blocks,
/// on which AES-128 is a fifth faster than AES-256, and RFC 8446 section 9.1 has every implementation know it.
fn provider() -> CryptoProvider {
    use ring::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    CryptoProvider { cipher_suites, ..ring::default_provider() }
}

/// How a member of a cluster speaks and listens.
pub struct Tls {
    cluster_id: [u8; 16],
    shown: Arc<Shown>,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    consensus_client: Arc<ClientConfig>,
}

/// What this node shows at the next handshake.
struct Shown {
    certificate: ArcSwap<CertifiedKey>,
    facts: ArcSwap<CertificateFacts>,
}

impl Tls {
    /// # Errors
    /// When the credentials do not fit together.
    pub fn new(credentials: &Credentials) -> Result<Arc<Self>, TlsError> {
        let provider = Arc::new(provider());
        let shown = Arc::new(Shown {
            certificate: ArcSwap::from_pointee(certified(credentials, &provider)?),
            facts: ArcSwap::from_pointee(credentials.facts().clone()),
        });
        let roots = roots_of(credentials.authority())?;
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Authority(error.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Credentials)?
            .with_client_cert_verifier(clients)
            .with_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesServerCert>);
        server.alpn_protocols = vec![CONSENSUS.to_vec(), GRPC.to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsError::Credentials)?
            .with_root_certificates(roots)
            .with_client_cert_resolver(Arc::clone(&shown) as Arc<dyn ResolvesClientCert>);
        client.alpn_protocols = vec![GRPC.to_vec()];
        client.resumption = Resumption::disabled();
        let mut consensus_client = client.clone();
        // A server that does not know the first one takes the second.
        consensus_client.alpn_protocols.insert(0, CONSENSUS.to_vec());
        Ok(Arc::new(Self {
            cluster_id: credentials.cluster_id(),
            shown,
            server: Arc::new(server),
            client: Arc::new(client),
            consensus_client: Arc::new(consensus_client),
        }))
    }

    /// Shows another certificate for the same key from now on.
    ///
    /// # Errors
    /// When the credentials do not fit together.
    pub fn renew(&self, credentials: &Credentials) -> Result<(), TlsError> {
        let certificate = certified(credentials, &provider())?;
        self.shown.certificate.store(Arc::new(certificate));
        self.shown.facts.store(Arc::new(credentials.facts().clone()));
        Ok(())
    }

    /// What the certificate that is shown at present says.
    #[must_use]
    pub fn facts(&self) -> Arc<CertificateFacts> {
        self.shown.facts.load_full()
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    pub(super) fn client(&self, protocol: Protocol) -> Arc<ClientConfig> {
        Arc::clone(match protocol {
            Protocol::Calls => &self.client,
            Protocol::Consensus => &self.consensus_client,
        })
    }

    /// What the certificate of `node` has to say.
    pub(super) fn name_of(&self, node: NodeId) -> ServerName<'static> {
        server_name(names::node(self.cluster_id, node))
    }

    /// Which node a certificate that has been verified is for.
    pub(super) fn node_of(&self, certificate: &CertificateDer<'_>) -> Option<NodeId> {
        let facts = CertificateFacts::read(certificate).ok()?;
        (facts.cluster_id == self.cluster_id).then_some(facts.node_id)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("facts", &self.facts()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate.load_full())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.certificate.load_full())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shown").finish_non_exhaustive()
    }
}

/// The handshake of somebody who has no certificate yet, with `verifier` to decide whether it is the right cluster.
///
/// # Errors
/// When the TLS library does not know its own versions.
pub fn stranger(verifier: Arc<dyn ServerCertVerifier>) -> Result<ClientConfig, TlsError> {
    let mut client = ClientConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Credentials)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    client.alpn_protocols = vec![GRPC.to_vec()];
    client.resumption = Resumption::disabled();
    Ok(client)
}

/// Verifies servers as members do, with `authority` as the only root.
///
/// # Errors
/// When it is no authority.
pub fn verifier_of(authority: &CertificateDer<'_>) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
    let provider = Arc::new(provider());
    WebPkiServerVerifier::builder_with_provider(roots_of(authority)?, provider)
        .build()
        .map_err(|error| TlsError::Authority(error.to_string()))
}

/// Whether a handshake failed because a certificate is not good yet, or not any more.
#[must_use]
pub fn is_about_time(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(
        cause,
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        ))
    )
}

/// The signatures that are trusted.
#[must_use]
pub fn algorithms() -> WebPkiSupportedAlgorithms {
    provider().signature_verification_algorithms
}

/// The name that every member of a cluster has.
#[must_use]
pub fn any_member(cluster_id: [u8; 16]) -> ServerName<'static> {
    server_name(names::member(cluster_id))
}

fn server_name(name: String) -> ServerName<'static> {
    name.try_into().expect("names of nodes are made of letters, digits, hyphens and dots")
}

fn roots_of(authority: &CertificateDer<'_>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots
        .add(authority.clone().into_owned())
        .map_err(|error| TlsError::Authority(error.to_string()))?;
    Ok(Arc::new(roots))
}

fn certified(
    credentials: &Credentials,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, TlsError> {
    // The authority goes along, because somebody who joins knows only its fingerprint.
    let chain = vec![credentials.certificate().clone(), credentials.authority().clone()];
    CertifiedKey::from_der(chain, credentials.key().to_der(), provider)
        .map_err(TlsError::Credentials)
}
