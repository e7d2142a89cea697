//! The rows of the catalog: what is in each table, and how its keys are written.
//!
//! Keys are written so that their byte order is the order in which they are scanned (numbers big-endian). Values are encoded
//! by [`crate::codec`]. One file per group of tables that belong together.

pub mod audit;
pub mod authority;
pub mod blocks;
pub mod jobs;
pub mod members;
pub mod nodes;
pub mod renditions;
pub mod sessions;
pub mod system;
pub mod tokens;
pub mod videos;
