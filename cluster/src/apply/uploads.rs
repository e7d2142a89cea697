//! From the first byte of an upload to the last.

use super::jobs;
use super::limits::{
    APPEND_BLOCKS_MAX, DESCRIPTION_CHARS_MAX, ERROR_CODE_CHARS_MAX, ERROR_DETAIL_CHARS_MAX,
    FILENAME_CHARS_MAX, SOURCE_BLOCKS_MAX, TITLE_CHARS_MAX, UPLOAD_KEY_BYTES_MAX,
};
use super::step::{Step, Stop, invalid, require, require_short};
use crate::command::{BlockRef, Refusal, Reply};
use crate::ids::VideoId;
use crate::jobs::{JobId, JobKind};
use crate::table::KeyRange;
use crate::tables::videos::{
    SOURCE_BLOCKS, SourceRow, UPLOAD_KEYS, VIDEOS, VIDEOS_BY_TIME, VideoError, VideoRow,
    VideoState, Visibility,
};

/// What the uploader says of a new video.
pub(super) struct NewVideo<'a> {
    pub(super) id: VideoId,
    pub(super) title: &'a str,
    pub(super) description: &'a str,
    pub(super) visibility: Visibility,
    pub(super) filename: Option<&'a str>,
    pub(super) announced_bytes: Option<u64>,
    pub(super) upload_key: Option<&'a str>,
    pub(super) keep_source: bool,
}

pub(super) fn create_video(step: &mut Step<'_>, new: NewVideo<'_>) -> Result<Reply, Stop> {
    require_short("title", new.title, TITLE_CHARS_MAX)?;
    require_short("description", new.description, DESCRIPTION_CHARS_MAX)?;
    require_short("file name", new.filename.unwrap_or_default(), FILENAME_CHARS_MAX)?;
    if VIDEOS.has(&step.tx, &new.id)? {
        return Err(Refusal::VideoExists.into());
    }
    if let Some(key) = new.upload_key {
        let key = key.to_owned();
        require((1..=UPLOAD_KEY_BYTES_MAX).contains(&key.len()), || {
            format!("an upload key has 1 to {UPLOAD_KEY_BYTES_MAX} bytes")
        })?;
        if UPLOAD_KEYS.has(&step.tx, &key)? {
            return Err(Refusal::VideoExists.into());
        }
        UPLOAD_KEYS.put(&mut step.tx, &key, &new.id);
    }
    let video = VideoRow {
        id: new.id,
        title: new.title.to_owned(),
        description: new.description.to_owned(),
        visibility: new.visibility,
        state: VideoState::Uploading,
        error: None,
        created_ms: step.now_ms,
        created_index: step.index,
        version: step.index,
        changed_index: step.index,
        upload_key: new.upload_key.map(str::to_owned),
        source: SourceRow {
            filename: new.filename.map(str::to_owned),
            length: new.announced_bytes,
            received: 0,
            blocks: 0,
            complete: false,
            keep: new.keep_source,
            deleted: false,
            not_copyable: false,
        },
        plan: None,
        frontier_ms: 0,
        duration_ms: None,
        target_duration_s: 0,
        jobs_done: 0,
        jobs_total: 0,
        thumbnail: None,
        views: 0,
    };
    VIDEOS_BY_TIME.put(&mut step.tx, &video.place(), &video.id);
    step.save(video)?;
    Ok(Reply::Version(step.index))
}

pub(super) fn append_source(
    step: &mut Step<'_>,
    id: VideoId,
    offset: u64,
    blocks: &[BlockRef],
    put_index: u64,
) -> Result<Reply, Stop> {
    let mut video = step.video(id)?;
    require_state(&video, VideoState::Uploading)?;
    if offset != video.source.received {
        return Err(Refusal::OffsetMismatch { expected: video.source.received }.into());
    }
    require((1..=APPEND_BLOCKS_MAX).contains(&blocks.len()), || {
        format!("1 to {APPEND_BLOCKS_MAX} blocks can be appended at once")
    })?;
    if video.source.blocks == 0 {
        // Not earlier: an upload that never sends a byte should not stand in the queue.
        let prepare = JobId { video: id, kind: JobKind::Prepare, piece: 0 };
        jobs::add(step, &mut video, prepare)?;
    }
    for block in blocks {
        let source = &mut video.source;
        source.blocks = source.blocks.saturating_add(1);
        source.received = source
            .received
            .checked_add(block.len.into())
            .ok_or_else(|| invalid("the source is too long"))?;
        SOURCE_BLOCKS.put(&mut step.tx, &(id, source.received), block);
        step.reference(block, put_index)?;
    }
    let source = &video.source;
    require(source.blocks <= SOURCE_BLOCKS_MAX, || {
        format!("a source has at most {SOURCE_BLOCKS_MAX} blocks")
    })?;
    if let Some(length) = source.length {
        require(source.received <= length, || {
            format!("{} bytes, but {length} were announced", source.received)
        })?;
    }
    step.save(video)?;
    Ok(Reply::Done)
}

pub(super) fn finish_source(step: &mut Step<'_>, id: VideoId) -> Result<Reply, Stop> {
    let mut video = step.video(id)?;
    if video.source.complete && video.state != VideoState::Failed {
        // Said twice, by two gateways perhaps: it is as the second one wants it.
        return Ok(Reply::Done);
    }
    require_state(&video, VideoState::Uploading)?;
    if let Some(length) = video.source.length {
        let received = video.source.received;
        require(received == length, || format!("{received} of {length} bytes have arrived"))?;
    }
    video.source.complete = true;
    video.source.length = Some(video.source.received);
    if video.source.received == 0 {
        let error =
            VideoError { code: "empty_file".into(), detail: "The uploaded file is empty.".into() };
        return give_up(step, video, error);
    }
    video.state = VideoState::Processing;
    jobs::settle(step, video)?;
    Ok(Reply::Done)
}

pub(super) fn fail_video(
    step: &mut Step<'_>,
    id: VideoId,
    error: &VideoError,
) -> Result<Reply, Stop> {
    let video = step.video(id)?;
    // Not later: whoever gives an upload up may not know that it has been acknowledged in the meantime.
    require_state(&video, VideoState::Uploading)?;
    give_up(step, video, clipped(error))
}

/// The video will never be complete. What can be played of it stays; its jobs and its source go.
pub(super) fn give_up(
    step: &mut Step<'_>,
    mut video: VideoRow,
    error: VideoError,
) -> Result<Reply, Stop> {
    video.state = VideoState::Failed;
    video.error = Some(error);
    jobs::remove_all(step, &video)?;
    release_source(step, &mut video)?;
    step.save(video)?;
    Ok(Reply::Done)
}

/// Lets go of the uploaded file, unless it is to be kept.
pub(super) fn release_source(step: &mut Step<'_>, video: &mut VideoRow) -> Result<(), Stop> {
    if !video.source.keep && !video.source.deleted {
        delete_source(step, video.id)?;
        video.source.deleted = true;
    }
    Ok(())
}

/// Deletes the rows of the uploaded file.
pub(super) fn delete_source(step: &mut Step<'_>, id: VideoId) -> Result<(), Stop> {
    let rows = SOURCE_BLOCKS.collect(&step.tx, &KeyRange::under(&id), usize::MAX)?;
    for (key, block) in rows {
        SOURCE_BLOCKS.delete(&mut step.tx, &key);
        step.dereference(&block)?;
    }
    Ok(())
}

/// The error, no longer than the catalog keeps. It is cut rather than refused: what went wrong has to be recorded.
pub(super) fn clipped(error: &VideoError) -> VideoError {
    VideoError {
        code: error.code.chars().take(ERROR_CODE_CHARS_MAX).collect(),
        detail: error.detail.chars().take(ERROR_DETAIL_CHARS_MAX).collect(),
    }
}

fn require_state(video: &VideoRow, state: VideoState) -> Result<(), Refusal> {
    if video.state == state { Ok(()) } else { Err(wrong_state(video)) }
}

fn wrong_state(video: &VideoRow) -> Refusal {
    Refusal::WrongState { state: video.state.name().into() }
}
