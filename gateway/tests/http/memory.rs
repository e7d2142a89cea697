//! A node in memory: the real `apply` over a map, blocks in another, and faults on demand.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use cluster::apply::apply;
use cluster::catalog::BlockSum;
use cluster::command::{Action, BlockRef, Command, PutBlock, Reply};
use cluster::ids::{BlockHash, ClientId, NodeId};
use cluster::placement::GroupStates;
use cluster::tables::nodes::{NodeRow, Role};
use cluster::view::{MemoryView, Transaction, View};
use futures::FutureExt;
use futures::future::BoxFuture;
use gateway::backend::{
    Applied, Backend, ClusterObservation, CopyCount, DrainObservation, Finding, NodeObservation,
    NodeStatus, RepairObservation, Severity, StoreObservation, Unavailable,
};
use gateway::upload::UploadsUnderWay;
use tokio::sync::watch;

pub(crate) const NODE: NodeId = NodeId(7);

/// What is wrong with the cluster at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Proposals {
    #[default]
    Work,
    /// Each takes this long.
    Slow(Duration),
    /// Refused at once.
    NoLeader,
    /// No answer ever comes.
    Hang,
    /// Done, but the answer is lost: once, then all is well again.
    LoseOneAnswer,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blocks {
    #[default]
    Work,
    /// Each takes this long.
    Slow(Duration),
    /// Neither stored nor read.
    Unavailable,
}

pub(crate) struct Memory {
    catalog: Mutex<Catalog>,
    applied: watch::Sender<u64>,
    blocks: Mutex<BTreeMap<BlockHash, Bytes>>,
    pub(crate) proposals: Mutex<Proposals>,
    pub(crate) block_faults: Mutex<Blocks>,
    pub(crate) not_ready: Mutex<Vec<String>>,
    /// How far ahead of this node the leader is said to be.
    pub(crate) lag: Mutex<u64>,
    /// All that was proposed and applied, in order.
    pub(crate) log: Mutex<Vec<Action>>,
    pub(crate) puts: InFlight,
    pub(crate) late_puts: AtomicUsize,
    pub(crate) gets: AtomicUsize,
    pub(crate) uploads: UploadsUnderWay,
    pub(crate) drain: Mutex<Option<DrainObservation>>,
}

#[derive(Default)]
struct Catalog {
    view: Arc<MemoryView>,
    index: u64,
}

/// How many there are at a time, and how many there were at most.
#[derive(Default)]
pub(crate) struct InFlight {
    now: AtomicUsize,
    pub(crate) most: AtomicUsize,
}

impl Memory {
    pub(crate) fn new() -> Arc<Self> {
        let memory = Arc::new(Self {
            catalog: Mutex::default(),
            applied: watch::Sender::new(0),
            blocks: Mutex::default(),
            proposals: Mutex::default(),
            block_faults: Mutex::default(),
            not_ready: Mutex::default(),
            lag: Mutex::default(),
            log: Mutex::default(),
            puts: InFlight::default(),
            late_puts: AtomicUsize::new(0),
            gets: AtomicUsize::new(0),
            uploads: UploadsUnderWay::default(),
            drain: Mutex::default(),
        });
        memory.apply(Action::InitCluster { cluster_id: [9; 16], authority: None, founder: None });
        memory.apply(Action::RegisterNode { node: node() });
        memory
    }

    /// Applies a command as if it had come through the log.
    pub(crate) fn apply(&self, action: Action) -> Applied {
        let mut catalog = self.catalog.lock().unwrap();
        catalog.index += 1;
        let index = catalog.index;
        let command = Command {
            client: ClientId([1; 16]),
            sequence: index,
            answered_below: index,
            time_ms: 1_795_178_096_000 + index,
            action: action.clone(),
        };
        let mut transaction = Transaction::new(&*catalog.view);
        let reply = apply(&mut transaction, index, &command).unwrap().reply;
        let batch = transaction.into_batch();
        Arc::make_mut(&mut catalog.view).write(batch);
        drop(catalog);
        self.log.lock().unwrap().push(action);
        self.applied.send_replace(index);
        Applied { reply, index }
    }

    /// As [`Self::apply`], for what must not be refused.
    pub(crate) fn must_apply(&self, action: Action) -> Reply {
        let reply = self.apply(action.clone()).reply;
        assert!(!matches!(reply, Reply::Refused(_)), "{action:?}: {reply:?}");
        reply
    }

    pub(crate) fn store(&self, bytes: impl Into<Bytes>) -> BlockRef {
        let bytes = bytes.into();
        let block =
            BlockRef { hash: BlockHash::of(&bytes), len: u32::try_from(bytes.len()).unwrap() };
        self.blocks.lock().unwrap().insert(block.hash, bytes);
        block
    }

    /// Stores it as if this had begun long ago, as often as `late_puts` says.
    fn put(&self, bytes: Bytes) -> PutBlock {
        let is_late = |count: usize| count.checked_sub(1);
        let late = self.late_puts.fetch_update(Ordering::SeqCst, Ordering::SeqCst, is_late).is_ok();
        PutBlock { block: self.store(bytes), put_index: if late { 0 } else { self.index() } }
    }

    pub(crate) fn index(&self) -> u64 {
        *self.applied.borrow()
    }
}

impl Backend for Memory {
    fn catalog(&self) -> Arc<dyn View + Send + Sync> {
        Arc::clone(&self.catalog.lock().unwrap().view) as Arc<dyn View + Send + Sync>
    }

    fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn read_index(&self) -> BoxFuture<'_, Result<u64, Unavailable>> {
        async {
            match *self.proposals.lock().unwrap() {
                Proposals::Work | Proposals::Slow(_) | Proposals::LoseOneAnswer => {
                    Ok(self.index() + *self.lag.lock().unwrap())
                }
                Proposals::NoLeader | Proposals::Hang => {
                    Err(Unavailable::NoLeader("cut off".into()))
                }
            }
        }
        .boxed()
    }

    fn propose(&self, action: Action) -> BoxFuture<'_, Result<Applied, Unavailable>> {
        async move {
            let fault = *self.proposals.lock().unwrap();
            match fault {
                Proposals::Work => Ok(self.apply(action)),
                Proposals::Slow(time) => {
                    tokio::time::sleep(time).await;
                    Ok(self.apply(action))
                }
                Proposals::NoLeader => {
                    Err(Unavailable::NoLeader("secret-host:9080 is gone".into()))
                }
                Proposals::Hang => std::future::pending().await,
                Proposals::LoseOneAnswer => {
                    self.apply(action);
                    *self.proposals.lock().unwrap() = Proposals::Work;
                    Err(Unavailable::Timeout("the answer was lost".into()))
                }
            }
        }
        .boxed()
    }

    fn put_block(&self, bytes: Bytes) -> BoxFuture<'_, Result<PutBlock, Unavailable>> {
        async move {
            let now = self.puts.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.puts.most.fetch_max(now, Ordering::SeqCst);
            let fault = *self.block_faults.lock().unwrap();
            let result = match fault {
                Blocks::Work => {
                    tokio::task::yield_now().await;
                    Ok(self.put(bytes))
                }
                Blocks::Slow(time) => {
                    tokio::time::sleep(time).await;
                    Ok(self.put(bytes))
                }
                Blocks::Unavailable => Err(too_few()),
            };
            self.puts.now.fetch_sub(1, Ordering::SeqCst);
            result
        }
        .boxed()
    }

    fn get_block(&self, block: BlockRef) -> BoxFuture<'_, Result<Bytes, Unavailable>> {
        async move {
            self.gets.fetch_add(1, Ordering::SeqCst);
            let found = self.blocks.lock().unwrap().get(&block.hash).cloned();
            found.filter(|_| *self.block_faults.lock().unwrap() != Blocks::Unavailable).ok_or_else(
                || Unavailable::BlockUnreadable {
                    hash: block.hash,
                    reason: "secret-host is down".into(),
                },
            )
        }
        .boxed()
    }

    fn can_store(&self) -> Result<(), Unavailable> {
        assert_ne!(self.uploads.count(), 0, "a node that hands over would not see this upload");
        match *self.block_faults.lock().unwrap() {
            Blocks::Unavailable => Err(too_few()),
            Blocks::Work | Blocks::Slow(_) => Ok(()),
        }
    }

    fn uploads(&self) -> &UploadsUnderWay {
        &self.uploads
    }

    fn not_ready_because(&self) -> Vec<String> {
        self.not_ready.lock().unwrap().clone()
    }

    fn observe(&self) -> ClusterObservation {
        ClusterObservation {
            cluster_id: [9; 16],
            this_node: Some(NODE),
            leader: Some(NODE),
            term: 3,
            voters: vec![NODE],
            layout_epoch: 1,
            under_replicated_blocks: 2,
            nodes: vec![NodeObservation {
                node: node(),
                status: NodeStatus::Up,
                voter: true,
                applied_index: self.index(),
                blocks: 4,
                bytes: 5,
                last_seen: Duration::from_millis(1500),
                drain: self.drain.lock().unwrap().clone(),
                store: Some(StoreObservation { groups: 7, ..StoreObservation::default() }),
            }],
            repair: RepairObservation { queued_blocks: 6, ..RepairObservation::default() },
            groups: GroupStates { settled: 1000, moving: 20, releasing: 4 },
            waiting_garbage: BlockSum { blocks: 3, bytes: 30 },
            repair_paused_by: None,
            counted: Some(CopyCount { copies: 12, lacking: 2, ..CopyCount::default() }),
            findings: vec![Finding {
                severity: Severity::Warning,
                code: "disk_low",
                node: Some(NODE),
                summary: "the disk is almost full".into(),
                remedy: "Free some space.".into(),
            }],
        }
    }

    fn metrics(&self) -> String {
        "# TYPE up gauge\nup 1\n".to_owned()
    }
}

fn too_few() -> Unavailable {
    Unavailable::TooFewCopies { durable: 1, required: 2, reason: "secret-host is down".into() }
}

fn node() -> NodeRow {
    NodeRow {
        id: NODE,
        name: "seven".into(),
        zone: "a".into(),
        roles: vec![Role::Store, Role::Gateway, Role::Transcoder],
        http_url: "http://127.0.0.1:8080".into(),
        rpc_addr: "127.0.0.1:9080".into(),
        version: "0.1.0".into(),
        capacity_bytes: 1 << 30,
        feature_level: cluster::features::NEWEST,
    }
}
