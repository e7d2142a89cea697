//! The rows: what blocks there are, and where.
//!
//! RocksDB with two column families and nothing long in either: `meta` with a row for each block, and `volumes` with the
//! tail of each volume, below which a start need not look for blocks that have no row.
//!
//! Rows are written without fsync. A put needs none, because its record says all that its row says and is found beyond the
//! tail. RocksDB keeps the order of writes: once a tail has survived a crash, all rows written before it have too.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use cluster::ids::BlockHash;
use rocksdb::{ColumnFamily, DB, IteratorMode, ReadOptions, WriteOptions};

use super::options::{self, META, VOLUMES, VolumeOptions};
use crate::state::find_damage;
use crate::store::meta::BlockMeta;

/// The column family in which blocks themselves lay, before there were volumes.
const BLOCKS: &str = "blocks";

/// The name under which RocksDB looks first in its directory.
const CURRENT: &str = "CURRENT";

#[derive(Debug)]
pub(super) struct Index {
    db: DB,
}

impl Index {
    pub(super) fn open(path: &Path, options: &VolumeOptions) -> Result<Self, String> {
        // RocksDB would read such a record over and over.
        if let Some(damage) = find_damage(path).map_err(|error| error.to_string())? {
            return Err(damage);
        }
        let database = options::database();
        if path.join(CURRENT).exists() {
            let families = DB::list_cf(&database, path).map_err(|error| error.to_string())?;
            if families.iter().any(|family| family == BLOCKS) {
                return Err("it was written by a version before the first release, which kept blocks in \
                            another form that cannot be taken over. Move this directory away and start \
                            the node again: it fetches its blocks from the other nodes. If they have the same \
                            problem, go back to that version, save the videos and upload them again"
                    .into());
            }
        }
        let families = options::column_families(options);
        let db = DB::open_cf_descriptors(&database, path, families)
            .map_err(|error| error.to_string())?;
        Ok(Self { db })
    }

    /// The row of a block; none when it cannot be read either, in which case the block has to be stored anew.
    pub(super) fn row(&self, hash: &BlockHash) -> Option<BlockMeta> {
        match self.db.get_pinned_cf(self.meta(), hash.0) {
            Ok(row) => row.and_then(|row| BlockMeta::decode(&row)),
            Err(error) => {
                tracing::error!(block = %hash, %error, "the row of a block cannot be read");
                None
            }
        }
    }

    pub(super) fn put_row(&self, hash: &BlockHash, row: &BlockMeta) -> Result<(), String> {
        self.db
            .put_cf_opt(self.meta(), hash.0, row.encode(), &unsynced())
            .map_err(|error| format!("write failed: {error}"))
    }

    pub(super) fn delete_row(&self, hash: &BlockHash) -> Result<(), String> {
        self.db
            .delete_cf_opt(self.meta(), hash.0, &unsynced())
            .map_err(|error| format!("write failed: {error}"))
    }

    /// Calls `visit` for each row from `from` to `to`, both inclusive, in the order of the hashes, as they are now.
    pub(super) fn for_each_row(
        &self,
        from: BlockHash,
        to: BlockHash,
        visit: &mut dyn FnMut(BlockHash, BlockMeta) -> ControlFlow<()>,
    ) -> Result<(), String> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(from.0);
        options.fill_cache(false);
        for row in self.db.iterator_cf_opt(self.meta(), options, IteratorMode::Start) {
            let (key, value) = row.map_err(|error| error.to_string())?;
            let hash = BlockHash(key.as_ref().try_into().map_err(|_| "a key is no hash")?);
            if hash > to {
                break;
            }
            let meta = BlockMeta::decode(&value)
                .ok_or_else(|| format!("the row of block {hash} cannot be decoded"))?;
            if visit(hash, meta).is_break() {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn for_all_rows(
        &self,
        visit: &mut dyn FnMut(BlockHash, BlockMeta),
    ) -> Result<(), String> {
        self.for_each_row(BlockHash([0; 32]), BlockHash([255; 32]), &mut |hash, row| {
            visit(hash, row);
            ControlFlow::Continue(())
        })
    }

    /// The tails that have been noted, by volume.
    pub(super) fn tails(&self) -> Result<BTreeMap<u32, u64>, String> {
        let mut tails = BTreeMap::new();
        for row in self.db.iterator_cf(self.volumes(), IteratorMode::Start) {
            let (number, tail) = row.map_err(|error| error.to_string())?;
            let (Ok(number), Some(tail)) = (number.as_ref().try_into(), tail.first_chunk()) else {
                return Err("the row of a volume cannot be decoded".into());
            };
            tails.insert(u32::from_be_bytes(number), u64::from_le_bytes(*tail));
        }
        Ok(tails)
    }

    /// After all rows of records below the tail.
    pub(super) fn put_tail(&self, volume: u32, tail: u64) -> Result<(), String> {
        self.db
            .put_cf_opt(self.volumes(), volume.to_be_bytes(), tail.to_le_bytes(), &unsynced())
            .map_err(|error| format!("write failed: {error}"))
    }

    pub(super) fn delete_tail(&self, volume: u32) -> Result<(), String> {
        self.db
            .delete_cf_opt(self.volumes(), volume.to_be_bytes(), &unsynced())
            .map_err(|error| format!("write failed: {error}"))
    }

    /// Makes durable all that was written before.
    pub(super) fn sync(&self) -> Result<(), String> {
        metrics::counter!("reelraft_store_fsyncs_total", "of" => "rows").increment(1);
        self.db.flush_wal(true).map_err(|error| format!("fsync of the rows failed: {error}"))
    }

    fn meta(&self) -> &ColumnFamily {
        self.db.cf_handle(META).expect("opened with it")
    }

    fn volumes(&self) -> &ColumnFamily {
        self.db.cf_handle(VOLUMES).expect("opened with it")
    }
}

fn unsynced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(false);
    options
}
