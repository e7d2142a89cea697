//! What can be decided: the commands of the log and their replies.
//!
//! A command is encoded with field names and a version (see [`crate::codec`]), so that a log written by one version can be
//! read by the next. Fields may be added with `#[serde(default)]`; nothing is renamed or reused.
//!
//! A command that arrives twice is applied once: it carries the proposer's [`ClientId`] and a sequence number, and the
//! catalog keeps the replies of the numbers that the proposer may still be waiting for (Ongaro's dissertation on Raft,
//! section 6.3). That is needed because a time-out tells a proposer nothing about what became of its command.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::features;
use crate::ids::{BlockHash, ClientId, NodeId, PublicKeyHash, SecretHash, TokenId, VideoId};
use crate::jobs::{JobId, JobKind};
use crate::placement::Layout;
use crate::plan::{Plan, RenditionIndex};
use crate::tables::authority::AuthorityRow;
use crate::tables::nodes::{NodeRow, Role};
use crate::tables::videos::{VideoError, Visibility};

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who proposed it.
    pub client: ClientId,
    /// Rises by one with each command of that client.
    pub sequence: u64,
    /// The client has its answers to everything below this number and will never send those again. It should not trail
    /// behind `sequence` by more than [`REPLY_WINDOW`](crate::apply::REPLY_WINDOW): what is older is refused.
    pub answered_below: u64,
    /// The [leader's clock](crate::clock) when it took the command, in milliseconds since 1970. The catalog's clock is the
    /// highest seen.
    pub time_ms: u64,
    pub action: Action,
}

/// A block and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    pub hash: BlockHash,
    /// Bytes.
    pub len: u32,
}

/// A block that is durable, and with it what a command has to say that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutBlock {
    pub block: BlockRef,
    /// The log index that had been applied where it was put, before the first byte was sent; see [`crate::collection`].
    pub put_index: u64,
}

/// A segment that is durable and now becomes part of a rendition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewSegment {
    /// From 0, without gaps in the end; may be committed in any order.
    pub number: u32,
    /// Ticks of the rendition's timescale from the start of the video.
    pub start: u64,
    /// Ticks.
    pub duration: u64,
    pub block: BlockRef,
}

/// The right to do a job: only the holder of the latest lease can commit its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseToken(pub u64);

/// What a command asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The cluster is born. Refused when it already was.
    InitCluster {
        cluster_id: [u8; 16],
        /// Who signs the members' certificates. Without one, nodes register and need not be admitted, as before there was
        /// admission.
        #[serde(default)]
        authority: Option<AuthorityRow>,
        /// The key of node 1, the first member; there is one if and only if there is an authority.
        #[serde(default)]
        founder: Option<PublicKeyHash>,
    },
    /// A member tells its name, addresses, roles and capacity; sent at its start when any of them changed.
    RegisterNode {
        node: NodeRow,
    },
    /// A new layout. Refused unless its epoch is the successor of the present one and all its nodes are registered.
    SetLayout {
        layout: Layout,
    },

    /// A token lets so many nodes join. The proposer chose id and secret at random.
    MintToken {
        token: TokenId,
        secret_hash: SecretHash,
        /// The roles that the nodes may have.
        roles: Vec<Role>,
        /// Milliseconds since 1970, at most [`TOKEN_LIFE_MS_MAX`](crate::apply::TOKEN_LIFE_MS_MAX) from now.
        expires_ms: u64,
        /// How many nodes.
        uses: u32,
        actor: String,
    },
    /// Nobody joins with this token any more. Those who did stay.
    RevokeToken {
        token: TokenId,
        actor: String,
    },
    /// A node becomes a member and gets its id: [`Reply::Admitted`]. A key that is a member's already gets the id of that
    /// member, and uses nothing up.
    AdmitNode {
        token: TokenId,
        secret_hash: SecretHash,
        /// Of the key that its certificate will have; the proposer has seen a proof that the joiner has it.
        public_key_hash: PublicKeyHash,
        /// Its first registration; the id in it is ignored.
        node: NodeRow,
    },
    /// A member is to hand over what it does.
    DrainNode {
        node: NodeId,
        actor: String,
    },
    /// A draining member is to stay after all.
    CancelDrain {
        node: NodeId,
        actor: String,
    },
    /// A member leaves for ever. Refused while the layout gives it blocks, unless it is lost and this is `force`; whether it
    /// is lost the proposer must know.
    RemoveNode {
        node: NodeId,
        force: bool,
        actor: String,
    },
    /// Until then the node may be away without anybody taking over its duties; `None` ends it.
    SetMaintenance {
        node: NodeId,
        /// Milliseconds since 1970, at most [`MAINTENANCE_MS_MAX`](crate::apply::MAINTENANCE_MS_MAX) from now.
        until_ms: Option<u64>,
        actor: String,
    },
    /// No node makes copies that are missing, until that is taken back.
    PauseRepair {
        /// Otherwise it goes on.
        paused: bool,
        /// Who asks for it.
        actor: String,
    },
    /// All nodes read all their blocks again and check them, beginning now, or when they are back.
    StartScrub {
        /// Who asks for it.
        actor: String,
    },
    /// From now on commands of this [level](features) may be proposed. Refused unless every member has registered it.
    RaiseFeatureLevel {
        level: u32,
    },

    /// An upload begins. The proposer chose the id at random.
    CreateVideo {
        id: VideoId,
        title: String,
        description: String,
        visibility: Visibility,
        /// What the uploader called it; shown, never used as a path.
        filename: Option<String>,
        /// Bytes, when the uploader said so beforehand.
        announced_bytes: Option<u64>,
        /// Chosen by the uploader, to find the video while the upload is still going on.
        upload_key: Option<String>,
        /// Whether the source stays after the video is ready.
        keep_source: bool,
    },
    /// Further blocks of the source, durable already; they continue at `offset`, which must be what has been received.
    AppendSource {
        id: VideoId,
        offset: u64,
        blocks: Vec<BlockRef>,
        /// The lowest [put index](crate::collection) of these blocks. [`Refusal::NeedBlocks`] if it is too low. So wherever
        /// blocks are named.
        #[serde(default)]
        put_index: u64,
    },
    /// All bytes have arrived. Refused while there are fewer than announced. A video of no bytes fails with `empty_file`.
    FinishSource {
        id: VideoId,
    },
    /// An upload broke off. Refused unless bytes are still arriving; jobs that fail say so by `FailJob`.
    FailVideo {
        id: VideoId,
        error: VideoError,
    },
    /// Changes of what people typed. `None` leaves a field as it is.
    EditVideo {
        id: VideoId,
        /// Refused unless the video has this version (its `ETag`).
        if_version: Option<u64>,
        title: Option<String>,
        description: Option<String>,
        visibility: Option<Visibility>,
    },
    DeleteVideo {
        id: VideoId,
        if_version: Option<u64>,
    },
    /// Views counted by a gateway since it last said so.
    CountViews {
        views: Vec<(VideoId, u32)>,
    },

    /// Asks for the most urgent job of one of these kinds that can begin. The lease is kept within
    /// [`LEASE_MS_MIN`](crate::apply::LEASE_MS_MIN) and [`LEASE_MS_MAX`](crate::apply::LEASE_MS_MAX).
    ClaimJob {
        node: NodeId,
        kinds: Vec<JobKind>,
        lease_ms: u64,
    },
    /// The holder is still at work. The reply is [`Reply::Lost`] with the jobs whose tokens are no longer valid.
    RenewLeases {
        node: NodeId,
        leases: Vec<(JobId, LeaseToken)>,
        lease_ms: u64,
    },
    /// The holder gives jobs back, because it stops. Without a list it is for a node that has just started and knows nothing
    /// of what it was doing: all its leases end, and count as tries that ended with their holder.
    ReleaseJobs {
        node: NodeId,
        jobs: Vec<JobId>,
    },
    /// A job went wrong. A permanent error fails the video with that error; another one lets the job be tried again,
    /// [`FAILURES_MAX`](crate::apply::FAILURES_MAX) times in all. A poster that cannot be had fails nothing.
    FailJob {
        job: JobId,
        token: LeaseToken,
        permanent: bool,
        error: VideoError,
    },

    /// A copy job met frames that cannot be copied. What was made so far is thrown away, and the video is prepared again
    /// without the copy lane.
    PrepareAgain {
        job: JobId,
        token: LeaseToken,
    },
    /// The result of a `Prepare` job: how the source becomes renditions. Ends that job (no `FinishJob` follows) and creates
    /// the jobs of the plan.
    SetPlan {
        job: JobId,
        token: LeaseToken,
        plan: Plan,
    },
    /// Results of a running job, in part: segments with consecutive numbers. Committing a number again changes nothing: the
    /// first one stays.
    CommitSegments {
        job: JobId,
        token: LeaseToken,
        rendition: RenditionIndex,
        /// The initialization segment with its RFC 6381 codecs string; needed once per rendition, and equal each time.
        init: Option<(BlockRef, String)>,
        segments: Vec<NewSegment>,
        /// Of the segments and the initialization segment.
        #[serde(default)]
        put_index: u64,
    },
    /// The poster.
    CommitThumbnail {
        job: JobId,
        token: LeaseToken,
        block: BlockRef,
        #[serde(default)]
        put_index: u64,
    },
    /// A job is done: all that it had to commit has been committed, else this is refused. A piece has to have all its
    /// segments in all encoded rungs; only the last piece of a video may end earlier or later, and then in all rungs alike.
    FinishJob {
        job: JobId,
        token: LeaseToken,
        /// The cuts that a copy job found on its way, for a plan that did not know them; needed if anything is encoded.
        discovered_cuts: Option<Vec<u64>>,
        /// The tick at which the pictures end, from a job that read to the end of the source. Segments that were planned
        /// to begin there or later do not exist: a source may be shorter than its headers say.
        #[serde(default)]
        source_end: Option<u64>,
    },

    /// The copies of these blocks may be deleted, as far as nobody has named them since `unreferenced_before_ms`. The others
    /// are passed over. See [`crate::collection`].
    ReapBlocks {
        /// At most [`REAP_BLOCKS_MAX`](crate::apply::REAP_BLOCKS_MAX).
        hashes: Vec<BlockHash>,
        /// Milliseconds since 1970, by the catalog's clock.
        unreferenced_before_ms: u64,
    },
    /// Raises the floor to the mark if that was set at `marked_before_ms` or earlier, sets a new mark then, and forgets
    /// [some](crate::apply::FORGET_BLOCKS_MAX) of the reaped blocks at or below the floor.
    ForgetBlocks {
        /// Milliseconds since 1970, by the catalog's clock.
        marked_before_ms: u64,
    },
}

impl Action {
    /// What is asked for, in a word, for logs and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::InitCluster { .. } => "init_cluster",
            Self::RegisterNode { .. } => "register_node",
            Self::SetLayout { .. } => "set_layout",
            Self::MintToken { .. } => "mint_token",
            Self::RevokeToken { .. } => "revoke_token",
            Self::AdmitNode { .. } => "admit_node",
            Self::DrainNode { .. } => "drain_node",
            Self::CancelDrain { .. } => "cancel_drain",
            Self::RemoveNode { .. } => "remove_node",
            Self::SetMaintenance { .. } => "set_maintenance",
            Self::PauseRepair { .. } => "pause_repair",
            Self::StartScrub { .. } => "start_scrub",
            Self::RaiseFeatureLevel { .. } => "raise_feature_level",
            Self::CreateVideo { .. } => "create_video",
            Self::AppendSource { .. } => "append_source",
            Self::FinishSource { .. } => "finish_source",
            Self::FailVideo { .. } => "fail_video",
            Self::EditVideo { .. } => "edit_video",
            Self::DeleteVideo { .. } => "delete_video",
            Self::CountViews { .. } => "count_views",
            Self::ClaimJob { .. } => "claim_job",
            Self::RenewLeases { .. } => "renew_leases",
            Self::ReleaseJobs { .. } => "release_jobs",
            Self::FailJob { .. } => "fail_job",
            Self::SetPlan { .. } => "set_plan",
            Self::CommitSegments { .. } => "commit_segments",
            Self::CommitThumbnail { .. } => "commit_thumbnail",
            Self::FinishJob { .. } => "finish_job",
            Self::PrepareAgain { .. } => "prepare_again",
            Self::ReapBlocks { .. } => "reap_blocks",
            Self::ForgetBlocks { .. } => "forget_blocks",
        }
    }

    /// The blocks that it names: they were put with its put index, or a higher one.
    #[must_use]
    pub fn blocks(&self) -> Vec<BlockRef> {
        if let Self::AppendSource { blocks, .. } = self {
            return blocks.clone();
        }
        if let Self::CommitSegments { init, segments, .. } = self {
            let init = init.iter().map(|(block, _)| *block);
            return init.chain(segments.iter().map(|segment| segment.block)).collect();
        }
        if let Self::CommitThumbnail { block, .. } = self {
            return vec![*block];
        }
        Vec::new()
    }

    /// The same, with all its blocks put with this index or a higher one.
    #[must_use]
    pub fn put_at(mut self, index: u64) -> Self {
        if let Self::AppendSource { put_index, .. }
        | Self::CommitSegments { put_index, .. }
        | Self::CommitThumbnail { put_index, .. } = &mut self
        {
            *put_index = index;
        }
        self
    }

    /// The level that every node's program needs to understand this. A proposer refuses what is above the active level,
    /// [`SystemRow::level`](crate::tables::system::SystemRow::level).
    #[must_use]
    pub fn feature_level(&self) -> u32 {
        match self {
            // The first command of all is met by nobody but the founder, and by those who are admitted later.
            Self::InitCluster { .. }
            // How the level rises. The leader proposes it only when every node has registered that it understands this too,
            // see `catalog::level_understood`.
            | Self::RaiseFeatureLevel { .. }
            | Self::RegisterNode { .. }
            | Self::SetLayout { .. }
            | Self::CreateVideo { .. }
            | Self::AppendSource { .. }
            | Self::FinishSource { .. }
            | Self::FailVideo { .. }
            | Self::EditVideo { .. }
            | Self::DeleteVideo { .. }
            | Self::CountViews { .. }
            | Self::ClaimJob { .. }
            | Self::RenewLeases { .. }
            | Self::ReleaseJobs { .. }
            | Self::FailJob { .. }
            | Self::PrepareAgain { .. }
            | Self::SetPlan { .. }
            | Self::CommitSegments { .. }
            | Self::CommitThumbnail { .. }
            | Self::FinishJob { .. } => features::FIRST,
            Self::MintToken { .. }
            | Self::RevokeToken { .. }
            | Self::AdmitNode { .. }
            | Self::DrainNode { .. }
            | Self::CancelDrain { .. }
            | Self::RemoveNode { .. }
            | Self::SetMaintenance { .. } => features::ADMISSION,
            Self::PauseRepair { .. }
            | Self::StartScrub { .. }
            | Self::ReapBlocks { .. }
            | Self::ForgetBlocks { .. } => features::UPKEEP,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.action.name(), self.client, self.sequence)
    }
}

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Done,
    /// The version (`ETag`) that the video has now.
    Version(u64),
    /// The job, and the right to do it until the lease ends; or nothing to do at present.
    Claimed(Option<Claim>),
    /// These leases have been lost.
    Lost(Vec<JobId>),
    /// The id of the node that was admitted.
    Admitted(NodeId),
    Refused(Refusal),
}

/// A job that was given to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    pub job: JobId,
    pub token: LeaseToken,
}

/// Why a command changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    #[error("this cluster has been initialized already")]
    AlreadyInitialized,
    #[error("there is no such video")]
    UnknownVideo,
    #[error("there is a video with this id or upload key already")]
    VideoExists,
    #[error("the video has version {actual} by now")]
    VersionMismatch { actual: u64 },
    #[error("the upload continues at byte {expected}")]
    OffsetMismatch { expected: u64 },
    #[error("the video is {state}, which does not allow this")]
    WrongState { state: String },
    #[error("the lease has ended or somebody else has it")]
    LeaseLost,
    #[error("{reason}")]
    Invalid { reason: String },
    #[error("layout epoch {expected} is the next one")]
    LayoutEpoch { expected: u64 },
    /// The command is below the client's window of sequence numbers. Whether it was applied before is not known any more;
    /// now it was not.
    #[error("this command is older than what is remembered of its client")]
    Forgotten,
    #[error("this cluster was founded without an authority, so it has no tokens and no members")]
    NoAuthority,
    /// Also for a wrong secret: whoever guesses is not told which half was right.
    #[error("there is no such token; perhaps it was revoked")]
    TokenUnknown,
    #[error("the token has expired; make a new one")]
    TokenExpired,
    #[error("the token has let in as many nodes as it may; make a new one")]
    TokenUsed,
    #[error("the role {} is not among those that the node's token allows", .role.name())]
    RoleNotAllowed { role: Role },
    #[error("the node's program is too old: the cluster needs feature level {needs}")]
    ProgramTooOld { needs: u32 },
    #[error("node {node} has the {what} already: start this node with another one")]
    AddressTaken { what: String, node: NodeId },
    #[error("there is no such node")]
    UnknownNode,
    #[error(
        "the node was removed from the cluster; it can only join again as a new node, with an empty data directory"
    )]
    NodeRemoved,
    #[error("the node is not a member of the cluster")]
    NotAMember,
    /// Copies that the command relies on may be gone: all its blocks have to be put again.
    #[error("block {hash} was put too long ago: its copies may have been deleted since")]
    NeedBlocks {
        /// The first of them.
        hash: BlockHash,
    },
    /// It would put data or the cluster at risk.
    #[error("{reason}")]
    Unsafe { reason: String },
}
