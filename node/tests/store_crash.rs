//! A process that stores blocks is killed in the middle of it, again and again. Every block that it said was stored has to
//! be there, whole.

#![allow(clippy::unwrap_used, reason = "this is a test")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use cluster::ids::BlockHash;
use node::store::{BlockStore, VolumeBlockStore, VolumeOptions};

/// Where the child writes.
const DIRECTORY: &str = "REELRAFT_TEST_STORE";
/// Which blocks it writes.
const ROUND: &str = "REELRAFT_TEST_ROUND";
const ROUNDS: u64 = 4;
/// How many blocks the child may store before it is killed.
const ACKNOWLEDGED_PER_ROUND: usize = 60;

fn open(path: &Path) -> VolumeBlockStore {
    let options = VolumeOptions { volume_bytes: 4 << 20, ..VolumeOptions::default() };
    VolumeBlockStore::open(path, &options).unwrap()
}

fn bytes_of(round: u64, number: u64) -> Bytes {
    let len = 1000 + usize::try_from(number).unwrap() * 7919 % 300_000;
    let mut bytes = vec![0; len];
    let seed = [round.to_le_bytes(), number.to_le_bytes()].concat();
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut bytes);
    bytes.into()
}

#[tokio::test]
#[ignore = "the child of the other test"]
async fn stores_blocks_until_it_is_killed() {
    let path = std::env::var_os(DIRECTORY).unwrap();
    let round = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = open(Path::new(&path));
    let mut storing = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = store.clone();
        storing.spawn(async move {
            for number in (writer..).step_by(8) {
                let bytes = bytes_of(round, number);
                store.put(BlockHash::of(&bytes), bytes, 1).await.unwrap();
                println!("stored {number}");
            }
        });
    }
    storing.join_all().await;
}

#[tokio::test]
async fn acknowledged_blocks_survive_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for round in 0..ROUNDS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["stores_blocks_until_it_is_killed", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, dir.path())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut count = 0;
        for line in &mut lines {
            // A line is whole when it ends; the test runner may have begun it with words of its own.
            if let Some((_, number)) = line.unwrap().split_once("stored ") {
                acknowledged.push((round, number.parse().unwrap()));
                count += 1;
                if count == ACKNOWLEDGED_PER_ROUND {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        assert!(count >= ACKNOWLEDGED_PER_ROUND, "the child ended by itself");
    }

    let store = open(dir.path());
    for (round, number) in &acknowledged {
        let bytes = bytes_of(*round, *number);
        let hash = BlockHash::of(&bytes);
        assert_eq!(store.get(hash).await.unwrap(), bytes, "block {number} of round {round}");
    }
    let stats = store.stats();
    let listed = store.list(BlockHash([0; 32]), BlockHash([255; 32]), usize::MAX).await.unwrap();
    assert_eq!(stats.blocks, listed.len() as u64);
    assert_eq!(stats.bytes, listed.iter().map(|block| u64::from(block.len)).sum::<u64>());
    assert!(listed.len() >= acknowledged.len());
}
