//! Playback: playlists rendered from the catalog, and the bytes that they name.
//!
//! Any node can answer any of these, since each has the whole catalog and can get every block. Segments never change, so
//! caches may keep them for ever; playlists change, so caches ask again soon.

pub(crate) mod cache;
pub mod dash;
#[cfg(test)]
mod fixtures;
pub mod hls;
pub(crate) mod media;
pub(crate) mod source;

use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{RawPathParams, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cluster::catalog;
use cluster::ids::{BlockHash, VideoId};
use cluster::plan::TrackKind;
use cluster::playback::{Detail, Presentation, presentation};
use cluster::tables::videos::VideoState;
use cluster::view::View;

use crate::consistency::Fresh;
use crate::docs::{ReadHeaders, ReadProblems};
use crate::error::ApiError;
use crate::extract::VideoPath;
use crate::precondition::{etag_of_block, none_match};
use crate::state::{Gateway, Shared};
use crate::videos;
use cache::{Document, DocumentKey, Name, Part, PartKey, Which};

const HLS: HeaderValue = HeaderValue::from_static("application/vnd.apple.mpegurl");
const DASH: HeaderValue = HeaderValue::from_static("application/dash+xml");
const JPEG: HeaderValue = HeaderValue::from_static("image/jpeg");
const VIDEO_MP4: HeaderValue = HeaderValue::from_static("video/mp4");
const AUDIO_MP4: HeaderValue = HeaderValue::from_static("audio/mp4");

/// The same address always gives the same bytes.
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
/// A playlist that grows by a segment every few seconds.
const GROWING: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// A playlist of a finished video changes only when the video is deleted or made anew.
const FINISHED: HeaderValue = HeaderValue::from_static("public, max-age=60");

/// The HLS multivariant playlist: give this to a player.
#[utoipa::path(
    get, path = "/v/{id}/master.m3u8", tag = "playback", params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "application/vnd.apple.mpegurl", body = String),
        (status = NOT_FOUND, description = "Unknown, or not playable yet (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn master(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    fresh: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let document = gateway.document(
        DocumentKey { video: id, which: Which::Multivariant },
        &fresh,
        |view| {
            let presentation = presented(view, id, Detail::Outline)?;
            Ok((hls::multivariant(&presentation), HLS, freshness(&presentation)))
        },
    )?;
    Ok(document.answer(&request))
}

/// The HLS playlist of one rendition.
#[utoipa::path(
    get, path = "/v/{id}/{rendition}/index.m3u8", tag = "playback",
    params(("id" = String, Path), ("rendition" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "application/vnd.apple.mpegurl", body = String),
        (status = NOT_FOUND, description = "Unknown, or not playable yet (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn playlist(
    State(gateway): State<Shared>,
    params: Parameters,
    fresh: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, name, _) = address(&params)?;
    let which = Which::Rendition(Name::new(name).ok_or(ApiError::UnknownSegment)?);
    let document = gateway.document(DocumentKey { video: id, which }, &fresh, |view| {
        let presentation = presented(view, id, Detail::One(name))?;
        let rendition = presentation.listed.iter().find(|rendition| rendition.name == name);
        let rendition = rendition.ok_or(ApiError::UnknownSegment)?;
        Ok((hls::media(&presentation, rendition), HLS, freshness(&presentation)))
    })?;
    Ok(document.answer(&request))
}

/// The DASH manifest of a finished video.
#[utoipa::path(
    get, path = "/v/{id}/manifest.mpd", tag = "playback", params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "application/dash+xml", body = String),
        (status = NOT_FOUND, description = "Unknown, or not finished yet (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn manifest(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    fresh: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let document =
        gateway.document(DocumentKey { video: id, which: Which::Manifest }, &fresh, |view| {
            let presentation = presented(view, id, Detail::Full)?;
            if !finished(&presentation) {
                return Err(ApiError::NotAvailableYet(
                    "There is a DASH manifest once the video is ready; HLS plays it already.",
                ));
            }
            Ok((dash::manifest(&presentation), DASH, freshness(&presentation)))
        })?;
    Ok(document.answer(&request))
}

/// A part of a rendition: `init.mp4`, or `0.m4s` and so on.
#[utoipa::path(
    get, path = "/v/{id}/{rendition}/{segment}", tag = "playback",
    params(("id" = String, Path), ("rendition" = String, Path), ("segment" = String, Path, example = "0.m4s"), ReadHeaders),
    responses(
        (status = OK, content_type = "video/mp4", body = Vec<u8>),
        (status = PARTIAL_CONTENT, content_type = "video/mp4", body = Vec<u8>),
        (status = NOT_MODIFIED, description = "The client has it already"),
        (status = NOT_FOUND, description = "Unknown (yet)", body = crate::api::Problem, content_type = "application/problem+json"),
        (status = RANGE_NOT_SATISFIABLE, body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn segment(
    State(gateway): State<Shared>,
    params: Parameters,
    fresh: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let (id, name, file) = address(&params)?;
    let rendition = Name::new(name).ok_or(ApiError::UnknownSegment)?;
    let which = Part::of_file(file).ok_or(ApiError::UnknownSegment)?;
    let key = PartKey { video: id, rendition, part: which };
    let known = if fresh.demanded { None } else { gateway.caches.parts.get(&key) };
    let part = match known {
        Some(part) => part,
        None => {
            let part = find(&*gateway.backend.catalog(), id, name, which)?;
            gateway.caches.parts.insert(key, part.clone());
            part
        }
    };
    media::answer(&gateway, &request.into_parts().0, &part).await
}

/// The poster.
#[utoipa::path(
    get, path = "/v/{id}/thumbnail.jpg", tag = "playback", params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "image/jpeg", body = Vec<u8>),
        (status = NOT_FOUND, description = "Unknown, or not made yet (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn thumbnail(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    _: Fresh,
    request: Request,
) -> Result<Response, ApiError> {
    let row = videos::visible(&*gateway.backend.catalog(), id)?;
    let block =
        row.thumbnail.ok_or(ApiError::NotAvailableYet("The poster has not been made yet."))?;
    // Another frame may be chosen later, so this address may change its bytes, unlike those of segments.
    let part = cache::PartInfo {
        block,
        content_type: JPEG,
        etag: etag_of_block(&block.hash),
        caching: HeaderValue::from_static("public, max-age=300"),
    };
    media::answer(&gateway, &request.into_parts().0, &part).await
}

/// Hover previews, as WebVTT.
#[utoipa::path(
    get, path = "/v/{id}/sprites.vtt", tag = "playback", params(("id" = String, Path), ReadHeaders),
    responses(
        (status = NOT_FOUND, description = "Unknown, or not made yet (`not_available_yet`)", body = crate::api::Problem, content_type = "application/problem+json"),
        ReadProblems,
    ),
)]
pub(crate) async fn sprites(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    _: Fresh,
) -> Result<Response, ApiError> {
    videos::visible(&*gateway.backend.catalog(), id)?;
    Err(ApiError::NotAvailableYet("There are no hover previews of this video."))
}

/// What an address names, or that it is not text at all.
type Parameters = Result<RawPathParams, RawPathParamsRejection>;

/// The video, the rendition and the file that an address names. What is not UTF-8 names nothing that exists.
fn address(params: &Parameters) -> Result<(VideoId, &str, &str), ApiError> {
    let params = params.as_ref().map_err(|_| ApiError::UnknownSegment)?;
    let part =
        |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    let id = part("id").and_then(|id| id.parse().ok()).ok_or(ApiError::UnknownVideo)?;
    Ok((id, part("rendition").unwrap_or_default(), part("segment").unwrap_or_default()))
}

fn find(view: &dyn View, id: VideoId, name: &str, part: Part) -> Result<cache::PartInfo, ApiError> {
    let row = videos::visible(view, id)?;
    let plan = row.plan.as_ref().ok_or(ApiError::UnknownSegment)?;
    let (index, rendition) = plan
        .indexed()
        .find(|(_, rendition)| rendition.name == name)
        .ok_or(ApiError::UnknownSegment)?;
    let block = match part {
        Part::Init => catalog::rendition(view, id, index)?.and_then(|state| state.init),
        Part::Segment(number) => {
            catalog::segment(view, id, index, number)?.map(|segment| segment.block)
        }
    };
    let block = block.ok_or(ApiError::UnknownSegment)?;
    Ok(cache::PartInfo {
        block,
        content_type: match rendition.kind {
            TrackKind::Video => VIDEO_MP4,
            TrackKind::Audio => AUDIO_MP4,
        },
        etag: etag_of_block(&block.hash),
        caching: IMMUTABLE,
    })
}

fn presented(view: &dyn View, id: VideoId, detail: Detail<'_>) -> Result<Presentation, ApiError> {
    let row = videos::visible(view, id)?;
    presentation(view, &row, detail)?
        .ok_or(ApiError::NotAvailableYet("Nothing of this video can be played yet."))
}

fn finished(presentation: &Presentation) -> bool {
    match presentation.state {
        VideoState::Ready | VideoState::Failed => true,
        VideoState::Uploading | VideoState::Processing => false,
    }
}

fn freshness(presentation: &Presentation) -> HeaderValue {
    if finished(presentation) { FINISHED } else { GROWING }
}

impl Gateway {
    /// A rendered document, from the cache unless something newer was demanded.
    fn document(
        &self,
        key: DocumentKey,
        fresh: &Fresh,
        render: impl FnOnce(&dyn View) -> Result<(String, HeaderValue, HeaderValue), ApiError>,
    ) -> Result<Document, ApiError> {
        if !fresh.demanded
            && let Some(document) = self.caches.documents.get(&key)
        {
            return Ok(document);
        }
        let (text, content_type, caching) = render(&*self.backend.catalog())?;
        let body = Bytes::from(text);
        let etag = etag_of_block(&BlockHash::of(&body));
        let document = Document { body, content_type, etag, caching };
        self.caches.documents.insert(key, document.clone());
        Ok(document)
    }
}

impl Document {
    fn answer(self, request: &Request) -> Response {
        let headers = [(header::ETAG, self.etag.clone()), (header::CACHE_CONTROL, self.caching)];
        if none_match(request.headers(), &self.etag) {
            return (StatusCode::NOT_MODIFIED, headers).into_response();
        }
        (headers, [(header::CONTENT_TYPE, self.content_type)], Body::from(self.body))
            .into_response()
    }
}
