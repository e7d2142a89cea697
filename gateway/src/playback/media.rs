//! One block as an answer: conditional, in part, or whole.
//!
//! The block is one [`Bytes`](bytes::Bytes) from the node's cache to the socket; a range is a slice of it. Nothing is copied here.

use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, Response as HttpResponse, StatusCode, header};
use axum::response::Response;
use cluster::command::BlockRef;

use crate::backend::Unavailable;
use crate::error::{ApiError, text};
use crate::playback::cache::PartInfo;
use crate::precondition::{none_match, range_applies};
use crate::range::{Wanted, wanted};
use crate::state::Gateway;

/// The node hedges and gives up by itself; this only makes sure that nobody waits for ever.
const BLOCK_TIME_MAX: Duration = Duration::from_secs(15);

pub(crate) const BYTES: HeaderValue = HeaderValue::from_static("bytes");

/// Answers a `GET` or `HEAD` with a block.
pub(crate) async fn answer(
    gateway: &Gateway,
    request: &Parts,
    part: &PartInfo,
) -> Result<Response, ApiError> {
    let length = u64::from(part.block.len);
    if none_match(&request.headers, &part.etag) {
        return Ok(headers(StatusCode::NOT_MODIFIED, part, Body::empty()));
    }
    // Only a GET has ranges (RFC 9110, section 14.2).
    if request.method == Method::HEAD {
        let mut response = headers(StatusCode::OK, part, Body::empty());
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        return Ok(response);
    }
    let range = match wanted(range_header(&request.headers, &part.etag), length) {
        Wanted::Unsatisfiable => return Err(ApiError::RangeNotSatisfiable { length }),
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
    };
    let bytes = block(gateway, part.block).await?;
    let Some(range) = range else {
        gateway.meters.media_bytes.increment(length);
        return Ok(headers(StatusCode::OK, part, Body::from(bytes)));
    };
    gateway.meters.media_bytes.increment(range.end - range.start);
    let content_range = text(format_args!("bytes {}-{}/{length}", range.start, range.end - 1));
    // A block is shorter than 4 GiB, and the range lies within it.
    let slice = bytes.slice(range.start as usize..range.end as usize);
    let mut response = headers(StatusCode::PARTIAL_CONTENT, part, Body::from(slice));
    response.headers_mut().insert(header::CONTENT_RANGE, content_range);
    Ok(response)
}

/// The range that a request asks for, unless it is only meant for another state of the bytes.
pub(crate) fn range_header<'a>(headers: &'a HeaderMap, etag: &HeaderValue) -> Option<&'a str> {
    let range = headers.get(header::RANGE)?.to_str().ok()?;
    range_applies(headers, etag).then_some(range)
}

/// A block's bytes, whose length is what the catalog says.
pub(crate) async fn block(gateway: &Gateway, block: BlockRef) -> Result<bytes::Bytes, ApiError> {
    let bytes = tokio::time::timeout(BLOCK_TIME_MAX, gateway.backend.get_block(block))
        .await
        .map_err(|_| Unavailable::Timeout(format!("read block {}", block.hash.short())))??;
    if bytes.len() != block.len as usize {
        return Err(ApiError::Internal(format!(
            "block {} has {} bytes, not {}",
            block.hash,
            bytes.len(),
            block.len
        )));
    }
    Ok(bytes)
}

fn headers(status: StatusCode, part: &PartInfo, body: Body) -> Response {
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::ETAG, part.etag.clone());
    headers.insert(header::CACHE_CONTROL, part.caching.clone());
    if status != StatusCode::NOT_MODIFIED {
        headers.insert(header::CONTENT_TYPE, part.content_type.clone());
        headers.insert(header::ACCEPT_RANGES, BYTES);
    }
    response
}
