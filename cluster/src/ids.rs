//! The names of things.
//!
//! Each name is a type of its own, so that a node can never be passed where a video is meant. All of them order and encode
//! in a way that is stable for ever: they are part of keys on disk.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A member of the cluster. Never 0, never used twice, not even after the node was removed: a second node under an old id
/// could vote twice in one term.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u64);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A video: 128 random bits, so that the address of an unlisted video cannot be guessed.
///
/// Written as 32 lower-case hexadecimal digits, which need no escaping in URLs, file names and shells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VideoId(pub [u8; 16]);

/// The BLAKE3 hash of a block's bytes: its name everywhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 32]);

impl BlockHash {
    /// The name of `bytes`. Runs at gigabytes per second; call it off the async executor for large blocks all the same.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight digits: enough for a log line.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..4])
    }
}

/// Whoever proposes commands: 128 random bits, chosen anew each time a process starts. With the sequence number it names a
/// command, so that one sent twice is applied once.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub [u8; 16]);

/// A token that lets nodes join: 128 random bits. Its secret is another matter, see [`SecretHash`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub [u8; 16]);

/// The BLAKE3 hash of a node's public key (its `SubjectPublicKeyInfo` in DER): by it a node that joins again after a crash is
/// known to be the same one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKeyHash(pub [u8; 32]);

impl PublicKeyHash {
    /// The hash of a key in DER.
    #[must_use]
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(*blake3::hash(subject_public_key_info).as_bytes())
    }
}

/// The BLAKE3 hash of a token's secret, which is 256 random bits: too many to be guessed, so it needs no slow hash.
///
/// Comparing two of them takes the same time wherever they differ.
#[derive(Clone, Copy)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// The hash of a secret.
    #[must_use]
    pub fn of(secret: &[u8]) -> Self {
        Self(*blake3::hash(secret).as_bytes())
    }
}

impl PartialEq for SecretHash {
    fn eq(&self, other: &Self) -> bool {
        // The comparison of `blake3::Hash` is in constant time.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for SecretHash {}

/// A text that is not the name it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
    text: String,
}

/// Names that are plain bytes are written as hexadecimal digits for people, and stay bytes in the catalog's encoding.
macro_rules! bytes_id {
    ($name:ident, $length:literal, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let refused = || ParseIdError {
                    what: $what,
                    digits: $length * 2,
                    text: text.chars().take(80).collect(),
                };
                let mut bytes = [0; $length];
                // One spelling only: the digits are a key of caches and counters, so upper case is refused too.
                if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
                    return Err(refused());
                }
                hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "a {}", $what)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }

                    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        let bytes =
                            bytes.try_into().map_err(|_| E::invalid_length(bytes.len(), &self))?;
                        Ok($name(bytes))
                    }
                }

                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    deserializer.deserialize_bytes(Visitor)
                }
            }
        }
    };
}

bytes_id!(VideoId, 16, "video id");
bytes_id!(BlockHash, 32, "block hash");
bytes_id!(ClientId, 16, "client id");
bytes_id!(TokenId, 16, "token id");
bytes_id!(PublicKeyHash, 32, "hash of a public key");
bytes_id!(SecretHash, 32, "hash of a secret");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_video_id_has_one_spelling() {
        let id = VideoId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(id.to_string().to_uppercase().parse::<VideoId>().is_err());
        assert!("".parse::<VideoId>().is_err());
        assert!("ab".repeat(17).parse::<VideoId>().is_err());
        assert!("é".repeat(16).parse::<VideoId>().is_err());
    }

    #[test]
    fn names_stay_bytes_in_the_catalog_encoding() {
        let hash = BlockHash::of(b"hello");
        let encoded = rmp_serde::to_vec_named(&hash).unwrap();
        assert!(encoded.len() <= 34, "{} bytes", encoded.len());
        assert_eq!(rmp_serde::from_slice::<BlockHash>(&encoded).unwrap(), hash);
    }
}
