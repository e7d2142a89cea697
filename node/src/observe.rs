//! What this node knows of the others from talking to them: who answers, and what they say of themselves.
//!
//! Each node pings every other one and draws its own conclusions; there is no agreement on who is up, and none is needed.
//! Reads and puts prefer nodes that answer, the cluster page shows what this node sees, and nothing that must be safe
//! depends on it.
//!
//! # Invariants
//!
//! - A node that has not been heard of since this process started counts as heard of at its start: a cluster that comes up
//!   together does not begin with everybody dead.
//! - One ping per node is under way at a time, so a node that hangs costs one waiting task.
//! - A ping may take longer than the pause between two: a machine whose processors are all busy is slow, not down.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use cluster::catalog::BlockSum;
use cluster::ids::NodeId;
use cluster::placement::GroupSet;
use gateway::backend::{CopyCount, NodeStatus};
use metrics::gauge;
use proto::cluster::cluster_client::ClusterClient;
use proto::cluster::{PingReply, PingRequest};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::config::FailureDetection;
use crate::content::{RepairStats, ScrubStats, Standing};
use crate::files::Space;
use crate::now_ms;
use crate::rpc::caller::{Roster, says_removed};
use crate::rpc::peers::{Peers, Purpose};
use crate::rpc::scrub;

/// What other nodes said last, and when.
#[derive(Debug)]
pub struct Observer {
    peers: Peers,
    failure: FailureDetection,
    started: Instant,
    /// When each of them was first to be asked.
    met: RwLock<BTreeMap<NodeId, Instant>>,
    seen: RwLock<BTreeMap<NodeId, Sighting>>,
    /// Why the last ping failed, of those whose last ping did.
    failed: RwLock<BTreeMap<NodeId, String>>,
}

/// The last answer of a node.
#[derive(Clone, Debug)]
struct Sighting {
    at: Instant,
    said: Stats,
    clock_ahead_ms: i64,
}

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub applied_index: u64,
    pub blocks: u64,
    /// Bytes in blocks.
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// Blocks that it should hold and does not have yet. `None` when it does not know.
    pub missing_blocks: Option<u64>,
    /// The layout by which it counted these.
    pub layout_epoch: u64,
    /// How long it had known that layout when it began to count.
    pub layout_known_for: Duration,
    /// What keeps it from storing its blocks.
    pub trouble: Option<String>,
    /// Whether it is about to stop.
    pub stopping: bool,
    /// The file system that holds its data.
    pub disk: Option<Space>,
    /// When its certificate ends.
    pub certificate_ends_ms: Option<u64>,
    /// Uploads that people make through it.
    pub uploads: u64,
    /// Whether it takes no blocks at present: its disk is full, or its store cannot be written.
    pub refuses_blocks: bool,
    /// Copies that proved damaged and have not been replaced yet.
    pub quarantined_blocks: u64,
    pub repair: RepairStats,
    /// The last count of all copies that it made.
    pub counted: Option<CopyCount>,
    /// Whether it lacks the [ballast](crate::ballast) that it should have.
    pub ballast_released: bool,
    /// Nothing before it has begun to look after its blocks.
    pub scrub: Option<ScrubStats>,
    /// Bytes that its file system has allocated for blocks, good, damaged and just deleted.
    pub allocated_bytes: u64,
    /// Whether the space of a deleted block comes back only with that of its neighbours.
    pub frees_whole_volumes_only: bool,
    /// Blocks that were given up in the log and that it has yet to look at.
    pub backlog: BlockSum,
    /// Copies that belong on other nodes by now. `None` when it has not looked since the layout changed.
    pub surplus_blocks: Option<u64>,
    /// Bytes in these.
    pub surplus_bytes: u64,
    /// Groups in which it lacks blocks, and groups in which it has surplus copies.
    pub lacking_groups: GroupSet,
    pub surplus_groups: GroupSet,
}

impl From<PingReply> for Stats {
    fn from(reply: PingReply) -> Self {
        Self {
            applied_index: reply.applied_index,
            blocks: reply.blocks,
            bytes: reply.bytes,
            capacity_bytes: reply.capacity_bytes,
            missing_blocks: reply.missing_known.then_some(reply.missing_blocks),
            layout_epoch: reply.layout_epoch,
            layout_known_for: Duration::from_millis(reply.layout_known_ms),
            trouble: (!reply.trouble.is_empty()).then_some(reply.trouble),
            stopping: reply.stopping,
            disk: (reply.disk_total_bytes > 0).then_some(Space {
                free_bytes: reply.disk_free_bytes,
                total_bytes: reply.disk_total_bytes,
            }),
            certificate_ends_ms: (reply.certificate_ends_ms > 0)
                .then_some(reply.certificate_ends_ms),
            uploads: reply.uploads,
            refuses_blocks: reply.refuses_blocks,
            quarantined_blocks: reply.quarantined_blocks,
            counted: reply.counted.map(|counted| CopyCount {
                age: Duration::from_millis(counted.age_ms),
                layout_epoch: counted.layout_epoch,
                blocks: counted.blocks,
                copies: counted.copies,
                lacking: counted.lacking,
                unknown: counted.unknown,
            }),
            repair: RepairStats {
                queued_blocks: reply.queued_blocks,
                queued_bytes: reply.queued_bytes,
                bytes_per_second: reply.repair_bytes_per_second,
                waiting_for: (!reply.repair_waits_for.is_empty()).then_some(reply.repair_waits_for),
            },
            ballast_released: reply.ballast_released,
            scrub: reply.scrub.map(scrub::received),
            allocated_bytes: reply.allocated_bytes,
            frees_whole_volumes_only: reply.frees_whole_volumes_only,
            backlog: BlockSum { blocks: reply.backlog_blocks, bytes: reply.backlog_bytes },
            surplus_blocks: reply.surplus_known.then_some(reply.surplus_blocks),
            surplus_bytes: reply.surplus_bytes,
            lacking_groups: GroupSet::from_bytes(&reply.lacking_groups),
            surplus_groups: GroupSet::from_bytes(&reply.surplus_groups),
        }
    }
}

impl Stats {
    /// Blocks that it lacks by the layout of this epoch. What it counted by another one says nothing.
    #[must_use]
    pub fn missing_by(&self, layout_epoch: u64) -> Option<u64> {
        self.missing_blocks.filter(|_| self.layout_epoch == layout_epoch)
    }
}

/// A node as this one sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    pub status: NodeStatus,
    /// Since it was last heard of.
    pub silent_for: Duration,
    /// What it said last; nothing when it has not answered since this process started.
    pub said: Option<Stats>,
    /// By how many milliseconds its clock is ahead of this node's, or behind it if negative, beyond what the time of the
    /// message explains.
    pub clock_ahead_ms: Option<i64>,
}

impl Observer {
    #[must_use]
    pub fn new(peers: Peers, failure: FailureDetection) -> Self {
        Self {
            peers,
            failure,
            started: Instant::now(),
            met: RwLock::default(),
            seen: RwLock::default(),
            failed: RwLock::default(),
        }
    }

    /// Whether it makes sense to ask this node for something.
    #[must_use]
    pub fn is_up(&self, node: NodeId) -> bool {
        self.standing(node) != Standing::Away
    }

    /// What may be asked of this node.
    #[must_use]
    pub fn standing(&self, node: NodeId) -> Standing {
        if node == self.peers.local().node_id {
            return Standing::Well;
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let sighting = seen.get(&node);
        if status(self.silence(node, sighting), &self.failure) != NodeStatus::Up {
            return Standing::Away;
        }
        match sighting.map(|sighting| &sighting.said) {
            Some(said) if said.stopping => Standing::Away,
            Some(said) if said.refuses_blocks => Standing::ReadsOnly,
            Some(_) | None => Standing::Well,
        }
    }

    /// How long a node has not been heard of. One that never was, since this one knows of it.
    fn silence(&self, node: NodeId, sighting: Option<&Sighting>) -> Duration {
        let since = sighting.map(|sighting| sighting.at).or_else(|| {
            self.met.read().unwrap_or_else(PoisonError::into_inner).get(&node).copied()
        });
        since.unwrap_or(self.started).elapsed()
    }

    /// What is known of a node.
    #[must_use]
    pub fn observe(&self, node: NodeId) -> Observation {
        if node == self.peers.local().node_id {
            return Observation {
                status: NodeStatus::Up,
                silent_for: Duration::ZERO,
                said: None,
                clock_ahead_ms: Some(0),
            };
        }
        let seen = self.seen.read().unwrap_or_else(PoisonError::into_inner);
        let sighting = seen.get(&node);
        let silent_for = self.silence(node, sighting);
        Observation {
            status: status(silent_for, &self.failure),
            silent_for,
            said: sighting.map(|sighting| sighting.said.clone()),
            clock_ahead_ms: sighting.map(|sighting| sighting.clock_ahead_ms),
        }
    }

    /// Pings all nodes whose address is known until `stop`, and says in the log when one falls silent or comes back, by
    /// its name in `names`. Who has been removed, by `roster`, is left alone. Cancels `removed` when one of them answers that this node was removed from the cluster.
    pub async fn run(
        self: Arc<Self>,
        names: impl Fn(NodeId) -> String + Send,
        roster: Roster,
        removed: CancellationToken,
        stop: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(self.failure.ping);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pending = BTreeSet::new();
        let mut announced = BTreeMap::new();
        let mut pings: JoinSet<(NodeId, anyhow::Result<Answer>)> = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {
                    for node in self.peers.known().into_iter().filter(|node| !roster.is_removed(*node)) {
                        self.meet(node);
                        if pending.insert(node) {
                            let observer = self.clone();
                            pings.spawn(async move { (node, observer.ping(node).await) });
                        }
                    }
                    for node in self.peers.known().into_iter().filter(|node| !roster.is_removed(*node)) {
                        let seen = self.observe(node);
                        gauge!("reelraft_node_silent_seconds", "node" => node.to_string())
                            .set(seen.silent_for.as_secs_f64());
                        if changed(&mut announced, node, seen.status) {
                            announce(node, &names(node), &seen, &self.why(node));
                        }
                    }
                }
                Some(ping) = pings.join_next() => {
                    let (node, answer) = ping.expect("a ping does not panic and nobody aborts it");
                    pending.remove(&node);
                    let refusal = answer.as_ref().err().and_then(|error| error.downcast_ref());
                    if refusal.is_some_and(says_removed) {
                        removed.cancel();
                    }
                    self.note(node, answer);
                }
            }
        }
    }

    /// It is known from now on, if it was not.
    fn meet(&self, node: NodeId) {
        let known = self.met.read().unwrap_or_else(PoisonError::into_inner).contains_key(&node);
        if !known {
            let now = Instant::now();
            self.met.write().unwrap_or_else(PoisonError::into_inner).insert(node, now);
        }
    }

    /// One question and its answer. Given up when it no longer matters: the node is suspect by then.
    async fn ping(&self, node: NodeId) -> anyhow::Result<Answer> {
        let asked_ms = now_ms();
        let channel = self.peers.channel(node, Purpose::Cluster)?;
        let request = PingRequest { envelope: Some(self.peers.local().envelope_to(node)) };
        let answer = tokio::time::timeout(
            self.failure.suspect_after,
            ClusterClient::new(channel).ping(request),
        )
        .await
        .context("no answer in time")??
        .into_inner();
        ensure!(!answer.incarnation.is_empty(), "the answer names no incarnation");
        let clock_ahead_ms = clock_ahead_ms(asked_ms, answer.time_ms, now_ms());
        Ok(Answer { said: answer.into(), clock_ahead_ms })
    }

    /// Why a node could not be asked last.
    fn why(&self, node: NodeId) -> String {
        let failed = self.failed.read().unwrap_or_else(PoisonError::into_inner);
        failed.get(&node).cloned().unwrap_or_default()
    }

    fn note(&self, node: NodeId, answer: anyhow::Result<Answer>) {
        let mut failed = self.failed.write().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(Answer { said, clock_ahead_ms }) => {
                failed.remove(&node);
                let mut seen = self.seen.write().unwrap_or_else(PoisonError::into_inner);
                seen.insert(node, Sighting { at: Instant::now(), said, clock_ahead_ms });
            }
            Err(error) => {
                let error = match error.downcast_ref::<Status>() {
                    Some(status) => status.message().to_owned(),
                    None => format!("{error:#}"),
                };
                tracing::debug!(%node, error, "a ping failed");
                failed.insert(node, error);
            }
        }
    }
}

/// What came of a ping.
#[derive(Debug)]
struct Answer {
    said: Stats,
    clock_ahead_ms: i64,
}

/// How far a clock is ahead of ours that showed `told` between `asked` and `heard` by ours, all in milliseconds. Nothing, when it may
/// have shown that at some moment between the two.
fn clock_ahead_ms(asked: u64, told: u64, heard: u64) -> i64 {
    let ahead = i64::try_from(told.saturating_sub(heard)).unwrap_or(i64::MAX);
    let behind = i64::try_from(asked.saturating_sub(told)).unwrap_or(i64::MAX);
    if ahead > 0 { ahead } else { -behind }
}

/// Whether a node's status is another one than was announced last; everybody counts as up at first.
fn changed(announced: &mut BTreeMap<NodeId, NodeStatus>, node: NodeId, status: NodeStatus) -> bool {
    announced.insert(node, status).unwrap_or(NodeStatus::Up) != status
}

/// Says in the log what became of a node.
fn announce(node: NodeId, name: &str, seen: &Observation, why: &str) {
    let silent_seconds = seen.silent_for.as_secs();
    match seen.status {
        NodeStatus::Down => tracing::warn!(%node, name, silent_seconds, why, "a node is down"),
        NodeStatus::Dead => tracing::warn!(%node, name, silent_seconds, why, "a node is dead"),
        NodeStatus::Suspect => {
            tracing::info!(%node, name, silent_seconds, why, "a node is suspect")
        }
        NodeStatus::Up => tracing::info!(%node, name, "a node is up again"),
        NodeStatus::Joining | NodeStatus::Draining | NodeStatus::Maintenance => {}
    }
}

/// What a node is called after so much silence.
fn status(silent_for: Duration, failure: &FailureDetection) -> NodeStatus {
    if silent_for >= failure.dead_after {
        NodeStatus::Dead
    } else if silent_for >= failure.down_after {
        NodeStatus::Down
    } else if silent_for >= failure.suspect_after {
        NodeStatus::Suspect
    } else {
        NodeStatus::Up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::envelope::LocalNode;

    const FAILURE: FailureDetection = FailureDetection {
        ping: Duration::from_millis(500),
        suspect_after: Duration::from_secs(3),
        down_after: Duration::from_secs(10),
        dead_after: Duration::from_secs(600),
    };

    fn answer(said: Stats) -> anyhow::Result<Answer> {
        Ok(Answer { said, clock_ahead_ms: 0 })
    }

    #[test]
    fn each_change_is_announced_once() {
        use NodeStatus::{Dead, Down, Suspect, Up};
        let mut announced = BTreeMap::new();
        let statuses = [Up, Up, Suspect, Suspect, Down, Down, Dead, Up, Up];
        let said: Vec<NodeStatus> = statuses
            .into_iter()
            .filter(|status| changed(&mut announced, NodeId(2), *status))
            .collect();
        assert_eq!(said, [Suspect, Down, Dead, Up]);
        assert!(changed(&mut announced, NodeId(3), Down), "another node");
    }

    #[test]
    fn what_a_node_does_not_know_is_not_nothing() {
        let unknown = Stats::from(PingReply { blocks: 7, ..PingReply::default() });
        assert_eq!(unknown.missing_blocks, None);
        assert_eq!(unknown.trouble, None);
        let known = Stats::from(PingReply {
            missing_known: true,
            trouble: "full".to_owned(),
            ..PingReply::default()
        });
        assert_eq!(known.missing_blocks, Some(0));
        assert_eq!(known.trouble.as_deref(), Some("full"));
    }

    #[test]
    fn a_clock_is_off_by_what_the_message_does_not_explain() {
        for (asked, told, heard, off) in
            [(100, 100, 100, 0), (100, 150, 200, 0), (100, 260, 200, 60), (100, 30, 200, -70)]
        {
            assert_eq!(clock_ahead_ms(asked, told, heard), off);
        }
    }

    #[test]
    fn silence_gets_worse_names() {
        for (seconds, expected) in [
            (0, NodeStatus::Up),
            (2, NodeStatus::Up),
            (3, NodeStatus::Suspect),
            (9, NodeStatus::Suspect),
            (10, NodeStatus::Down),
            (599, NodeStatus::Down),
            (600, NodeStatus::Dead),
        ] {
            assert_eq!(status(Duration::from_secs(seconds), &FAILURE), expected, "{seconds} s");
        }
    }

    #[tokio::test]
    async fn a_node_that_stops_is_not_asked_any_more() {
        let local = LocalNode { cluster_id: [1; 16], node_id: NodeId(1) };
        let observer = Observer::new(crate::rpc::testing::peers(local), FAILURE);
        assert!(observer.is_up(NodeId(1)), "itself");
        assert!(observer.is_up(NodeId(2)), "nothing is known of it yet");
        observer.note(NodeId(2), answer(Stats { stopping: true, ..Stats::default() }));
        assert!(!observer.is_up(NodeId(2)));
        observer.note(NodeId(2), answer(Stats::default()));
        assert!(observer.is_up(NodeId(2)));
        observer.note(NodeId(2), Err(anyhow::anyhow!("refused")));
        assert!(observer.is_up(NodeId(2)), "one failure is no silence");
    }
}
