//! The store and a map in memory are asked the same, and have to answer the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Few names, so that operations meet.
const NAMES: u64 = 8;

#[derive(Clone, Debug)]
enum Operation {
    Put { name: u64, index: u64 },
    PutAtOnce { names: Vec<u64>, index: u64 },
    DeleteOlder { name: u64, index: u64 },
    Get { name: u64 },
    Verify { name: u64 },
    Damage { name: u64 },
    Reopen,
}

fn operation() -> impl Strategy<Value = Operation> {
    let (name, index) = (0..NAMES, 0..20_u64);
    prop_oneof![
        4 => (name.clone(), index.clone()).prop_map(|(name, index)| Operation::Put { name, index }),
        2 => (proptest::collection::vec(name.clone(), 1..6), index.clone())
            .prop_map(|(names, index)| Operation::PutAtOnce { names, index }),
        3 => (name.clone(), index).prop_map(|(name, index)| Operation::DeleteOlder { name, index }),
        2 => name.clone().prop_map(|name| Operation::Get { name }),
        1 => name.clone().prop_map(|name| Operation::Verify { name }),
        1 => name.prop_map(|name| Operation::Damage { name }),
        1 => Just(Operation::Reopen),
    ]
}

fn named(name: u64) -> (BlockHash, Bytes) {
    // From within one unit to a volume of its own.
    block(name, 1 + usize::try_from(name * name * name).unwrap() * 4001)
}

#[derive(Clone, Copy, PartialEq)]
enum Copy {
    Good,
    /// Nobody has read it since.
    Damaged,
    Quarantined,
}

struct Model {
    dir: tempfile::TempDir,
    store: Option<VolumeBlockStore>,
    copies: BTreeMap<u64, (u64, Copy)>,
}

impl Model {
    fn store(&self) -> &VolumeBlockStore {
        self.store.as_ref().unwrap()
    }

    fn put(&mut self, name: u64, index: u64) {
        let copy = self.copies.entry(name).or_insert((index, Copy::Good));
        *copy = (copy.0.max(index), Copy::Good);
    }

    async fn run(&mut self, operation: Operation) {
        match operation {
            Operation::Put { name, index } => {
                let (hash, bytes) = named(name);
                self.store().put(hash, bytes, index).await.unwrap();
                self.put(name, index);
            }
            Operation::PutAtOnce { names, index } => {
                let puts = names.iter().map(|name| {
                    let (hash, bytes) = named(*name);
                    self.store().put(hash, bytes, index)
                });
                for result in futures::future::join_all(puts).await {
                    result.unwrap();
                }
                for name in names {
                    self.put(name, index);
                }
            }
            Operation::DeleteOlder { name, index } => {
                let older = Box::new(move |copy: &StoredBlock| copy.put_index < index);
                let deleted = self.store().delete_if(named(name).0, older).await.unwrap();
                let expected = self.copies.get(&name).is_some_and(|copy| copy.0 < index);
                assert_eq!(deleted, expected);
                if deleted {
                    self.copies.remove(&name);
                }
            }
            Operation::Get { name } => {
                let (hash, bytes) = named(name);
                let expected = self.looked_at(name).map(|()| bytes);
                assert_eq!(self.store().get(hash).await, expected);
            }
            Operation::Verify { name } => {
                let expected = self.looked_at(name);
                assert_eq!(self.store().verify(named(name).0).await, expected);
            }
            Operation::Damage { name } => {
                // Nothing is damaged that is not there; deleted bytes may lie about for a while.
                if self.copies.get(&name).is_some_and(|copy| copy.1 == Copy::Good) && name > 0 {
                    let place = self.store().engine.place_of(&named(name).0).unwrap();
                    let file = dir_file(self.dir.path(), place.volume);
                    let mut content = fs::read(&file).unwrap();
                    let at = usize::try_from(place.offset).unwrap() + record::HEADER_BYTES + 20;
                    content[at] ^= 1;
                    overwrite(&file, at, content[at]);
                    self.copies.get_mut(&name).unwrap().1 = Copy::Damaged;
                }
            }
            Operation::Reopen => {
                self.store = None;
                self.store = Some(small_volumes(self.dir.path()));
            }
        }
        self.compare().await;
    }

    /// What reading a copy says, and what becomes of it.
    fn looked_at(&mut self, name: u64) -> Result<(), StoreError> {
        let hash = named(name).0;
        match self.copies.get_mut(&name) {
            None => Err(StoreError::NotFound(hash)),
            Some((_, Copy::Good)) => Ok(()),
            Some((_, copy)) => {
                *copy = Copy::Quarantined;
                Err(StoreError::Damaged(hash))
            }
        }
    }

    async fn compare(&self) {
        let listed = self.store().list(FIRST, LAST, usize::MAX).await.unwrap();
        let mut listed: Vec<_> =
            listed.iter().map(|found| (found.hash, found.len as usize, found.put_index)).collect();
        let mut expected: Vec<_> = self
            .copies
            .iter()
            .filter(|(_, copy)| copy.1 != Copy::Quarantined)
            .map(|(name, copy)| (named(*name).0, named(*name).1.len(), copy.0))
            .collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        let bytes = expected.iter().map(|(_, len, _)| *len as u64).sum();
        let quarantined = self.copies.len() - expected.len();
        assert_eq!(counts(self.store()), (expected.len() as u64, bytes, quarantined as u64));
    }
}

fn dir_file(path: &Path, volume: u32) -> std::path::PathBuf {
    file::path_of(&path.join("volumes"), volume)
}

fn overwrite(file: &Path, at: usize, byte: u8) {
    use std::os::unix::fs::FileExt;
    let file = fs::OpenOptions::new().write(true).open(file).unwrap();
    file.write_all_at(&[byte], at as u64).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_does_what_a_map_would_do(
        operations in proptest::collection::vec(operation(), 1..60)
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let store = Some(small_volumes(dir.path()));
            let mut model = Model { dir, store, copies: BTreeMap::new() };
            for operation in operations {
                model.run(operation).await;
            }
            model.run(Operation::Reopen).await;
        });
    }
}
