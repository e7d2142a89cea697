//! What a node offers to its gateway and its loops: the one trait, over consensus, catalog, blocks and observations.
//!
//! It exists before the node belongs to a cluster, because people can ask by then. Everything is empty or refused until
//! there is a [`Member`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::catalog::{self, BlockSum};
use cluster::command::{Action, BlockRef, PutBlock};
use cluster::ids::NodeId;
use cluster::placement::{GroupStates, Layout};
use cluster::tables::members::{MemberRow, MemberState};
use cluster::tables::nodes::{NodeRow, Role};
use cluster::tables::system::SystemRow;
use cluster::view::{MemoryView, View};
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::backend::{
    Applied, Backend, ClusterObservation, CopyCount, DrainObservation, NodeObservation, NodeStatus,
    RepairObservation, ScrubObservation, StoreObservation, Unavailable,
};
use gateway::upload::UploadsUnderWay;
use tokio::sync::watch;

use crate::content::{GetError, PutError, RepairStats, ScrubStats};
use crate::doctor::{self, ClusterFacts, DrainFacts, NodeFacts, ScrubFacts};
use crate::founding::NO_CLUSTER;
use crate::metrics;
use crate::now_ms;
use crate::observe::Stats;
use crate::raft::{ProposeError, RaftRole, RaftStatus, ReadError};
use crate::run::{Daemon, Member, removal};
use crate::watermark::DiskPressure;

/// A node, for its own gateway and loops.
pub struct NodeBackend {
    daemon: Arc<Daemon>,
    /// What there is before there is anything: an empty catalog at index 0.
    nothing: Arc<MemoryView>,
    never: watch::Sender<u64>,
}

impl NodeBackend {
    #[must_use]
    pub fn new(daemon: Arc<Daemon>) -> Self {
        Self { daemon, nothing: Arc::default(), never: watch::Sender::new(0) }
    }

    /// # Errors
    /// When there is no cluster, or the node is on its way out of it.
    fn member(&self) -> Result<Arc<Member>, Unavailable> {
        self.daemon.member().ok_or_else(|| Unavailable::NotInService(NO_CLUSTER.to_owned()))
    }
}

impl Backend for NodeBackend {
    fn catalog(&self) -> Arc<dyn View + Send + Sync> {
        match self.daemon.member() {
            Some(member) => member.consensus().catalog(),
            None => self.nothing.clone(),
        }
    }

    fn applied(&self) -> watch::Receiver<u64> {
        match self.daemon.member() {
            Some(member) => member.consensus().applied(),
            None => self.never.subscribe(),
        }
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async { self.member()?.consensus().read_index().await.map_err(unavailable_to_read) }.boxed()
    }

    fn propose(&self, action: Action) -> BoxFuture<'_, Result<Applied, Unavailable>> {
        async move {
            let (reply, index) =
                self.member()?.consensus().propose(action).await.map_err(unavailable_to_propose)?;
            Ok(Applied { reply, index })
        }
        .boxed()
    }

    fn put_block(&self, bytes: Bytes) -> BoxFuture<'_, Result<PutBlock, Unavailable>> {
        async move { self.member()?.content().put(bytes).await.map_err(unavailable_to_put) }.boxed()
    }

    fn get_block(&self, block: BlockRef) -> BoxFuture<'_, Result<Bytes, Unavailable>> {
        async move { self.member()?.content().get(block).await.map_err(unavailable_to_get) }.boxed()
    }

    fn get_block_once(&self, block: BlockRef) -> BoxFuture<'_, Result<Bytes, Unavailable>> {
        async move { self.member()?.content().get_once(block).await.map_err(unavailable_to_get) }
            .boxed()
    }

    fn can_store(&self) -> Result<(), Unavailable> {
        if self.daemon.is_stopping() {
            return Err(Unavailable::NotInService("this node is stopping".to_owned()));
        }
        let member = self.member()?;
        if removal::has_handed_over(&member) {
            return Err(Unavailable::Drained);
        }
        member.content().can_store().map_err(unavailable_to_put)
    }

    fn uploads(&self) -> &UploadsUnderWay {
        self.daemon.uploads()
    }

    fn not_ready_because(&self) -> Vec<String> {
        let mut reasons = match self.daemon.member() {
            Some(member) => member.not_ready_because(),
            None => vec![NO_CLUSTER.to_owned()],
        };
        if self.daemon.is_stopping() {
            reasons.push("this node is stopping".to_owned());
        }
        reasons
    }

    fn observe(&self) -> ClusterObservation {
        match self.daemon.member() {
            Some(member) => observe(&member),
            None => ClusterObservation {
                cluster_id: [0; 16],
                this_node: None,
                leader: None,
                term: 0,
                voters: Vec::new(),
                layout_epoch: 0,
                under_replicated_blocks: 0,
                nodes: Vec::new(),
                repair: RepairObservation::default(),
                groups: GroupStates::default(),
                waiting_garbage: BlockSum::default(),
                repair_paused_by: None,
                counted: None,
                findings: Vec::new(),
            },
        }
    }

    fn this_node(&self) -> Option<NodeId> {
        self.daemon.member().map(|member| member.id())
    }

    fn metrics(&self) -> String {
        if let Some(member) = self.daemon.member() {
            gauge(&member);
        }
        metrics::render()
    }
}

fn unavailable_to_read(error: ReadError) -> Unavailable {
    match error {
        ReadError::NoLeader(reason) => Unavailable::NoLeader(reason),
        ReadError::Behind => Unavailable::Timeout(error.to_string()),
        ReadError::Stopped => Unavailable::NotInService(error.to_string()),
    }
}

fn unavailable_to_propose(error: ProposeError) -> Unavailable {
    match error {
        ProposeError::NoLeader(reason) => Unavailable::NoLeader(reason),
        ProposeError::Timeout(reason) => Unavailable::Timeout(reason),
        ProposeError::Stopped => Unavailable::NotInService(error.to_string()),
        ProposeError::Storage(reason) => Unavailable::Storage(reason),
        // Whoever makes commands bounds them; one that is too long all the same will never be taken.
        ProposeError::TooLarge { .. } => Unavailable::Storage(error.to_string()),
        ProposeError::TooNew(reason) => Unavailable::NotUnderstood(reason),
    }
}

fn unavailable_to_put(error: PutError) -> Unavailable {
    match error {
        PutError::TooFewCopies { durable, required, reason } => {
            Unavailable::TooFewCopies { durable, required, reason }
        }
        PutError::NoLayout => Unavailable::NotInService(error.to_string()),
        // The gateway cuts uploads into blocks that fit; one that does not will never be taken.
        PutError::BadLength(_) | PutError::Catalog(_) => Unavailable::Storage(error.to_string()),
    }
}

fn unavailable_to_get(error: GetError) -> Unavailable {
    match error {
        GetError::Unreadable { hash, reason } => Unavailable::BlockUnreadable { hash, reason },
        GetError::Catalog(error) => Unavailable::Storage(error.to_string()),
    }
}

/// The cluster as this member sees it.
fn observe(member: &Member) -> ClusterObservation {
    let raft = member.consensus().status();
    let catalog = member.consensus().catalog();
    let rows = catalog::nodes(catalog.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "read the table of nodes");
        Vec::new()
    });
    let layout = catalog::layout(catalog.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "read the layout");
        Layout::default()
    });
    let mut under_replicated_blocks = 0;
    let mut troubles = Vec::new();
    let mut shares = Vec::new();
    let mut counted = Vec::new();
    let loads = layout.loads();
    let mut nodes = Vec::with_capacity(rows.len());
    let mut facts = Vec::with_capacity(rows.len());
    let members: BTreeMap<NodeId, MemberRow> = catalog::members(catalog.as_ref())
        .unwrap_or_else(|error| {
            tracing::warn!(%error, "read the table of members");
            Vec::new()
        })
        .into_iter()
        .collect();
    let system = catalog::system(catalog.as_ref()).unwrap_or_else(|error| {
        tracing::warn!(%error, "read the state of the cluster");
        SystemRow::default()
    });
    let (now_ms, cluster_ms) = (now_ms(), member.consensus().now_ms());
    let newest = *member.consensus().applied().borrow();
    for row in rows {
        let own = row.id == member.id();
        let seen = member.observer().observe(row.id);
        let heard = own || seen.said.is_some();
        let said = if own { member.stats() } else { seen.said.unwrap_or_default() };
        let in_consensus = raft.voters.contains(&row.id) || raft.learners.contains(&row.id);
        let status = match planned(seen.status, members.get(&row.id), cluster_ms) {
            NodeStatus::Up if !in_consensus || awaits_blocks(&row, &layout) => NodeStatus::Joining,
            status @ (NodeStatus::Joining
            | NodeStatus::Up
            | NodeStatus::Suspect
            | NodeStatus::Down
            | NodeStatus::Dead
            | NodeStatus::Draining
            | NodeStatus::Maintenance) => status,
        };
        // What it counted by another layout says nothing about this one.
        let said = Stats { missing_blocks: said.missing_by(layout.epoch()), ..said };
        if layout.nodes().contains(&row.id) {
            let should_hold = member.should_hold(row.id, &layout);
            under_replicated_blocks += lacking(seen.status, &said, should_hold);
            if let Some(trouble) = trouble(seen.status, &said) {
                troubles.push(format!("node {} ({}): {trouble}", row.id, row.name));
            }
        }
        if !matches!(seen.status, NodeStatus::Down | NodeStatus::Dead) {
            shares.push(said.repair.clone());
        }
        let voter = raft.voters.contains(&row.id);
        let drain = matches!(members.get(&row.id), Some(row) if matches!(row.state, MemberState::Draining { .. }))
            .then(|| drain(member, row.id))
            .flatten();
        facts.push(NodeFacts {
            id: row.id,
            name: row.name.clone(),
            zone: row.zone.clone(),
            stores: row.roles.contains(&Role::Store),
            voter,
            status,
            heard: seen.status,
            silent_for: seen.silent_for,
            version: row.version.clone(),
            lag: newest.saturating_sub(said.applied_index),
            disk: said.disk,
            ballast_released: said.ballast_released,
            frees_whole_volumes_only: said.frees_whole_volumes_only,
            clock_ahead_ms: seen.clock_ahead_ms,
            certificate_left: said
                .certificate_ends_ms
                .map(|ends_ms| Duration::from_millis(ends_ms.saturating_sub(now_ms))),
            trouble: said.trouble.clone(),
            scrub: said.scrub.as_ref().map(|stats| scrub_facts(stats, now_ms)),
            drain: drain.as_ref().map(|progress| DrainFacts {
                waiting_for: progress.reasons.clone(),
                stuck: progress.stuck.is_some(),
            }),
        });
        counted.extend(
            said.counted.map(|count| CopyCount { age: count.age + seen.silent_for, ..count }),
        );
        let groups = loads.get(&row.id).copied().unwrap_or_default();
        nodes.push(NodeObservation {
            voter,
            store: heard.then(|| store(groups, &said, now_ms)),
            drain: drain.map(told),
            node: row,
            status,
            applied_index: said.applied_index,
            blocks: said.blocks,
            bytes: said.bytes,
            last_seen: seen.silent_for,
        });
    }
    // There may be old ones of nodes that led before.
    let counted = counted.into_iter().min_by_key(|count: &CopyCount| count.age);
    let leader = leader(member, &raft);
    let findings = doctor::examine(&ClusterFacts {
        leader,
        layout_epoch: layout.epoch(),
        certificate_life: member.certificate_life(),
        under_replicated_blocks,
        repair_paused_by: system.repair_paused.as_ref().map(|pause| pause.actor.clone()),
        copies_not_found: counted
            .filter(|count| count.layout_epoch == layout.epoch() && under_replicated_blocks == 0)
            .map_or(0, |count| count.lacking),
        nodes: facts,
    });
    ClusterObservation {
        cluster_id: member.identity().cluster_id,
        this_node: Some(member.id()),
        leader,
        term: raft.term,
        voters: raft.voters,
        layout_epoch: layout.epoch(),
        under_replicated_blocks,
        nodes,
        repair: repair(&shares, &troubles),
        groups: member.group_states(),
        waiting_garbage: member.content().observe_collection().waiting,
        repair_paused_by: system.repair_paused.map(|pause| pause.actor),
        counted,
        findings,
    }
}

/// What a node says of its blocks.
fn store(groups: u32, said: &Stats, now_ms: u64) -> StoreObservation {
    StoreObservation {
        groups,
        missing_blocks: said.missing_blocks,
        quarantined_blocks: said.quarantined_blocks,
        repair: RepairObservation {
            queued_blocks: said.repair.queued_blocks,
            bytes_per_second: said.repair.bytes_per_second,
            eta_seconds: said.repair.eta_seconds(),
            waiting_for: said.repair.waiting_for.clone(),
        },
        disk: said.disk.map(|disk| (disk.free_bytes, disk.total_bytes)),
        refuses_blocks: said.refuses_blocks,
        allocated_bytes: said.allocated_bytes,
        surplus: said.surplus_blocks.map(|blocks| BlockSum { blocks, bytes: said.surplus_bytes }),
        backlog: said.backlog,
        scrub: said.scrub.as_ref().map(|scrub| ScrubObservation {
            running: scrub.began_ms.is_some(),
            progress_millionths: scrub.progress_millionths,
            bytes_per_second: scrub.bytes_per_second,
            eta_seconds: scrub.eta_seconds,
            age: scrub.last.map(|last| Duration::from_millis(now_ms.saturating_sub(last.ended_ms))),
            damaged_blocks: match (scrub.began_ms, scrub.last) {
                (None, Some(last)) => last.checked.damaged_blocks,
                (Some(_), _) | (None, None) => scrub.checked.damaged_blocks,
            },
        }),
    }
}

/// How a node checks its blocks, at this time by the clock of this node. Clocks that are some seconds off do no harm here.
fn scrub_facts(stats: &ScrubStats, now_ms: u64) -> ScrubFacts {
    let since_ms = stats.last.map_or(stats.since_ms, |last| last.ended_ms);
    let last = stats.last.map_or(0, |last| last.checked.damaged_blocks);
    ScrubFacts {
        every: stats.every,
        age: Duration::from_millis(now_ms.saturating_sub(since_ms)),
        damaged_blocks: stats.checked.damaged_blocks.saturating_add(last),
    }
}

/// What a node that is being drained has yet to hand over.
fn drain(member: &Member, node: NodeId) -> Option<removal::Progress> {
    removal::progress(member, node)
        .inspect_err(|error| tracing::warn!(%error, "read what a node has yet to hand over"))
        .ok()
}

fn told(progress: removal::Progress) -> DrainObservation {
    DrainObservation {
        groups: progress.groups,
        copies_missing: progress.copies_missing,
        leads: progress.leads,
        votes: progress.votes,
        jobs: progress.jobs,
        uploads: progress.uploads,
        stuck: progress.stuck,
        waiting_for: progress.reasons,
    }
}

/// What operators have planned for a node goes before what can be heard of it, as long as it is not dead.
fn planned(seen: NodeStatus, member: Option<&MemberRow>, now_ms: u64) -> NodeStatus {
    match (seen, member) {
        (NodeStatus::Dead, _) | (_, None) => seen,
        (_, Some(member)) if member.in_maintenance(now_ms) => NodeStatus::Maintenance,
        (NodeStatus::Up, Some(member)) => match member.state {
            MemberState::Draining { .. } => NodeStatus::Draining,
            MemberState::Member | MemberState::Removed { .. } => seen,
        },
        (_, Some(_)) => seen,
    }
}

/// Whether a node is to hold blocks and the layout does not say which yet.
fn awaits_blocks(row: &NodeRow, layout: &Layout) -> bool {
    row.roles.contains(&Role::Store) && row.capacity_bytes > 0 && !layout.nodes().contains(&row.id)
}

/// The leader, if it leads anybody: consensus remembers the last one until there is a new one, and a leader without followers
/// finds out late.
fn leader(member: &Member, raft: &RaftStatus) -> Option<NodeId> {
    let answers = |node: &NodeId| member.observer().observe(*node).status == NodeStatus::Up;
    let leader = raft.leader.filter(answers)?;
    let followed =
        raft.voters.iter().filter(|voter| answers(voter)).count() * 2 > raft.voters.len();
    (leader != member.id() || followed).then_some(leader)
}

/// What is read off when somebody asks, rather than counted as it happens.
fn gauge(member: &Member) {
    let seen = observe(member);
    let own = member.stats();
    let raft = member.consensus().status();
    #[expect(
        clippy::cast_precision_loss,
        reason = "gauges are floating point; 53 bits of them are exact"
    )]
    let set = |name: &'static str, value: u64| ::metrics::gauge!(name).set(value as f64);
    set("reelraft_raft_term", raft.term);
    set("reelraft_raft_is_leader", u64::from(raft.role == RaftRole::Leader));
    set("reelraft_raft_has_leader", u64::from(seen.leader.is_some()));
    set("reelraft_raft_last_log_index", raft.last_log_index);
    set("reelraft_raft_applied_index", raft.applied_index);
    set("reelraft_raft_apply_lag_entries", raft.last_log_index.saturating_sub(raft.applied_index));
    set("reelraft_raft_snapshot_index", raft.snapshot_index);
    set("reelraft_raft_purged_index", raft.purged_index);
    set("reelraft_layout_epoch", seen.layout_epoch);
    set("reelraft_blocks", own.blocks);
    set("reelraft_block_bytes", own.bytes);
    set("reelraft_capacity_bytes", own.capacity_bytes);
    if let Some(space) = own.disk {
        set("reelraft_disk_free_bytes", space.free_bytes);
        set("reelraft_disk_total_bytes", space.total_bytes);
        set("reelraft_disk_pressure_level", DiskPressure::of(space) as u64);
    }
    if let Some(scrub) = &own.scrub {
        let facts = scrub_facts(scrub, now_ms());
        set("reelraft_scrub_age_seconds", facts.age.as_secs());
        set("reelraft_scrub_bytes_per_second", scrub.bytes_per_second);
        ::metrics::gauge!("reelraft_scrub_progress_ratio")
            .set(f64::from(scrub.progress_millionths) / 1e6);
    }
    set("reelraft_ballast_released", u64::from(own.ballast_released));
    // Not 0 while it is not known: the gauge begins when it is.
    if let Some(missing) = own.missing_blocks {
        set("reelraft_missing_blocks", missing);
    }
    set("reelraft_under_replicated_blocks", seen.under_replicated_blocks);
}

/// How the repair is doing as a whole. Each node repairs for itself, all at the same time: it is over when the last one is done.
fn repair(shares: &[RepairStats], troubles: &[String]) -> RepairObservation {
    let busy = || shares.iter().filter(|share| share.queued_blocks > 0);
    RepairObservation {
        queued_blocks: busy().map(|share| share.queued_blocks).sum(),
        bytes_per_second: shares.iter().map(|share| share.bytes_per_second).sum(),
        // Known only when it is known of everybody who has something to do.
        eta_seconds: busy()
            .map(RepairStats::eta_seconds)
            .try_fold(None, |latest, eta| Some(latest.max(Some(eta?))))
            .flatten(),
        waiting_for: (!troubles.is_empty()).then(|| troubles.join("; ")),
    }
}

/// Copies that cannot be had because of one node: those that it has yet to make, and all that it should hold while it is
/// gone or does not know which it has. A block that lacks two copies counts twice.
fn lacking(status: NodeStatus, said: &Stats, should_hold: Option<u64>) -> u64 {
    let all = || should_hold.unwrap_or(said.blocks + said.missing_blocks.unwrap_or(0));
    match status {
        NodeStatus::Down | NodeStatus::Dead => all(),
        NodeStatus::Joining
        | NodeStatus::Up
        | NodeStatus::Suspect
        | NodeStatus::Draining
        | NodeStatus::Maintenance => said.missing_blocks.unwrap_or_else(all),
    }
}

/// What keeps a node that answers from holding what it should.
fn trouble(status: NodeStatus, said: &Stats) -> Option<String> {
    match status {
        // Its silence is trouble enough, and what it said before is no longer known to be so.
        NodeStatus::Down | NodeStatus::Dead => None,
        NodeStatus::Joining
        | NodeStatus::Up
        | NodeStatus::Suspect
        | NodeStatus::Draining
        | NodeStatus::Maintenance => said.trouble.clone().or_else(|| {
            said.missing_blocks
                .is_none()
                .then(|| "it is not known yet which blocks it lacks".to_owned())
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_cannot_say_what_it_lacks_counts_as_lacking_all() {
        let whole = Stats { blocks: 7, missing_blocks: Some(0), ..Stats::default() };
        let unusable = Stats { trouble: Some("broken".to_owned()), ..Stats::default() };
        assert_eq!(lacking(NodeStatus::Up, &whole, Some(9)), 0);
        assert_eq!(trouble(NodeStatus::Up, &whole), None);
        assert_eq!(lacking(NodeStatus::Up, &unusable, Some(9)), 9);
        assert_eq!(trouble(NodeStatus::Up, &unusable).as_deref(), Some("broken"));
        // Nothing was heard of it.
        assert_eq!(lacking(NodeStatus::Suspect, &Stats::default(), Some(9)), 9);
        assert!(trouble(NodeStatus::Up, &Stats::default()).is_some_and(|text| !text.is_empty()));
        // What was stored while it is away counts, and what it said is a substitute only.
        assert_eq!(lacking(NodeStatus::Down, &whole, Some(9)), 9);
        assert_eq!(lacking(NodeStatus::Dead, &whole, None), 7);
    }
}
