//! A cluster of real processes on this machine.
//!
//! Each node is one `reelraft serve` with its own data directory and its own ports, started and killed one by one; what they
//! print goes to a log file beside their data, of which the end is shown when a test fails. They listen on this machine's
//! loopback, or each on a host of its own in a [`Network`] that can be cut. Each may have a [`Clock`] that can be wrong, and a
//! [`Disk`] that can be full.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::client::Client;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::faults::{self, Fault};
use crate::network::Network;
use crate::wait;

/// A cluster that was just started has to be in service within this time, on a busy machine too.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A node that was told to end has to be gone within this time.
const GONE_WITHIN: Duration = Duration::from_secs(30);

/// All nodes of a test may be on one disk, and several tests.
const BALLAST: &str = "64 MiB";

/// Lines of each node's log that are shown when a test fails.
const LOG_LINES_SHOWN: usize = 40;

/// Settings of all nodes, as environment variables (`REELRAFT_TRANSCODER_SLOTS`, …) with their values.
pub type Settings = [(&'static str, &'static str)];

/// One node: its place, its ports, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// From 1.
    pub number: usize,
    /// Where it listens.
    pub address: Ipv4Addr,
    pub http_port: u16,
    pub rpc_port: u16,
    folder: PathBuf,
    process: Option<Child>,
    clock: Option<Clock>,
    disks: Vec<Disk>,
}

impl Node {
    /// Such as `http://127.0.0.1:8080`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.address, self.http_port)
    }

    /// A client of this node.
    ///
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.url())
    }

    /// The id of the process, while it runs.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process_id(&self) -> Result<u32> {
        self.process
            .as_ref()
            .map(Child::id)
            .with_context(|| format!("node {} does not run", self.number))
    }

    /// Where its data are.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Its wall clock, where it has one of its own.
    ///
    /// # Errors
    /// When it goes by this machine's.
    pub fn clock(&self) -> Result<&Clock> {
        self.clock.as_ref().context("the node has no clock of its own")
    }

    /// Puts this part of its data, or all of them (`""`), on a disk of its own.
    ///
    /// # Errors
    /// When it runs, or that cannot be done.
    pub fn put_on_a_disk(&mut self, part: &str) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs", self.number);
        let folder = if part.is_empty() { self.data() } else { self.data().join(part) };
        self.disks.push(Disk::below(&folder)?);
        Ok(())
    }

    /// The disk that was made for it last.
    ///
    /// # Errors
    /// When it has none.
    pub fn disk(&self) -> Result<&Disk> {
        self.disks.last().context("the node has no disk of its own")
    }

    /// The children of its process: the media workers.
    ///
    /// # Errors
    /// When it does not run, or `/proc` cannot be read.
    pub fn workers(&self) -> Result<Vec<u32>> {
        let process = self.process_id()?;
        let mut workers = Vec::new();
        for thread in std::fs::read_dir(format!("/proc/{process}/task")).context("list threads")? {
            let children = thread?.path().join("children");
            // A thread may end between the two looks; it has no children then.
            let children = std::fs::read_to_string(children).unwrap_or_default();
            workers.extend(children.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
        }
        Ok(workers)
    }

    fn start(
        &mut self,
        binary: &Path,
        settings: &Settings,
        network: Option<&Network>,
    ) -> Result<()> {
        ensure!(self.process.is_none(), "node {} runs already", self.number);
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = match network {
            Some(network) => network.command(self.number - 1, binary),
            None => Command::new(binary),
        };
        // What is meant for the tests is not meant for the nodes.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REELRAFT_") {
                command.env_remove(name);
            }
        }
        let process = command
            .arg("serve")
            .env("REELRAFT_DATA_DIR", self.data())
            .env("REELRAFT_BALLAST", BALLAST)
            .env("REELRAFT_NAME", format!("node-{}", self.number))
            .env("REELRAFT_HTTP_LISTEN", format!("{}:{}", self.address, self.http_port))
            .env("REELRAFT_RPC_LISTEN", format!("{}:{}", self.address, self.rpc_port))
            .envs(settings.iter().copied())
            .env("NO_COLOR", "1")
            .envs(self.clock.iter().flat_map(Clock::variables))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        self.process = Some(process);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// What it has printed, in all its lives.
    ///
    /// # Errors
    /// When it has never been started.
    pub fn printed(&self) -> Result<String> {
        std::fs::read_to_string(self.log()).context("read a node's log")
    }

    fn end(&mut self, fault: Fault) -> Result<ExitStatus> {
        let mut process =
            self.process.take().with_context(|| format!("node {} does not run", self.number))?;
        faults::inflict(fault, process.id())?;
        let start = std::time::Instant::now();
        loop {
            if let Some(status) = process.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > GONE_WITHIN {
                process.kill()?;
                process.wait()?;
                anyhow::bail!(
                    "node {} did not end within {GONE_WITHIN:?} of {fault:?}",
                    self.number
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Some nodes that form one cluster. All of them are killed when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Node>,
    binary: PathBuf,
    settings: Vec<(&'static str, &'static str)>,
    ground: Ground,
    // Removed last.
    folder: TempDir,
}

/// What the nodes stand on: this machine as it is, unless something is said here.
#[derive(Debug, Default)]
pub struct Ground {
    /// Each node is on a host of its own.
    pub network: Option<Network>,
    /// Each node has a clock of its own.
    pub clocks: bool,
    /// Each node has a disk of its own.
    pub disks: bool,
}

impl Cluster {
    /// Starts `count` nodes with these settings above the defaults, makes one cluster of them, and waits until each is in
    /// service.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn start_with(count: usize, settings: &Settings) -> Result<Self> {
        Self::start_on(Ground::default(), count, settings).await
    }

    async fn start_on(ground: Ground, count: usize, settings: &Settings) -> Result<Self> {
        let mut cluster = Self {
            nodes: Vec::new(),
            binary: binary()?,
            settings: settings.to_vec(),
            ground,
            folder: TempDir::with_prefix("reelraft-chaos-").context("make a folder")?,
        };
        cluster.spawn(count)?;
        let first = cluster.nodes.first().context("a cluster has nodes")?;
        wait::until("found a cluster", READY_WITHIN, async || {
            cluster.command(&["cluster", "init"], first).await.map(Some)
        })
        .await?;
        cluster.let_join(0, 1).await?;
        Ok(cluster)
    }

    /// Starts `count` more nodes, lets them join, and waits until each has its part.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn grow(&mut self, count: usize) -> Result<()> {
        let running = self.nodes.iter().position(|node| node.process.is_some());
        let member = running.context("a cluster grows when one of its nodes runs")?;
        let first = self.nodes.len();
        self.spawn(count)?;
        self.let_join(member, first).await
    }

    /// Starts the processes of further nodes, which belong to no cluster yet.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn spawn(&mut self, count: usize) -> Result<()> {
        let ports = free_ports(count * 2)?;
        for ports in ports.chunks_exact(2) {
            let number = self.nodes.len() + 1;
            let folder = self.folder.path().join(format!("node-{number}"));
            std::fs::create_dir(&folder)?;
            let (http_port, rpc_port) = (ports[0], ports[1]);
            let address = match &self.ground.network {
                Some(network) => network.address(number - 1),
                None => Ipv4Addr::LOCALHOST,
            };
            let clock = self.ground.clocks.then(|| Clock::new(&folder)).transpose()?;
            let (process, disks) = (None, Vec::new());
            let mut node =
                Node { number, address, http_port, rpc_port, folder, process, clock, disks };
            if self.ground.disks {
                node.put_on_a_disk("")?;
            }
            node.start(&self.binary, &self.settings, self.ground.network.as_ref())?;
            self.nodes.push(node);
        }
        Ok(())
    }

    /// Lets the nodes from place `first` on join through the one at place `member`, in the order of their numbers, and waits
    /// until all have their part.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn let_join(&self, member: usize, first: usize) -> Result<()> {
        let (member, others) = (&self.nodes[member], &self.nodes[first..]);
        if !others.is_empty() {
            let uses = others.len().to_string();
            let create = ["token", "create", "--uses", &uses];
            let token = wait::until("make a token", READY_WITHIN, async || {
                self.command(&create, member).await.map(Some)
            })
            .await?;
            let to = format!("{}:{}", member.address, member.rpc_port);
            for node in others {
                let join = ["node", "join", token.trim(), "--to", &to];
                wait::until(&format!("node {} joins", node.number), READY_WITHIN, async || {
                    self.command(&join, node).await.map(Some)
                })
                .await?;
            }
        }
        self.wait_until_ready().await?;
        self.wait_until_grown().await
    }

    /// Runs a command on the machine of `node`, and returns what it prints.
    ///
    /// # Errors
    /// What it says when it fails.
    pub async fn command(&self, arguments: &[&str], node: &Node) -> Result<String> {
        let output = tokio::process::Command::new(&self.binary)
            .args(arguments)
            .arg("--data-dir")
            .arg(node.data())
            .envs(node.clock.iter().flat_map(Clock::variables))
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until every node has its part in the cluster: the layout names it, and as many vote as should.
    async fn wait_until_grown(&self) -> Result<()> {
        let client = self.clients()?.into_iter().next().context("no node runs")?;
        let running = self.running().count();
        // The number of voters of a cluster that has settled.
        let seats = match running {
            0..=2 => 1,
            3..=6 => 3,
            _ => 5,
        };
        wait::until("all nodes have their part", READY_WITHIN, async || {
            let seen = client.cluster().await?;
            let nodes = seen["nodes"].as_array().context("a list of nodes")?;
            let up = nodes.iter().filter(|node| node["status"] == "up").count();
            let voters = seen["voters"].as_array().map_or(0, Vec::len);
            Ok((up == running && voters == seats).then_some(()))
        })
        .await
    }

    /// Waits until every running node says that it can serve.
    ///
    /// # Errors
    /// When one does not in time.
    pub async fn wait_until_ready(&self) -> Result<()> {
        for node in self.running() {
            let client = node.client()?;
            wait::until(&format!("node {} is ready", node.number), READY_WITHIN, async || {
                client.bytes("/readyz").await.map(|_| Some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// The place in [`Self::nodes`] of the leader, as the nodes that run agree on it.
    ///
    /// # Errors
    /// When there is none in time.
    pub async fn leader(&self) -> Result<usize> {
        wait::until("there is a leader", READY_WITHIN, async || {
            // One that was cut off or paused may believe for a while that it still leads.
            let mut agreed: Option<(Value, Value)> = None;
            let mut place = None;
            for node in self.running() {
                let seen = node.client()?.cluster().await?;
                let now = (seen["leader"].clone(), seen["term"].clone());
                ensure!(!now.0.is_null(), "node {} knows no leader", node.number);
                if now.0 == seen["self"] {
                    place = Some(node.number - 1);
                }
                let before = agreed.get_or_insert_with(|| now.clone());
                ensure!(*before == now, "node {} sees another leader", node.number);
            }
            Ok(place)
        })
        .await
    }

    /// Ends a node with a signal and waits until it is gone. Only an operator's stop is an end without failure.
    ///
    /// # Errors
    /// When it does not run, does not end, or ends otherwise than the signal demands.
    pub fn end(&mut self, place: usize, fault: Fault) -> Result<()> {
        let status = self.nodes[place].end(fault)?;
        ensure!(
            fault != Fault::Terminate || status.success(),
            "node {} was stopped and ended with {status}",
            place + 1
        );
        Ok(())
    }

    /// Waits until a node has ended by itself.
    ///
    /// # Errors
    /// When it does not run, or goes on running for longer than `limit`.
    pub async fn ends_by_itself(&mut self, place: usize, limit: Duration) -> Result<ExitStatus> {
        let node = &mut self.nodes[place];
        let mut process =
            node.process.take().with_context(|| format!("node {} does not run", node.number))?;
        let ended = wait::until("a node ends by itself", limit, || {
            std::future::ready(process.try_wait().map_err(Into::into))
        })
        .await;
        if ended.is_err() {
            node.process = Some(process);
        }
        ended
    }

    /// Starts a node again on the data that it has.
    ///
    /// # Errors
    /// When it runs already or cannot be started.
    pub fn restart(&mut self, place: usize) -> Result<()> {
        self.restart_with(place, &[])
    }

    /// As [`Self::restart`], with these settings above those of the cluster, until the next start.
    ///
    /// # Errors
    /// As there.
    pub fn restart_with(&mut self, place: usize, settings: &Settings) -> Result<()> {
        let settings = [&self.settings, settings].concat();
        let network = self.ground.network.as_ref();
        self.nodes[place].start(&self.binary, &settings, network)
    }

    /// The network that the nodes have to themselves, one host for each in the order of [`Self::nodes`].
    ///
    /// # Errors
    /// When they share this machine's.
    pub fn network(&mut self) -> Result<&mut Network> {
        self.ground.network.as_mut().context("the nodes have no network of their own")
    }

    /// The nodes that run.
    pub fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.process.is_some())
    }

    /// Clients of all nodes that run.
    ///
    /// # Errors
    /// When an HTTP client cannot be set up.
    pub fn clients(&self) -> Result<Vec<Client>> {
        self.running().map(Node::client).collect()
    }

    /// The end of each node's log, for people who have to find out what went wrong.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            let log = std::fs::read_to_string(node.log()).unwrap_or_default();
            let lines: Vec<_> = log.lines().collect();
            let shown = lines.len().saturating_sub(LOG_LINES_SHOWN);
            text += &format!("--- node {} ---\n{}\n", node.number, lines[shown..].join("\n"));
        }
        text
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            if let Some(mut process) = node.process.take() {
                // It may be paused or gone; a kill does for both, and there is nobody left to tell if it fails.
                let _ = process.kill();
                let _ = process.wait();
            }
        }
    }
}

/// Runs a scenario on a new cluster of that many nodes, and shows what the nodes logged when it fails.
///
/// # Errors
/// Those of the scenario.
pub async fn scenario(
    nodes: usize,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    scenario_with(nodes, &[], run).await
}

/// As [`scenario`], with these settings above the defaults.
///
/// # Errors
/// Those of the scenario.
pub async fn scenario_with(
    nodes: usize,
    settings: &Settings,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    play(Cluster::start_with(nodes, settings).await?, run).await
}

/// As [`scenario`], with each node on a host of its own in a network that can be cut.
///
/// # Errors
/// Those of the scenario, and of [`Network::new`].
pub async fn scenario_apart(
    nodes: usize,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let ground = Ground { network: Some(Network::new(nodes)?), ..Ground::default() };
    scenario_on(ground, nodes, &[], run).await
}

/// As [`scenario_with`], on other ground.
///
/// # Errors
/// Those of the scenario.
pub async fn scenario_on(
    ground: Ground,
    nodes: usize,
    settings: &Settings,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    play(Cluster::start_on(ground, nodes, settings).await?, run).await
}

#[allow(clippy::print_stderr, reason = "whoever reads the failed test needs the logs")]
async fn play(
    mut cluster: Cluster,
    run: impl AsyncFnOnce(&mut Cluster) -> Result<()>,
) -> Result<()> {
    let result = run(&mut cluster).await;
    if result.is_err() {
        eprintln!("{}", cluster.logs());
    }
    result
}

/// The binary under test: `REELRAFT_BIN`, which `make test` sets after building it.
fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("REELRAFT_BIN")
        .context("REELRAFT_BIN is not set: run the tests with `make test` or `make chaos`")?;
    let path = PathBuf::from(path);
    ensure!(path.is_file(), "REELRAFT_BIN={} is not a file", path.display());
    Ok(path)
}

/// Ports that nobody listens on: all of them are held at once, so that they differ.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<_> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<Result<_, _>>()
        .context("find free ports")?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
