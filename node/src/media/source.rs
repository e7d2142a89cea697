//! The uploaded file as a worker reads it: block by block, from wherever the blocks are, while it is still arriving.
//!
//! No copy of the file is made anywhere. A read of bytes that have not arrived waits for the log entry that names them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cluster::catalog;
use cluster::command::BlockRef;
use cluster::ids::VideoId;
use cluster::tables::videos::VideoState;
use gateway::backend::{Backend, Unavailable};
use tokio::sync::watch;
use transcoder::worker::SourceState;

use super::patiently;

/// How long a block that exists may be unreadable before the job is given up.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// The answer to a read.
pub(super) enum Portion {
    /// At least one byte.
    Bytes(Bytes),
    /// The source ends at or before that offset.
    End,
}

/// Why a source cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub(super) enum SourceError {
    #[error("the video is gone or has failed")]
    Gone,
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    #[error("read the catalog: {0}")]
    Catalog(#[from] cluster::view::ViewError),
}

/// One worker's view of one source.
pub(super) struct SourceReader {
    backend: Arc<dyn Backend>,
    video: VideoId,
    applied: watch::Receiver<u64>,
    /// The block read last, with its place: reads are smaller than blocks.
    current: Option<(u64, Bytes)>,
    waits: Arc<AtomicBool>,
}

impl SourceReader {
    /// `waits` is set while a read waits for bytes that have not arrived.
    pub(super) fn new(backend: Arc<dyn Backend>, video: VideoId, waits: Arc<AtomicBool>) -> Self {
        let applied = backend.applied();
        Self { backend, video, applied, current: None, waits }
    }

    /// What is known about the upload now.
    pub(super) fn state(&self) -> Result<SourceState, SourceError> {
        let row = catalog::video(self.backend.catalog().as_ref(), self.video)?
            .ok_or(SourceError::Gone)?;
        if row.state == VideoState::Failed || row.source.deleted {
            return Err(SourceError::Gone);
        }
        Ok(SourceState { len: row.source.length, complete: row.source.complete })
    }

    /// Up to `len` bytes from `offset` on; waits while they have not arrived. The wait is bounded by those who watch over
    /// uploads: one that does not go on fails, and that ends the wait.
    pub(super) async fn read(&mut self, offset: u64, len: u32) -> Result<Portion, SourceError> {
        loop {
            if let Some(bytes) = self.current_bytes(offset, len) {
                return Ok(Portion::Bytes(bytes));
            }
            self.applied.mark_unchanged();
            let found =
                catalog::source_block_at(self.backend.catalog().as_ref(), self.video, offset)?;
            if let Some(found) = found {
                self.current = Some((found.offset, self.block(found.block).await?));
                continue;
            }
            let state = self.state()?;
            if state.complete {
                return Ok(Portion::End);
            }
            self.waits.store(true, Ordering::Relaxed);
            let changed = self.applied.changed().await;
            self.waits.store(false, Ordering::Relaxed);
            if changed.is_err() {
                return Err(Unavailable::NotInService("the node is stopping".to_owned()).into());
            }
        }
    }

    fn current_bytes(&self, offset: u64, len: u32) -> Option<Bytes> {
        let (start, block) = self.current.as_ref()?;
        let skip = usize::try_from(offset.checked_sub(*start)?).ok()?;
        let end = block.len().min(skip.saturating_add(len as usize));
        (skip < end).then(|| block.slice(skip..end))
    }

    async fn block(&self, block: BlockRef) -> Result<Bytes, SourceError> {
        Ok(patiently(READ_WITHIN, || self.backend.get_block_once(block)).await?)
    }
}
