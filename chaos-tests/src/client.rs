//! The public HTTP interface, as a careful client uses it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

/// One request that is not an upload has to be answered within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// Bytes handed to the connection at a time while uploading.
const CHUNK_BYTES: usize = 64 * 1024;

/// What these tests look at of a video.
#[derive(Clone, Debug, Deserialize)]
pub struct Video {
    pub id: String,
    pub title: String,
    pub state: String,
    pub playable_seconds: f64,
    pub progress: f64,
    pub duration_seconds: Option<f64>,
    pub renditions: Vec<Rendition>,
    pub error: Option<VideoError>,
}

/// One rung, or the audio.
#[derive(Clone, Debug, Deserialize)]
pub struct Rendition {
    pub name: String,
    pub kind: String,
    pub height: Option<u32>,
    pub seconds: f64,
}

/// Why a video failed.
#[derive(Clone, Debug, Deserialize)]
pub struct VideoError {
    pub code: String,
    pub detail: String,
}

/// A client of one node.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    /// How long it waits for an answer to anything but an upload.
    patience: Duration,
    /// Such as `http://127.0.0.1:8080`, without a slash at the end.
    pub base: String,
}

impl Client {
    /// A client of the node at `base`.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn new(base: &str) -> Result<Self> {
        Self::with_patience(base, ANSWER_WITHIN)
    }

    /// One that waits only so long for the answer to anything but an upload.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_patience(base: &str, patience: Duration) -> Result<Self> {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(2))
            .build()
            .context("set up the HTTP client")?;
        Ok(Self { http, patience, base: base.trim_end_matches('/').to_owned() })
    }

    /// The answer to a `GET`, whatever its status.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn get(&self, path: &str) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.http
            .get(&url)
            .timeout(self.patience)
            .send()
            .await
            .with_context(|| format!("get {url}"))
    }

    /// The body of a `GET` that must succeed.
    ///
    /// # Errors
    /// When the answer is not 200.
    pub async fn bytes(&self, path: &str) -> Result<Bytes> {
        let response = self.get(path).await?;
        let status = response.status();
        let body = response.bytes().await.with_context(|| format!("read the body of {path}"))?;
        if status != StatusCode::OK {
            bail!("{}{path}: {status}: {}", self.base, String::from_utf8_lossy(&body));
        }
        Ok(body)
    }

    /// The JSON body of a `GET` that must succeed.
    ///
    /// # Errors
    /// When the answer is not 200 or not of that form.
    pub async fn json<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<T> {
        let body = self.bytes(path).await?;
        serde_json::from_slice(&body)
            .with_context(|| format!("read {path}: {}", String::from_utf8_lossy(&body)))
    }

    /// One video.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn video(&self, id: &str) -> Result<Video> {
        self.json(&format!("/api/v1/videos/{id}")).await
    }

    /// The video whose upload was announced with this key, once the cluster knows it.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn video_by_upload_key(&self, key: &str) -> Result<Option<Video>> {
        #[derive(Deserialize)]
        struct Page {
            items: Vec<Video>,
        }
        let page: Page = self.json(&format!("/api/v1/videos?upload_key={key}")).await?;
        Ok(page.items.into_iter().next())
    }

    /// The cluster as that node sees it.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub async fn cluster(&self) -> Result<Value> {
        self.json("/api/v1/cluster").await
    }

    /// A number that the node counts, over all its labels. 0 when it has never counted any.
    ///
    /// # Errors
    /// As [`Self::bytes`].
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let text = String::from_utf8(self.bytes("/metrics").await?.to_vec())?;
        let values = text.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let is_it = series == name || series.starts_with(&format!("{name}{{"));
            is_it.then(|| value.parse::<f64>().ok()).flatten()
        });
        Ok(values.sum::<f64>() as u64)
    }

    /// Uploads a file in one request, at most `bytes_per_second` of it when given.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn upload(
        &self,
        file: &Path,
        title: &str,
        key: Option<&str>,
        bytes_per_second: Option<u64>,
    ) -> Result<Response> {
        let content =
            tokio::fs::read(file).await.with_context(|| format!("read {}", file.display()))?;
        self.upload_bytes(Bytes::from(content), title, key, bytes_per_second).await
    }

    /// As [`Self::upload`], with the bytes at hand.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn upload_bytes(
        &self,
        content: Bytes,
        title: &str,
        key: Option<&str>,
        bytes_per_second: Option<u64>,
    ) -> Result<Response> {
        let length = content.len();
        let chunks = (0..length)
            .step_by(CHUNK_BYTES)
            .map(move |at| content.slice(at..length.min(at + CHUNK_BYTES)));
        let pause =
            bytes_per_second.map(|rate| Duration::from_secs_f64(CHUNK_BYTES as f64 / rate as f64));
        let body = stream::iter(chunks).then(move |chunk| async move {
            if let Some(pause) = pause {
                // This is the speed of the uploader's line, not a wait for something to happen.
                tokio::time::sleep(pause).await;
            }
            Ok::<_, std::io::Error>(chunk)
        });
        let mut request = self
            .http
            .post(format!("{}/api/v1/videos", self.base))
            .query(&[("title", title)])
            .header("Content-Type", "video/mp4")
            .header("Content-Length", length)
            .body(reqwest::Body::wrap_stream(body));
        if let Some(key) = key {
            request = request.header("Reelraft-Upload-Key", key);
        }
        request.send().await.context("upload")
    }

    /// Uploads and expects `201` with the video.
    ///
    /// # Errors
    /// When the answer is anything else.
    pub async fn upload_video(&self, file: &Path, title: &str) -> Result<Video> {
        let response = self.upload(file, title, None, None).await?;
        accepted(response).await
    }

    /// A request with a JSON body, whatever the answer.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn patch(&self, path: &str, body: &Value) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.http
            .patch(&url)
            .timeout(self.patience)
            .json(body)
            .send()
            .await
            .with_context(|| format!("patch {url}"))
    }

    /// A request with these headers and perhaps a JSON body, whatever the answer.
    ///
    /// # Errors
    /// When there is no answer in time, as the library says it: a caller may have to know whether the request was sent.
    pub async fn exchange(
        &self,
        method: reqwest::Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<&Value>,
    ) -> reqwest::Result<Response> {
        let url = format!("{}{path}", self.base);
        let mut request = self.http.request(method, &url).timeout(self.patience);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        request.send().await
    }

    /// A `DELETE`, whatever the answer.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn delete(&self, path: &str) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.http
            .delete(&url)
            .timeout(self.patience)
            .send()
            .await
            .with_context(|| format!("delete {url}"))
    }

    /// A request of any method with a body of any type, whatever the answer.
    ///
    /// # Errors
    /// When there is no answer in time.
    pub async fn request(
        &self,
        method: reqwest::Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response> {
        let url = format!("{}{path}", self.base);
        self.http
            .request(method, &url)
            .timeout(self.patience)
            .header("Content-Type", content_type)
            .body(body)
            .send()
            .await
            .with_context(|| format!("request {url}"))
    }
}

/// The video of an upload that was accepted.
///
/// # Errors
/// When the answer is not `201` with a video.
pub async fn accepted(response: Response) -> Result<Video> {
    let status = response.status();
    let body = response.bytes().await.context("read the answer to an upload")?;
    if status != StatusCode::CREATED {
        bail!("upload answered {status}: {}", String::from_utf8_lossy(&body));
    }
    serde_json::from_slice(&body).context("read the video")
}
