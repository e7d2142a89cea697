//! The catalog on disk behaves like the one in memory, survives what it must and refuses what it must.

use cluster::view::{MemoryView, Transaction};

use super::*;

type Change<'a> = (TableId, &'a [u8], Option<&'a [u8]>);

fn batch(changes: &[Change<'_>]) -> view::WriteBatch {
    let below = MemoryView::default();
    let mut transaction = Transaction::new(&below);
    for (table, key, value) in changes {
        match value {
            Some(value) => transaction.put(*table, key.to_vec(), value.to_vec()),
            None => transaction.delete(*table, key.to_vec()),
        }
    }
    transaction.into_batch()
}

fn keys(view: &dyn View, table: TableId, from: &[u8], to: &[u8]) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    view.scan(table, from, to, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })
    .unwrap();
    keys
}

#[test]
fn rows_and_meta_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    {
        let state = StateDb::open(directory.path()).unwrap();
        let changes = batch(&[
            (TableId::Videos, b"a", Some(b"1")),
            (TableId::Videos, b"b", Some(b"2")),
            (TableId::Jobs, b"a", Some(b"3")),
        ]);
        state.write(&changes, &[(b"applied", b"7".to_vec())]).unwrap();
        state.write(&batch(&[(TableId::Videos, b"a", None)]), &[]).unwrap();
    }
    let state = StateDb::open(directory.path()).unwrap();
    assert_eq!(state.get(TableId::Videos, b"a").unwrap(), None);
    assert_eq!(state.get(TableId::Videos, b"b").unwrap().unwrap(), b"2");
    assert_eq!(state.get(TableId::Jobs, b"a").unwrap().unwrap(), b"3");
    assert_eq!(state.meta(b"applied").unwrap().unwrap(), b"7");
    assert_eq!(state.meta(b"other").unwrap(), None);
}

#[test]
fn scans_keep_to_their_bounds() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDb::open(directory.path()).unwrap();
    let rows: [&[u8]; 5] = [b"a", b"b", b"ba", b"c", b"\xff\xff"];
    let changes: Vec<_> =
        rows.iter().map(|key| (TableId::Segments, *key, Some(b"".as_slice()))).collect();
    state.write(&batch(&changes), &[]).unwrap();
    let all = keys(&state, TableId::Segments, b"", b"");
    assert_eq!(all, rows);
    assert_eq!(keys(&state, TableId::Segments, b"b", b"c"), [b"b".as_slice(), b"ba"]);
    assert_eq!(keys(&state, TableId::Segments, b"c", b""), [b"c".as_slice(), b"\xff\xff"]);
    assert!(keys(&state, TableId::Segments, b"c", b"b").is_empty());
    assert!(keys(&state, TableId::Jobs, b"", b"").is_empty());
    let mut seen = 0;
    state
        .scan(TableId::Segments, b"", b"", &mut |_, _| {
            seen += 1;
            if seen == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
    assert_eq!(seen, 2);
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDb::open(directory.path()).unwrap();
    state.write(&batch(&[(TableId::Videos, b"a", Some(b"1"))]), &[]).unwrap();
    let before = state.snapshot_view();
    state
        .write(
            &batch(&[(TableId::Videos, b"a", Some(b"2")), (TableId::Videos, b"b", Some(b"2"))]),
            &[],
        )
        .unwrap();
    assert_eq!(before.get(TableId::Videos, b"a").unwrap().unwrap(), b"1");
    assert_eq!(keys(&before, TableId::Videos, b"", b""), [b"a"]);
    assert_eq!(keys(&state.snapshot_view(), TableId::Videos, b"", b"").len(), 2);
}

#[test]
fn a_replaced_catalog_is_whole_for_readers_and_gone_after_them() {
    let directory = tempfile::tempdir().unwrap();
    let other = StateDb::open(&directory.path().join("other")).unwrap();
    other
        .write(&batch(&[(TableId::Videos, b"new", Some(b"1"))]), &[(b"applied", b"9".to_vec())])
        .unwrap();
    let checkpoint = directory.path().join("checkpoint");
    other.checkpoint(&checkpoint).unwrap();
    assert_eq!(StateDb::checkpoint_meta(&checkpoint, b"applied").unwrap().unwrap(), b"9");

    let root = directory.path().join("state");
    let state = StateDb::open(&root).unwrap();
    state.write(&batch(&[(TableId::Videos, b"old", Some(b"1"))]), &[]).unwrap();
    let reader = state.snapshot_view();
    state.replace(&checkpoint).unwrap();
    assert_eq!(keys(&state, TableId::Videos, b"", b""), [b"new"]);
    assert_eq!(keys(&reader, TableId::Videos, b"", b""), [b"old"]);
    assert!(root.join("db-1").exists());
    drop(reader);
    assert!(!root.join("db-1").exists());

    // The copy is a database of its own: it takes writes and leaves the checkpoint as it was.
    state.write(&batch(&[(TableId::Videos, b"newer", Some(b"1"))]), &[]).unwrap();
    drop(state);
    let state = StateDb::open(&root).unwrap();
    assert_eq!(keys(&state, TableId::Videos, b"", b""), [b"new".as_slice(), b"newer"]);
    assert_eq!(state.meta(b"applied").unwrap().unwrap(), b"9");
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    drop(StateDb::open(directory.path()).unwrap());
    fs::create_dir(directory.path().join("db-2")).unwrap();
    drop(StateDb::open(directory.path()).unwrap());
    assert!(!directory.path().join("db-2").exists());
}

#[test]
fn a_damaged_catalog_is_refused_with_a_remedy() {
    let directory = tempfile::tempdir().unwrap();
    drop(StateDb::open(directory.path()).unwrap());
    let database = directory.path().join("db-1");
    let manifest = fs::read_dir(&database)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST"))
        .unwrap();
    let mut bytes = fs::read(&manifest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&manifest, bytes).unwrap();
    let error = StateDb::open(directory.path()).unwrap_err();
    assert!(error.to_string().contains("join again as a new node"), "{error}");
}

/// Writes rows that end up in sorted files of several blocks, and returns them.
fn rows_in_files(root: &Path) -> Vec<Vec<u8>> {
    for half in 0..2_u32 {
        let state = StateDb::open(root).unwrap();
        let rows: Vec<_> = (0..2_000_u32).map(|row| (row * 2 + half).to_be_bytes()).collect();
        let changes: Vec<_> = rows
            .iter()
            .map(|key| (TableId::Segments, key.as_slice(), Some(key.as_slice())))
            .collect();
        state.write(&batch(&changes), &[(b"applied", half.to_be_bytes().to_vec())]).unwrap();
    }
    // The start before wrote the first half to a file, this one writes the second.
    let state = StateDb::open(root).unwrap();
    keys(&state, TableId::Segments, b"", b"")
}

#[test]
fn a_flipped_bit_in_the_catalog_is_found_and_it_is_not_used_again() {
    let original = tempfile::tempdir().unwrap();
    let expected = rows_in_files(original.path());
    assert_eq!(expected.len(), 4_000);
    let database = original.path().join("db-1");
    let (mut refused, mut found, mut harmless) = (0, 0, 0);
    for entry in fs::read_dir(&database).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if ["LOG", "LOCK", "OPTIONS"].iter().any(|other| name.starts_with(other)) {
            continue;
        }
        let length = fs::metadata(database.join(&name)).unwrap().len() * 8;
        for bit in (0..length).step_by(usize::try_from(length / 16).unwrap().max(1) | 1) {
            let copy = tempfile::tempdir().unwrap();
            let target = copy.path().join("db-1");
            link_or_copy_all(&database, &target).unwrap();
            fs::copy(original.path().join("active"), copy.path().join("active")).unwrap();
            let mut bytes = fs::read(target.join(&name)).unwrap();
            bytes[bit as usize / 8] ^= 1 << (bit % 8);
            fs::remove_file(target.join(&name)).unwrap();
            fs::write(target.join(&name), bytes).unwrap();
            let Ok(state) = StateDb::open(copy.path()) else {
                refused += 1;
                continue;
            };
            let place = format!("bit {bit} of {name}");
            if state.verify(|| false).is_err() {
                drop(state);
                let error = StateDb::open(copy.path()).unwrap_err().to_string();
                assert!(error.contains("join again as a new node"), "{place}: {error}");
                found += 1;
                continue;
            }
            // Whatever is there belongs together, and says how far it is: the log has the rest.
            let rows = keys(&state, TableId::Segments, b"", b"");
            let whole = match state.meta(b"applied").unwrap().as_deref() {
                Some([0, 0, 0, 0]) => 2_000,
                Some(_) => 4_000,
                None => 0,
            };
            assert_eq!(rows.len(), whole, "{place}");
            harmless += 1;
        }
    }
    println!("{refused} refused, {found} found, {harmless} harmless");
    assert!(found > 0 && refused > 0);
}
