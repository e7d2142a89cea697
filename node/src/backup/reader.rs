//! Reading a backup.

use std::io::Read;

use cluster::features;
use cluster::view::{TableId, WriteBatch};
use serde::Serialize;

use super::frame::{Chain, Frame};
use super::{BackupError, Header, MAGIC};

/// A backup that is being read. Nothing that it yields counts until [`next_rows`](Self::next_rows) has said that it is complete.
pub struct Reader<R> {
    from: R,
    chain: Chain,
    header: Header,
    rows: u64,
    complete: bool,
}

/// What is in a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    #[serde(flatten)]
    pub header: Header,
    pub rows: u64,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// When it is no backup, damaged, or too new for this program.
    pub fn open(mut from: R) -> Result<Self, BackupError> {
        let mut magic = [0; MAGIC.len()];
        if from.read_exact(&mut magic).is_err() || magic != MAGIC {
            return Err(BackupError::NotABackup);
        }
        let mut chain = Chain::new();
        let damaged = |reason| BackupError::Damaged { rows: 0, reason };
        let header = match chain.read(&mut from).map_err(damaged)? {
            Frame::Header(header) => header,
            Frame::Rows { .. } | Frame::End { .. } => {
                return Err(damaged("it does not begin with its description".to_owned()));
            }
        };
        if header.feature_level > features::NEWEST {
            return Err(BackupError::TooNew {
                what: format!("feature level {}, {} here", header.feature_level, features::NEWEST),
                version: header.version,
            });
        }
        Ok(Self { from, chain, header, rows: 0, complete: false })
    }

    /// Where it comes from.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Some rows, or `None` when all have been read and none is missing.
    ///
    /// # Errors
    /// When the backup is damaged, or has a table that this program does not know.
    pub fn next_rows(&mut self) -> Result<Option<WriteBatch>, BackupError> {
        if self.complete {
            return Ok(None);
        }
        match self.chain.read(&mut self.from).map_err(|reason| self.damaged(&reason))? {
            Frame::Header(_) => Err(self.damaged("it begins twice")),
            Frame::Rows { table, rows } => {
                let known = TableId::ALL.into_iter().find(|known| known.name() == table);
                let table = known.ok_or_else(|| BackupError::TooNew {
                    version: self.header.version.clone(),
                    what: format!("a table {table:?}"),
                })?;
                self.rows += rows.len() as u64;
                let writes =
                    rows.into_iter().map(|row| ((table, row.key), Some(row.value))).collect();
                Ok(Some(WriteBatch { writes }))
            }
            Frame::End { rows } if rows == self.rows => {
                self.complete = true;
                Ok(None)
            }
            Frame::End { rows } => {
                Err(self.damaged(&format!("it should have {rows} rows and has {}", self.rows)))
            }
        }
    }

    /// What has been read.
    #[must_use]
    pub fn summary(self) -> Summary {
        Summary { rows: self.rows, header: self.header }
    }

    fn damaged(&self, reason: &str) -> BackupError {
        BackupError::Damaged { rows: self.rows, reason: reason.to_owned() }
    }
}

/// Reads all of a backup.
///
/// # Errors
/// When it could not be restored.
pub fn verify(from: impl Read) -> Result<Summary, BackupError> {
    let mut reader = Reader::open(from)?;
    while reader.next_rows()?.is_some() {}
    Ok(reader.summary())
}
