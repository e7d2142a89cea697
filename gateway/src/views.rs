//! What players tell, and what it counts for.
//!
//! A player sends heartbeats about one viewing, its session. Quality goes into metrics. A viewing counts as a view once the
//! player has been at it for some seconds; the node remembers which sessions it has counted, and tells the cluster of the
//! sum every few seconds in one command, so that a crowd costs the log no more than a single viewer does.
//!
//! Counting is best effort: a node that dies takes a few seconds of counts with it, and a player that changes nodes just
//! then may count twice.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use cluster::command::Action;
use cluster::ids::VideoId;
use moka::sync::Cache;

use crate::api::{Heartbeat, HeartbeatEvent, PlayerState};
use crate::consistency::WAIT_MAX;
use crate::docs::{VideoProblems, WriteProblems};
use crate::error::ApiError;
use crate::extract::{JsonBody, VideoPath};
use crate::state::Shared;
use crate::videos;

/// A viewing of this length counts; a shorter video counts at its end.
const VIEW_MS: u64 = 5_000;

/// Longest name of a session, in bytes.
const SESSION_BYTES_MAX: usize = 64;

/// Most events in one heartbeat: a player that lost its connection for a while catches up in several.
const EVENTS_MAX: usize = 200;

/// No stall, start-up or pause between events is longer; a larger figure comes from a clock that jumped.
const SPAN_MS_MAX: u64 = 3_600_000;

/// Sessions that are remembered, and for how long after their last heartbeat. About 100 bytes each.
const SESSIONS_MAX: u64 = 100_000;
const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);

/// How often the counts are told to the cluster.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);

/// Most videos in one command, and most that wait to be told; beyond that counts are dropped.
const REPORT_VIDEOS_MAX: usize = 500;
const WAITING_VIDEOS_MAX: usize = 20_000;

/// A viewing.
#[derive(Clone, Copy)]
struct Session {
    /// The first event at which it played, by the viewer's clock.
    playing_since_ms: u64,
    counted: bool,
}

/// Sessions, and views that the cluster does not know of yet.
pub(crate) struct Views {
    sessions: Cache<(VideoId, Box<str>), Session>,
    waiting: Mutex<BTreeMap<VideoId, u32>>,
}

impl Views {
    pub(crate) fn new() -> Self {
        Self {
            sessions: Cache::builder()
                .max_capacity(SESSIONS_MAX)
                .time_to_idle(SESSION_IDLE)
                .build(),
            waiting: Mutex::default(),
        }
    }

    /// Takes in the events of a session; true when they make it a view.
    fn note(&self, video: VideoId, session: &str, events: &[HeartbeatEvent]) -> bool {
        let key = (video, Box::from(session));
        let mut known = self.sessions.get(&key);
        let mut counts = false;
        for event in events {
            let session = match (&mut known, event.state) {
                (Some(session), _) => session,
                (none @ None, PlayerState::Playing) => {
                    none.insert(Session { playing_since_ms: event.at_ms, counted: false })
                }
                (None, PlayerState::Paused | PlayerState::Stalled | PlayerState::Ended) => continue,
            };
            let watched_ms = event.at_ms.saturating_sub(session.playing_since_ms);
            if !session.counted && (watched_ms >= VIEW_MS || event.state == PlayerState::Ended) {
                session.counted = true;
                counts = true;
            }
        }
        if let Some(session) = known {
            self.sessions.insert(key, session);
        }
        if counts {
            self.add(video, 1);
        }
        counts
    }

    fn add(&self, video: VideoId, views: u32) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING_VIDEOS_MAX || waiting.contains_key(&video) {
            let sum = waiting.entry(video).or_default();
            *sum = sum.saturating_add(views);
        }
    }

    fn take(&self) -> Vec<(VideoId, u32)> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<_> =
            waiting.iter().take(REPORT_VIDEOS_MAX).map(|(video, views)| (*video, *views)).collect();
        for (video, _) in &taken {
            waiting.remove(video);
        }
        taken
    }
}

/// Playback progress and quality, batched.
///
/// Players send this every few seconds and once when they end.
#[utoipa::path(
    post, path = "/api/v1/videos/{id}/heartbeat", tag = "videos",
    params(("id" = String, Path)), request_body = Heartbeat,
    responses((status = NO_CONTENT), VideoProblems, WriteProblems),
)]
pub(crate) async fn heartbeat(
    State(gateway): State<Shared>,
    VideoPath(id): VideoPath,
    JsonBody(heartbeat): JsonBody<Heartbeat>,
) -> Result<StatusCode, ApiError> {
    validate(&heartbeat)?;
    videos::visible(&*gateway.backend.catalog(), id)?;
    let meters = &gateway.meters.playback;
    for event in &heartbeat.events {
        meters.heartbeats.increment(1);
        meters.dropped_frames.increment(event.dropped_frames.min(SPAN_MS_MAX));
        if event.stalls_ms > 0 {
            meters.stalled_seconds.record(Duration::from_millis(event.stalls_ms.min(SPAN_MS_MAX)));
        }
    }
    // Every event repeats it; once is enough, and the first heartbeat of a session is the one that has just learnt it.
    if let Some(startup_ms) = first_startup(&gateway.views, id, &heartbeat) {
        meters.startup_seconds.record(Duration::from_millis(startup_ms.min(SPAN_MS_MAX)));
    }
    if gateway.views.note(id, &heartbeat.session, &heartbeat.events) {
        meters.views.increment(1);
    }
    Ok(StatusCode::NO_CONTENT)
}

fn first_startup(views: &Views, id: VideoId, heartbeat: &Heartbeat) -> Option<u64> {
    if views.sessions.contains_key(&(id, Box::from(heartbeat.session.as_str()))) {
        return None;
    }
    let playing = heartbeat.events.iter().find(|event| event.state == PlayerState::Playing)?;
    heartbeat
        .events
        .iter()
        .find_map(|event| event.startup_ms.filter(|_| event.at_ms >= playing.at_ms))
}

fn validate(heartbeat: &Heartbeat) -> Result<(), ApiError> {
    let invalid = |what: String| Err(ApiError::InvalidFields(what));
    let session = &heartbeat.session;
    if session.is_empty()
        || session.len() > SESSION_BYTES_MAX
        || session.chars().any(char::is_control)
    {
        return invalid(format!("`session` has 1 to {SESSION_BYTES_MAX} characters."));
    }
    if heartbeat.events.len() > EVENTS_MAX {
        return invalid(format!("`events` has at most {EVENTS_MAX} entries."));
    }
    let wrong = |event: &HeartbeatEvent| {
        !event.position_seconds.is_finite() || event.position_seconds < 0.0
    };
    if heartbeat.events.iter().any(wrong) {
        return invalid("`position_seconds` is not negative.".to_owned());
    }
    Ok(())
}

/// Tells the cluster of views until the node stops, and once more then.
pub(crate) async fn report(gateway: Shared) {
    loop {
        let stops = tokio::select! {
            () = tokio::time::sleep(REPORT_INTERVAL) => false,
            () = gateway.stopping.cancelled() => true,
        };
        report_once(&gateway).await;
        if stops {
            return;
        }
    }
}

/// Counts that cannot be told now wait for the next time. When it is unknown whether they arrived they are dropped: a view
/// too few is better than one that was never there.
pub(crate) async fn report_once(gateway: &Shared) {
    use crate::backend::Unavailable;

    let views = gateway.views.take();
    if views.is_empty() {
        return;
    }
    let proposal = gateway.backend.propose(Action::CountViews { views: views.clone() });
    match tokio::time::timeout(WAIT_MAX, proposal).await {
        Ok(Ok(_)) => {}
        Ok(Err(Unavailable::NoLeader(_) | Unavailable::NotInService(_))) => {
            for (video, sum) in views {
                gateway.views.add(video, sum);
            }
        }
        Ok(Err(error)) => tracing::debug!(%error, "views were not counted"),
        Err(_) => tracing::debug!("views were perhaps not counted: no answer in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: VideoId = VideoId([7; 16]);

    fn event(at_ms: u64, state: PlayerState) -> HeartbeatEvent {
        HeartbeatEvent {
            at_ms,
            state,
            position_seconds: 0.0,
            rendition: None,
            stalls_ms: 0,
            startup_ms: None,
            dropped_frames: 0,
        }
    }

    #[test]
    fn a_session_counts_once_after_some_seconds_of_play() {
        let views = Views::new();
        assert!(!views.note(VIDEO, "a", &[event(1_000, PlayerState::Paused)]));
        assert!(!views.note(VIDEO, "a", &[event(50_000, PlayerState::Playing)]));
        assert!(!views.note(VIDEO, "a", &[event(52_000, PlayerState::Playing)]));
        assert!(views.note(VIDEO, "a", &[event(55_000, PlayerState::Playing)]));
        assert!(!views.note(VIDEO, "a", &[event(65_000, PlayerState::Playing)]));
        assert_eq!(views.take(), [(VIDEO, 1)]);
        assert!(views.take().is_empty());
    }

    #[test]
    fn a_short_video_counts_at_its_end_and_sessions_add_up() {
        let views = Views::new();
        for session in ["a", "b"] {
            let events = [event(1_000, PlayerState::Playing), event(2_000, PlayerState::Ended)];
            assert!(views.note(VIDEO, session, &events));
        }
        assert!(!views.note(VIDEO, "c", &[event(9_000, PlayerState::Ended)]));
        assert_eq!(views.take(), [(VIDEO, 2)]);
    }
}
