//! The log passes openraft's own suite, loses nothing that was on disk, and refuses damage.

use std::fs;
use std::path::PathBuf;

use openraft::StorageError;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::snapshot::SnapshotStore;
use super::super::state_machine::StateMachine;
use super::*;
use crate::state::StateDb;

const OWNER: LocalNode = LocalNode { cluster_id: [3; 16], node_id: cluster::ids::NodeId(1) };

struct Builder;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let directory = tempfile::tempdir().unwrap();
        let log = LogStore::open(&directory.path().join("raft"), OWNER).unwrap();
        let path = directory.path().join("state");
        let state = Arc::new(StateDb::open(&path).unwrap());
        let snapshots = Arc::new(SnapshotStore::open(&path).unwrap());
        let machine = StateMachine::open(state, snapshots, watch::channel(0).0).unwrap();
        Ok((directory, log, machine))
    }
}

#[tokio::test]
async fn log_and_state_machine_pass_the_suite_of_openraft() {
    Suite::test_all(Builder).await.unwrap();
}

fn open(directory: &TempDir) -> Result<LogStore, LogStoreError> {
    LogStore::open(&directory.path().join("raft"), OWNER)
}

fn entry(index: u64) -> Entry {
    openraft::testing::blank_ent::<TypeConfig>(1, 1, index)
}

async fn append(store: &mut LogStore, indexes: impl IntoIterator<Item = u64>) {
    for index in indexes {
        store.blocking_append([entry(index)]).await.unwrap();
    }
}

async fn indexes(store: &mut LogStore) -> Vec<u64> {
    let entries = store.try_get_log_entries(..).await.unwrap();
    entries.iter().map(|entry| entry.log_id.index).collect()
}

/// The write-ahead log that is not empty.
fn write_ahead_log(directory: &TempDir) -> PathBuf {
    fs::read_dir(directory.path().join("raft"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .max_by_key(|path| fs::metadata(path).unwrap().len())
        .unwrap()
}

#[tokio::test]
async fn what_was_appended_is_there_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let vote = Vote::new_committed(7, 2);
    {
        let mut store = open(&directory).unwrap();
        store.save_vote(&vote).await.unwrap();
        append(&mut store, 0..100).await;
        store.purge(entry(9).log_id).await.unwrap();
        store.truncate_after(Some(entry(79).log_id)).await.unwrap();
        append(&mut store, 80..90).await;
        store.save_committed(Some(entry(85).log_id)).await.unwrap();
    }
    let mut store = open(&directory).unwrap();
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(entry(85).log_id));
    assert_eq!(indexes(&mut store).await, (10..90).collect::<Vec<_>>());
    let state = store.get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(entry(9).log_id));
    assert_eq!(state.last_log_id, Some(entry(89).log_id));
    // Memory is empty now, so this goes through the disk and on in memory.
    append(&mut store, 90..95).await;
    assert_eq!(indexes(&mut store).await, (10..95).collect::<Vec<_>>());
    let read = store.limited_get_log_entries(88, 93).await.unwrap();
    assert_eq!(read.len(), 5);
    let streamed: Vec<_> = {
        use futures::TryStreamExt;
        let entries = store.entries_stream(10..95).await;
        Box::pin(entries).try_collect().await.unwrap()
    };
    assert_eq!(streamed.len(), 85);
}

#[tokio::test]
async fn entries_must_follow_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory).unwrap();
    append(&mut store, 0..3).await;
    assert!(store.blocking_append([entry(4)]).await.is_err());
    assert!(store.blocking_append([entry(2)]).await.is_err());
    append(&mut store, 3..4).await;
}

#[tokio::test]
async fn a_write_that_was_cut_off_is_dropped() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(&directory).unwrap();
        append(&mut store, 0..50).await;
    }
    let path = write_ahead_log(&directory);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    let mut store = open(&directory).unwrap();
    assert_eq!(indexes(&mut store).await, (0..49).collect::<Vec<_>>());
    append(&mut store, 49..60).await;
    assert_eq!(indexes(&mut store).await.len(), 60);
}

#[tokio::test]
async fn damage_in_the_middle_is_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(&directory).unwrap();
        append(&mut store, 0..50).await;
    }
    let path = write_ahead_log(&directory);
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = open(&directory).err().unwrap();
    assert!(matches!(error, LogStoreError::Damaged { .. }));
    assert!(error.to_string().contains("join again as a new node"), "{error}");
}

#[tokio::test]
async fn a_missing_entry_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(&directory).unwrap();
        append(&mut store, 0..10).await;
        store.db().delete_cf(family(store.db(), LOG), key(4)).unwrap();
    }
    let error = open(&directory).err().unwrap();
    assert!(error.to_string().contains("entry 4 is missing"), "{error}");
}

#[tokio::test]
async fn the_log_of_another_node_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(&directory).unwrap());
    let other = LocalNode { node_id: cluster::ids::NodeId(2), ..OWNER };
    let error = LogStore::open(&directory.path().join("raft"), other).err().unwrap();
    assert!(matches!(error, LogStoreError::Foreign { found_node: 1, .. }));
}

#[tokio::test]
async fn a_missing_write_ahead_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(&directory).unwrap();
        append(&mut store, 0..50).await;
    }
    fs::remove_file(write_ahead_log(&directory)).unwrap();
    assert!(matches!(open(&directory).err(), Some(LogStoreError::Damaged { .. })));

    // An empty one in its place is no better, nor is a directory that was emptied.
    fs::write(directory.path().join("raft").join("000004.log"), b"").unwrap();
    assert!(matches!(open(&directory).err(), Some(LogStoreError::Damaged { .. })));
    for entry in fs::read_dir(directory.path().join("raft")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|name| name != CLAIMED) {
            fs::remove_file(path).unwrap();
        }
    }
    assert!(matches!(open(&directory).err(), Some(LogStoreError::Damaged { .. })));
}
