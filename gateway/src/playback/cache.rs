//! What playback remembers for a moment, so that a crowd that watches one video costs the catalog little.
//!
//! All of it may be stale by its time to live, which is what bounds how long a deleted video is still served by a node that
//! did not delete it itself. Sizes are bounded by bytes.

use std::time::Duration;

use axum::http::HeaderValue;
use bytes::Bytes;
use cluster::command::BlockRef;
use cluster::ids::VideoId;
use cluster::plan::NAME_BYTES_MAX;
use moka::sync::Cache;

/// How long an address that was resolved stays resolved.
const PART_LIFE: Duration = Duration::from_secs(5);

/// Addresses that are remembered; each takes about 200 bytes.
const PARTS_MAX: u64 = 50_000;

/// How long a rendered playlist may be served again; players ask for a growing one once per segment.
const DOCUMENT_LIFE: Duration = Duration::from_millis(500);

/// Bytes of rendered playlists that are remembered.
const DOCUMENTS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The name of a rendition, within its key instead of on the heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Name {
    length: u8,
    bytes: [u8; NAME_BYTES_MAX],
}

impl Name {
    /// `None` when it is longer than any rendition's name.
    pub(crate) fn new(name: &str) -> Option<Self> {
        let mut bytes = [0; NAME_BYTES_MAX];
        bytes.get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(Self { length: u8::try_from(name.len()).ok()?, bytes })
    }
}

/// A file of a rendition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Init,
    Segment(u32),
}

impl Part {
    /// The one spelling that each file has: a cache must not keep the same bytes under `7.m4s` and `007.m4s`.
    pub(crate) fn of_file(file: &str) -> Option<Self> {
        if file == "init.mp4" {
            return Some(Self::Init);
        }
        let number = file.strip_suffix(".m4s")?;
        let plain = number == "0" || !number.starts_with(['0', '+']);
        number.parse().ok().filter(|_| plain).map(Self::Segment)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PartKey {
    pub(crate) video: VideoId,
    pub(crate) rendition: Name,
    pub(crate) part: Part,
}

/// A block and the headers that it goes out with.
#[derive(Clone, Debug)]
pub(crate) struct PartInfo {
    pub(crate) block: BlockRef,
    pub(crate) content_type: HeaderValue,
    pub(crate) etag: HeaderValue,
    pub(crate) caching: HeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Which {
    Multivariant,
    Manifest,
    Rendition(Name),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DocumentKey {
    pub(crate) video: VideoId,
    pub(crate) which: Which,
}

/// A rendered playlist or manifest.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    pub(crate) body: Bytes,
    pub(crate) content_type: HeaderValue,
    pub(crate) etag: HeaderValue,
    pub(crate) caching: HeaderValue,
}

pub(crate) struct Caches {
    pub(crate) parts: Cache<PartKey, PartInfo>,
    pub(crate) documents: Cache<DocumentKey, Document>,
}

impl Caches {
    pub(crate) fn new() -> Self {
        Self {
            parts: Cache::builder()
                .max_capacity(PARTS_MAX)
                .time_to_live(PART_LIFE)
                .support_invalidation_closures()
                .build(),
            documents: Cache::builder()
                .max_capacity(DOCUMENTS_BYTES_MAX)
                .weigher(|_, document: &Document| {
                    u32::try_from(document.body.len() + 256).unwrap_or(u32::MAX)
                })
                .time_to_live(DOCUMENT_LIFE)
                .support_invalidation_closures()
                .build(),
        }
    }

    /// Forgets a video that was deleted or hidden at this node. Others notice when the time to live is over.
    pub(crate) fn forget(&self, video: VideoId) {
        let parts = self.parts.invalidate_entries_if(move |key, _| key.video == video);
        let documents = self.documents.invalidate_entries_if(move |key, _| key.video == video);
        if let Err(error) = parts.and(documents) {
            tracing::debug!(%error, "forget a video before its time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_spelling() {
        assert_eq!(Part::of_file("init.mp4"), Some(Part::Init));
        assert_eq!(Part::of_file("0.m4s"), Some(Part::Segment(0)));
        assert_eq!(Part::of_file("4294967295.m4s"), Some(Part::Segment(u32::MAX)));
        for refused in
            ["00.m4s", "01.m4s", "+1.m4s", "-1.m4s", ".m4s", "1", "1.mp4", "4294967296.m4s", ""]
        {
            assert_eq!(Part::of_file(refused), None, "{refused}");
        }
    }

    #[test]
    fn names_differ_when_their_texts_do() {
        assert_eq!(Name::new("720p"), Name::new("720p"));
        assert_ne!(Name::new("720p"), Name::new("720p\0"));
        assert!(Name::new(&"x".repeat(NAME_BYTES_MAX)).is_some());
        assert!(Name::new(&"x".repeat(NAME_BYTES_MAX + 1)).is_none());
    }
}
