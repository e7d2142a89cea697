//! The cluster's own certificate authority: what makes a stranger a member on the wire.
//!
//! Every cluster has one, made when it is founded. Its certificate is what members trust and what a join token names by its
//! fingerprint; its key stands in the catalog, so any member can sign and none is special. It never expires: with a new
//! authority a cluster would be another one.
//!
//! # Invariants
//!
//! - A certificate says what the signer decided: which node of which cluster, until when. Of a request nothing is taken over
//!   but the public key, and a request that asks for more is refused.
//! - The private key is in no `Debug` output and no error.

pub mod names;
mod request;

use std::fmt;
use std::time::{Duration, SystemTime};

use cluster::ids::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};

pub use request::{RequestError, SigningRequest};

/// How long a node's certificate is good for, unless the configuration says otherwise.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Certificates are good from this long before they are signed: the clocks of two machines differ, by hours when one of them
/// was set by the time of another zone.
pub const BACKDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// Why there is no certificate, or no authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("make the cluster's certificate authority: {0}")]
    Create(rcgen::Error),
    #[error("the cluster's certificate authority is damaged: {0}")]
    Damaged(rcgen::Error),
    #[error("sign a certificate: {0}")]
    Sign(rcgen::Error),
}

/// A certificate authority with its key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new one, for a new cluster.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn create(cluster_id: [u8; 16], now: SystemTime) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate().map_err(AuthorityError::Create)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Reelraft cluster {}", hex::encode(cluster_id)));
        // It signs nodes, and no further authorities.
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - BACKDATE);
        // RFC 5280, 4.1.2.5: no end that is known.
        params.not_after = date_time_ymd(9999, 12, 31);
        let certificate = params.self_signed(&key).map_err(AuthorityError::Create)?;
        Ok(Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key) })
    }

    /// The one whose certificate and key (PKCS #8) these are.
    ///
    /// # Errors
    /// When they are no certificate and key.
    pub fn from_der(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let certificate = CertificateDer::from(certificate.to_vec());
        let key = KeyPair::try_from(key).map_err(AuthorityError::Damaged)?;
        let issuer =
            Issuer::from_ca_cert_der(&certificate, key).map_err(AuthorityError::Damaged)?;
        Ok(Self { certificate, issuer })
    }

    /// What members trust.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key, in PKCS #8. For the catalog and nowhere else.
    #[must_use]
    pub fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Certifies that whoever has the request's key is `node` of the cluster, from now on for `life`.
    ///
    /// # Errors
    /// When signing fails.
    pub fn sign(
        &self,
        request: &SigningRequest,
        cluster_id: [u8; 16],
        node: NodeId,
        now: SystemTime,
        life: Duration,
    ) -> Result<CertificateDer<'static>, AuthorityError> {
        let names = vec![names::node(cluster_id, node), names::member(cluster_id)];
        let mut params = CertificateParams::new(names).map_err(AuthorityError::Sign)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("node {node}"));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        // Every node is a server to the others, and their client.
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = date_time_ymd(1970, 1, 1) + since_1970(now - BACKDATE);
        params.not_after = date_time_ymd(1970, 1, 1) + since_1970(now + life);
        let signed =
            params.signed_by(request.public_key(), &self.issuer).map_err(AuthorityError::Sign)?;
        Ok(signed.der().clone())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("fingerprint", &hex::encode(fingerprint(&self.certificate)))
            .finish_non_exhaustive()
    }
}

/// SHA-256 of a certificate in DER: what a join token names an authority by.
#[must_use]
pub fn fingerprint(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// What to add to the beginning of 1970. A clock that is before that has no certificates that are good.
fn since_1970(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::{Credentials, NodeKey};

    const CLUSTER: [u8; 16] = [7; 16];

    #[test]
    fn an_authority_signs_after_it_was_written_and_read() {
        let made = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let authority = Authority::from_der(made.certificate(), made.key_der()).unwrap();
        assert_eq!(fingerprint(made.certificate()), fingerprint(authority.certificate()));

        let key = NodeKey::generate().unwrap();
        let request = SigningRequest::parse(&key.request().unwrap()).unwrap();
        assert_eq!(request.public_key_hash(), key.public_key_hash());
        let now = SystemTime::now();
        let certificate =
            authority.sign(&request, CLUSTER, NodeId(3), now, CERTIFICATE_LIFE).unwrap();
        let credentials =
            Credentials::new(key, certificate, authority.certificate().clone()).unwrap();
        assert_eq!((credentials.cluster_id(), credentials.node_id()), (CLUSTER, NodeId(3)));
        let life = credentials.not_after().duration_since(now).unwrap();
        assert!(life <= CERTIFICATE_LIFE && life > CERTIFICATE_LIFE - Duration::from_secs(2));
    }

    #[test]
    fn damage_is_an_error_and_keys_are_not_shown() {
        let made = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        assert!(Authority::from_der(&made.certificate()[1..], made.key_der()).is_err());
        assert!(Authority::from_der(made.certificate(), &made.key_der()[1..]).is_err());
        let shown = format!("{made:?}");
        assert!(!shown.contains(&hex::encode(made.key_der())), "{shown}");
        assert!(shown.contains("fingerprint"), "{shown}");
    }
}
