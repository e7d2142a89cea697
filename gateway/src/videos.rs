//! Videos: as a list, one by one, and what people change about them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cluster::apply::{DESCRIPTION_CHARS_MAX, TITLE_CHARS_MAX};
use cluster::catalog::{self, Query};
use cluster::command::{Action, Reply};
use cluster::ids::VideoId;
use cluster::tables::renditions::RenditionRow;
use cluster::tables::videos::{VideoRow, VideoState, Visibility};
use cluster::view::View;
use serde::Deserialize;

use crate::api;
use crate::consistency::Fresh;
use crate::docs::{ReadHeaders, ReadProblems, VideoProblems, WriteProblems};
use crate::error::ApiError;
use crate::extract::{JsonBody, Parameters, VideoPath};
use crate::precondition::{IfMatch, etag_of_version};
use crate::respond::Written;
use crate::state::{Gateway, Shared};

/// Longest search, in bytes.
const SEARCH_BYTES_MAX: usize = 200;

/// Videos on a page when nothing is said.
const PAGE_DEFAULT: usize = 24;

/// The most videos on a page.
const PAGE_MAX: usize = 100;

/// Videos change while they are looked at; a cache would show an old state.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Which videos to list.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[serde(default)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParameters {
    /// Videos on the page, 1 to 100; 24 when left out. A page may hold fewer and still not be the last.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// Only videos with this in their title.
    q: Option<String>,
    /// Only the video that was uploaded with this `Reelraft-Upload-Key`, listed or not.
    upload_key: Option<String>,
    /// `linearizable`: not older than this request.
    consistency: Option<String>,
}

/// Public videos, the newest first.
#[utoipa::path(
    get, path = "/api/v1/videos", tag = "videos", params(ListParameters, ReadHeaders),
    responses((status = OK, body = api::VideoPage), ReadProblems),
)]
pub(crate) async fn list(
    State(gateway): State<Shared>,
    _: Fresh,
    Parameters(parameters): Parameters<ListParameters>,
) -> Result<Response, ApiError> {
    let view = gateway.backend.catalog();
    let page = match parameters.upload_key {
        Some(key) => {
            api::VideoPage { items: by_upload_key(&*view, &key)?.into_iter().collect(), next: None }
        }
        None => page(&*view, parameters)?,
    };
    Ok(([(header::CACHE_CONTROL, NO_STORE)], Json(page)).into_response())
}

fn by_upload_key(view: &dyn View, key: &str) -> Result<Option<api::Video>, ApiError> {
    let found = catalog::by_upload_key(view, key)?;
    found
        .filter(|row| row.visibility != Visibility::Private)
        .map(|row| present(view, row))
        .transpose()
}

fn page(view: &dyn View, parameters: ListParameters) -> Result<api::VideoPage, ApiError> {
    let invalid = |what: &str| ApiError::InvalidRequest(what.to_owned());
    let limit = parameters.limit.unwrap_or(PAGE_DEFAULT);
    if !(1..=PAGE_MAX).contains(&limit) {
        return Err(invalid("`limit` is between 1 and 100."));
    }
    let cursor = parameters
        .cursor
        .filter(|cursor| !cursor.is_empty())
        .map(|cursor| cursor.parse())
        .transpose()
        .map_err(|_| invalid("`cursor` is not one that a page before this gave."))?;
    let search =
        parameters.q.map(|search| search.trim().to_owned()).filter(|search| !search.is_empty());
    if search.as_ref().is_some_and(|search| search.len() > SEARCH_BYTES_MAX) {
        return Err(invalid("`q` is too long."));
    }
    let query = Query { limit, cursor, search, visibility: Some(Visibility::Public) };
    let found = catalog::list_videos(view, &query)?;
    Ok(api::VideoPage {
        items: found.videos.into_iter().map(|row| present(view, row)).collect::<Result<_, _>>()?,
        next: found.next.map(|cursor| cursor.to_string()),
    })
}

/// One video.
#[utoipa::path(
    get, path = "/api/v1/videos/{id}", tag = "videos",
    params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, body = api::Video, headers(("ETag" = String, description = "For `If-Match`: names the version of title, description and visibility"))),
        VideoProblems, ReadProblems,
    ),
)]
pub(crate) async fn get(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    _: Fresh,
) -> Result<Response, ApiError> {
    let view = gateway.backend.catalog();
    answer(&*view, visible(&*view, id)?)
}

/// Changes what people typed about a video.
#[utoipa::path(
    patch, path = "/api/v1/videos/{id}", tag = "videos",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that the video must have")),
    request_body = api::VideoChanges,
    responses(
        (status = OK, body = api::Video, headers(("ETag" = String), ("Reelraft-Index" = u64))),
        VideoProblems, WriteProblems,
    ),
)]
pub(crate) async fn patch(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    headers: HeaderMap,
    JsonBody(changes): JsonBody<api::VideoChanges>,
) -> Result<Written<Response>, ApiError> {
    let action = Action::EditVideo {
        id,
        if_version: gateway.demanded_version(&headers, id)?,
        title: changes.title.map(title).transpose()?,
        description: changes.description.map(description).transpose()?,
        visibility: changes.visibility.map(Into::into),
    };
    let hides = changes.visibility == Some(api::Visibility::Private);
    let index = gateway.change(action).await?;
    if hides {
        gateway.caches.forget(id);
    }
    let view = gateway.backend.catalog();
    let row = catalog::video(&*view, id)?.ok_or(ApiError::UnknownVideo)?;
    Ok(Written { index, answer: answer(&*view, row)? })
}

/// Deletes a video and all that was made from it.
#[utoipa::path(
    delete, path = "/api/v1/videos/{id}", tag = "videos",
    params(("id" = String, Path), ("If-Match" = Option<String>, Header, description = "The `ETag` that the video must have")),
    responses(
        (status = NO_CONTENT, headers(("Reelraft-Index" = u64))),
        VideoProblems, WriteProblems,
    ),
)]
pub(crate) async fn delete(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    headers: HeaderMap,
) -> Result<Written<StatusCode>, ApiError> {
    let if_version = gateway.demanded_version(&headers, id)?;
    let index = gateway.change(Action::DeleteVideo { id, if_version }).await?;
    gateway.caches.forget(id);
    Ok(Written { index, answer: StatusCode::NO_CONTENT })
}

impl Gateway {
    /// Decides on something now: an answer or a 503 comes within the time that the contract gives a write.
    pub(crate) async fn change(&self, action: Action) -> Result<u64, ApiError> {
        let applied = self.propose(action).await?;
        match applied.reply {
            Reply::Refused(refusal) => Err(refusal.into()),
            Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_) => Ok(applied.index),
        }
    }

    fn demanded_version(&self, headers: &HeaderMap, id: VideoId) -> Result<Option<u64>, ApiError> {
        let demand = IfMatch::of(headers)?;
        if demand == IfMatch::Anything {
            return Ok(None);
        }
        let believed = catalog::video(&*self.backend.catalog(), id)?.map(|row| row.version);
        Ok(demand.demand(believed))
    }
}

/// The video, unless it does not exist or must not be seen.
pub(crate) fn visible(view: &dyn View, id: VideoId) -> Result<VideoRow, ApiError> {
    catalog::video(view, id)?
        .filter(|row| row.visibility != Visibility::Private)
        .ok_or(ApiError::UnknownVideo)
}

fn answer(view: &dyn View, row: VideoRow) -> Result<Response, ApiError> {
    let headers = [(header::ETAG, etag_of_version(row.version)), (header::CACHE_CONTROL, NO_STORE)];
    Ok((headers, Json(present(view, row)?)).into_response())
}

/// A title as it is kept: trimmed, in one line, and neither empty nor endless.
pub(crate) fn title(text: String) -> Result<String, ApiError> {
    let text = one_line(&text);
    if text.is_empty() || text.chars().count() > TITLE_CHARS_MAX {
        return Err(ApiError::InvalidFields(format!(
            "A title has 1 to {TITLE_CHARS_MAX} characters."
        )));
    }
    Ok(text)
}

pub(crate) fn description(text: String) -> Result<String, ApiError> {
    if text.chars().count() > DESCRIPTION_CHARS_MAX {
        return Err(ApiError::InvalidFields(format!(
            "A description has at most {DESCRIPTION_CHARS_MAX} characters."
        )));
    }
    Ok(text.trim().to_owned())
}

/// White space and control characters become single spaces, and controls of the writing direction vanish.
pub(crate) fn one_line(text: &str) -> String {
    let text: String = text.chars().filter(|c| !turns_direction(*c)).collect();
    let words =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The embeddings, overrides and isolates of the Unicode bidirectional algorithm (UAX #9, section 2). One that is not closed
/// would turn around what is written after a title, and none is needed to write in any language.
fn turns_direction(c: char) -> bool {
    matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// A video's row as the API shows it.
pub(crate) fn present(view: &dyn View, row: VideoRow) -> Result<api::Video, ApiError> {
    let renditions = match &row.plan {
        Some(_) => catalog::renditions(view, row.id)?,
        None => Vec::new(),
    };
    Ok(video_of(row, &renditions))
}

fn video_of(row: VideoRow, states: &[(u16, RenditionRow)]) -> api::Video {
    let unknown = RenditionRow::default();
    let state_of = |index: usize| {
        states.iter().find(|(of, _)| usize::from(*of) == index).map_or(&unknown, |(_, state)| state)
    };
    let plans = row.plan.iter().flat_map(|plan| &plan.renditions).enumerate();
    let renditions: Vec<_> = plans
        .map(|(index, plan)| {
            let state = state_of(index);
            let seconds = |ticks: u64| ticks as f64 / f64::from(plan.timescale.max(1));
            let bitrate = if state.ticks > 0 {
                (state.bytes as f64 * 8.0 / seconds(state.ticks)).round() as u64
            } else {
                u64::from(plan.bitrate_max)
            };
            api::Rendition {
                name: plan.name.clone(),
                kind: plan.kind.into(),
                width: Some(plan.width).filter(|pixels| *pixels > 0),
                height: Some(plan.height).filter(|pixels| *pixels > 0),
                bitrate,
                codecs: Some(state.codecs.clone()).filter(|codecs| !codecs.is_empty()),
                seconds: seconds(state.contiguous_end),
            }
        })
        .collect();
    let path = |name: &str| format!("/v/{}/{name}", row.id);
    api::Video {
        playable_seconds: row.frontier_ms as f64 / 1000.0,
        progress: progress(&row, states),
        duration_seconds: row.duration_ms.map(|ms| ms as f64 / 1000.0),
        width: row.plan.as_ref().map(|plan| plan.width).filter(|pixels| *pixels > 0),
        height: row.plan.as_ref().map(|plan| plan.height).filter(|pixels| *pixels > 0),
        renditions,
        error: row.error.map(|error| api::VideoError { code: error.code, detail: error.detail }),
        views: row.views,
        created_at: rfc3339(row.created_ms),
        urls: api::VideoUrls {
            watch: format!("/watch/{}", row.id),
            embed: format!("/embed/{}", row.id),
            hls: path("master.m3u8"),
            dash: path("manifest.mpd"),
            thumbnail: row.thumbnail.map(|_| path("thumbnail.jpg")),
            sprites: None,
            source: (row.source.complete && !row.source.deleted).then(|| path("source")),
        },
        id: row.id,
        title: row.title,
        description: row.description,
        visibility: row.visibility.into(),
        state: row.state.into(),
    }
}

/// The share of the media that exists, over all renditions alike: it moves with each segment, where a count of jobs would
/// stand still for long.
fn progress(row: &VideoRow, states: &[(u16, RenditionRow)]) -> f64 {
    if row.state == VideoState::Ready {
        return 1.0;
    }
    let (Some(plan), Some(duration_ms)) = (&row.plan, row.duration_ms.filter(|ms| *ms > 0)) else {
        return f64::from(row.jobs_done) / f64::from(row.jobs_total.max(1));
    };
    let done: f64 = states
        .iter()
        .filter_map(|(index, state)| {
            let timescale = f64::from(plan.renditions.get(usize::from(*index))?.timescale.max(1));
            let share = state.ticks as f64 / timescale * 1000.0 / duration_ms as f64;
            Some(if state.complete { 1.0 } else { share.min(1.0) })
        })
        .sum();
    // 1 is for `ready` alone.
    (done / plan.renditions.len().max(1) as f64).clamp(0.0, 0.99)
}

fn rfc3339(since_1970_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(since_1970_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_are_one_line_and_bounded() {
        assert_eq!(title("  My\n\tholiday \u{0} film ".to_owned()).unwrap(), "My holiday film");
        assert!(title(" \n ".to_owned()).is_err());
        let turned = "a\u{202E}4pm.\u{2066}exe\u{2069}\u{202A} \u{202B}\u{2067} b\u{202C}";
        assert_eq!(title(turned.to_owned()).unwrap(), "a4pm.exe b");
        assert_eq!(title("\u{200F}سلام".to_owned()).unwrap(), "\u{200F}سلام");
        assert!(title("\u{202E}\u{2069}".to_owned()).is_err());
        assert!(title("ü".repeat(TITLE_CHARS_MAX)).is_ok());
        assert!(title("ü".repeat(TITLE_CHARS_MAX + 1)).is_err());
    }

    #[test]
    fn times_are_rfc_3339_with_milliseconds() {
        assert_eq!(rfc3339(1_795_178_096_789), "2026-11-20T12:34:56.789Z");
    }
}
