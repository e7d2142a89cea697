//! A process that may open no more files has not lost a block by that.
//!
//! Alone in its process, because the limit is the process's.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use bytes::Bytes;
use cluster::ids::BlockHash;
use node::store::{BlockStore, StoreCondition, StoreError, VolumeBlockStore, VolumeOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than half of a volume, so that each block has one to itself.
const BLOCK_BYTES: usize = 600_000;

#[tokio::test(flavor = "multi_thread")]
async fn without_file_handles_reads_and_puts_are_refused_and_nothing_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let options = VolumeOptions { volume_bytes: 1 << 20, ..VolumeOptions::default() };
    let open = || VolumeBlockStore::open(dir.path(), &options).unwrap();
    let blocks = [1, 2, 3, 4].map(|seed| Bytes::from(vec![seed; BLOCK_BYTES]));
    let hashes = blocks.each_ref().map(|bytes| BlockHash::of(bytes));
    let store = open();
    for (hash, bytes) in hashes.iter().zip(&blocks).take(3) {
        store.put(*hash, bytes.clone(), 1).await.unwrap();
    }
    drop(store);
    let store = open();

    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(3), ..limit }).unwrap();
    let got = store.get(hashes[0]).await;
    let verified = store.verify(hashes[0]).await;
    let put = store.put(hashes[3], blocks[3].clone(), 1).await;
    setrlimit(Resource::Nofile, limit).unwrap();

    assert!(matches!(got, Err(StoreError::Unavailable { .. })), "{got:?}");
    assert!(matches!(verified, Err(StoreError::Unavailable { .. })), "{verified:?}");
    assert!(matches!(put, Err(StoreError::Unavailable { .. })), "{put:?}");
    assert_eq!(store.condition(), StoreCondition::Writable);
    assert_eq!(store.stats().quarantined, 0);
    store.put(hashes[3], blocks[3].clone(), 1).await.unwrap();
    for (hash, bytes) in hashes.iter().zip(&blocks) {
        assert_eq!(store.get(*hash).await.unwrap(), *bytes);
    }
}
