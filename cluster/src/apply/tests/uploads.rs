use crate::catalog;
use crate::command::{Action, Refusal, Reply};
use crate::ids::VideoId;
use crate::jobs::JobKind;
use crate::tables::videos::{VideoError, VideoState, Visibility};
use crate::testing::{World, block};

fn new_video(number: u8, title: String, upload_key: Option<String>) -> Action {
    Action::CreateVideo {
        id: VideoId([number; 16]),
        title,
        description: String::new(),
        visibility: Visibility::Public,
        filename: None,
        announced_bytes: None,
        upload_key,
        keep_source: false,
    }
}

#[test]
fn a_video_is_created_once() {
    let mut world = World::new();
    let reply = world.done(new_video(1, "a".into(), Some("key".into())));
    assert_eq!(reply, Reply::Version(world.index));
    assert_eq!(world.refused(new_video(1, "b".into(), None)), Refusal::VideoExists);
    assert_eq!(world.refused(new_video(2, "b".into(), Some("key".into()))), Refusal::VideoExists);
    let found = catalog::by_upload_key(&world.view, "key").unwrap().unwrap();
    assert_eq!((found.id, found.state), (VideoId([1; 16]), VideoState::Uploading));
}

#[test]
fn what_people_type_is_bounded_in_characters() {
    let mut world = World::new();
    world.done(new_video(1, "é".repeat(200), None));
    assert!(matches!(
        world.refused(new_video(2, "é".repeat(201), None)),
        Refusal::Invalid { reason } if reason.contains("title")
    ));
    world.refused(new_video(2, String::new(), Some(String::new())));
    world.refused(new_video(2, String::new(), Some("k".repeat(201))));
}

#[test]
fn a_source_grows_at_its_end_only() {
    let mut world = World::new();
    let id = world.create(1, Some(300));
    world.append(id, 100);
    let at = |offset, len| Action::AppendSource {
        id,
        offset,
        blocks: vec![block(&format!("{offset}"), len)],
        put_index: 0,
    };
    assert_eq!(world.refused(at(0, 100)), Refusal::OffsetMismatch { expected: 100 });
    assert_eq!(world.refused(at(150, 1)), Refusal::OffsetMismatch { expected: 100 });
    assert!(matches!(world.refused(at(100, 201)), Refusal::Invalid { .. }));
    assert!(matches!(world.refused(at(100, 0)), Refusal::Invalid { .. }));
    assert!(matches!(world.refused(Action::FinishSource { id }), Refusal::Invalid { .. }));
    world.done(at(100, 200));
    world.done(Action::FinishSource { id });
    assert_eq!(world.video(id).state, VideoState::Processing);
    // Said twice, it is as it should be.
    world.done(Action::FinishSource { id });
    assert!(matches!(world.refused(at(300, 1)), Refusal::WrongState { .. }));
}

#[test]
fn the_block_of_any_byte_is_found() {
    let mut world = World::new();
    let id = world.create(1, None);
    for bytes in [100, 50, 7] {
        world.append(id, bytes);
    }
    let offset_of =
        |byte| catalog::source_block_at(&world.view, id, byte).unwrap().map(|found| found.offset);
    for (byte, offset) in [(0, 0), (99, 0), (100, 100), (149, 100), (150, 150), (156, 150)] {
        assert_eq!(offset_of(byte), Some(offset), "byte {byte}");
    }
    assert_eq!(offset_of(157), None);
    assert_eq!(offset_of(u64::MAX), None);
    let from = catalog::source_blocks(&world.view, id, 120, 10).unwrap();
    assert_eq!(from.iter().map(|found| found.offset).collect::<Vec<_>>(), [100, 150]);
}

#[test]
fn an_empty_file_has_failed() {
    let mut world = World::new();
    let id = world.create(1, None);
    world.done(Action::FinishSource { id });
    let video = world.video(id);
    assert_eq!(video.state, VideoState::Failed);
    assert_eq!(video.error.unwrap().code, "empty_file");
    assert_eq!(world.claim_any(1), None);
}

#[test]
fn an_upload_that_breaks_off_leaves_garbage_but_no_work() {
    let mut world = World::new();
    let id = world.create(1, Some(1000));
    world.append(id, 100);
    let silent = world.create(2, None);
    let uploads = catalog::uploads(&world.view, 10).unwrap();
    assert_eq!(uploads, [(id, 100), (silent, 0)]);
    world.done(Action::DeleteVideo { id: silent, if_version: None });
    let claim = world.claim(1, &[JobKind::Prepare]).unwrap();
    let error = VideoError { code: "upload_aborted".into(), detail: "x".repeat(5000) };
    world.done(Action::FailVideo { id, error: error.clone() });
    assert!(world.video(id).error.unwrap().detail.len() < 5000);
    assert!(catalog::source_blocks(&world.view, id, 0, 10).unwrap().is_empty());
    assert_eq!(catalog::jobs(&world.view).unwrap(), catalog::JobCounts::default());
    assert_eq!(catalog::uploads(&world.view, 10).unwrap(), []);
    assert_eq!(world.refused(crate::testing::finish(&claim)), Refusal::LeaseLost);
    assert!(matches!(world.refused(Action::FailVideo { id, error }), Refusal::WrongState { .. }));
}

#[test]
fn equal_blocks_in_a_source_count_as_often_as_they_are_named() {
    let mut world = World::new();
    let id = world.create(1, None);
    let zeros = block("zeros", 64);
    world.done(Action::AppendSource { id, offset: 0, blocks: vec![zeros; 3], put_index: 0 });
    assert_eq!(catalog::block(&world.view, &zeros.hash).unwrap().unwrap().references, 3);
    let other_length = block("zeros", 65);
    world.refused(Action::AppendSource {
        id,
        offset: 192,
        blocks: vec![other_length],
        put_index: 0,
    });
}
