use crate::apply::{EXPIRIES_MAX, FAILED_ON_PAUSE_MS, FAILURES_MAX, RETRY_PAUSES_MS};
use crate::catalog::{self, JobCounts};
use crate::command::{Action, LeaseToken, Refusal, Reply};
use crate::ids::NodeId;
use crate::jobs::{JobId, JobKind};
use crate::plan::{Cuts, Lane};
use crate::tables::nodes::{NodeRow, Role};
use crate::tables::videos::{VideoError, VideoState};
use crate::testing::{
    LEASE_MS, World, block, commit, copy_plan, encode_plan, finish, node, plan_of, stale,
};

fn kinds_of(jobs: &[JobId]) -> Vec<(JobKind, u32)> {
    jobs.iter().map(|job| (job.kind, job.piece)).collect()
}

fn renew(node: u64, leases: &[(JobId, LeaseToken)]) -> Action {
    Action::RenewLeases { node: NodeId(node), leases: leases.to_vec(), lease_ms: LEASE_MS }
}

#[test]
fn what_makes_a_video_playable_comes_first() {
    use JobKind::{Audio, Copy, Piece, Thumbnail};

    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(6));
    assert_eq!(
        kinds_of(&world.work_off()),
        [(Piece, 0), (Audio, 0), (Piece, 1), (Piece, 2), (Thumbnail, 0), (Piece, 3)]
    );
    assert_eq!(world.video(id).state, VideoState::Ready);

    world.upload_with_plan(2, copy_plan(4));
    assert_eq!(
        kinds_of(&world.work_off()),
        [(Copy, 0), (Thumbnail, 0), (Piece, 0), (Piece, 1), (Piece, 2)]
    );
}

#[test]
fn the_first_piece_of_a_new_upload_goes_before_later_pieces_of_older_ones() {
    let mut world = World::new();
    let old = world.upload_with_plan(1, encode_plan(20));
    for _ in 0..6 {
        let claim = world.claim_any(1).unwrap();
        world.work(&claim);
    }
    let new = world.upload_with_plan(2, encode_plan(20));
    let next: Vec<_> = (0..6)
        .map(|_| {
            let claim = world.claim(2, &[JobKind::Piece]).unwrap();
            (claim.job.video, claim.job.piece)
        })
        .collect();
    assert_eq!(next, [(new, 0), (new, 1), (new, 2), (old, 4), (old, 5), (old, 6)]);
}

#[test]
fn a_node_gets_only_the_kinds_it_asks_for() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    assert_eq!(world.claim(1, &[]), None);
    assert_eq!(world.claim(1, &[JobKind::Copy, JobKind::Prepare]), None);
    assert_eq!(world.claim(1, &[JobKind::Audio]).unwrap().job.kind, JobKind::Audio);
    assert_eq!(world.claim(1, &[JobKind::Audio]), None);
    assert_eq!(catalog::jobs(&world.view).unwrap(), JobCounts { queued: 2, running: 1 });
}

#[test]
fn a_node_can_see_whether_a_claim_would_be_worth_it() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    let worth = |world: &World, kinds: &[JobKind], now_ms| {
        catalog::has_claimable_job(&world.view, NodeId(2), kinds, now_ms).unwrap()
    };
    let kinds = [JobKind::Piece];
    assert!(worth(&world, &kinds, world.now_ms));
    assert!(!worth(&world, &[JobKind::Copy], world.now_ms));
    world.claim(1, &kinds).unwrap();
    assert!(!worth(&world, &kinds, world.now_ms));
    assert!(worth(&world, &kinds, world.now_ms + LEASE_MS));
    assert!(!worth(&world, &[], u64::MAX));
}

#[test]
fn preparing_waits_for_the_first_byte() {
    let mut world = World::new();
    let id = world.create(1, Some(1000));
    assert_eq!(world.claim_any(1), None);
    world.append(id, 1);
    assert_eq!(world.claim_any(1).unwrap().job.kind, JobKind::Prepare);
    assert_eq!(world.claim_any(2), None);
}

#[test]
fn while_uploading_pieces_wait_for_their_bytes() {
    let mut world = World::new();
    let id = world.create(1, Some(1000));
    world.append(id, 10);
    world.plan(id, encode_plan(10));
    // Sound is read as it arrives.
    assert_eq!(world.claim_any(1).unwrap().job.kind, JobKind::Audio);
    assert_eq!(world.claim_any(1), None);
    // 40 s in 1000 bytes: the first 4 s and the margin of 2 s and a tenth need 165 bytes.
    world.append(id, 154);
    assert_eq!(world.claim(1, &[JobKind::Piece]), None);
    // The poster, at 2 s, needs less.
    assert_eq!(world.claim_any(1).unwrap().job.kind, JobKind::Thumbnail);
    world.append(id, 1);
    assert_eq!(
        world.claim_any(1).unwrap().job,
        JobId { video: id, kind: JobKind::Piece, piece: 0 }
    );
    assert_eq!(world.claim_any(1), None);
    world.append(id, 835);
    assert_eq!(world.claim_any(1).unwrap().job.piece, 1);
    world.done(Action::FinishSource { id });
    while world.claim_any(1).is_some() {}
    assert_eq!(catalog::jobs(&world.view).unwrap().queued, 0);
}

#[test]
fn pieces_of_an_upload_of_unknown_length_wait_for_its_end_and_hold_nobody_up() {
    let mut world = World::new();
    let id = world.create(1, None);
    world.append(id, 500);
    world.plan(id, encode_plan(200));
    assert_eq!(world.claim_any(1).unwrap().job.kind, JobKind::Audio);
    assert_eq!(world.claim_any(1), None);
    let other = world.upload(2);
    world.plan(other, encode_plan(200));
    for piece in 0..10 {
        let claim = world.claim(2, &[JobKind::Piece]).unwrap();
        assert_eq!((claim.job.video, claim.job.piece), (other, piece));
    }
    world.done(Action::FinishSource { id });
    let claim = world.claim(3, &[JobKind::Piece]).unwrap();
    assert_eq!((claim.job.video, claim.job.piece), (id, 0));
}

#[test]
fn a_lease_that_expires_goes_to_another_node_and_the_first_one_has_lost_it() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    let first = world.claim(1, &[JobKind::Piece]).unwrap();
    world.wait(LEASE_MS - 1);
    assert_eq!(world.claim(2, &[JobKind::Piece]), None);
    world.wait(1);
    let second = world.claim(2, &[JobKind::Piece]).unwrap();
    assert_eq!(second.job, first.job);
    assert!(second.token > first.token);
    let row = catalog::job(&world.view, first.job).unwrap().unwrap();
    assert_eq!((row.expiries, row.failures, row.failed_on), (1, 0, Some(NodeId(1))));

    for action in [commit(&first, 0, 0..1, 4), finish(&first)] {
        assert_eq!(world.refused(action), Refusal::LeaseLost);
    }
    let lost = world.done(renew(1, &[(first.job, first.token)]));
    assert_eq!(lost, Reply::Lost(vec![first.job]));
    let kept = world.done(renew(2, &[(second.job, second.token)]));
    assert_eq!(kept, Reply::Lost(vec![]));
    world.work(&second);
}

#[test]
fn a_lease_that_is_renewed_does_not_expire_and_one_that_nobody_missed_stays_good() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    for _ in 0..5 {
        world.wait(LEASE_MS - 1);
        world.done(renew(1, &[(claim.job, claim.token)]));
        assert_eq!(world.claim(2, &[JobKind::Piece]), None);
    }
    // Another node cannot renew it.
    let reply = world.done(renew(2, &[(claim.job, claim.token)]));
    assert_eq!(reply, Reply::Lost(vec![claim.job]));
    world.wait(LEASE_MS * 10);
    world.commit(&claim, 0, 0..1, 4);
    world.done(renew(1, &[(claim.job, claim.token)]));
    world.commit(&claim, 1, 0..1, 4);
    world.finish(&claim);
}

#[test]
fn a_token_that_was_never_given_is_refused_everywhere() {
    let mut world = World::new();
    let id = world.upload(1);
    let prepare = world.claim(1, &[JobKind::Prepare]).unwrap();
    let forged = stale(&prepare);
    let error = VideoError { code: "x".into(), detail: String::new() };
    let fail = |job, token| Action::FailJob { job, token, permanent: true, error: error.clone() };
    let set_plan = |job, token| Action::SetPlan { job, token, plan: encode_plan(1) };
    assert_eq!(world.refused(set_plan(forged.job, forged.token)), Refusal::LeaseLost);
    assert_eq!(world.refused(fail(forged.job, forged.token)), Refusal::LeaseLost);
    assert_eq!(world.refused(finish(&forged)), Refusal::LeaseLost);
    world.done(set_plan(prepare.job, prepare.token));
    // The plan has ended the job.
    assert_eq!(world.refused(set_plan(prepare.job, prepare.token)), Refusal::LeaseLost);
    let poster = world.claim(1, &[JobKind::Thumbnail]).unwrap();
    let forged = stale(&poster);
    assert_eq!(
        world.refused(Action::CommitThumbnail {
            job: forged.job,
            token: forged.token,
            block: block("p", 1),
            put_index: 0,
        }),
        Refusal::LeaseLost
    );
    // A good token of another job is no better.
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    world.refused(fail(poster.job, piece.token));
    assert_eq!(world.video(id).state, VideoState::Processing);
}

#[test]
fn a_job_is_finished_once() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(1));
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    world.work(&claim);
    let done = world.video(id).jobs_done;
    assert_eq!(world.refused(finish(&claim)), Refusal::LeaseLost);
    assert_eq!(world.video(id).jobs_done, done);
    assert_eq!(world.claim(1, &[JobKind::Piece]), None);
}

#[test]
fn what_failed_on_one_node_is_left_to_the_others_for_a_while() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    world.fail(&claim);
    assert_eq!(world.claim(1, &[JobKind::Piece]), None);
    let elsewhere = world.claim(2, &[JobKind::Piece]).unwrap();
    assert_eq!(elsewhere.job, claim.job);
    world.fail(&elsewhere);
    // Now it is node 2 that leaves it alone; and if nobody else takes it, not for ever.
    assert_eq!(world.claim(2, &[JobKind::Piece]), None);
    world.wait(FAILED_ON_PAUSE_MS);
    assert!(world.claim(2, &[JobKind::Piece]).is_some());
}

#[test]
fn the_only_transcoder_tries_again_itself() {
    let mut world = World::new();
    for id in [2, 3] {
        world.done(Action::RegisterNode { node: NodeRow { roles: vec![Role::Store], ..node(id) } });
    }
    world.upload_with_plan(1, encode_plan(1));
    for _ in 1..FAILURES_MAX {
        let claim = world.claim(1, &[JobKind::Piece]).unwrap();
        world.fail(&claim);
        world.wait(RETRY_PAUSES_MS[1]);
    }
    assert!(world.claim(1, &[JobKind::Piece]).is_some());
}

#[test]
fn what_fails_again_rests_before_the_next_try() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(1));
    let first = world.claim(1, &[JobKind::Piece]).unwrap();
    world.fail(&first);
    let second = world.claim(2, &[JobKind::Piece]).unwrap();
    world.fail(&second);
    assert_eq!(world.claim(3, &[JobKind::Piece]), None);
    world.wait(RETRY_PAUSES_MS[0]);
    assert!(world.claim(3, &[JobKind::Piece]).is_some());
}

#[test]
fn after_some_failures_the_video_has_failed_and_says_why() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(4));
    let audio = world.claim(1, &[JobKind::Audio]).unwrap();
    let first = world.claim(1, &[JobKind::Piece]).unwrap();
    world.commit(&audio, 2, 0..4, 4);
    world.work(&first);
    for round in 0..FAILURES_MAX {
        assert_eq!(world.video(id).state, VideoState::Processing);
        let claim = world.claim(u64::from(round % 3) + 1, &[JobKind::Piece]).unwrap();
        assert_eq!(claim.job.piece, 1);
        world.fail(&claim);
        world.wait(RETRY_PAUSES_MS[1]);
    }
    let video = world.video(id);
    let error = video.error.unwrap();
    assert_eq!((video.state, error.code.as_str()), (VideoState::Failed, "processing_failed"));
    assert!(error.detail.contains("piece") && error.detail.contains("signal 11"), "{error:?}");
    // What was playable stays so.
    assert_eq!(video.frontier_ms, 4000);
    assert_eq!(world.claim_any(1), None);
    assert_eq!(world.refused(finish(&audio)), Refusal::LeaseLost);
}

#[test]
fn after_some_expiries_too() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(1));
    for round in 0..EXPIRIES_MAX {
        assert!(world.claim(u64::from(round % 3) + 1, &[JobKind::Piece]).is_some());
        world.wait(LEASE_MS);
    }
    // The claim that finds the last expiry fails the video and goes on to other work.
    world.upload_with_plan(2, encode_plan(1));
    world.wait(FAILED_ON_PAUSE_MS);
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    assert_ne!(claim.job.video, id);
    assert_eq!(world.video(id).error.unwrap().code, "processing_failed");
}

#[test]
fn a_permanent_error_fails_the_video_at_once_with_that_error() {
    let mut world = World::new();
    let id = world.upload(1);
    let claim = world.claim(1, &[JobKind::Prepare]).unwrap();
    let error = VideoError { code: "not_a_video".into(), detail: "It is a text.".into() };
    world.done(Action::FailJob {
        job: claim.job,
        token: claim.token,
        permanent: true,
        error: error.clone(),
    });
    let video = world.video(id);
    assert_eq!((video.state, video.error), (VideoState::Failed, Some(error)));
    assert!(video.source.deleted);
}

#[test]
fn without_a_poster_a_video_is_fine() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(1));
    let poster = world.claim(1, &[JobKind::Thumbnail]).unwrap();
    assert!(matches!(world.refused(finish(&poster)), Refusal::Invalid { .. }));
    world.work_off();
    // Ready, but the source stays as long as a poster may come of it.
    assert_eq!(world.video(id).state, VideoState::Ready);
    assert!(!world.video(id).source.deleted);
    let error = VideoError { code: "no_picture".into(), detail: String::new() };
    let (job, token) = (poster.job, poster.token);
    world.done(Action::FailJob { job, token, permanent: true, error });
    let video = world.video(id);
    assert_eq!((video.state, video.error), (VideoState::Ready, None));
    assert!(video.source.deleted);
    assert_eq!(catalog::jobs(&world.view).unwrap(), JobCounts::default());
}

#[test]
fn a_node_that_stops_gives_its_jobs_back_and_one_that_starts_has_lost_them() {
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(20));
    let mine: Vec<_> = (0..3).map(|_| world.claim(1, &[JobKind::Piece]).unwrap()).collect();
    let theirs = world.claim(2, &[JobKind::Piece]).unwrap();
    let release = |jobs: &[JobId]| Action::ReleaseJobs { node: NodeId(1), jobs: jobs.to_vec() };
    world.done(release(&[mine[0].job, theirs.job]));
    let row = |world: &World, job| catalog::job(&world.view, job).unwrap().unwrap();
    assert_eq!(row(&world, mine[0].job).lease, None);
    assert_eq!(row(&world, mine[0].job).expiries, 0);
    assert!(row(&world, theirs.job).lease.is_some());
    // In order: it may take it again at once.
    let again = world.claim(1, &[JobKind::Piece]).unwrap();
    assert_eq!(again.job, mine[0].job);

    world.done(release(&[]));
    assert_eq!(catalog::leases_of(&world.view, NodeId(1)).unwrap(), []);
    for claim in &mine {
        assert_eq!(row(&world, claim.job).expiries, 1);
    }
    assert!(row(&world, theirs.job).lease.is_some());
    let (job, token) = (theirs.job, theirs.token);
    assert_eq!(world.done(renew(2, &[(job, token)])), Reply::Lost(vec![]));
}

#[test]
fn cuts_that_a_copy_job_discovers_start_the_encoding() {
    let mut world = World::new();
    let plan = crate::plan::Plan { cuts: Cuts::Discovered, ..copy_plan(3) };
    let id = world.upload_with_plan(1, plan);
    let promised = world.video(id).target_duration_s;
    let copy = world.claim(1, &[JobKind::Copy]).unwrap();
    assert_eq!(world.claim(1, &[JobKind::Piece]), None);
    world.commit(&copy, 0, 0..3, 4);
    world.commit(&copy, 1, 0..3, 4);
    let with_cuts = |cuts: Option<Vec<u64>>| Action::FinishJob {
        job: copy.job,
        token: copy.token,
        discovered_cuts: cuts,
        source_end: None,
    };
    for bad in [None, Some(vec![]), Some(vec![1, 2]), Some(vec![0, 4000, 4000])] {
        assert!(matches!(world.refused(with_cuts(bad)), Refusal::Invalid { .. }));
    }
    world.done(with_cuts(Some(vec![0, 4000, 8000])));
    let video = world.video(id);
    assert_eq!(video.frontier_ms, 12_000);
    assert_eq!(video.target_duration_s, promised);
    world.work_off();
    assert_eq!(world.video(id).state, VideoState::Ready);
    let rung = catalog::rendition(&world.view, id, 2).unwrap().unwrap();
    assert_eq!((rung.segments, rung.complete), (3, true));
}

#[test]
fn a_job_without_its_results_is_not_done() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(6));
    let jobs: Vec<_> = std::iter::from_fn(|| world.claim(1, &[JobKind::Piece])).collect();
    // Pieces: 0, 1, 2–3, 4–5.
    assert_eq!(jobs.len(), 4);
    let missing =
        |refusal| matches!(refusal, Refusal::Invalid { reason } if reason.contains("missing"));
    assert!(missing(world.refused(finish(&jobs[2]))));
    world.commit(&jobs[2], 0, 2..4, 4);
    world.commit(&jobs[2], 1, 2..3, 4);
    assert!(missing(world.refused(finish(&jobs[2]))));
    world.commit(&jobs[2], 1, 3..4, 4);
    world.finish(&jobs[2]);
    // The end of the last piece may be missing, but in all rungs alike.
    world.commit(&jobs[3], 0, 4..5, 4);
    assert!(missing(world.refused(finish(&jobs[3]))));
    world.commit(&jobs[3], 1, 4..5, 4);
    world.finish(&jobs[3]);
    world.work(&jobs[0]);
    world.work(&jobs[1]);
    world.work_off();
    let video = world.video(id);
    assert_eq!((video.state, video.duration_ms), (VideoState::Ready, Some(24_000)));
}

#[test]
fn a_track_of_sound_that_is_empty_is_left_out() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(1));
    let audio = world.claim(1, &[JobKind::Audio]).unwrap();
    world.finish(&audio);
    world.work_off();
    let video = world.video(id);
    assert_eq!((video.state, video.duration_ms), (VideoState::Ready, Some(4000)));
}

#[test]
fn sound_alone_is_a_video_too_and_nothing_at_all_is_not() {
    let mut world = World::new();
    let sound = || plan_of(&[("audio", Lane::Encode)], 3);
    let id = world.upload_with_plan(1, sound());
    assert_eq!(kinds_of(&world.work_off()), [(JobKind::Audio, 0)]);
    let video = world.video(id);
    assert_eq!((video.state, video.duration_ms), (VideoState::Ready, Some(12_000)));
    assert!(video.source.deleted);

    let id = world.upload_with_plan(2, sound());
    let audio = world.claim_any(1).unwrap();
    world.finish(&audio);
    assert_eq!(world.video(id).error.unwrap().code, "processing_failed");
}

#[test]
fn a_source_that_is_to_be_kept_is_kept() {
    let mut world = World::new();
    let id = crate::ids::VideoId([1; 16]);
    world.done(Action::CreateVideo {
        id,
        title: "kept".into(),
        description: String::new(),
        visibility: crate::tables::videos::Visibility::Public,
        filename: None,
        announced_bytes: None,
        upload_key: None,
        keep_source: true,
    });
    world.append(id, 1000);
    world.done(Action::FinishSource { id });
    world.plan(id, encode_plan(1));
    world.work_off();
    assert_eq!(world.video(id).state, VideoState::Ready);
    assert_eq!(catalog::source_blocks(&world.view, id, 0, 9).unwrap().len(), 1);
}

#[test]
fn all_work_may_be_done_before_the_upload_has_been_finished() {
    let mut world = World::new();
    let id = world.create(1, Some(1000));
    world.append(id, 1000);
    world.plan(id, encode_plan(1));
    while let Some(claim) = world.claim_any(1) {
        world.work(&claim);
    }
    // All but the piece, whose end cannot be known to have arrived.
    assert_eq!(world.video(id).state, VideoState::Uploading);
    world.done(Action::FinishSource { id });
    world.work_off();
    assert_eq!(world.video(id).state, VideoState::Ready);
}
