//! The blocks that the commands name, as copies on the nodes: what collection must not delete.
//!
//! Each node has a store, which survives its crashes. A proposer puts its blocks on [`COPIES_ACKNOWLEDGED`] of them before it
//! proposes; however long the command is under way then. A node looks at its catalog now and then, which may be behind, and
//! deletes by what it saw, at some later time.

use std::collections::BTreeMap;

use fastrand::Rng;

use super::judge::Finding;
use crate::catalog;
use crate::command::Action;
use crate::duties::COPIES_ACKNOWLEDGED;
use crate::ids::BlockHash;
use crate::table::KeyRange;
use crate::tables::blocks::BLOCKS;
use crate::view::View;

#[derive(Clone, Default)]
struct Store {
    /// Put indices.
    copies: BTreeMap<BlockHash, u64>,
    /// What was seen of the catalog and not acted by yet.
    deletes_below: BTreeMap<BlockHash, u64>,
}

pub(super) struct Stores {
    stores: Vec<Store>,
    /// Deletes without asking when a copy was put.
    unfenced: bool,
}

impl Stores {
    /// Stores that have what this catalog names.
    pub(super) fn new(count: usize, view: &dyn View, unfenced: bool) -> Self {
        let named = BLOCKS.keys(view, &KeyRange::all(), usize::MAX).expect("memory can be read");
        let copies = named.into_iter().map(|hash| (hash, 0)).collect();
        let store = Store { copies, deletes_below: BTreeMap::new() };
        Self { stores: vec![store; count], unfenced }
    }

    /// Puts what the action names, on some of the stores.
    pub(super) fn put(&mut self, rng: &mut Rng, action: &Action, put_index: u64) {
        for block in action.blocks() {
            let holders = rng.choose_multiple(self.stores.iter_mut(), COPIES_ACKNOWLEDGED);
            for store in holders {
                let copy = store.copies.entry(block.hash).or_default();
                *copy = put_index.max(*copy);
            }
        }
    }

    /// A node looks what it may delete.
    pub(super) fn look(&mut self, number: usize, view: &dyn View) {
        let store = &mut self.stores[number];
        let hashes: Vec<_> = store.copies.keys().copied().collect();
        let bounds = catalog::deletable_below(view, &hashes).expect("memory can be read");
        store.deletes_below = hashes.into_iter().zip(bounds).collect();
    }

    /// A node deletes what it saw that it may. Whether that was anything; `newest` is the catalog after the last entry.
    pub(super) fn delete(&mut self, number: usize, newest: &dyn View) -> Result<bool, Finding> {
        let unfenced = self.unfenced;
        let store = &mut self.stores[number];
        let bounds = std::mem::take(&mut store.deletes_below);
        let mut deleted = Vec::new();
        for (hash, bound) in bounds {
            let garbage = |put_index: &u64| *put_index < bound || (unfenced && bound > 0);
            if store.copies.get(&hash).is_some_and(garbage) {
                store.copies.remove(&hash);
                deleted.push(hash);
            }
        }
        for hash in &deleted {
            self.check(hash, newest)?;
        }
        Ok(!deleted.is_empty())
    }

    /// Whether what the action names is there, if it is named now.
    pub(super) fn committed(&self, action: &Action, newest: &dyn View) -> Result<(), Finding> {
        action.blocks().iter().try_for_each(|block| self.check(&block.hash, newest))
    }

    fn check(&self, hash: &BlockHash, newest: &dyn View) -> Result<(), Finding> {
        let row = catalog::block(newest, hash).expect("memory can be read");
        let copies = self.stores.iter().filter(|store| store.copies.contains_key(hash)).count();
        if row.is_some_and(|row| row.references > 0) && copies < COPIES_ACKNOWLEDGED {
            return Err(format!("{hash} is needed, and {copies} copies are left"));
        }
        Ok(())
    }
}
