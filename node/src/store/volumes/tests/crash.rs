//! What a crash leaves: copies of the directory at any moment, logs that lost their end, volumes that lost theirs.
//!
//! Files are changed here as a power cut may leave them at worst. That fsync is asked for in the first place, such tests cannot
//! see: `tests/store_power_cut.rs` does.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use super::*;

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy_directory(&from, &to),
            // RocksDB removes files as it goes on.
            _ => match fs::copy(&from, &to) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                copied => drop(copied.unwrap()),
            },
        }
    }
}

/// The log of the rows loses its last `share` of 4.
fn shorten_logs(path: &Path, share: u64) {
    for entry in fs::read_dir(path).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|extension| extension == "log") {
            let len = fs::metadata(&file).unwrap().len();
            fs::OpenOptions::new()
                .write(true)
                .open(file)
                .unwrap()
                .set_len(len - len * share / 4)
                .unwrap();
        }
    }
}

async fn assert_all_right(store: &VolumeBlockStore, acknowledged: &[(BlockHash, Bytes)]) {
    for (hash, bytes) in acknowledged {
        assert_eq!(store.get(*hash).await.unwrap(), *bytes);
    }
    let listed = store.list(FIRST, LAST, usize::MAX).await.unwrap();
    for found in &listed {
        let bytes = store.get(found.hash).await.unwrap();
        assert_eq!((BlockHash::of(&bytes), bytes.len()), (found.hash, found.len as usize));
    }
    assert_eq!(store.stats().blocks, listed.len() as u64);
    assert_eq!(store.stats().quarantined, 0);
}

#[tokio::test]
async fn blocks_are_found_again_without_their_rows() {
    for share in 0..=4 {
        let dir = tempfile::tempdir().unwrap();
        let store = small_volumes(dir.path());
        let mut blocks = Vec::new();
        for seed in 0..12 {
            let (hash, bytes) = block(seed, 100 + usize::try_from(seed).unwrap() * 30_000);
            store.put(hash, bytes.clone(), seed).await.unwrap();
            blocks.push((hash, bytes));
        }
        let before = store.list(FIRST, LAST, usize::MAX).await.unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy_directory(dir.path(), crashed.path());
        drop(store);
        shorten_logs(crashed.path(), share);
        for _ in 0..2 {
            let store = small_volumes(crashed.path());
            assert_all_right(&store, &blocks).await;
            assert_eq!(store.list(FIRST, LAST, usize::MAX).await.unwrap(), before);
        }
    }
}

#[tokio::test]
async fn what_was_being_written_is_skipped_wherever_it_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let good = block(1, 100_000);
    store.put(good.0, good.1.clone(), 1).await.unwrap();
    let torn = block(2, 100_000);
    store.put(torn.0, torn.1.clone(), 1).await.unwrap();
    let behind = block(3, 100_000);
    store.put(behind.0, behind.1.clone(), 1).await.unwrap();
    let torn_at = store.engine.place_of(&torn.0).unwrap().offset;
    let end = store.engine.place_of(&behind.0).unwrap().offset;

    for zeroed in [torn_at..torn_at + 4096, torn_at + 4096..torn_at + 8192, torn_at..end] {
        let crashed = tempfile::tempdir().unwrap();
        copy_directory(dir.path(), crashed.path());
        shorten_logs(crashed.path(), 4);
        let volume = &volume_files(crashed.path())[0];
        let file = fs::OpenOptions::new().write(true).open(volume).unwrap();
        let zeros = vec![0; usize::try_from(zeroed.end - zeroed.start).unwrap()];
        file.write_all_at(&zeros, zeroed.start).unwrap();
        let store = open(crashed.path());
        assert_all_right(&store, &[good.clone(), behind.clone()]).await;
        assert_eq!(store.get(torn.0).await, Err(StoreError::NotFound(torn.0)));
        store.put(torn.0, torn.1.clone(), 1).await.unwrap();
        drop(store);
        let all = [good.clone(), torn.clone(), behind.clone()];
        assert_all_right(&open(crashed.path()), &all).await;
    }

    // The end of the file is missing, at and around the edges of records; with rows that say otherwise, and without.
    for len in [end + 4096, end + 1, end, end - 1, torn_at + 200, torn_at, 4096, 4095, 80, 10, 0] {
        for with_rows in [true, false] {
            let crashed = tempfile::tempdir().unwrap();
            copy_directory(dir.path(), crashed.path());
            if !with_rows {
                shorten_logs(crashed.path(), 4);
            }
            let volume = &volume_files(crashed.path())[0];
            fs::OpenOptions::new().write(true).open(volume).unwrap().set_len(len).unwrap();
            let store = open(crashed.path());
            for (hash, bytes) in [&good, &torn, &behind] {
                match store.get(*hash).await {
                    Ok(found) => assert_eq!(found, *bytes),
                    Err(StoreError::Damaged(_)) => assert!(with_rows, "found at {len}"),
                    Err(error) => assert_eq!(error, StoreError::NotFound(*hash)),
                }
                store.put(*hash, bytes.clone(), 1).await.unwrap();
            }
            drop(store);
            let all = [good.clone(), torn.clone(), behind.clone()];
            assert_all_right(&open(crashed.path()), &all).await;
        }
    }
}

#[tokio::test]
async fn a_block_that_looks_like_a_record_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (inner, inner_bytes) = block(1, 5000);
    // Somebody who knows the form but not the key puts a record where units begin within their block.
    let header = record::Header { hash: inner, len: 5000, put_index: u64::MAX, stored_ms: 1 };
    let place = crate::store::meta::Place { volume: 1, offset: 8192 };
    let mut forged = vec![1; 4096 - record::HEADER_BYTES];
    forged.extend(header.encode(&[0; 32], place));
    forged.extend(&inner_bytes);
    forged.resize(20_000, 7);
    let outer = BlockHash::of(&forged);
    store.put(outer, forged.into(), 1).await.unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy_directory(dir.path(), crashed.path());
    shorten_logs(crashed.path(), 4);
    // Its own header is gone, so that what is behind is looked at unit by unit.
    let file = fs::OpenOptions::new().write(true).open(&volume_files(crashed.path())[0]).unwrap();
    file.write_all_at(&[0; 64], 4096).unwrap();
    let store = open(crashed.path());
    assert_eq!(store.get(inner).await, Err(StoreError::NotFound(inner)));
    assert_eq!(store.stats().blocks, 0);
}

#[tokio::test]
async fn of_two_puts_at_a_time_the_higher_index_is_found_again() {
    for (first_index, second_index) in [(9, 5), (5, 9)] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (hash, bytes) = block(1, 100_000);
        // Both are written, and only the second comes to have a row.
        let _first = store.engine.put(hash, &bytes, first_index).unwrap();
        let second = store.engine.put(hash, &bytes, second_index).unwrap();
        let Change::Record { hash, row, reservation } = second else { panic!("{second:?}") };
        store.engine.place(hash, row, reservation).unwrap();
        store.engine.note_tail(1).unwrap();
        store.engine.sync_rows().unwrap();
        let crashed = tempfile::tempdir().unwrap();
        copy_directory(dir.path(), crashed.path());
        for _ in 0..2 {
            let store = open(crashed.path());
            assert_all_right(&store, &[(hash, bytes.clone())]).await;
            let listed = store.list(FIRST, LAST, usize::MAX).await.unwrap();
            assert_eq!(listed[0].put_index, 9);
        }
    }
}

#[tokio::test]
async fn a_volume_whose_head_is_damaged_is_read_and_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, bytes) = block(1, 100_000);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    drop(store);
    let file = fs::OpenOptions::new().write(true).open(&volume_files(dir.path())[0]).unwrap();
    file.write_all_at(&[0; 80], 0).unwrap();
    let store = open(dir.path());
    let (other, other_bytes) = block(2, 100_000);
    store.put(other, other_bytes.clone(), 1).await.unwrap();
    assert_eq!(volume_files(dir.path()).len(), 2);
    drop(store);
    assert_all_right(&open(dir.path()), &[(hash, bytes), (other, other_bytes)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_the_directory_at_any_moment_has_all_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_volumes(dir.path());
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let mut putting = tokio::task::JoinSet::new();
    for task in 0..4u64 {
        let (store, acknowledged) = (store.clone(), Arc::clone(&acknowledged));
        putting.spawn(async move {
            for at in 0..60 {
                let seed = task * 1000 + at;
                let (hash, bytes) =
                    block(seed, 1000 + usize::try_from(seed * 7919 % 150_000).unwrap());
                store.put(hash, bytes.clone(), seed).await.unwrap();
                acknowledged.lock().unwrap().push((hash, bytes));
            }
        });
    }
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let so_far = acknowledged.lock().unwrap().clone();
        let crashed = tempfile::tempdir().unwrap();
        // What was acknowledged before the copying began is in each file that is copied; what comes meanwhile may be in
        // some of them.
        copy_directory(dir.path(), crashed.path());
        let store = small_volumes(crashed.path());
        for (hash, bytes) in &so_far {
            assert_eq!(store.get(*hash).await.unwrap(), *bytes);
        }
    }
    putting.join_all().await;
}
