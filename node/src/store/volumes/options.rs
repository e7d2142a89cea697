//! How volumes and rows are set up, and why.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    Options,
};

use crate::store::FREE_BYTES_MIN;

/// A row about each block.
pub(super) const META: &str = "meta";
/// The tail of each volume.
pub(super) const VOLUMES: &str = "volumes";

const MIB: u64 = 1024 * 1024;

/// What a node may set.
#[derive(Clone, Debug)]
pub struct VolumeOptions {
    /// Bytes after which the next volume is begun. A terabyte is a thousand files, and on a file system that cannot punch
    /// holes space comes back in pieces of this size.
    pub volume_bytes: u64,
    /// Bytes for caching rows. Bytes of blocks are not cached here but by the kernel, and by the node after they were
    /// verified.
    pub rows_cache_bytes: u64,
    /// Blocks are refused when the file system has fewer bytes free than this, so that rows never meet a full disk and what
    /// is deleted can be.
    pub free_bytes_min: u64,
}

impl Default for VolumeOptions {
    fn default() -> Self {
        Self {
            volume_bytes: 1024 * MIB,
            rows_cache_bytes: 16 * MIB,
            free_bytes_min: FREE_BYTES_MIN,
        }
    }
}

/// Some 30,000 rows, that is 45 GiB of blocks. One that is being filled and one that is being written.
const ROWS_BUFFER_BYTES: usize = 4 << 20;
const ROWS_BUFFERS: i32 = 2;

/// Bounds how much log must be read again at start.
const LOG_BYTES_MAX: u64 = 16 * MIB;

/// Files of rows are short and few: a hundred million rows need a thousand.
const OPEN_FILES_MAX: i32 = 128;

/// RocksDB's own log of what it does, which is only ever read after something went wrong.
const INFO_LOG_BYTES: usize = 4 * 1024 * 1024;
const INFO_LOG_FILES: usize = 4;

pub(super) fn database() -> Options {
    let mut database = Options::default();
    database.create_if_missing(true);
    database.create_missing_column_families(true);
    // The log's last records may be torn by a crash. The rows that were in them are made again from the volumes.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database.set_max_total_wal_size(LOG_BYTES_MAX);
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

pub(super) fn column_families(options: &VolumeOptions) -> Vec<ColumnFamilyDescriptor> {
    let cache =
        Cache::new_lru_cache(usize::try_from(options.rows_cache_bytes).unwrap_or(usize::MAX));
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&cache);
    tables.set_bloom_filter(10.0, false);
    // Filters and indexes count against the same bound; without this they would grow with the number of blocks.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_format_version(5);

    let mut rows = Options::default();
    rows.set_block_based_table_factory(&tables);
    rows.set_write_buffer_size(ROWS_BUFFER_BYTES);
    rows.set_max_write_buffer_number(ROWS_BUFFERS);
    rows.set_compression_type(DBCompressionType::Lz4);
    rows.set_target_file_size_base(4 * MIB);
    rows.set_max_bytes_for_level_base(64 * MIB);

    vec![
        ColumnFamilyDescriptor::new(META, rows.clone()),
        ColumnFamilyDescriptor::new(VOLUMES, rows),
    ]
}
