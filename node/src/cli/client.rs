//! The command line's side of the HTTP API: every request goes through here.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use gateway::api::Problem;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;

/// Which cluster to talk to.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// A node of the cluster, any of them
    #[arg(long, env = "REELRAFT_URL", default_value = "http://127.0.0.1:8080", value_name = "URL")]
    url: String,
}

/// How long a node may take to accept a connection.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// How long a node may say nothing while it works on an answer: it gives up on a lost majority after five seconds itself,
/// and on waiting for durable copies of an upload after thirty.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A client of one node.
#[derive(Debug)]
pub(super) struct Api {
    base: String,
    http: reqwest::Client,
}

impl Api {
    pub(super) fn new(target: &Target) -> anyhow::Result<Self> {
        let base = target.url.trim_end_matches('/').to_owned();
        if !base.starts_with("http://") {
            bail!("{:?} is no address of a node: it starts with http://", target.url);
        }
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_MAX)
            .read_timeout(SILENCE_MAX)
            .user_agent(concat!("reelraft/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("set up the HTTP client")?;
        Ok(Self { base, http })
    }

    /// The full address of a path of the node.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, self.url(path))
    }

    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.read(self.request(Method::GET, path)).await
    }

    /// Sends and reads the JSON of a good answer.
    pub(super) async fn read<T: DeserializeOwned>(
        &self,
        request: RequestBuilder,
    ) -> anyhow::Result<T> {
        let answer = self.send(request).await?;
        answer.json().await.with_context(|| format!("read the answer of {}", self.base))
    }

    /// Sends, and turns everything but a good answer into an error.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request.send().await.map_err(|error| {
            if error.is_connect() {
                anyhow!(
                    "nobody answers on {}: is a node running there? --url or REELRAFT_URL names another one",
                    self.base
                )
            } else if error.is_request() && !error.is_timeout() {
                anyhow::Error::new(error).context(format!(
                    "talk to {}: is it the HTTP port of a node, and not its RPC port",
                    self.base
                ))
            } else {
                anyhow::Error::new(error).context(format!("talk to {}", self.base))
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let text = answer.text().await.unwrap_or_default();
        Err(refusal(status, &text))
    }
}

/// The node's own words, when it has any.
fn refusal(status: StatusCode, text: &str) -> anyhow::Error {
    match serde_json::from_str::<Problem>(text) {
        Ok(problem) => {
            anyhow!("{} ({}, request {})", problem.detail, problem.code, problem.request_id)
        }
        Err(_) => anyhow!("the node answered {status}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_in_the_nodes_own_words() {
        let text = r#"{"type":"about:blank","title":"Not Found","status":404,"detail":"there is no such video",
            "code":"unknown_video","request_id":"r1"}"#;
        let error = refusal(StatusCode::NOT_FOUND, text).to_string();
        assert_eq!(error, "there is no such video (unknown_video, request r1)");
        let error = refusal(StatusCode::BAD_GATEWAY, "<html>").to_string();
        assert!(error.contains("502"), "{error}");
    }

    #[test]
    fn an_address_without_a_scheme_is_refused() {
        let target = Target { url: "localhost:8080".to_owned() };
        assert!(Api::new(&target).unwrap_err().to_string().contains("http://"));
    }
}
