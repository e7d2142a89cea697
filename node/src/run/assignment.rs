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
//! - Nodes that are away stay in the layout: taking one out means copying its blocks, which is an operator's decision
//!   (`reelraft node remove --force`).
//! - No layout follows another one while copies of the present one have still to be made, so that a block is never more than
//!   one layout away from where it should be. Holders that are away are not waited for. When a holder was removed its
//!   blocks lack a copy, and nothing at all is waited for.
//!
//! The loop runs on every node and does nothing on all but the leader. Two nodes that both believe to be it do no harm: a
//! layout is refused unless it follows the present one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::NodeId;
use cluster::placement::{self, Candidate, Layout};
use cluster::tables::members::{MemberRow, MemberState};
use cluster::tables::nodes::Role;
use cluster::view::{View, ViewError};
use gateway::backend::Backend;
use tokio_util::sync::CancellationToken;

use super::Member;
use super::copies::Copies;
use crate::raft::RaftRole;

/// How often the leader looks. A new cluster waits for it; it costs some reads of small tables.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// How long a new layout waits for nodes that were admitted and have not been heard of. One that died in between must not
/// keep the others out.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proposes layouts until `stop`, whenever this node leads.
pub(super) async fn run(member: Arc<Member>, backend: Arc<dyn Backend>, stop: CancellationToken) {
    let mut wanted = Wanted::default();
    let mut waiting_since = None;
    let mut reason = None;
    while stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        if member.consensus().status().role != RaftRole::Leader {
            waiting_since = None;
            continue;
        }
        let situation = match Situation::look(&member) {
            Ok(Some(situation)) => situation,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "read what the layout depends on");
                continue;
            }
        };
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
    /// Whether it has been heard of.
    here: bool,
    copies: Copies,
}

/// What the next layout depends on.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    present: Layout,
    /// Those that belong to the cluster.
    stores: BTreeMap<NodeId, Store>,
}

impl Situation {
    /// How it is, as far as this member knows. Nothing before there is a cluster.
    pub(super) fn look(member: &Member) -> Result<Option<Self>, ViewError> {
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
            |node| member.is_here(node),
            |node, epoch, announced| member.copies_of(node, epoch, announced),
        )
        .map(Some)
    }

    /// `member_of`: the state of a member, and whether it was said to be away for some time.
    fn of(
        view: &dyn View,
        member_of: impl Fn(NodeId) -> Option<(MemberState, bool)>,
        is_here: impl Fn(NodeId) -> bool,
        copies_of: impl Fn(NodeId, u64, bool) -> Copies,
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
                here: is_here(row.id),
                copies: copies_of(row.id, present.epoch(), announced),
                candidate: Candidate { id: row.id, zone: row.zone, weight: row.capacity_bytes },
            };
            stores.insert(row.id, store);
        }
        Ok(Self { present, stores })
    }

    fn holds(&self, node: NodeId) -> bool {
        self.present.nodes().contains(&node)
    }

    fn holders(&self) -> impl Iterator<Item = (NodeId, Option<&Store>)> {
        self.present.nodes().into_iter().map(|node| (node, self.stores.get(&node)))
    }

    /// Whether the layout names a node that has left the cluster.
    fn lost_a_holder(&self) -> bool {
        self.holders().any(|(_, store)| store.is_none())
    }

    /// Those that are to stay and are here, or were.
    fn staying(&self) -> impl Iterator<Item = &Store> {
        self.stores.values().filter(|store| {
            store.leaving_since_ms.is_none() && (store.here || self.holds(store.candidate.id))
        })
    }

    /// Whether a node was admitted that should hold blocks and has not come yet.
    fn awaits_somebody(&self) -> bool {
        self.stores.values().any(|store| {
            store.leaving_since_ms.is_none() && !store.here && !self.holds(store.candidate.id)
        })
    }

    /// How many nodes that hold blocks would remain without those that are to leave.
    fn remaining(&self) -> usize {
        self.staying().filter(|store| store.copies != Copies::Away).count()
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
            (store.copies == Copies::Away, Reverse(store.leaving_since_ms), store.candidate.id)
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
        self.holders().find_map(|(node, store)| match store.map(|store| store.copies) {
            None | Some(Copies::Whole { .. } | Copies::Away) => None,
            Some(copies @ (Copies::Lacks(_) | Copies::Unknown)) => {
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
    let candidates: Vec<Candidate> =
        situation.staying().chain(situation.kept()).map(|store| store.candidate.clone()).collect();
    let Some(layout) = wanted.after(&situation.present, candidates) else {
        return Next::Nothing;
    };
    if situation.lost_a_holder() {
        return Next::Take(layout);
    }
    if situation.awaits_somebody() && waited < PATIENCE {
        return Next::Wait("a node was admitted and has not been heard of".to_owned());
    }
    match situation.incomplete() {
        Some(trouble) => Next::Wait(trouble),
        None => Next::Take(layout),
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
    fn after(&mut self, present: &Layout, candidates: Vec<Candidate>) -> Option<Layout> {
        if candidates.is_empty() {
            return None;
        }
        if self.candidates != candidates || self.after != *present {
            let first = present.epoch() == 0;
            let layout = placement::compute(&candidates, (!first).then_some(present));
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
