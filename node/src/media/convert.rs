//! Between the catalog's words and the transcoder's. Neither of these crates knows the other.

use anyhow::{Context, Result, bail};
use cluster::jobs::{JobId, JobKind};
use cluster::plan;
use cluster::tables::videos::VideoRow;
use transcoder::{AudioJob, CopyJob, Job, PieceJob, PrepareJob, ThumbnailJob};

use super::Settings;

/// The poster is at most this wide: what a library page shows on a screen of twice the usual density.
const THUMBNAIL_WIDTH_MAX: u32 = 1280;

/// The catalog's form of a plan. Names are part of addresses that were given out as immutable, so those of a second plan are
/// others than those of the first.
pub(super) fn plan(plan: transcoder::Plan, prepared_before: bool) -> plan::Plan {
    let named = |mut rendition: plan::RenditionPlan| {
        if prepared_before {
            rendition.name.push_str("-2");
        }
        rendition
    };
    plan::Plan {
        duration_ms: plan.duration_ms,
        width: plan.width,
        height: plan.height,
        renditions: plan.renditions.into_iter().map(rendition).map(named).collect(),
        cuts: match plan.cuts {
            transcoder::Cuts::Known(cuts) => plan::Cuts::Known(cuts),
            transcoder::Cuts::Discovered => plan::Cuts::Discovered,
        },
        recipe: plan.recipe,
    }
}

fn rendition(rendition: transcoder::RenditionPlan) -> plan::RenditionPlan {
    plan::RenditionPlan {
        name: rendition.name,
        kind: match rendition.kind {
            transcoder::TrackKind::Video => plan::TrackKind::Video,
            transcoder::TrackKind::Audio => plan::TrackKind::Audio,
        },
        lane: match rendition.lane {
            transcoder::Lane::Copy => plan::Lane::Copy,
            transcoder::Lane::Encode => plan::Lane::Encode,
        },
        width: rendition.width,
        height: rendition.height,
        frame_rate_millis: rendition.frame_rate_millis,
        bitrate_max: rendition.bitrate_max,
        timescale: rendition.timescale,
    }
}

fn cuts(cuts: &plan::Cuts) -> transcoder::Cuts {
    match cuts {
        plan::Cuts::Known(cuts) => transcoder::Cuts::Known(cuts.clone()),
        plan::Cuts::Discovered => transcoder::Cuts::Discovered,
    }
}

/// The transcoder's form of a job.
pub(super) fn job(video: &VideoRow, job: JobId, settings: &Settings) -> Result<Job> {
    if job.kind == JobKind::Prepare {
        let copy_allowed = !video.source.not_copyable;
        return Ok(Job::Prepare(PrepareJob { copy_allowed, ..PrepareJob::default() }));
    }
    let plan = video.plan.as_ref().context("the video has no plan yet")?;
    let recipe = plan.recipe.clone();
    let indices = |kind: plan::TrackKind, lane: plan::Lane| -> Vec<u16> {
        plan.indexed()
            .filter(|(_, rendition)| rendition.lane == lane && rendition.kind == kind)
            .map(|(index, _)| index)
            .collect()
    };
    Ok(match job.kind {
        JobKind::Prepare => unreachable!("handled above"),
        JobKind::Copy => {
            let mut renditions = indices(plan::TrackKind::Video, plan::Lane::Copy);
            renditions.extend(indices(plan::TrackKind::Audio, plan::Lane::Copy));
            Job::Copy(CopyJob { recipe, renditions, cuts: cuts(&plan.cuts) })
        }
        JobKind::Audio => Job::Audio(AudioJob {
            recipe,
            rendition: *indices(plan::TrackKind::Audio, plan::Lane::Encode)
                .first()
                .context("the plan has no sound to encode")?,
            cuts: cuts(&plan.cuts),
        }),
        JobKind::Piece => {
            let plan::Cuts::Known(known) = &plan.cuts else { bail!("the cuts are not known yet") };
            let pieces = plan.pieces();
            let piece = pieces.get(job.piece as usize).context("the plan has no such piece")?;
            let (first, end) = (piece.start as usize, piece.end as usize);
            Job::Piece(PieceJob {
                recipe,
                renditions: indices(plan::TrackKind::Video, plan::Lane::Encode),
                first_segment: piece.start,
                cuts: known.get(first..end).context("the piece has no cuts")?.to_vec(),
                end: known.get(end).copied(),
                threads: settings.threads_per_job,
            })
        }
        JobKind::Thumbnail => {
            Job::Thumbnail(ThumbnailJob { recipe, at_ms: None, max_width: THUMBNAIL_WIDTH_MAX })
        }
    })
}
