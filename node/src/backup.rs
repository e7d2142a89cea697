//! The catalog in one file, for the day on which a majority of the cluster is lost, or somebody deletes the wrong video.
//!
//! A backup is taken from a snapshot of the tables while everything goes on, and says at which entry of the log that was. It
//! holds rows, not database files, so that a later version can read what an earlier one wrote. Blocks are not in it: they
//! stay where they are, and a node that starts on a restored catalog uses those that it finds.
//!
//! # Form
//!
//! A line that says what it is, then frames: length (4 bytes, little endian), BLAKE3 hash (32 bytes), content (MessagePack
//! with field names). Each hash covers the hash before it as well as the content, so a frame that is missing, twice or
//! elsewhere is found like a changed one. The first frame is the [`Header`], the last one says how many rows there were: a
//! file that was cut off has no such end.
//!
//! # Invariants
//!
//! - A backup holds no secret: the authority's key and the tokens are left out, and what is restored gets new ones. It does
//!   hold what people typed, so the file is for its owner's eyes only.
//! - Reading and writing need memory for one frame, however large the catalog is.

mod frame;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::io;

use cluster::view::{TableId, ViewError};
use serde::{Deserialize, Serialize};

pub use reader::{Reader, Summary, verify};
pub use writer::write;

/// The first line of each backup.
const MAGIC: &[u8] = b"reelraft backup 1\n";

/// Tables that are left out: secrets, and what only the processes of the moment need.
const LEFT_OUT: [TableId; 4] =
    [TableId::Authority, TableId::Tokens, TableId::Sessions, TableId::Replies];

/// Where a backup comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    #[serde(with = "hex::serde")]
    pub cluster_id: [u8; 16],
    /// The last entry of the log that is in it.
    pub index: u64,
    /// Version of the program that wrote it.
    pub version: String,
    /// RFC 3339.
    pub created: String,
    /// What a program has to understand to read the rows; see [`cluster::features`].
    pub feature_level: u32,
}

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("this is no backup of a Reelraft catalog")]
    NotABackup,
    #[error(
        "the backup is damaged or cut off after {rows} rows ({reason}): use another one; nothing of it has been restored"
    )]
    Damaged { rows: u64, reason: String },
    #[error(
        "the backup was made by version {version}, which knows more than this program ({what}): use that version or a later one"
    )]
    TooNew { version: String, what: String },
    #[error(transparent)]
    Catalog(#[from] ViewError),
    #[error(transparent)]
    Io(#[from] io::Error),
}
