//! The cluster's certificate authority.
//!
//! Certificate and key are in the catalog, so that any member can sign the certificate of a node that joins. Whoever can
//! read a member's data directory can therefore sign too: a data directory is as secret as a key.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::table::Table;
use crate::view::TableId;

/// The authority, in one row; none in clusters that were founded before nodes had certificates.
pub const AUTHORITY: Table<(), AuthorityRow> = Table::new(TableId::Authority);

/// A certificate that signs, and its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorityRow {
    /// X.509, self-signed.
    #[serde(with = "crate::codec::bytes")]
    pub certificate_der: Vec<u8>,
    /// PKCS #8.
    pub key_der: PrivateKey,
    /// Milliseconds since 1970.
    pub created_ms: u64,
}

/// A private key in DER. Its `Debug` does not show it, so that nothing that contains one can end up in a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PrivateKey(#[serde(with = "crate::codec::bytes")] pub Vec<u8>);

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(not shown)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec;

    #[test]
    fn the_key_is_kept_and_not_shown() {
        let row = AuthorityRow {
            certificate_der: vec![1; 400],
            key_der: PrivateKey(vec![0xab; 100]),
            created_ms: 1,
        };
        let shown = format!("{row:?} {row:#?}");
        assert!(!shown.contains("171") && !shown.to_lowercase().contains("ab,"), "{shown}");
        let encoded = codec::encode(&row);
        assert!(encoded.len() < 560, "{} bytes", encoded.len());
        assert_eq!(codec::decode::<AuthorityRow>(&encoded).unwrap(), row);
    }
}
