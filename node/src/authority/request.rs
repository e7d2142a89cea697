//! A node's request for a certificate (PKCS #10): its public key, and the proof that it has the private one.

use cluster::ids::PublicKeyHash;
use rcgen::{
    CertificateSigningRequestParams, IsCa, PKCS_ECDSA_P256_SHA256, PublicKey, PublicKeyData,
};
use rustls::pki_types::CertificateSigningRequestDer;

/// The longest request, in bytes. One with a P-256 key has some 200.
const REQUEST_BYTES_MAX: usize = 4096;

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("a request for a certificate of {0} bytes, more than {REQUEST_BYTES_MAX}")]
    TooLong(usize),
    #[error("the request for a certificate cannot be read: {0}")]
    Malformed(String),
    #[error("keys of nodes are ECDSA keys on the curve P-256")]
    KeyType,
    #[error("a request for a certificate names no names and no uses: the cluster decides on them")]
    AsksForMore,
}

/// A request whose signature has been checked.
#[derive(Clone, Debug)]
pub struct SigningRequest {
    key: PublicKey,
}

impl SigningRequest {
    /// Reads a request and checks that whoever made it has the key.
    ///
    /// # Errors
    /// See [`RequestError`].
    pub fn parse(der: &[u8]) -> Result<Self, RequestError> {
        if der.len() > REQUEST_BYTES_MAX {
            return Err(RequestError::TooLong(der.len()));
        }
        let der = CertificateSigningRequestDer::from(der);
        let request = CertificateSigningRequestParams::from_der(&der)
            .map_err(|error| RequestError::Malformed(error.to_string()))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(RequestError::KeyType);
        }
        let asked = &request.params;
        let modest = asked.subject_alt_names.is_empty()
            && asked.distinguished_name.iter().next().is_none()
            && asked.key_usages.is_empty()
            && asked.extended_key_usages.is_empty()
            && matches!(asked.is_ca, IsCa::NoCa);
        if !modest {
            return Err(RequestError::AsksForMore);
        }
        Ok(Self { key: request.public_key })
    }

    /// What the catalog knows the requester by.
    #[must_use]
    pub fn public_key_hash(&self) -> PublicKeyHash {
        PublicKeyHash::of(&self.key.subject_public_key_info())
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, DistinguishedName, DnType, KeyPair, KeyUsagePurpose, PKCS_ED25519,
    };

    use super::*;

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.serialize_request(&key).unwrap().der().to_vec()
    }

    #[test]
    fn a_request_may_ask_for_nothing_but_its_key() {
        SigningRequest::parse(&request(|_| ())).unwrap();
        let other = "node-1.0000.reelraft".to_owned();
        for asking in [
            request(|params| {
                params.subject_alt_names =
                    CertificateParams::new(vec![other]).unwrap().subject_alt_names;
            }),
            request(|params| params.distinguished_name.push(DnType::CommonName, "node 1")),
            request(|params| params.key_usages = vec![KeyUsagePurpose::KeyCertSign]),
        ] {
            assert_eq!(SigningRequest::parse(&asking).unwrap_err(), RequestError::AsksForMore);
        }
    }

    #[test]
    fn other_keys_and_bytes_that_are_no_request_are_refused() {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
        let der = params.serialize_request(&key).unwrap();
        assert_eq!(SigningRequest::parse(der.der()).unwrap_err(), RequestError::KeyType);
        assert!(matches!(SigningRequest::parse(&[0; 5000]), Err(RequestError::TooLong(5000))));
        assert!(matches!(SigningRequest::parse(b"request"), Err(RequestError::Malformed(_))));
    }

    #[test]
    fn a_request_that_was_tampered_with_gets_no_other_key_certified() {
        let sound = request(|_| ());
        let key = SigningRequest::parse(&sound).unwrap().public_key_hash();
        for at in 0..sound.len() {
            for bit in [0, 3, 7] {
                let mut bytes = sound.clone();
                bytes[at] ^= 1 << bit;
                // Bits outside of what is signed say nothing of the key.
                if let Ok(request) = SigningRequest::parse(&bytes) {
                    assert_eq!(request.public_key_hash(), key, "byte {at}, bit {bit}");
                }
            }
        }
    }
}
