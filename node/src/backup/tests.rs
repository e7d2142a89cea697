use cluster::apply::apply;
use cluster::command::{Action, Command};
use cluster::ids::{ClientId, VideoId};
use cluster::tables::videos::Visibility;
use cluster::view::{MemoryView, TableId, Transaction, View as _};
use proptest::prelude::*;

use super::*;

/// A catalog with some videos in it.
fn catalog(videos: u16) -> MemoryView {
    let mut view = MemoryView::default();
    let actions = std::iter::once(Action::InitCluster {
        cluster_id: [7; 16],
        authority: None,
        founder: None,
    })
    .chain((0..videos).map(|number| Action::CreateVideo {
        id: VideoId(u128::from(number).to_be_bytes()),
        title: format!("video {number}"),
        description: "x".repeat(4_000),
        visibility: Visibility::Public,
        filename: None,
        announced_bytes: None,
        upload_key: None,
        keep_source: false,
    }));
    for (index, action) in (1..).zip(actions) {
        let command = Command {
            client: ClientId([1; 16]),
            sequence: index,
            answered_below: index,
            time_ms: index,
            action,
        };
        let mut tx = Transaction::new(&view);
        apply(&mut tx, index, &command).unwrap();
        let batch = tx.into_batch();
        view.write(batch);
    }
    view
}

fn backup(view: &MemoryView) -> Vec<u8> {
    let mut bytes = Vec::new();
    write(view, 42, &mut bytes).unwrap();
    bytes
}

fn restored(bytes: &[u8]) -> Result<MemoryView, BackupError> {
    let mut reader = Reader::open(bytes)?;
    let mut view = MemoryView::default();
    while let Some(batch) = reader.next_rows()? {
        view.write(batch);
    }
    Ok(view)
}

#[test]
fn what_was_written_is_read_but_for_secrets_and_sessions() {
    let view = catalog(1_500);
    let bytes = backup(&view);
    assert_eq!(restored(&bytes).unwrap(), view.without(&LEFT_OUT));
    let summary = verify(bytes.as_slice()).unwrap();
    assert_eq!((summary.header.index, summary.header.cluster_id), (42, [7; 16]));
    let mut rows = 0;
    for table in TableId::ALL.into_iter().filter(|table| !LEFT_OUT.contains(table)) {
        view.scan(table, &[], &[], &mut |_, _| {
            rows += 1;
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    }
    assert_eq!(summary.rows, rows);
}

#[test]
fn something_else_is_no_backup() {
    for bytes in [&b""[..], b"reelraft", b"PK\x03\x04 and more than eighteen bytes"] {
        assert!(matches!(verify(bytes), Err(BackupError::NotABackup)));
    }
}

#[test]
fn what_is_newer_than_this_program_is_refused() {
    let header = Header {
        cluster_id: [7; 16],
        index: 1,
        version: "9.9.9".into(),
        created: String::new(),
        feature_level: u32::MAX,
    };
    let mut bytes = MAGIC.to_vec();
    frame::Chain::new().write(&frame::Frame::Header(header), &mut bytes).unwrap();
    let error = verify(bytes.as_slice()).unwrap_err();
    assert!(matches!(error, BackupError::TooNew { .. }), "{error}");
    assert!(error.to_string().contains("9.9.9"), "{error}");
}

proptest! {
    #[test]
    fn every_changed_byte_is_found(place in any::<prop::sample::Index>(), change in 1..=255u8) {
        let mut bytes = backup(&catalog(3));
        let place = place.index(bytes.len());
        bytes[place] ^= change;
        prop_assert!(verify(bytes.as_slice()).is_err());
    }

    #[test]
    fn every_missing_end_is_found(place in any::<prop::sample::Index>()) {
        let bytes = backup(&catalog(3));
        prop_assert!(verify(&bytes[..place.index(bytes.len())]).is_err());
    }
}

#[test]
fn parts_cannot_change_places_or_be_missing() {
    let bytes = backup(&catalog(1_500));
    // The frames after the first line, by their lengths.
    let mut frames = Vec::new();
    let mut rest = &bytes[MAGIC.len()..];
    while !rest.is_empty() {
        let length = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize + 36;
        frames.push(&rest[..length]);
        rest = &rest[length..];
    }
    assert!(frames.len() > 5, "{} frames", frames.len());
    let join = |frames: &[&[u8]]| [MAGIC, &frames.concat()].concat();
    assert!(verify(join(&frames).as_slice()).is_ok());
    let mut swapped = frames.clone();
    swapped.swap(2, 3);
    assert!(verify(join(&swapped).as_slice()).is_err());
    let mut shorter = frames;
    shorter.remove(3);
    assert!(verify(join(&shorter).as_slice()).is_err());
}
