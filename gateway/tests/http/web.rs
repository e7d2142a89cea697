//! The web app, its headers, and the pages of the API.

use axum::http::StatusCode;

use crate::clip;
use crate::site::Site;

#[tokio::test]
async fn every_page_is_the_one_document() {
    let site = Site::new();
    for path in ["/", "/upload", "/cluster", "/embed/x"] {
        let page = site.get(path).await.expect(StatusCode::OK);
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert_eq!(page.header("cache-control"), "no-cache");
        let policy = page.header("content-security-policy");
        assert!(policy.contains("script-src 'self';"), "{policy}");
        let framed =
            if path.starts_with("/embed") { "frame-ancestors *" } else { "frame-ancestors 'none'" };
        assert!(policy.contains(framed), "{path}: {policy}");
    }
    let page = site.get_with("/no/such/page", &[("accept", "text/html,*/*")]).await;
    assert_eq!(
        page.expect(StatusCode::NOT_FOUND).header("content-type"),
        "text/html; charset=utf-8"
    );
    let program = site.get_with("/no/such/page", &[("accept", "*/*")]).await;
    program.problem(StatusCode::NOT_FOUND, "unknown_route");
}

#[tokio::test]
async fn the_page_of_a_video_says_what_it_is_about() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    site.patch(&video, &[], r#"{"title":"\"><script>alert(1)</script>"}"#)
        .await
        .expect(StatusCode::OK);
    let page = site
        .get_with(&video.urls.watch, &[("host", "films.example:8080")])
        .await
        .expect(StatusCode::OK);
    let html = page.text();
    assert!(html.contains(
        r#"<meta property="og:title" content="&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;" />"#
    ));
    assert!(!html.contains("<script>alert"));
    assert!(
        html.contains(&format!(
            "content=\"http://films.example:8080/v/{}/thumbnail.jpg\"",
            video.id
        ))
    );
    let unknown =
        site.get(&format!("/watch/{}", "0".repeat(32))).await.expect(StatusCode::NOT_FOUND);
    assert!(!unknown.text().contains("og:title"));
}

#[tokio::test]
async fn the_api_is_described_and_shown() {
    let site = Site::new();
    let answer = site.get("/api/openapi.json").await.expect(StatusCode::OK);
    let json: serde_json::Value = answer.json();
    assert!(json["openapi"].as_str().unwrap().starts_with("3.1"));
    let described: Vec<_> = json["paths"].as_object().unwrap().keys().cloned().collect();
    for path in [
        "/healthz",
        "/readyz",
        "/metrics",
        "/api/v1/videos",
        "/api/v1/videos/{id}",
        "/api/v1/videos/{id}/events",
        "/api/v1/videos/{id}/heartbeat",
        "/api/v1/cluster",
        "/api/v1/site",
        "/v/{id}/master.m3u8",
        "/v/{id}/manifest.mpd",
        "/v/{id}/thumbnail.jpg",
        "/v/{id}/sprites.vtt",
        "/v/{id}/source",
        "/v/{id}/{rendition}/index.m3u8",
        "/v/{id}/{rendition}/{segment}",
    ] {
        assert!(described.iter().any(|known| known == path), "{path} in {described:?}");
    }
    assert!(json["components"]["schemas"]["Video"]["properties"]["playable_seconds"].is_object());
    // Whatever is referred to is there.
    let text = answer.text();
    for reference in text.split("\"#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(json["components"]["schemas"][name].is_object(), "{name}");
    }
    let page = site.get("/api/docs").await.expect(StatusCode::OK);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    assert!(page.header("content-security-policy").contains("script-src 'self'"));
    assert!(!page.text().contains("https://"), "all of it is in the binary");
    let loaded: Vec<_> =
        page.text().split('"').filter(|text| text.starts_with("/api/docs/ui/")).collect();
    assert_eq!(loaded.len(), 5);
    for file in loaded {
        assert!(!site.get(file).await.expect(StatusCode::OK).body.is_empty(), "{file}");
    }
    let initializer = site.get("/api/docs/ui/swagger-initializer.js").await;
    assert!(initializer.text().contains("/api/openapi.json"));
}
