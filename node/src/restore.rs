//! A new cluster of one node on an old catalog.
//!
//! After a backup, or after [salvaging](crate::raft::salvage) what one node still had, the catalog becomes the beginning of
//! a cluster with an identity of its own ([`cluster::apply::rebirth`] says why). Other nodes join it as they join any
//! cluster; those that keep their directory of blocks bring their copies along.
//!
//! # Invariants
//!
//! - Only a directory that belongs to no node is written to, and a backup that turns out to be damaged leaves it empty.
//! - The node's identity is written after everything else, by the caller: a crash before leaves databases without one,
//!   which are refused at every start.

use std::fs;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, ensure};
use cluster::apply::{Rebirth, rebirth};
use cluster::ids::NodeId;
use cluster::view::Transaction;

use crate::backup::{Reader, Summary};
use crate::identity::DataDir;
use crate::raft;
use crate::rpc::envelope::LocalNode;
use crate::state::StateDb;

/// Makes the databases of the first node of `new` in `data_dir`, from the rows that `backup` yields. Returns the node's id.
///
/// # Errors
/// When the directory is not empty, the backup is damaged, or the disk fails.
pub async fn restore<R: Read>(
    backup: Reader<R>,
    data_dir: &DataDir,
    new: &Rebirth,
) -> anyhow::Result<(NodeId, Summary)> {
    ensure!(
        data_dir.identity()?.is_none(),
        "{} belongs to a node already: restore to an empty directory",
        data_dir.path().display()
    );
    let (state_dir, raft_dir) = (data_dir.state(), data_dir.raft());
    for path in [&state_dir, &raft_dir] {
        ensure!(is_empty(path)?, "{} is not empty: restore to an empty directory", path.display());
    }
    let restored = fill(backup, &state_dir, &raft_dir, new).await;
    if restored.is_err() {
        for path in [&state_dir, &raft_dir] {
            // What cannot be removed is refused at the next start, with its path.
            let _ = fs::remove_dir_all(path);
        }
    }
    restored
}

async fn fill<R: Read>(
    mut backup: Reader<R>,
    state_dir: &Path,
    raft_dir: &Path,
    new: &Rebirth,
) -> anyhow::Result<(NodeId, Summary)> {
    let state = StateDb::open(state_dir)?;
    while let Some(rows) = backup.next_rows()? {
        state.write(&rows, &[])?;
    }
    let summary = backup.summary();
    let index = summary.header.index + 1;
    let mut transaction = Transaction::new(&state);
    let first = rebirth(&mut transaction, index, new).context("take over the catalog")?;
    let batch = transaction.into_batch();
    let local = LocalNode { cluster_id: new.cluster_id, node_id: first };
    raft::seed(&state, &batch, index, raft_dir, local).await?;
    Ok((first, summary))
}

fn is_empty(path: &Path) -> anyhow::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error).with_context(|| format!("list {}", path.display())),
    }
}

#[cfg(test)]
mod tests;
