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

/// Something that does not get shorter when it is compressed.
fn note() -> Vec<u8> {
    let mut bytes = vec![0; 100_000];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDb::open(&directory.path().join("source")).unwrap();
    let store = SnapshotStore::open(&directory.path().join("source")).unwrap();
    state.write(&WriteBatch::default(), &[(b"note", note())]).unwrap();
    let database = store.begin().unwrap();
    state.checkpoint(&database).unwrap();
    let snapshot = store.finish(&database).unwrap();
    Fixture { directory, store, snapshot }
}

/// All bytes that are wanted, in one piece.
fn bytes_of(snapshot: &StoredSnapshot, wanted: &[Tail]) -> Vec<u8> {
    let (sender, mut receiver) = mpsc::channel(1000);
    send(snapshot, wanted, &sender).unwrap();
    drop(sender);
    std::iter::from_fn(|| receiver.blocking_recv()).flatten().collect()
}

/// Everything from the beginning.
fn all(snapshot: &StoredSnapshot) -> Vec<Tail> {
    (0..snapshot.manifest().files.len()).map(|file| Tail { file, from: 0 }).collect()
}

/// Feeds `bytes`, in parts that do not end where files do.
fn receive(receiving: Receiving, bytes: &[u8]) -> io::Result<Arc<StoredSnapshot>> {
    let (sender, receiver) = mpsc::channel(10_000);
    for part in bytes.chunks(1000) {
        sender.blocking_send(Bytes::copy_from_slice(part)).unwrap();
    }
    drop(sender);
    receiving.receive(receiver)
}

fn begin(store: &SnapshotStore, snapshot: &StoredSnapshot) -> Receiving {
    Receiving::begin(store, snapshot.manifest().clone()).unwrap()
}

#[test]
fn a_snapshot_arrives_as_it_was_sent() {
    let Fixture { directory, snapshot, .. } = fixture();
    let root = directory.path().join("target");
    let state = StateDb::open(&root).unwrap();
    let store = SnapshotStore::open(&root).unwrap();
    let receiving = begin(&store, &snapshot);
    let bytes = bytes_of(&snapshot, receiving.wanted());
    assert_eq!(receiving.wanted_bytes(), bytes.len() as u64);
    let received = receive(receiving, &bytes).unwrap();
    let kept = store.keep(received).unwrap();
    state.replace(&kept.database()).unwrap();
    assert_eq!(state.meta(b"note").unwrap().unwrap(), note());
    store.forget_incoming().unwrap();
    assert!(!root.join(INCOMING).exists());
    // It is found again, and can be sent on.
    drop((store, kept));
    let store = SnapshotStore::open(&root).unwrap();
    let current = store.current().unwrap();
    assert_eq!(current.manifest(), snapshot.manifest());
    assert_eq!(bytes_of(&current, &all(&current)), bytes_of(&snapshot, &all(&snapshot)));
    // The same again costs nothing: it is all here.
    assert_eq!(begin(&store, &snapshot).wanted(), []);
}

#[test]
fn what_has_arrived_is_not_sent_again() {
    let Fixture { directory, snapshot, .. } = fixture();
    let root = directory.path().join("target");
    let store = SnapshotStore::open(&root).unwrap();
    let receiving = begin(&store, &snapshot);
    let bytes = bytes_of(&snapshot, receiving.wanted());
    let first = bytes.len() / 2;
    let error = receive(receiving, &bytes[..first]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);

    // Not even after a restart.
    drop(store);
    let store = SnapshotStore::open(&root).unwrap();
    let receiving = begin(&store, &snapshot);
    assert_eq!(receiving.wanted_bytes(), (bytes.len() - first) as u64);
    let rest = bytes_of(&snapshot, receiving.wanted());
    assert_eq!(rest, bytes[first..]);
    let received = receive(receiving, &rest).unwrap();
    assert_eq!(bytes_of(&received, &all(&received)), bytes_of(&snapshot, &all(&snapshot)));
}

#[test]
fn what_was_damaged_after_it_arrived_is_sent_again() {
    let Fixture { directory, snapshot, .. } = fixture();
    let root = directory.path().join("target");
    let store = SnapshotStore::open(&root).unwrap();
    let receiving = begin(&store, &snapshot);
    let bytes = bytes_of(&snapshot, receiving.wanted());
    let all_but_one = bytes.len() - 1;
    receive(receiving, &bytes[..all_but_one]).unwrap_err();
    for entry in fs::read_dir(root.join(INCOMING)).unwrap() {
        let path = entry.unwrap().path();
        let mut content = fs::read(&path).unwrap();
        let Some(last) = content.last_mut() else { continue };
        *last ^= 1;
        fs::write(&path, content).unwrap();
    }
    // Whole files are found out at once, the one that is there in part when it is complete.
    let receiving = begin(&store, &snapshot);
    assert!(receiving.wanted().iter().any(|tail| tail.from == 0), "{receiving:?}");
    assert!(receiving.wanted().iter().any(|tail| tail.from > 0), "{receiving:?}");
    let rest = bytes_of(&snapshot, receiving.wanted());
    let error = receive(receiving, &rest).unwrap_err();
    assert!(error.to_string().contains("another hash"), "{error}");
    let receiving = begin(&store, &snapshot);
    let rest = bytes_of(&snapshot, receiving.wanted());
    receive(receiving, &rest).unwrap();
}

#[test]
fn damaged_short_and_long_ones_are_refused() {
    let Fixture { directory, snapshot, .. } = fixture();
    let bytes = bytes_of(&snapshot, &all(&snapshot));
    let damaged = |position: usize| {
        let mut bytes = bytes.clone();
        bytes[position] ^= 1;
        bytes
    };
    let last = bytes.len() - 1;
    let bad = [
        damaged(0),
        damaged(last / 2),
        damaged(last),
        bytes[..last].to_vec(),
        [bytes.as_slice(), b"x"].concat(),
    ];
    for (number, bad) in bad.into_iter().enumerate() {
        let store = SnapshotStore::open(&directory.path().join(number.to_string())).unwrap();
        assert!(receive(begin(&store, &snapshot), &bad).is_err());
        assert!(store.current().is_none());
    }
    let (sender, _receiver) = mpsc::channel(1);
    for tail in [Tail { file: 1000, from: 0 }, Tail { file: 0, from: 1 << 40 }] {
        assert!(send(&snapshot, &[tail], &sender).is_err());
    }
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

/// Receives and installs the snapshot in `source` on the node in `root`, which is what a child process does.
fn install(root: &Path, source: &StoredSnapshot) {
    let state = StateDb::open(root).unwrap();
    let store = SnapshotStore::open(root).unwrap();
    // What the start does with a snapshot that is ahead of the catalog.
    let kept = match store.current() {
        Some(kept) if kept.manifest() == source.manifest() => kept,
        _ => {
            let receiving = begin(&store, source);
            let bytes = bytes_of(source, receiving.wanted());
            store.keep(receive(receiving, &bytes).unwrap()).unwrap()
        }
    };
    state.replace(&kept.database()).unwrap();
    store.forget_incoming().unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn an_installation_that_is_killed_at_any_step_leaves_the_old_catalog_or_the_new_one() {
    const ROOT: &str = "REELRAFT_TEST_ROOT";
    const SOURCE: &str = "REELRAFT_TEST_SOURCE";
    if let (Some(root), Some(source)) = (std::env::var_os(ROOT), std::env::var_os(SOURCE)) {
        // The child: dies on the way.
        let source = SnapshotStore::open(Path::new(&source)).unwrap().current().unwrap();
        install(Path::new(&root), &source);
        return;
    }
    let Fixture { directory, store: _store, snapshot } = fixture();
    let source = directory.path().join("source");
    for point in CrashPoint::ALL {
        let root = directory.path().join(format!("{point:?}"));
        let old = StateDb::open(&root).unwrap();
        old.write(&WriteBatch::default(), &[(b"note", b"old".to_vec())]).unwrap();
        drop(old);
        let name = std::thread::current().name().unwrap().to_owned();
        let died = std::process::Command::new(std::env::current_exe().unwrap())
            .args([&name, "--exact"])
            .env(ROOT, &root)
            .env(SOURCE, &source)
            .env(CrashPoint::VARIABLE, format!("{point:?}"))
            .output()
            .unwrap();
        let signal = std::os::unix::process::ExitStatusExt::signal(&died.status);
        assert_eq!(signal, Some(6), "{point:?}: {}", String::from_utf8_lossy(&died.stdout));

        let state = StateDb::open(&root).unwrap();
        let found = state.meta(b"note").unwrap().unwrap();
        let switched = [CrashPoint::DatabaseActive, CrashPoint::DatabaseReplaced].contains(&point);
        assert_eq!(found, if switched { note() } else { b"old".to_vec() }, "{point:?}");
        drop(state);
        // The next process finishes, and nothing is left over.
        install(&root, &snapshot);
        let state = StateDb::open(&root).unwrap();
        assert_eq!(state.meta(b"note").unwrap().unwrap(), note(), "{point:?}");
        drop(SnapshotStore::open(&root).unwrap());
        let left = names(&root);
        assert_eq!(left.len(), 3, "{point:?}: {left:?}");
        assert_eq!(names(&root.join(SNAPSHOTS)).len(), 1, "{point:?}");
    }
}
