//! Services that a node cannot offer yet.
//!
//! The port for other nodes is open from the start, so that an address in use is found out at once; what stands behind it
//! exists only when the node belongs to a cluster, and its databases are open. Connections are closed until then
//! ([`super::accept`]), so that nobody meets the gap; whoever did would hear `UNAVAILABLE`, which every caller takes for "try
//! again".

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

/// A service that is provided once, later. Clones share it.
#[derive(Debug)]
pub struct Late<S>(Arc<OnceLock<S>>);

impl<S> Late<S> {
    /// A service that is not there yet.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::default())
    }

    /// From now on calls go to `service`. Only the first one counts.
    pub fn provide(&self, service: S) {
        // A second one would be the same service of the same node.
        let _ = self.0.set(service);
    }
}

impl<S> Default for Late<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Clone for Late<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: NamedService> NamedService for Late<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Late<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible> + Clone,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Generated services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.0.get() {
            Some(service) => Either::Left(service.clone().call(request)),
            None => Either::Right(ready(Ok(Status::unavailable(
                "this node belongs to no cluster yet",
            )
            .into_http()))),
        }
    }
}
