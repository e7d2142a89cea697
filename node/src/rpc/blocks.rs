//! Blocks between nodes: the service that other nodes call, and the client that calls theirs.
//!
//! Neither side trusts the other. A receiver hashes what it is sent before it stores it, a reader hashes what it was
//! answered before it uses it; the connection may have changed the bytes without noticing, and so may a disk.
//!
//! # Memory
//!
//! A block is in memory whole while it passes through here, decoded on the way in and encoded on the way out. So each call
//! says beforehand how many bytes it is about, in a header, and the service lets in only as many as fit its budget
//! ([`budget`]); the others wait unread, held back by the connection's flow control.

mod budget;
mod client;
mod server;

pub use budget::Budgeted;
pub use client::BlocksClient;
use std::time::Duration;

pub use server::{BlocksService, Confirms, service};

/// Says how many bytes of blocks a call carries, in either direction. Decimal.
const BLOCK_BYTES_HEADER: &str = "reelraft-block-bytes";

/// Hashes in one `Has` call: 128 KiB of them.
pub const HAS_MAX: usize = 4096;

/// Hashes in one `Confirm` call: each costs a row that is written.
pub const CONFIRM_MAX: usize = 1024;

/// How long a `Confirm` waits for the log. A node that is further behind is asked again later.
pub const CONFIRM_WAIT_MAX: Duration = Duration::from_secs(5);
