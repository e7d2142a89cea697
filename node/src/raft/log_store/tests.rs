//! The log passes openraft's own suite, loses nothing that was on disk, and refuses damage.

use std::fs;
use std::path::PathBuf;

use openraft::StorageError;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::super::announce::announcer;
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
        let health = log.health();
        let path = directory.path().join("state");
        let state = Arc::new(StateDb::open(&path).unwrap());
        let snapshots = Arc::new(SnapshotStore::open(&path).unwrap());
        let machine = StateMachine::open(state, snapshots, health, announcer().0).unwrap();
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
        settle(store).await;
    }
}

/// Waits for the mark, which is written after whoever waited for the disk has been told.
async fn settle(store: &LogStore) {
    while store.health().unfinished().is_some() {
        tokio::task::yield_now().await;
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
        append(&mut store, 80..88).await;
        store.save_committed(Some(entry(85).log_id)).await.unwrap();
        assert_eq!(store.read_committed().await.unwrap(), Some(entry(85).log_id));
        append(&mut store, 88..90).await;
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

/// Where the last mark of an fsync begins, with what RocksDB puts before its key.
fn last_mark(bytes: &[u8]) -> usize {
    memchr::memmem::rfind(bytes, durable_mark::KEY).unwrap() - 22
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
    // Before it was on disk: no mark says that it was.
    fs::write(&path, &bytes[..last_mark(&bytes) - 5]).unwrap();
    let mut store = open(&directory).unwrap();
    assert_eq!(indexes(&mut store).await, (0..49).collect::<Vec<_>>());
    append(&mut store, 49..60).await;
    assert_eq!(indexes(&mut store).await.len(), 60);
}

#[tokio::test]
async fn a_mark_that_was_cut_off_costs_nothing() {
    let directory = tempfile::tempdir().unwrap();
    {
        let mut store = open(&directory).unwrap();
        append(&mut store, 0..50).await;
    }
    let path = write_ahead_log(&directory);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
    assert_eq!(indexes(&mut open(&directory).unwrap()).await.len(), 50);
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

/// The marks tell it too. But they are only compared once the database has been opened, and has perhaps dropped what follows.
#[tokio::test]
async fn damage_in_the_middle_is_refused_by_the_database_alone() {
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
    let families = [LOG, META].map(|name| ColumnFamilyDescriptor::new(name, family_options()));
    let path = directory.path().join("raft");
    let error = DB::open_cf_descriptors(&database_options(), path, families).err().unwrap();
    assert_eq!(error.kind(), rocksdb::ErrorKind::Corruption, "{error}");
}

/// All that a node has promised to remember.
async fn promises(store: &mut LogStore) -> io::Result<(Option<Vote>, Vec<Entry>)> {
    Ok((store.read_vote().await?, store.try_get_log_entries(..).await?))
}

/// Opens what is in `directory`, and returns what it promises, or why it refuses.
async fn reopen(directory: &TempDir) -> Result<(Option<Vote>, Vec<Entry>), String> {
    let mut store = open(directory).map_err(|error| error.to_string())?;
    promises(&mut store).await.map_err(|error| error.to_string())
}

/// Whoever starts the node once more, because it did not start, gets no further: the first try may have left other files.
async fn refused_again(directory: &TempDir, expected: &(Option<Vote>, Vec<Entry>)) {
    if let Ok(promised) = reopen(directory).await {
        assert_eq!(promised, *expected, "forgotten by the second start");
    }
}

#[tokio::test]
async fn a_flipped_bit_anywhere_costs_no_promise() {
    // Once with everything in the write-ahead log, and once in a sorted file with more in the write-ahead log.
    let original = tempfile::tempdir().unwrap();
    let (mut found, mut harmless) = (0, 0);
    for first in [0, 20] {
        {
            let mut store = open(&original).unwrap();
            append(&mut store, first..first + 20).await;
            store.save_vote(&Vote::new_committed(first + 7, 2)).await.unwrap();
        }
        let copy = tempfile::tempdir().unwrap();
        copy_files(&original, &copy);
        let expected = reopen(&copy).await.unwrap();
        assert_eq!(expected.1.len() as u64, first + 20);
        for file in files(&original) {
            // What RocksDB writes for people, and does not need.
            let name = file.to_str().unwrap();
            if ["LOG", "LOCK", "OPTIONS"].iter().any(|other| name.starts_with(other)) {
                continue;
            }
            let path = original.path().join("raft").join(&file);
            let length = fs::metadata(&path).unwrap().len();
            for position in (0..length * 8).step_by((length as usize / 8) | 1) {
                let copy = tempfile::tempdir().unwrap();
                copy_files(&original, &copy);
                let target = copy.path().join("raft").join(&file);
                let mut bytes = fs::read(&target).unwrap();
                bytes[position as usize / 8] ^= 1 << (position % 8);
                fs::write(&target, bytes).unwrap();
                match reopen(&copy).await {
                    Err(_) => {
                        found += 1;
                        // Some of them are enough: each start takes its time.
                        if found % 8 == 0 {
                            refused_again(&copy, &expected).await;
                        }
                    }
                    Ok(promised) => {
                        let place = format!("bit {position} of {file:?} after {first}");
                        assert_eq!(promised, expected, "{place}");
                        harmless += 1;
                    }
                }
            }
        }
    }
    println!("{found} found, {harmless} harmless");
    assert!(found > harmless);
}

/// The bits that RocksDB cannot make sense of: those of lengths and kinds of records.
#[tokio::test]
async fn a_flipped_bit_in_the_head_of_a_record_costs_no_promise() {
    let original = tempfile::tempdir().unwrap();
    {
        let mut store = open(&original).unwrap();
        append(&mut store, 0..10).await;
        store.save_vote(&Vote::new_committed(7, 2)).await.unwrap();
    }
    let path = write_ahead_log(&original);
    let bytes = fs::read(&path).unwrap();
    let copy = tempfile::tempdir().unwrap();
    copy_files(&original, &copy);
    let expected = reopen(&copy).await.unwrap();
    let last = last_mark(&bytes);
    // The records of an entry in the middle and what follows, then that of the vote and its mark.
    let mut heads = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        heads.push(at);
        at += 7 + usize::from(u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]));
    }
    assert_eq!(at, bytes.len());
    assert_eq!(*heads.last().unwrap(), last);
    let mut silent = 0;
    for head in heads[6..9].iter().chain(&heads[heads.len() - 2..]) {
        for bit in 0..7 * 8 {
            let mut damaged = bytes.clone();
            damaged[head + bit / 8] ^= 1 << (bit % 8);
            let copy = tempfile::tempdir().unwrap();
            copy_files(&original, &copy);
            fs::write(copy.path().join("raft").join(path.file_name().unwrap()), damaged).unwrap();
            match reopen(&copy).await {
                Err(_) => refused_again(&copy, &expected).await,
                Ok(promised) => {
                    assert_eq!(promised, expected, "bit {bit} of the record at {head}");
                    silent += 1;
                }
            }
        }
    }
    // Damage to the last mark costs nothing.
    assert!(silent <= 7 * 8, "{silent}");
}

fn files(directory: &TempDir) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(directory.path().join("raft")).unwrap();
    entries.map(|entry| entry.unwrap().file_name()).collect()
}

fn copy_files(from: &TempDir, to: &TempDir) {
    fs::create_dir_all(to.path().join("raft")).unwrap();
    for file in files(from) {
        let path = from.path().join("raft").join(&file);
        fs::copy(path, to.path().join("raft").join(&file)).unwrap();
    }
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

#[tokio::test]
async fn a_log_that_somebody_else_has_open_is_not_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(&directory).unwrap();
    let error = open(&directory).err().unwrap();
    assert!(matches!(error, LogStoreError::Disk { .. }), "{error}");
}

/// A disk that is full, as far as one file is concerned: the limit on its size is reached.
#[tokio::test]
async fn a_full_disk_ends_the_log_with_a_reason_and_costs_nothing_that_was_promised() {
    const ROOT: &str = "REELRAFT_TEST_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        // The child: writes until it cannot, and says how far it came.
        let mut store = LogStore::open(Path::new(&root), OWNER).unwrap();
        let mut acknowledged = 0;
        let error = loop {
            match store.blocking_append([entry(acknowledged)]).await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        let vote = store.save_vote(&Vote::new_committed(9, 2)).await;
        let again = store.blocking_append([entry(acknowledged)]).await;
        println!("{acknowledged} entries, {} {}, {error}", vote.is_err(), again.is_err());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let name = std::thread::current().name().unwrap().to_owned();
    let full = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 128; exec \"$0\" \"$@\" --exact --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .arg(name)
        .env(ROOT, directory.path().join("raft"))
        .output()
        .unwrap();
    let said = String::from_utf8(full.stdout).unwrap();
    let line = said.lines().find(|line| line.contains(" entries, ")).unwrap_or_else(|| {
        panic!("{said} {}", String::from_utf8_lossy(&full.stderr));
    });
    assert!(line.contains("true true"), "{line}");
    assert!(line.contains("File too large"), "{line}");
    let acknowledged: u64 = line.split(' ').next().unwrap().parse().unwrap();
    assert!(acknowledged > 100, "{line}");

    // With room again it goes on.
    let mut store = open(&directory).unwrap();
    let found = indexes(&mut store).await.len() as u64;
    assert!(found == acknowledged || found == acknowledged + 1, "{found}: {line}");
    append(&mut store, found..found + 10).await;
}
