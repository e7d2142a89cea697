//! Server-sent events: the first at once, then one per change, and the last when the video is gone.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::{Request, StatusCode};
use futures::StreamExt;
use gateway::api::{Video, VideoState};
use tower::ServiceExt;

use crate::clip::Copying;
use crate::site::{Site, path};

async fn open(site: &Site, video: &Video) -> BodyDataStream {
    let request = Request::get(format!("{}/events", path(video))).body(Body::empty()).unwrap();
    let response = site.router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["cache-control"], "no-store");
    response.into_body().into_data_stream()
}

/// The next event's name and data; `None` at the end.
async fn next(events: &mut BodyDataStream) -> Option<(String, String)> {
    loop {
        let chunk =
            tokio::time::timeout(Duration::from_secs(30), events.next()).await.unwrap()?.unwrap();
        let text = String::from_utf8(chunk.to_vec()).unwrap();
        let field =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        // Comments keep the connection alive.
        if let Some(name) = field("event:") {
            return Some((name.to_owned(), field("data:").unwrap_or_default().to_owned()));
        }
    }
}

async fn next_video(events: &mut BodyDataStream) -> Video {
    let (name, data) = next(events).await.unwrap();
    assert_eq!(name, "video");
    serde_json::from_str(&data).unwrap()
}

#[tokio::test(start_paused = true)]
async fn events_tell_of_each_change() {
    let site = Site::new();
    let video = site.video().await;
    let other = site.video().await;
    let mut events = open(&site, &video).await;
    assert_eq!(next_video(&mut events).await, video);
    let copying = Copying::begin(&site.memory, video.id);
    assert!(!next_video(&mut events).await.renditions.is_empty());
    // What happens to others is not told.
    site.patch(&other, &[], r#"{"title":"Other"}"#).await.expect(StatusCode::OK);
    copying.commit(&site.memory, 0);
    assert_eq!(next_video(&mut events).await.playable_seconds, 4.0);
    copying.finish(&site.memory, video.id);
    assert_eq!(next_video(&mut events).await.state, VideoState::Ready);
    site.patch(&video, &[], r#"{"title":"After"}"#).await.expect(StatusCode::OK);
    assert_eq!(next_video(&mut events).await.title, "After");
    site.delete(&video, &[]).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(next(&mut events).await, Some(("deleted".to_owned(), "{}".to_owned())));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test(start_paused = true)]
async fn many_changes_at_once_are_one_event() {
    let site = Site::new();
    let video = site.video().await;
    let mut events = open(&site, &video).await;
    next_video(&mut events).await;
    for number in 0..10 {
        site.patch(&video, &[], &format!(r#"{{"title":"Title {number}"}}"#))
            .await
            .expect(StatusCode::OK);
    }
    assert_eq!(next_video(&mut events).await.title, "Title 9");
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_after_a_while() {
    let site = Site::new();
    let video = site.video().await;
    let mut events = open(&site, &video).await;
    next_video(&mut events).await;
    assert_eq!(next(&mut events).await, None);
}
