use crate::catalog;
use crate::command::{Action, BlockRef, Claim, NewSegment, Refusal};
use crate::jobs::JobKind;
use crate::plan::{Cuts, Lane, Plan, RECIPE_BYTES_MAX, RENDITIONS_MAX, SEGMENTS_MAX};
use crate::testing::{World, block, commit, copy_plan, encode_plan, plan_of, rendition};

fn refuses_plan(change: impl FnOnce(&mut Plan)) {
    let mut world = World::new();
    world.upload(1);
    let claim = world.claim(1, &[JobKind::Prepare]).unwrap();
    let mut plan = copy_plan(3);
    change(&mut plan);
    let refusal = world.refused(Action::SetPlan { job: claim.job, token: claim.token, plan });
    assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
}

#[test]
fn a_plan_that_makes_no_sense_is_refused() {
    refuses_plan(|plan| plan.renditions.clear());
    refuses_plan(|plan| {
        let more = (0..RENDITIONS_MAX).map(|n| rendition(&format!("r{n}"), Lane::Encode));
        plan.renditions.extend(more);
    });
    refuses_plan(|plan| plan.renditions[1].name = "source".into());
    refuses_plan(|plan| plan.renditions[0].name = "../x".into());
    refuses_plan(|plan| plan.renditions[0].name = String::new());
    refuses_plan(|plan| plan.renditions[0].timescale = 0);
    refuses_plan(|plan| plan.renditions[0].timescale = 90_000);
    refuses_plan(|plan| plan.renditions[0].width = 0);
    refuses_plan(|plan| plan.renditions[1].width = 1);
    refuses_plan(|plan| plan.renditions[0].bitrate_max = 0);
    refuses_plan(|plan| plan.cuts = Cuts::Known(vec![]));
    refuses_plan(|plan| plan.cuts = Cuts::Known(vec![1]));
    refuses_plan(|plan| plan.cuts = Cuts::Known(vec![0, 2, 2]));
    refuses_plan(|plan| plan.cuts = Cuts::Known((0..=SEGMENTS_MAX as u64).collect()));
    refuses_plan(|plan| plan.recipe = vec![0; RECIPE_BYTES_MAX + 1]);
    refuses_plan(|plan| {
        plan.renditions.remove(0);
        plan.cuts = Cuts::Discovered;
    });
}

#[test]
fn a_plan_makes_the_jobs_that_it_needs() {
    let mut world = World::new();
    for (number, plan, kinds) in [
        (1, encode_plan(1), vec![JobKind::Audio, JobKind::Piece, JobKind::Thumbnail]),
        (2, copy_plan(1), vec![JobKind::Copy, JobKind::Piece, JobKind::Thumbnail]),
        (
            3,
            plan_of(&[("source", Lane::Copy), ("audio", Lane::Encode)], 5),
            vec![JobKind::Copy, JobKind::Audio, JobKind::Thumbnail],
        ),
    ] {
        let id = world.upload_with_plan(number, plan);
        let jobs = catalog::jobs_of(&world.view, id, 100).unwrap();
        assert_eq!(jobs.iter().map(|(job, _)| job.kind).collect::<Vec<_>>(), kinds);
    }
}

/// A copy job of a video of ten segments.
fn copying() -> (World, Claim) {
    let mut world = World::new();
    world.upload_with_plan(1, copy_plan(10));
    let claim = world.claim(1, &[JobKind::Copy]).unwrap();
    (world, claim)
}

fn row(world: &World, claim: &Claim) -> (u32, u32, u64) {
    let row = catalog::rendition(&world.view, claim.job.video, 0).unwrap().unwrap();
    (row.segments, row.contiguous_segments, row.contiguous_end)
}

fn references(world: &World, block: &BlockRef) -> u64 {
    catalog::block(&world.view, &block.hash).unwrap().map_or(0, |row| row.references)
}

#[test]
fn runs_may_arrive_in_any_order() {
    let (mut world, claim) = copying();
    for (numbers, expected) in [
        (6..8, (2, 0, 0)),
        (3..5, (4, 0, 0)),
        (0..1, (5, 1, 4000)),
        (1..3, (7, 5, 20_000)),
        (8..10, (9, 5, 20_000)),
        (5..6, (10, 10, 40_000)),
    ] {
        world.commit(&claim, 0, numbers, 4);
        assert_eq!(row(&world, &claim), expected);
    }
    let id = claim.job.video;
    for number in 0..10 {
        let found = catalog::segment(&world.view, id, 0, number).unwrap().unwrap();
        assert_eq!(found.number, number);
    }
    assert_eq!(catalog::segment(&world.view, id, 0, 10).unwrap(), None);
    assert_eq!(catalog::segment(&world.view, id, 1, 0).unwrap(), None);
    let some = catalog::segments(&world.view, id, 0, 2, 7).unwrap();
    assert_eq!(some.iter().map(|segment| segment.number).collect::<Vec<_>>(), [2, 3, 4, 5, 6]);
}

#[test]
fn the_first_segment_of_a_number_stays() {
    let (mut world, claim) = copying();
    world.commit(&claim, 0, 2..4, 4);
    world.commit(&claim, 0, 6..7, 4);
    let before = world.lasting_rows();
    world.commit(&claim, 0, 2..4, 4);
    assert_eq!(world.lasting_rows(), before, "nothing is new");

    // Another worker's bytes for 1 to 8: only what is missing is taken.
    let Action::CommitSegments { job, token, rendition, init, mut segments, put_index } =
        commit(&claim, 0, 1..9, 4)
    else {
        panic!("a commit is a commit");
    };
    for segment in &mut segments {
        segment.block = block(&format!("other {}", segment.number), 6000);
    }
    let others = segments.clone();
    world.done(Action::CommitSegments { job, token, rendition, init, segments, put_index });
    for other in others {
        let stays = [2, 3, 6].contains(&other.number);
        assert_eq!(references(&world, &other.block), u64::from(!stays), "{}", other.number);
    }
    assert_eq!(row(&world, &claim), (8, 0, 0));
    world.commit(&claim, 0, 0..1, 4);
    assert_eq!(row(&world, &claim), (9, 9, 36_000));
}

#[test]
fn a_worker_that_takes_over_commits_the_same_again() {
    let (mut world, claim) = copying();
    world.commit(&claim, 0, 0..4, 4);
    world.wait(crate::testing::LEASE_MS);
    let again = world.claim(2, &[JobKind::Copy]).unwrap();
    world.commit(&again, 0, 0..6, 4);
    assert_eq!(row(&world, &claim), (6, 6, 24_000));
    world.refused(commit(&claim, 0, 4..8, 4));
    world.work(&again);
}

fn refuses(change: impl FnOnce(&mut Vec<NewSegment>, &mut Option<(BlockRef, String)>)) {
    let (mut world, claim) = copying();
    world.commit(&claim, 0, 0..2, 4);
    let Action::CommitSegments { job, token, rendition, mut init, mut segments, put_index } =
        commit(&claim, 0, 2..5, 4)
    else {
        panic!("a commit is a commit");
    };
    change(&mut segments, &mut init);
    let refusal =
        world.refused(Action::CommitSegments { job, token, rendition, init, segments, put_index });
    assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
}

#[test]
fn segments_that_make_no_sense_are_refused() {
    refuses(|segments, _| segments[1].number = 9);
    refuses(|segments, _| segments.swap(0, 1));
    refuses(|segments, _| segments[2].number = u32::MAX);
    refuses(|segments, _| segments[0].duration = 0);
    refuses(|segments, _| segments[2].duration = u64::MAX);
    refuses(|segments, _| segments[1].duration = 9000);
    refuses(|segments, _| segments[2].start += 1001);
    refuses(|segments, _| segments[2].block.len = 0);
    refuses(|segments, _| segments[2].block.len = u32::MAX);
    refuses(|segments, _| {
        // Beyond the last cut.
        for segment in segments {
            segment.number += 6;
            segment.start += 24_000;
        }
    });
    refuses(|_, init| *init = Some((block("another init", 700), "avc1.64001f".into())));
}

#[test]
fn segments_need_their_initialization_segment() {
    let (mut world, claim) = copying();
    let with_init = |other| {
        let mut action = commit(&claim, 0, 0..1, 4);
        if let Action::CommitSegments { init, .. } = &mut action {
            *init = other;
        }
        action
    };
    assert!(matches!(world.refused(with_init(None)), Refusal::Invalid { .. }));
    for codecs in ["", "a\"b", "a b", "é"] {
        world.refused(with_init(Some((block("init 0", 700), codecs.into()))));
    }
    world.commit(&claim, 0, 0..0, 4);
    world.done(with_init(None));
    assert_eq!(row(&world, &claim), (1, 1, 4000));
}

#[test]
fn a_job_commits_only_what_is_its_own() {
    let (mut world, claim) = copying();
    world.refused(commit(&claim, 2, 0..1, 4));
    world.refused(commit(&claim, 9, 0..1, 4));
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    world.refused(commit(&piece, 0, 0..1, 4));
    world.refused(commit(&piece, 2, 1..2, 4));
    world.refused(commit(&piece, 2, 0..2, 4));
    world.commit(&piece, 2, 0..1, 4);
}

#[test]
fn a_new_poster_takes_the_place_of_the_old_one() {
    let (mut world, _) = copying();
    let claim = world.claim(1, &[JobKind::Thumbnail]).unwrap();
    let thumbnail = |name| Action::CommitThumbnail {
        job: claim.job,
        token: claim.token,
        block: block(name, 100),
        put_index: 0,
    };
    world.done(thumbnail("a"));
    world.done(thumbnail("b"));
    world.done(thumbnail("b"));
    assert_eq!(world.video(claim.job.video).thumbnail, Some(block("b", 100)));
    assert_eq!(references(&world, &block("a", 100)), 0);
    assert_eq!(references(&world, &block("b", 100)), 1);
}

#[test]
fn the_peak_rate_is_that_of_the_busiest_segment() {
    let (mut world, claim) = copying();
    world.commit(&claim, 0, 0..3, 4);
    let row = catalog::rendition(&world.view, claim.job.video, 0).unwrap().unwrap();
    assert_eq!(row.bitrate_peak, 5000 * 8 / 4);
    assert_eq!((row.bytes, row.ticks, row.segment_ticks_max), (15_000, 12_000, 4000));
}

#[test]
fn the_last_piece_goes_on_to_the_end_of_a_source_of_unknown_length() {
    let mut world = World::new();
    let mut plan = plan_of(&[("360p", Lane::Encode)], 1);
    plan.duration_ms = None;
    let id = world.upload_with_plan(1, plan);
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    world.commit(&claim, 0, 0..5, 4);
    assert_eq!(world.video(id).frontier_ms, 20_000);
    world.finish(&claim);
    world.work_off();
    assert_eq!(world.video(id).duration_ms, Some(20_000));

    // But all rungs go on to the same end.
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(1));
    let claim = world.claim(1, &[JobKind::Piece]).unwrap();
    world.commit(&claim, 0, 0..3, 4);
    world.commit(&claim, 1, 0..2, 4);
    assert!(matches!(world.refused(crate::testing::finish(&claim)), Refusal::Invalid { .. }));
    world.commit(&claim, 1, 2..3, 4);
    world.finish(&claim);
    world.work_off();
    assert_eq!(world.video(id).frontier_ms, 12_000);

    // A piece that is not the last one keeps to its segments.
    let mut world = World::new();
    world.upload_with_plan(1, encode_plan(10));
    let first = world.claim(1, &[JobKind::Piece]).unwrap();
    let refusal = world.refused(commit(&first, 0, 1..2, 4));
    assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
}

#[test]
fn a_source_may_end_before_its_headers_say() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, plan_of(&[("360p", Lane::Encode)], 12));
    let finish = |claim: &Claim, source_end| Action::FinishJob {
        job: claim.job,
        token: claim.token,
        discovered_cuts: None,
        source_end,
    };
    // Pieces are segments 0, 1, 2–3, 4–5, …; the pictures end within segment 2.
    while let Some(claim) = world.claim(1, &[JobKind::Piece]) {
        match claim.job.piece {
            0 | 1 => world.work(&claim),
            2 => {
                world.commit(&claim, 0, 2..3, 4);
                world.refused(finish(&claim, None));
                world.done(finish(&claim, Some(12_000)));
            }
            3 => {
                world.refused(finish(&claim, None));
                world.done(finish(&claim, Some(12_000)));
            }
            _ => {
                world.done(finish(&claim, Some(12_000)));
            }
        }
    }
    let video = world.video(id);
    assert_eq!((video.frontier_ms, video.duration_ms), (12_000, Some(12_000)));
}

#[test]
fn what_cannot_be_copied_is_prepared_again() {
    let (mut world, claim) = copying();
    world.commit(&claim, 0, 0..4, 4);
    let id = claim.job.video;
    let again = Action::PrepareAgain { job: claim.job, token: claim.token };
    world.done(again.clone());
    let video = world.video(id);
    assert!(video.plan.is_none() && video.source.not_copyable && video.frontier_ms == 0);
    assert_eq!(world.refused(again), Refusal::LeaseLost);
    assert_eq!(catalog::segments(&world.view, id, 0, 0, 10).unwrap(), []);

    let prepare = world.claim(1, &JobKind::ALL).unwrap();
    assert_eq!(prepare.job.kind, JobKind::Prepare);
    let plan = encode_plan(3);
    world.done(Action::SetPlan { job: prepare.job, token: prepare.token, plan });
    while let Some(claim) = world.claim(1, &JobKind::ALL) {
        world.work(&claim);
    }
    assert_eq!(world.video(id).state, crate::tables::videos::VideoState::Ready);
}
