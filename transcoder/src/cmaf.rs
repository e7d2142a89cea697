//! Our own CMAF writer (ISO/IEC 14496-12 and 23000-19): initialization segments and segments of one `moof` and one `mdat`.
//!
//! Written here and not by libavformat because pieces of a video are made by different processes on different machines:
//! - the initialization segment depends on the rendition alone, so it is the same bytes from everyone;
//! - decode times (`tfdt`) are those that the plan gives, not those that a muxer counts from its own beginning.
//!
//! Decode times inside a segment are the sorted presentation times: the first frame to be decoded gets the earliest one,
//! and so on. With a closed group of pictures that makes a segment begin exactly at its cut, follow the one before
//! without gap or overlap, and needs no edit list; composition offsets may then be negative (`trun` version 1).

pub(crate) mod aac;
pub(crate) mod avc;
pub(crate) mod bits;
pub(crate) mod boxes;
pub(crate) mod init;
pub(crate) mod segment;
