//! One node, from its first line to its last: what is started, in which order, and why.
//!
//! A node is useful before it belongs to a cluster: it says who it is, that it is not ready, and can be made a member. What
//! exists only for members is one value, [`Member`], which appears once (at the start, or when `cluster init` adopts the
//! node) and stays until the end.
//!
//! # Invariants
//!
//! - There is one way to start. After `kill -9`, after an orderly stop, after a panic: the same steps, and whatever the
//!   last process left behind is dealt with in them.
//! - What others wait for is stopped before what it needs: people, then jobs, then leadership, then consensus, then disks.

mod assignment;
mod duties;
mod member;
mod registration;
mod uploads;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, ensure};
use cluster::tables::nodes::Role;
use proto::blocks::blocks_server::BlocksServer;
use proto::cluster::IdentifyReply;
use proto::cluster::admin_server::AdminServer;
use proto::cluster::cluster_server::ClusterServer;
use proto::raft::raft_server::RaftServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use member::Member;

use crate::backend::NodeBackend;
use crate::config::Config;
use crate::identity::{DataDir, Identity, random_id};
use crate::rpc::admin::AdminService;
use crate::rpc::blocks::{BlocksService, Budgeted};
use crate::rpc::cluster::ClusterService;
use crate::rpc::late::Late;
use crate::{VERSION, metrics, raft, rpc};

/// How long people's requests may take to end when the node stops. Shorter than a long upload or download: these go on at
/// another node.
const DRAIN: Duration = Duration::from_secs(5);

/// An orderly stop takes no longer; what is left is cut, which is no worse than `kill -9`.
const STOP_MAX: Duration = Duration::from_secs(15);

/// How long tasks that nobody waits for may take to notice that the runtime ends.
pub const LEFTOVERS_MAX: Duration = Duration::from_secs(1);

/// A process that is or will be a node of a cluster.
pub struct Daemon {
    config: Config,
    data_dir: DataDir,
    /// Where people reach this node; empty without the role for it.
    http_url: String,
    /// Where nodes reach it, `host:port`.
    rpc_addr: String,
    /// Random, new with each start of the process.
    incarnation: [u8; 16],
    services: MemberServices,
    /// Who this node is, from the moment that its directory says so.
    identity: OnceLock<Identity>,
    /// What it has as a member; opening the databases takes a moment.
    member: OnceLock<Arc<Member>>,
    /// One adoption at a time.
    becoming: tokio::sync::Mutex<()>,
    /// Cancelled when the node begins to stop.
    stopping: CancellationToken,
}

/// What other members may ask for; all of it answers `UNAVAILABLE` until this node is one.
#[derive(Default)]
struct MemberServices {
    raft: Late<RaftServer<raft::Server>>,
    cluster: Late<ClusterServer<ClusterService>>,
    blocks: Late<Budgeted<BlocksServer<BlocksService>>>,
}

/// Runs a node until `shutdown`.
///
/// # Errors
/// When it cannot start.
pub async fn serve(
    config: Config,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    // 1. The directory is ours, and says who we are. Before any port is open, so that a second process on the same
    //    directory disturbs nothing.
    let data_dir = DataDir::open(&config.data_dir)?;
    let identity = data_dir.identity()?;
    metrics::install()?;

    // 2. Both ports, so that an address in use is an error and not a node that is half there.
    let rpc_listener = rpc::bind(config.rpc.listen).await?;
    let http_listener =
        if config.roles.contains(&Role::Gateway) {
            let listen = config.http.listen;
            let listener = TcpListener::bind(listen).await;
            Some(listener.with_context(|| {
                format!("listen for HTTP on {listen} (--http-listen, http.listen)")
            })?)
        } else {
            None
        };

    // 3. What other nodes and operators may ask. First, because two members that start at the same time need each other.
    let daemon = Daemon::new(config, data_dir, identity, &rpc_listener, http_listener.as_ref())?;
    let rpc_stop = CancellationToken::new();
    let rpc_server =
        tokio::spawn(rpc::serve(rpc_listener, daemon.routes(), rpc_stop.clone().cancelled_owned()));
    tracing::info!(http = daemon.http_url, rpc = daemon.rpc_addr, version = VERSION, "started");

    // 4. A member again, or nothing yet.
    match daemon.identity.get() {
        Some(_) => daemon.become_member().await?,
        None => {
            tracing::info!(
                "this node belongs to no cluster yet: `reelraft cluster init` makes one"
            );
        }
    }

    // 5. People. They are told "not ready" until the catalog is current.
    let backend = Arc::new(NodeBackend::new(daemon.clone()));
    let http_server = http_listener.map(|listener| {
        let stop = daemon.stopping.clone().cancelled_owned();
        tokio::spawn(gateway::serve(listener, backend, daemon.gateway_settings(), stop))
    });
    let upkeep = tokio::spawn(keep_up(daemon.stopping.clone()));

    // 6. From here on until somebody wants it to end. What cannot go on (consensus without its disk) aborts the process.
    shutdown.await;
    tracing::info!("stopping");

    // 7. The end, in the order in which the parts need each other, and all of it within a deadline.
    let ended =
        tokio::time::timeout(STOP_MAX, daemon.stop(http_server, rpc_stop, rpc_server)).await;
    upkeep.abort();
    if ended.is_err() {
        tracing::warn!("not everything ended within {STOP_MAX:?}; the rest is cut");
    }
    tracing::info!("stopped");
    Ok(())
}

impl Daemon {
    fn new(
        config: Config,
        data_dir: DataDir,
        identity: Option<Identity>,
        rpc: &TcpListener,
        http: Option<&TcpListener>,
    ) -> anyhow::Result<Arc<Self>> {
        let rpc_bound = rpc.local_addr().context("read the RPC address")?;
        let rpc_addr = config.rpc.advertise.clone().unwrap_or_else(|| rpc_bound.to_string());
        let http_url = match (http, &config.http.url) {
            (None, _) => String::new(),
            (Some(_), Some(url)) => url.clone(),
            (Some(http), None) => url_of(http.local_addr().context("read the HTTP address")?),
        };
        Ok(Arc::new(Self {
            config,
            data_dir,
            http_url,
            rpc_addr,
            incarnation: random_id(),
            services: MemberServices::default(),
            identity: identity.map(OnceLock::from).unwrap_or_default(),
            member: OnceLock::new(),
            becoming: tokio::sync::Mutex::new(()),
            stopping: CancellationToken::new(),
        }))
    }

    /// What there is for members, once this node is one.
    #[must_use]
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.get().cloned()
    }

    /// Whether the node is on its way out.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Where nodes reach this one, `host:port`.
    #[must_use]
    pub fn rpc_addr(&self) -> String {
        self.rpc_addr.clone()
    }

    /// Random, new with each start of the process.
    #[must_use]
    pub fn incarnation(&self) -> [u8; 16] {
        self.incarnation
    }

    /// Who this node is, for those who ask.
    #[must_use]
    pub fn identify(&self) -> IdentifyReply {
        let about = IdentifyReply {
            name: self.config.name.clone(),
            version: VERSION.to_owned(),
            rpc_addr: self.rpc_addr.clone(),
            http_url: self.http_url.clone(),
            ..IdentifyReply::default()
        };
        match self.identity.get() {
            Some(identity) => IdentifyReply {
                cluster_id: identity.cluster_id.to_vec().into(),
                node_id: identity.node_id.0,
                members: identity.members.clone(),
                ..about
            },
            None => about,
        }
    }

    /// Makes this node a member for ever. The same again is no error.
    ///
    /// # Errors
    /// When it is somebody else already, when it is stopping, or when its databases cannot be created.
    pub async fn adopt(self: &Arc<Self>, identity: Identity) -> anyhow::Result<()> {
        {
            let _becoming = self.becoming.lock().await;
            ensure!(!self.is_stopping(), "this node is stopping");
            self.data_dir.adopt(&identity)?;
            // A repeated adoption changes nothing, here as on disk.
            self.identity.get_or_init(|| identity);
        }
        self.become_member().await
    }

    /// Opens what a member has and starts what it does, once.
    async fn become_member(self: &Arc<Self>) -> anyhow::Result<()> {
        let _becoming = self.becoming.lock().await;
        let identity = self.identity.get().context("know who this node is")?;
        if self.member.get().is_some() {
            return Ok(());
        }
        ensure!(!self.is_stopping(), "this node is stopping");
        tracing::info!(
            node = %identity.node_id,
            cluster = hex::encode(identity.cluster_id),
            "this node is a member"
        );
        let opened = Arc::new(Member::open(self, identity.clone()).await?);
        let member = self.member.get_or_init(|| opened);
        member.provide(self);
        member.start_loops(self, Arc::new(NodeBackend::new(self.clone())))
    }

    fn routes(self: &Arc<Self>) -> Routes {
        Routes::new(AdminServer::new(AdminService::new(self.clone())))
            .add_service(self.services.raft.clone())
            .add_service(self.services.cluster.clone())
            .add_service(self.services.blocks.clone())
    }

    fn gateway_settings(&self) -> gateway::Settings {
        gateway::Settings {
            upload_bytes_max: self.config.http.upload_bytes_max,
            anonymous_upload: self.config.http.anonymous_upload,
            keep_source: self.config.http.keep_source,
            drain: DRAIN,
            ..gateway::Settings::default()
        }
    }

    async fn stop(
        &self,
        http: Option<JoinHandle<std::io::Result<()>>>,
        rpc_stop: CancellationToken,
        rpc: JoinHandle<Result<(), tonic::transport::Error>>,
    ) {
        // Adoption would start what is stopped here.
        let _becoming = self.becoming.lock().await;
        // Others see it in the next ping, load balancers in `readyz`, and HTTP stops accepting.
        self.stopping.cancel();
        let http = async {
            if let Some(http) = http {
                note("HTTP", http.await);
            }
        };
        match self.member.get() {
            Some(member) => {
                tokio::join!(http, member.stop_working());
                member.stop_deciding().await;
                rpc_stop.cancel();
                note("RPC", rpc.await);
                member.close().await;
            }
            None => {
                http.await;
                rpc_stop.cancel();
                note("RPC", rpc.await);
            }
        }
        self.data_dir.close();
    }
}

/// The name of this machine stands for "all addresses".
fn url_of(bound: SocketAddr) -> String {
    if bound.ip().is_unspecified() {
        format!("http://{}:{}", crate::config::machine_name(), bound.port())
    } else {
        format!("http://{bound}")
    }
}

fn note<E: std::fmt::Display>(what: &str, ended: Result<Result<(), E>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "{what} ended with an error"),
        Err(error) => tracing::warn!(%error, "{what} did not end by itself"),
    }
}

async fn keep_up(stop: CancellationToken) {
    while stop.run_until_cancelled(tokio::time::sleep(metrics::UPKEEP)).await.is_some() {
        metrics::upkeep();
    }
}
