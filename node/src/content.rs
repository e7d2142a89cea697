//! Blocks of the whole cluster, from the point of view of one node.
//!
//! [`Content::put`] makes a block durable on enough of its holders, [`Content::get`] finds it again wherever it is, and
//! [`Content::run`] is the loop that gives this node the copies that it should hold, [`Content::collect`] the one that deletes
//! those that nobody needs. The layout in the catalog says who the holders are; this module never asks another node about
//! that, because every node has the whole catalog.
//!
//! # Invariants
//!
//! - `put` returns only after as many holders as [`cluster::duties::copies_acknowledged`] says have answered that the block
//!   is durable there. Only then may a command name the block.
//! - Bytes that leave `get` have been hashed since they came from a disk or a connection.
//! - A holder that did not get its copy is not forgotten: the loop of this node brings it, and if this node dies before
//!   that, the holder's own loop finds that it is missing.
//! - Memory is bounded by bytes, not by numbers: of puts, of copies that are still under way after their put was
//!   acknowledged, of gets, and of the cache.

mod census;
mod collect;
mod get;
mod missing;
mod neighbours;
mod owed;
mod placement;
mod put;
mod rate;
pub mod release;
mod repair;
mod scrub;
#[cfg(test)]
mod tests;
mod viewers;

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use cluster::duties::COPIES_ACKNOWLEDGED;
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::{COPIES, GroupSet};
use cluster::view::{View, ViewError};
use moka::future::Cache;
use tokio::sync::{Semaphore, watch};

use crate::rpc::blocks::BlocksClient;
use crate::store::{BLOCK_BYTES_MAX, BlockStore, Pool, StoreCondition};
use crate::watermark::DiskPressure;
pub use census::{Census, CensusDepth};
use collect::Collected;
pub use collect::CollectionObservation;
pub use get::GetError;
use get::HealTrouble;
pub use missing::ComparedBy;
use missing::Missing;
use neighbours::Neighbours;
use owed::Owed;
use placement::Placement;
pub use put::PutError;
use rate::RateMeter;
pub use repair::LAYOUT_SETTLES;
use repair::Pace;
pub use scrub::{Checked, Finished, ScrubSettings, ScrubState, ScrubStats};
use viewers::Viewers;

/// Bytes of blocks in puts that are not acknowledged yet. Who comes later waits, and an upload is held back by that.
const PUT_BYTES_MAX: usize = 64 << 20;

/// Bytes of blocks that are acknowledged and still on their way to their last holder. Beyond that the last copy is left to
/// the loop, so that one slow node makes neither uploads slow nor memory full.
const TRAILING_BYTES_MAX: usize = 32 << 20;

/// Bytes of blocks that are being read for somebody at the same time.
const GET_BYTES_MAX: usize = 64 << 20;

/// Bytes that a cached block costs beside its own.
const CACHE_ENTRY_BYTES: u32 = 256;

/// What may be asked of a node, as far as is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does not answer.
    Away,
    /// It answers and takes no blocks: its disk is full, or its store cannot be written.
    ReadsOnly,
    Well,
}

/// Knows how the other nodes are. Asked often; must not block.
pub type Outlook = dyn Fn(NodeId) -> Standing + Send + Sync;

/// What a node may set.
#[derive(Clone, Debug)]
pub struct ContentSettings {
    /// Bytes of verified blocks kept in memory for the next viewer.
    pub cache_bytes: u64,
    /// Bytes per second that this node pulls and pushes at most to bring copies where they belong.
    pub repair_bytes_per_second: u32,
}

impl Default for ContentSettings {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, repair_bytes_per_second: 64 << 20 }
    }
}

/// What the content of a node is made of.
pub struct ContentParts {
    /// This node.
    pub node: NodeId,
    pub store: Arc<dyn BlockStore>,
    pub client: BlocksClient,
    /// The catalog as applied on this node.
    pub catalog: Arc<dyn View + Send + Sync>,
    /// The log index applied on this node.
    pub applied: watch::Receiver<u64>,
    /// Changes when blocks may belong elsewhere than before.
    pub placement: watch::Receiver<u64>,
    pub outlook: Arc<Outlook>,
    /// How full this node's disk is.
    pub disk: Arc<dyn Fn() -> DiskPressure + Send + Sync>,
    pub settings: ContentSettings,
}

/// How this node's share of the content is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentObservation {
    /// Good blocks on this node's disk.
    pub blocks: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Blocks on this node's disk that proved damaged and have not been replaced yet.
    pub quarantined_blocks: u64,
    /// Bytes that the file system has allocated for blocks, good, damaged and just deleted.
    pub allocated_bytes: u64,
    /// Whether the space of a deleted block comes back only with that of its neighbours.
    pub frees_whole_volumes_only: bool,
    /// Blocks that this node should hold and does not, as of its last comparison. `None` before the first one has ended.
    pub missing_blocks: Option<u64>,
    /// The placement groups of those, as far as they are known by name.
    pub lacking_groups: GroupSet,
    /// The layout by which these were counted.
    pub compared_by: ComparedBy,
    pub repair: RepairStats,
    pub condition: StoreCondition,
    pub disk: DiskPressure,
}

/// What a node has yet to do so that all copies are where they belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairStats {
    /// Copies that it is going to make: its own missing ones, and those it owes other nodes.
    pub queued_blocks: u64,
    /// Bytes in these, as far as they are known by name.
    pub queued_bytes: u64,
    /// What it has been making them at, lately.
    pub bytes_per_second: u64,
    /// Why the queue does not get shorter, or not as fast as it may.
    pub waiting_for: Option<String>,
}

impl RepairStats {
    /// When the queue is empty at that rate; unknown while it does not get shorter.
    #[must_use]
    pub fn eta_seconds(&self) -> Option<u64> {
        self.queued_bytes.checked_div(self.bytes_per_second)
    }
}

/// The content of the cluster. Cloning it is cheap and shares it.
#[derive(Clone)]
pub struct Content {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    store: Arc<dyn BlockStore>,
    client: BlocksClient,
    placement: Placement,
    outlook: Arc<Outlook>,
    disk: Arc<dyn Fn() -> DiskPressure + Send + Sync>,
    cache: Cache<BlockHash, Bytes>,
    neighbours: Neighbours,
    missing: Missing,
    heal_trouble: HealTrouble,
    owed: Owed,
    scrub: Arc<scrub::Shown>,
    repaired: RateMeter,
    pace: Pace,
    viewers: Viewers,
    collected: Collected,
    hashing: Pool,
    counting: Pool,
    put_budget: Arc<Semaphore>,
    trailing_budget: Arc<Semaphore>,
    get_budget: Arc<Semaphore>,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("node", &self.inner.node).finish_non_exhaustive()
    }
}

impl Content {
    /// Puts the parts together. Nothing runs until [`Content::run`] does.
    #[must_use]
    pub fn new(parts: ContentParts) -> Self {
        let cache = Cache::builder()
            .max_capacity(parts.settings.cache_bytes)
            .weigher(|_, bytes: &Bytes| {
                u32::try_from(bytes.len()).unwrap_or(u32::MAX).saturating_add(CACHE_ENTRY_BYTES)
            })
            .build();
        Self {
            inner: Arc::new(Inner {
                node: parts.node,
                store: parts.store,
                client: parts.client,
                placement: Placement::new(parts.catalog, parts.applied, parts.placement),
                outlook: parts.outlook,
                disk: parts.disk,
                cache,
                neighbours: Neighbours::default(),
                missing: Missing::default(),
                heal_trouble: HealTrouble::default(),
                owed: Owed::default(),
                scrub: Arc::default(),
                repaired: RateMeter::default(),
                pace: Pace::new(parts.settings.repair_bytes_per_second),
                viewers: Viewers::default(),
                collected: Collected::default(),
                hashing: Pool::for_processors(),
                counting: Pool::new(1),
                put_budget: Arc::new(Semaphore::new(PUT_BYTES_MAX)),
                trailing_budget: Arc::new(Semaphore::new(TRAILING_BYTES_MAX)),
                get_budget: Arc::new(Semaphore::new(GET_BYTES_MAX)),
            }),
        }
    }

    /// Whether a put could succeed now, whatever the block: enough nodes take blocks.
    ///
    /// # Errors
    /// What would stand in the way.
    pub fn can_store(&self) -> Result<(), PutError> {
        let inner = &self.inner;
        let here = inner.placement.current()?;
        if here.layout.copies() == 0 {
            return Err(PutError::NoLayout);
        }
        let required = here.layout.copies().min(COPIES_ACKNOWLEDGED);
        let mut nodes = here.stores();
        nodes.extend(here.layout.nodes());
        nodes.sort_unstable();
        nodes.dedup();
        let (well, unwell): (Vec<_>, Vec<_>) =
            nodes.into_iter().partition(|node| inner.takes_blocks(*node));
        if well.len() >= required {
            return Ok(());
        }
        let unwell: Vec<_> = unwell
            .iter()
            .map(|node| format!("node {node} cannot be reached or takes no blocks"))
            .collect();
        let reason = unwell.join(", ");
        Err(PutError::TooFewCopies { durable: well.len(), required, reason })
    }

    /// The epoch of the present layout; 0 before the first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn layout_epoch(&self) -> Result<u64, ViewError> {
        Ok(self.inner.placement.current()?.layout.epoch())
    }

    /// How many copies of each block the present layout asks for, when that is fewer than there should be: durability is
    /// reduced because there are too few nodes.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn reduced_copies(&self) -> Result<Option<usize>, ViewError> {
        let here = self.inner.placement.current()?;
        let copies = here.layout.copies();
        Ok((copies < COPIES).then_some(copies))
    }

    /// How this node's share is doing. Cheap.
    #[must_use]
    pub fn observe(&self) -> ContentObservation {
        let inner = &self.inner;
        let stats = inner.store.stats();
        let missing = inner.missing.len();
        let counted = inner.missing.counted();
        let queued_blocks = missing + inner.owed.len();
        let waiting_for = || inner.missing.waiting_for().or_else(|| inner.pace.slowed());
        ContentObservation {
            blocks: stats.blocks,
            bytes: stats.bytes,
            quarantined_blocks: stats.quarantined,
            allocated_bytes: stats.allocated_bytes,
            frees_whole_volumes_only: stats.frees_whole_volumes_only,
            missing_blocks: counted.map(|(blocks, _)| blocks),
            lacking_groups: inner.missing.groups(),
            compared_by: counted.map(|(_, by)| by).unwrap_or_default(),
            repair: RepairStats {
                queued_blocks,
                queued_bytes: inner.missing.bytes() + inner.owed.bytes(),
                bytes_per_second: inner.repaired.bytes_per_second(),
                waiting_for: (queued_blocks > 0).then(waiting_for).flatten(),
            },
            disk: (inner.disk)(),
            condition: inner.store.condition(),
        }
    }
}

impl Inner {
    /// The name of `bytes`, computed where it holds up nobody.
    async fn hash(&self, bytes: &Bytes) -> BlockHash {
        /// Shorter ones take less time than handing them over.
        const INLINE_BYTES_MAX: usize = 32 << 10;
        if bytes.len() <= INLINE_BYTES_MAX {
            return BlockHash::of(bytes);
        }
        let bytes = bytes.clone();
        self.hashing.run(move || BlockHash::of(&bytes)).await
    }

    fn is_up(&self, node: NodeId) -> bool {
        node == self.node || (self.outlook)(node) != Standing::Away
    }

    fn takes_blocks(&self, node: NodeId) -> bool {
        if node == self.node {
            return self.store.condition() == StoreCondition::Writable
                && (self.disk)().takes_blocks();
        }
        (self.outlook)(node) == Standing::Well
    }
}

/// What a block costs in a budget of bytes: its own, and what goes with it.
fn cost(bytes: usize) -> u32 {
    const EXTRA: usize = 4096;
    u32::try_from((bytes + EXTRA).min(BLOCK_BYTES_MAX)).expect("a block's longest length fits")
}
