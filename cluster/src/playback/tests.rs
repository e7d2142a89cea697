use super::*;
use crate::command::{Action, Claim};
use crate::ids::VideoId;
use crate::jobs::JobKind;
use crate::testing::{World, block, commit, copy_plan, encode_plan, plan_of};

/// The names of what is listed, with the number of segments of each.
fn listed(world: &World, id: VideoId) -> Vec<(String, usize)> {
    let shown = presentation(&world.view, &world.video(id), Detail::Full).unwrap();
    shown.map_or(vec![], |shown| {
        shown
            .listed
            .into_iter()
            .map(|rendition| (rendition.name, rendition.segments.len()))
            .collect()
    })
}

fn is(found: &[(String, usize)], expected: &[(&str, usize)]) -> bool {
    found.iter().map(|(name, count)| (name.as_str(), *count)).eq(expected.iter().copied())
}

/// Commits sound in segments of these lengths in milliseconds, from the start.
fn commit_audio(world: &mut World, claim: &Claim, rendition: RenditionIndex, lengths: &[u64]) {
    let mut start = 0;
    let mut segments = vec![];
    for (number, duration) in (0..).zip(lengths) {
        let block = block(&format!("audio {number}"), 1000);
        segments.push(NewSegment { number, start, duration: *duration, block });
        start += duration;
    }
    let init = Some((block("init audio", 600), "mp4a.40.2".into()));
    let put_index = 0;
    let (job, token) = (claim.job, claim.token);
    world.done(Action::CommitSegments { job, token, rendition, init, segments, put_index });
}

#[test]
fn all_encoded_rungs_and_the_sound_advance_in_step() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(8));
    let pieces: Vec<_> = (0..5).map_while(|_| world.claim(1, &[JobKind::Piece])).collect();
    let audio = world.claim(2, &[JobKind::Audio]).unwrap();
    world.commit(&pieces[0], 0, 0..1, 4);
    world.commit(&pieces[0], 1, 0..1, 4);
    assert!(is(&listed(&world, id), &[]), "not without the sound");
    // Sound is cut at its own frames: a little later than the pictures, here.
    commit_audio(&mut world, &audio, 2, &[4011, 4011, 3989]);
    assert_eq!(world.video(id).frontier_ms, 4000);
    assert!(is(&listed(&world, id), &[("360p", 1), ("720p", 1), ("audio", 1)]));
    // One rung ahead of the other changes nothing.
    world.commit(&pieces[1], 0, 1..2, 4);
    assert_eq!(world.video(id).frontier_ms, 4000);
    world.commit(&pieces[2], 1, 2..4, 4);
    assert_eq!(world.video(id).frontier_ms, 4000);
    world.commit(&pieces[1], 1, 1..2, 4);
    assert_eq!(world.video(id).frontier_ms, 8000);
    assert!(is(&listed(&world, id), &[("360p", 2), ("720p", 2), ("audio", 2)]));
    // Now the pictures have 16 s and the sound 12.011 s: the pictures' fourth segment begins at 12 s, hardly before.
    world.commit(&pieces[2], 0, 2..4, 4);
    assert_eq!(world.video(id).frontier_ms, 12_011);
    assert!(is(&listed(&world, id), &[("360p", 3), ("720p", 3), ("audio", 3)]));
    // Once the sound is complete it holds nobody back.
    world.finish(&audio);
    assert_eq!(world.video(id).frontier_ms, 16_000);
    assert!(is(&listed(&world, id), &[("360p", 4), ("720p", 4), ("audio", 3)]));
}

#[test]
fn sound_on_a_grid_of_its_own_is_never_listed_empty() {
    let mut world = World::new();
    let plan = plan_of(&[("360p", Lane::Encode), ("audio", Lane::Encode)], 4);
    let id = world.upload_with_plan(1, plan);
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    let audio = world.claim(1, &[JobKind::Audio]).unwrap();
    commit_audio(&mut world, &audio, 1, &[6000, 6000]);
    world.commit(&piece, 0, 0..1, 4);
    assert_eq!(world.video(id).frontier_ms, 4000);
    assert!(is(&listed(&world, id), &[("360p", 1), ("audio", 1)]));
}

#[test]
fn with_copied_pictures_the_rungs_are_listed_when_all_is_ready() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, copy_plan(4));
    let copy = world.claim(1, &[JobKind::Copy]).unwrap();
    let piece = world.claim(2, &[JobKind::Piece]).unwrap();
    world.commit(&copy, 0, 0..2, 4);
    world.commit(&copy, 1, 0..2, 4);
    world.commit(&piece, 2, 0..1, 4);
    assert_eq!(world.video(id).frontier_ms, 8000);
    assert!(is(&listed(&world, id), &[("source", 2), ("audio", 2)]));
    world.finish(&piece);
    world.commit(&copy, 0, 2..4, 4);
    world.commit(&copy, 1, 2..4, 4);
    world.finish(&copy);
    assert!(is(&listed(&world, id), &[("source", 4), ("audio", 4)]));
    assert!(!presented(&world, id).listed[0].ended);
    world.work_off();
    assert!(is(&listed(&world, id), &[("source", 4), ("audio", 4), ("360p", 4)]));
    assert!(presented(&world, id).listed.iter().all(|listed| listed.ended));
}

fn presented(world: &World, id: VideoId) -> Presentation {
    presentation(&world.view, &world.video(id), Detail::Full).unwrap().expect("it is playable")
}

#[test]
fn what_was_listed_stays_listed_and_the_target_duration_too() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(9));
    let mut before: Option<Presentation> = None;
    while let Some(claim) = world.claim_any(1) {
        world.work(&claim);
        let Some(now) = presentation(&world.view, &world.video(id), Detail::Full).unwrap() else {
            assert_eq!(before, None);
            continue;
        };
        if let Some(before) = &before {
            assert_eq!(before.target_duration_s, now.target_duration_s);
            assert!(before.frontier_ms <= now.frontier_ms);
            for earlier in &before.listed {
                let later = now.listed.iter().find(|later| later.index == earlier.index);
                let later = &later.expect("it is still listed").segments;
                assert_eq!(later[..earlier.segments.len()], earlier.segments);
            }
        }
        before = Some(now);
    }
    assert_eq!(before.expect("it became playable").frontier_ms, 36_000);
}

#[test]
fn a_failed_video_ends_where_it_got_to() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, copy_plan(9));
    let copy = world.claim(1, &[JobKind::Copy]).unwrap();
    world.commit(&copy, 0, 0..5, 4);
    world.commit(&copy, 1, 0..4, 4);
    let error = crate::tables::videos::VideoError { code: "broken".into(), detail: "x".into() };
    let (job, token) = (copy.job, copy.token);
    world.done(Action::FailJob { job, token, permanent: true, error });
    let shown = presented(&world, id);
    assert_eq!((shown.state, shown.frontier_ms), (VideoState::Failed, 16_000));
    assert!(shown.listed.iter().all(|listed| listed.ended && listed.segments.len() == 4));
}

#[test]
fn bandwidth_is_a_promise_first_and_measured_later() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, plan_of(&[("360p", Lane::Encode)], 2));
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    world.commit(&piece, 0, 0..1, 4);
    let rung = presented(&world, id).listed.remove(0);
    assert_eq!((rung.bandwidth_peak, rung.bandwidth_average), (800_000, 10_000));
    world.finish(&piece);
    world.work_off();
    let rung = presented(&world, id).listed.remove(0);
    assert_eq!((rung.bandwidth_peak, rung.bandwidth_average), (10_000, 10_000));
    assert_eq!((rung.codecs.as_str(), rung.init), ("avc1.64001f", block("init 0", 700)));
}

#[test]
fn only_the_lists_asked_for_are_read() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(3));
    world.work_off();
    let counts = |detail| {
        let shown = presentation(&world.view, &world.video(id), detail).unwrap().unwrap();
        shown.listed.iter().map(|listed| listed.segments.len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(Detail::Outline), [0, 0, 0]);
    assert_eq!(counts(Detail::One("720p")), [0, 3, 0]);
    assert_eq!(counts(Detail::Full), [3, 3, 3]);
}

#[test]
fn the_target_duration_follows_from_the_plan() {
    let with_cuts = |cuts: &[u64], duration_ms| {
        let plan = Plan { cuts: Cuts::Known(cuts.to_vec()), duration_ms, ..copy_plan(1) };
        target_duration_s(&plan)
    };
    assert_eq!(with_cuts(&[0, 4000, 8000], Some(10_000)), 4);
    assert_eq!(with_cuts(&[0, 4000, 8000], Some(12_001)), 5);
    assert_eq!(with_cuts(&[0, 7100, 9000], Some(9_500)), 8);
    assert_eq!(with_cuts(&[0, 2000], None), SEGMENT_SECONDS_MAX);
    assert_eq!(with_cuts(&[0], Some(0)), 1);
    let discovered = Plan { cuts: Cuts::Discovered, ..copy_plan(1) };
    assert_eq!(target_duration_s(&discovered), SEGMENT_SECONDS_MAX);
}

#[test]
fn a_very_short_video_is_playable_before_it_is_ready() {
    let mut world = World::new();
    let plan = Plan { duration_ms: Some(120), ..plan_of(&[("360p", Lane::Encode)], 1) };
    let id = world.upload_with_plan(1, plan);
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    let Action::CommitSegments { job, token, rendition, init, mut segments, put_index } =
        commit(&piece, 0, 0..1, 4)
    else {
        panic!("a commit is a commit");
    };
    segments[0].duration = 120;
    world.done(Action::CommitSegments { job, token, rendition, init, segments, put_index });
    assert!(is(&listed(&world, id), &[("360p", 1)]));
}
