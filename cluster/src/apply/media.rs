//! What jobs bring: the plan, segments, the poster.

use std::collections::BTreeSet;

use super::jobs;
use super::limits::{CODECS_CHARS_MAX, COMMIT_SEGMENTS_MAX};
use super::step::{Step, Stop, invalid, require, require_short};
use crate::catalog;
use crate::command::{BlockRef, LeaseToken, NewSegment, Reply};
use crate::ids::VideoId;
use crate::jobs::{JobId, JobKind};
use crate::plan::{
    Cuts, Plan, RENDITIONS_MAX, RenditionIndex, RenditionPlan, SEGMENTS_MAX, TrackKind,
};
use crate::playback;
use crate::table::KeyRange;
use crate::tables::renditions::{RENDITIONS, RenditionRow, SEGMENTS, SegmentRun};
use crate::tables::videos::VideoRow;

/// How far a segment may begin from where it should: from its cut, or from the end of the one before. Frames of sound and
/// rounded times make small differences; more than a second is a mistake.
const TIMING_SLACK_MS: u64 = 1_000;

/// Takes the plan that a prepare job made, which ends that job, and adds the jobs that the plan asks for.
pub(super) fn set_plan(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
    plan: &Plan,
) -> Result<Reply, Stop> {
    let (row, _) = jobs::held(step, job, token)?;
    require(job.kind == JobKind::Prepare, || "only a prepare job makes a plan".into())?;
    plan.require_valid().map_err(invalid)?;
    let mut video = step.video(job.video)?;
    jobs::remove_done(step, &mut video, job, &row)?;
    video.duration_ms = plan.duration_ms;
    video.target_duration_s = playback::target_duration_s(plan);
    video.plan = Some(plan.clone());
    for (index, _) in plan.indexed() {
        RENDITIONS.put(&mut step.tx, &(video.id, index), &RenditionRow::default());
    }
    for kind in [JobKind::Copy, JobKind::Audio] {
        if plan.renditions.iter().any(|rendition| rendition.made_by() == kind) {
            jobs::add(step, &mut video, JobId { video: job.video, kind, piece: 0 })?;
        }
    }
    jobs::add_pieces(step, &mut video)?;
    if plan.video_timescale().is_some() {
        let poster = JobId { video: job.video, kind: JobKind::Thumbnail, piece: 0 };
        jobs::add(step, &mut video, poster)?;
    }
    step.save(video)?;
    Ok(Reply::Done)
}

/// Results of a running job.
pub(super) struct Made<'a> {
    pub(super) init: Option<&'a (BlockRef, String)>,
    pub(super) segments: &'a [NewSegment],
    /// The lowest of all these blocks.
    pub(super) put_index: u64,
}

/// Takes segments of a running job. Numbers that are there already keep what they have.
pub(super) fn commit_segments(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
    index: RenditionIndex,
    made: &Made<'_>,
) -> Result<Reply, Stop> {
    let Made { init, segments, put_index } = *made;
    jobs::held(step, job, token)?;
    let mut video = step.video(job.video)?;
    let plan = video.plan.as_ref().ok_or_else(|| invalid("the video has no plan"))?;
    let rendition = plan
        .renditions
        .get(usize::from(index))
        .ok_or_else(|| invalid(format!("there is no rendition {index}")))?;
    require(rendition.made_by() == job.kind, || {
        format!("a {} job does not make {}", job.kind.name(), rendition.name)
    })?;
    require_plausible(plan, rendition, job, segments)?;

    let key = (video.id, index);
    let mut row = RENDITIONS.get(&step.tx, &key)?.unwrap_or_default();
    let given_init = take_init(step, &mut row, init, put_index)?;
    require(row.init.is_some() || segments.is_empty(), || {
        "the initialization segment is missing".into()
    })?;
    let fresh = without_present(step, key, segments)?;
    if fresh.is_empty() && !given_init {
        return Ok(Reply::Done);
    }
    for segment in &fresh {
        step.reference(&segment.block, put_index)?;
        count(&mut row, segment, rendition.timescale);
    }
    for run in fresh.chunk_by(|a, b| a.number + 1 == b.number) {
        if let Some(last) = run.last() {
            let stored = SegmentRun { segments: run.to_vec() };
            SEGMENTS.put(&mut step.tx, &(key.0, key.1, last.number), &stored);
        }
    }
    advance(step, key, &mut row, rendition.timescale)?;
    RENDITIONS.put(&mut step.tx, &key, &row);
    let rows = playback::rows_of(&step.tx, &video, plan)?;
    video.frontier_ms = playback::frontier_ms(plan, &rows);
    step.save(video)?;
    Ok(Reply::Done)
}

/// Whether these can be segments of that rendition at all.
fn require_plausible(
    plan: &Plan,
    rendition: &RenditionPlan,
    job: JobId,
    segments: &[NewSegment],
) -> Result<(), Stop> {
    require(segments.len() <= COMMIT_SEGMENTS_MAX, || {
        format!("at most {COMMIT_SEGMENTS_MAX} segments can be committed at once")
    })?;
    let allowed = match job.kind {
        JobKind::Piece => plan.segments_allowed(job.piece),
        JobKind::Prepare | JobKind::Copy | JobKind::Audio | JobKind::Thumbnail => {
            0..u32::try_from(SEGMENTS_MAX).unwrap_or(u32::MAX)
        }
    };
    let slack = TIMING_SLACK_MS * u64::from(rendition.timescale) / 1000;
    for segment in segments {
        let number = segment.number;
        require(allowed.contains(&number), || format!("segment {number} is not of this job"))?;
        require(segment.duration > 0, || format!("segment {number} has no length"))?;
        require(segment.start.checked_add(segment.duration).is_some(), || {
            format!("segment {number} ends beyond all time")
        })?;
        if let (Cuts::Known(cuts), TrackKind::Video) = (&plan.cuts, rendition.kind) {
            let as_planned = match usize::try_from(number).ok().and_then(|number| cuts.get(number))
            {
                Some(cut) => cut.abs_diff(segment.start) <= slack,
                // Behind the last cut, the last piece cuts as it sees fit.
                None => job.kind == JobKind::Piece,
            };
            require(as_planned, || {
                format!("segment {number} begins at {}, not at its cut", segment.start)
            })?;
        }
    }
    for pair in segments.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        require(before.number.checked_add(1) == Some(after.number), || {
            format!("segment {} follows segment {}", after.number, before.number)
        })?;
        require((before.start + before.duration).abs_diff(after.start) <= slack, || {
            format!("segment {} does not begin where the one before ends", after.number)
        })?;
    }
    Ok(())
}

/// Takes the initialization segment if it is the first; another one must be equal. Whether it was taken.
fn take_init(
    step: &mut Step<'_>,
    row: &mut RenditionRow,
    init: Option<&(BlockRef, String)>,
    put_index: u64,
) -> Result<bool, Stop> {
    let Some((block, codecs)) = init else {
        return Ok(false);
    };
    if let Some(present) = &row.init {
        require(present == block, || {
            "this initialization segment differs from the one that is there".into()
        })?;
        return Ok(false);
    }
    require_short("codecs string", codecs, CODECS_CHARS_MAX)?;
    require(!codecs.is_empty() && codecs.bytes().all(|byte| byte.is_ascii_graphic()), || {
        "a codecs string is visible ASCII".into()
    })?;
    // It stands between quotation marks in playlists.
    require(!codecs.contains(['"', '\\']), || "a codecs string has no quotation marks".into())?;
    step.reference(block, put_index)?;
    row.init = Some(*block);
    row.codecs.clone_from(codecs);
    Ok(true)
}

/// The segments whose numbers are not in the catalog yet.
fn without_present(
    step: &Step<'_>,
    (video, index): (VideoId, RenditionIndex),
    segments: &[NewSegment],
) -> Result<Vec<NewSegment>, Stop> {
    let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
        return Ok(Vec::new());
    };
    let end = last.number.saturating_add(1);
    let present: BTreeSet<u32> = catalog::segments(&step.tx, video, index, first.number, end)?
        .into_iter()
        .map(|segment| segment.number)
        .collect();
    Ok(segments.iter().filter(|segment| !present.contains(&segment.number)).cloned().collect())
}

/// Adds a segment to the sums of its rendition.
fn count(row: &mut RenditionRow, segment: &NewSegment, timescale: u32) {
    let bytes = u64::from(segment.block.len);
    let ticks = segment.duration.max(timescale.into());
    row.segments = row.segments.saturating_add(1);
    row.bytes = row.bytes.saturating_add(bytes);
    row.ticks = row.ticks.saturating_add(segment.duration);
    row.bitrate_peak = row.bitrate_peak.max(playback::bits_per_second(bytes, ticks, timescale));
    row.segment_ticks_max = row.segment_ticks_max.max(segment.duration);
}

/// Moves the end of the contiguous segments on over what is there now. Each run is stepped over once in the life of a
/// rendition, in whatever order the runs arrive.
fn advance(
    step: &Step<'_>,
    (video, index): (VideoId, RenditionIndex),
    row: &mut RenditionRow,
    timescale: u32,
) -> Result<(), Stop> {
    let slack = TIMING_SLACK_MS * u64::from(timescale) / 1000;
    loop {
        let range =
            KeyRange::under(&(video, index)).starting_at(&(video, index, row.contiguous_segments));
        let Some((_, run)) = SEGMENTS.first(&step.tx, &range)? else {
            return Ok(());
        };
        let (Some(first), Some(last)) = (run.segments.first(), run.segments.last()) else {
            return Ok(());
        };
        if first.number != row.contiguous_segments {
            return Ok(());
        }
        let joins = first.number == 0 || first.start.abs_diff(row.contiguous_end) <= slack;
        require(joins, || {
            format!("segment {} does not begin where the one before ends", first.number)
        })?;
        row.contiguous_segments = last.number.saturating_add(1);
        row.contiguous_end = last.start.saturating_add(last.duration);
    }
}

/// Whether all is there that the job had to commit. `source_end` is the tick at which it met the end of the pictures.
pub(super) fn require_results(
    step: &Step<'_>,
    video: &VideoRow,
    job: JobId,
    source_end: Option<u64>,
) -> Result<(), Stop> {
    let plan = video.plan.as_ref().ok_or_else(|| invalid("a prepare job ends with its plan"))?;
    let made = plan.indexed().filter(|(_, rendition)| rendition.made_by() == job.kind);
    match job.kind {
        JobKind::Prepare => Err(invalid("a prepare job ends with its plan").into()),
        JobKind::Thumbnail => {
            Ok(require(video.thumbnail.is_some(), || "there is no poster yet".into())?)
        }
        JobKind::Copy | JobKind::Audio => {
            for (index, rendition) in made {
                let row = catalog::rendition(&step.tx, video.id, index)?.unwrap_or_default();
                // A track of sound may turn out to be empty, a picture may not.
                let enough = row.segments > 0 || rendition.kind == TrackKind::Audio;
                require(enough && row.segments == row.contiguous_segments, || {
                    format!("segments of {} are missing", rendition.name)
                })?;
            }
            Ok(())
        }
        JobKind::Piece => {
            let piece = plan.piece(job.piece).ok_or_else(|| invalid("there is no such piece"))?;
            let allowed = plan.segments_allowed(job.piece);
            // A source may end before or after what its headers say; then all rungs end with the same segment.
            let is_last = allowed != piece;
            let expected =
                piece.clone().filter(|number| plan.begins_before(*number, source_end)).count();
            let mut first_found = None;
            for (index, rendition) in made {
                let found =
                    catalog::segments(&step.tx, video.id, index, allowed.start, allowed.end)?;
                let without_gap =
                    (piece.start..).zip(&found).all(|(number, segment)| segment.number == number);
                let complete = found.len() == expected;
                let as_others = *first_found.get_or_insert(found.len()) == found.len();
                require(without_gap && as_others && (complete || is_last), || {
                    format!("segments of {} are missing", rendition.name)
                })?;
            }
            Ok(())
        }
    }
}

/// The last job of this kind is done: nothing more will come for the renditions that it makes.
pub(super) fn complete(
    step: &mut Step<'_>,
    video: &mut VideoRow,
    kind: JobKind,
) -> Result<(), Stop> {
    let Some(plan) = &video.plan else {
        return Ok(());
    };
    for (index, _) in plan.indexed().filter(|(_, rendition)| rendition.made_by() == kind) {
        let key = (video.id, index);
        let mut row = RENDITIONS.get(&step.tx, &key)?.unwrap_or_default();
        row.complete = true;
        RENDITIONS.put(&mut step.tx, &key, &row);
    }
    let rows = playback::rows_of(&step.tx, video, plan)?;
    video.frontier_ms = playback::frontier_ms(plan, &rows);
    Ok(())
}

/// Deletes the renditions of a video with their segments.
pub(super) fn delete_renditions(step: &mut Step<'_>, id: VideoId) -> Result<(), Stop> {
    for (key, row) in RENDITIONS.collect(&step.tx, &KeyRange::under(&id), RENDITIONS_MAX)? {
        RENDITIONS.delete(&mut step.tx, &key);
        if let Some(init) = row.init {
            step.dereference(&init)?;
        }
        let runs = SEGMENTS.collect(&step.tx, &KeyRange::under(&key), usize::MAX)?;
        for (key, run) in runs {
            SEGMENTS.delete(&mut step.tx, &key);
            for segment in run.segments {
                step.dereference(&segment.block)?;
            }
        }
    }
    Ok(())
}

/// Takes the poster.
pub(super) fn commit_thumbnail(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
    block: BlockRef,
    put_index: u64,
) -> Result<Reply, Stop> {
    jobs::held(step, job, token)?;
    require(job.kind == JobKind::Thumbnail, || "only a thumbnail job makes a poster".into())?;
    let mut video = step.video(job.video)?;
    step.reference(&block, put_index)?;
    if let Some(before) = video.thumbnail.replace(block) {
        step.dereference(&before)?;
    }
    step.save(video)?;
    Ok(Reply::Done)
}
