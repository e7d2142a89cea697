//! Changes of a video as they happen, as server-sent events.
//!
//! Each event is the whole video, so that a client that missed some has lost nothing. Streams wake up with every batch that
//! the node applies, look at one row, and speak only when that row has changed; a slow client gets fewer events, never a
//! queue of them.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use cluster::catalog;
use cluster::ids::VideoId;
use cluster::tables::videos::Visibility;
use futures::Stream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::consistency::Fresh;
use crate::docs::{ReadHeaders, ReadProblems, VideoProblems};
use crate::error::ApiError;
use crate::extract::VideoPath;
use crate::meters::InUse;
use crate::state::Shared;
use crate::videos;

/// Event streams at the same time. Each looks at a row whenever something is applied, so they cost more than they seem.
pub(crate) const STREAMS_MAX: usize = 1024;

/// Streams end after this long and browsers come back by themselves; so nobody who has gone unnoticed stays for ever.
const STREAM_TIME_MAX: Duration = Duration::from_secs(15 * 60);

/// No more than four events in a second: faster than that, people see a blur and phones get warm.
const EVENT_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// Proxies close connections that are silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// When a browser should come back after a stream has ended.
const RETRY: Duration = Duration::from_secs(1);

/// Tells proxies of the nginx kind to pass events on at once.
const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Each change of a video, as it happens.
///
/// Events named `video` carry the whole video as JSON, the first one at once. `deleted` is the last event of a video that is
/// gone. The stream ends after 15 minutes; browsers reconnect by themselves.
#[utoipa::path(
    get, path = "/api/v1/videos/{id}/events", tag = "videos",
    params(("id" = String, Path), ReadHeaders),
    responses(
        (status = OK, content_type = "text/event-stream", body = String),
        VideoProblems, ReadProblems,
    ),
)]
pub(crate) async fn events(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    _: Fresh,
) -> Result<Response, ApiError> {
    videos::visible(&*gateway.backend.catalog(), id)?;
    let permit = Arc::clone(&gateway.event_streams)
        .try_acquire_owned()
        .map_err(|_| ApiError::Busy("event streams"))?;
    let events =
        Sse::new(changes(gateway, id, permit)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store")), NO_BUFFERING];
    Ok((headers, events).into_response())
}

/// Where a stream stands.
struct Watch {
    gateway: Shared,
    id: VideoId,
    /// The row's `changed_index` that was told last.
    told: Option<u64>,
    not_before: Instant,
    ends: Instant,
    applied: tokio::sync::watch::Receiver<u64>,
    _permit: OwnedSemaphorePermit,
    _in_use: InUse,
}

fn changes(
    gateway: Shared,
    id: VideoId,
    permit: OwnedSemaphorePermit,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let now = Instant::now();
    let watch = Watch {
        applied: gateway.backend.applied(),
        _in_use: InUse::of(&gateway.meters.event_streams),
        _permit: permit,
        told: None,
        not_before: now,
        ends: now + STREAM_TIME_MAX,
        id,
        gateway,
    };
    futures::stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        match watch.next().await {
            Next::Changed(event) => Some((Ok(event), Some(watch))),
            Next::Last(event) => Some((Ok(event), None)),
            Next::End => None,
        }
    })
}

enum Next {
    Changed(Event),
    Last(Event),
    End,
}

impl Watch {
    async fn next(&mut self) -> Next {
        let stopping = self.gateway.stopping.clone();
        tokio::select! {
            next = self.next_change() => next,
            () = stopping.cancelled() => Next::End,
        }
    }

    async fn next_change(&mut self) -> Next {
        loop {
            sleep_until(self.not_before).await;
            // Marked as seen before the row is read: what is applied in between wakes the next turn.
            self.applied.borrow_and_update();
            match self.look() {
                Ok(Some(next)) => {
                    self.not_before = Instant::now() + EVENT_INTERVAL_MIN;
                    return next;
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(video = %self.id, %error, "follow a video");
                    return Next::End;
                }
            }
            match timeout_at(self.ends, self.applied.changed()).await {
                Ok(Ok(())) => self.not_before = self.not_before.max(Instant::now()),
                Ok(Err(_)) | Err(_) => return Next::End,
            }
        }
    }

    fn look(&mut self) -> Result<Option<Next>, ApiError> {
        let view = self.gateway.backend.catalog();
        let row =
            catalog::video(&*view, self.id)?.filter(|row| row.visibility != Visibility::Private);
        let Some(row) = row else {
            return Ok(Some(Next::Last(Event::default().event("deleted").data("{}"))));
        };
        if self.told == Some(row.changed_index) {
            return Ok(None);
        }
        self.told = Some(row.changed_index);
        let changed = row.changed_index;
        let json = serde_json::to_string(&videos::present(&*view, row)?)
            .map_err(|error| ApiError::Internal(error.to_string()))?;
        let event = Event::default().event("video").id(changed.to_string()).retry(RETRY).data(json);
        Ok(Some(Next::Changed(event)))
    }
}
