//! The gateway's router over a node in memory, and requests to it without a socket.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use gateway::Settings;
use gateway::api::{Problem, Video};
use serde::de::DeserializeOwned;
use tower::ServiceExt;

use crate::memory::Memory;

pub(crate) struct Site {
    pub(crate) memory: Arc<Memory>,
    pub(crate) router: Router,
}

/// An answer with its body read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

pub(crate) fn settings() -> Settings {
    Settings {
        upload_bytes_max: 8 << 20,
        upload_patience: Duration::from_millis(300),
        drain: Duration::from_secs(2),
        ..Settings::default()
    }
}

impl Site {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let memory = Memory::new();
        Self { router: gateway::router(memory.clone(), settings), memory }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::GET, path, headers, Body::empty()).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.request(Method::HEAD, path, &[], Body::empty()).await
    }

    pub(crate) async fn patch(
        &self,
        video: &Video,
        headers: &[(&str, &str)],
        json: &str,
    ) -> Answer {
        self.request(Method::PATCH, &path(video), headers, json.to_owned()).await
    }

    pub(crate) async fn delete(&self, video: &Video, headers: &[(&str, &str)]) -> Answer {
        self.request(Method::DELETE, &path(video), headers, Body::empty()).await
    }

    pub(crate) async fn upload(&self, query: &str, bytes: impl Into<Body>) -> Answer {
        let headers = [("content-type", "video/mp4")];
        self.request(Method::POST, &format!("/api/v1/videos{query}"), &headers, bytes).await
    }

    /// A video whose bytes have all arrived.
    pub(crate) async fn video(&self) -> Video {
        self.upload("?title=Clip", vec![1; 1000]).await.expect(StatusCode::CREATED).json()
    }

    pub(crate) async fn read(&self, video: &Video) -> Video {
        self.get(&path(video)).await.expect(StatusCode::OK).json()
    }
}

pub(crate) fn path(video: &Video) -> String {
    format!("/api/v1/videos/{}", video.id)
}

impl Answer {
    #[track_caller]
    pub(crate) fn expect(self, status: StatusCode) -> Self {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub(crate) fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// Checks that this is a problem in all respects.
    #[track_caller]
    pub(crate) fn problem(&self, status: StatusCode, code: &str) -> Problem {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let problem: Problem = self.json();
        assert_eq!(self.status, status, "{problem:?}");
        assert_eq!(problem.status, status.as_u16());
        assert_eq!(problem.code, code, "{problem:?}");
        assert_eq!(problem.kind, "about:blank");
        assert_eq!(problem.request_id, self.header("x-request-id"));
        assert_eq!(self.header("reelraft-node"), "7");
        assert!(!problem.detail.is_empty());
        assert!(!problem.detail.contains("secret"), "{problem:?}");
        if status == StatusCode::SERVICE_UNAVAILABLE {
            assert!(self.header("retry-after").parse::<u32>().unwrap() > 0);
        }
        problem
    }
}
