//! The daemon and the operator's tool: the only crate that acts.
//!
//! Everything else in the workspace decides or describes; this crate owns the disks, the sockets, the clock and the child
//! processes, and joins the parts into one program.

mod allocator;
pub mod authority;
pub mod backend;
pub mod backup;
pub mod ballast;
pub mod cli;
pub mod config;
pub mod content;
pub mod credentials;
pub mod doctor;
pub mod files;
pub mod founding;
pub mod identity;
pub mod joining;
pub mod media;
pub mod metrics;
pub mod observe;
pub mod raft;
pub mod restore;
pub mod rpc;
pub mod run;
pub mod state;
pub mod store;
pub mod token;
pub mod watermark;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The time of this machine's clock, as the catalog counts it.
#[must_use]
pub fn now_ms() -> u64 {
    milliseconds(std::time::SystemTime::now())
}

/// A time as the catalog counts it: milliseconds since 1970.
#[must_use]
pub fn milliseconds(time: std::time::SystemTime) -> u64 {
    let since = time.duration_since(std::time::SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
