//! What every answer has, whatever the handler: the request's id, the node's id, the body of a problem, its line in the log
//! and its place in the metrics. The one middleware of ours; it is the outermost but for CORS.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::cors::{Any, CorsLayer};
use tracing::Instrument;

use crate::consistency::MIN_INDEX;
use crate::error::Refused;
use crate::state::Shared;

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) const NODE: HeaderName = HeaderName::from_static("reelraft-node");
pub(crate) const INDEX: HeaderName = HeaderName::from_static("reelraft-index");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

const ANY: HeaderValue = HeaderValue::from_static("*");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// An id that a client or a proxy gave a request is taken over up to this length.
const REQUEST_ID_LENGTH_MAX: usize = 64;

/// Browsers ask again whether they may after this long; they all cap it at a day or less.
const PREFLIGHT_SECONDS: u64 = 24 * 3600;

/// An answer to a write: the log index at which it took effect goes along.
pub(crate) struct Written<R> {
    pub(crate) index: u64,
    pub(crate) answer: R,
}

impl<R: IntoResponse> IntoResponse for Written<R> {
    fn into_response(self) -> Response {
        let mut response = self.answer.into_response();
        response.headers_mut().insert(INDEX, HeaderValue::from(self.index));
        response
    }
}

/// Everything is open to every origin: nothing here depends on cookies, and a page from one node must be able to go on with
/// another when the first one dies.
pub(crate) fn cors() -> CorsLayer {
    use axum::http::Method;

    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
            Method::OPTIONS,
        ])
        .allow_headers(Any)
        .expose_headers([
            header::ACCEPT_RANGES,
            header::CONTENT_LENGTH,
            header::CONTENT_RANGE,
            header::ETAG,
            header::LOCATION,
            header::RETRY_AFTER,
            INDEX,
            MIN_INDEX,
            NODE,
            REQUEST_ID,
        ])
        .max_age(std::time::Duration::from_secs(PREFLIGHT_SECONDS))
        // The answers do not differ by origin, and caches should not think so.
        .vary([])
}

/// The middleware.
pub(crate) async fn finish(
    State(gateway): State<Shared>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let meters = gateway
        .meters
        .route(request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str));
    let span = tracing::debug_span!(
        "request",
        id = id.to_str().unwrap_or_default(),
        method = %request.method(),
        path = request.uri().path(),
    );
    let mut response = next.run(request).instrument(span.clone()).await;

    if let Some(Refused(error)) = response.extensions_mut().remove::<Refused>() {
        let id = id.to_str().unwrap_or_default();
        let status = error.status();
        span.in_scope(|| {
            let inside = error.inside();
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!(id, code = error.code(), cause = inside, "request failed");
            } else if let Some(cause) = inside {
                tracing::warn!(id, code = error.code(), cause, "request could not be done");
            } else {
                tracing::debug!(code = error.code(), detail = %error, "request refused");
            }
        });
        let body =
            serde_json::to_vec(&error.problem(id)).expect("a problem is plain text and numbers");
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, PROBLEM_JSON);
        headers.insert(header::CACHE_CONTROL, NO_STORE);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        *response.body_mut() = Body::from(body);
    }

    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(TIMING_ALLOW_ORIGIN, ANY);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    if let Some(node) = gateway.node() {
        headers.insert(NODE, node.clone());
    }
    meters.answered(response.status(), started.elapsed());
    response
}

/// The id that the request came with, or a new one: unique, cheap, and not a secret.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static PROCESS: std::sync::OnceLock<u32> = std::sync::OnceLock::new();

    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if let Some(given) = headers.get(REQUEST_ID)
        && (1..=REQUEST_ID_LENGTH_MAX).contains(&given.len())
        && given.as_bytes().iter().all(plain)
    {
        return given.clone();
    }
    let process = PROCESS.get_or_init(|| getrandom::u32().unwrap_or_default());
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    crate::error::text(format_args!("{process:08x}-{number:x}"))
}
