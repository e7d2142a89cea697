//! Jobs: made with a plan, leased to nodes, tried again, done.
//!
//! A job exists as long as it is not done: its row, its place in the queue and, while leased, its entry under its holder
//! come and go together. A lease is a token, the log index of its claim; whatever a worker brings is taken only with the
//! token of the latest lease. A lease whose time is over stays good until somebody else claims the job: a slow worker that
//! is not missed may finish.

use super::limits::{
    CLAIM_SCAN_MAX, EXPIRIES_MAX, FAILED_ON_PAUSE_MS, FAILURES_MAX, LEASE_MS_MAX, LEASE_MS_MIN,
    LEASES_PER_COMMAND_MAX, RETRY_PAUSES_MS,
};
use super::step::{Step, Stop, invalid, require};
use super::{media, uploads};
use crate::command::{Claim, LeaseToken, Refusal, Reply};
use crate::ids::NodeId;
use crate::jobs::{JobId, JobKind, QueueKey, Urgency};
use crate::plan::{Cuts, Lane};
use crate::playback;
use crate::table::KeyRange;
use crate::tables::authority::AUTHORITY;
use crate::tables::jobs::{JOB_QUEUE, JOBS, JobRow, LEASES, Lease};
use crate::tables::members::{MEMBERS, MemberState};
use crate::tables::nodes::{NODES, Role};
use crate::tables::system::SYSTEM;
use crate::tables::videos::{VIDEOS, VideoError, VideoRow, VideoState};
use crate::view::{View, ViewError};
use crate::{catalog, plan};

/// Jobs whose last try a claim finds to have ended, at most: giving up a video is work. The next claim goes on.
const LAST_TRIES_PER_CLAIM: usize = 8;

/// Queue rows that a claim reads at a time.
const CLAIM_STEP: usize = 16;

/// The poster is the picture at this time.
const THUMBNAIL_MS: u64 = 2_000;

/// How much more of a source than its share by time must have arrived before a piece of it is begun, in per cent and in
/// milliseconds: bit rates vary, and a worker that waits for bytes keeps others from working.
const ARRIVED_PERCENT: u128 = 110;
const ARRIVED_MARGIN_MS: u64 = 2_000;

/// Adds a job to a video.
pub(super) fn add(step: &mut Step<'_>, video: &mut VideoRow, job: JobId) -> Result<(), Stop> {
    let from_copy = video.plan.as_ref().is_some_and(|plan| plan.has_video(Lane::Copy));
    let row = JobRow { urgency: Urgency::of(job, from_copy), ..JobRow::default() };
    JOB_QUEUE.put(&mut step.tx, &queue_key(video, job, &row), &());
    JOBS.put(&mut step.tx, &job, &row);
    video.jobs_total = video.jobs_total.saturating_add(1);
    count(step, |jobs| jobs.saturating_add(1))
}

/// Adds the jobs that a plan asks for and that can be named by now: a copy lane's cuts may still have to be found.
pub(super) fn add_pieces(step: &mut Step<'_>, video: &mut VideoRow) -> Result<(), Stop> {
    let pieces = video.plan.as_ref().map(|plan| plan.pieces()).unwrap_or_default();
    for (piece, _) in (0..).zip(pieces) {
        add(step, video, JobId { video: video.id, kind: JobKind::Piece, piece })?;
    }
    Ok(())
}

/// Removes all jobs of a video, leased or not.
pub(super) fn remove_all(step: &mut Step<'_>, video: &VideoRow) -> Result<(), Stop> {
    for (job, row) in JOBS.collect(&step.tx, &KeyRange::under(&video.id), usize::MAX)? {
        remove(step, video, job, &row)?;
    }
    Ok(())
}

/// Removes a job that is done.
pub(super) fn remove_done(
    step: &mut Step<'_>,
    video: &mut VideoRow,
    job: JobId,
    row: &JobRow,
) -> Result<(), Stop> {
    video.jobs_done = video.jobs_done.saturating_add(1);
    remove(step, video, job, row)
}

fn remove(step: &mut Step<'_>, video: &VideoRow, job: JobId, row: &JobRow) -> Result<(), Stop> {
    JOBS.delete(&mut step.tx, &job);
    JOB_QUEUE.delete(&mut step.tx, &queue_key(video, job, row));
    if let Some(lease) = &row.lease {
        LEASES.delete(&mut step.tx, &(lease.node, job));
    }
    count(step, |jobs| jobs.saturating_sub(1))
}

fn queue_key(video: &VideoRow, job: JobId, row: &JobRow) -> QueueKey {
    QueueKey { urgency: row.urgency, created_index: video.created_index, job }
}

fn count(step: &mut Step<'_>, change: impl FnOnce(u64) -> u64) -> Result<(), Stop> {
    let mut system = catalog::system(&step.tx)?;
    system.jobs = change(system.jobs);
    SYSTEM.put(&mut step.tx, &(), &system);
    Ok(())
}

/// The job, if `token` is its latest lease.
pub(super) fn held(
    step: &Step<'_>,
    job: JobId,
    token: LeaseToken,
) -> Result<(JobRow, Lease), Stop> {
    let row = JOBS.get(&step.tx, &job)?.ok_or(Refusal::LeaseLost)?;
    match row.lease.clone() {
        Some(lease) if lease.token == token => Ok((row, lease)),
        Some(_) | None => Err(Refusal::LeaseLost.into()),
    }
}

/// Gives the node the most urgent job that it can begin now.
pub(super) fn claim(
    step: &mut Step<'_>,
    node: NodeId,
    kinds: &[JobKind],
    lease_ms: u64,
) -> Result<Reply, Stop> {
    for _ in 0..LAST_TRIES_PER_CLAIM {
        let Some((job, row)) = most_urgent(&step.tx, node, kinds, step.now_ms)? else {
            break;
        };
        let row = match row.lease.clone() {
            None => row,
            Some(lost) => match end_try(step, job, row, &lost, lost.expires_ms)? {
                Some(row) => row,
                // That was its last try: it is gone from the queue.
                None => continue,
            },
        };
        let expires_ms = step.now_ms.saturating_add(lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
        let token = LeaseToken(step.index);
        let lease = Some(Lease { node, token, expires_ms });
        JOBS.put(&mut step.tx, &job, &JobRow { lease, ..row });
        LEASES.put(&mut step.tx, &(node, job), &());
        return Ok(Reply::Claimed(Some(Claim { job, token })));
    }
    Ok(Reply::Claimed(None))
}

/// The most urgent job of these kinds that the node could begin at `now_ms`: one without a lease, or whose lease is over.
pub(crate) fn most_urgent(
    view: &dyn View,
    node: NodeId,
    kinds: &[JobKind],
    now_ms: u64,
) -> Result<Option<(JobId, JobRow)>, ViewError> {
    if !may_work(view, node)? {
        return Ok(None);
    }
    let elsewhere = has_other_transcoder(view, node)?;
    let mut looked_at = 0;
    for urgency in Urgency::ALL.into_iter().filter(|urgency| kinds.contains(&urgency.kind())) {
        let all = KeyRange::under(&urgency);
        let mut range = all.clone();
        'steps: while looked_at < CLAIM_SCAN_MAX {
            let keys = JOB_QUEUE.keys(view, &range, CLAIM_STEP)?;
            let Some(last) = keys.last() else {
                break;
            };
            range = range.starting_after(last);
            for key in keys {
                looked_at += 1;
                match consider(view, node, elsewhere, key.job, now_ms)? {
                    Verdict::Take(row) => return Ok(Some((key.job, row))),
                    Verdict::Pass => {}
                    Verdict::PassVideo => {
                        range = all.clone().starting_after_all_under(&(urgency, key.created_index));
                        continue 'steps;
                    }
                }
            }
        }
    }
    Ok(None)
}

/// Whether a node is given jobs: neither one that is being drained nor one that does not belong to the cluster.
fn may_work(view: &dyn View, node: NodeId) -> Result<bool, ViewError> {
    match MEMBERS.get(view, &node)? {
        Some(member) => Ok(member.state == MemberState::Member),
        None => Ok(!AUTHORITY.has(view, &())?),
    }
}

/// What a claim makes of a job.
enum Verdict {
    Take(JobRow),
    Pass,
    /// Nothing of this video and urgency can begin: its bytes have not come this far.
    PassVideo,
}

fn consider(
    view: &dyn View,
    node: NodeId,
    elsewhere: bool,
    job: JobId,
    now_ms: u64,
) -> Result<Verdict, ViewError> {
    let Some(row) = JOBS.get(view, &job)? else {
        return Ok(Verdict::Pass);
    };
    if row.lease.is_none() && now_ms < row.failed_ms.saturating_add(retry_pause_ms(row.failures)) {
        return Ok(Verdict::Pass);
    }
    let failed = match &row.lease {
        Some(lease) if lease.expires_ms > now_ms => return Ok(Verdict::Pass),
        Some(lost) => Some((lost.node, lost.expires_ms)),
        None => row.failed_on.map(|node| (node, row.failed_ms)),
    };
    let Some(video) = VIDEOS.get(view, &job.video)? else {
        return Ok(Verdict::Pass);
    };
    if !can_begin(&video, job) {
        let later_ones_neither = job.kind == JobKind::Piece;
        return Ok(if later_ones_neither { Verdict::PassVideo } else { Verdict::Pass });
    }
    let left_to_others = elsewhere
        && failed.is_some_and(|(on, at_ms)| {
            on == node && now_ms < at_ms.saturating_add(FAILED_ON_PAUSE_MS)
        });
    Ok(if left_to_others { Verdict::Pass } else { Verdict::Take(row) })
}

/// How long a job rests that failed so often.
fn retry_pause_ms(failures: u32) -> u64 {
    match usize::try_from(failures).unwrap_or(usize::MAX).checked_sub(2) {
        None => 0,
        Some(further) => RETRY_PAUSES_MS[further.min(RETRY_PAUSES_MS.len() - 1)],
    }
}

/// Whether another node could take what failed on this one.
fn has_other_transcoder(view: &dyn View, node: NodeId) -> Result<bool, ViewError> {
    for (id, row) in NODES.collect(view, &KeyRange::all(), usize::MAX)? {
        if id != node && row.roles.contains(&Role::Transcoder) && may_work(view, id)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether enough of the source has arrived. An estimate: a worker that is too early waits for its bytes.
fn can_begin(video: &VideoRow, job: JobId) -> bool {
    let source = &video.source;
    if source.complete {
        return true;
    }
    let Some(plan) = &video.plan else {
        return job.kind == JobKind::Prepare && source.received > 0;
    };
    let end_ms = match job.kind {
        // These read from the start to the end, as the bytes arrive.
        JobKind::Prepare | JobKind::Copy | JobKind::Audio => return true,
        JobKind::Thumbnail => Some(THUMBNAIL_MS),
        JobKind::Piece => plan.piece_end_ms(job.piece),
    };
    match (end_ms, source.length, plan.duration_ms) {
        (Some(end_ms), Some(length), Some(duration_ms)) => {
            let needed_ms = end_ms.saturating_add(ARRIVED_MARGIN_MS);
            let have = u128::from(source.received) * u128::from(duration_ms);
            let need = u128::from(length) * u128::from(needed_ms);
            have.saturating_mul(100) >= need.saturating_mul(ARRIVED_PERCENT)
        }
        // Without knowing how long it is, nobody can say how far it has come.
        (_, _, _) => false,
    }
}

/// Ends a try whose holder was not heard of any more. The job without its lease, or nothing if it was the last try.
fn end_try(
    step: &mut Step<'_>,
    job: JobId,
    mut row: JobRow,
    lease: &Lease,
    ended_ms: u64,
) -> Result<Option<JobRow>, Stop> {
    row.expiries = row.expiries.saturating_add(1);
    if row.expiries >= EXPIRIES_MAX {
        let detail = format!(
            "The {} job was lost {} times together with the node that worked on it.",
            job.kind.name(),
            row.expiries
        );
        give_up_job(step, job, &row, detail)?;
        return Ok(None);
    }
    row.failed_on = Some(lease.node);
    row.failed_ms = ended_ms;
    unlease(step, job, &mut row);
    Ok(Some(row))
}

/// Takes the lease away and writes the job back.
fn unlease(step: &mut Step<'_>, job: JobId, row: &mut JobRow) {
    if let Some(lease) = row.lease.take() {
        LEASES.delete(&mut step.tx, &(lease.node, job));
    }
    JOBS.put(&mut step.tx, &job, row);
}

/// No more tries. Without a poster a video is fine; without anything else it has failed.
fn give_up_job(step: &mut Step<'_>, job: JobId, row: &JobRow, detail: String) -> Result<(), Stop> {
    let mut video = step.video(job.video)?;
    if job.kind == JobKind::Thumbnail {
        remove_done(step, &mut video, job, row)?;
        return settle(step, video);
    }
    let error = VideoError { code: "processing_failed".into(), detail };
    uploads::give_up(step, video, uploads::clipped(&error))?;
    Ok(())
}

/// Prolongs leases, and names those that have been lost.
pub(super) fn renew(
    step: &mut Step<'_>,
    node: NodeId,
    leases: &[(JobId, LeaseToken)],
    lease_ms: u64,
) -> Result<Reply, Stop> {
    require_few(leases.len())?;
    let expires_ms = step.now_ms.saturating_add(lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX));
    let mut lost = Vec::new();
    for (job, token) in leases {
        match JOBS.get(&step.tx, job)? {
            Some(JobRow {
                lease: Some(lease),
                urgency,
                failures,
                expiries,
                failed_on,
                failed_ms,
            }) if lease.node == node && lease.token == *token => {
                let lease = Some(Lease { expires_ms, ..lease });
                let row = JobRow { lease, urgency, failures, expiries, failed_on, failed_ms };
                JOBS.put(&mut step.tx, job, &row);
            }
            Some(_) | None => lost.push(*job),
        }
    }
    Ok(Reply::Lost(lost))
}

/// Takes back what a node no longer works on. Jobs that it names it gives back in order; if it names none, it has started
/// anew and whatever it worked on may have been what ended it, so that counts as a try.
pub(super) fn release(step: &mut Step<'_>, node: NodeId, jobs: &[JobId]) -> Result<Reply, Stop> {
    require_few(jobs.len())?;
    let all = jobs.is_empty();
    let jobs = if all { catalog::leases_of(&step.tx, node)? } else { jobs.to_vec() };
    for job in jobs {
        let Some(mut row) = JOBS.get(&step.tx, &job)? else {
            continue;
        };
        match row.lease.clone() {
            Some(lease) if lease.node == node => {
                if all {
                    let now_ms = step.now_ms;
                    end_try(step, job, row, &lease, now_ms)?;
                } else {
                    unlease(step, job, &mut row);
                }
            }
            Some(_) | None => {}
        }
    }
    Ok(Reply::Done)
}

fn require_few(leases: usize) -> Result<(), Refusal> {
    require(leases <= LEASES_PER_COMMAND_MAX, || {
        format!("a command names at most {LEASES_PER_COMMAND_MAX} leases")
    })
}

/// A try that ended with an error.
pub(super) fn fail(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
    permanent: bool,
    error: &VideoError,
) -> Result<Reply, Stop> {
    let (mut row, lease) = held(step, job, token)?;
    let error = uploads::clipped(error);
    row.failures = row.failures.saturating_add(1);
    if permanent && job.kind != JobKind::Thumbnail {
        let video = step.video(job.video)?;
        return uploads::give_up(step, video, error);
    }
    if permanent || row.failures >= FAILURES_MAX {
        let VideoError { code, detail } = error;
        let (kind, times) = (job.kind.name(), row.failures);
        let detail =
            format!("The {kind} job failed {times} times, the last time with {code}: {detail}");
        give_up_job(step, job, &row, detail)?;
        return Ok(Reply::Done);
    }
    row.failed_on = Some(lease.node);
    row.failed_ms = step.now_ms;
    unlease(step, job, &mut row);
    Ok(Reply::Done)
}

/// What a copy job copied is thrown away: its frames cannot be. The video goes back to where it had no plan.
pub(super) fn prepare_again(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
) -> Result<Reply, Stop> {
    held(step, job, token)?;
    require(job.kind == JobKind::Copy, || {
        "only a copy job finds out what cannot be copied".into()
    })?;
    let mut video = step.video(job.video)?;
    remove_all(step, &video)?;
    media::delete_renditions(step, video.id)?;
    video.plan = None;
    video.frontier_ms = 0;
    video.duration_ms = None;
    video.jobs_done = 0;
    video.jobs_total = 0;
    video.source.not_copyable = true;
    add(step, &mut video, JobId { video: job.video, kind: JobKind::Prepare, piece: 0 })?;
    step.save(video)?;
    Ok(Reply::Done)
}

/// A job is done: its results are in the catalog.
pub(super) fn finish(
    step: &mut Step<'_>,
    job: JobId,
    token: LeaseToken,
    discovered_cuts: Option<&[u64]>,
    source_end: Option<u64>,
) -> Result<Reply, Stop> {
    let (row, _) = held(step, job, token)?;
    let mut video = step.video(job.video)?;
    media::require_results(step, &video, job, source_end)?;
    if job.kind == JobKind::Copy {
        take_cuts(&mut video, discovered_cuts)?;
    } else {
        require(discovered_cuts.is_none(), || "only a copy job discovers cuts".into())?;
    }
    remove_done(step, &mut video, job, &row)?;
    if job.kind == JobKind::Copy && discovered_cuts.is_some() {
        add_pieces(step, &mut video)?;
    }
    let same_kind = KeyRange::under(&(job.video, job.kind));
    if JOBS.first(&step.tx, &same_kind)?.is_none() {
        media::complete(step, &mut video, job.kind)?;
    }
    settle(step, video)?;
    Ok(Reply::Done)
}

/// Puts the cuts that the copy job found into the plan that waited for them.
fn take_cuts(video: &mut VideoRow, discovered: Option<&[u64]>) -> Result<(), Refusal> {
    let plan = video.plan.as_mut().ok_or_else(|| invalid("the video has no plan"))?;
    match (&plan.cuts, discovered) {
        (Cuts::Known(_), None) => Ok(()),
        (Cuts::Known(_), Some(_)) => Err(invalid("the plan knew its cuts")),
        (Cuts::Discovered, None) => {
            require(!plan.has_video(Lane::Encode), || "the cuts are missing".into())
        }
        (Cuts::Discovered, Some(cuts)) => {
            plan::require_valid_cuts(cuts).map_err(invalid)?;
            plan.cuts = Cuts::Known(cuts.to_vec());
            Ok(())
        }
    }
}

/// Writes the video back, after moving it on to `ready` if all is done, and without its source if nobody needs it.
pub(super) fn settle(step: &mut Step<'_>, mut video: VideoRow) -> Result<(), Stop> {
    let jobs = JOBS.keys(&step.tx, &KeyRange::under(&video.id), 1)?;
    // Posters come last among the jobs of a video.
    let only_posters = jobs.first().is_none_or(|job| job.kind == JobKind::Thumbnail);
    if let Some(plan) = &video.plan
        && only_posters
        && video.state == VideoState::Processing
    {
        let rows = playback::rows_of(&step.tx, &video, plan)?;
        video.frontier_ms = playback::frontier_ms(plan, &rows);
        if video.frontier_ms == 0 {
            let error = VideoError {
                code: "processing_failed".into(),
                detail: "The file holds neither a picture nor a sound.".into(),
            };
            uploads::give_up(step, video, error)?;
            return Ok(());
        }
        video.duration_ms = Some(video.frontier_ms);
        video.state = VideoState::Ready;
    }
    if video.state == VideoState::Ready && jobs.is_empty() {
        uploads::release_source(step, &mut video)?;
    }
    step.save(video)?;
    Ok(())
}
