//! `reelraft dev`: a cluster of real node processes on this machine.
//!
//! Each node is a child process running `reelraft serve` with a configuration file of its own, nothing is simulated: what
//! works here works on three machines. The supervisor spawns, founds the cluster the first time, lets new nodes join it,
//! waits until all are in service, and stops everything in order.
//!
//! A node that dies stays dead, so that one can see what the others do. Start it again by hand with
//! `reelraft serve --config DATA/node-N/node.toml`; the supervisor stops only what it started itself. Nodes die with their
//! supervisor, however it ends (`--stop-with-parent`).

mod child;
mod layout;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cluster::lifecycle::seats;
use futures::future::try_join_all;
use gateway::api;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use self::child::{Child, Stopped};
use self::layout::Layout;
use super::output;
use super::shutdown::Shutdown;
use crate::rpc::admin::AdminApi;
use crate::run::removal;

/// A local cluster of real processes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// How many nodes; what the data holds, or else 3
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(NODES_MAX)))]
    nodes: Option<u16>,
    /// Where the nodes keep their data, one directory each
    #[arg(long, value_name = "DIR", default_value = "./data/dev")]
    data: PathBuf,
    /// HTTP port of the first node; the others take the ports after it
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    http_port: u16,
    /// RPC port of the first node; the others take the ports after it
    #[arg(long, value_name = "PORT", default_value_t = 9080)]
    rpc_port: u16,
}

/// More tell nothing new, and share one machine.
const NODES_MAX: u16 = 9;

/// From spawning to answering: opening databases that were killed replays their logs.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// From answering to being in service: an election, admission, catching up, a layout that names all nodes.
const READY_MAX: Duration = Duration::from_secs(90);

/// Between two looks at a node that is not ready yet. Local and cheap.
const POLL: Duration = Duration::from_millis(100);

/// A node answers such a question at once or is not there yet.
const ASK_MAX: Duration = Duration::from_secs(2);

/// How long the token is good for with which new nodes join.
const TOKEN_LIFE: Duration = Duration::from_secs(600);

/// From SIGTERM to SIGKILL; longer than a node's own deadline for stopping.
const STOP_MAX: Duration = Duration::from_secs(20);

/// Runs the cluster until somebody wants it to stop.
///
/// # Errors
/// When it cannot be started, or when all its nodes are gone.
pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let mut shutdown = Shutdown::listen()?;

    // 1. What is there, and whether it fits what was asked for. Nothing has been changed up to here.
    let layout = Layout::plan(&args.data, args.nodes, args.http_port, args.rpc_port)?;
    layout.check_ports()?;
    layout.write()?;
    if layout.nodes.len() < 3 {
        output::note(match layout.nodes.len() {
            1 => "one node keeps one copy of everything: when its disk is lost, so are the videos",
            _ => "two nodes keep two copies of everything, and uploads stop while either is away",
        });
    }

    // 2. The processes.
    let mut children = Vec::new();
    for node in &layout.nodes {
        match Child::spawn(node) {
            Ok(child) => children.push(child),
            Err(error) => {
                stop(&mut children).await;
                return Err(error);
            }
        }
    }

    // 3. From processes to a cluster in service.
    let started = tokio::select! {
        result = bring_up(&layout, &mut children) => result,
        () = shutdown.requested() => {
            stop(&mut children).await;
            return Ok(());
        }
    };
    if let Err(error) = started {
        stop(&mut children).await;
        return Err(error);
    }
    let mut urls = layout.nodes.iter().map(layout::Node::http_url);
    output::line(&format!("ready {}", urls.next().unwrap_or_default()));
    for url in urls {
        output::line(&format!("also  {url}"));
    }

    // 4. Watch, until somebody wants it to stop or nothing is left to watch.
    let result = loop {
        tokio::select! {
            () = shutdown.requested() => break Ok(()),
            (number, status) = child::next_exit(&mut children) => {
                output::note(&format!(
                    "node-{number} has ended ({status}); start it again with: reelraft serve --config {}",
                    layout.nodes[number - 1].config_file().display()
                ));
                if children.iter().all(|child| child.exited().is_some()) {
                    break Err(anyhow::anyhow!("all nodes have ended"));
                }
            }
        }
    };

    // 5. Stop: all at once, so that nobody elects a leader that is about to leave as well.
    stop(&mut children).await;
    result
}

/// Waits until all nodes answer, founds the cluster if there is none, lets new nodes join, waits until all are in service.
async fn bring_up(layout: &Layout, children: &mut [Child]) -> anyhow::Result<()> {
    let deadline = Instant::now() + ANSWER_MAX;
    let mut members = Vec::new();
    let mut new = Vec::new();
    for node in &layout.nodes {
        let what = format!("node-{} to answer", node.number);
        let belongs = poll(children, deadline, &what, || belongs(node)).await?;
        if belongs { &mut members } else { &mut new }.push(node);
    }

    let deadline = Instant::now() + READY_MAX;
    if members.is_empty() {
        let founder = new.remove(0);
        AdminApi::connect(&founder.dir).await?.init().await.context("found a cluster")?;
        members.push(founder);
    }
    if !new.is_empty() {
        let what = "a token for the new nodes";
        let member = members[0];
        let uses = u32::try_from(new.len()).unwrap_or(u32::MAX);
        let token = poll(children, deadline, what, || async {
            AdminApi::connect(&member.dir).await?.create_token(&[], TOKEN_LIFE, uses).await
        })
        .await?
        .token;
        join(&new, &token, &member.rpc, children, deadline).await?;
    }

    let http =
        reqwest::Client::builder().timeout(ASK_MAX).build().context("set up the HTTP client")?;
    for node in &layout.nodes {
        let what = format!("node-{} to be in service", node.number);
        poll(children, deadline, &what, || in_service(&http, node)).await?;
    }
    let what = "all nodes to have their part in the cluster";
    poll(children, deadline, what, || complete(&http, layout)).await
}

/// Whether a node that runs is a member.
async fn belongs(node: &layout::Node) -> anyhow::Result<bool> {
    let about = timeout(ASK_MAX, async { AdminApi::connect(&node.dir).await?.identify().await });
    Ok(about.await.context("no answer in time")??.node_id != 0)
}

/// Lets the nodes join. All open their databases at once; they ask one after the other, so that their ids are in the order
/// of their numbers.
async fn join(
    nodes: &[&layout::Node],
    token: &str,
    to: &str,
    children: &mut [Child],
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut joining = Vec::new();
    for node in nodes {
        let mut asked = Box::pin(async {
            let joined = AdminApi::connect(&node.dir).await?.join(token, to).await;
            joined.with_context(|| format!("let node-{} join", node.number))
        });
        let what = format!("node-{} to be admitted", node.number);
        let admitted = poll(children, deadline, &what, || async {
            ensure!(belongs(node).await?, "it has no id yet");
            Ok(())
        });
        tokio::select! {
            joined = &mut asked => drop(joined?),
            admitted = admitted => {
                admitted?;
                joining.push(asked);
            }
        }
    }
    try_join_all(joining).await?;
    Ok(())
}

async fn in_service(http: &reqwest::Client, node: &layout::Node) -> anyhow::Result<()> {
    let url = format!("{}/readyz", node.http_url());
    let answer = http.get(&url).send().await.context("ask whether it is in service")?;
    let status = answer.status();
    let text = answer.text().await.context("read the answer")?;
    // A node that was drained is as much in service as it will be.
    let drained = text.contains(removal::HANDED_OVER);
    ensure!(status.is_success() || drained, "{url} answers {status}: {text}");
    Ok(())
}

/// Whether each node holds what it should hold, and as many vote as should.
async fn complete(http: &reqwest::Client, layout: &Layout) -> anyhow::Result<()> {
    let url = format!("{}/api/v1/cluster", layout.nodes[0].http_url());
    let answer = http.get(&url).send().await.context("ask how the cluster is")?;
    let cluster: api::Cluster = answer.json().await.context("read the answer")?;
    let with = |status| cluster.nodes.iter().filter(|node| node.status == status).count();
    // What an operator asked for before the cluster was stopped still holds.
    let leaving = with(api::NodeStatus::Draining);
    let here = with(api::NodeStatus::Up) + with(api::NodeStatus::Maintenance) + leaving;
    let nodes = layout.nodes.len();
    ensure!(here == nodes, "{here} of {nodes} nodes have their part in it");
    let seats = seats(nodes - leaving.min(nodes));
    ensure!(cluster.voters.len() == seats, "{} of {seats} voters", cluster.voters.len());
    Ok(())
}

/// Asks again and again until the answer is good, a child dies or time is up.
async fn poll<T, F, Fut>(
    children: &mut [Child],
    deadline: Instant,
    what: &str,
    mut ask: F,
) -> anyhow::Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = anyhow::Result<T>>,
{
    let mut last = None;
    let asked = timeout_at(deadline, async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => last = Some(error),
            }
            sleep(POLL).await;
        }
    });
    tokio::select! {
        answer = asked => match (answer, last) {
            (Ok(answer), _) => Ok(answer),
            (Err(_), Some(error)) => Err(error.context(format!("waited in vain for {what}"))),
            (Err(_), None) => bail!("waited in vain for {what}"),
        },
        (number, status) = child::next_exit(children) => {
            bail!("node-{number} ended while the cluster was starting ({status}); its last lines above say why")
        }
    }
}

async fn stop(children: &mut [Child]) {
    let deadline = Instant::now() + STOP_MAX;
    for child in children.iter() {
        child.terminate();
    }
    for child in children {
        if child.wait(deadline).await == Stopped::Killed {
            output::note(&format!(
                "node-{} did not stop within {STOP_MAX:?} and was killed",
                child.number()
            ));
        }
    }
}
