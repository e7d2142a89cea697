//! Hands a body to the parser of forms chunk by chunk, and ends forms whose parser only swallows.
//!
//! multer takes all bytes that it can get and keeps them until it has found a boundary or the end of a part's headers, without
//! a limit of its own. So it gets nothing by itself here: it is given a chunk only when it can do nothing with what it has,
//! and no more than a known number of bytes between two things that come out of it. It never holds more than that number, one
//! chunk of the network and what such a chunk had left over.

use std::convert::Infallible;
use std::task::{Context, Poll};

use axum::body::BodyDataStream;
use bytes::Bytes;
use futures::StreamExt;
use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

use crate::error::ApiError;

/// What may come before a boundary is found, or the headers of a part have ended: many times what browsers send, of which
/// the name of a file is the longest. Looked at only when the parser has searched a whole chunk in vain, so that chunks may be
/// larger.
pub(super) const SEARCHED_BYTES_MAX: usize = 16 * 1024;

/// What the parser reads from. There is never more than one chunk in it.
pub(super) type Chunks = UnboundedReceiver<Result<Bytes, Infallible>>;

/// The body and the parser's end of it.
pub(super) struct Feed<'body> {
    body: &'body mut BodyDataStream,
    /// `None` after the end of the body.
    chunks: Option<UnboundedSender<Result<Bytes, Infallible>>>,
    /// Bytes given since something came out of the parser.
    searched: usize,
}

/// Why nothing came out of the parser.
pub(super) enum Fault {
    Form(multer::Error),
    Body(ApiError),
}

impl<'body> Feed<'body> {
    pub(super) fn new(body: &'body mut BodyDataStream) -> (Self, Chunks) {
        let (chunks, parser_end) = unbounded();
        (Self { body, chunks: Some(chunks), searched: 0 }, parser_end)
    }

    /// Polls the parser, and gives it a chunk whenever it waits for one, but no more than `most` bytes (looked at after each
    /// chunk) before something comes out.
    pub(super) fn poll<T>(
        &mut self,
        context: &mut Context<'_>,
        most: usize,
        mut parse: impl FnMut(&mut Context<'_>) -> Poll<Result<T, multer::Error>>,
    ) -> Poll<Result<T, Fault>> {
        loop {
            if let Poll::Ready(parsed) = parse(context) {
                self.searched = 0;
                return Poll::Ready(parsed.map_err(Fault::Form));
            }
            if self.searched > most {
                let error = "there is no boundary, or a part's headers have no end.";
                return Poll::Ready(Err(Fault::Body(ApiError::MalformedForm(error))));
            }
            let Some(chunks) = &self.chunks else {
                return Poll::Ready(Err(Fault::Body(ApiError::UploadInterrupted)));
            };
            match self.body.poll_next_unpin(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(chunk))) => {
                    // Empty ones count too, so that they cannot come for ever.
                    self.searched += chunk.len().max(1);
                    if chunks.unbounded_send(Ok(chunk)).is_err() {
                        return Poll::Ready(Err(Fault::Body(ApiError::UploadInterrupted)));
                    }
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Err(Fault::Body(ApiError::UploadInterrupted)));
                }
                Poll::Ready(None) => self.chunks = None,
            }
        }
    }
}
