//! Metrics of the gateway, through the `metrics` facade.
//!
//! The node installs the one recorder of the process before the gateway starts and renders it for `GET /metrics`; without a
//! recorder, as in tests, all of this costs nothing. Handles are made once per route and kept, so that a request costs no
//! look-up by labels.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::StatusCode;
use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};

/// All that the gateway counts.
pub(crate) struct Meters {
    /// Keyed by the route's pattern, so there are as many as there are routes.
    routes: RwLock<HashMap<Box<str>, Arc<RouteMeters>>>,
    pub(crate) connections: Gauge,
    pub(crate) event_streams: Gauge,
    pub(crate) uploads: Gauge,
    pub(crate) upload_bytes: Counter,
    pub(crate) media_bytes: Counter,
    pub(crate) playback: PlaybackMeters,
}

/// One route.
pub(crate) struct RouteMeters {
    seconds: Histogram,
    /// By the hundreds of the status, from 1xx to 5xx.
    statuses: [Counter; 5],
}

impl RouteMeters {
    fn new(route: &str) -> Self {
        let class = |class: &'static str| counter!("reelraft_http_requests_total", "route" => route.to_owned(), "status" => class);
        Self {
            seconds: histogram!("reelraft_http_request_seconds", "route" => route.to_owned()),
            statuses: [class("1xx"), class("2xx"), class("3xx"), class("4xx"), class("5xx")],
        }
    }

    /// A request was answered, up to its headers.
    pub(crate) fn answered(&self, status: StatusCode, took: Duration) {
        self.seconds.record(took);
        if let Some(counter) = self.statuses.get(usize::from(status.as_u16() / 100).wrapping_sub(1))
        {
            counter.increment(1);
        }
    }
}

/// What players tell in heartbeats.
pub(crate) struct PlaybackMeters {
    pub(crate) heartbeats: Counter,
    pub(crate) views: Counter,
    pub(crate) stalled_seconds: Histogram,
    pub(crate) startup_seconds: Histogram,
    pub(crate) dropped_frames: Counter,
}

impl Meters {
    pub(crate) fn new() -> Self {
        describe_counter!(
            "reelraft_http_requests_total",
            "Requests by route and hundreds of the status"
        );
        describe_histogram!(
            "reelraft_http_request_seconds",
            "Time to the headers of the answer, by route"
        );
        describe_gauge!("reelraft_http_connections", "Connections open");
        describe_gauge!("reelraft_http_event_streams", "Event streams open");
        describe_gauge!("reelraft_uploads", "Uploads under way at this node");
        describe_counter!("reelraft_upload_bytes_total", "Bytes of uploads that became durable");
        describe_counter!(
            "reelraft_media_bytes_total",
            "Bytes of segments, posters and originals in answers"
        );
        describe_counter!("reelraft_playback_heartbeats_total", "Events that players told of");
        describe_counter!(
            "reelraft_playback_views_total",
            "Viewings that lasted long enough to count"
        );
        describe_histogram!(
            "reelraft_playback_stalled_seconds",
            "Length of stalls, as players saw them"
        );
        describe_histogram!(
            "reelraft_playback_startup_seconds",
            "Time to the first frame, as players saw it"
        );
        describe_counter!("reelraft_playback_dropped_frames_total", "Frames that players dropped");
        Self {
            routes: RwLock::default(),
            connections: gauge!("reelraft_http_connections"),
            event_streams: gauge!("reelraft_http_event_streams"),
            uploads: gauge!("reelraft_uploads"),
            upload_bytes: counter!("reelraft_upload_bytes_total"),
            media_bytes: counter!("reelraft_media_bytes_total"),
            playback: PlaybackMeters {
                heartbeats: counter!("reelraft_playback_heartbeats_total"),
                views: counter!("reelraft_playback_views_total"),
                stalled_seconds: histogram!("reelraft_playback_stalled_seconds"),
                startup_seconds: histogram!("reelraft_playback_startup_seconds"),
                dropped_frames: counter!("reelraft_playback_dropped_frames_total"),
            },
        }
    }

    /// The meters of a route, by its pattern.
    pub(crate) fn route(&self, route: &str) -> Arc<RouteMeters> {
        // The map is only ever added to, so what a panic left behind is whole.
        if let Some(known) = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(route) {
            return Arc::clone(known);
        }
        let mut routes = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(route.into()).or_insert_with(|| Arc::new(RouteMeters::new(route))))
    }
}

/// Counts something up while it lives.
pub(crate) struct InUse(Gauge);

impl InUse {
    pub(crate) fn of(gauge: &Gauge) -> Self {
        gauge.increment(1);
        Self(gauge.clone())
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}
