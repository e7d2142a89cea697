//! How consensus is timed and how much log it keeps.

use std::sync::Arc;

use openraft::{Config, SnapshotPolicy, StepDownPolicy};

/// The settings of consensus. The defaults suit nodes in one building; nodes farther apart need longer times.
///
/// When a leader dies, the others wait until the last sign of life is `election_max_ms` old, then each a random time between
/// `election_min_ms` and `election_max_ms`, and the first to ask becomes leader. So writes stop for about
/// `election_max_ms + election_min_ms`, and a leader that cannot be heard for that long loses its office.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftSettings {
    /// Between two signs of life of the leader, in milliseconds.
    pub heartbeat_ms: u64,
    /// The shortest wait before a node asks for votes, in milliseconds. Several heartbeats, and above the slowest fsync.
    pub election_min_ms: u64,
    /// The longest, in milliseconds; also how long a leader is trusted after it was last heard of.
    pub election_max_ms: u64,
    /// Entries after which a snapshot is made.
    pub snapshot_every_entries: u64,
    /// The shortest pause between two of them, in milliseconds: under load they would follow each other within seconds, and
    /// each brings to disk what is in memory. Until the pause is over the log grows beyond `keep_entries`.
    pub snapshot_pause_ms: u64,
    /// Entries that are kept although a snapshot has them, so that a node which was away for a while catches up from the
    /// log. Must exceed `snapshot_every_entries`, or a node that has just received a snapshot would need the next one.
    pub keep_entries: u64,
    /// How long the disk of the log may leave a write unfinished before this node stops leading, in milliseconds. Far above
    /// what a healthy disk needs at its worst.
    pub stall_ms: u64,
    /// How long before the process ends, in milliseconds.
    pub hang_ms: u64,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat_ms: 80,
            election_min_ms: 300,
            election_max_ms: 500,
            snapshot_every_entries: 20_000,
            snapshot_pause_ms: 10_000,
            keep_entries: 50_000,
            stall_ms: 3_000,
            hang_ms: 15_000,
        }
    }
}

/// Settings that contradict each other.
#[derive(Debug, thiserror::Error)]
#[error("the settings of consensus cannot be used: {0}")]
pub struct SettingsError(String);

/// How long a receiver may take to install a snapshot after its last part, in milliseconds.
const INSTALL_TIMEOUT_MS: u64 = 60_000;

/// The fewest entries that are removed from the log at once: each removal leaves a mark that reads have to step over.
const PURGE_BATCH: u64 = 1024;

/// The most entries in one message; a message is bounded in bytes as well where entries are read.
const MESSAGE_ENTRIES_MAX: u64 = 256;

impl RaftSettings {
    /// What openraft is started with.
    pub(super) fn config(&self) -> Result<Arc<Config>, SettingsError> {
        if self.keep_entries <= self.snapshot_every_entries {
            return Err(SettingsError(format!(
                "keep_entries ({}) must exceed snapshot_every_entries ({})",
                self.keep_entries, self.snapshot_every_entries
            )));
        }
        if self.stall_ms == 0 || self.hang_ms <= self.stall_ms {
            return Err(SettingsError(format!(
                "hang_ms ({}) must exceed stall_ms ({})",
                self.hang_ms, self.stall_ms
            )));
        }
        let config = Config {
            cluster_name: "reelraft".to_owned(),
            heartbeat_interval: self.heartbeat_ms,
            election_timeout_min: self.election_min_ms,
            election_timeout_max: self.election_max_ms,
            // A node that was cut off must not depose a leader that works when it comes back.
            enable_pre_vote: Some(true),
            // A leader that reaches no majority falls silent at times, so that those who reach each other can elect one.
            // Twice the longest election timeout at least.
            quorum_loss_probe_interval: Some((2 * self.election_max_ms).max(3000)),
            enable_leader_restore: Some(false),
            removed_leader_step_down: StepDownPolicy::After(500),
            max_payload_entries: MESSAGE_ENTRIES_MAX,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every_entries),
            max_in_snapshot_log_to_keep: self.keep_entries,
            replication_lag_threshold: self.keep_entries,
            purge_batch_size: PURGE_BATCH.min(self.snapshot_every_entries),
            install_snapshot_timeout: INSTALL_TIMEOUT_MS,
            ..Config::default()
        };
        config.validate().map(Arc::new).map_err(|error| SettingsError(error.to_string()))
    }
}
