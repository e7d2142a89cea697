//! What a process has once it is a member of a cluster, and the order in which that ends.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use cluster::catalog;
use cluster::ids::{NodeId, PublicKeyHash};
use cluster::placement::Layout;
use cluster::tables::nodes::Role;
use cluster::view::ViewError;
use gateway::backend::{Backend, NodeStatus};
use gateway::upload::UploadsUnderWay;
use rustls::pki_types::CertificateDer;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::census::LastCount;
use super::copies::Copies;
use super::duties::Duties;
use super::{
    Daemon, assignment, census, garbage, lifecycle, registration, removal, renewal, roster,
    upgrade, uploads,
};
use crate::authority::{Authority, SigningRequest};
use crate::ballast::{Ballast, BallastState};
use crate::config::Config;
use crate::content::release::{Confirming, Moments, Release, ReleaseParts};
use crate::content::{Content, ContentParts, ContentSettings, ScrubSettings};
use crate::files;
use crate::identity::Identity;
use crate::observe::{Observer, Stats};
use crate::raft::{self, Consensus, RaftRole, RaftSettings, TransferError};
use crate::rpc::blocks::{self, BlocksClient};
use crate::rpc::cluster::ClusterService;
use crate::rpc::envelope::LocalNode;
use crate::rpc::join::JoinService;
use crate::rpc::peers::Peers;
use crate::rpc::tls::Tls;
use crate::store::{BlockStore, StoreCondition, UnavailableStore, VolumeBlockStore, VolumeOptions};
use crate::watermark::{self, DiskPressure};
use crate::{media, milliseconds};

/// How long the loops get to end. They wait for nothing longer than a proposal, and that gives up by itself.
const LOOPS_MAX: Duration = Duration::from_secs(5);

/// How long the next leader may take. It needs one round of messages; when all nodes stop together there is nobody to wait for.
const HAND_OVER_MAX: Duration = Duration::from_secs(1);

/// How long a node waits for what it lacks before it says that it is still catching up, and before it asks again.
const CATCH_UP_LOOK: Duration = Duration::from_secs(5);
const CATCH_UP_PAUSE: Duration = Duration::from_millis(100);

/// Jobs at a time that mostly wait for bytes of an upload, for each that keeps a processor busy: hardly any work, and the
/// first thing that a new upload waits for.
const COPY_SLOTS_PER_SLOT: usize = 2;

/// What the node remembers of its scrubs: beside the blocks, because it is about these.
const SCRUB_RECORD: &str = "scrub.json";

/// A member of a cluster: consensus, blocks, observations and loops.
pub struct Member {
    identity: Identity,
    tls: Arc<Tls>,
    peers: Peers,
    /// How long the certificates that this node signs are good for.
    certificate_life: Duration,
    consensus: Consensus,
    store: Arc<dyn BlockStore>,
    content: Content,
    release: Release,
    observer: Arc<Observer>,
    duties: Arc<Duties>,
    /// Of the copies of all blocks.
    last_count: LastCount,
    /// Bytes that this node offers for blocks.
    capacity_bytes: u64,
    /// What people upload through it.
    uploads: UploadsUnderWay,
    ballast: Arc<Ballast>,
    /// Whether the catalog has caught up with the cluster since this process started.
    current: AtomicBool,
    /// Stops doing jobs.
    working: CancellationToken,
    /// Stops everything else that runs by itself.
    looping: CancellationToken,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    jobs: Option<JoinHandle<()>>,
    loops: Vec<(&'static str, JoinHandle<()>)>,
}

impl Member {
    /// Opens the databases and starts consensus. Nothing is served yet and no loop runs.
    ///
    /// # Errors
    /// When a database is damaged or in use, or the settings contradict each other.
    pub(super) async fn open(
        daemon: &Daemon,
        identity: Identity,
        tls: Arc<Tls>,
    ) -> anyhow::Result<Self> {
        let local = LocalNode { cluster_id: identity.cluster_id, node_id: identity.node_id };
        let peers = Peers::new(local, Arc::clone(&tls));
        // Everybody is known by where they were at first, until consensus and the catalog know better.
        for peer in &identity.peers {
            peers.learn_member(peer.node_id, &peer.rpc_addr);
        }
        let observer = Arc::new(Observer::new(peers.clone(), daemon.config.failure));
        let ballast =
            Arc::new(Ballast::new(daemon.data_dir.path(), daemon.config.ballast_bytes_max));
        ballast.look();
        let consensus =
            Consensus::start(settings_of(&daemon.config), daemon.data_dir.path(), peers.clone())
                .await
                .context("start consensus")?;
        let store = open_store(daemon).await;
        let (seen, beside) = (observer.clone(), ballast.clone());
        let blocks_at = daemon.data_dir.content();
        let up = observer.clone();
        let release = Release::new(ReleaseParts {
            node: local.node_id,
            store: store.clone(),
            client: BlocksClient::new(peers.clone()),
            moments: moments(&consensus),
            outlook: Arc::new(move |node| up.standing(node)),
            placement: consensus.placement(),
        });
        let content = Content::new(ContentParts {
            node: local.node_id,
            store: store.clone(),
            client: BlocksClient::new(peers.clone()),
            catalog: consensus.catalog(),
            applied: consensus.applied(),
            placement: consensus.placement(),
            // A node's own store says by itself whether it takes blocks.
            outlook: Arc::new(move |node| seen.standing(node)),
            disk: Arc::new(move || disk_pressure(&beside, &blocks_at)),
            settings: ContentSettings {
                cache_bytes: daemon.config.cache_bytes,
                repair_bytes_per_second: daemon.config.repair_bytes_per_second,
            },
        });
        Ok(Self {
            identity,
            tls,
            peers,
            certificate_life: daemon.config.rpc.certificate_life,
            consensus,
            store,
            content,
            release,
            observer,
            duties: Arc::default(),
            last_count: LastCount::default(),
            capacity_bytes: daemon.capacity_bytes,
            uploads: daemon.uploads.clone(),
            ballast,
            current: AtomicBool::new(false),
            working: CancellationToken::new(),
            looping: CancellationToken::new(),
            tasks: Mutex::default(),
        })
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    fn local(&self) -> LocalNode {
        LocalNode { cluster_id: self.identity.cluster_id, node_id: self.identity.node_id }
    }

    #[must_use]
    pub fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// How long the certificates are good for that this node signs.
    #[must_use]
    pub fn certificate_life(&self) -> Duration {
        self.certificate_life
    }

    #[must_use]
    pub fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }

    #[must_use]
    pub fn release(&self) -> &Release {
        &self.release
    }

    #[must_use]
    pub fn observer(&self) -> &Observer {
        &self.observer
    }

    /// What this node says of itself.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let content = self.content.observe();
        let release = self.release.observe();
        Stats {
            applied_index: *self.consensus.applied().borrow(),
            blocks: content.blocks,
            bytes: content.bytes,
            capacity_bytes: self.capacity_bytes,
            // What a memory from before says is no answer.
            missing_blocks: content.missing_blocks.filter(|_| self.current.load(Ordering::Acquire)),
            layout_epoch: content.compared_by.epoch,
            layout_known_for: content.compared_by.known_for,
            refuses_blocks: content.condition != StoreCondition::Writable
                || !content.disk.takes_blocks(),
            trouble: trouble(content.condition, content.repair.waiting_for.clone()),
            quarantined_blocks: content.quarantined_blocks,
            repair: content.repair,
            counted: self.last_count.get(),
            stopping: self.looping.is_cancelled() || self.working.is_cancelled(),
            disk: self.ballast.space().ok(),
            certificate_ends_ms: Some(milliseconds(self.tls.facts().not_after)),
            uploads: self.uploads.count(),
            scrub: self.content.scrub_stats(),
            ballast_released: self.ballast.state() == BallastState::Released,
            allocated_bytes: content.allocated_bytes,
            frees_whole_volumes_only: content.frees_whole_volumes_only,
            backlog: self.content.observe_collection().backlog,
            surplus_blocks: release.surplus_blocks,
            surplus_bytes: release.surplus_bytes,
            lacking_groups: content.lacking_groups,
            surplus_groups: release.surplus_groups,
        }
    }

    /// How many blocks `node` should hold. `None` while that is not known here.
    #[must_use]
    pub fn should_hold(&self, node: NodeId, layout: &Layout) -> Option<u64> {
        self.duties.of(node, layout)
    }

    /// Whether some node cannot be relied on to say what it lacks.
    fn somebody_is_unclear(&self) -> bool {
        let rows = catalog::nodes(self.consensus.catalog().as_ref()).unwrap_or_default();
        rows.iter().any(|row| {
            if row.id == self.id() {
                return self.stats().missing_blocks.is_none();
            }
            let seen = self.observer.observe(row.id);
            seen.status != NodeStatus::Up
                || seen.said.and_then(|said| said.missing_blocks).is_none()
        })
    }

    /// The last count of all copies that this node made.
    pub(super) fn last_count(&self) -> &LastCount {
        &self.last_count
    }

    /// Whether all who hold blocks by the layout of this epoch say that they lack none.
    pub(super) fn everybody_has_what_it_should(&self, layout_epoch: u64) -> bool {
        let Ok(layout) = catalog::layout(self.consensus.catalog().as_ref()) else { return false };
        layout
            .nodes()
            .into_iter()
            .all(|node| matches!(self.copies_of(node, layout_epoch, false), Copies::Whole { .. }))
    }

    /// Whether a node has been heard of since this process started: a new one may have been admitted and never come.
    pub(super) fn is_here(&self, node: NodeId) -> bool {
        node == self.id()
            || (self.observer.is_up(node) && self.observer.observe(node).said.is_some())
    }

    /// What people call a node, as far as the catalog knows it.
    fn name_of(&self, node: NodeId) -> String {
        match catalog::node(self.consensus.catalog().as_ref(), node) {
            Ok(Some(row)) => row.name,
            Ok(None) | Err(_) => String::new(),
        }
    }

    /// Makes consensus begin, with this node as its only voter. No harm when it has.
    ///
    /// # Errors
    /// When consensus refuses.
    pub async fn found(&self, rpc_addr: &str) -> anyhow::Result<()> {
        match self.consensus.init(&[(self.id(), rpc_addr.to_owned())]).await {
            Ok(()) | Err(raft::InitError::AlreadyInitialized) => Ok(()),
            Err(error @ raft::InitError::Consensus(_)) => Err(error.into()),
        }
    }

    /// How this node speaks to others.
    #[must_use]
    pub fn tls(&self) -> &Arc<Tls> {
        &self.tls
    }

    /// The other nodes and the connections to them.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// The cluster's authority, with its key.
    ///
    /// # Errors
    /// When this node's catalog does not have it.
    pub fn authority(&self) -> anyhow::Result<Authority> {
        let row = catalog::authority(self.consensus.catalog().as_ref())?
            .context("the cluster's authority is not in this node's catalog yet")?;
        Ok(Authority::from_der(&row.certificate_der, &row.key_der.0)?)
    }

    /// Signs that whoever made the request is `node`, from now on. The caller has found out that it is.
    ///
    /// # Errors
    /// When this node's catalog does not have the authority, or signing fails.
    pub fn certify(
        &self,
        request: &SigningRequest,
        node: NodeId,
    ) -> anyhow::Result<CertificateDer<'static>> {
        let (cluster_id, now) = (self.identity.cluster_id, SystemTime::now());
        Ok(self.authority()?.sign(request, cluster_id, node, now, self.certificate_life)?)
    }

    /// Whether the catalog knows `node` by this key and counts it among the members.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn is_member(&self, node: NodeId, key: PublicKeyHash) -> Result<bool, ViewError> {
        let row = catalog::member(self.consensus.catalog().as_ref(), node)?;
        Ok(row.is_some_and(|row| row.state.is_living() && row.public_key_hash == key))
    }

    /// Opens the services that other members need.
    pub(super) fn provide(self: &Arc<Self>, daemon: &Arc<Daemon>) {
        let services = &daemon.services;
        services.join.provide(JoinService::server(self.clone(), daemon.rpc_addr()));
        services.raft.provide(self.consensus.service());
        let confirming = Arc::new(Confirming::new(
            self.id(),
            self.store.clone(),
            moments(&self.consensus),
            self.consensus.applied(),
        ));
        services.blocks.provide(blocks::service(self.local(), self.store.clone(), confirming));
        services.cluster.provide(ClusterService::server(daemon.incarnation(), self.clone()));
    }

    /// Starts everything that runs by itself.
    pub(super) fn start_loops(self: &Arc<Self>, daemon: &Daemon, backend: Arc<dyn Backend>) {
        let config = &daemon.config;
        let row = daemon.describe(self.id());
        let stop = || self.looping.clone();
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.loops = vec![
            ("pings", {
                let member = self.clone();
                let names = move |node| member.name_of(node);
                let removed = daemon.removed.clone();
                let roster = daemon.roster.clone();
                tokio::spawn(self.observer.clone().run(names, roster, removed, stop()))
            }),
            ("counting duties", {
                let (member, applied) = (self.clone(), self.consensus.applied());
                let wanted = move || member.somebody_is_unclear();
                let duties = self.duties.clone();
                tokio::spawn(duties.run(self.consensus.catalog(), applied, wanted, stop()))
            }),
            ("registration", tokio::spawn(registration::register(backend.clone(), row, stop()))),
            ("layouts", {
                let layouts = assignment::run(self.clone(), backend.clone(), stop());
                tokio::spawn(layouts)
            }),
            ("membership", {
                let consensus = self.consensus.clone();
                tokio::spawn(lifecycle::run(consensus, self.id(), stop()))
            }),
            ("upgrade", tokio::spawn(upgrade::run(self.clone(), backend.clone(), stop()))),
            ("roster", {
                let removed = daemon.removed.clone();
                tokio::spawn(roster::run(self.clone(), daemon.roster.clone(), removed, stop()))
            }),
            ("renewal", tokio::spawn(renewal::run(self.clone(), daemon.tls_dir(), stop()))),
            ("replication", {
                let (content, stop) = (self.content.clone(), stop());
                tokio::spawn(async move { content.run(stop).await })
            }),
            ("counting copies", tokio::spawn(census::run(self.clone(), stop()))),
            ("scrub", {
                let (content, stop) = (self.content.clone(), stop());
                let settings = ScrubSettings {
                    every: config.scrub_every,
                    bytes_per_second_max: u64::from(config.repair_bytes_per_second),
                    record: daemon.data_dir.content().join(SCRUB_RECORD),
                };
                tokio::spawn(async move { content.scrub(settings, stop).await })
            }),
            ("ballast", tokio::spawn(self.ballast.clone().run(stop()))),
            ("collection", {
                let (content, stop) = (self.content.clone(), stop());
                tokio::spawn(async move { content.collect(stop).await })
            }),
            ("garbage", {
                let patience = garbage::Patience {
                    collect_after: config.collect_after,
                    forget_after: config.forget_after,
                };
                tokio::spawn(garbage::run(self.clone(), backend.clone(), patience, stop()))
            }),
            ("release", {
                let (release, stop) = (self.release.clone(), stop());
                tokio::spawn(async move { release.run(stop).await })
            }),
            ("uploads", {
                let lost_after = config.upload_lost_after;
                tokio::spawn(uploads::run(backend.clone(), self.id(), lost_after, stop()))
            }),
            ("catching up", tokio::spawn(self.clone().catch_up(stop()))),
        ];
        if config.roles.contains(&Role::Transcoder) {
            // Not by its path: after an upgrade another program stands there, which speaks another protocol.
            let program = PathBuf::from("/proc/self/exe");
            let jobs = media::run(
                backend,
                self.consensus.work(),
                self.id(),
                self.consensus.clock().clone(),
                media_settings(config, program),
                self.working.clone(),
            );
            tasks.jobs = Some(tokio::spawn(jobs));
        }
    }

    /// The first step of the end: jobs are given back, so that others do them.
    pub(super) async fn stop_working(&self) {
        self.working.cancel();
        let jobs = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).jobs.take();
        if let Some(jobs) = jobs {
            end("jobs", jobs).await;
        }
    }

    /// The second step: nothing is proposed any more, and somebody else leads.
    pub(super) async fn stop_deciding(&self) {
        self.looping.cancel();
        let loops =
            std::mem::take(&mut self.tasks.lock().unwrap_or_else(PoisonError::into_inner).loops);
        for (name, task) in loops {
            end(name, task).await;
        }
        self.hand_over().await;
    }

    /// Lets somebody else lead, if this node does and somebody can. Without it the others would wait for an election.
    async fn hand_over(&self) {
        let status = self.consensus.status();
        let heirs = status.voters.iter().filter(|voter| **voter != self.id());
        if status.role != RaftRole::Leader || !heirs.clone().any(|heir| self.observer.is_up(*heir))
        {
            return;
        }
        match timeout(HAND_OVER_MAX, self.consensus.transfer_leadership()).await {
            Ok(Ok(heir)) => tracing::info!(%heir, "handed over leadership"),
            Ok(Err(
                TransferError::NotLeader | TransferError::NobodyElse | TransferError::NotVoter(_),
            )) => {}
            Ok(Err(TransferError::Timeout | TransferError::Stopped)) | Err(_) => {
                tracing::info!(
                    "leadership could not be handed over; the others will elect somebody"
                );
            }
        }
    }

    /// The last step: consensus ends and what is in memory goes to disk.
    pub(super) async fn close(&self) {
        self.consensus.shutdown().await;
    }

    /// Finds out whether the catalog is as new as the cluster's, until it once was. A node that was away must not answer
    /// from memories; one that loses its leader later serves on, because what it has is known to have been right.
    async fn catch_up(self: Arc<Self>, stop: CancellationToken) {
        let caught_up = async {
            loop {
                match self.consensus.read_index().await {
                    Ok(index) => match self.consensus.wait_applied(index, CATCH_UP_LOOK).await {
                        Ok(()) => break,
                        Err(error) => tracing::info!(%error, index, "still catching up"),
                    },
                    Err(error) => tracing::debug!(%error, "ask how far the cluster is"),
                }
                tokio::time::sleep(CATCH_UP_PAUSE).await;
            }
        };
        if stop.run_until_cancelled(caught_up).await.is_some() {
            self.current.store(true, Ordering::Release);
            tracing::info!("this node is up to date");
        }
    }

    /// Why this node cannot serve at present; empty when it can.
    #[must_use]
    pub fn not_ready_because(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if !self.current.load(Ordering::Acquire) {
            reasons.push(match self.consensus.status().leader {
                Some(leader) => format!("the catalog is still catching up with node {leader}"),
                None => "no leader has been found yet".to_owned(),
            });
        }
        if self.consensus.status().disk_stalled {
            reasons.push("the disk of this node's log does not answer".to_owned());
        }
        if removal::has_handed_over(self) {
            reasons.push(removal::HANDED_OVER.to_owned());
        }
        let catalog = self.consensus.catalog();
        match catalog::layout(catalog.as_ref()) {
            Ok(layout) if layout.epoch() == 0 => {
                reasons.push("there is no layout yet: blocks cannot be stored".to_owned());
            }
            Ok(_) => {}
            Err(error) => reasons.push(error.to_string()),
        }
        match catalog::node(catalog.as_ref(), self.id()) {
            Ok(Some(_)) => {}
            Ok(None) => reasons.push("this node has not registered yet".to_owned()),
            Err(error) => reasons.push(error.to_string()),
        }
        reasons
    }
}

/// How the catalog is read together with its place in the log.
fn moments(consensus: &Consensus) -> Arc<Moments> {
    let consensus = consensus.clone();
    Arc::new(move || match consensus.moment() {
        Ok((view, applied)) => Ok((Box::new(view), applied)),
        Err(error) => Err(ViewError { table: "all", reason: error.to_string() }),
    })
}

/// The block store, or one that says why it cannot be used: without its blocks a node still votes, and serves what others
/// hold.
async fn open_store(daemon: &Daemon) -> Arc<dyn BlockStore> {
    let path = daemon.data_dir.content();
    // Blocks may have a disk of their own.
    let space = files::space(&path).or_else(|_| files::space(daemon.data_dir.path()));
    let free_bytes_min = match space {
        Ok(space) => watermark::NO_BLOCKS.free_bytes(space.total_bytes),
        Err(error) => {
            tracing::warn!(%error, "ask for the size of the disk: blocks are stored until it is full");
            0
        }
    };
    let options = VolumeOptions { free_bytes_min, ..VolumeOptions::default() };
    let opening = tokio::task::spawn_blocking(move || VolumeBlockStore::open(&path, &options));
    let reason = match opening.await {
        Ok(Ok(store)) => return Arc::new(store),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(reason, "this node's blocks cannot be used: it serves what other nodes hold");
    Arc::new(UnavailableStore::new(reason))
}

/// How full the disk of the blocks is, which may be another one than that of the rest. One that cannot say so does everything
/// until it fails.
fn disk_pressure(ballast: &Ballast, content: &Path) -> DiskPressure {
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev());
    let apart = match (device(content), device(ballast.data_dir())) {
        (Ok(blocks), Ok(rest)) => blocks != rest,
        (Err(_), _) | (_, Err(_)) => false,
    };
    let space = if apart { files::space(content) } else { ballast.space() };
    space.map(DiskPressure::of).unwrap_or_default()
}

/// What keeps a node from storing its blocks, for people.
fn trouble(condition: StoreCondition, waiting_for: Option<String>) -> Option<String> {
    match condition {
        StoreCondition::Writable => waiting_for,
        StoreCondition::ReadOnly { reason } => {
            Some(format!("its block store takes no writes until it is started again: {reason}"))
        }
        StoreCondition::Unavailable { reason } => {
            Some(format!("its block store cannot be used: {reason}"))
        }
    }
}

fn settings_of(config: &Config) -> RaftSettings {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    RaftSettings {
        heartbeat_ms: millis(config.raft.heartbeat),
        election_min_ms: millis(config.raft.election_min),
        election_max_ms: millis(config.raft.election_max),
        snapshot_every_entries: config.raft.snapshot_every_entries,
        keep_entries: config.raft.keep_entries,
        ..RaftSettings::default()
    }
}

fn media_settings(config: &Config, program: PathBuf) -> media::Settings {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    media::Settings {
        program,
        encode_slots: config.transcoder_slots,
        copy_slots: config.transcoder_slots * COPY_SLOTS_PER_SLOT,
        threads_per_job: u16::try_from(processors / config.transcoder_slots)
            .unwrap_or(u16::MAX)
            .max(1),
    }
}

async fn end(name: &str, mut task: JoinHandle<()>) {
    match timeout(LOOPS_MAX, &mut task).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(name, %error, "a loop did not end by itself"),
        Err(_) => {
            tracing::warn!(name, "a loop did not end in time and is cut");
            task.abort();
        }
    }
}
