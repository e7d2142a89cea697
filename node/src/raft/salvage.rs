//! The catalog of a node that does not run, as new as the node can tell: for when the others are lost.
//!
//! The catalog on disk ends at the last entry that the node applied. Its log may have more: entries that it never heard to
//! be decided. Among them may be writes that were acknowledged, because a majority had them, and writes that nobody was
//! told of; taking all of them loses as little as can be lost. The node's own files stay as they are: should the others come
//! back after all, it must not have gone ahead of them.

use std::io;
use std::path::{Path, PathBuf};

use cluster::apply::apply;
use cluster::view::Transaction;
use openraft::EntryPayload;
use openraft::storage::{RaftLogReader, RaftLogStorage};

use super::log_store::{LogStore, LogStoreError};
use super::state_machine::position;
use crate::rpc::envelope::LocalNode;
use crate::state::{StateDb, StateError};

/// A copy of a catalog, with what the log had beyond it.
#[derive(Debug)]
pub struct Salvaged {
    pub state: StateDb,
    /// The last entry in it.
    pub index: u64,
    /// The last entry that the node knew to be decided.
    pub decided: u64,
}

/// Why there is nothing to be had.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error("read the log: {0}")]
    Io(#[from] io::Error),
    #[error(
        "the log in {0} begins after what the catalog has: the node received a snapshot and did not install it. Start it once \
         with `reelraft serve`, which does that, stop it, and try again"
    )]
    Gap(PathBuf),
}

/// Copies the catalog of the node `local`, whose directories are `state_dir` and `raft_dir`, to `scratch`, which must not
/// exist, and applies the rest of its log to the copy.
///
/// # Errors
/// When the node's files are damaged or in use, or `scratch` cannot be written.
pub async fn salvage(
    state_dir: &Path,
    raft_dir: &Path,
    local: LocalNode,
    scratch: &Path,
) -> Result<Salvaged, SalvageError> {
    let state = {
        let original = StateDb::open(state_dir)?;
        let checkpoint = scratch.join("checkpoint");
        std::fs::create_dir_all(scratch)?;
        original.checkpoint(&checkpoint)?;
        let copy = StateDb::open(&scratch.join("state"))?;
        copy.replace(&checkpoint)?;
        copy
    };
    let mut log = LogStore::open(raft_dir, local)?;
    let applied = position(&state)?.map_or(0, |applied| applied.index);
    if log.purged().is_some_and(|purged| purged.index > applied) {
        return Err(SalvageError::Gap(raft_dir.to_owned()));
    }
    let decided = log.read_committed().await?.map_or(0, |committed| committed.index).max(applied);
    let end = log.get_log_state().await?.last_log_id.map_or(0, |last| last.index) + 1;
    let mut next = applied + 1;
    while next < end {
        let entries = log.limited_get_log_entries(next, end).await?;
        let mut transaction = Transaction::new(&state);
        for entry in &entries {
            if let EntryPayload::Normal(logged) = &entry.payload {
                let command = logged.decode().map_err(io::Error::other)?;
                apply(&mut transaction, entry.log_id.index, &command).map_err(io::Error::other)?;
            }
        }
        let Some(last) = entries.last() else { break };
        next = last.log_id.index + 1;
        state.write(&transaction.into_batch(), &[])?;
    }
    Ok(Salvaged { state, index: next - 1, decided })
}
