//! All that the gateway asks of a node.
//!
//! The gateway keeps nothing between requests: what it knows it reads from the catalog, what it changes it proposes, what it
//! serves it gets as blocks. One small trait is the whole of it, with the node behind it in a cluster and an in-memory
//! implementation in the gateway's own tests.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::catalog::BlockSum;
use cluster::command::{Action, BlockRef, PutBlock, Refusal, Reply};
use cluster::ids::{BlockHash, NodeId};
use cluster::placement::GroupStates;
use cluster::tables::nodes::NodeRow;
use cluster::view::View;
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::upload::UploadsUnderWay;

/// What a proposed command came to, and where in the log it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reply: Reply,
    /// The log index of the command; it has been applied on this node too when this is returned.
    pub index: u64,
}

/// Why something could not be had now. All of these may be tried again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Unavailable {
    /// No majority of the voters can be reached, or there is no leader at present.
    #[error("the cluster has no leader that can be reached: {0}")]
    NoLeader(String),
    /// The command may or may not take effect; the node has stopped waiting.
    #[error("no answer in time: {0}")]
    Timeout(String),
    /// Too few holders of a block can store it durably.
    #[error("only {durable} of {required} durable copies could be made: {reason}")]
    TooFewCopies { durable: usize, required: usize, reason: String },
    /// No holder of a block that exists could deliver it.
    #[error("block {hash} cannot be read at present: {reason}")]
    BlockUnreadable { hash: BlockHash, reason: String },
    /// A node that is not (yet) part of a cluster, or is stopping.
    #[error("this node is not in service: {0}")]
    NotInService(String),
    /// A node that has handed over everything, and takes no more uploads.
    #[error("this node has been drained and is about to be removed")]
    Drained,
    /// The node's own storage failed.
    #[error("this node's storage failed: {0}")]
    Storage(String),
    /// Some node's program is too old for what was asked for.
    #[error("{0}")]
    NotUnderstood(String),
}

/// What a node sees of another one, and of itself.
#[derive(Clone, Debug)]
pub struct NodeObservation {
    pub node: NodeRow,
    pub status: NodeStatus,
    pub voter: bool,
    pub applied_index: u64,
    pub blocks: u64,
    /// Bytes in blocks.
    pub bytes: u64,
    /// Since the last answer to a ping; zero for the node itself.
    pub last_seen: Duration,
    /// While it is being drained.
    pub drain: Option<DrainObservation>,
    /// What it said of its blocks, if it said anything.
    pub store: Option<StoreObservation>,
}

/// How the blocks of a node are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreObservation {
    /// Placement groups that the layout gives it.
    pub groups: u32,
    /// Blocks that it should hold and does not; nothing while that is not known.
    pub missing_blocks: Option<u64>,
    /// Copies that proved damaged and have not been replaced yet.
    pub quarantined_blocks: u64,
    /// Its share of the repair.
    pub repair: RepairObservation,
    /// Free bytes and all bytes of the file system of its data.
    pub disk: Option<(u64, u64)>,
    /// Whether it takes no blocks at present.
    pub refuses_blocks: bool,
    /// Bytes that its file system has allocated for blocks.
    pub allocated_bytes: u64,
    /// Copies that belong on other nodes by now, and their bytes; nothing while that is not known.
    pub surplus: Option<BlockSum>,
    /// Blocks that were given up in the log and that it has yet to look at.
    pub backlog: BlockSum,
    pub scrub: Option<ScrubObservation>,
}

/// How a node reads all its blocks again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrubObservation {
    pub running: bool,
    /// How much of the present cycle is done, in millionths.
    pub progress_millionths: u32,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Since the last cycle ended that came to its end; nothing before the first.
    pub age: Option<Duration>,
    /// Copies that were found damaged in the present cycle, or in the last one while there is none.
    pub damaged_blocks: u64,
}

/// What a node that is being drained has yet to hand over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DrainObservation {
    /// Placement groups that the layout gives it.
    pub groups: u32,
    /// Copies that other nodes have yet to make; nothing while that is not known.
    pub copies_missing: Option<u64>,
    pub leads: bool,
    pub votes: bool,
    /// Jobs that it has not finished.
    pub jobs: u64,
    /// Uploads that people make through it.
    pub uploads: u64,
    /// Why its blocks are not moved, until somebody does something about it.
    pub stuck: Option<String>,
    /// Why it cannot be removed yet; empty when it can.
    pub waiting_for: Vec<String>,
}

/// How a node is doing, as seen from the node that is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeStatus {
    Joining,
    Up,
    Suspect,
    Down,
    Dead,
    Draining,
    Maintenance,
}

/// A count of all copies, made by asking every node for every block that it should hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyCount {
    /// Since it ended.
    pub age: Duration,
    pub layout_epoch: u64,
    /// Blocks that something refers to, and the copies that there should be of them.
    pub blocks: u64,
    pub copies: u64,
    /// Copies that their holder does not have.
    pub lacking: u64,
    /// Copies whose holder could not be asked.
    pub unknown: u64,
}

/// How repair is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairObservation {
    pub queued_blocks: u64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Why nothing is being repaired although something is queued.
    pub waiting_for: Option<String>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Somebody is refused something, or the next failure will do that.
    Critical,
    /// It will get worse unless somebody does something.
    Warning,
    /// Worth knowing.
    Notice,
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    /// Stable, for programs.
    pub code: &'static str,
    /// The node that it is about, if it is about one.
    pub node: Option<NodeId>,
    /// What is the matter, in a sentence.
    pub summary: String,
    /// What to do, in a sentence.
    pub remedy: String,
}

/// The cluster as this node sees it.
#[derive(Clone, Debug)]
pub struct ClusterObservation {
    /// All zeros while the node belongs to no cluster.
    pub cluster_id: [u8; 16],
    pub this_node: Option<NodeId>,
    pub leader: Option<NodeId>,
    pub term: u64,
    pub voters: Vec<NodeId>,
    pub layout_epoch: u64,
    pub under_replicated_blocks: u64,
    pub nodes: Vec<NodeObservation>,
    pub repair: RepairObservation,
    /// How the placement groups are.
    pub groups: GroupStates,
    /// Blocks that nobody names any more and that have not been given up yet.
    pub waiting_garbage: BlockSum,
    /// Who paused repair.
    pub repair_paused_by: Option<String>,
    /// The last count of all copies, as far as this node has heard of one.
    pub counted: Option<CopyCount>,
    /// What is wrong, the worst first.
    pub findings: Vec<Finding>,
}

/// What a node offers to its gateway.
pub trait Backend: Send + Sync + 'static {
    /// The catalog as applied on this node. Reads are short (a few rows); long scans are for the caller to bound.
    fn catalog(&self) -> Arc<dyn View + Send + Sync>;

    /// The log index applied on this node; changes with each batch of commands. Lets readers wait and event streams wake up.
    fn applied(&self) -> watch::Receiver<u64>;

    /// The index that a linearizable read has to wait for, confirmed by a majority just now.
    fn read_index(&self) -> BoxFuture<'_, Result<u64, Unavailable>>;

    /// Brings a command to the leader and waits until it is applied there and here. Gives up after a few seconds.
    fn propose(&self, action: Action) -> BoxFuture<'_, Result<Applied, Unavailable>>;

    /// Makes a block durable on enough holders, one that is there already too.
    fn put_block(&self, bytes: Bytes) -> BoxFuture<'_, Result<PutBlock, Unavailable>>;

    /// The bytes of a block, with their hash verified.
    fn get_block(&self, block: BlockRef) -> BoxFuture<'_, Result<Bytes, Unavailable>>;

    /// As [`Self::get_block`], for bytes that nobody will ask for again soon: they should not take the place of what
    /// viewers want.
    fn get_block_once(&self, block: BlockRef) -> BoxFuture<'_, Result<Bytes, Unavailable>> {
        self.get_block(block)
    }

    /// Whether two durable copies (or what the layout demands) seem possible now: asked before an upload is accepted.
    fn can_store(&self) -> Result<(), Unavailable>;

    /// Where the gateway counts the uploads that people make through it.
    fn uploads(&self) -> &UploadsUnderWay;

    /// Why this node cannot serve at present; empty when it can.
    fn not_ready_because(&self) -> Vec<String>;

    fn observe(&self) -> ClusterObservation;

    /// This node's id, if it belongs to a cluster. Asked for with each answer until it is known, so it should cost little.
    fn this_node(&self) -> Option<NodeId> {
        self.observe().this_node
    }

    /// Prometheus text.
    fn metrics(&self) -> String;
}

/// How often a command that names blocks is proposed when it is [refused](needs_blocks) because they were put too long ago.
/// Their second put comes after whatever deleted them; a third try is for whoever is paused in between.
pub const NAMING_TRIES_MAX: u32 = 3;

/// Whether the blocks that the command names may have been deleted since they were put.
#[must_use]
pub fn needs_blocks(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Refusal::NeedBlocks { .. }))
}

/// Puts the blocks that a command names once more, from the copies that are left. Returns the command with its new put
/// index.
///
/// # Errors
/// [`Unavailable::BlockUnreadable`] when no copy is left: then the bytes have to come from where they came from before.
pub async fn put_again(backend: &dyn Backend, action: Action) -> Result<Action, Unavailable> {
    let mut lowest = None;
    for block in action.blocks() {
        let bytes = backend.get_block_once(block).await?;
        let PutBlock { put_index, .. } = backend.put_block(bytes).await?;
        lowest = Some(lowest.unwrap_or(put_index).min(put_index));
    }
    Ok(match lowest {
        Some(put_index) => action.put_at(put_index),
        None => action,
    })
}
