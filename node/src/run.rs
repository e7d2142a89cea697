//! One node, from its first line to its last: what is started, in which order, and why.
//!
//! A node is useful before it belongs to a cluster: its operator can have it found one or join one, and people are told that
//! it is not ready. What exists only for members is one value, [`Member`], which appears once (at the start, or when the node
//! becomes a member) and stays until the end.
//!
//! # Invariants
//!
//! - There is one way to start. After `kill -9`, after an orderly stop, after a panic: the same steps, and whatever the
//!   last process left behind is dealt with in them.
//! - What others wait for is stopped before what it needs: people, then jobs, then leadership, then consensus, then disks.

mod assignment;
mod census;
mod copies;
mod duties;
mod garbage;
mod lifecycle;
mod member;
mod registration;
pub mod removal;
mod renewal;
mod roster;
mod upgrade;
mod uploads;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cluster::features;
use cluster::ids::NodeId;
use cluster::tables::nodes::{NodeRow, Role};
use gateway::upload::UploadsUnderWay;
use proto::admin::IdentifyReply;
use proto::admin::admin_server::AdminServer;
use proto::blocks::blocks_server::BlocksServer;
use proto::cluster::cluster_server::ClusterServer;
use proto::join::join_server::JoinServer;
use proto::raft::raft_server::RaftServer;
use tokio::net::TcpListener;
use tokio::sync::{MutexGuard, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

pub use assignment::{Change, NodePlan, Plan, Situation, plan};
pub use member::Member;

use crate::backend::NodeBackend;
use crate::config::Config;
use crate::credentials::TlsDir;
use crate::files;
use crate::identity::{DataDir, Identity, random, removed_text};
use crate::rpc::accept::Presence;
use crate::rpc::admin::AdminService;
use crate::rpc::blocks::{BlocksService, Budgeted};
use crate::rpc::caller::Roster;
use crate::rpc::cluster::ClusterService;
use crate::rpc::join::JoinService;
use crate::rpc::late::Late;
use crate::rpc::members_only::MembersOnly;
use crate::rpc::operations::OperationsService;
use crate::rpc::repair::RepairService;
use crate::rpc::tls::Tls;
use crate::{VERSION, founding, metrics, raft, rpc};

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
    /// Bytes that this node offers for blocks.
    capacity_bytes: u64,
    /// What people upload through this node.
    uploads: UploadsUnderWay,
    services: MemberServices,
    /// Which nodes' word no longer counts.
    roster: Roster,
    /// How this node listens to others, once it is a member.
    presence: watch::Sender<Option<Presence>>,
    /// Who this node is, from the moment that its directory says so.
    identity: OnceLock<Identity>,
    /// What it has as a member; opening the databases takes a moment.
    member: OnceLock<Arc<Member>>,
    /// A node becomes a member once, and in one way.
    becoming: tokio::sync::Mutex<()>,
    /// Cancelled when the node begins to stop.
    stopping: CancellationToken,
    /// Cancelled when the cluster has removed this node.
    removed: CancellationToken,
}

/// What others may ask for, once this node is a member; before, nobody gets as far as asking ([`rpc::accept`]).
#[derive(Default)]
struct MemberServices {
    join: Late<JoinServer<JoinService>>,
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
    data_dir.refuse_removed()?;
    let identity = data_dir.identity()?;
    metrics::install()?;

    // 2. The socket and both ports, so that an address in use is an error and not a node that is half there.
    let admin_listener = rpc::local::bind(data_dir.path())?;
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
    let rpc_server = {
        let (presence, stop) = (daemon.presence.subscribe(), rpc_stop.clone());
        tokio::spawn(rpc::serve(rpc_listener, presence, daemon.rpc_services(), stop))
    };
    let admin_server = {
        let routes = Routes::new(AdminServer::new(AdminService::new(daemon.clone())))
            .add_service(OperationsService::server(daemon.clone()))
            .add_service(RepairService::server(daemon.clone()));
        tokio::spawn(rpc::local::serve(admin_listener, routes, daemon.stopping.clone()))
    };
    tracing::info!(http = daemon.http_url, rpc = daemon.rpc_addr, version = VERSION, "started");

    // 4. A member again, or nothing yet.
    match daemon.identity.get() {
        Some(identity) => {
            let member = daemon.become_member(|| Ok(identity.clone())).await?;
            tokio::spawn(finish_founding(daemon.clone(), member));
        }
        None => {
            tracing::info!("{}", founding::NO_CLUSTER);
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
    tokio::select! {
        () = shutdown => {}
        () = daemon.removed.cancelled() => daemon.mark_removed(),
    }
    tracing::info!("stopping");

    // 7. The end, in the order in which the parts need each other, and all of it within a deadline.
    let ended =
        tokio::time::timeout(STOP_MAX, daemon.stop(http_server, rpc_stop, rpc_server)).await;
    upkeep.abort();
    admin_server.abort();
    if ended.is_err() {
        tracing::warn!("not everything ended within {STOP_MAX:?}; the rest is cut");
    }
    tracing::info!("stopped");
    match daemon.identity() {
        Some(identity) if daemon.removed.is_cancelled() => bail!("{}", removed_text(&identity)),
        _ => Ok(()),
    }
}

/// Ends what an earlier process began. Whoever asks for it again meanwhile does no harm.
async fn finish_founding(daemon: Arc<Daemon>, member: Arc<Member>) {
    let stopping = daemon.stopping.clone();
    let finish = founding::finish(&daemon, &member);
    if let Some(Err(error)) = stopping.run_until_cancelled(finish).await {
        tracing::error!(
            error = format!("{error:#}"),
            "this cluster is not born yet: `reelraft cluster init` tries again"
        );
    }
}

/// The right to make this node a member, for one at a time.
pub struct Becoming<'a> {
    daemon: &'a Arc<Daemon>,
    _one: MutexGuard<'a, ()>,
}

impl Becoming<'_> {
    /// Makes this node a member, with the identity that it has or else the one that `prepare` gives it, and starts what a
    /// member does.
    ///
    /// # Errors
    /// When it cannot be prepared, is stopping, or when its databases cannot be opened.
    pub async fn member(
        &self,
        prepare: impl FnOnce() -> anyhow::Result<Identity>,
    ) -> anyhow::Result<Arc<Member>> {
        self.daemon.be_member(prepare).await
    }
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
        let rpc_addr = config.rpc.advertise.clone().unwrap_or_else(|| host_of(rpc_bound));
        let http_url = match (http, &config.http.url) {
            (None, _) => String::new(),
            (Some(_), Some(url)) => url.clone(),
            (Some(http), None) => url_of(http.local_addr().context("read the HTTP address")?),
        };
        let capacity_bytes = match config.capacity_bytes {
            Some(bytes) => bytes,
            None => {
                let space = files::space(data_dir.path())
                    .context("ask for the size of the file system of the data directory")?;
                space.total_bytes
            }
        };
        Ok(Arc::new(Self {
            config,
            data_dir,
            http_url,
            rpc_addr,
            incarnation: random(),
            capacity_bytes,
            uploads: UploadsUnderWay::default(),
            services: MemberServices::default(),
            roster: Roster::default(),
            presence: watch::Sender::new(None),
            identity: identity.map(OnceLock::from).unwrap_or_default(),
            member: OnceLock::new(),
            becoming: tokio::sync::Mutex::new(()),
            stopping: CancellationToken::new(),
            removed: CancellationToken::new(),
        }))
    }

    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Who this node is, if it is anybody.
    #[must_use]
    pub fn identity(&self) -> Option<Identity> {
        self.identity.get().cloned()
    }

    /// What this node proves itself with.
    #[must_use]
    pub fn tls_dir(&self) -> TlsDir {
        self.data_dir.tls()
    }

    /// What there is for members, once this node is one.
    #[must_use]
    pub fn member(&self) -> Option<Arc<Member>> {
        self.member.get().cloned()
    }

    /// The tally of what people upload through this node.
    #[must_use]
    pub fn uploads(&self) -> &UploadsUnderWay {
        &self.uploads
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
        let identity = self.identity.get();
        IdentifyReply {
            name: self.config.name.clone(),
            version: VERSION.to_owned(),
            rpc_addr: self.rpc_addr.clone(),
            http_url: self.http_url.clone(),
            cluster_id: identity
                .map(|identity| identity.cluster_id.to_vec())
                .unwrap_or_default()
                .into(),
            node_id: identity.map_or(0, |identity| identity.node_id.0),
        }
    }

    /// What this node says of itself, as `id`.
    #[must_use]
    pub fn describe(&self, id: NodeId) -> NodeRow {
        NodeRow {
            id,
            name: self.config.name.clone(),
            zone: self.config.zone.clone(),
            roles: self.config.roles.clone(),
            http_url: self.http_url.clone(),
            rpc_addr: self.rpc_addr.clone(),
            version: VERSION.to_owned(),
            capacity_bytes: self.capacity_bytes,
            feature_level: features::NEWEST,
        }
    }

    /// Waits until nobody else makes this node a member.
    pub async fn becoming(self: &Arc<Self>) -> Becoming<'_> {
        Becoming { daemon: self, _one: self.becoming.lock().await }
    }

    /// As [`Becoming::member`], waiting for the right to it.
    ///
    /// # Errors
    /// As there.
    pub async fn become_member(
        self: &Arc<Self>,
        prepare: impl FnOnce() -> anyhow::Result<Identity>,
    ) -> anyhow::Result<Arc<Member>> {
        self.becoming().await.member(prepare).await
    }

    /// Opens what a member has and starts what it does, once.
    async fn be_member(
        self: &Arc<Self>,
        prepare: impl FnOnce() -> anyhow::Result<Identity>,
    ) -> anyhow::Result<Arc<Member>> {
        ensure!(!self.is_stopping(), "this node is stopping");
        let identity = match self.identity.get() {
            Some(identity) => identity,
            None => {
                let identity = prepare()?;
                self.data_dir.adopt(&identity)?;
                self.identity.get_or_init(|| identity)
            }
        };
        if let Some(member) = self.member.get() {
            return Ok(member.clone());
        }
        tracing::info!(
            node = %identity.node_id,
            cluster = hex::encode(identity.cluster_id),
            "this node is a member"
        );
        let credentials = self.tls_dir().load()?;
        ensure!(
            (credentials.cluster_id(), credentials.node_id())
                == (identity.cluster_id, identity.node_id),
            "{} has the certificate of node {} of cluster {}, and not this node's: restore the directory from a backup, or move the \
             data directory away and let the node join as a new one",
            self.tls_dir().path().display(),
            credentials.node_id(),
            hex::encode(credentials.cluster_id())
        );
        let tls = Tls::new(&credentials)?;
        let opened = Arc::new(Member::open(self, identity.clone(), tls.clone()).await?);
        let member = self.member.get_or_init(|| opened);
        member.provide(self);
        let consensus = member.consensus().threads();
        let roster = self.roster.clone();
        self.presence.send_replace(Some(Presence { tls, consensus, roster }));
        member.start_loops(self, Arc::new(NodeBackend::new(self.clone())));
        Ok(member.clone())
    }

    /// Writes down that this node's time is over.
    fn mark_removed(&self) {
        let Some(identity) = self.identity.get() else {
            return;
        };
        tracing::error!("{}", removed_text(identity));
        if let Err(error) = self.data_dir.mark_removed(identity) {
            tracing::error!(error = format!("{error:#}"), "write down that this node was removed");
        }
    }

    fn rpc_services(&self) -> rpc::Services {
        let roster = &self.roster;
        let raft = MembersOnly::new(self.services.raft.clone(), roster.clone());
        rpc::Services {
            consensus: Routes::new(raft.clone()),
            // Snapshots come here: they are large and can wait.
            calls: Routes::new(self.services.join.clone())
                .add_service(raft)
                .add_service(MembersOnly::new(self.services.cluster.clone(), roster.clone()))
                .add_service(MembersOnly::new(self.services.blocks.clone(), roster.clone())),
        }
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
        // Others see it in the next ping, load balancers in `readyz`, and HTTP stops accepting.
        self.stopping.cancel();
        // Becoming a member would start what is stopped here.
        let _becoming = self.becoming.lock().await;
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
        rpc::local::unbind(self.data_dir.path());
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

/// The same for nodes, without the scheme.
fn host_of(bound: SocketAddr) -> String {
    if bound.ip().is_unspecified() {
        format!("{}:{}", crate::config::machine_name(), bound.port())
    } else {
        bound.to_string()
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
