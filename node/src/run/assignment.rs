//! The leader says which node holds which blocks: it proposes the layouts.
//!
//! The table itself is computed by [`cluster::placement`]; here is only *who* is in it and *when* there is a new one.
//!
//! # Rules
//!
//! - Members that are to stay and hold blocks are in the layout as soon as they have been heard of. Nodes that were admitted
//!   and have not come yet are waited for a little, so that a cluster which grows by two nodes at once moves its blocks once.
//! - A node that is to leave gets nothing in the next layout, unless fewer nodes than there are copies would remain: then
//!   the one that was asked last stays until another node has come. A node that was removed never gets anything.
//! - A node that is *dead* (silent for ten minutes, unless set up otherwise) and not in maintenance is replaced: the next
//!   layout does not name it, as long as enough others remain. It stays a member, and gets groups again when it is back; where
//!   that makes no difference, those whose copies it still has. A node that is only down stays in the layout: most come back.
//! - When more than a third of the nodes that are to hold blocks are silent, those that were replaced already among them, it is
//!   more likely the network or this node: nobody is replaced.
//! - What moves by choice, because a node came, is to leave, or offers more or less, moves in steps of few groups
//!   ([`placement::step()`]), and no step follows another one while copies of the present layout have still to be made. So a
//!   block is never more than one layout away from where it should be, and what is called off costs no more than a step.
//!   Holders that are away are not waited for, nor are those that are to leave, that take no copies because their disk is full or
//!   their store is out of order, or that have not come closer for [`STALL`]: the remedy may be the very node that is to come.
//!   That loses nothing: a copy is given up only when all holders have confirmed that block.
//! - When a holder was removed or is replaced, or died while it was to leave, its blocks lack a copy: all its groups move at once,
//!   and nothing is waited for.
//!
//! The loop runs on every node and does nothing on all but the leader. Two nodes that both believe to be it do no harm: a
//! layout is refused unless it follows the present one.

mod plan;
mod progress;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::NodeId;
use cluster::placement::{self, Candidate, Earlier, Layout};
use cluster::tables::members::{MemberRow, MemberState};
use cluster::tables::nodes::Role;
use cluster::view::{View, ViewError};
use gateway::backend::{Backend, NodeStatus};
use tokio_util::sync::CancellationToken;

use super::Member;
use super::copies::Copies;
pub use plan::{Change, NodePlan, Plan, plan};
use progress::Progress;

use crate::observe::Stats;
use crate::raft::RaftRole;
use crate::watermark::DiskPressure;

/// How often the leader looks. A new cluster waits for it; it costs some reads of small tables.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// When more than one in so many nodes that are to hold blocks are silent, nobody is replaced: rarely do so many die within minutes, and copying what
/// they hold would take all disks and cables for days, for nothing if they come back.
const SILENT_PART: usize = 3;

/// How long a new layout waits for nodes that were admitted and have not been heard of. One that died in between must not
/// keep the others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long the next layout waits for a holder that lacks blocks and does not come to lack fewer. What it lacks may be lost, or
/// with nodes that are away. Longer than the longest pause between two attempts to get a block.
const STALL: Duration = Duration::from_secs(120);

/// Proposes layouts until `stop`, whenever this node leads.
pub(super) async fn run(member: Arc<Member>, backend: Arc<dyn Backend>, stop: CancellationToken) {
    let mut wanted = Wanted::default();
    let mut waiting_since = None;
    let mut progress = Progress::default();
    let mut reason = None;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if member.consensus().status().role != RaftRole::Leader {
            waiting_since = None;
            progress = Progress::default();
            continue;
        }
        let mut situation = match Situation::look(&member) {
            Ok(Some(situation)) => situation,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "read what the layout depends on");
                continue;
            }
        };
        progress.note(&mut situation, Instant::now());
        if !situation.awaits_somebody() {
            waiting_since = None;
        }
        let waited = waiting_since.get_or_insert_with(Instant::now).elapsed();
        match next(&situation, &mut wanted, waited) {
            Next::Nothing => reason = None,
            Next::Wait(why) => {
                if reason.as_ref() != Some(&why) {
                    tracing::info!(why, "the next layout has to wait");
                    reason = Some(why);
                }
            }
            Next::Take(layout) => {
                reason = None;
                propose(backend.as_ref(), layout).await;
            }
        }
    }
}

/// A node that holds blocks or could.
#[derive(Clone, Debug)]
struct Store {
    candidate: Candidate,
    /// When it was asked to leave; 0 when it has given up holding blocks. Nothing when it is to stay.
    leaving_since_ms: Option<u64>,
    seen: Seen,
}

/// What is seen of a node that holds blocks.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Whether it has been heard of.
    here: bool,
    copies: Copies,
    /// Whether it cannot get what it lacks, as far as anybody can tell.
    stuck: bool,
    /// Whether it has been silent for so long that nobody waits for it, and nobody has said that it will come back.
    dead: bool,
    /// Bytes of its blocks, as it said last.
    bytes: u64,
}

impl Member {
    fn seen(&self, node: NodeId, layout_epoch: u64, announced: bool) -> Seen {
        let copies = self.copies_of(node, layout_epoch, announced);
        let here = self.is_here(node);
        if node == self.id() {
            let said = self.stats();
            return Seen {
                here,
                copies,
                stuck: !takes_copies(&said),
                dead: false,
                bytes: said.bytes,
            };
        }
        let observed = self.observer().observe(node);
        let dead = observed.status == NodeStatus::Dead && !announced;
        let stuck = observed.said.as_ref().is_some_and(|said| !takes_copies(said));
        Seen { here, copies, stuck, dead, bytes: observed.said.map_or(0, |said| said.bytes) }
    }
}

/// Whether a node that says this of itself can make the copies that it lacks.
fn takes_copies(said: &Stats) -> bool {
    !said.refuses_blocks
        && said.disk.is_none_or(|space| DiskPressure::of(space) < DiskPressure::NoCopies)
}

/// What the next layout depends on.
#[derive(Clone, Debug)]
pub struct Situation {
    present: Layout,
    earlier: Earlier,
    /// Those that belong to the cluster.
    stores: BTreeMap<NodeId, Store>,
}

impl Situation {
    /// How it is, as far as this member knows. Nothing before there is a cluster.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn look(member: &Member) -> Result<Option<Self>, ViewError> {
        let catalog = member.consensus().catalog();
        let view = catalog.snapshot_view();
        let system = catalog::system(&view)?;
        if system.cluster_id == [0; 16] {
            return Ok(None);
        }
        let now_ms = member.consensus().now_ms();
        let admitted = catalog::has_authority(&view)?;
        let members: BTreeMap<NodeId, MemberRow> = catalog::members(&view)?.into_iter().collect();
        Self::of(
            &view,
            |node| match members.get(&node) {
                None if admitted => None,
                None => Some((MemberState::Member, false)),
                Some(row) => Some((row.state, row.in_maintenance(now_ms))),
            },
            |node, epoch, announced| member.seen(node, epoch, announced),
        )
        .map(Some)
    }

    /// `member_of`: the state of a member, and whether it was said to be away for some time.
    fn of(
        view: &dyn View,
        member_of: impl Fn(NodeId) -> Option<(MemberState, bool)>,
        seen: impl Fn(NodeId, u64, bool) -> Seen,
    ) -> Result<Self, ViewError> {
        let present = catalog::layout(view)?;
        let holders: BTreeSet<NodeId> = present.nodes().into_iter().collect();
        let mut stores = BTreeMap::new();
        for row in catalog::nodes(view)? {
            let Some((state, announced)) = member_of(row.id) else { continue };
            let stores_blocks = row.roles.contains(&Role::Store) && row.capacity_bytes > 0;
            let leaving_since_ms = match state {
                MemberState::Removed { .. } => continue,
                MemberState::Draining { since_ms } => Some(since_ms),
                MemberState::Member if stores_blocks => None,
                MemberState::Member => Some(0),
            };
            if !stores_blocks && !holders.contains(&row.id) {
                continue;
            }
            let store = Store {
                leaving_since_ms,
                seen: seen(row.id, present.epoch(), announced),
                candidate: Candidate { id: row.id, zone: row.zone, weight: row.capacity_bytes },
            };
            stores.insert(row.id, store);
        }
        Ok(Self { present, earlier: catalog::earlier_holders(view)?, stores })
    }

    fn holds(&self, node: NodeId) -> bool {
        self.present.nodes().contains(&node)
    }

    fn holders(&self) -> impl Iterator<Item = (NodeId, Option<&Store>)> {
        self.present.nodes().into_iter().map(|node| (node, self.stores.get(&node)))
    }

    /// The holders whose copies are given up for lost: those that have left the cluster, those that are replaced, and those that
    /// have died while they were to leave.
    fn lost_holders(&self) -> BTreeSet<NodeId> {
        let gives_up = self.gives_up();
        let lost = self.holders().filter(|(_, store)| match store {
            None => true,
            Some(store) => gives_up && store.seen.dead,
        });
        lost.map(|(node, _)| node).collect()
    }

    /// Those that are to stay and are here, or were.
    fn staying(&self) -> impl Iterator<Item = &Store> {
        self.stores.values().filter(|store| {
            store.leaving_since_ms.is_none() && (store.seen.here || self.holds(store.candidate.id))
        })
    }

    /// Whether so many are silent that it may be this node that hears nothing. Those that were replaced count for as long as they
    /// are silent: otherwise a cluster would be copied third by third.
    fn hears_too_few(&self) -> bool {
        let (mut all, mut silent) = (0, 0);
        for store in self.stores.values().filter(|store| store.leaving_since_ms.is_none()) {
            all += 1;
            silent += usize::from(store.seen.copies == Copies::Away);
        }
        silent * SILENT_PART > all
    }

    /// Whether dead holders are given up for lost: not when it may be this node that hears nothing, nor when too few would remain.
    fn gives_up(&self) -> bool {
        !self.hears_too_few() && self.remaining() >= self.present.copies()
    }

    /// The dead ones that were to stay.
    fn replaced(&self) -> BTreeSet<NodeId> {
        if !self.gives_up() {
            return BTreeSet::new();
        }
        let dead = self.staying().filter(|store| store.seen.dead);
        dead.map(|store| store.candidate.id).collect()
    }

    /// Who is to be in the next layout.
    fn candidates(&self) -> Vec<Candidate> {
        let replaced = self.replaced();
        let staying = self.staying().filter(|store| !replaced.contains(&store.candidate.id));
        staying.chain(self.kept()).map(|store| store.candidate.clone()).collect()
    }

    /// About how many bytes of blocks there are, each counted once.
    fn bytes(&self) -> u64 {
        let copies = u64::try_from(self.present.copies().max(1)).unwrap_or(1);
        self.stores.values().map(|store| store.seen.bytes).sum::<u64>() / copies
    }

    /// The next layout on the way to this one.
    fn step_to(&self, target: &Layout, limit: usize) -> Layout {
        let lost = self.lost_holders();
        placement::step(&self.present, target, limit, |node| lost.contains(&node))
    }

    /// Whether a node was admitted that should hold blocks and has not come yet.
    fn awaits_somebody(&self) -> bool {
        self.stores.values().any(|store| {
            store.leaving_since_ms.is_none()
                && !store.seen.here
                && !store.seen.dead
                && !self.holds(store.candidate.id)
        })
    }

    /// How many nodes that hold blocks would remain without those that are to leave.
    fn remaining(&self) -> usize {
        self.staying().filter(|store| store.seen.copies != Copies::Away).count()
    }

    /// Those that are to leave and cannot yet, because too few would remain.
    fn kept(&self) -> Vec<&Store> {
        let lacking = self.present.copies().saturating_sub(self.remaining());
        let mut leaving: Vec<&Store> = self
            .holders()
            .filter_map(|(_, store)| store)
            .filter(|store| store.leaving_since_ms.is_some() && store.candidate.weight > 0)
            .collect();
        leaving.sort_by_key(|store| {
            (store.seen.copies == Copies::Away, Reverse(store.leaving_since_ms), store.candidate.id)
        });
        leaving.truncate(lacking);
        leaving
    }

    /// Why `node`, which is to leave, stays in the layout.
    pub(super) fn kept_because(&self, node: NodeId) -> Option<String> {
        self.kept().iter().any(|store| store.candidate.id == node).then(|| {
            format!(
                "there are {} copies of each block and only {} other nodes that stay, answer and hold blocks: add a node first",
                self.present.copies(),
                self.remaining(),
            )
        })
    }

    /// A holder that does not have all it should have, and might soon.
    fn incomplete(&self) -> Option<String> {
        let awaited = self.holders().filter_map(|(node, store)| Some((node, store?)));
        let mut awaited =
            awaited.filter(|(_, store)| store.leaving_since_ms.is_none() && !store.seen.stuck);
        awaited.find_map(|(node, store)| match store.seen.copies {
            Copies::Whole { .. } | Copies::Away => None,
            copies @ (Copies::Lacks(_) | Copies::Unknown) => {
                copies.trouble().map(|trouble| format!("node {node} {trouble}"))
            }
        })
    }
}

/// What to do about the layout.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    /// It is as it should be.
    Nothing,
    /// There should be another one, but not yet.
    Wait(String),
    Take(Layout),
}

/// Decides on the next layout. `waited`: for how long somebody has been waited for.
fn next(situation: &Situation, wanted: &mut Wanted, waited: Duration) -> Next {
    let candidates = situation.candidates();
    let Some(target) = wanted.after(&situation.present, &situation.earlier, candidates) else {
        return Next::Nothing;
    };
    if !situation.lost_holders().is_empty() {
        return Next::Take(situation.step_to(&target, 0));
    }
    if situation.awaits_somebody() && waited < PATIENCE {
        return Next::Wait("a node was admitted and has not been heard of".to_owned());
    }
    match situation.incomplete() {
        Some(trouble) => Next::Wait(trouble),
        None => Next::Take(situation.step_to(&target, placement::step_limit(situation.bytes()))),
    }
}

/// The layout that some candidates should have: computed once, and remembered while nothing changes.
#[derive(Debug, Default)]
struct Wanted {
    after: Layout,
    candidates: Vec<Candidate>,
    layout: Option<Layout>,
}

impl Wanted {
    /// The layout that should follow `present`. Nothing when the present one will do.
    fn after(
        &mut self,
        present: &Layout,
        earlier: &Earlier,
        candidates: Vec<Candidate>,
    ) -> Option<Layout> {
        if candidates.is_empty() {
            return None;
        }
        if self.candidates != candidates || self.after != *present {
            let first = present.epoch() == 0;
            let layout = placement::compute_near(&candidates, (!first).then_some(present), earlier);
            let moves = placement::movement(present, &layout) != placement::Movement::default();
            self.layout = (first || moves).then_some(layout);
            self.after = present.clone();
            self.candidates = candidates;
        }
        self.layout.clone()
    }
}

async fn propose(backend: &dyn Backend, layout: Layout) {
    let (epoch, nodes) = (layout.epoch(), layout.nodes().len());
    match backend.propose(Action::SetLayout { layout }).await.map(|applied| applied.reply) {
        Ok(Reply::Refused(refusal)) => tracing::info!(epoch, %refusal, "the layout was not taken"),
        Ok(
            Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_),
        ) => {
            tracing::info!(epoch, nodes, "new layout");
        }
        Err(error) => tracing::warn!(epoch, %error, "propose a layout"),
    }
}

#[cfg(test)]
mod tests;
