//! What a node proves itself with: its key, the certificate that the cluster gave it, and the authority it trusts.
//!
//! They lie in `tls/` of the data directory, as PEM, so that an operator can look at them with the usual tools:
//! `node.key` (made before anything is asked of anybody, so that a join that broke off is repeated by the same node),
//! `node.crt`, `authority.crt`, and `authority.key` for as long as a cluster is being founded, until the catalog has it.
//!
//! # Invariants
//!
//! - The key never leaves the directory and never changes: the catalog knows the node by it. A renewed certificate is for
//!   the same key, so replacing one file replaces the pair.
//! - Files are written whole or not at all, and are readable for their owner alone.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use cluster::ids::{NodeId, PublicKeyHash};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::authority::{Authority, AuthorityError, BACKDATE, names};
use crate::files::write_durably;

/// A node's private key (ECDSA on P-256).
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn generate() -> Result<Self, AuthorityError> {
        KeyPair::generate().map(Self).map_err(AuthorityError::Create)
    }

    /// The request for a certificate for this key, in DER. It names nothing: the cluster decides what the node is called.
    ///
    /// # Errors
    /// When signing it fails.
    pub fn request(&self) -> Result<Vec<u8>, AuthorityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.0).map_err(AuthorityError::Sign)?;
        Ok(request.der().to_vec())
    }

    /// What the catalog knows the node by.
    #[must_use]
    pub fn public_key_hash(&self) -> PublicKeyHash {
        PublicKeyHash::of(&self.0.subject_public_key_info())
    }

    /// For the TLS library.
    #[must_use]
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.0.serialize_der()).into()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").finish_non_exhaustive()
    }
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    pub cluster_id: [u8; 16],
    pub node_id: NodeId,
    pub public_key_hash: PublicKeyHash,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Why a certificate cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate cannot be read: {0}")]
    Malformed(String),
    #[error("the certificate names no node of a cluster")]
    NoNode,
    #[error("the certificate is for another key")]
    OtherKey,
}

impl CertificateFacts {
    /// Reads a node's certificate. Whether it can be trusted is not looked at here.
    ///
    /// # Errors
    /// When it is none.
    pub fn read(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let (_, parsed) = X509Certificate::from_der(certificate)
            .map_err(|error| CertificateError::Malformed(error.to_string()))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| CertificateError::Malformed(error.to_string()))?
            .ok_or(CertificateError::NoNode)?;
        let mut nodes = names.value.general_names.iter().filter_map(|name| {
            if let GeneralName::DNSName(name) = name { names::parse_node(name) } else { None }
        });
        let (Some((cluster_id, node_id)), None) = (nodes.next(), nodes.next()) else {
            return Err(CertificateError::NoNode);
        };
        let validity = parsed.validity();
        Ok(Self {
            cluster_id,
            node_id,
            public_key_hash: PublicKeyHash::of(parsed.public_key().raw),
            not_before: time_of(validity.not_before.timestamp()),
            not_after: time_of(validity.not_after.timestamp()),
        })
    }

    /// Whether others take it at that time.
    #[must_use]
    pub fn is_good_at(&self, time: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&time)
    }

    /// When the node asks for the next one: after two thirds of its life.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        let signed = self.not_before + BACKDATE;
        let life = self.not_after.duration_since(signed).unwrap_or_default();
        self.not_after - life / 3
    }
}

fn time_of(seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A key with its certificate, and the authority that signed it.
#[derive(Debug)]
pub struct Credentials {
    key: NodeKey,
    certificate: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    facts: CertificateFacts,
}

impl Credentials {
    /// # Errors
    /// When the certificate cannot be read or is not for this key.
    pub fn new(
        key: NodeKey,
        certificate: CertificateDer<'static>,
        authority: CertificateDer<'static>,
    ) -> Result<Self, CertificateError> {
        let facts = CertificateFacts::read(&certificate)?;
        if facts.public_key_hash != key.public_key_hash() {
            return Err(CertificateError::OtherKey);
        }
        Ok(Self { key, certificate, authority, facts })
    }

    #[must_use]
    pub fn cluster_id(&self) -> [u8; 16] {
        self.facts.cluster_id
    }

    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.facts.node_id
    }

    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.facts.not_after
    }

    #[must_use]
    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    #[must_use]
    pub fn authority(&self) -> &CertificateDer<'static> {
        &self.authority
    }

    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }
}

/// `tls/` of a data directory.
#[derive(Clone, Debug)]
pub struct TlsDir {
    path: PathBuf,
}

const KEY_FILE: &str = "node.key";
const CERTIFICATE_FILE: &str = "node.crt";
const AUTHORITY_FILE: &str = "authority.crt";
const AUTHORITY_KEY_FILE: &str = "authority.key";

const KEY_TAG: &str = "PRIVATE KEY";
const CERTIFICATE_TAG: &str = "CERTIFICATE";

impl TlsDir {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's key, made at the first call.
    ///
    /// # Errors
    /// When it is damaged, or cannot be written.
    pub fn key(&self) -> anyhow::Result<NodeKey> {
        if let Some(der) = self.read(KEY_FILE, KEY_TAG)? {
            let key = KeyPair::try_from(der.as_slice()).with_context(|| self.damaged(KEY_FILE))?;
            return Ok(NodeKey(key));
        }
        let key = NodeKey::generate()?;
        self.write(KEY_FILE, KEY_TAG, key.0.serialized_der())?;
        Ok(key)
    }

    /// Keeps a certificate for the key that is here, and the authority that signed it.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn store(
        &self,
        certificate: &CertificateDer<'_>,
        authority: &CertificateDer<'_>,
    ) -> anyhow::Result<()> {
        self.write(AUTHORITY_FILE, CERTIFICATE_TAG, authority)?;
        self.write(CERTIFICATE_FILE, CERTIFICATE_TAG, certificate)
    }

    /// What a member has.
    ///
    /// # Errors
    /// When a file is missing or damaged, or they do not fit together.
    pub fn load(&self) -> anyhow::Result<Credentials> {
        let need = |name: &'static str, tag| {
            self.read(name, tag)?.with_context(|| {
                format!(
                    "{} is missing, so this node cannot prove who it is: restore it from a backup, or move the data \
                     directory away and let the node join as a new one",
                    self.path.join(name).display()
                )
            })
        };
        let der = need(KEY_FILE, KEY_TAG)?;
        let key = KeyPair::try_from(der.as_slice()).with_context(|| self.damaged(KEY_FILE))?;
        let certificate = need(CERTIFICATE_FILE, CERTIFICATE_TAG)?;
        let authority = need(AUTHORITY_FILE, CERTIFICATE_TAG)?;
        Credentials::new(NodeKey(key), certificate.into(), authority.into())
            .with_context(|| self.damaged(CERTIFICATE_FILE))
    }

    /// Keeps the key of an authority until the catalog has it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn store_authority_key(&self, authority: &Authority) -> anyhow::Result<()> {
        self.write(AUTHORITY_FILE, CERTIFICATE_TAG, authority.certificate())?;
        self.write(AUTHORITY_KEY_FILE, KEY_TAG, authority.key_der())
    }

    /// The authority of a cluster whose founding has not come to its end.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn authority(&self) -> anyhow::Result<Option<Authority>> {
        let Some(key) = self.read(AUTHORITY_KEY_FILE, KEY_TAG)? else {
            return Ok(None);
        };
        let certificate = self
            .read(AUTHORITY_FILE, CERTIFICATE_TAG)?
            .with_context(|| self.damaged(AUTHORITY_FILE))?;
        Ok(Some(Authority::from_der(&certificate, &key)?))
    }

    /// The catalog has it now.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn forget_authority_key(&self) -> anyhow::Result<()> {
        let path = self.path.join(AUTHORITY_KEY_FILE);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("remove {}", path.display())),
        }
    }

    fn read(&self, name: &str, tag: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.path.join(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        let block = pem::parse(text).with_context(|| self.damaged(name))?;
        ensure!(block.tag() == tag, "{}: it holds no {tag}", self.damaged(name));
        Ok(Some(block.into_contents()))
    }

    fn write(&self, name: &str, tag: &str, der: &[u8]) -> anyhow::Result<()> {
        use std::os::unix::fs::DirBuilderExt;

        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.path)
            .with_context(|| format!("create {}", self.path.display()))?;
        let text = pem::encode(&pem::Pem::new(tag, der));
        let path = self.path.join(name);
        write_durably(&path, text.as_bytes()).with_context(|| format!("write {}", path.display()))
    }

    fn damaged(&self, name: &str) -> String {
        format!(
            "{} is damaged: restore it from a backup, or move the data directory away and let the node join as a new one",
            self.path.join(name).display()
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authority::{CERTIFICATE_LIFE, SigningRequest};

    const CLUSTER: [u8; 16] = [5; 16];

    #[test]
    fn what_is_kept_is_found_again_and_is_nobody_elses_to_read() {
        let home = tempfile::tempdir().unwrap();
        let dir = TlsDir::new(home.path().join("tls"));
        let key = dir.key().unwrap();
        assert_eq!(dir.key().unwrap().public_key_hash(), key.public_key_hash(), "made once");
        assert!(format!("{:#}", dir.load().unwrap_err()).contains("node.crt is missing"));

        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        dir.store_authority_key(&authority).unwrap();
        let request = SigningRequest::parse(&key.request().unwrap()).unwrap();
        let now = SystemTime::now();
        let signed = authority.sign(&request, CLUSTER, NodeId(1), now, CERTIFICATE_LIFE).unwrap();
        dir.store(&signed, authority.certificate()).unwrap();
        let loaded = dir.load().unwrap();
        assert_eq!(loaded.certificate(), &signed);
        assert_eq!((loaded.cluster_id(), loaded.node_id()), (CLUSTER, NodeId(1)));
        assert_eq!(dir.authority().unwrap().unwrap().certificate(), authority.certificate());
        dir.forget_authority_key().unwrap();
        dir.forget_authority_key().unwrap();
        assert!(dir.authority().unwrap().is_none());

        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let mode = entry.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        let mode = std::fs::metadata(dir.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn damage_and_strangers_files_are_errors() {
        let home = tempfile::tempdir().unwrap();
        let dir = TlsDir::new(home.path().to_owned());
        let key = dir.key().unwrap();
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let other = NodeKey::generate().unwrap();
        let request = SigningRequest::parse(&other.request().unwrap()).unwrap();
        let now = SystemTime::now();
        let signed = authority.sign(&request, CLUSTER, NodeId(1), now, CERTIFICATE_LIFE).unwrap();
        dir.store(&signed, authority.certificate()).unwrap();
        assert!(format!("{:#}", dir.load().unwrap_err()).contains("another key"));

        std::fs::write(home.path().join("node.key"), "").unwrap();
        assert!(format!("{:#}", dir.key().unwrap_err()).contains("damaged"));
        std::fs::copy(home.path().join("node.crt"), home.path().join("node.key")).unwrap();
        assert!(format!("{:#}", dir.key().unwrap_err()).contains("PRIVATE KEY"));
        assert!(!format!("{key:?}").contains("key:"));
    }

    #[test]
    fn a_certificate_is_renewed_after_two_thirds_of_its_life() {
        let signed = time_of(1_000_000);
        let facts = CertificateFacts {
            cluster_id: CLUSTER,
            node_id: NodeId(1),
            public_key_hash: PublicKeyHash([0; 32]),
            not_before: signed - BACKDATE,
            not_after: signed + Duration::from_secs(90),
        };
        assert_eq!(facts.renew_at(), signed + Duration::from_secs(60));
    }

    #[test]
    fn an_authority_is_no_node() {
        let authority = Authority::create(CLUSTER, SystemTime::now()).unwrap();
        let facts = CertificateFacts::read(authority.certificate());
        assert_eq!(facts, Err(CertificateError::NoNode));
        let garbage = CertificateDer::from(vec![1, 2, 3]);
        assert!(matches!(CertificateFacts::read(&garbage), Err(CertificateError::Malformed(_))));
    }
}
