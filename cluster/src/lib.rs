//! What the cluster believes and decides.
//!
//! Every node holds the same **catalog**: tables of videos, blocks, jobs, nodes and the layout. The catalog changes in one
//! way only: a [`Command`](command::Command) from the Raft log is applied by [`apply::apply`]. Because each node applies the
//! same commands in the same order, and because this crate can see nothing but the command and the tables, all nodes arrive
//! at the same tables and the same replies.
//!
//! # Invariants
//!
//! - No clock, no randomness, no async, no disk, no network. Time is a field of each command; the dependency list and
//!   `cluster/clippy.toml` are the proof.
//! - `apply` accepts every command that can be decoded. A refusal is a [`Reply`](command::Reply), equal on all nodes. The only
//!   error it returns is that the view underneath could not be read, which stops the node rather than let it diverge.
//! - Only ordered maps are iterated in code that decides, and numbers are whole.
//! - The log never names bytes that are not yet durable on enough holders: whoever proposes a command that names blocks has
//!   put them first.
//! - A block's bytes never change; a block is named by the BLAKE3 hash of its bytes.
//!
//! # Vocabulary
//!
//! **node**, **role**, **catalog**, **block** (immutable bytes by hash), **placement group** (one of 1024 ranges of hashes),
//! **layout** (which nodes hold which group), **holder** (a node that the layout gives a block to), **source** (the uploaded
//! file as a list of blocks), **plan** (how a source becomes renditions), **rendition** (one rung of the ladder, or the
//! audio), **segment**, **piece** (a run of segments that is encoded as one job), **job**, **lease**, **frontier** (how much
//! of a video can be played now), **member** (a node that was admitted), **token** (lets nodes join), **authority** (signs the
//! members' certificates).
//!
//! # Where to read on
//!
//! [`command`] is what can be asked for, [`apply`] what it does, [`tables`] what it does it to. [`catalog`] answers questions,
//! [`playback`] says what a player may see, [`placement`] where blocks belong, [`duties`] what a node should hold,
//! [`lifecycle`] who should vote.
//! [`clock`] is the time that a leader gives to commands, [`features`] which of them may be proposed while programs differ,
//! [`invariants`] what is always true.

// Floats round differently from machine to machine.
#![deny(clippy::float_arithmetic)]

pub mod apply;
pub mod catalog;
pub mod clock;
pub mod codec;
pub mod collection;
pub mod command;
pub mod duties;
pub mod features;
pub mod ids;
pub mod invariants;
pub mod jobs;
pub mod lifecycle;
pub mod placement;
pub mod plan;
pub mod playback;
#[cfg(test)]
mod simulation;
pub mod table;
pub mod tables;
#[cfg(test)]
mod testing;
pub mod view;
