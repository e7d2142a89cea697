//! What each action works with: its transaction, its place in the log, and the clock.

use std::collections::BTreeSet;

use super::limits::ACTOR_CHARS_MAX;
use crate::command::Refusal;
use crate::features;
use crate::ids::VideoId;
use crate::tables::system::SystemRow;
use crate::tables::videos::{UPLOADS, VIDEOS, VideoRow, VideoState};
use crate::view::{Transaction, ViewError};

/// An action under way.
pub(super) struct Step<'a> {
    pub(super) tx: Transaction<'a>,
    /// Of the log entry.
    pub(super) index: u64,
    /// The catalog's clock, in milliseconds since 1970.
    pub(super) now_ms: u64,
    pub(super) changed: BTreeSet<VideoId>,
    /// See [`SystemRow::reap_floor`].
    pub(super) reap_floor: u64,
    /// Whether the tables of [`crate::collection`] are kept.
    pub(super) collects: bool,
}

/// Why an action does not go on.
pub(super) enum Stop {
    /// The command asks for what cannot be; all nodes find the same.
    Refused(Refusal),
    /// This node cannot read its tables.
    View(ViewError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<ViewError> for Stop {
    fn from(error: ViewError) -> Self {
        Self::View(error)
    }
}

impl<'a> Step<'a> {
    /// An action at `index` of the log, which finds this row of the cluster.
    pub(super) fn new(tx: Transaction<'a>, index: u64, system: &SystemRow) -> Self {
        Self {
            tx,
            index,
            now_ms: system.time_ms,
            changed: BTreeSet::new(),
            reap_floor: system.reap_floor,
            collects: system.level() >= features::UPKEEP,
        }
    }

    /// The video, or a refusal.
    pub(super) fn video(&self, id: VideoId) -> Result<VideoRow, Stop> {
        Ok(VIDEOS.get(&self.tx, &id)?.ok_or(Refusal::UnknownVideo)?)
    }

    /// Writes the video back, changed. It is among the uploads as long as it is one.
    pub(super) fn save(&mut self, mut video: VideoRow) -> Result<(), Stop> {
        video.changed_index = self.index;
        self.changed.insert(video.id);
        let id = video.id;
        let (was_upload, is_upload) =
            (UPLOADS.has(&self.tx, &id)?, video.state == VideoState::Uploading);
        // A row that stays as it is is not written: there are those who wake up when this table changes.
        match (was_upload, is_upload) {
            (false, true) => UPLOADS.put(&mut self.tx, &id, &()),
            (true, false) => UPLOADS.delete(&mut self.tx, &id),
            (true, true) | (false, false) => {}
        }
        VIDEOS.put(&mut self.tx, &id, &video);
        Ok(())
    }
}

/// Refuses with this reason unless the condition holds.
pub(super) fn require(condition: bool, reason: impl FnOnce() -> String) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(invalid(reason())) }
}

/// The refusal of a command that makes no sense.
pub(super) fn invalid(reason: impl Into<String>) -> Refusal {
    Refusal::Invalid { reason: reason.into() }
}

/// Refuses what nobody, or somebody with a novel for a name, asks for.
pub(super) fn require_actor(actor: &str) -> Result<(), Refusal> {
    require(!actor.is_empty(), || "it is not said who asks for this".into())?;
    require_short("actor", actor, ACTOR_CHARS_MAX)
}

/// Refuses a text of more than `limit` characters.
pub(super) fn require_short(what: &str, text: &str, limit: usize) -> Result<(), Refusal> {
    // More bytes than four per character cannot fit: no need to count them.
    let fits = text.len() <= limit.saturating_mul(4) && text.chars().count() <= limit;
    require(fits, || format!("the {what} has more than {limit} characters"))
}
