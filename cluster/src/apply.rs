//! How a command changes the catalog.
//!
//! [`apply`] is the only way in. It sets the clock, looks whether the command was applied before, and hands it to one small
//! function of its own, which either changes the tables or refuses. A refused command has changed nothing but the clock,
//! what is remembered of its client, and the audit log: each action works on a transaction of its own, which is thrown away
//! on refusal.
//!
//! No command can make it panic, whatever its numbers are: sizes and counts are checked against named limits, and sums and
//! differences are checked or saturate.
//!
//! The work of one command is bounded by what it carries and by the limits below. The largest is deleting a video, which
//! touches each of its rows: at most [`SOURCE_BLOCKS_MAX`] blocks of the source and, per rendition, [`SEGMENTS_MAX`]
//! segments. For an hour of video with five rungs that is some 10 000 rows.
//!
//! [`SEGMENTS_MAX`]: crate::plan::SEGMENTS_MAX

mod admission;
mod audit;
mod birth;
mod blocks;
mod collection;
mod editing;
mod jobs;
mod layout;
mod lifecycle;
mod limits;
mod media;
mod rebirth;
mod registration;
mod sessions;
mod step;
mod tokens;
mod uploads;

pub(crate) use jobs::most_urgent as most_urgent_job;
pub use limits::*;
pub use rebirth::{Rebirth, RebirthError, rebirth};

use crate::command::{Action, Command, Reply};
use crate::ids::VideoId;
use crate::tables::system::{SYSTEM, SystemRow};
use crate::view::{Transaction, ViewError};

use step::{Step, Stop};

/// What a command came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    pub reply: Reply,
    /// The videos that are not as they were, deleted ones included: whoever waits for news of them should look again.
    pub changed: Vec<VideoId>,
}

/// Applies the command at `index` of the log to `tx`. Applied in the order of the log, it gives the same tables and replies
/// on every node, however many commands share a transaction.
///
/// # Errors
/// When the view below cannot be read. The transaction must then be dropped, and the node must stop.
pub fn apply(
    tx: &mut Transaction<'_>,
    index: u64,
    command: &Command,
) -> Result<Applied, ViewError> {
    let mut system = SYSTEM.get(tx, &())?.unwrap_or_default();
    system.time_ms = system.time_ms.max(command.time_ms);
    let now_ms = system.time_ms;
    sessions::sweep(tx, index, &mut system)?;
    SYSTEM.put(tx, &(), &system);

    if let Some(reply) = sessions::begin(tx, command, now_ms)? {
        return Ok(Applied { reply, changed: Vec::new() });
    }
    let applied = decide(tx, index, &system, &command.action)?;
    sessions::end(tx, command, &applied.reply);
    Ok(applied)
}

/// Runs the action in a transaction of its own and takes over its changes unless it refuses.
fn decide(
    tx: &mut Transaction<'_>,
    index: u64,
    system: &SystemRow,
    action: &Action,
) -> Result<Applied, ViewError> {
    let below: &Transaction<'_> = tx;
    let now_ms = system.time_ms;
    let mut step = Step::new(Transaction::new(below), index, system);
    let audited = audit::entry(&step.tx, now_ms, action)?;
    let outcome = act(&mut step, action);
    let Step { tx: above, changed, .. } = step;
    let batch = above.into_batch();
    let applied = match outcome {
        Ok(reply) => {
            tx.absorb(batch);
            Applied { reply, changed: changed.into_iter().collect() }
        }
        Err(Stop::Refused(refusal)) => {
            Applied { reply: Reply::Refused(refusal), changed: Vec::new() }
        }
        Err(Stop::View(error)) => return Err(error),
    };
    if let Some(entry) = audited {
        audit::record(tx, index, now_ms, entry, &applied.reply)?;
    }
    Ok(applied)
}

fn act(step: &mut Step<'_>, action: &Action) -> Result<Reply, Stop> {
    match action {
        Action::InitCluster { cluster_id, authority, founder } => {
            birth::init_cluster(step, *cluster_id, authority.as_ref(), *founder)
        }
        Action::RegisterNode { node } => registration::register_node(step, node),
        Action::SetLayout { layout } => layout::set_layout(step, layout),

        Action::MintToken { token, secret_hash, roles, expires_ms, uses, actor } => tokens::mint(
            step,
            tokens::NewToken {
                id: *token,
                secret_hash: *secret_hash,
                roles,
                expires_ms: *expires_ms,
                uses: *uses,
                actor,
            },
        ),
        Action::RevokeToken { token, actor } => tokens::revoke(step, *token, actor),
        Action::AdmitNode { token, secret_hash, public_key_hash, node } => {
            admission::admit(step, *token, *secret_hash, *public_key_hash, node)
        }
        Action::DrainNode { node, actor } => lifecycle::drain(step, *node, actor),
        Action::CancelDrain { node, actor } => lifecycle::cancel_drain(step, *node, actor),
        Action::RemoveNode { node, force, actor } => lifecycle::remove(step, *node, *force, actor),
        Action::SetMaintenance { node, until_ms, actor } => {
            lifecycle::set_maintenance(step, *node, *until_ms, actor)
        }
        Action::PauseRepair { paused, actor } => lifecycle::pause_repair(step, *paused, actor),
        Action::StartScrub { actor } => lifecycle::start_scrub(step, actor),
        Action::RaiseFeatureLevel { level } => registration::raise_feature_level(step, *level),

        Action::CreateVideo {
            id,
            title,
            description,
            visibility,
            filename,
            announced_bytes,
            upload_key,
            keep_source,
        } => uploads::create_video(
            step,
            uploads::NewVideo {
                id: *id,
                title,
                description,
                visibility: *visibility,
                filename: filename.as_deref(),
                announced_bytes: *announced_bytes,
                upload_key: upload_key.as_deref(),
                keep_source: *keep_source,
            },
        ),
        Action::AppendSource { id, offset, blocks, put_index } => {
            uploads::append_source(step, *id, *offset, blocks, *put_index)
        }
        Action::FinishSource { id } => uploads::finish_source(step, *id),
        Action::FailVideo { id, error } => uploads::fail_video(step, *id, error),

        Action::EditVideo { id, if_version, title, description, visibility } => {
            editing::edit_video(
                step,
                *id,
                *if_version,
                title.as_deref(),
                description.as_deref(),
                *visibility,
            )
        }
        Action::DeleteVideo { id, if_version } => editing::delete_video(step, *id, *if_version),
        Action::CountViews { views } => editing::count_views(step, views),

        Action::ClaimJob { node, kinds, lease_ms } => jobs::claim(step, *node, kinds, *lease_ms),
        Action::RenewLeases { node, leases, lease_ms } => {
            jobs::renew(step, *node, leases, *lease_ms)
        }
        Action::ReleaseJobs { node, jobs } => jobs::release(step, *node, jobs),
        Action::FailJob { job, token, permanent, error } => {
            jobs::fail(step, *job, *token, *permanent, error)
        }
        Action::FinishJob { job, token, discovered_cuts, source_end } => {
            jobs::finish(step, *job, *token, discovered_cuts.as_deref(), *source_end)
        }

        Action::PrepareAgain { job, token } => jobs::prepare_again(step, *job, *token),
        Action::SetPlan { job, token, plan } => media::set_plan(step, *job, *token, plan),
        Action::CommitSegments { job, token, rendition, init, segments, put_index } => {
            let made = media::Made { init: init.as_ref(), segments, put_index: *put_index };
            media::commit_segments(step, *job, *token, *rendition, &made)
        }
        Action::CommitThumbnail { job, token, block, put_index } => {
            media::commit_thumbnail(step, *job, *token, *block, *put_index)
        }

        Action::ReapBlocks { hashes, unreferenced_before_ms } => {
            collection::reap(step, hashes, *unreferenced_before_ms)
        }
        Action::ForgetBlocks { marked_before_ms } => collection::forget(step, *marked_before_ms),
    }
}

#[cfg(test)]
mod tests;
