use crate::catalog::{self, Query};
use crate::command::{Action, Refusal, Reply};
use crate::ids::VideoId;
use crate::jobs::JobKind;
use crate::table::KeyRange;
use crate::tables::blocks::BLOCKS;
use crate::tables::videos::Visibility;
use crate::testing::{World, commit, copy_plan, encode_plan};

fn edit(id: VideoId, if_version: Option<u64>, title: &str) -> Action {
    Action::EditVideo {
        id,
        if_version,
        title: Some(title.into()),
        description: None,
        visibility: None,
    }
}

#[test]
fn an_edit_based_on_an_old_version_is_refused() {
    let mut world = World::new();
    let id = world.create(1, None);
    let created = world.video(id).version;
    let Reply::Version(edited) = world.done(edit(id, Some(created), "b")) else {
        panic!("an edit replies with a version");
    };
    assert!(edited > created);
    let refusal = world.refused(edit(id, Some(created), "c"));
    assert_eq!(refusal, Refusal::VersionMismatch { actual: edited });
    world.done(edit(id, None, "d"));
    assert_eq!(world.video(id).title, "d");
    // What is not typed does not change the version: an upload must not spoil a form that is open.
    let version = world.video(id).version;
    world.append(id, 10);
    assert_eq!(world.video(id).version, version);
    assert!(world.video(id).changed_index > version);
    world.refused(edit(VideoId([9; 16]), None, "e"));
    world.refused(edit(id, None, &"x".repeat(201)));
}

#[test]
fn a_deleted_video_leaves_nothing_but_unreferenced_blocks() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, copy_plan(5));
    world.work_off();
    let other = world.upload(2);
    world.done(Action::DeleteVideo { id: other, if_version: None });
    world.done(Action::DeleteVideo { id, if_version: None });
    assert_eq!(world.refused(Action::DeleteVideo { id, if_version: None }), Refusal::UnknownVideo);
    for (hash, row) in BLOCKS.collect(&world.view, &KeyRange::all(), usize::MAX).unwrap() {
        assert_eq!(row.references, 0, "{hash}");
        assert!(row.unreferenced_since_ms.is_some());
    }
    // What there was before it, and the blocks.
    let blocks = BLOCKS.keys(&world.view, &KeyRange::all(), usize::MAX).unwrap().len();
    assert_eq!(world.view.row_count(), World::new().view.row_count() + blocks);
}

#[test]
fn a_video_deleted_while_it_is_processed_takes_its_leases_along() {
    let mut world = World::new();
    let id = world.upload_with_plan(1, encode_plan(10));
    let piece = world.claim(1, &[JobKind::Piece]).unwrap();
    let audio = world.claim(2, &[JobKind::Audio]).unwrap();
    world.commit(&piece, 0, 0..1, 4);
    world.done(Action::DeleteVideo { id, if_version: None });
    assert_eq!(world.refused(commit(&piece, 1, 0..1, 4)), Refusal::LeaseLost);
    assert_eq!(world.refused(crate::testing::finish(&audio)), Refusal::LeaseLost);
    let renewed = world.done(Action::RenewLeases {
        node: crate::ids::NodeId(1),
        leases: vec![(piece.job, piece.token)],
        lease_ms: 1000,
    });
    assert_eq!(renewed, Reply::Lost(vec![piece.job]));
    assert_eq!(world.claim_any(3), None);
}

#[test]
fn views_add_up_and_unknown_videos_do_not_matter() {
    let mut world = World::new();
    let id = world.create(1, None);
    let views = vec![(id, 3), (VideoId([9; 16]), 5), (id, 4)];
    world.done(Action::CountViews { views });
    assert_eq!(world.video(id).views, 7);
}

#[test]
fn lists_are_newest_first_in_pages_that_do_not_overlap() {
    let mut world = World::new();
    // Two in each millisecond.
    for number in 0..25 {
        world.create(number, None);
        world.wait(u64::from(number % 2));
    }
    let unlisted = VideoId([7; 16]);
    world.done(Action::EditVideo {
        id: unlisted,
        if_version: None,
        title: Some("A VIDÉO apart".into()),
        description: None,
        visibility: Some(Visibility::Unlisted),
    });
    let mut query =
        Query { limit: 10, cursor: None, search: None, visibility: Some(Visibility::Public) };
    let mut listed = Vec::new();
    let mut pages = 0;
    loop {
        let page = catalog::list_videos(&world.view, &query).unwrap();
        listed.extend(page.videos.iter().map(|video| video.id.0[0]));
        pages += 1;
        let Some(next) = page.next else {
            break;
        };
        // A cursor survives its way through an URL.
        query.cursor = Some(next.to_string().parse().unwrap());
    }
    assert_eq!(pages, 3);
    assert_eq!(listed, (0..25).rev().filter(|number| *number != 7).collect::<Vec<_>>());

    let search = |text: &str, visibility| {
        let query = Query { limit: 10, cursor: None, search: Some(text.into()), visibility };
        let page = catalog::list_videos(&world.view, &query).unwrap();
        assert!(page.next.is_none());
        page.videos.iter().map(|video| video.id.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(search("vidéo", None), [7]);
    assert!(search("vidéo", Some(Visibility::Public)).is_empty());
    assert_eq!(search("EO 2", None), [24, 23, 22, 21, 20, 2]);
    assert!("zz".parse::<catalog::Cursor>().is_err());
}

#[test]
fn a_search_that_finds_nothing_ends_and_can_go_on() {
    let mut world = World::new();
    for number in 0..5 {
        world.create(number, None);
    }
    // Put many more straight into the tables: the listing is what is tested.
    use crate::tables::videos::{NewestFirst, VIDEOS, VIDEOS_BY_TIME};
    use crate::view::Transaction;

    let template = world.video(VideoId([0; 16]));
    let mut tx = Transaction::new(&world.view);
    let many = catalog::LIST_SCAN_MAX as u64 + 500;
    for number in 0..many {
        let mut id = [255; 16];
        id[..8].copy_from_slice(&number.to_be_bytes());
        let id = VideoId(id);
        VIDEOS.put(&mut tx, &id, &crate::tables::videos::VideoRow { id, ..template.clone() });
        let place = NewestFirst { created_ms: 1, created_index: 1_000_000 + number };
        VIDEOS_BY_TIME.put(&mut tx, &place, &id);
    }
    let batch = tx.into_batch();
    world.view.write(batch);
    let mut query =
        Query { limit: 10, cursor: None, search: Some("nowhere".into()), visibility: None };
    let first = catalog::list_videos(&world.view, &query).unwrap();
    assert!(first.videos.is_empty() && first.next.is_some());
    query.cursor = first.next;
    let second = catalog::list_videos(&world.view, &query).unwrap();
    assert!(second.videos.is_empty() && second.next.is_none());
}
