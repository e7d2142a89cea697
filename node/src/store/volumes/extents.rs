//! Who may write where, and what is taken.
//!
//! Exactly one volume is appended to, the *active* one; when it is full the next is begun. Writers reserve room at its end
//! under a short lock and write at the same time, each to its own place. What is reserved and not yet settled holds back the
//! volume's *tail*: everything below the tail is either in the rows or was never acknowledged, so a start need not look there.
//!
//! A place is used once. Room that was given back is a hole for good, so whoever has an old place in hand reads zeros or
//! finds no file, but never somebody else's bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::file::{self, VolumeFile};
use super::open_files::OpenFiles;
use super::reclaimer::Task;
use super::record::{ALIGNMENT, FIRST_RECORD, Header, record_bytes};
use crate::files;
use crate::store::meta::Place;

/// Room that a record takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Extent {
    pub(super) place: Place,
    /// Bytes, a multiple of [`ALIGNMENT`].
    pub(super) bytes: u64,
}

impl Extent {
    pub(super) fn of(place: Place, len: u32) -> Self {
        Self { place, bytes: record_bytes(len) }
    }

    pub(super) fn end(&self) -> u64 {
        self.place.offset + self.bytes
    }
}

#[derive(Debug, Default)]
struct VolumeState {
    /// Where the next record goes.
    end: u64,
    /// Offsets of what is reserved and not yet settled.
    in_flight: BTreeSet<u64>,
    /// Extents that have not been freed.
    extents: u64,
    /// Bytes of these.
    extent_bytes: u64,
    /// Bytes on disk when last looked at.
    allocated_bytes: u64,
    /// Records without a row cannot be found in it, as its head is damaged or the disk has lost it. Only what is known to be deleted is freed.
    is_headless: bool,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<u32, VolumeState>,
    active: Option<Arc<VolumeFile>>,
    /// The highest number in use, or ever used as far as is known.
    last: u32,
}

/// All volumes of a store.
#[derive(Debug)]
pub(super) struct Volumes {
    directory: PathBuf,
    volume_bytes: u64,
    state: Mutex<State>,
    files: OpenFiles,
    allocated_bytes: AtomicU64,
    count: AtomicU64,
    to_free: SyncSender<Task>,
}

impl Volumes {
    /// Takes stock of the files. What has been stored in them is told by [`Self::occupy`] afterwards.
    ///
    /// # Errors
    /// When the directory cannot be read, or a file in it for another reason than that the disk has lost it.
    pub(super) fn open(
        directory: &Path,
        volume_bytes: u64,
        to_free: SyncSender<Task>,
    ) -> io::Result<Self> {
        let mut state = State::default();
        for number in file::list(directory)? {
            state.last = state.last.max(number);
            let volume = match VolumeFile::open(directory, number) {
                Err(error) if file::is_disk_failure(&error) => {
                    tracing::error!(
                        volume = number, %error,
                        "a volume cannot be opened: its blocks prove damaged when they are read"
                    );
                    let lost = VolumeState {
                        end: FIRST_RECORD,
                        is_headless: true,
                        ..VolumeState::default()
                    };
                    state.volumes.insert(number, lost);
                    continue;
                }
                opened => opened?,
            };
            if volume.is_unfinished()? {
                std::fs::remove_file(file::path_of(directory, number))?;
                continue;
            }
            if volume.key.is_none() {
                tracing::error!(
                    volume = number,
                    "the head of a volume is damaged: what is known of it is read, nothing more is found in it"
                );
            }
            let found = VolumeState {
                end: volume.len()?.next_multiple_of(ALIGNMENT).max(FIRST_RECORD),
                allocated_bytes: volume.allocated_bytes()?,
                is_headless: volume.key.is_none(),
                ..VolumeState::default()
            };
            state.volumes.insert(number, found);
        }
        let volumes = Self {
            directory: directory.to_owned(),
            volume_bytes,
            files: OpenFiles::new(directory),
            allocated_bytes: AtomicU64::new(0),
            count: AtomicU64::new(0),
            to_free,
            state: Mutex::new(state),
        };
        volumes.publish(&volumes.state());
        Ok(volumes)
    }

    /// Notes what a row says is stored. Only while the store is being opened.
    pub(super) fn occupy(&self, extent: Extent) {
        let mut state = self.state();
        state.last = state.last.max(extent.place.volume);
        // A file that is gone has nothing to be counted; its blocks prove damaged when they are read.
        if let Some(volume) = state.volumes.get_mut(&extent.place.volume) {
            volume.extents += 1;
            volume.extent_bytes += extent.bytes;
            volume.end = volume.end.max(extent.end());
        }
    }

    /// Notes that everything in a volume below `tail` has been settled, also where its file is shorter now or gone. Only
    /// while the store is being opened.
    pub(super) fn settle_below(&self, number: u32, tail: u64) {
        let mut state = self.state();
        state.last = state.last.max(number);
        if let Some(volume) = state.volumes.get_mut(&number) {
            volume.end = volume.end.max(tail);
        }
    }

    /// Goes on with the last volume if it has room. Once all that is stored was told.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub(super) fn resume(&self) -> io::Result<()> {
        let mut state = self.state();
        let last = state.last;
        if state.volumes.get(&last).is_some_and(|volume| volume.end < self.volume_bytes) {
            state.active = match self.files.get(last) {
                Err(error) if file::is_disk_failure(&error) => None, // Said already.
                opened => Some(opened?).filter(|volume| volume.key.is_some()),
            };
        }
        Ok(())
    }

    /// Room for a block of `len` bytes, nobody else's from now on.
    ///
    /// # Errors
    /// When the next volume cannot be made.
    pub(super) fn reserve(self: &Arc<Self>, len: u32) -> io::Result<Reservation> {
        let bytes = record_bytes(len);
        let mut state = self.state();
        let file = match &state.active {
            Some(active) if state.has_room(active.number, bytes, self.volume_bytes) => {
                Arc::clone(active)
            }
            _ => self.begin_volume(&mut state)?,
        };
        let volume = state.volumes.get_mut(&file.number).expect("the active volume is one of them");
        let place = Place { volume: file.number, offset: volume.end };
        volume.end += bytes;
        volume.in_flight.insert(place.offset);
        volume.extents += 1;
        volume.extent_bytes += bytes;
        drop(state);
        Ok(Reservation {
            volumes: Arc::clone(self),
            file,
            extent: Extent { place, bytes },
            is_settled: false,
        })
    }

    fn begin_volume(&self, state: &mut State) -> io::Result<Arc<VolumeFile>> {
        let number = state.last + 1;
        let file = VolumeFile::create(&self.directory, number).inspect_err(|_| {
            // It may not even have been made.
            let _ = std::fs::remove_file(file::path_of(&self.directory, number));
        })?;
        let file = Arc::new(file);
        self.files.insert(&file);
        state.last = number;
        state.volumes.insert(number, VolumeState { end: FIRST_RECORD, ..VolumeState::default() });
        state.active = Some(Arc::clone(&file));
        self.publish(state);
        Ok(file)
    }

    /// A volume's file.
    ///
    /// # Errors
    /// When it is gone or cannot be opened.
    pub(super) fn file(&self, number: u32) -> io::Result<Arc<VolumeFile>> {
        self.files.get(number)
    }

    /// What a start need not look at below, if the volume is there.
    pub(super) fn tail(&self, number: u32) -> Option<u64> {
        let state = self.state();
        let volume = state.volumes.get(&number)?;
        Some(volume.in_flight.first().copied().unwrap_or(volume.end))
    }

    /// The volumes in the order of their numbers, each with its end.
    pub(super) fn ends(&self) -> Vec<(u32, u64)> {
        self.state().volumes.iter().map(|(number, volume)| (*number, volume.end)).collect()
    }

    /// Volumes that take more room on disk than what is stored in them explains, by more than `slack` bytes, with their ends.
    pub(super) fn leaking(&self, slack: u64) -> Vec<(u32, u64)> {
        let state = self.state();
        let leaks = state.volumes.iter().filter(|(_, volume)| {
            let explained = FIRST_RECORD + volume.extent_bytes + volume.extent_bytes / 64 + slack;
            volume.allocated_bytes > explained && !volume.is_headless
        });
        leaks.map(|(number, volume)| (*number, volume.end)).collect()
    }

    /// Looks how much a volume takes on disk.
    pub(super) fn measure(&self, file: &VolumeFile) {
        let Ok(allocated) = file.allocated_bytes() else {
            return;
        };
        let mut state = self.state();
        if let Some(volume) = state.volumes.get_mut(&file.number) {
            volume.allocated_bytes = allocated;
            self.publish(&state);
        }
    }

    /// Has the room of a record given back as soon as it is durable that no row points to it. Waits when a lot of that is
    /// waiting already.
    pub(super) fn free_later(&self, extent: Extent) {
        // Fails only when the thread is gone; then the next start finds the room.
        let _ = self.to_free.send(Task::Free(extent));
    }

    /// Notes that no row points to these any more, which is durable.
    pub(super) fn freed(&self, extents: &[Extent]) {
        let mut state = self.state();
        for extent in extents {
            if let Some(volume) = state.volumes.get_mut(&extent.place.volume) {
                volume.extents = volume.extents.saturating_sub(1);
                volume.extent_bytes = volume.extent_bytes.saturating_sub(extent.bytes);
            }
        }
        self.publish(&state);
    }

    /// The volumes that have nothing left and never will have, which is durable.
    pub(super) fn spent(&self) -> Vec<u32> {
        let state = self.state();
        let active = state.active.as_ref().map(|file| file.number);
        let spent = state.volumes.iter().filter(|(number, volume)| {
            volume.extents == 0 && !volume.is_headless && Some(**number) != active
        });
        spent.map(|(number, _)| *number).collect()
    }

    /// Removes a spent volume, durably.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn remove(&self, number: u32) -> io::Result<()> {
        match std::fs::remove_file(file::path_of(&self.directory, number)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => files::sync_directory(&self.directory)?,
        }
        self.files.remove(number);
        let mut state = self.state();
        state.volumes.remove(&number);
        self.publish(&state);
        Ok(())
    }

    /// Bytes on disk, and in how many files.
    pub(super) fn on_disk(&self) -> (u64, u64) {
        (self.allocated_bytes.load(Ordering::Relaxed), self.count.load(Ordering::Relaxed))
    }

    /// So that nobody who asks how much there is waits for a volume that is being made.
    fn publish(&self, state: &State) {
        let allocated: u64 = state.volumes.values().map(|volume| volume.allocated_bytes).sum();
        let extents: u64 = state.volumes.values().map(|volume| volume.extent_bytes).sum();
        let count = state.volumes.len() as u64;
        self.allocated_bytes.store(allocated, Ordering::Relaxed);
        self.count.store(count, Ordering::Relaxed);
        metrics::gauge!("reelraft_store_volumes").set(count as f64);
        metrics::gauge!("reelraft_store_allocated_bytes").set(allocated as f64);
        metrics::gauge!("reelraft_store_live_bytes").set(extents as f64);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self, number: u32, bytes: u64, volume_bytes: u64) -> bool {
        // What is longer than a volume should be gets one of its own.
        self.volumes
            .get(&number)
            .is_some_and(|volume| volume.end == FIRST_RECORD || volume.end + bytes <= volume_bytes)
    }
}

/// Room that somebody is writing to. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Reservation {
    volumes: Arc<Volumes>,
    pub(super) file: Arc<VolumeFile>,
    extent: Extent,
    is_settled: bool,
}

impl Reservation {
    pub(super) fn place(&self) -> Place {
        self.extent.place
    }

    /// Writes the record, not durably.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub(super) fn write(&self, header: &Header, bytes: &[u8]) -> io::Result<()> {
        let key = self.file.key.expect("only volumes with a good head are written to");
        let place = self.place();
        self.file.write(place.offset, &header.encode(&key, place), bytes)?;
        metrics::counter!("reelraft_store_written_bytes_total").increment(self.extent.bytes);
        Ok(())
    }

    /// Once a row points to it.
    pub(super) fn settle(mut self) {
        self.is_settled = true;
        self.land();
    }

    fn land(&self) {
        let Place { volume, offset } = self.place();
        if let Some(volume) = self.volumes.state().volumes.get_mut(&volume) {
            volume.in_flight.remove(&offset);
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.is_settled {
            self.land();
            self.volumes.free_later(self.extent);
        }
    }
}
