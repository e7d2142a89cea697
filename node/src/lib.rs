//! The daemon and the operator's tool: the only crate that acts.
//!
//! Everything else in the workspace decides or describes; this crate owns the disks, the sockets, the clock and the child
//! processes, and joins the parts into one program.

mod allocator;
pub mod backend;
pub mod backup;
pub mod bootstrap;
pub mod cli;
pub mod config;
pub mod content;
pub mod doctor;
pub mod identity;
pub mod media;
pub mod metrics;
pub mod observe;
pub mod raft;
pub mod restore;
pub mod rpc;
pub mod run;
pub mod state;
pub mod store;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
