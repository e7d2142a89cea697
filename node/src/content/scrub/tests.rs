//! The loop over a store that the test holds in its hands, where an hour passes in a moment.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::store::{DeleteCondition, StoreStats, StoredBlock};

const LEN: u32 = 1 << 20;
const EVERY: Duration = Duration::from_secs(14 * 24 * 3600);

/// What is the matter with a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    Good,
    Bad,
    /// It is listed and gone when somebody reads it.
    Gone,
}

#[derive(Default)]
struct FakeStore {
    blocks: Mutex<BTreeMap<BlockHash, Copy>>,
    read: Mutex<Vec<BlockHash>>,
    unreadable: Mutex<Option<String>>,
}

impl FakeStore {
    fn new(blocks: &[(u8, Copy)]) -> Arc<Self> {
        let blocks = blocks.iter().map(|(first, copy)| (hash(*first), *copy)).collect();
        Arc::new(Self { blocks: Mutex::new(blocks), ..Self::default() })
    }

    fn read(&self) -> Vec<u8> {
        self.read.lock().unwrap().iter().map(|hash| hash.0[0]).collect()
    }

    fn break_it(&self, reason: Option<&str>) {
        *self.unreadable.lock().unwrap() = reason.map(str::to_owned);
    }

    fn check(&self) -> Result<(), StoreError> {
        match self.unreadable.lock().unwrap().clone() {
            Some(reason) => Err(StoreError::Unavailable { reason }),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl BlockStore for FakeStore {
    async fn put(&self, _: BlockHash, _: Bytes, _: u64) -> Result<(), StoreError> {
        unreachable!("a scrub only reads")
    }

    async fn get(&self, _: BlockHash) -> Result<Bytes, StoreError> {
        unreachable!("a scrub hands out nothing")
    }

    async fn has(&self, _: Vec<BlockHash>) -> Result<Vec<bool>, StoreError> {
        unreachable!("a scrub only reads")
    }

    async fn verify(&self, hash: BlockHash) -> Result<(), StoreError> {
        self.check()?;
        self.read.lock().unwrap().push(hash);
        match self.blocks.lock().unwrap().get(&hash) {
            Some(Copy::Good) => Ok(()),
            Some(Copy::Bad) => Err(StoreError::Damaged(hash)),
            Some(Copy::Gone) | None => Err(StoreError::NotFound(hash)),
        }
    }

    async fn delete_if(&self, _: BlockHash, _: Box<DeleteCondition>) -> Result<bool, StoreError> {
        unreachable!("a scrub deletes nothing")
    }

    async fn keep(&self, _: Vec<BlockHash>, _: u64) -> Result<Vec<bool>, StoreError> {
        unreachable!("a scrub promises nothing")
    }

    async fn list(
        &self,
        from: BlockHash,
        to: BlockHash,
        limit: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        self.check()?;
        let blocks = self.blocks.lock().unwrap();
        let named = blocks.range(from..=to).take(limit);
        Ok(named
            .map(|(hash, _)| StoredBlock { hash: *hash, len: LEN, put_index: 0, stored_ms: 0 })
            .collect())
    }

    async fn list_quarantined(
        &self,
        _: BlockHash,
        _: BlockHash,
        _: usize,
    ) -> Result<Vec<StoredBlock>, StoreError> {
        unreachable!("a scrub has put them there")
    }

    fn stats(&self) -> StoreStats {
        let blocks = self.blocks.lock().unwrap().len() as u64;
        StoreStats { blocks, bytes: blocks * u64::from(LEN), ..StoreStats::default() }
    }

    fn condition(&self) -> StoreCondition {
        match self.unreadable.lock().unwrap().clone() {
            Some(reason) => StoreCondition::Unavailable { reason },
            None => StoreCondition::Writable,
        }
    }
}

fn hash(first: u8) -> BlockHash {
    let mut bytes = [7; 32];
    bytes[0] = first;
    BlockHash(bytes)
}

/// A scrub that runs, and what it said.
struct Scrub {
    shown: Arc<Shown>,
    asked: Arc<AtomicU64>,
    damaged: Arc<Mutex<Vec<BlockRef>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scrub {
    fn start(store: &Arc<FakeStore>, record: &std::path::Path, asked: u64) -> Self {
        let shown = Arc::new(Shown::default());
        let asked = Arc::new(AtomicU64::new(asked));
        let damaged = Arc::new(Mutex::new(Vec::new()));
        let scrubber = Scrubber {
            store: Arc::clone(store) as Arc<dyn BlockStore>,
            settings: ScrubSettings {
                every: EVERY,
                bytes_per_second_max: 64 << 20,
                record: record.to_owned(),
            },
            asked: {
                let asked = Arc::clone(&asked);
                Box::new(move || asked.load(Ordering::Relaxed))
            },
            damaged: {
                let damaged = Arc::clone(&damaged);
                Box::new(move |block| damaged.lock().unwrap().push(block))
            },
            shown: Arc::clone(&shown),
            save_failed: false,
        };
        Self { shown, asked, damaged, task: tokio::spawn(scrubber.run()) }
    }

    async fn until(&self, what: &str, is_so: impl Fn(&ScrubStats) -> bool) -> ScrubStats {
        let began = std::time::Instant::now();
        loop {
            if let Some(stats) = self.shown.get().filter(&is_so) {
                return stats;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "{what}: {:?}", self.shown.get());
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_done(&self) -> Finished {
        let done = |stats: &ScrubStats| stats.state == ScrubState::Idle && stats.last.is_some();
        self.until("done", done).await.last.unwrap()
    }

    async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

#[tokio::test]
async fn all_blocks_are_read_in_order_and_the_bad_ones_told_of() {
    let home = tempfile::tempdir().unwrap();
    let store =
        FakeStore::new(&[(200, Copy::Good), (3, Copy::Good), (90, Copy::Bad), (91, Copy::Gone)]);
    let scrub = Scrub::start(&store, &home.path().join("scrub.json"), 7);
    let last = scrub.until_done().await;
    assert_eq!(store.read(), [3, 90, 91, 200]);
    let bytes = 3 * u64::from(LEN);
    assert_eq!(last.checked, Checked { blocks: 3, bytes, damaged_blocks: 1 });
    assert_eq!(*scrub.damaged.lock().unwrap(), [BlockRef { hash: hash(90), len: LEN }]);
    let stats = scrub.shown.get().unwrap();
    assert_eq!((stats.asked, stats.began_ms), (7, None));
    assert!(stats.next_ms > now_ms());
    // Asked again, it does it again.
    scrub.asked.store(9, Ordering::Relaxed);
    scrub.until("asked again", |stats| stats.asked == 9 && stats.state == ScrubState::Idle).await;
    assert_eq!(store.read().len(), 8);
    scrub.kill().await;
}

#[tokio::test]
async fn nothing_is_read_before_it_is_due() {
    let home = tempfile::tempdir().unwrap();
    let store = FakeStore::new(&[(1, Copy::Good)]);
    let path = home.path().join("scrub.json");
    let record = Record::new(now_ms(), u64::try_from(EVERY.as_millis()).unwrap(), 1.0);
    std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    let scrub = Scrub::start(&store, &path, 0);
    let stats = scrub.until("idle", |stats| stats.state == ScrubState::Idle).await;
    assert_eq!((stats.next_ms, stats.last), (record.next_ms, None));
    assert!(store.read().is_empty());
    scrub.kill().await;
}

#[tokio::test]
async fn a_restart_goes_on_where_it_was() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("scrub.json");
    let store = FakeStore::new(&[(10, Copy::Good), (20, Copy::Bad), (30, Copy::Good)]);
    let mut record = Record::new(now_ms(), 0, 0.0);
    assert!(record.begin_if_due(now_ms(), 1, 5));
    record.cycle.as_mut().unwrap().checked(hash(10), Some((LEN, true)));
    std::fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    let scrub = Scrub::start(&store, &path, 5);
    let last = scrub.until_done().await;
    assert_eq!(store.read(), [20, 30]);
    assert_eq!((last.checked.blocks, last.checked.damaged_blocks), (3, 2));
    // What has come to its end is remembered.
    let saved = async {
        loop {
            let saved: Record = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            if saved.last == Some(last) {
                return saved;
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let saved = tokio::time::timeout(Duration::from_secs(30), saved).await.unwrap();
    assert_eq!((saved.asked, saved.cycle), (5, None));
    scrub.kill().await;
}

#[tokio::test]
async fn a_damaged_record_begins_a_new_cycle() {
    let home = tempfile::tempdir().unwrap();
    for content in [&b""[..], b"{", b"\xff\xfe", b"[1, 2]"] {
        let path = home.path().join("scrub.json");
        std::fs::write(&path, content).unwrap();
        let store = FakeStore::new(&[(1, Copy::Good)]);
        let scrub = Scrub::start(&store, &path, 0);
        assert_eq!(scrub.until_done().await.checked.blocks, 1);
        scrub.kill().await;
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_is_waited_for() {
    let home = tempfile::tempdir().unwrap();
    let store = FakeStore::new(&[(1, Copy::Good)]);
    store.break_it(Some("it is gone"));
    let scrub = Scrub::start(&store, &home.path().join("scrub.json"), 3);
    let waits = ScrubState::Waiting("it is gone".to_owned());
    let stats = scrub.until("waiting", |stats| stats.state == waits).await;
    assert!(stats.began_ms.is_some());
    store.break_it(None);
    assert_eq!(scrub.until_done().await.checked.blocks, 1);
    scrub.kill().await;
}

#[tokio::test(start_paused = true)]
async fn it_keeps_to_its_pace() {
    let mut pace = Pacer { next: Instant::now(), saved: Instant::now() };
    let began = Instant::now();
    for _ in 0..11 {
        pace.wait(LEN, 4 << 20).await;
    }
    let took = began.elapsed();
    assert!(took.abs_diff(Duration::from_millis(2500)) < Duration::from_millis(50), "{took:?}");
    // A pause is no credit.
    sleep(Duration::from_secs(60)).await;
    let began = Instant::now();
    for _ in 0..5 {
        pace.wait(LEN, 4 << 20).await;
    }
    assert!(began.elapsed() >= Duration::from_millis(950));
}
