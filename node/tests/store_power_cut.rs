//! The power fails while blocks are stored, again and again. Every block that was acknowledged has to be there, whole, and
//! whatever else there is has to be right.
//!
//! A process that is killed leaves everything that it wrote in the kernel's cache, so `store_crash.rs` cannot see whether
//! anybody ever called fsync. Here the store lies on a file system of its own, in a loop device, that is shut down the hard
//! way in the middle of writing: what has not reached the device is lost, as in a power cut, and mounting it again replays
//! its journal. That needs root and loop devices; where they are missing, the test says so and has tested nothing.
//!
//! All mounts are made in a mount namespace of their own, which ends with its last process: nothing stays mounted, whatever
//! becomes of this test.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a test"
)]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytes::Bytes;
use cluster::ids::BlockHash;
use node::store::{BlockStore, StoreCondition, StoreError, VolumeBlockStore, VolumeOptions};

const DIRECTORY: &str = "REELRAFT_TEST_STORE";
const ROUND: &str = "REELRAFT_TEST_ROUND";
const ROUNDS: u64 = 6;
const WRITERS: u64 = 8;
/// Room for all that can be written in all rounds and more.
const IMAGE_BYTES: u64 = 3 << 30;
/// How much the child may have acknowledged before its power fails, from the first round to the last.
const ACKNOWLEDGED: [usize; 6] = [5, 30, 150, 60, 40, 20];
/// All names of a round are put with this index, and once more with a higher one.
const RAISED: u64 = 1000;

/// What opening a store needs on a full disk: RocksDB writes a table for what its log holds, begins a new log and a new manifest,
/// and reserves some 4 MiB for each of these two.
const ROOM_TO_OPEN: u64 = 16 << 20;

fn options() -> VolumeOptions {
    // Short volumes, so that power also fails while the next is begun.
    VolumeOptions { volume_bytes: 8 << 20, free_bytes_min: 0, ..VolumeOptions::default() }
}

fn open(path: &Path) -> VolumeBlockStore {
    VolumeBlockStore::open(path, &options()).unwrap()
}

fn bytes_of(round: u64, number: u64) -> Bytes {
    let len = 1000 + usize::try_from(number).unwrap() * 7919 % 300_000;
    let mut bytes = vec![0; len];
    let seed = [round.to_le_bytes(), number.to_le_bytes()].concat();
    blake3::Hasher::new().update(&seed).finalize_xof().fill(&mut bytes);
    bytes.into()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child of the other test"]
async fn stores_blocks_until_the_power_fails() {
    let path = std::env::var_os(DIRECTORY).unwrap();
    let round: u64 = std::env::var(ROUND).unwrap().parse().unwrap();
    let store = open(Path::new(&path));
    let from = if round.is_multiple_of(2) { 0 } else { makes_holes(&store, round).await };
    let mut storing = tokio::task::JoinSet::new();
    for writer in from..from + WRITERS {
        let store = store.clone();
        storing.spawn(async move {
            for number in (writer..).step_by(usize::try_from(WRITERS).unwrap()) {
                // Errors begin when the power fails.
                if !puts(&store, round, number, 1).await
                    || round.is_multiple_of(2)
                        && number.is_multiple_of(5)
                        && !puts(&store, round, number, RAISED).await
                    || round.is_multiple_of(2)
                        && number % 7 == 3
                        && !deletes(&store, round, number).await
                {
                    return;
                }
            }
        });
    }
    storing.join_all().await;
}

/// Stores blocks so that their rows are durable, deletes most of them, and waits until their room is free. Syncs no rows from
/// then on, and returns the next number.
async fn makes_holes(store: &VolumeBlockStore, round: u64) -> u64 {
    const COUNT: u64 = 40;
    for number in 0..COUNT {
        assert!(puts(store, round, number, 1).await);
    }
    assert!(puts(store, round, 0, RAISED).await);
    let full = store.stats().allocated_bytes;
    for number in 1..COUNT {
        assert!(number.is_multiple_of(4) || deletes(store, round, number).await);
    }
    for _ in 0..3000 {
        if store.stats().allocated_bytes < full {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(store.stats().allocated_bytes < full);
    println!("\nmade holes");
    COUNT
}

async fn puts(store: &VolumeBlockStore, round: u64, number: u64, index: u64) -> bool {
    let bytes = bytes_of(round, number);
    let is_stored = store.put(BlockHash::of(&bytes), bytes, index).await.is_ok();
    if is_stored {
        println!("\nstored {number} {index}");
    }
    is_stored
}

async fn deletes(store: &VolumeBlockStore, round: u64, number: u64) -> bool {
    println!("\ndeleting {number}");
    store.delete_if(BlockHash::of(&bytes_of(round, number)), Box::new(|_| true)).await.is_ok()
}

#[test]
fn acknowledged_blocks_survive_power_cuts() {
    where_mounts_end("cuts_the_power");
}

#[test]
fn on_a_full_disk_blocks_can_be_deleted_and_room_is_there_again() {
    where_mounts_end("fills_the_disk");
}

/// Runs one of the tests below in a mount namespace of its own.
fn where_mounts_end(test: &str) {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
        eprintln!("NOT TESTED: disks of our own need root and loop devices");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .env(DIRECTORY, dir.path())
        .status()
        .unwrap();
    assert!(status.success(), "see above");
}

fn make_disk(bytes: u64) -> (PathBuf, PathBuf) {
    let dir = PathBuf::from(std::env::var_os(DIRECTORY).unwrap());
    let image = dir.join("disk.img");
    File::create(&image).unwrap().set_len(bytes).unwrap();
    run(Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image));
    let mount_point = dir.join("mnt");
    fs::create_dir(&mount_point).unwrap();
    (image, mount_point)
}

#[tokio::test]
#[ignore = "a child of another test, in a mount namespace of its own"]
async fn fills_the_disk() {
    let (image, mount_point) = make_disk(128 << 20);
    let disk = Mounted::new(&image, &mount_point);
    let store = open(&disk.store());
    let blocks: Vec<_> = (0..40).map(|number| bytes_of(0, number)).collect();
    for bytes in &blocks {
        store.put(BlockHash::of(bytes), bytes.clone(), 1).await.unwrap();
    }
    // Something else takes all there is.
    let mut other = File::create(mount_point.join("other")).unwrap();
    while other.write_all(&[1; 4096]).is_ok() {}
    let _ = other.sync_all();
    while other.write_all(&[1; 512]).is_ok() {}
    drop(other);

    let new = bytes_of(1, 30);
    let refused = store.put(BlockHash::of(&new), new.clone(), 1).await;
    assert!(matches!(refused, Err(StoreError::Full { .. })), "{refused:?}");
    for bytes in &blocks[..30] {
        assert!(store.delete_if(BlockHash::of(bytes), Box::new(|_| true)).await.unwrap());
    }
    let mut stored = store.put(BlockHash::of(&new), new.clone(), 1).await;
    for _ in 0..3000 {
        if stored.is_ok() {
            break;
        }
        assert!(matches!(stored, Err(StoreError::Full { .. })), "{stored:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
        stored = store.put(BlockHash::of(&new), new.clone(), 1).await;
    }
    stored.unwrap();
    assert_eq!(store.condition(), StoreCondition::Writable);
    drop(store);

    // To open it again takes a little room, which is not there: everything stays as it is until it is.
    let mut other = File::create(mount_point.join("another")).unwrap();
    while other.write_all(&[1; 4096]).is_ok() {}
    let error = VolumeBlockStore::open(&disk.store(), &options()).unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    let len = other.metadata().unwrap().len();
    other.set_len(len - ROOM_TO_OPEN).unwrap();
    other.sync_all().unwrap();
    let store = open(&disk.store());
    for bytes in blocks[30..].iter().chain([&new]) {
        assert_eq!(store.get(BlockHash::of(bytes)).await.unwrap(), *bytes);
    }
    assert!(store.delete_if(BlockHash::of(&new), Box::new(|_| true)).await.unwrap());
}

#[tokio::test]
#[ignore = "a child of another test, in a mount namespace of its own"]
async fn cuts_the_power() {
    let (image, mount_point) = make_disk(IMAGE_BYTES);

    let mut promised = BTreeMap::new();
    for round in 0..ROUNDS {
        let disk = Mounted::new(&image, &mount_point);
        let round_promised = store_until_power_fails(&disk, round);
        drop(disk);
        promised.extend(round_promised);

        let disk = Mounted::new(&image, &mount_point);
        check(&disk.store(), &promised, round).await;
        drop(disk);
    }
}

/// What was promised of a block: the highest index acknowledged. `None` for one that may be deleted.
type Promises = BTreeMap<(u64, u64), Option<u64>>;

fn store_until_power_fails(disk: &Mounted, round: u64) -> Promises {
    let mut child = KilledAtEnd(
        Command::new(std::env::current_exe().unwrap())
            .args(["stores_blocks_until_the_power_fails", "--exact", "--ignored", "--nocapture"])
            .env(DIRECTORY, disk.store())
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut promised = Promises::new();
    let (mut count, mut is_on, mut has_holes) = (0, true, false);
    for line in BufReader::new(child.0.stdout.take().unwrap()).lines() {
        // A line that was cut off by the end of the process has no index.
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["stored", number, index] => {
                let (Ok(number), Ok(index)) = (number.parse(), index.parse()) else {
                    panic!("{line}");
                };
                let promise = promised.entry((round, number)).or_insert(Some(index));
                *promise = Some(index);
                count += 1;
            }
            ["deleting", number] => {
                promised.insert((round, number.parse().unwrap()), None);
            }
            // The power does not fail before that.
            ["made", "holes"] => (count, has_holes) = (0, true),
            _ => {}
        }
        let has_begun = round.is_multiple_of(2) || has_holes;
        if is_on && has_begun && count >= ACKNOWLEDGED[usize::try_from(round).unwrap()] {
            disk.cut_power();
            is_on = false;
        }
    }
    assert!(!is_on, "the child ended by itself");
    promised
}

async fn check(path: &Path, promised: &Promises, round: u64) {
    let store = open(path);
    let listed = store.list(BlockHash([0; 32]), BlockHash([255; 32]), usize::MAX).await.unwrap();
    let listed: BTreeMap<_, _> = listed.iter().map(|block| (block.hash, *block)).collect();
    for ((of_round, number), index) in promised {
        let bytes = bytes_of(*of_round, *number);
        let hash = BlockHash::of(&bytes);
        let which = format!("block {number} of round {of_round} after round {round}");
        match (index, store.get(hash).await) {
            (_, Ok(found)) => assert_eq!(found, bytes, "{which}"),
            (None, Err(StoreError::NotFound(_))) => continue,
            (_, Err(error)) => panic!("{which}: {error}"),
        }
        if let Some(index) = index {
            assert!(
                listed[&hash].put_index >= *index,
                "{which}: {:?}, promised {index}",
                listed[&hash]
            );
        }
    }
    // What nobody was told of is whole if it is there.
    for hash in listed.keys() {
        store.get(*hash).await.unwrap();
    }
    let stats = store.stats();
    assert_eq!((stats.blocks, stats.quarantined), (listed.len() as u64, 0));
}

/// A file system in an image, mounted until it is dropped.
struct Mounted {
    mount_point: PathBuf,
}

impl Mounted {
    fn new(image: &Path, mount_point: &Path) -> Self {
        run(Command::new("mount").args(["-o", "loop"]).args([image, mount_point]));
        Self { mount_point: mount_point.to_owned() }
    }

    fn store(&self) -> PathBuf {
        self.mount_point.join("store")
    }

    /// From now on nothing reaches the device, not even what is in the journal's memory.
    #[allow(unsafe_code, reason = "there is no other way to ask ext4 for it")]
    fn cut_power(&self) {
        /// `EXT4_IOC_SHUTDOWN` and `EXT4_GOING_FLAGS_NOLOGFLUSH` of Linux's `fs/ext4/ext4.h`.
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const WITHOUT_FLUSHING_THE_LOG: u32 = 2;
        let root = File::open(&self.mount_point).unwrap();
        // SAFETY: this operation reads one number through the pointer it is given, and touches no other memory.
        let request =
            unsafe { rustix::ioctl::Setter::<SHUTDOWN, u32>::new(WITHOUT_FLUSHING_THE_LOG) };
        // SAFETY: as above.
        unsafe { rustix::ioctl::ioctl(&root, request) }.unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // The store's files may be closed a moment later than its last handle.
        let umount =
            || Command::new("umount").arg(&self.mount_point).stderr(Stdio::null()).status();
        for _ in 0..100 {
            if umount().is_ok_and(|status: ExitStatus| status.success()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(std::thread::panicking(), "the file system cannot be unmounted");
    }
}

struct KilledAtEnd(Child);

impl Drop for KilledAtEnd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}
