//! Work on videos: which jobs there are, and which comes first.
//!
//! The order of urgency is the time-to-stream promise in numbers: what makes a video playable at all goes before what makes
//! it complete, so the first piece of a new upload overtakes the later pieces of older ones.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::VideoId;
use crate::table::Key;

/// What kind of work; a node may take only some kinds at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Read the headers and decide on a plan. Hardly any CPU, but may wait for bytes of a running upload.
    Prepare,
    /// Repackage what needs no encoding. Hardly any CPU, but may wait for bytes of a running upload.
    Copy,
    /// Encode the sound of the whole video.
    Audio,
    /// Encode one piece of the video for all its encoded rungs.
    Piece,
    /// Make the poster.
    Thumbnail,
}

impl JobKind {
    /// All kinds.
    pub const ALL: [Self; 5] =
        [Self::Prepare, Self::Copy, Self::Audio, Self::Piece, Self::Thumbnail];

    /// The word for it in messages and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Copy => "copy",
            Self::Audio => "audio",
            Self::Piece => "piece",
            Self::Thumbnail => "thumbnail",
        }
    }

    /// The kind's number in keys, for ever.
    fn number(self) -> u8 {
        match self {
            Self::Prepare => 0,
            Self::Copy => 1,
            Self::Audio => 2,
            Self::Piece => 3,
            Self::Thumbnail => 4,
        }
    }
}

impl Key for JobKind {
    fn write(&self, to: &mut Vec<u8>) {
        self.number().write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let number = u8::read(from)?;
        Self::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

/// One job of one video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct JobId {
    pub video: VideoId,
    pub kind: JobKind,
    /// Which piece; 0 for all other kinds.
    pub piece: u32,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.video, self.kind.name(), self.piece)
    }
}

impl Key for JobId {
    fn write(&self, to: &mut Vec<u8>) {
        self.video.write(to);
        self.kind.write(to);
        self.piece.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            video: VideoId::read(from)?,
            kind: JobKind::read(from)?,
            piece: u32::read(from)?,
        })
    }
}

/// How urgent a job is; what is declared first goes first. Jobs of the same urgency go in the order in which their videos
/// were created, then piece by piece.
///
/// A job keeps the urgency that it was made with, so that the rules may change from one version to the next.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Urgency {
    /// Nothing can happen before there is a plan.
    Prepare,
    /// Makes a video playable at the cost of reading it.
    Copy,
    /// The first piece of a video that is not playable without it.
    FirstPiece,
    /// Not playable without it either, but it takes longer than a first piece.
    Audio,
    /// The pieces that keep playback going while the rest is made.
    EarlyPiece,
    /// The poster: quick, and the library looks bare without it.
    Thumbnail,
    /// The rest of a video that people may be watching already.
    LaterPiece,
    /// Further rungs for a video that is playable to its end from its copy lane.
    #[default]
    Rung,
}

/// Pieces after the first that go before the posters and before other videos' later pieces: with pieces of 2–4 s and
/// 8–16 s they are the first quarter of a minute, which buys the time for the rest.
const EARLY_PIECES: u32 = 2;

impl Urgency {
    /// The urgency of a job of a video, given whether the video has a copy lane for its pictures.
    #[must_use]
    pub fn of(job: JobId, playable_from_copy: bool) -> Self {
        match job.kind {
            JobKind::Prepare => Self::Prepare,
            JobKind::Copy => Self::Copy,
            JobKind::Audio => Self::Audio,
            JobKind::Thumbnail => Self::Thumbnail,
            JobKind::Piece if playable_from_copy => Self::Rung,
            JobKind::Piece if job.piece == 0 => Self::FirstPiece,
            JobKind::Piece if job.piece <= EARLY_PIECES => Self::EarlyPiece,
            JobKind::Piece => Self::LaterPiece,
        }
    }

    /// The one kind of job that has this urgency.
    #[must_use]
    pub fn kind(self) -> JobKind {
        match self {
            Self::Prepare => JobKind::Prepare,
            Self::Copy => JobKind::Copy,
            Self::Audio => JobKind::Audio,
            Self::Thumbnail => JobKind::Thumbnail,
            Self::FirstPiece | Self::EarlyPiece | Self::LaterPiece | Self::Rung => JobKind::Piece,
        }
    }

    /// All urgencies, the most urgent first.
    pub const ALL: [Self; 8] = [
        Self::Prepare,
        Self::Copy,
        Self::FirstPiece,
        Self::Audio,
        Self::EarlyPiece,
        Self::Thumbnail,
        Self::LaterPiece,
        Self::Rung,
    ];
}

impl Key for Urgency {
    fn write(&self, to: &mut Vec<u8>) {
        // The number is the place in the declaration, which is the order.
        (*self as u8).write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let number = u8::read(from)?;
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Where a job stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QueueKey {
    pub urgency: Urgency,
    /// The log index that created the video.
    pub created_index: u64,
    /// The job. Within one video and urgency, pieces go in their order.
    pub job: JobId,
}

impl Key for QueueKey {
    fn write(&self, to: &mut Vec<u8>) {
        self.urgency.write(to);
        self.created_index.write(to);
        self.job.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some(Self {
            urgency: Urgency::read(from)?,
            created_index: u64::read(from)?,
            job: JobId::read(from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_piece_of_a_new_video_goes_before_later_pieces_of_an_older_one() {
        let key = |video: u8, piece| {
            let job = JobId { video: VideoId([video; 16]), kind: JobKind::Piece, piece };
            let urgency = Urgency::of(job, false);
            QueueKey { urgency, created_index: video.into(), job }
        };
        assert!(key(2, 0) < key(1, 1));
        assert!(key(2, 1) < key(1, 3));
        assert!(key(1, 3) < key(1, 4));
        assert!(key(1, 9) < key(2, 3));
        assert!(key(1, 9).to_bytes() < key(2, 3).to_bytes());
    }

    #[test]
    fn urgencies_keep_their_places() {
        for (place, urgency) in Urgency::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(urgency as u8), place);
            assert_eq!(Urgency::read(&mut [urgency as u8].as_slice()), Some(urgency));
        }
        for kind in JobKind::ALL {
            assert_eq!(JobKind::read(&mut kind.to_bytes().as_slice()), Some(kind));
        }
    }
}
