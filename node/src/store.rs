//! Blocks on this node's disk.
//!
//! A block is immutable and named by the BLAKE3 hash of its bytes, so a store can prove by itself whether a copy is right.
//! It does so each time: bytes are hashed when they come in and each time they go out, on threads of their own, because a
//! disk, a cable or a neighbour may have changed them in between.
//!
//! # What a store promises
//!
//! - When [`BlockStore::put`] returns, the block survives `kill -9` and a power cut.
//! - [`BlockStore::get`] returns the right bytes or an error, never wrong bytes.
//! - A copy that proves damaged is *quarantined*: it counts as not there, is listed only by
//!   [`BlockStore::list_quarantined`] and never served, until good bytes are put in its place or [`BlockStore::verify`] finds
//!   that the copy is good after all. Its bytes stay on disk until then, for the case that no better copy exists anywhere,
//!   or until the copy is deleted because nobody needs one here.
//! - After an error that leaves open what is on disk (a failed fsync above all), the store takes no more writes until the
//!   process starts again: asking the kernel a second time may report success for bytes that it has dropped. Reads go on.
//!
//! What a store does not know: who else has a block, and whether anybody needs it.

mod committer;
mod meta;
mod pool;
mod quarantine;
mod unavailable;
mod volumes;

use async_trait::async_trait;
use bytes::Bytes;
use cluster::ids::BlockHash;

pub(crate) use pool::Pool;
pub use unavailable::UnavailableStore;
pub use volumes::{OpenError, VolumeBlockStore, VolumeOptions};

/// The longest block, in bytes. One block is in memory as a whole wherever it passes through, so this bounds the memory of
/// a transfer; the longest segment that the ladder can make (4 s at 2160p, with room to spare) stays well below.
pub const BLOCK_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A store refuses blocks when its file system has fewer bytes free, unless it is set up otherwise.
pub const FREE_BYTES_MIN: u64 = 1 << 30;

/// A block that is on this node, good as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredBlock {
    pub hash: BlockHash,
    /// Bytes.
    pub len: u32,
    /// The log index that the last to put it had applied.
    pub put_index: u64,
    /// When it was first stored here, in milliseconds since 1970 by this node's clock.
    pub stored_ms: u64,
}

/// What has to be true of a copy for it to be deleted. Looked at while nobody else changes that copy.
pub type DeleteCondition = dyn FnOnce(&StoredBlock) -> bool + Send;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Blocks without those in quarantine.
    pub blocks: u64,
    /// Bytes in these.
    pub bytes: u64,
    /// Blocks in quarantine.
    pub quarantined: u64,
    /// Bytes that the file system has allocated for blocks, good, damaged and just deleted.
    pub allocated_bytes: u64,
    /// Files in which these are.
    pub volumes: u64,
    /// The file system cannot punch holes into files: the space of a deleted block comes back only when all others in its
    /// volume are deleted too. Known after the first attempt.
    pub frees_whole_volumes_only: bool,
}

/// Whether a store takes new blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreCondition {
    /// It does.
    Writable,
    /// It serves what it has until the process starts again.
    ReadOnly { reason: String },
    /// It could not even be opened.
    Unavailable { reason: String },
}

/// Why a store could not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("block {0} is not on this node")]
    NotFound(BlockHash),
    /// It is in quarantine from now on.
    #[error("this node's copy of block {0} is damaged")]
    Damaged(BlockHash),
    /// The bytes brought are not those of the name they came under.
    #[error("the bytes brought as block {expected} are those of {actual}")]
    HashMismatch { expected: BlockHash, actual: BlockHash },
    #[error("a block has 1 to {BLOCK_BYTES_MAX} bytes, not {0}")]
    BadLength(usize),
    #[error("the disk is full: {free_bytes} bytes are free")]
    Full { free_bytes: u64 },
    #[error("the block store takes no writes until the node starts again: {reason}")]
    ReadOnly { reason: String },
    #[error("the block store cannot be used: {reason}")]
    Unavailable { reason: String },
}

/// Blocks by hash. All of it may be called from async code: what blocks runs on threads of its own.
///
/// A call whose future is dropped may still take effect.
#[async_trait]
pub trait BlockStore: Send + Sync + 'static {
    /// Stores a block and returns when it is durable. Storing what is there already is cheap: it makes sure that the copy is
    /// good and raises its `put_index`, which orders this put and a later collection of the same block.
    ///
    /// # Errors
    /// [`StoreError::HashMismatch`] and [`StoreError::BadLength`] for what is no block; [`StoreError::Full`],
    /// [`StoreError::ReadOnly`] and [`StoreError::Unavailable`] when this store cannot.
    async fn put(&self, hash: BlockHash, bytes: Bytes, put_index: u64) -> Result<(), StoreError>;

    /// The bytes of a block, verified.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Damaged`] when the copy proves bad or is known to be;
    /// [`StoreError::Unavailable`] when nothing can be said about it now, as the process has too many files open for example.
    async fn get(&self, hash: BlockHash) -> Result<Bytes, StoreError>;

    /// Which of these are here and not in quarantine, in the same order. Looks at names, not at bytes.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn has(&self, hashes: Vec<BlockHash>) -> Result<Vec<bool>, StoreError>;

    /// As [`BlockStore::has`], after reading each copy from disk and settling its state as [`BlockStore::verify`] does.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn has_good(&self, hashes: Vec<BlockHash>) -> Result<Vec<bool>, StoreError> {
        let mut good = Vec::with_capacity(hashes.len());
        for hash in hashes {
            good.push(match self.verify(hash).await {
                Ok(()) => true,
                Err(error @ StoreError::Unavailable { .. }) => return Err(error),
                Err(_) => false,
            });
        }
        Ok(good)
    }

    /// Reads the copy from disk and settles its state: into quarantine when it is bad, out of it when it is good after all.
    ///
    /// # Errors
    /// As for [`BlockStore::get`].
    async fn verify(&self, hash: BlockHash) -> Result<(), StoreError>;

    /// Forgets a block if `condition` holds for the copy at that moment, one in quarantine too. Whether it was deleted; no
    /// harm if it is not there. A put of the same block happens either before, and `condition` sees what it left, or after.
    /// Durable a little later: a copy that comes back after a crash is garbage that will be collected again.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] and [`StoreError::Unavailable`].
    async fn delete_if(
        &self,
        hash: BlockHash,
        condition: Box<DeleteCondition>,
    ) -> Result<bool, StoreError>;

    /// For each of these whether a copy is here and not in quarantine; if so, its `put_index` is at least this from now on, as if
    /// it had been put again, and durably so when this returns. Looks at names, not at bytes. No copy is deleted in between.
    ///
    /// # Errors
    /// [`StoreError::ReadOnly`] and [`StoreError::Unavailable`].
    async fn keep(&self, hashes: Vec<BlockHash>, put_index: u64) -> Result<Vec<bool>, StoreError>;

    /// Up to `limit` blocks in the order of their hashes, `from` (inclusive) to `to` (inclusive). A placement group is such
    /// a range.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, StoreError>;

    /// As [`BlockStore::list`] for the copies in quarantine: what nobody needs has to go from there as well.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn list_quarantined(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, StoreError>;

    /// How much there is. Costs nothing.
    fn stats(&self) -> StoreStats;

    /// Whether it takes new blocks.
    fn condition(&self) -> StoreCondition;
}
