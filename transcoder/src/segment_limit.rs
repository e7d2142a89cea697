//! How large a segment may become: what a block store and a reader's memory are made for.

/// Bytes.
pub(crate) const SEGMENT_BYTES_MAX: u64 = 32 * 1024 * 1024;
