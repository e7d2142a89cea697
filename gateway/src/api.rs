//! What the HTTP API says: its JSON, type by type.
//!
//! These types are the contract. Fields may be added; none is renamed or removed. They are apart from the catalog's rows on
//! purpose, so that the catalog can change without the API changing with it. The command line reads the same types.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use cluster::ids::{NodeId, VideoId};

/// A video as people know it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Video {
    /// 32 hexadecimal digits that cannot be guessed.
    #[schema(value_type = String, example = "9b1f0c6a5e7d4c3b8a2918070f6e5d4c")]
    pub id: VideoId,
    pub title: String,
    pub description: String,
    pub visibility: Visibility,
    pub state: VideoState,
    /// How many seconds from the start can be played now. Playback works as soon as it is above 0.
    pub playable_seconds: f64,
    /// How much of the processing is done, from 0 to 1.
    pub progress: f64,
    /// Unknown until the headers of the file have been read.
    pub duration_seconds: Option<f64>,
    /// Pixels as shown, after rotation. Unknown until the headers have been read.
    pub width: Option<u32>,
    /// Pixels as shown, after rotation. Unknown until the headers have been read.
    pub height: Option<u32>,
    pub renditions: Vec<Rendition>,
    /// Why the video failed, when it did.
    pub error: Option<VideoError>,
    pub views: u64,
    /// RFC 3339, in UTC.
    #[schema(format = DateTime, example = "2026-11-20T12:34:56.789Z")]
    pub created_at: String,
    pub urls: VideoUrls,
}

/// Who finds and sees a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Listed, and playable by everybody.
    #[default]
    Public,
    /// Playable by everybody who knows the address.
    Unlisted,
    /// Neither.
    Private,
}

/// Where a video is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VideoState {
    /// Bytes are arriving. It may be playable already.
    Uploading,
    /// All bytes are there, not all renditions. It may be playable already.
    Processing,
    /// All renditions are complete.
    Ready,
    /// It will never be complete; `error` says why.
    Failed,
}

/// Whether a rendition carries pictures or sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RenditionKind {
    Video,
    Audio,
}

/// One rung of the ladder, or the audio.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Rendition {
    /// Unique within the video and part of its addresses.
    #[schema(example = "720p")]
    pub name: String,
    pub kind: RenditionKind,
    /// Pixels; none for audio.
    pub width: Option<u32>,
    /// Pixels; none for audio.
    pub height: Option<u32>,
    /// Bits per second on average so far, or the most that is expected while nothing exists.
    pub bitrate: u64,
    /// RFC 6381; unknown until the first segment exists.
    #[schema(example = "avc1.64001f")]
    pub codecs: Option<String>,
    /// Seconds of it that exist without a gap from the start.
    pub seconds: f64,
}

/// Why a video failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VideoError {
    /// Stable, for programs.
    #[schema(example = "not_a_video")]
    pub code: String,
    /// For people.
    pub detail: String,
}

/// Where the parts of a video are: paths that are the same on every node, or null for what does not exist (yet).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VideoUrls {
    pub watch: String,
    pub embed: String,
    pub hls: String,
    pub dash: String,
    pub thumbnail: Option<String>,
    pub sprites: Option<String>,
    pub source: Option<String>,
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VideoPage {
    pub items: Vec<Video>,
    /// The `cursor` of the next page, or null after the last one.
    pub next: Option<String>,
}

/// Changes to what people typed; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VideoChanges {
    /// 1 to 200 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Up to 10000 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<Visibility>,
}

/// What a player tells about a viewing, batched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Heartbeat {
    /// Random, chosen by the player for one viewing; 1 to 64 characters.
    pub session: String,
    /// In the order of time, at most 200.
    pub events: Vec<HeartbeatEvent>,
}

/// What went on between the event before and this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatEvent {
    /// Milliseconds since 1970, by the viewer's clock.
    pub at_ms: u64,
    pub position_seconds: f64,
    pub state: PlayerState,
    /// The rendition on screen.
    #[serde(default)]
    pub rendition: Option<String>,
    /// Milliseconds of stalling since the event before.
    #[serde(default)]
    pub stalls_ms: u64,
    /// Milliseconds from asking for the video to its first frame; null before it.
    #[serde(default)]
    pub startup_ms: Option<u64>,
    /// Frames dropped since the event before.
    #[serde(default)]
    pub dropped_frames: u64,
}

/// What a player does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PlayerState {
    Playing,
    Paused,
    Stalled,
    Ended,
}

/// This site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Site {
    pub name: String,
    pub version: String,
    pub max_upload_bytes: u64,
    pub anonymous_upload: bool,
}

/// Whether a node can serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Readiness {
    pub ready: bool,
    /// Why not; empty when ready.
    pub reasons: Vec<String>,
}

/// The cluster as the node that answers sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// 32 hexadecimal digits; empty while the node belongs to no cluster.
    pub cluster_id: String,
    /// The node that answers.
    #[serde(rename = "self")]
    #[schema(value_type = Option<u64>)]
    pub this_node: Option<NodeId>,
    #[schema(value_type = Option<u64>)]
    pub leader: Option<NodeId>,
    pub term: u64,
    #[schema(value_type = Vec<u64>)]
    pub voters: Vec<NodeId>,
    pub layout_epoch: u64,
    pub under_replicated_blocks: u64,
    pub nodes: Vec<Node>,
    pub repair: Repair,
    #[serde(default)]
    pub groups: Groups,
    #[serde(default)]
    pub garbage: Garbage,
    pub jobs: Jobs,
    /// What is wrong and what to do about it, the worst first.
    #[serde(default)]
    pub findings: Vec<Finding>,
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Critical,
    Warning,
    Notice,
}

/// Something that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    pub severity: Severity,
    /// Stable, for programs.
    #[schema(example = "clock_skew")]
    pub code: String,
    /// The node that it is about, if it is about one.
    #[schema(value_type = Option<u64>)]
    pub node: Option<NodeId>,
    /// What is the matter.
    pub summary: String,
    /// What to do.
    pub remedy: String,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    #[schema(value_type = u64)]
    pub id: NodeId,
    pub name: String,
    pub zone: String,
    pub roles: Vec<Role>,
    pub status: NodeStatus,
    pub voter: bool,
    pub http_url: String,
    pub rpc_addr: String,
    pub version: String,
    pub applied_index: u64,
    pub blocks: u64,
    /// Bytes in blocks.
    pub bytes: u64,
    pub capacity_bytes: u64,
    /// Since the node that answers last heard of it.
    pub last_seen_seconds: f64,
    /// While it is being drained: what it has yet to hand over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// How its blocks are, as it said last; null while it has not said anything.
    #[serde(default)]
    pub store: Option<Store>,
}

/// How the blocks of a node are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Store {
    /// Placement groups that the layout gives it, of 1024.
    pub groups: u32,
    /// Blocks that it should hold and does not; null while that is not known.
    pub missing_blocks: Option<u64>,
    /// Copies that proved damaged and have not been replaced yet.
    pub quarantined_blocks: u64,
    /// Copies that it is going to make, for itself and for others.
    pub queued_blocks: u64,
    pub repair_bytes_per_second: u64,
    pub repair_eta_seconds: Option<u64>,
    /// Why these do not get fewer, or not as fast as they may.
    pub repair_waiting_for: Option<String>,
    /// The file system of its data; null when it cannot say.
    pub disk_free_bytes: Option<u64>,
    pub disk_total_bytes: Option<u64>,
    /// Whether it takes no blocks at present.
    pub refuses_blocks: bool,
    /// Bytes that its file system has allocated for blocks.
    #[serde(default)]
    pub allocated_bytes: u64,
    /// Copies that belong on other nodes by now and wait for these; null while that is not known.
    #[serde(default)]
    pub surplus_blocks: Option<u64>,
    #[serde(default)]
    pub surplus_bytes: u64,
    /// Blocks that nobody needs any more and that it has yet to look at.
    #[serde(default)]
    pub backlog_blocks: u64,
    #[serde(default)]
    pub scrub: Option<Scrub>,
}

/// How a node reads all its blocks again to check them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Scrub {
    pub running: bool,
    /// Of the present cycle: 0 to 1.
    pub progress: f64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Since the last full cycle ended; null before the first.
    pub age_seconds: Option<u64>,
    /// Copies that were found damaged in the present cycle, or in the last one.
    pub damaged_blocks: u64,
}

/// How the 1024 placement groups are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Groups {
    /// Their holders have everything, and nobody else has anything.
    pub settled: u32,
    /// Some holder lacks copies.
    pub moving: u32,
    /// All holders have everything, and somebody has copies that are not needed any more.
    pub releasing: u32,
}

/// What is left of deleted videos.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Garbage {
    /// Blocks that wait until they may be deleted, each once; counted up to a bound.
    pub waiting_blocks: u64,
    /// Bytes in these.
    pub waiting_bytes: u64,
    /// Blocks that some node has yet to look at, added up over the nodes.
    pub backlog_blocks: u64,
}

/// What a node that is being drained has yet to hand over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drain {
    /// Placement groups that the layout gives it, of 1024.
    pub groups: u32,
    /// Copies that other nodes have yet to make; null while that is not known.
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

/// What a node does for the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Store,
    Gateway,
    Transcoder,
}

/// How a node is doing, as seen from the node that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    Joining,
    Up,
    Suspect,
    Down,
    Dead,
    Draining,
    Maintenance,
}

/// How repair is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repair {
    pub queued_blocks: u64,
    pub bytes_per_second: u64,
    pub eta_seconds: Option<u64>,
    /// Why nothing is being repaired although something is queued.
    pub waiting_for: Option<String>,
    /// Who paused it; null when nobody did.
    #[serde(default)]
    pub paused_by: Option<String>,
    /// The last time that all copies were counted; null before the first.
    #[serde(default)]
    pub counted: Option<CopyCount>,
}

/// A count of all copies, made by asking every node for every block that it should hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CopyCount {
    /// How long ago it ended.
    pub seconds_ago: u64,
    /// The layout by which was counted.
    pub layout_epoch: u64,
    /// Blocks that something refers to.
    pub blocks: u64,
    /// Copies that there should be of them.
    pub copies: u64,
    /// Copies that their holder does not have.
    pub lacking: u64,
    /// Copies whose holder could not be asked.
    pub unknown: u64,
}

/// Work on videos.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Jobs {
    pub queued: u64,
    pub running: u64,
}

/// An error, as RFC 9457 has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: `code` tells errors apart.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    pub status: u16,
    /// What went wrong and what to do, for people.
    pub detail: String,
    /// Stable, for programs.
    #[schema(example = "unknown_video")]
    pub code: String,
    /// Names this request in the node's log.
    pub request_id: String,
}

macro_rules! same_names {
    ($here:ident, $there:path, [$($variant:ident),+]) => {
        impl From<$there> for $here {
            fn from(value: $there) -> Self {
                match value { $(<$there>::$variant => Self::$variant),+ }
            }
        }
    };
}

same_names!(Visibility, cluster::tables::videos::Visibility, [Public, Unlisted, Private]);
same_names!(
    VideoState,
    cluster::tables::videos::VideoState,
    [Uploading, Processing, Ready, Failed]
);
same_names!(RenditionKind, cluster::plan::TrackKind, [Video, Audio]);
same_names!(Severity, crate::backend::Severity, [Critical, Warning, Notice]);
same_names!(Role, cluster::tables::nodes::Role, [Store, Gateway, Transcoder]);
same_names!(
    NodeStatus,
    crate::backend::NodeStatus,
    [Joining, Up, Suspect, Down, Dead, Draining, Maintenance]
);

impl From<Visibility> for cluster::tables::videos::Visibility {
    fn from(value: Visibility) -> Self {
        match value {
            Visibility::Public => Self::Public,
            Visibility::Unlisted => Self::Unlisted,
            Visibility::Private => Self::Private,
        }
    }
}
