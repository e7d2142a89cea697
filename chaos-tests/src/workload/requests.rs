//! The two requests of the workload, and what each answer means for the history.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::header::{ETAG, HeaderMap};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Client;
use crate::history::{Content, Fate, Recorder, Version};

/// What a client learnt.
pub(super) enum Said {
    Content(Content),
    /// A write was acknowledged, and this is what the video showed then or later.
    Acknowledged(Content),
    Nothing,
}

/// A client at one node.
pub(super) struct At {
    name: String,
    client: Client,
}

/// What is of interest of a video, or of a problem.
#[derive(Deserialize)]
struct Described {
    description: String,
}

#[derive(Deserialize)]
struct Problem {
    code: String,
}

impl At {
    pub(super) fn new(node: usize, url: &str, client: usize, patience: Duration) -> Result<Self> {
        let name = format!("{client} at {node}");
        Ok(Self { name, client: Client::with_patience(url, patience)? })
    }

    /// A linearizable read.
    ///
    /// # Errors
    /// When the answer is neither the video nor that it cannot be read at present.
    pub(super) async fn read(&self, recorder: &Recorder, id: &str) -> Result<Said> {
        let pending = recorder.read(&self.name, id);
        let path = linearizable(id);
        let Ok(answer) = self.client.exchange(Method::GET, &path, &[], None).await else {
            return Ok(Said::Nothing);
        };
        match answer.status() {
            StatusCode::OK => {
                let Some(content) = content(answer).await? else { return Ok(Said::Nothing) };
                pending.saw(content.clone());
                Ok(Said::Content(content))
            }
            StatusCode::SERVICE_UNAVAILABLE => Ok(Said::Nothing),
            _ => unexpected(&path, answer).await,
        }
    }

    /// Writes the description, perhaps only over a version.
    ///
    /// # Errors
    /// When the answer is none that a cluster may give.
    pub(super) async fn write(
        &self,
        recorder: &Recorder,
        id: &str,
        value: &str,
        expected: Option<Version>,
    ) -> Result<Said> {
        let path = format!("/api/v1/videos/{id}");
        let headers: Vec<_> =
            expected.iter().map(|version| ("If-Match", format!("\"{version}\""))).collect();
        let body = json!({"description": value});
        // The answer shows the video as it was then or later, so it is a read that begins with the write.
        let reading = recorder.read(&self.name, id);
        let writing = recorder.change(&self.name, id, value, expected);
        let answer = self.client.exchange(Method::PATCH, &path, &headers, Some(&body)).await;
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                writing.became(Fate::Never);
                return Ok(Said::Nothing);
            }
            Err(_) => return Ok(Said::Nothing),
        };
        match answer.status() {
            StatusCode::OK => {
                let index = number(answer.headers(), "reelraft-index")?;
                let Some(content) = content(answer).await? else {
                    // The status says that it was done; only the rest of the answer is lost.
                    writing.became(Fate::Applied { version: None, index });
                    return Ok(Said::Nothing);
                };
                let version = (content.value == value).then_some(content.version);
                writing.became(Fate::Applied { version, index });
                reading.saw(content.clone());
                Ok(Said::Acknowledged(content))
            }
            StatusCode::PRECONDITION_FAILED => {
                let actual = version(answer.headers())?;
                ensure!(
                    expected.is_some() && expected != Some(actual),
                    "{path}: refused for {actual}"
                );
                writing.became(Fate::Mismatch { actual });
                // What it shows now has to be read to be written over.
                Ok(Said::Nothing)
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                // This code promises that the write is nowhere; the others do not.
                if let Ok(Problem { code }) = answer.json().await
                    && code == "no_majority"
                {
                    writing.became(Fate::Never);
                }
                Ok(Said::Nothing)
            }
            _ => unexpected(&path, answer).await,
        }
    }
}

/// What a video shows, read before any fault.
pub(super) async fn content_of(client: &Client, id: &str) -> Result<Content> {
    let answer = client.get(&linearizable(id)).await?;
    ensure!(answer.status() == StatusCode::OK, "read {id}: {}", answer.status());
    content(answer).await?.context("read the whole answer")
}

fn linearizable(id: &str) -> String {
    format!("/api/v1/videos/{id}?consistency=linearizable")
}

/// `None` when the connection broke in the middle.
async fn content(answer: Response) -> Result<Option<Content>> {
    let version = version(answer.headers())?;
    let Ok(body) = answer.bytes().await else { return Ok(None) };
    let Described { description } = serde_json::from_slice(&body).context("read a video")?;
    Ok(Some(Content { version, value: description }))
}

fn version(headers: &HeaderMap) -> Result<Version> {
    let tag = headers.get(ETAG).context("an ETag")?.to_str()?;
    tag.trim_matches('"').parse().with_context(|| format!("a version in the ETag {tag}"))
}

fn number(headers: &HeaderMap, name: &str) -> Result<u64> {
    headers.get(name).with_context(|| name.to_owned())?.to_str()?.parse().context(name.to_owned())
}

async fn unexpected(path: &str, answer: Response) -> Result<Said> {
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    bail!("{path} answered {status}: {body}")
}
