//! Videos by id, by upload key, and as a list.

use std::fmt;
use std::str::FromStr;

use crate::ids::VideoId;
use crate::table::{Key, KeyRange};
use crate::tables::videos::{
    NewestFirst, UPLOAD_KEYS, VIDEOS, VIDEOS_BY_TIME, VideoRow, Visibility,
};
use crate::view::{View, ViewError};

/// The most videos that one page of a search looks at, so that a search that finds nothing ends. The page then carries a
/// cursor to go on from.
pub const LIST_SCAN_MAX: usize = 2000;

/// Index rows that a listing reads at a time.
const STEP: usize = 100;

/// A video.
///
/// # Errors
/// When the view fails.
pub fn video(view: &dyn View, id: VideoId) -> Result<Option<VideoRow>, ViewError> {
    VIDEOS.get(view, &id)
}

/// The video that an uploader gave this key.
///
/// # Errors
/// When the view fails.
pub fn by_upload_key(view: &dyn View, key: &str) -> Result<Option<VideoRow>, ViewError> {
    match UPLOAD_KEYS.get(view, &key.to_owned())? {
        Some(id) => VIDEOS.get(view, &id),
        None => Ok(None),
    }
}

/// Where a listing goes on. Opaque to people: written as hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor(NewestFirst);

/// A text that no listing has given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a cursor from an earlier page")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0.to_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| InvalidCursor)?;
        NewestFirst::read(&mut bytes.as_slice()).map(Self).ok_or(InvalidCursor)
    }
}

/// Which videos to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The most videos on the page, one at least.
    pub limit: usize,
    /// Where the page before ended; `None` for the first page.
    pub cursor: Option<Cursor>,
    /// Only videos with this in their title, whatever the case of the letters.
    pub search: Option<String>,
    /// Only videos that are visible in this way; `None` for all.
    pub visibility: Option<Visibility>,
}

/// Part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VideoPage {
    /// The newest first.
    pub videos: Vec<VideoRow>,
    /// Where to go on; `None` when there is nothing more. A page may be short, even empty, and still not be the last.
    pub next: Option<Cursor>,
}

/// Lists videos, the newest first.
///
/// # Errors
/// When the view fails.
pub fn list_videos(view: &dyn View, query: &Query) -> Result<VideoPage, ViewError> {
    let wanted = query.search.as_deref().map(str::to_lowercase);
    let matches = |video: &VideoRow| {
        query.visibility.is_none_or(|visibility| video.visibility == visibility)
            && wanted.as_deref().is_none_or(|wanted| video.title.to_lowercase().contains(wanted))
    };
    let mut page = VideoPage::default();
    let mut cursor = query.cursor;
    let mut seen = 0;
    loop {
        let range = match &cursor {
            Some(Cursor(place)) => KeyRange::all().starting_after(place),
            None => KeyRange::all(),
        };
        let rows = VIDEOS_BY_TIME.collect(view, &range, STEP)?;
        let last_step = rows.len() < STEP;
        for (place, id) in rows {
            if page.videos.len() >= query.limit.max(1) || seen >= LIST_SCAN_MAX {
                page.next = cursor;
                return Ok(page);
            }
            seen += 1;
            cursor = Some(Cursor(place));
            if let Some(video) = VIDEOS.get(view, &id)?.filter(&matches) {
                page.videos.push(video);
            }
        }
        if last_step {
            return Ok(page);
        }
    }
}
