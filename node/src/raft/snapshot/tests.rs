//! Snapshots arrive as they were sent, or not at all.

use bytes::Bytes;
use cluster::view::WriteBatch;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::state::StateDb;

struct Fixture {
    directory: TempDir,
    store: SnapshotStore,
    snapshot: Arc<StoredSnapshot>,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDb::open(&directory.path().join("source")).unwrap();
    let store = SnapshotStore::open(&directory.path().join("source")).unwrap();
    state.write(&WriteBatch::default(), &[(b"note", vec![7; 100_000])]).unwrap();
    let database = store.begin().unwrap();
    state.checkpoint(&database).unwrap();
    let snapshot = store.finish(&database).unwrap();
    Fixture { directory, store, snapshot }
}

fn parts_of(snapshot: &StoredSnapshot) -> Vec<Bytes> {
    let (sender, mut receiver) = mpsc::channel(1000);
    send(snapshot, &sender).unwrap();
    drop(sender);
    std::iter::from_fn(|| receiver.blocking_recv()).collect()
}

fn receive(
    store: &SnapshotStore,
    manifest: Manifest,
    parts: Vec<Bytes>,
) -> io::Result<Arc<StoredSnapshot>> {
    let (sender, receiver) = mpsc::channel(1000);
    for part in parts {
        sender.blocking_send(part).unwrap();
    }
    drop(sender);
    Receiving::begin(store, manifest)?.receive(receiver)
}

#[test]
fn a_snapshot_arrives_as_it_was_sent() {
    let Fixture { directory, snapshot, .. } = fixture();
    let root = directory.path().join("target");
    let state = StateDb::open(&root).unwrap();
    let store = SnapshotStore::open(&root).unwrap();
    // Parts that do not end where files do.
    let bytes = parts_of(&snapshot).concat();
    let parts = bytes.chunks(1000).map(Bytes::copy_from_slice).collect();
    let received = receive(&store, snapshot.manifest().clone(), parts).unwrap();
    let kept = store.keep(&received).unwrap();
    drop(received);
    state.replace(&kept.database()).unwrap();
    assert_eq!(state.meta(b"note").unwrap().unwrap(), [7; 100_000]);
    assert_eq!(fs::read_dir(root.join(INCOMING)).unwrap().count(), 0);
    // It is found again, and can be sent on.
    drop((store, kept));
    let store = SnapshotStore::open(&root).unwrap();
    assert_eq!(store.current().unwrap().manifest(), snapshot.manifest());
    assert_eq!(parts_of(&store.current().unwrap()).concat(), bytes);
}

#[test]
fn damaged_short_and_long_ones_are_refused_and_removed() {
    let Fixture { directory, snapshot, .. } = fixture();
    let root = directory.path().join("target");
    let store = SnapshotStore::open(&root).unwrap();
    let parts = parts_of(&snapshot);
    let damaged = |position: usize| {
        let mut bytes = parts.concat();
        bytes[position] ^= 1;
        vec![Bytes::from(bytes)]
    };
    let last = parts.concat().len() - 1;
    for bad in [
        damaged(0),
        damaged(last / 2),
        damaged(last),
        parts[..parts.len() - 1].to_vec(),
        [parts.clone(), vec![Bytes::from_static(b"x")]].concat(),
    ] {
        assert!(receive(&store, snapshot.manifest().clone(), bad).is_err());
        assert_eq!(fs::read_dir(root.join(INCOMING)).unwrap().count(), 0);
    }
    assert!(store.current().is_none());
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let Fixture { store, snapshot, .. } = fixture();
    for name in ["", "..", "../x", "/etc/passwd", "a/b", ".hidden", "a\0b"] {
        let mut manifest = snapshot.manifest().clone();
        manifest.files[0].name = name.to_owned();
        assert!(Receiving::begin(&store, manifest).is_err(), "{name:?}");
    }
    let mut twice = snapshot.manifest().clone();
    twice.files[0].name = twice.files[1].name.clone();
    assert!(Receiving::begin(&store, twice).is_err());
}

#[test]
fn an_older_snapshot_stays_while_it_is_used() {
    let Fixture { directory, store, snapshot: older } = fixture();
    let state = StateDb::open(&directory.path().join("other")).unwrap();
    let database = store.begin().unwrap();
    state.checkpoint(&database).unwrap();
    let newer = store.finish(&database).unwrap();
    assert!(Arc::ptr_eq(&store.current().unwrap(), &newer));
    assert!(older.database().exists());
    let path = older.database();
    drop(older);
    assert!(!path.exists());
    assert!(newer.database().exists());
}

#[test]
fn an_unfinished_snapshot_is_removed_at_the_start() {
    let Fixture { directory, store, snapshot } = fixture();
    let unfinished = store.begin().unwrap();
    fs::create_dir(&unfinished).unwrap();
    drop(store);
    let store = SnapshotStore::open(&directory.path().join("source")).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(store.current().unwrap().manifest(), snapshot.manifest());
}
