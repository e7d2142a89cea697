//! How RocksDB is set up for blocks, and why.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    Options,
};

use crate::store::FREE_BYTES_MIN;

/// The bytes of blocks.
pub(super) const BLOCKS: &str = "blocks";
/// A row about each block.
pub(super) const META: &str = "meta";

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// What a node may set.
#[derive(Clone, Debug)]
pub struct RocksOptions {
    /// Bytes of block data collected in memory before they are written to a blob file. Up to [`MEMTABLES_MAX`] times as
    /// much is in use during uploads.
    pub write_buffer_bytes: u64,
    /// Bytes for caching names and where their bytes are. Bytes of blocks are not cached here but by the kernel, and by the
    /// node after they were verified.
    pub names_cache_bytes: u64,
    /// Writes are refused when the file system has fewer bytes free than this, so that RocksDB never meets a full disk in
    /// the middle of its log and there is room to compact what was deleted.
    pub free_bytes_min: u64,
}

impl Default for RocksOptions {
    fn default() -> Self {
        Self {
            // Small on purpose: larger buffers gave no more than a tenth in throughput, and each upload would raise the
            // process by all of them. The price is a blob file per 8 MiB written until collection joins them.
            write_buffer_bytes: 8 * MIB,
            names_cache_bytes: 16 * MIB,
            free_bytes_min: FREE_BYTES_MIN,
        }
    }
}

/// One that is being filled and one that is being written. A third gave nothing: writers wait for the disk in any case.
pub(super) const MEMTABLES_MAX: i32 = 2;

/// Shorter values stay beside their name: initialization segments and playlists, for which a second read would cost more than
/// carrying them through compactions.
pub(super) const BLOB_BYTES_MIN: u64 = 16 * KIB;

/// Collection works file by file; this is how much it rewrites at once.
const BLOB_FILE_BYTES: u64 = 256 * MIB;

/// Bounds how much log must be read again at start. All of it is there twice until then.
const LOG_BYTES_MAX: u64 = 128 * MIB;

/// Lets the kernel write in the background what it would otherwise write in one burst at the next fsync.
const BYTES_PER_SYNC: u64 = MIB;

/// Files open at the same time. There is a blob file per write buffer, so terabytes mean tens of thousands of them, and a
/// process may open far fewer.
const OPEN_FILES_MAX: i32 = 512;

/// RocksDB's own log of what it does, which is only ever read after something went wrong.
const INFO_LOG_BYTES: usize = 4 * 1024 * 1024;
const INFO_LOG_FILES: usize = 4;

pub(super) fn database(options: &RocksOptions) -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    // The log's last record may be torn by a crash. What it held was never acknowledged, or is on other nodes too.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database.set_max_total_wal_size(LOG_BYTES_MAX.max(2 * options.write_buffer_bytes));
    database.set_wal_bytes_per_sync(BYTES_PER_SYNC);
    database.set_bytes_per_sync(BYTES_PER_SYNC);
    database.set_max_open_files(OPEN_FILES_MAX);
    database.set_max_background_jobs(2);
    database.set_log_level(LogLevel::Warn);
    database.set_max_log_file_size(INFO_LOG_BYTES);
    database.set_keep_log_file_num(INFO_LOG_FILES);
    // Statistics of the tables written into the info log every ten minutes: nobody reads them.
    database.set_stats_dump_period_sec(0);
    database.set_stats_persist_period_sec(0);
    // Opening reads every table's properties otherwise, for the sake of compaction statistics.
    database.set_skip_stats_update_on_db_open(true);
    database
}

pub(super) fn column_families(options: &RocksOptions) -> Vec<ColumnFamilyDescriptor> {
    let cache =
        Cache::new_lru_cache(usize::try_from(options.names_cache_bytes).unwrap_or(usize::MAX));
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&cache);
    tables.set_bloom_filter(10.0, false);
    // Filters and indexes count against the same bound; without this they would grow with the number of blocks.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_format_version(5);

    let mut blocks = Options::default();
    blocks.set_block_based_table_factory(&tables);
    blocks.set_write_buffer_size(usize::try_from(options.write_buffer_bytes).unwrap_or(usize::MAX));
    blocks.set_max_write_buffer_number(MEMTABLES_MAX);
    blocks.set_compression_type(DBCompressionType::None);
    blocks.set_enable_blob_files(true);
    blocks.set_min_blob_size(BLOB_BYTES_MIN);
    blocks.set_blob_file_size(BLOB_FILE_BYTES);
    // Video does not compress.
    blocks.set_blob_compression_type(DBCompressionType::None);
    blocks.set_blob_compaction_readahead_size(4 * MIB);
    // Names are few and short: small files, so that a compaction is over soon.
    blocks.set_target_file_size_base(4 * MIB);
    blocks.set_max_bytes_for_level_base(64 * MIB);

    let mut meta = Options::default();
    meta.set_block_based_table_factory(&tables);
    // Some 60,000 rows, that is 90 GiB of blocks, unless the log's bound asks for it before.
    meta.set_write_buffer_size(4 * 1024 * 1024);
    meta.set_max_write_buffer_number(2);
    meta.set_compression_type(DBCompressionType::Lz4);
    meta.set_target_file_size_base(4 * MIB);
    meta.set_max_bytes_for_level_base(64 * MIB);

    vec![ColumnFamilyDescriptor::new(BLOCKS, blocks), ColumnFamilyDescriptor::new(META, meta)]
}
