//! A stream of bytes becomes the source of a video.
//!
//! Three things go on at the same time, each of them bounded: bytes are read and cut into blocks; full blocks are on their
//! way to their holders, a few at a time and in order; and what is durable without a gap is appended to the source, in one
//! command for all that became durable while the command before was under way. So the log is never behind by more than one
//! round trip, and gets one entry per round trip and not one per block.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use cluster::apply::APPEND_BLOCKS_MAX;
use cluster::command::{Action, PutBlock, Refusal, Reply};
use cluster::ids::VideoId;
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::backend::Unavailable;
use crate::error::ApiError;
use crate::state::Shared;
use crate::upload::BLOCK_BYTES;

/// An upload has to bring this much in each such window: a block a minute, 17 KiB/s. Less is no upload but a held connection,
/// and looks to the rest of the cluster as if this gateway were gone.
const PACE_WINDOW: Duration = Duration::from_secs(60);
const PACE_BYTES_MIN: u64 = BLOCK_BYTES as u64;

/// How far an upload came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ingested {
    /// All bytes are part of the source.
    Complete,
    /// The video has failed meanwhile; the rest was not read.
    VideoFailed,
}

impl Ingested {
    pub(crate) fn is_ended(self) -> bool {
        self == Self::VideoFailed
    }
}

type Pending<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Reads the stream to its end and makes it the source of the video. Returns when the last block is part of it.
pub(crate) async fn ingest(
    gateway: &Shared,
    id: VideoId,
    mut chunks: impl Stream<Item = Result<Bytes, ApiError>> + Unpin + Send,
) -> Result<Ingested, ApiError> {
    let mut blocks = Blocks::new(gateway, id);
    let mut pace = Pace::new();
    let mut ended = false;
    loop {
        blocks.cut(ended);
        blocks.append();
        if ended && blocks.are_done() {
            return Ok(Ingested::Complete);
        }
        let reads = !ended && blocks.have_room();
        if !reads {
            // Time in which we do not read is not the sender's.
            pace = Pace::new();
        }
        tokio::select! {
            appended = next(&mut blocks.appending) => {
                blocks.appending = None;
                if appended?.is_ended() {
                    return Ok(Ingested::VideoFailed);
                }
            }
            Some(put) = blocks.putting.next(), if !blocks.putting.is_empty() => {
                let put = put?;
                gateway.meters.upload_bytes.increment(put.block.len.into());
                blocks.durable.push(put);
            }
            permit = next(&mut blocks.permitting) => {
                blocks.permitting = None;
                blocks.permit = Some(permit);
            }
            chunk = timeout(gateway.settings.upload_idle, chunks.next()), if reads => {
                match chunk {
                    Err(_) => return Err(ApiError::UploadTooSlow(format!(
                        "nothing came for {} seconds.", gateway.settings.upload_idle.as_secs()
                    ))),
                    Ok(None) => ended = true,
                    Ok(Some(chunk)) => {
                        let chunk = chunk?;
                        pace.came(chunk.len())?;
                        blocks.take(chunk)?;
                    }
                }
            }
            () = gateway.stopping.cancelled() => {
                return Err(Unavailable::NotInService("the node stops".to_owned()).into());
            }
        }
    }
}

/// Completes with the future, or never when there is none.
async fn next<T>(future: &mut Option<Pending<T>>) -> T {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

/// The bytes of an upload on their way from the stream into the catalog.
struct Blocks<'a> {
    gateway: &'a Shared,
    id: VideoId,
    /// Came, but does not fit into the block being filled.
    chunk: Bytes,
    filling: BytesMut,
    /// Bytes that came.
    received: u64,
    /// The right to send the block being filled, once it is full.
    permit: Option<OwnedSemaphorePermit>,
    permitting: Option<Pending<OwnedSemaphorePermit>>,
    /// In the order of the file.
    putting: FuturesOrdered<Pending<Result<PutBlock, ApiError>>>,
    /// Durable, follows `appended` without a gap, and is not yet being appended.
    durable: Vec<PutBlock>,
    appending: Option<Pending<Result<Ingested, ApiError>>>,
    /// Bytes that are part of the source or are being appended to it.
    appended: u64,
}

impl<'a> Blocks<'a> {
    fn new(gateway: &'a Shared, id: VideoId) -> Self {
        Self {
            gateway,
            id,
            chunk: Bytes::new(),
            filling: BytesMut::new(),
            received: 0,
            permit: None,
            permitting: None,
            putting: FuturesOrdered::new(),
            durable: Vec::new(),
            appending: None,
            appended: 0,
        }
    }

    fn have_room(&self) -> bool {
        self.chunk.is_empty()
    }

    fn are_done(&self) -> bool {
        self.chunk.is_empty()
            && self.filling.is_empty()
            && self.putting.is_empty()
            && self.durable.is_empty()
            && self.appending.is_none()
    }

    fn take(&mut self, chunk: Bytes) -> Result<(), ApiError> {
        self.received += chunk.len() as u64;
        let limit = self.gateway.settings.upload_bytes_max;
        if self.received > limit {
            return Err(ApiError::UploadTooLarge { limit });
        }
        self.chunk = chunk;
        Ok(())
    }

    /// Fills blocks from what came and sends the full ones, as far as there is room; the last one even if it is not full.
    fn cut(&mut self, ended: bool) {
        loop {
            if self.filling.is_empty() && !self.chunk.is_empty() {
                self.filling.reserve(BLOCK_BYTES);
            }
            let fits = self.chunk.len().min(BLOCK_BYTES - self.filling.len());
            self.filling.extend_from_slice(&self.chunk[..fits]);
            self.chunk.advance(fits);
            let full = self.filling.len() == BLOCK_BYTES || (ended && !self.filling.is_empty());
            if !full || !self.send() {
                return;
            }
        }
    }

    /// Sends the block being filled, if that is allowed now.
    fn send(&mut self) -> bool {
        let limits = &self.gateway.uploads;
        if self.putting.len() >= limits.blocks_per_upload {
            return false;
        }
        let permit = match self.permit.take() {
            Some(permit) => permit,
            None => match Arc::clone(&limits.blocks).try_acquire_owned() {
                Ok(permit) if self.permitting.is_none() => permit,
                _ => {
                    let blocks = Arc::clone(&limits.blocks);
                    self.permitting.get_or_insert_with(|| {
                        Box::pin(async move {
                            blocks.acquire_owned().await.expect("this semaphore is never closed")
                        })
                    });
                    return false;
                }
            },
        };
        let gateway = Arc::clone(self.gateway);
        let bytes = std::mem::take(&mut self.filling).freeze();
        self.putting.push_back(Box::pin(async move {
            let _permit = permit;
            gateway.patiently(|| gateway.backend.put_block(bytes.clone())).await
        }));
        true
    }

    /// Appends all that is durable, unless a command is under way already.
    fn append(&mut self) {
        if self.appending.is_some() || self.durable.is_empty() {
            return;
        }
        let rest = self.durable.split_off(self.durable.len().min(APPEND_BLOCKS_MAX));
        let put = std::mem::replace(&mut self.durable, rest);
        let put_index = put.iter().map(|put| put.put_index).min().unwrap_or(0);
        let blocks: Vec<_> = put.into_iter().map(|put| put.block).collect();
        let offset = self.appended;
        self.appended += blocks.iter().map(|block| u64::from(block.len)).sum::<u64>();
        let end = self.appended;
        let action = Action::AppendSource { id: self.id, offset, blocks, put_index };
        let gateway = Arc::clone(self.gateway);
        self.appending = Some(Box::pin(async move {
            let applied = gateway.propose_blocks(action).await?;
            match applied.reply {
                Reply::Done
                | Reply::Version(_)
                | Reply::Claimed(_)
                | Reply::Lost(_)
                | Reply::Admitted(_) => Ok(Ingested::Complete),
                // A try that seemed to have timed out took effect after all.
                Reply::Refused(Refusal::OffsetMismatch { expected }) if expected == end => {
                    Ok(Ingested::Complete)
                }
                Reply::Refused(Refusal::WrongState { .. }) => Ok(Ingested::VideoFailed),
                Reply::Refused(Refusal::UnknownVideo) => Err(ApiError::UploadDeleted),
                Reply::Refused(refusal) => Err(refusal.into()),
            }
        }));
    }
}

/// Whether the sender sends in earnest.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }

    fn came(&mut self, bytes: usize) -> Result<(), ApiError> {
        self.bytes += bytes as u64;
        if self.since.elapsed() < PACE_WINDOW {
            return Ok(());
        }
        if self.bytes < PACE_BYTES_MIN {
            return Err(ApiError::UploadTooSlow(format!(
                "{} bytes came in {} seconds.",
                self.bytes,
                PACE_WINDOW.as_secs()
            )));
        }
        *self = Self::new();
        Ok(())
    }
}
