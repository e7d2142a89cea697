//! Videos as people know them.

use serde::{Deserialize, Serialize};

use crate::command::BlockRef;
use crate::ids::VideoId;
use crate::plan::Plan;
use crate::table::{Key, Table};
use crate::view::TableId;

/// Every video.
pub const VIDEOS: Table<VideoId, VideoRow> = Table::new(TableId::Videos);

/// Every video, the newest first.
pub const VIDEOS_BY_TIME: Table<NewestFirst, VideoId> = Table::new(TableId::VideosByTime);

/// The videos whose bytes are still arriving.
pub const UPLOADS: Table<VideoId, ()> = Table::new(TableId::Uploads);

/// Videos by the key that their uploader chose.
pub const UPLOAD_KEYS: Table<String, VideoId> = Table::new(TableId::UploadKeys);

/// The uploaded files, block by block, under the offset of the byte after the block.
pub const SOURCE_BLOCKS: Table<(VideoId, u64), BlockRef> = Table::new(TableId::SourceBlocks);

/// The place of a video in time: a later one is less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewestFirst {
    pub created_ms: u64,
    pub created_index: u64,
}

impl Key for NewestFirst {
    fn write(&self, to: &mut Vec<u8>) {
        (!self.created_ms).write(to);
        (!self.created_index).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some(Self { created_ms: !u64::read(from)?, created_index: !u64::read(from)? })
    }
}

/// Who finds and sees a video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Listed, and playable by everybody.
    #[default]
    Public,
    /// Playable by everybody who knows the address.
    Unlisted,
    /// Neither, until there are accounts.
    Private,
}

/// Where a video is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VideoState {
    /// Bytes are arriving. It may be playable already.
    Uploading,
    /// All bytes are there, the ladder is not complete. It may be playable already.
    Processing,
    /// All renditions are complete.
    Ready,
    /// It will never be complete; the error says why.
    Failed,
}

impl VideoState {
    /// The word for it in the API and in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Processing => "processing",
            Self::Ready => "ready",
            Self::Failed => "failed",
        }
    }
}

/// Why a video failed: a stable code for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoError {
    /// Lower-case words joined by `_`, never renamed.
    pub code: String,
    pub detail: String,
}

/// The uploaded file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    pub filename: Option<String>,
    /// Bytes, when the uploader said so beforehand or all have arrived.
    pub length: Option<u64>,
    /// Bytes that are durable, from the start without gaps.
    pub received: u64,
    /// Blocks received.
    pub blocks: u32,
    /// Whether all bytes have arrived.
    pub complete: bool,
    /// Whether it stays after the video is ready.
    pub keep: bool,
    /// Whether it has been let go of.
    pub deleted: bool,
    /// Whether its tracks turned out not to be fit for the copy lane, against what its headers say.
    #[serde(default)]
    pub not_copyable: bool,
}

/// A video.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoRow {
    pub id: VideoId,
    pub title: String,
    pub description: String,
    pub visibility: Visibility,
    pub state: VideoState,
    pub error: Option<VideoError>,
    /// Milliseconds since 1970, by the catalog's clock.
    pub created_ms: u64,
    /// Index of the log entry that created it; orders videos of the same millisecond and jobs of the same urgency.
    pub created_index: u64,
    /// Index of the log entry that last changed what people typed: the `ETag`.
    pub version: u64,
    /// Index of the log entry that last changed anything.
    pub changed_index: u64,
    pub upload_key: Option<String>,
    pub source: SourceRow,
    pub plan: Option<Plan>,
    /// The frontier: milliseconds from the start that all listed renditions have. Playable when above 0.
    pub frontier_ms: u64,
    /// Milliseconds; from the plan at first, exact when ready.
    pub duration_ms: Option<u64>,
    /// Seconds that no listed segment exceeds when rounded: fixed with the plan, 0 before. See [`crate::playback`].
    pub target_duration_s: u32,
    /// Jobs that are done, of those known.
    pub jobs_done: u32,
    pub jobs_total: u32,
    pub thumbnail: Option<BlockRef>,
    pub views: u64,
}

impl VideoRow {
    /// Its place in the order of time.
    #[must_use]
    pub fn place(&self) -> NewestFirst {
        NewestFirst { created_ms: self.created_ms, created_index: self.created_index }
    }
}
