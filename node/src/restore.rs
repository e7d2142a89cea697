//! A new cluster of one node on an old catalog.
//!
//! After a backup, or after [salvaging](crate::raft::salvage) what one node still had, the catalog becomes the beginning of
//! a cluster with an identity of its own ([`cluster::apply::rebirth`] says why). Other nodes join it as they join any
//! cluster; those that keep their directory of blocks bring their copies along.
//!
//! # Invariants
//!
//! - Only a directory that belongs to no node is written to, and a backup that turns out to be damaged leaves no database in it.
//! - The node's identity is written after everything else: a crash before leaves databases without one, which are refused at
//!   every start.
//! - An old node's directory is read, but for its blocks: these move to the new one, by a rename, when everything else is there
//!   but the identity. A node that was recovered is then told that it went on elsewhere, before the new one gets its identity.
//! - Both directories are locked from the first look to the end.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, ensure};
use cluster::apply::{Rebirth, rebirth};
use cluster::ids::NodeId;
use cluster::tables::authority::{AuthorityRow, PrivateKey};
use cluster::view::Transaction;

use crate::authority::{Authority, CERTIFICATE_LIFE, SigningRequest};
use crate::backup::{self, Reader, Summary};
use crate::files;
use crate::identity::{DataDir, Identity, RECOVERED_FILE, SALVAGED_DIR, random_id};
use crate::milliseconds;
use crate::raft::{self, salvage};
use crate::rpc::envelope::LocalNode;
use crate::state::StateDb;

/// A cluster that began with an old catalog.
#[derive(Clone, Debug)]
pub struct Restored {
    pub identity: Identity,
    pub summary: Summary,
}

/// Makes `to` the directory of the first node of a new cluster, which goes on with the catalog in `backup`. The blocks of
/// the old node in `blocks` become the new one's.
///
/// # Errors
/// When `to` is not empty, the backup is damaged, the old node runs, or the disk fails.
pub async fn restore<R: Read>(
    backup: Reader<R>,
    to: &Path,
    blocks: Option<&Path>,
    actor: &str,
) -> anyhow::Result<Restored> {
    // Held to the end: nobody may start the old node while its blocks move.
    let old = blocks.map(DataDir::open_present).transpose()?;
    let new = DataDir::open(to)?;
    let restored = go_on(backup, &new, old.as_ref(), actor, |_| Ok(())).await?;
    new.close();
    if let Some(old) = old {
        old.close();
    }
    Ok(restored)
}

/// Makes `new` the directory of the first node of a new cluster, as [`restore`] says. `seal` is told the new identity when all
/// is there but that.
async fn go_on<R: Read>(
    backup: Reader<R>,
    new: &DataDir,
    old: Option<&DataDir>,
    actor: &str,
    seal: impl FnOnce(&Identity) -> anyhow::Result<()>,
) -> anyhow::Result<Restored> {
    refuse_leftovers(new)?;
    let (cluster_id, now) = (random_id(), SystemTime::now());
    let authority = Authority::create(cluster_id, now)?;
    let key = new.tls().key()?;
    let birth = Rebirth {
        cluster_id,
        authority: AuthorityRow {
            certificate_der: authority.certificate().to_vec(),
            key_der: PrivateKey(authority.key_der().to_vec()),
            created_ms: milliseconds(now),
        },
        founder: key.public_key_hash(),
        time_ms: milliseconds(now),
        actor: actor.to_owned(),
    };
    if let Some(old) = old {
        check_blocks(old, new)?;
    }
    let (first, summary) = restore_catalog(backup, new, &birth).await?;
    let request = SigningRequest::parse(&key.request()?)?;
    let certificate = authority.sign(&request, cluster_id, first, now, CERTIFICATE_LIFE)?;
    new.tls().store(&certificate, authority.certificate())?;
    if let Some(old) = old {
        move_blocks(old, new)?;
    }
    let identity = Identity::new(cluster_id, first, Vec::new());
    seal(&identity)?;
    new.adopt_restored(&identity)?;
    Ok(Restored { identity, summary })
}

/// What a node still had, and the cluster that goes on with it.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub old: Identity,
    /// The last entry of the log that was taken over, and the last one that the node knew to be decided.
    pub index: u64,
    pub decided: u64,
    pub restored: Restored,
}

/// Makes `to` the directory of the first node of a new cluster, which goes on with what the node in `from` has: its
/// catalog, all of its log, and its blocks.
///
/// # Errors
/// When the old node runs or its files are damaged, `to` is not empty, or the disk fails.
pub async fn recover(from: &Path, to: &Path, actor: &str) -> anyhow::Result<Recovered> {
    // Both are held to the end: whatever starts the old node by itself must not get in between.
    let old = DataDir::open_present(from)?;
    let identity = old.identity()?.with_context(|| {
        format!("{} belongs to no node: there is nothing to recover", from.display())
    })?;
    let new = DataDir::open(to)?;
    refuse_leftovers(&new)?;
    ensure!(
        new.identity()?.is_none(),
        "{} belongs to a node already: recover to an empty directory",
        to.display()
    );
    let local = LocalNode { cluster_id: identity.cluster_id, node_id: identity.node_id };
    let scratch = new.path().join(SALVAGED_DIR);
    ensure!(files::is_empty(&scratch)?, "{} is left from an earlier attempt", scratch.display());
    let file = new.path().join(RECOVERED_FILE);
    let salvaged = salvage(&old.state(), &old.raft(), local, &scratch).await?;
    let mut out = BufWriter::new(File::create(&file)?);
    backup::write(&salvaged.state, salvaged.index, &mut out)?;
    out.flush()?;
    out.get_ref().sync_all()?;
    let (index, decided) = (salvaged.index, salvaged.decided);
    drop(salvaged);
    fs::remove_dir_all(&scratch).with_context(|| format!("remove {}", scratch.display()))?;

    let backup = Reader::open(BufReader::new(File::open(&file)?))?;
    // The old node is told before the new one is one: never can both be started.
    let seal = |next: &Identity| old.mark_continued(&identity, next, new.path());
    let restored = go_on(backup, &new, Some(&old), actor, seal).await?;
    fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    new.close();
    old.close();
    Ok(Recovered { old: identity, index, decided, restored })
}

/// What an attempt that broke off has left is nobody's. Only its blocks are worth anything.
fn refuse_leftovers(new: &DataDir) -> anyhow::Result<()> {
    let left = !files::is_empty(&new.state())? || !files::is_empty(&new.raft())?;
    ensure!(
        !left || DataDir::has_identity(new.path()),
        "{0} is left from an attempt that broke off: move {1}, if it is there, back to where it came from, delete {0}, and repeat \
         this",
        new.path().display(),
        new.content().display()
    );
    Ok(())
}

/// Finds out before anything is written what would keep the blocks from being moved.
fn check_blocks(old: &DataDir, new: &DataDir) -> anyhow::Result<()> {
    let to = new.content();
    ensure!(files::is_empty(&to)?, "{} is not empty: it would be replaced", to.display());
    ensure!(
        fs::metadata(old.path())?.dev() == fs::metadata(new.path())?.dev(),
        "{} and {} are on different file systems: choose a directory beside the old one, to which its blocks can be moved",
        old.path().display(),
        new.path().display()
    );
    Ok(())
}

fn move_blocks(old: &DataDir, new: &DataDir) -> anyhow::Result<()> {
    let (from, to) = (old.content(), new.content());
    if !from.exists() {
        return Ok(());
    }
    fs::rename(&from, &to).with_context(|| {
        format!(
            "move the blocks from {} to {} (they have to be on the same file system)",
            from.display(),
            to.display()
        )
    })?;
    for directory in [old.path(), new.path()] {
        files::sync_directory(directory)?;
    }
    Ok(())
}

/// Makes the databases of the first node of `new` in `data_dir`, from the rows that `backup` yields. Returns the node's id.
///
/// # Errors
/// When the directory is not empty, the backup is damaged, or the disk fails.
async fn restore_catalog<R: Read>(
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
        ensure!(
            files::is_empty(path)?,
            "{} is not empty: restore to an empty directory",
            path.display()
        );
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

#[cfg(test)]
mod tests;
