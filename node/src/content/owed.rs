//! Copies that other nodes did not get when a block was put here.
//!
//! Only a short cut: a node compares its keys with the catalog by itself, at its start and then every half a minute. But
//! this node knows at once, and has the block at hand. So it remembers in memory what it owes to whom, and brings it as
//! soon as that node answers again. What does not fit, or is forgotten in a crash, the other node's comparison finds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cluster::command::BlockRef;
use cluster::ids::{BlockHash, NodeId};
use tokio::sync::Notify;

/// Copies owed to all nodes together, at some 100 bytes each.
const OWED_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Owed {
    copies: Mutex<BTreeMap<(NodeId, BlockHash), u32>>,
    added: Notify,
}

impl Owed {
    pub(super) fn add(&self, to: NodeId, block: BlockRef) {
        let mut copies = self.lock();
        if copies.len() < OWED_MAX {
            copies.insert((to, block.hash), block.len);
            drop(copies);
            self.added.notify_one();
        }
    }

    /// Resolves after the next addition, or at once when there was one since the last call.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    pub(super) fn settle(&self, to: NodeId, hash: BlockHash) {
        self.lock().remove(&(to, hash));
    }

    /// It is to have none of its copies any more.
    pub(super) fn forgive(&self, to: NodeId) {
        self.lock().retain(|(node, _), _| *node != to);
    }

    /// The nodes that something is owed to.
    pub(super) fn creditors(&self) -> Vec<NodeId> {
        let nodes: BTreeSet<_> = self.lock().keys().map(|(node, _)| *node).collect();
        nodes.into_iter().collect()
    }

    /// Up to `limit` blocks owed to `node`.
    pub(super) fn to(&self, node: NodeId, limit: usize) -> Vec<BlockRef> {
        self.lock()
            .range((node, BlockHash([0; 32]))..=(node, BlockHash([255; 32])))
            .take(limit)
            .map(|((_, hash), len)| BlockRef { hash: *hash, len: *len })
            .collect()
    }

    pub(super) fn len(&self) -> u64 {
        self.lock().len() as u64
    }

    pub(super) fn bytes(&self) -> u64 {
        self.lock().values().map(|len| u64::from(*len)).sum()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(NodeId, BlockHash), u32>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
