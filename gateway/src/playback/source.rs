//! The original file, where it is kept: block after block, with the next one being fetched while one is sent.

use std::ops::Range;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, Response as HttpResponse, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use cluster::catalog;
use cluster::ids::VideoId;
use futures::{Stream, StreamExt, TryStreamExt};

use crate::consistency::Fresh;
use crate::docs::{ReadHeaders, ReadProblems};
use crate::error::{ApiError, text};
use crate::extract::VideoPath;
use crate::playback::media;
use crate::range::{Wanted, wanted};
use crate::state::Shared;
use crate::videos;

/// Rows of the catalog that are read at a time.
const ROWS: usize = 64;

/// Blocks that are fetched ahead of the one being sent; each costs its size in memory, per download.
const AHEAD: usize = 2;

/// The original file.
#[utoipa::path(
    get, path = "/v/{id}/source", tag = "playback", params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "application/octet-stream", body = Vec<u8>),
        (status = PARTIAL_CONTENT, content_type = "application/octet-stream", body = Vec<u8>),
        (status = NOT_FOUND, description = "Unknown, not kept (`source_not_kept`), or still arriving (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        (status = RANGE_NOT_SATISFIABLE, body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn source(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    _: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let row = videos::visible(&*gateway.backend.catalog(), id)?;
    if row.source.deleted {
        return Err(ApiError::SourceNotKept);
    }
    if !row.source.complete {
        return Err(ApiError::NotAvailableYet("The original file is still arriving."));
    }
    let length = row.source.received;
    // A source never changes once it is complete.
    let etag = text(format_args!("\"{id}\""));
    let range = match wanted(media::range_header(request.headers(), &etag), length) {
        _ if request.method() == Method::HEAD => None,
        Wanted::Unsatisfiable => return Err(ApiError::RangeNotSatisfiable { length }),
        Wanted::Whole => None,
        Wanted::Part(range) => Some(range),
    };
    let sent = range.clone().unwrap_or(0..length);
    let body = if request.method() == Method::HEAD {
        Body::empty()
    } else {
        gateway.meters.media_bytes.increment(sent.end - sent.start);
        Body::from_stream(stream(gateway, id, sent.clone()))
    };

    let mut response = HttpResponse::new(body);
    let headers = response.headers_mut();
    headers.insert(header::ETAG, etag);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, max-age=0"));
    headers.insert(header::ACCEPT_RANGES, media::BYTES);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent.end - sent.start));
    let filename = row.source.filename.as_deref().unwrap_or("video");
    headers.insert(header::CONTENT_TYPE, content_type(filename));
    headers.insert(header::CONTENT_DISPOSITION, disposition(filename));
    // Whatever somebody uploaded is data, never a page of ours.
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    if let Some(range) = range {
        headers.insert(
            header::CONTENT_RANGE,
            text(format_args!("bytes {}-{}/{length}", range.start, range.end - 1)),
        );
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The bytes of a range. Ends with an error, which cuts the connection, when a block cannot be had: by then the headers are
/// out, and a client that sees too few bytes asks for the rest.
fn stream(
    gateway: Shared,
    id: VideoId,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, ApiError>> + Send + 'static {
    let rows = futures::stream::try_unfold(range.start, {
        let gateway = gateway.clone();
        move |from| {
            let gateway = gateway.clone();
            async move {
                if from >= range.end {
                    return Ok(None);
                }
                let blocks = catalog::source_blocks(&*gateway.backend.catalog(), id, from, ROWS)?;
                let next = blocks.last().map(|last| last.offset + u64::from(last.block.len));
                let next = next.ok_or(ApiError::SourceNotKept)?;
                let blocks = blocks.into_iter().filter(move |block| block.offset < range.end);
                Ok::<_, ApiError>(Some((
                    futures::stream::iter(blocks.map(Ok::<_, ApiError>)),
                    next,
                )))
            }
        }
    });
    rows.try_flatten()
        .map(move |found| {
            let gateway = gateway.clone();
            async move {
                let found: catalog::SourceBlock = found?;
                let bytes = media::block(&gateway, found.block).await?;
                let end = found.offset + u64::from(found.block.len);
                // Both are within the block, which is shorter than 4 GiB.
                let first = range.start.saturating_sub(found.offset) as usize;
                let last = (range.end.min(end) - found.offset) as usize;
                Ok(bytes.slice(first..last))
            }
        })
        .buffered(AHEAD)
}

/// The type that the name suggests, if it is that of a video.
fn content_type(filename: &str) -> HeaderValue {
    let guess =
        mime_guess::from_path(filename).first_raw().filter(|guess| guess.starts_with("video/"));
    HeaderValue::from_static(guess.unwrap_or("application/octet-stream"))
}

/// RFC 6266, with the name in the encoding of RFC 8187.
fn disposition(filename: &str) -> HeaderValue {
    use std::fmt::Write;

    let mut encoded = String::new();
    for byte in filename.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("writing to a string does not fail");
        }
    }
    text(format_args!("attachment; filename*=UTF-8''{encoded}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_break_out_of_the_header() {
        assert_eq!(
            disposition("a \"b\"\r\nX: ü.mp4"),
            "attachment; filename*=UTF-8''a%20%22b%22%0D%0AX%3A%20%C3%BC.mp4"
        );
    }

    #[test]
    fn only_types_of_videos_are_told() {
        assert_eq!(content_type("a.MP4"), "video/mp4");
        assert_eq!(content_type("a.html"), "application/octet-stream");
        assert_eq!(content_type("a"), "application/octet-stream");
    }
}
