//! The volumes that are open.
//!
//! Terabytes are thousands of volumes, and a process may have about a thousand files open unless somebody allows more. The
//! ones used last stay open; a file that is closed here stays open for those who are just reading it.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::VolumeFile;

/// A quarter of what a process may have open by default; the rest is for connections and RocksDB.
const OPEN_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct OpenFiles {
    directory: PathBuf,
    recent: Mutex<Recent>,
}

#[derive(Debug, Default)]
struct Recent {
    /// Each with the tick of its last use.
    files: HashMap<u32, (Arc<VolumeFile>, u64)>,
    ticks: u64,
}

impl OpenFiles {
    pub(super) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), recent: Mutex::default() }
    }

    /// # Errors
    /// When it has to be opened and cannot be.
    pub(super) fn get(&self, number: u32) -> io::Result<Arc<VolumeFile>> {
        if let Some(file) = self.recent().used(number) {
            return Ok(file);
        }
        // Two who come at the same time may both open it; no harm is done.
        let file = Arc::new(VolumeFile::open(&self.directory, number)?);
        self.insert(&file);
        Ok(file)
    }

    pub(super) fn insert(&self, file: &Arc<VolumeFile>) {
        let mut recent = self.recent();
        if recent.files.len() >= OPEN_MAX
            && let Some(oldest) =
                recent.files.iter().min_by_key(|(_, (_, tick))| *tick).map(|(number, _)| *number)
        {
            recent.files.remove(&oldest);
        }
        let tick = recent.tick();
        recent.files.insert(file.number, (Arc::clone(file), tick));
        drop(recent);
        // Removed between opening and here: nobody will say so again, and its room is taken as long as it is open. Whoever
        // removes it after this look finds it here.
        if file.is_removed() {
            self.remove(file.number);
        }
    }

    /// After the file was removed from the directory.
    pub(super) fn remove(&self, number: u32) {
        self.recent().files.remove(&number);
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Recent {
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    fn used(&mut self, number: u32) -> Option<Arc<VolumeFile>> {
        let tick = self.tick();
        let (file, last_used) = self.files.get_mut(&number)?;
        *last_used = tick;
        Some(Arc::clone(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ones_used_last_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path());
        let many = u32::try_from(OPEN_MAX).unwrap() + 10;
        for number in 1..=many {
            drop(VolumeFile::create(dir.path(), number).unwrap());
            assert_eq!(files.get(number).unwrap().number, number);
            assert_eq!(files.get(1).unwrap().number, 1);
        }
        let recent = files.recent();
        assert_eq!(recent.files.len(), OPEN_MAX);
        assert!(recent.files.contains_key(&1) && !recent.files.contains_key(&2));
        drop(recent);
        assert_eq!(files.get(2).unwrap().number, 2);
        files.remove(2);
        std::fs::remove_file(super::super::file::path_of(dir.path(), 2)).unwrap();
        assert!(files.get(2).is_err());
    }

    #[test]
    fn a_volume_that_is_removed_while_somebody_opens_it_does_not_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let files = OpenFiles::new(dir.path());
        drop(VolumeFile::create(dir.path(), 1).unwrap());
        let file = Arc::new(VolumeFile::open(dir.path(), 1).unwrap());
        std::fs::remove_file(super::super::file::path_of(dir.path(), 1)).unwrap();
        files.remove(1);
        files.insert(&file);
        assert!(files.recent().files.is_empty());
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
