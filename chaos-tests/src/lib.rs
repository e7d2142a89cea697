//! Drives real clusters from outside, as a stranger would.
//!
//! Nothing here links against the node: a cluster is a set of `reelraft serve` processes with their own data directories and
//! ports, spoken to over the public HTTP interface and killed with signals. What the scenarios in `tests/` and the
//! benchmarks in `src/bin/` have in common lives here: the [`cluster`] harness, the [`client`] that uploads and reads the
//! JSON, the [`player`] that watches a video as a player would and remembers every byte it was given, the [`clips`] to
//! upload, the [`faults`], and the [`outcome`] that every video must have, and what is [`moving`]
//! between nodes. For the catalog there are the [`workload`] of many
//! writers and readers, the [`history`] of what they were told with its checker, the comparison of [`catalogs`], a [`network`] whose
//! cables can be cut or slow, a [`clock`] that can be wrong, and a [`disk`] that can be full. For the bytes there is a [`library`] that people
//! use all the time.
//!
//! # Rules
//!
//! - Only processes that the harness started are ever signalled.
//! - Nothing waits for a time to pass, only for conditions, each with a deadline that fails loudly.
//! - Ports are free ones, directories temporary ones.

pub mod catalogs;
pub mod client;
pub mod clips;
pub mod clock;
pub mod cluster;
pub mod disk;
pub mod faults;
pub mod history;
pub mod leaving;
pub mod library;
pub mod moving;
pub mod network;
pub mod outcome;
pub mod player;
pub mod wait;
pub mod workload;
