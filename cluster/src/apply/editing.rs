//! What people do with a video that is there.

use super::limits::{COUNT_VIEWS_MAX, DESCRIPTION_CHARS_MAX, TITLE_CHARS_MAX};
use super::step::{Step, Stop, require, require_short};
use super::{jobs, media, uploads};
use crate::command::{Refusal, Reply};
use crate::ids::VideoId;
use crate::tables::videos::{UPLOAD_KEYS, UPLOADS, VIDEOS, VIDEOS_BY_TIME, VideoRow, Visibility};

pub(super) fn edit_video(
    step: &mut Step<'_>,
    id: VideoId,
    if_version: Option<u64>,
    title: Option<&str>,
    description: Option<&str>,
    visibility: Option<Visibility>,
) -> Result<Reply, Stop> {
    let mut video = step.video(id)?;
    require_version(&video, if_version)?;
    if let Some(title) = title {
        require_short("title", title, TITLE_CHARS_MAX)?;
        video.title = title.to_owned();
    }
    if let Some(description) = description {
        require_short("description", description, DESCRIPTION_CHARS_MAX)?;
        video.description = description.to_owned();
    }
    video.visibility = visibility.unwrap_or(video.visibility);
    video.version = step.index;
    step.save(video)?;
    Ok(Reply::Version(step.index))
}

/// Deletes a video with all that belongs to it, in any state. Work under way finds its leases lost.
pub(super) fn delete_video(
    step: &mut Step<'_>,
    id: VideoId,
    if_version: Option<u64>,
) -> Result<Reply, Stop> {
    let video = step.video(id)?;
    require_version(&video, if_version)?;
    jobs::remove_all(step, &video)?;
    uploads::delete_source(step, id)?;
    media::delete_renditions(step, id)?;
    if let Some(thumbnail) = video.thumbnail {
        step.dereference(&thumbnail)?;
    }
    if let Some(key) = &video.upload_key {
        UPLOAD_KEYS.delete(&mut step.tx, key);
    }
    VIDEOS_BY_TIME.delete(&mut step.tx, &video.place());
    UPLOADS.delete(&mut step.tx, &id);
    VIDEOS.delete(&mut step.tx, &id);
    step.changed.insert(id);
    Ok(Reply::Done)
}

/// Adds up views. Videos that are gone by now are passed over: a gateway counts ahead of the log.
pub(super) fn count_views(step: &mut Step<'_>, views: &[(VideoId, u32)]) -> Result<Reply, Stop> {
    require(views.len() <= COUNT_VIEWS_MAX, || {
        format!("views of at most {COUNT_VIEWS_MAX} videos can be counted at once")
    })?;
    for (id, count) in views {
        if let Some(mut video) = VIDEOS.get(&step.tx, id)? {
            video.views = video.views.saturating_add((*count).into());
            step.save(video)?;
        }
    }
    Ok(Reply::Done)
}

fn require_version(video: &VideoRow, if_version: Option<u64>) -> Result<(), Refusal> {
    match if_version {
        Some(version) if version != video.version => {
            Err(Refusal::VersionMismatch { actual: video.version })
        }
        Some(_) | None => Ok(()),
    }
}
