//! Lets in as many calls as fit into memory together.
//!
//! The bytes of a call count from before its body is read until its answer has been sent, because a block is in one of the
//! two. A call that does not say how many bytes it is about counts as one of the longest block.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

use super::BLOCK_BYTES_HEADER;
use crate::store::BLOCK_BYTES_MAX;

/// What a call costs beside the bytes that it announces.
const CALL_BYTES: usize = 16 << 10;

/// A service behind a budget of bytes. Clones share it.
#[derive(Clone, Debug)]
pub struct Budgeted<S> {
    inner: S,
    budget: Arc<Semaphore>,
    budget_bytes: usize,
}

impl<S> Budgeted<S> {
    /// At least one of the longest blocks fits in, whatever `budget_bytes` says.
    pub(super) fn new(inner: S, budget_bytes: usize) -> Self {
        let budget_bytes = budget_bytes.max(BLOCK_BYTES_MAX);
        Self { inner, budget: Arc::new(Semaphore::new(budget_bytes)), budget_bytes }
    }

    fn cost(&self, request: &Request<Body>) -> u32 {
        let announced = request
            .headers()
            .get(BLOCK_BYTES_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok())
            .unwrap_or(BLOCK_BYTES_MAX)
            .saturating_add(CALL_BYTES)
            .min(self.budget_bytes);
        u32::try_from(announced).unwrap_or(u32::MAX)
    }
}

impl<S> Service<Request<Body>> for Budgeted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let cost = self.cost(&request);
        let budget = Arc::clone(&self.budget);
        // The one that was polled ready goes with the call, as `Service` demands.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        Box::pin(async move {
            let permit = budget.acquire_many_owned(cost).await.expect("it is never closed");
            let response = ready.call(request).await?;
            Ok(response.map(|body| Body::new(Counted { body, _permit: permit })))
        })
    }
}

impl<S: NamedService> NamedService for Budgeted<S> {
    const NAME: &'static str = S::NAME;
}

/// An answer whose bytes count until it has been sent.
struct Counted {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
