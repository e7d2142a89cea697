//! What nodes say to each other: the messages and services of `proto/*.proto`, generated, and nothing else.
//!
//! Whoever converts between these messages and the cluster's own types does it in `node`, in one place.

#![allow(
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "generated code follows its generator's habits"
)]

mod generated {
    include!(concat!(env!("OUT_DIR"), "/reelraft.rs"));
}

pub use generated::reelraft::admin::v1 as admin;
pub use generated::reelraft::blocks::v1 as blocks;
pub use generated::reelraft::cluster::v1 as cluster;
pub use generated::reelraft::join::v1 as join;
pub use generated::reelraft::operations::v1 as operations;
pub use generated::reelraft::raft::v1 as raft;
pub use generated::reelraft::repair::v1 as repair;
