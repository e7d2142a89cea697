//! What an operator may choose about the gateway. Everything else that is bounded is a constant beside the code it bounds.

use std::time::Duration;

/// Chosen once at the start of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What the site calls itself.
    pub site_name: String,
    /// The largest file that is accepted.
    pub upload_bytes_max: u64,
    /// Whether people without an account may upload.
    pub anonymous_upload: bool,
    /// Whether uploaded files stay after their video is ready.
    pub keep_source: bool,
    /// Connections served at the same time. Further ones wait in the kernel's queue, which costs them time but us nothing.
    pub connections_max: usize,
    /// How long a new connection may take until the head of its first request has arrived. It holds one of the connections
    /// above meanwhile.
    pub first_request: Duration,
    /// Uploads at the same time; each may hold one block of [`BLOCK_BYTES`](crate::upload::BLOCK_BYTES) while it is filled.
    pub uploads_max: usize,
    /// Blocks of one upload that are on their way to their holders at the same time. More of them hide the latency of a
    /// group commit; each costs its size in memory.
    pub upload_blocks_in_flight: usize,
    /// The same bound for all uploads of this node together.
    pub upload_blocks_in_flight_total: usize,
    /// How long an upload may send nothing before it counts as broken off.
    pub upload_idle: Duration,
    /// How long an upload waits for a cluster that has lost its majority or its holders before it gives up.
    pub upload_patience: Duration,
    /// How long connections may take to finish what they are doing when the node stops.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            site_name: "Reelraft".to_owned(),
            upload_bytes_max: 1 << 30,
            anonymous_upload: true,
            keep_source: false,
            connections_max: 4096,
            first_request: Duration::from_secs(10),
            uploads_max: 32,
            upload_blocks_in_flight: 4,
            upload_blocks_in_flight_total: 16,
            upload_idle: Duration::from_secs(30),
            upload_patience: Duration::from_secs(30),
            drain: Duration::from_secs(10),
        }
    }
}
