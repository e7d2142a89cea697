//! Join tokens: the sentence of an operator that lets a new node in.
//!
//! A token says two things. To the new node: this is the cluster, and by this fingerprint you recognize its authority, so
//! that nobody on the way can pretend to be it. To the cluster: an operator has allowed this, by a secret of which the
//! catalog keeps only a hash.
//!
//! The text is `rrj1_` and, in base64url without padding, the cluster's id (16 bytes), the SHA-256 of the authority's
//! certificate (32), the token's id (16) and the secret (32).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// What a token's text begins with; the digit is the version of its form.
const PREFIX: &str = "rrj1_";

/// What all versions begin with.
const ANY_PREFIX: &str = "rrj";

const BYTES: usize = 16 + 32 + 16 + 32;

/// The length of the text, in characters.
const TEXT_LENGTH: usize = PREFIX.len() + BYTES / 3 * 4;

/// Why a text is no join token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("this is no join token: one begins with {PREFIX} (`reelraft token create` makes them)")]
    NotAToken,
    #[error(
        "this join token was made by another version of reelraft: it does not begin with {PREFIX}"
    )]
    Version,
    #[error("a join token has {TEXT_LENGTH} characters, this one has {0}: was all of it copied?")]
    Length(usize),
    #[error("the join token has been changed on its way: {0}")]
    Encoding(String),
}

/// A token, with its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub cluster_id: [u8; 16],
    /// SHA-256 of the certificate of the cluster's authority.
    pub authority: [u8; 32],
    /// What the catalog knows it by.
    pub id: [u8; 16],
    pub secret: [u8; 32],
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes =
            [&self.cluster_id[..], &self.authority[..], &self.id[..], &self.secret[..]].concat();
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            return Err(if text.starts_with(ANY_PREFIX) {
                TokenError::Version
            } else {
                TokenError::NotAToken
            });
        };
        if text.len() != TEXT_LENGTH {
            return Err(TokenError::Length(text.chars().count()));
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|error| TokenError::Encoding(error.to_string()))?;
        let whole = "the length of the text was checked, and with it that of the bytes";
        let (cluster_id, rest) = bytes.split_first_chunk().expect(whole);
        let (authority, rest) = rest.split_first_chunk().expect(whole);
        let (id, rest) = rest.split_first_chunk().expect(whole);
        let (secret, _) = rest.split_first_chunk().expect(whole);
        Ok(Self { cluster_id: *cluster_id, authority: *authority, id: *id, secret: *secret })
    }
}

/// Without the secret.
impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster_id", &hex::encode(self.cluster_id))
            .field("id", &hex::encode(self.id))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken { cluster_id: [1; 16], authority: [0xfe; 32], id: [3; 16], secret: [0xab; 32] }
    }

    #[test]
    fn a_token_survives_being_copied() {
        let text = token().to_string();
        assert_eq!(text.len(), TEXT_LENGTH);
        assert!(text.starts_with("rrj1_"));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {text}\n").parse(), Ok(token()));
    }

    #[test]
    fn what_is_wrong_with_a_text_is_said() {
        let text = token().to_string();
        let parse = |text: &str| text.parse::<JoinToken>().unwrap_err();
        assert_eq!(parse(""), TokenError::NotAToken);
        assert_eq!(parse("hello"), TokenError::NotAToken);
        assert_eq!(parse(&text.replace("rrj1_", "rrj2_")), TokenError::Version);
        assert_eq!(parse(&text[..100]), TokenError::Length(100));
        assert_eq!(parse(&format!("{text}A")), TokenError::Length(TEXT_LENGTH + 1));
        let broken = format!("{}!{}", &text[..50], &text[51..]);
        assert!(matches!(parse(&broken), TokenError::Encoding(_)), "{:?}", parse(&broken));
    }

    #[test]
    fn every_text_is_a_token_or_an_error() {
        let text = token().to_string();
        fastrand::seed(20);
        for _ in 0..20_000 {
            let mut bytes = text.clone().into_bytes();
            for _ in 0..fastrand::usize(1..4) {
                let at = fastrand::usize(..bytes.len());
                match fastrand::u8(..3) {
                    0 => bytes[at] = fastrand::u8(..),
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, fastrand::u8(..)),
                }
            }
            let text = String::from_utf8_lossy(&bytes);
            if let Ok(token) = text.parse::<JoinToken>() {
                assert_eq!(token.to_string(), text.trim(), "one text for one token");
            }
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains("abab"), "{shown}");
        assert!(!shown.contains("171"), "{shown}");
    }
}
