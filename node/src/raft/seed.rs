//! A beginning for a catalog that comes from elsewhere: from a backup, or from a node that lost its cluster.
//!
//! The catalog stands at some entry of a log that nobody has any more. The new log begins after that entry, as if
//! everything before had been removed from it, and has one voter. Nodes that join get the catalog as a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use cluster::codec;
use cluster::view::WriteBatch;
use openraft::Membership;
use openraft::storage::RaftLogStorage;
use openraft::vote::RaftLeaderId;

use super::log_store::{LogStore, LogStoreError};
use super::state_machine::{APPLIED_KEY, MEMBERSHIP_KEY};
use super::types::{LogId, Member, StoredMembership, Vote};
use crate::rpc::envelope::LocalNode;
use crate::state::{StateDb, StateError};

/// The term of the one who put the catalog there. The first election is one later.
const TERM: u64 = 1;

/// Why a catalog got no log.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Log(#[from] LogStoreError),
    #[error("write the beginning of the log: {0}")]
    Io(#[from] io::Error),
}

/// Writes `last` to the catalog, which is then at entry `index`, and makes the log in `raft_dir`, which must not exist. The
/// only voter is `local`.
///
/// # Errors
/// When the disk fails. Neither of the two can be used then.
pub async fn seed(
    state: &StateDb,
    last: &WriteBatch,
    index: u64,
    raft_dir: &Path,
    local: LocalNode,
) -> Result<(), SeedError> {
    let node = local.node_id.0;
    let vote = Vote::new(TERM, node);
    let applied = LogId::new(vote.leader_id.to_committed(), index);
    let members = BTreeMap::from([(node, Member::default())]);
    let membership = Membership::new(vec![BTreeSet::from([node])], members)
        .map_err(|error| io::Error::other(error.to_string()))?;
    let membership = StoredMembership::new(Some(applied), membership);
    let position = [
        (APPLIED_KEY, codec::encode(&Some(applied))),
        (MEMBERSHIP_KEY, codec::encode(&membership)),
    ];
    state.write(last, &position)?;
    state.sync()?;
    let mut log = LogStore::open(raft_dir, local)?;
    log.purge(applied).await?;
    // The fsync of the vote covers what was written before it.
    log.save_vote(&vote).await?;
    Ok(())
}
