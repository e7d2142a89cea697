//! The gateway from outside, over a node that lives in memory: what each address answers, and what it answers when the
//! cluster behind it is not well.

#![allow(
    clippy::unwrap_used,
    reason = "the clippy setting for tests does not reach helpers of integration tests"
)]

mod clip;
mod cluster_page;
mod errors;
mod events;
mod memory;
mod playback;
mod site;
mod sockets;
mod uploads;
mod videos;
mod views;
mod web;
