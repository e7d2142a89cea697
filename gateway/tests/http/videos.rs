//! Videos: lists, reading, editing with preconditions, deleting.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use gateway::api::{self, Video, VideoPage};

use crate::clip::{self, Copying};
use crate::memory::Proposals;
use crate::site::{Site, path};

#[tokio::test]
async fn a_video_has_all_fields_of_the_contract() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let json: serde_json::Value = site.get(&path(&video)).await.json();
    let id = video.id.to_string();
    assert_eq!(
        json,
        serde_json::json!({
            "id": id,
            "title": "Clip",
            "description": "",
            "visibility": "public",
            "state": "ready",
            "playable_seconds": 12.0,
            "progress": 1.0,
            "duration_seconds": 12.0,
            "width": 1280,
            "height": 720,
            "renditions": [
                {
                    "name": "source", "kind": "video", "width": 1280, "height": 720,
                    "bitrate": json["renditions"][0]["bitrate"], "codecs": "avc1.64001f", "seconds": 12.0,
                },
                {
                    "name": "audio", "kind": "audio", "width": null, "height": null,
                    "bitrate": json["renditions"][1]["bitrate"], "codecs": "mp4a.40.2", "seconds": 12.0,
                },
            ],
            "error": null,
            "views": 0,
            "created_at": json["created_at"],
            "urls": {
                "watch": format!("/watch/{id}"),
                "embed": format!("/embed/{id}"),
                "hls": format!("/v/{id}/master.m3u8"),
                "dash": format!("/v/{id}/manifest.mpd"),
                "thumbnail": format!("/v/{id}/thumbnail.jpg"),
                "sprites": null,
                "source": null,
            },
        })
    );
    let bytes: usize = (0..clip::SEGMENTS).map(|number| clip::segment_bytes(0, number).len()).sum();
    assert_eq!(json["renditions"][0]["bitrate"], (bytes as f64 * 8.0 / 12.0).round());
    assert!(json["created_at"].as_str().unwrap().starts_with("2026-11-20T12:34:56."));
}

#[tokio::test]
async fn a_video_moves_on_as_it_is_processed() {
    let site = Site::new();
    let video = site.video().await;
    assert_eq!((video.playable_seconds, video.progress, video.duration_seconds), (0.0, 0.0, None));
    assert!(video.urls.source.is_some() && video.urls.thumbnail.is_none());
    let copying = Copying::begin(&site.memory, video.id);
    copying.commit(&site.memory, 0);
    let video = site.read(&video).await;
    assert_eq!(video.state, api::VideoState::Processing);
    assert_eq!((video.playable_seconds, video.duration_seconds), (4.0, Some(12.0)));
    assert!((video.progress - 1.0 / 3.0).abs() < 0.01, "{}", video.progress);
}

#[tokio::test]
async fn a_list_has_pages_newest_first() {
    let site = Site::new();
    for number in 0..5 {
        site.upload(&format!("?title=Film%20{number}"), "b").await.expect(StatusCode::CREATED);
    }
    site.upload("?title=Hidden%20film&visibility=unlisted", "b").await.expect(StatusCode::CREATED);
    let titles =
        |page: &VideoPage| page.items.iter().map(|video| video.title.clone()).collect::<Vec<_>>();
    let first: VideoPage = site.get("/api/v1/videos?limit=3").await.json();
    assert_eq!(titles(&first), ["Film 4", "Film 3", "Film 2"]);
    let next = first.next.unwrap();
    let second: VideoPage = site.get(&format!("/api/v1/videos?limit=3&cursor={next}")).await.json();
    assert_eq!(titles(&second), ["Film 1", "Film 0"]);
    assert_eq!(second.next, None);
    let found: VideoPage = site.get("/api/v1/videos?q=FILM%203").await.json();
    assert_eq!(titles(&found), ["Film 3"]);
    let none: VideoPage = site.get("/api/v1/videos?q=nothing").await.json();
    assert_eq!((none.items.len(), none.next), (0, None));
    for query in ["limit=0", "limit=101", "limit=x", "cursor=x", "consistency=eventual"] {
        let answer = site.get(&format!("/api/v1/videos?{query}")).await;
        answer.problem(StatusCode::BAD_REQUEST, "invalid_request");
    }
}

#[tokio::test]
async fn unknown_videos_are_unknown_everywhere() {
    let site = Site::new();
    let id = "0".repeat(32);
    for id in [id.as_str(), "x", "..", &"A".repeat(32)] {
        let video = format!("/api/v1/videos/{id}");
        site.get(&video).await.problem(StatusCode::NOT_FOUND, "unknown_video");
        site.get(&format!("{video}/events")).await.problem(StatusCode::NOT_FOUND, "unknown_video");
        let heartbeat = r#"{"session":"s","events":[]}"#;
        let answer =
            site.request(Method::POST, &format!("{video}/heartbeat"), &[], heartbeat).await;
        answer.problem(StatusCode::NOT_FOUND, "unknown_video");
        let answer = site.request(Method::PATCH, &video, &[], "{}").await;
        answer.problem(StatusCode::NOT_FOUND, "unknown_video");
        site.request(Method::DELETE, &video, &[], "")
            .await
            .problem(StatusCode::NOT_FOUND, "unknown_video");
        for file in [
            "master.m3u8",
            "manifest.mpd",
            "thumbnail.jpg",
            "sprites.vtt",
            "source",
            "a/index.m3u8",
            "a/0.m4s",
        ] {
            site.get(&format!("/v/{id}/{file}"))
                .await
                .problem(StatusCode::NOT_FOUND, "unknown_video");
        }
    }
}

#[tokio::test]
async fn an_edit_changes_what_it_names_and_the_etag() {
    let site = Site::new();
    let video = site.video().await;
    let before = site.get(&path(&video)).await.header("etag").to_owned();
    let answer =
        site.patch(&video, &[], r#"{"title":" New\nname ","visibility":"unlisted"}"#).await;
    let answer = answer.expect(StatusCode::OK);
    let edited: Video = answer.json();
    assert_eq!(edited.title, "New name");
    assert_eq!(edited.visibility, api::Visibility::Unlisted);
    assert_eq!(edited.description, video.description);
    assert_eq!(answer.header("reelraft-index"), site.memory.index().to_string());
    let after = answer.header("etag").to_owned();
    assert_ne!(after, before);
    assert_eq!(site.get(&path(&video)).await.header("etag"), after);
    let page: VideoPage = site.get("/api/v1/videos").await.json();
    assert!(page.items.is_empty());
}

#[tokio::test]
async fn processing_does_not_change_the_etag() {
    let site = Site::new();
    let video = site.video().await;
    let before = site.get(&path(&video)).await.header("etag").to_owned();
    Copying::begin(&site.memory, video.id).commit(&site.memory, 0);
    assert_eq!(site.get(&path(&video)).await.header("etag"), before);
}

#[tokio::test]
async fn if_match_guards_edits_and_deletes() {
    let site = Site::new();
    let video = site.video().await;
    let old = site.get(&path(&video)).await.header("etag").to_owned();
    let edit = |etag: String, title: &str| {
        let json = format!(r#"{{"title":"{title}"}}"#);
        let (site, video) = (&site, &video);
        async move { site.patch(video, &[("if-match", &etag)], &json).await }
    };
    let new = edit(old.clone(), "A").await.expect(StatusCode::OK).header("etag").to_owned();
    let refused = edit(old.clone(), "B").await;
    refused.problem(StatusCode::PRECONDITION_FAILED, "version_mismatch");
    assert_eq!(refused.header("etag"), new);
    for tag in ["\"nonsense\"".to_owned(), format!("W/{new}"), "\"999999\"".to_owned()] {
        edit(tag, "B").await.problem(StatusCode::PRECONDITION_FAILED, "version_mismatch");
    }
    assert_eq!(site.read(&video).await.title, "A");
    edit(format!("{old}, {new}"), "C").await.expect(StatusCode::OK);
    edit("*".to_owned(), "D").await.expect(StatusCode::OK);
    let stale = site.delete(&video, &[("if-match", &new)]).await;
    stale.problem(StatusCode::PRECONDITION_FAILED, "version_mismatch");
    let current = site.get(&path(&video)).await.header("etag").to_owned();
    let deleted =
        site.delete(&video, &[("if-match", &current)]).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(deleted.header("reelraft-index"), site.memory.index().to_string());
    site.get(&path(&video)).await.problem(StatusCode::NOT_FOUND, "unknown_video");
}

#[tokio::test]
async fn edits_are_checked() {
    let site = Site::new();
    let video = site.video().await;
    for (json, status, code) in [
        ("{", StatusCode::BAD_REQUEST, "invalid_json"),
        ("", StatusCode::BAD_REQUEST, "invalid_json"),
        ("[]", StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
        (r#"{"titel":"x"}"#, StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
        (r#"{"title":7}"#, StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
        (r#"{"title":"  "}"#, StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
        (r#"{"visibility":"hidden"}"#, StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields"),
    ] {
        site.patch(&video, &[], json).await.problem(status, code);
    }
    let long = format!(r#"{{"description":"{}"}}"#, "x".repeat(10_001));
    site.patch(&video, &[], &long)
        .await
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields");
    let huge = format!(r#"{{"description":"{}"}}"#, "x".repeat(70_000));
    site.patch(&video, &[], &huge).await.problem(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large");
    assert_eq!(site.read(&video).await, video);
}

#[tokio::test]
async fn a_private_video_is_not_seen_but_can_be_opened_again() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let segment = format!("/v/{}/source/0.m4s", video.id);
    site.get(&segment).await.expect(StatusCode::OK);
    site.patch(&video, &[], r#"{"visibility":"private"}"#).await.expect(StatusCode::OK);
    for path in [
        path(&video),
        segment.clone(),
        video.urls.hls.clone(),
        format!("/v/{}/thumbnail.jpg", video.id),
    ] {
        site.get(&path).await.problem(StatusCode::NOT_FOUND, "unknown_video");
    }
    site.patch(&video, &[], r#"{"visibility":"public"}"#).await.expect(StatusCode::OK);
    site.get(&segment).await.expect(StatusCode::OK);
}

#[tokio::test]
async fn a_read_can_demand_an_index() {
    let site = Site::new();
    let video = site.video().await;
    let now = site.memory.index();
    site.get_with(&path(&video), &[("reelraft-min-index", &now.to_string())])
        .await
        .expect(StatusCode::OK);
    site.get_with(&path(&video), &[("reelraft-min-index", "x")])
        .await
        .problem(StatusCode::BAD_REQUEST, "invalid_request");
    let next = (now + 1).to_string();
    let path = path(&video);
    let headers = [("reelraft-min-index", next.as_str())];
    let (answer, ()) = tokio::join!(site.get_with(&path, &headers), async {
        tokio::task::yield_now().await;
        site.memory.must_apply(cluster::command::Action::CountViews { views: vec![(video.id, 3)] });
    });
    assert_eq!(answer.expect(StatusCode::OK).json::<Video>().views, 3);
}

#[tokio::test(start_paused = true)]
async fn an_index_that_is_not_reached_is_said_in_time() {
    let site = Site::new();
    let video = site.video().await;
    let started = tokio::time::Instant::now();
    let answer = site.get_with(&path(&video), &[("reelraft-min-index", "99999")]).await;
    answer.problem(StatusCode::SERVICE_UNAVAILABLE, "index_not_applied");
    assert!(started.elapsed() <= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_linearizable_read_needs_a_majority() {
    let site = Site::new();
    let video = site.video().await;
    let path = format!("{}?consistency=linearizable", path(&video));
    site.get(&path).await.expect(StatusCode::OK);
    *site.memory.lag.lock().unwrap() = 1;
    site.get(&path).await.problem(StatusCode::SERVICE_UNAVAILABLE, "index_not_applied");
    *site.memory.proposals.lock().unwrap() = Proposals::NoLeader;
    site.get(&path).await.problem(StatusCode::SERVICE_UNAVAILABLE, "no_majority");
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_writes_are_refused_in_time_and_reads_go_on() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    for (fault, code) in [(Proposals::NoLeader, "no_majority"), (Proposals::Hang, "timeout")] {
        *site.memory.proposals.lock().unwrap() = fault;
        let started = tokio::time::Instant::now();
        site.patch(&video, &[], r#"{"title":"x"}"#)
            .await
            .problem(StatusCode::SERVICE_UNAVAILABLE, code);
        assert!(started.elapsed() <= Duration::from_secs(5));
        let started = tokio::time::Instant::now();
        site.delete(&video, &[]).await.problem(StatusCode::SERVICE_UNAVAILABLE, code);
        assert!(started.elapsed() <= Duration::from_secs(5));
        let started = tokio::time::Instant::now();
        site.upload("", "b").await.problem(StatusCode::SERVICE_UNAVAILABLE, code);
        assert!(started.elapsed() <= Duration::from_secs(5));
        site.get(&path(&video)).await.expect(StatusCode::OK);
        site.get(&video.urls.hls).await.expect(StatusCode::OK);
        site.get(&format!("/v/{}/source/0.m4s", video.id)).await.expect(StatusCode::OK);
    }
}
