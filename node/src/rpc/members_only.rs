//! Services for members: nobody else gets as far as to have a message read.

use std::convert::Infallible;
use std::task::{Context, Poll};

use futures::future::{Either, Ready, ready};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::caller::{Caller, Roster};

/// A service that asks for a certificate of a node that still belongs to the cluster.
#[derive(Clone, Debug)]
pub struct MembersOnly<S> {
    inner: S,
    roster: Roster,
}

impl<S> MembersOnly<S> {
    #[must_use]
    pub fn new(inner: S, roster: Roster) -> Self {
        Self { inner, roster }
    }
}

impl<S: NamedService> NamedService for MembersOnly<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for MembersOnly<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<http::Response<Body>, Infallible>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let caller = request.extensions().get().copied().unwrap_or(Caller::Stranger);
        match self.roster.admit(caller) {
            Ok(_) => Either::Left(self.inner.call(request)),
            Err(status) => Either::Right(ready(Ok(status.into_http()))),
        }
    }
}
