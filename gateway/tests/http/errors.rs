//! What every answer has, and what unknown addresses and methods get.

use axum::body::Body;
use axum::http::{Method, StatusCode};

use crate::site::{Site, path};

#[tokio::test]
async fn unknown_addresses_are_problems() {
    let site = Site::new();
    for path in
        ["/api", "/api/v1/nothing", "/v/x", "/nothing", "/assets/nothing.js", "/api/v1/videos/a/b"]
    {
        site.get(path).await.problem(StatusCode::NOT_FOUND, "unknown_route");
    }
    site.request(Method::POST, "/nothing", &[], Body::empty())
        .await
        .problem(StatusCode::NOT_FOUND, "unknown_route");
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let site = Site::new();
    let video = site.video().await;
    for (path, allowed) in [
        ("/api/v1/videos".to_owned(), "GET,HEAD,POST"),
        (path(&video), "DELETE,GET,HEAD,PATCH"),
        (video.urls.hls.clone(), "GET,HEAD"),
        ("/api/v1/cluster".to_owned(), "GET,HEAD"),
        ("/".to_owned(), "GET,HEAD"),
    ] {
        let answer = site.request(Method::PUT, &path, &[], Body::empty()).await;
        answer.problem(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed");
        let mut allow: Vec<_> = answer.header("allow").split(',').collect();
        allow.sort_unstable();
        assert_eq!(allow.join(","), allowed, "{path}");
    }
}

#[tokio::test]
async fn resumable_uploads_are_not_available_yet() {
    let site = Site::new();
    let answer = site
        .request(Method::POST, "/api/v1/uploads", &[("tus-resumable", "1.0.0")], Body::empty())
        .await;
    answer.problem(StatusCode::NOT_FOUND, "not_available_yet");
}

#[tokio::test]
async fn every_answer_names_its_request_and_its_node() {
    let site = Site::new();
    let first = site.get("/healthz").await;
    let second = site.get("/healthz").await;
    assert_ne!(first.header("x-request-id"), second.header("x-request-id"));
    assert_eq!(first.header("reelraft-node"), "7");
    assert_eq!(first.header("timing-allow-origin"), "*");
    assert_eq!(first.header("x-content-type-options"), "nosniff");
    let given = site.get_with("/nothing", &[("x-request-id", "from-my.proxy_1")]).await;
    assert_eq!(given.header("x-request-id"), "from-my.proxy_1");
    let dangerous = site.get_with("/nothing", &[("x-request-id", "<script>")]).await;
    assert_ne!(dangerous.header("x-request-id"), "<script>");
}

#[tokio::test]
async fn every_origin_may_read_and_write() {
    let site = Site::new();
    let answer = site.get_with("/api/v1/videos", &[("origin", "http://elsewhere")]).await;
    assert_eq!(answer.header("access-control-allow-origin"), "*");
    let exposed = answer.header("access-control-expose-headers").to_lowercase();
    for name in
        ["etag", "location", "reelraft-index", "reelraft-node", "retry-after", "x-request-id"]
    {
        assert!(exposed.split(',').any(|header| header.trim() == name), "{name} in {exposed}");
    }
    assert!(!answer.headers.contains_key("vary"));
    let headers = [
        ("origin", "http://elsewhere"),
        ("access-control-request-method", "PATCH"),
        ("access-control-request-headers", "if-match,content-type"),
    ];
    let preflight =
        site.request(Method::OPTIONS, "/api/v1/videos/x", &headers, Body::empty()).await;
    assert!(preflight.status.is_success());
    assert!(preflight.header("access-control-allow-methods").contains("PATCH"));
    assert_eq!(preflight.header("access-control-allow-headers"), "*");
    // A problem can be read by a page as well.
    let problem = site.get_with("/nothing", &[("origin", "http://elsewhere")]).await;
    assert_eq!(problem.header("access-control-allow-origin"), "*");
}
