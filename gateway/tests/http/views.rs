//! Heartbeats: what is taken, what is refused, and what counts.

use axum::http::{Method, StatusCode};
use gateway::api::Video;

use crate::site::{Answer, Site, path};

pub(crate) fn watched(session: &str) -> String {
    format!(
        r#"{{"session":"{session}","events":[
            {{"at_ms":1000,"position_seconds":0,"state":"playing","rendition":"720p","stalls_ms":0,"startup_ms":400,"dropped_frames":0}},
            {{"at_ms":7000,"position_seconds":5.9,"state":"playing","rendition":null,"stalls_ms":120,"startup_ms":400,"dropped_frames":2}}
        ]}}"#
    )
}

async fn send(site: &Site, video: &Video, json: &str) -> Answer {
    site.request(Method::POST, &format!("{}/heartbeat", path(video)), &[], json.to_owned()).await
}

#[tokio::test]
async fn heartbeats_are_taken_whatever_they_say_they_are() {
    let site = Site::new();
    let video = site.video().await;
    send(&site, &video, &watched("a")).await.expect(StatusCode::NO_CONTENT);
    // As sendBeacon does it.
    let headers = [("content-type", "text/plain;charset=UTF-8")];
    let path = format!("{}/heartbeat", path(&video));
    let answer = site.request(Method::POST, &path, &headers, watched("b")).await;
    answer.expect(StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn heartbeats_are_checked() {
    let site = Site::new();
    let video = site.video().await;
    let event = r#"{"at_ms":1,"position_seconds":0,"state":"playing"}"#;
    let many = vec![event; 201].join(",");
    for json in [
        r#"{"session":"","events":[]}"#.to_owned(),
        format!(r#"{{"session":"{}","events":[]}}"#, "x".repeat(65)),
        r#"{"session":"s","events":[{"at_ms":1,"position_seconds":-1,"state":"playing"}]}"#
            .to_owned(),
        r#"{"session":"s","events":[{"at_ms":1,"position_seconds":0,"state":"dancing"}]}"#
            .to_owned(),
        r#"{"session":"s"}"#.to_owned(),
        format!(r#"{{"session":"s","events":[{many}]}}"#),
    ] {
        send(&site, &video, &json)
            .await
            .problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields");
    }
    send(&site, &video, "no").await.problem(StatusCode::BAD_REQUEST, "invalid_json");
}
