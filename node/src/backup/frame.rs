//! The frames of a backup, and the chain of hashes that holds them together.

use std::io::{self, Read, Write};

use cluster::codec;
use serde::{Deserialize, Serialize};

use super::{Header, MAGIC};

/// A frame is closed when it has this many bytes of rows.
pub(super) const ROWS_BYTES: usize = 1 << 20;

/// A longer frame is none: one row has a few hundred KiB at most.
const FRAME_BYTES_MAX: u32 = 32 << 20;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Frame {
    Header(Header),
    /// Rows of one table, in the order of their keys.
    Rows {
        table: String,
        rows: Vec<Row>,
    },
    End {
        rows: u64,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row {
    #[serde(with = "codec::bytes")]
    pub(super) key: Vec<u8>,
    #[serde(with = "codec::bytes")]
    pub(super) value: Vec<u8>,
}

/// What the next frame's hash begins with.
pub(super) struct Chain([u8; 32]);

impl Chain {
    pub(super) fn new() -> Self {
        Self(*blake3::hash(MAGIC).as_bytes())
    }

    fn link(&mut self, content: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(content);
        self.0 = *hasher.finalize().as_bytes();
        self.0
    }

    pub(super) fn write(&mut self, frame: &Frame, to: &mut dyn Write) -> io::Result<()> {
        let content = codec::encode(frame);
        let length = u32::try_from(content.len())
            .ok()
            .filter(|length| *length <= FRAME_BYTES_MAX)
            .ok_or_else(|| io::Error::other("a row of the catalog is too long for a backup"))?;
        to.write_all(&length.to_le_bytes())?;
        to.write_all(&self.link(&content))?;
        to.write_all(&content)
    }

    /// The next frame, or why there is none.
    pub(super) fn read(&mut self, from: &mut dyn Read) -> Result<Frame, String> {
        let mut length = [0; 4];
        let mut hash = [0; 32];
        let ended = |error: io::Error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                "it ends too early".to_owned()
            } else {
                error.to_string()
            }
        };
        from.read_exact(&mut length).map_err(ended)?;
        from.read_exact(&mut hash).map_err(ended)?;
        let length = u32::from_le_bytes(length);
        if length > FRAME_BYTES_MAX {
            return Err(format!("a part of {length} bytes cannot be"));
        }
        let mut content = Vec::new();
        from.take(length.into()).read_to_end(&mut content).map_err(ended)?;
        if content.len() != length as usize {
            return Err("it ends too early".to_owned());
        }
        if self.link(&content) != hash {
            return Err("a part is not what was written".to_owned());
        }
        codec::decode(&content).map_err(|error| format!("a part cannot be read: {error}"))
    }
}
