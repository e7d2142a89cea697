//! The layout and the zones, decoded once for each change of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use cluster::catalog;
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::{self, Candidate, Earlier, Layout};
use cluster::tables::members::MemberState;
use cluster::tables::nodes::Role;
use cluster::view::{View, ViewError};
use tokio::sync::watch;

/// Who holds what, at one point of the log.
#[derive(Debug)]
pub(super) struct Whereabouts {
    /// What was announced when it was read, or an earlier index.
    announced: u64,
    pub(super) layout: Layout,
    zones: BTreeMap<NodeId, String>,
    earlier: Earlier,
    /// All nodes that hold blocks, those too that the layout does not name. Who is to leave has no weight.
    stores: Vec<Candidate>,
}

impl Whereabouts {
    /// The nodes that may have a copy of a block although the layout does not say so, in the order in which they should be
    /// asked: those that held it before and may have been quicker than its new holders; then all others, who may have taken
    /// it for a holder that was away.
    pub(super) fn elsewhere(&self, hash: &BlockHash) -> [Vec<NodeId>; 2] {
        let (holders, earlier) = (self.layout.holders(hash), self.earlier.holders(hash));
        let others = self.stores().into_iter().filter(|node| !holders.contains(node));
        others.partition(|node| earlier.contains(node)).into()
    }

    /// All nodes that hold blocks.
    pub(super) fn stores(&self) -> Vec<NodeId> {
        self.stores.iter().map(|candidate| candidate.id).collect()
    }

    /// Those whom a layout may give blocks.
    pub(super) fn candidates(&self) -> &[Candidate] {
        &self.stores
    }

    /// Who keeps a copy in place of holders that have failed, the best first.
    pub(super) fn fallbacks(&self, hash: &BlockHash, failed: &[NodeId]) -> Vec<NodeId> {
        placement::fallbacks(&self.layout, &self.stores, hash, failed)
    }

    pub(super) fn zone(&self, node: NodeId) -> Option<&str> {
        self.zones.get(&node).map(String::as_str)
    }

    /// Whether two nodes are known to share a zone.
    pub(super) fn same_zone(&self, one: NodeId, other: NodeId) -> bool {
        self.zones.get(&one).is_some_and(|zone| self.zones.get(&other) == Some(zone))
    }
}

pub(super) struct Placement {
    catalog: Arc<dyn View + Send + Sync>,
    applied: watch::Receiver<u64>,
    announced: watch::Receiver<u64>,
    cached: RwLock<Option<Arc<Whereabouts>>>,
}

impl Placement {
    /// `applied`: the log index applied on this node. `announced` changes with whatever is read here, before `applied` does.
    pub(super) fn new(
        catalog: Arc<dyn View + Send + Sync>,
        applied: watch::Receiver<u64>,
        announced: watch::Receiver<u64>,
    ) -> Self {
        Self { catalog, applied, announced, cached: RwLock::default() }
    }

    pub(super) fn catalog(&self) -> Arc<dyn View + Send + Sync> {
        Arc::clone(&self.catalog)
    }

    /// The log index applied on this node.
    pub(super) fn applied(&self) -> watch::Receiver<u64> {
        self.applied.clone()
    }

    /// That index now: the put index of what is put from now on.
    pub(super) fn put_index(&self) -> u64 {
        *self.applied.borrow()
    }

    /// Changes when blocks may belong elsewhere.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.announced.clone()
    }

    pub(super) fn current(&self) -> Result<Arc<Whereabouts>, ViewError> {
        // Taken before the tables are read: what is read may be newer, which only means that it is read again.
        let announced = *self.announced.borrow();
        {
            let cached = self.cached.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(found) = cached.as_ref().filter(|found| found.announced == announced) {
                return Ok(Arc::clone(found));
            }
        }
        let rows = catalog::nodes(&*self.catalog)?;
        let leaving: BTreeSet<NodeId> = catalog::members(&*self.catalog)?
            .into_iter()
            .filter(|(_, row)| row.state != MemberState::Member)
            .map(|(node, _)| node)
            .collect();
        let stores = rows.iter().filter(|row| row.roles.contains(&Role::Store));
        let found = Arc::new(Whereabouts {
            announced,
            layout: catalog::layout(&*self.catalog)?,
            earlier: catalog::earlier_holders(&*self.catalog)?,
            stores: stores
                .map(|row| Candidate {
                    id: row.id,
                    zone: row.zone.clone(),
                    weight: if leaving.contains(&row.id) { 0 } else { row.capacity_bytes },
                })
                .collect(),
            zones: rows.into_iter().map(|row| (row.id, row.zone)).collect(),
        });
        *self.cached.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&found));
        Ok(found)
    }
}
