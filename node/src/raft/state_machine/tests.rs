//! A snapshot says of itself what is in it, whatever is applied while it is made.

use std::sync::atomic::{AtomicBool, Ordering};

use cluster::view::WriteBatch;
use openraft::testing::log_id;

use super::*;

/// Each of them is made while entries are applied as fast as the disk takes them.
const SNAPSHOTS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_ends_where_it_says_while_entries_are_applied() {
    let directory = tempfile::tempdir().unwrap();
    let state = Arc::new(StateDb::open(directory.path()).unwrap());
    let snapshots = Arc::new(SnapshotStore::open(directory.path()).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let applying = std::thread::spawn({
        let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
        move || {
            for index in 1.. {
                let applied: Option<LogId> = Some(log_id::<TypeConfig>(1, 1, index));
                state
                    .write(&WriteBatch::default(), &[(APPLIED_KEY, codec::encode(&applied))])
                    .unwrap();
                if stop.load(Ordering::Relaxed) {
                    break;
                }
            }
        }
    });
    let mut builder =
        SnapshotBuilder { state: Arc::clone(&state), snapshots, failure: Failure::default() };
    let mut meanwhile = 0;
    for _ in 0..SNAPSHOTS {
        let before = position(&state).unwrap();
        let built = builder.build_snapshot().await.unwrap();
        let ends = checkpoint_meta(&built.snapshot.database()).unwrap().last_log_id;
        assert_eq!(built.meta.last_log_id, ends);
        assert!(ends >= before, "{ends:?} was not the present, which was {before:?}");
        meanwhile += usize::from(ends > before);
    }
    stop.store(true, Ordering::Relaxed);
    applying.join().unwrap();
    assert!(meanwhile > 0, "nothing was applied while snapshots were made");
}
