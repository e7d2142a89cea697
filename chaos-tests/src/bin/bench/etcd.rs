//! Three etcd servers with fsync on, spoken to through their HTTP gateways.

use anyhow::{Context, Result};
use chaos_tests::wait;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Child;

use crate::peers::{UP_WITHIN, free_ports, spawn, terminate};

const SERVERS: usize = 3;

/// The servers; they end when dropped.
pub(crate) struct Etcd {
    servers: Vec<Server>,
    http: reqwest::Client,
    folder: TempDir,
}

struct Server {
    url: String,
    args: Vec<String>,
    /// While it runs.
    child: Option<Child>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.servers.iter_mut().filter_map(|server| server.child.as_mut()) {
            terminate(child);
        }
    }
}

impl Etcd {
    /// Starts them and waits until they have a leader.
    pub(crate) async fn start() -> Result<Self> {
        let folder = TempDir::with_prefix("reelraft-etcd-")?;
        let ports: [u16; SERVERS * 2] = free_ports()?;
        let address = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<_> =
            (0..SERVERS).map(|n| format!("n{n}={}", address(ports[n * 2]))).collect();
        let servers = (0..SERVERS).map(|n| {
            let (peer, client) = (address(ports[n * 2]), address(ports[n * 2 + 1]));
            let args = vec![
                format!("--name=n{n}"),
                format!("--data-dir={}/n{n}", folder.path().display()),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--initial-cluster={}", cluster.join(",")),
                "--initial-cluster-state=new".to_owned(),
                "--log-level=error".to_owned(),
            ];
            Server { url: client, args, child: None }
        });
        let servers = servers.collect();
        let mut etcd = Self { servers, http: reqwest::Client::new(), folder };
        for place in 0..SERVERS {
            etcd.restart(place)?;
        }
        etcd.leader().await?;
        Ok(etcd)
    }

    pub(crate) fn url(&self, place: usize) -> &str {
        &self.servers[place].url
    }

    /// Where those that run answer.
    pub(crate) fn urls(&self) -> Vec<String> {
        let running = self.servers.iter().filter(|server| server.child.is_some());
        running.map(|server| server.url.clone()).collect()
    }

    /// The place of the leader, once there is one that leads by its own account.
    pub(crate) async fn leader(&self) -> Result<usize> {
        wait::until("etcd has a leader", UP_WITHIN, async || {
            for (place, server) in self.servers.iter().enumerate() {
                if server.child.is_none() {
                    continue;
                }
                let status: Value = self
                    .http
                    .post(format!("{}/v3/maintenance/status", server.url))
                    .body("{}")
                    .send()
                    .await?
                    .json()
                    .await?;
                let leader = status["leader"].as_str().unwrap_or("0");
                if leader != "0" && status["header"]["member_id"].as_str() == Some(leader) {
                    return Ok(Some(place));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Waits until all of them answer.
    pub(crate) async fn wait_until_up(&self) -> Result<()> {
        for server in &self.servers {
            wait::until("etcd answers", UP_WITHIN, async || {
                let health = self.http.get(format!("{}/health", server.url)).send().await?;
                Ok(health.status().is_success().then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// `kill -9`.
    pub(crate) async fn kill(&mut self, place: usize) -> Result<()> {
        let mut child = self.servers[place].child.take().context("it runs")?;
        Ok(child.kill().await?)
    }

    /// Starts one on the data that it has.
    pub(crate) fn restart(&mut self, place: usize) -> Result<()> {
        let server = &mut self.servers[place];
        server.child = Some(spawn("etcd", &server.args, self.folder.path())?);
        Ok(())
    }
}
