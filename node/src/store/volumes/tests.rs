use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::store::BLOCK_BYTES_MAX;

const FIRST: BlockHash = BlockHash([0; 32]);
const LAST: BlockHash = BlockHash([255; 32]);

fn open(path: &Path) -> VolumeBlockStore {
    VolumeBlockStore::open(path, &VolumeOptions::default()).unwrap()
}

/// Bytes that do not repeat, different for each seed.
fn block(seed: u64, len: usize) -> (BlockHash, Bytes) {
    let mut bytes = vec![0; len];
    let mut reader = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    reader.fill(&mut bytes);
    (BlockHash::of(&bytes), bytes.into())
}

/// Blocks, their bytes, blocks in quarantine.
fn counts(store: &VolumeBlockStore) -> (u64, u64, u64) {
    let StoreStats { blocks, bytes, quarantined, .. } = store.stats();
    (blocks, bytes, quarantined)
}

fn small_volumes(path: &Path) -> VolumeBlockStore {
    let options = VolumeOptions { volume_bytes: 1 << 20, ..VolumeOptions::default() };
    VolumeBlockStore::open(path, &options).unwrap()
}

fn volume_files(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path.join("volumes")).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Bytes that all volumes take on disk.
fn allocated(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    volume_files(path).iter().map(|file| fs::metadata(file).unwrap().blocks() * 512).sum()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "still not so: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Changes one bit of `bytes` wherever a volume holds them.
fn flip_bit(path: &Path, bytes: &[u8]) -> usize {
    let mut flipped = 0;
    for file in volume_files(path) {
        let mut content = fs::read(&file).unwrap();
        let needle = &bytes[..64];
        if let Some(at) = content.windows(needle.len()).position(|window| window == needle) {
            content[at + 20] ^= 0x10;
            fs::write(&file, content).unwrap();
            flipped += 1;
        }
    }
    flipped
}

#[tokio::test]
async fn what_was_put_is_there_also_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(counts(&store), (0, 0, 0));
    let (short, long) = (block(1, 900), block(2, 1_500_000));
    store.put(short.0, short.1.clone(), 7).await.unwrap();
    store.put(long.0, long.1.clone(), 8).await.unwrap();
    assert_eq!(counts(&store), (2, 1_500_900, 0));
    assert_eq!(store.get(short.0).await.unwrap(), short.1);
    let kept = store.get(long.0).await.unwrap();

    let (absent, _) = block(3, 10);
    assert_eq!(store.get(absent).await, Err(StoreError::NotFound(absent)));
    assert_eq!(store.has(vec![absent, long.0, short.0]).await.unwrap(), [false, true, true]);
    drop(store);
    assert_eq!(kept, long.1, "a block read stays readable after the store's last handle is gone");
    drop(kept);

    let store = open(dir.path());
    assert_eq!(counts(&store), (2, 1_500_900, 0));
    assert_eq!(store.get(long.0).await.unwrap(), long.1);
    assert_eq!(store.get(short.0).await.unwrap(), short.1);
    assert_eq!(store.condition(), StoreCondition::Writable);
}

#[tokio::test]
async fn putting_again_counts_once_and_never_lowers_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, bytes) = block(1, 50_000);
    for put_index in [5, 9, 6] {
        store.put(hash, bytes.clone(), put_index).await.unwrap();
    }
    assert_eq!(counts(&store), (1, 50_000, 0));
    let listed = store.list(FIRST, LAST, 10).await.unwrap();
    let [found] = listed[..] else { panic!("{listed:?}") };
    assert_eq!((found.hash, found.len, found.put_index), (hash, 50_000, 9));
}

#[tokio::test]
async fn what_is_to_be_kept_counts_as_put_again_also_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let ((first, bytes), (second, others), (third, _)) = (block(1, 50), block(2, 50), block(3, 50));
    let store = open(dir.path());
    store.put(first, bytes, 5).await.unwrap();
    store.put(second, others, 9).await.unwrap();
    assert_eq!(store.keep(vec![first, third, second], 7).await.unwrap(), [true, false, true]);
    drop(store);
    let store = open(dir.path());
    let listed = store.list(FIRST, LAST, 10).await.unwrap();
    let index = |hash| listed.iter().find(|block| block.hash == hash).map(|block| block.put_index);
    assert_eq!((index(first), index(second), index(third)), (Some(7), Some(9), None));
}

#[tokio::test]
async fn what_is_no_block_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (expected, _) = block(1, 100);
    let (actual, bytes) = block(2, 100);
    assert_eq!(
        store.put(expected, bytes, 1).await,
        Err(StoreError::HashMismatch { expected, actual })
    );
    assert_eq!(store.put(BlockHash::of(b""), Bytes::new(), 1).await, Err(StoreError::BadLength(0)));
    let (hash, bytes) = block(3, BLOCK_BYTES_MAX + 1);
    assert_eq!(store.put(hash, bytes, 1).await, Err(StoreError::BadLength(BLOCK_BYTES_MAX + 1)));
    assert_eq!(counts(&store), (0, 0, 0));
    let (hash, bytes) = block(4, BLOCK_BYTES_MAX);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    assert_eq!(store.get(hash).await.unwrap(), bytes);
}

#[tokio::test]
async fn lists_are_in_the_order_of_the_hashes_and_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut hashes = Vec::new();
    for seed in 0..40 {
        let (hash, bytes) = block(seed, 100);
        store.put(hash, bytes, 1).await.unwrap();
        hashes.push(hash);
    }
    hashes.sort_unstable();
    let listed = |from, to, limit| {
        let store = store.clone();
        async move {
            let blocks = store.list(from, to, limit).await.unwrap();
            blocks.into_iter().map(|block| block.hash).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed(FIRST, LAST, 100).await, hashes);
    assert_eq!(listed(FIRST, LAST, 7).await, hashes[..7]);
    assert_eq!(listed(FIRST, LAST, 0).await, []);
    assert_eq!(listed(hashes[3], hashes[9], 100).await, hashes[3..=9]);
}

#[tokio::test]
async fn deleting_is_final_and_harmless_when_repeated() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, bytes) = block(1, 70_000);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    let older_than = |index| Box::new(move |copy: &StoredBlock| copy.put_index < index);
    assert!(!store.delete_if(hash, older_than(1)).await.unwrap());
    assert_eq!(store.get(hash).await.unwrap(), bytes);
    for there in [true, false] {
        assert_eq!(store.delete_if(hash, older_than(2)).await.unwrap(), there);
        assert_eq!(store.get(hash).await, Err(StoreError::NotFound(hash)));
        assert_eq!(counts(&store), (0, 0, 0));
    }
    store.put(hash, bytes.clone(), 2).await.unwrap();
    assert_eq!(store.get(hash).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_flipped_bit_is_never_served_and_good_bytes_heal_it() {
    for len in [700, 400_000] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (hash, bytes) = block(1, len);
        let other = block(2, len);
        store.put(hash, bytes.clone(), 1).await.unwrap();
        store.put(other.0, other.1.clone(), 1).await.unwrap();
        drop(store);
        assert_eq!(flip_bit(dir.path(), &bytes), 1);

        let store = open(dir.path());
        assert_eq!(counts(&store), (2, 2 * len as u64, 0), "nobody has looked yet");
        for _ in 0..2 {
            assert_eq!(store.get(hash).await, Err(StoreError::Damaged(hash)));
        }
        assert_eq!(store.verify(hash).await, Err(StoreError::Damaged(hash)));
        assert_eq!(store.has(vec![hash]).await.unwrap(), [false]);
        assert_eq!(store.get(other.0).await.unwrap(), other.1, "its neighbour is unharmed");
        store.verify(other.0).await.unwrap();
        assert_eq!(store.list(FIRST, LAST, 9).await.unwrap().len(), 1);
        assert_eq!(counts(&store), (1, len as u64, 1));
        drop(store);

        let store = open(dir.path());
        assert_eq!(store.get(hash).await, Err(StoreError::Damaged(hash)), "it is remembered");
        store.put(hash, bytes.clone(), 2).await.unwrap();
        store.put(other.0, other.1.clone(), 2).await.unwrap();
        assert_eq!(store.get(hash).await.unwrap(), bytes);
        assert_eq!(counts(&store), (2, 2 * len as u64, 0));
    }
}

#[tokio::test]
async fn a_damaged_copy_is_replaced_by_a_put_that_finds_it_first() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, bytes) = block(1, 400_000);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    drop(store);
    assert_eq!(flip_bit(dir.path(), &bytes), 1);
    let store = open(dir.path());
    store.put(hash, bytes.clone(), 1).await.unwrap();
    assert_eq!(store.get(hash).await.unwrap(), bytes);
    assert_eq!(counts(&store), (1, 400_000, 0));
}

#[tokio::test]
async fn a_copy_that_is_good_after_all_leaves_quarantine() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let (hash, bytes) = block(1, 400_000);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    drop(store);
    flip_bit(dir.path(), &bytes);
    let store = open(dir.path());
    assert_eq!(store.get(hash).await, Err(StoreError::Damaged(hash)));
    drop(store);

    let mut damaged = bytes.to_vec();
    damaged[20] ^= 0x10;
    assert_eq!(flip_bit(dir.path(), &damaged), 1, "the bit is as it was");
    let store = open(dir.path());
    assert_eq!(store.get(hash).await, Err(StoreError::Damaged(hash)));
    store.verify(hash).await.unwrap();
    assert_eq!(store.get(hash).await.unwrap(), bytes);
    assert_eq!(counts(&store), (1, 400_000, 0));
}

#[tokio::test]
async fn copies_in_quarantine_are_listed_by_themselves_and_can_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut blocks: Vec<_> = (0..6).map(|seed| block(seed, 20_000)).collect();
    blocks.sort();
    for (hash, bytes) in &blocks {
        store.put(*hash, bytes.clone(), 7).await.unwrap();
    }
    drop(store);
    for (_, bytes) in &blocks[..4] {
        assert_eq!(flip_bit(dir.path(), bytes), 1);
    }
    let store = open(dir.path());
    assert!(store.list_quarantined(FIRST, LAST, 10).await.unwrap().is_empty());
    for (hash, _) in &blocks {
        let _ = store.verify(*hash).await;
    }
    let hashes = |listed: Vec<StoredBlock>| listed.iter().map(|it| it.hash).collect::<Vec<_>>();
    let expected: Vec<_> = blocks.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(hashes(store.list(FIRST, LAST, 10).await.unwrap()), expected[4..]);
    let listed = store.list_quarantined(FIRST, LAST, 10).await.unwrap();
    assert!(listed.iter().all(|copy| (copy.len, copy.put_index) == (20_000, 7)));
    assert_eq!(hashes(listed), expected[..4]);
    let some = store.list_quarantined(expected[1], LAST, 2).await.unwrap();
    assert_eq!(hashes(some), expected[1..3]);
    let one = store.list_quarantined(expected[3], expected[3], 2).await.unwrap();
    assert_eq!(hashes(one), expected[3..4]);
    assert!(store.list_quarantined(LAST, FIRST, 2).await.unwrap().is_empty());

    assert!(store.delete_if(expected[0], Box::new(|copy| copy.put_index == 7)).await.unwrap());
    assert_eq!(hashes(store.list_quarantined(FIRST, LAST, 10).await.unwrap()), expected[1..4]);
    assert_eq!(counts(&store), (2, 40_000, 3));
}

#[tokio::test]
async fn a_full_disk_refuses_blocks_and_goes_on_reading() {
    let dir = tempfile::tempdir().unwrap();
    let (hash, bytes) = block(1, 50_000);
    open(dir.path()).put(hash, bytes.clone(), 1).await.unwrap();
    let options = VolumeOptions { free_bytes_min: u64::MAX, ..VolumeOptions::default() };
    let store = VolumeBlockStore::open(dir.path(), &options).unwrap();
    let (other, other_bytes) = block(2, 50_000);
    let refused = store.put(other, other_bytes, 1).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    assert_eq!(store.get(hash).await.unwrap(), bytes);
    store.put(hash, bytes, 2).await.unwrap();
    store.delete_if(hash, Box::new(|_| true)).await.unwrap();
}

#[tokio::test]
async fn after_a_failed_fsync_the_block_is_not_there_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(dir.path());
    let (durable, durable_bytes) = block(1, 50_000);
    store.put(durable, durable_bytes.clone(), 1).await.unwrap();
    let failing = |_| Err("Input/output error".into());
    store.committer = Arc::new(Committer::start(store.failure.clone(), failing).unwrap());

    let (hash, bytes) = block(2, 50_000);
    let read_only = Err(StoreError::ReadOnly { reason: "Input/output error".into() });
    assert_eq!(store.put(hash, bytes.clone(), 1).await, read_only);
    assert_eq!(store.put(hash, bytes.clone(), 1).await, read_only);
    assert_eq!(store.delete_if(durable, Box::new(|_| true)).await.map(drop), read_only);
    assert!(matches!(store.condition(), StoreCondition::ReadOnly { .. }));
    assert_eq!(store.has(vec![durable, hash]).await.unwrap(), [true, false]);
    assert_eq!(store.verify(hash).await, Err(StoreError::NotFound(hash)));
    assert_eq!(store.get(durable).await.unwrap(), durable_bytes);
    assert_eq!(store.stats().blocks, 1);
}

#[tokio::test]
async fn files_that_make_no_sense_are_an_error_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("CURRENT"), "MANIFEST-000000\n").unwrap();
    let error = VolumeBlockStore::open(dir.path(), &VolumeOptions::default()).unwrap_err();
    assert!(error.to_string().contains(&dir.path().display().to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_all_counted() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let mut putting = tokio::task::JoinSet::new();
    for task in 0..16u64 {
        let store = store.clone();
        putting.spawn(async move {
            for at in 0..10 {
                // Each block comes from two tasks.
                let (hash, bytes) = block((task / 2) * 10 + at, 20_000);
                store.put(hash, bytes, task).await.unwrap();
            }
        });
    }
    putting.join_all().await;
    assert_eq!(counts(&store), (80, 80 * 20_000, 0));
    assert_eq!(store.list(FIRST, LAST, 1000).await.unwrap().len(), 80);
}

#[tokio::test]
async fn what_an_unreleased_version_wrote_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(rocksdb::DB::open_cf(&options, dir.path(), ["blocks", "meta"]).unwrap());
    let error = VolumeBlockStore::open(dir.path(), &VolumeOptions::default()).unwrap_err();
    assert!(error.to_string().contains("Move this directory away"), "{error}");
    assert!(!dir.path().join("volumes").exists());
}

#[tokio::test]
async fn deleting_gives_space_back_at_once_and_unlinks_empty_volumes() {
    let dir = tempfile::tempdir().unwrap();
    let store = small_volumes(dir.path());
    let blocks: Vec<_> = (0..20).map(|seed| block(seed, 150_000)).collect();
    for (hash, bytes) in &blocks {
        store.put(*hash, bytes.clone(), 1).await.unwrap();
    }
    let files = volume_files(dir.path()).len();
    assert!(files >= 3, "{files}");
    assert_eq!(store.stats().volumes, files as u64);
    // Every other block, and those of the first volume whole.
    let first_volume = 6;
    for (at, (hash, _)) in blocks.iter().enumerate() {
        if at < first_volume || at % 2 == 0 {
            assert!(store.delete_if(*hash, Box::new(|_| true)).await.unwrap());
        }
    }
    let kept = store.stats().bytes;
    let slack = 4096 * 20;
    until("space is back", || allocated(dir.path()) < kept + slack);
    until("an empty volume is gone", || volume_files(dir.path()).len() < files);
    until("it is told", || store.stats().allocated_bytes < kept + slack);
    assert!(!store.stats().frees_whole_volumes_only);
    drop(store);
    let store = small_volumes(dir.path());
    for (at, (hash, bytes)) in blocks.iter().enumerate() {
        let is_kept = at >= first_volume && at % 2 == 1;
        let expected = if is_kept { Ok(bytes.clone()) } else { Err(StoreError::NotFound(*hash)) };
        assert_eq!(store.get(*hash).await, expected);
    }
}

#[tokio::test]
async fn space_that_a_crash_left_taken_is_freed_by_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let blocks: Vec<_> = (0..30).map(|seed| block(seed, 200_000)).collect();
    for (hash, bytes) in &blocks {
        store.put(*hash, bytes.clone(), 1).await.unwrap();
    }
    for (hash, _) in &blocks[..20] {
        // As if the process had been killed before it got to the room.
        store.engine.delete_row_only(hash);
    }
    drop(store);
    let before = allocated(dir.path());
    let store = open(dir.path());
    until("the room is back", || allocated(dir.path()) + 15 * 200_000 < before);
    for (hash, bytes) in &blocks[20..] {
        assert_eq!(store.get(*hash).await.unwrap(), *bytes);
    }
    // What is stored meanwhile stays.
    let (hash, bytes) = block(99, 300_000);
    store.put(hash, bytes.clone(), 1).await.unwrap();
    drop(store);
    assert_eq!(open(dir.path()).get(hash).await.unwrap(), bytes);
}

mod crash;
mod model;
