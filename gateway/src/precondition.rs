//! Conditional requests (RFC 9110, section 13): entity tags of videos, and comparing those of immutable bytes.

use axum::http::{HeaderMap, HeaderValue, header};
use cluster::ids::BlockHash;

use crate::error::{ApiError, text};

/// A video's tag names the version of what people typed. It does not change while a video is being processed, so that
/// somebody who edits the title meanwhile is not refused; for the same reason no answer about a video may be cached by it.
pub(crate) fn etag_of_version(version: u64) -> HeaderValue {
    text(format_args!("\"{version}\""))
}

/// Immutable bytes are tagged with the start of their hash: 128 bits tell all blocks there will ever be apart.
pub(crate) fn etag_of_block(hash: &BlockHash) -> HeaderValue {
    let hex = hash.to_string();
    text(format_args!("\"{}\"", &hex[..32]))
}

/// What `If-Match` demands of a video's version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum IfMatch {
    /// Nothing, or only that the video exists.
    Anything,
    /// One of these versions. Never empty.
    Versions(Vec<u64>),
}

impl IfMatch {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, ApiError> {
        if !headers.contains_key(header::IF_MATCH) {
            return Ok(Self::Anything);
        }
        let mut versions = Vec::new();
        for tag in tags(headers, &header::IF_MATCH) {
            if tag == "*" {
                return Ok(Self::Anything);
            }
            // Strong comparison: a weak tag matches nothing, nor does one that we never gave.
            versions.extend(
                tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')?.parse::<u64>().ok()),
            );
        }
        if versions.is_empty() {
            return Err(ApiError::VersionMismatch { actual: None });
        }
        Ok(Self::Versions(versions))
    }

    /// The version to demand when the video is changed, given what this node, which may lag, believes it has.
    pub(crate) fn demand(&self, believed: Option<u64>) -> Option<u64> {
        match self {
            Self::Anything => None,
            Self::Versions(versions) => versions
                .iter()
                .copied()
                .find(|version| Some(*version) == believed)
                .or_else(|| versions.iter().copied().max()),
        }
    }
}

/// Whether `If-None-Match` says that the client has this already (weak comparison).
pub(crate) fn none_match(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    if !headers.contains_key(header::IF_NONE_MATCH) {
        return false;
    }
    let etag = etag.to_str().unwrap_or_default();
    tags(headers, &header::IF_NONE_MATCH)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// Whether `If-Range` allows to answer with a part (strong comparison; we give no dates, so a date never matches).
pub(crate) fn range_applies(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    headers.get(header::IF_RANGE).is_none_or(|condition| condition == etag)
}

fn tags<'a>(headers: &'a HeaderMap, name: &'a header::HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|tag| !tag.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: header::HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn if_match_takes_versions_in_quotes_only() {
        let of = |value| IfMatch::of(&headers(header::IF_MATCH, value));
        assert_eq!(IfMatch::of(&HeaderMap::new()).unwrap(), IfMatch::Anything);
        assert_eq!(of("*").unwrap(), IfMatch::Anything);
        assert_eq!(of("\"7\", \"9\"").unwrap(), IfMatch::Versions(vec![7, 9]));
        assert_eq!(of("\"7\", W/\"9\"").unwrap(), IfMatch::Versions(vec![7]));
        for refused in ["7", "W/\"7\"", "\"x\"", "\"\"", "\""] {
            assert!(of(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn of_several_versions_the_one_believed_is_demanded_else_the_newest() {
        let versions = IfMatch::Versions(vec![7, 9, 8]);
        assert_eq!(versions.demand(Some(8)), Some(8));
        assert_eq!(versions.demand(Some(3)), Some(9));
        assert_eq!(IfMatch::Anything.demand(Some(8)), None);
    }

    #[test]
    fn if_none_match_compares_weakly() {
        let etag = HeaderValue::from_static("\"abc\"");
        for (value, same) in [
            ("\"abc\"", true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("*", true),
            ("\"x\"", false),
            ("abc", false),
        ] {
            assert_eq!(none_match(&headers(header::IF_NONE_MATCH, value), &etag), same, "{value}");
        }
        assert!(!none_match(&HeaderMap::new(), &etag));
    }
}
