//! Gives the room of deleted blocks back to the file system.
//!
//! A row may come back after a power cut as long as its deletion is not durable, and must not point to a hole then. So the
//! deletions of a moment are made durable together, and only then their room is punched out of the volumes; a volume that
//! has nothing left is removed. One thread does that beside all writing and reading, which it never waits for.
//!
//! A crash between the two leaves room taken that nothing points to. A start sees that a volume takes more room than is
//! stored in it, and has everything between its records punched once more.

use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::extents::{Extent, Volumes};
use super::index::Index;
use super::record::FIRST_RECORD;
use crate::store::committer::Failure;
use crate::store::meta::Place;

/// Extents that may wait: 128 KiB of memory. Whoever deletes faster than the disk follows has to wait.
const QUEUE_LEN: usize = 4096;

/// How long room may wait for more to come along. Deletions come in crowds, and each costs the disk an fsync.
const GATHERING: Duration = Duration::from_millis(200);

/// Room that a volume may take beyond what is stored in it without anything being wrong: the file system's own notes, and
/// what it allocates ahead.
const SLACK_BYTES: u64 = 1 << 20;

/// Volumes whose gaps are looked for in one pass over the rows: a quarter of a million extents in memory for each of them if
/// it holds nothing but the shortest blocks, some seven hundred if it holds video.
const VOLUMES_PER_PASS: usize = 8;

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Task {
    Free(Extent),
    Stop,
}

/// The way to the thread, which begins with [`Reclaimer::start`].
pub(super) fn queue() -> (SyncSender<Task>, Receiver<Task>) {
    sync_channel(QUEUE_LEN)
}

/// The thread's handle. When it is dropped, the thread does what it has been told and ends.
#[derive(Debug)]
pub(super) struct Reclaimer {
    tasks: SyncSender<Task>,
    thread: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_stopping: AtomicBool,
    cannot_punch: AtomicBool,
}

/// What was found when the store was opened.
struct Leaks {
    /// Volumes without a record.
    spent: Vec<u32>,
    /// Volumes that take too much room, in the order of their numbers, each with its end.
    leaking: Vec<(u32, u64)>,
}

struct Work {
    index: Arc<Index>,
    volumes: Arc<Volumes>,
    failure: Failure,
    shared: Arc<Shared>,
}

impl Reclaimer {
    pub(super) fn start(
        (tasks, told): (SyncSender<Task>, Receiver<Task>),
        index: Arc<Index>,
        volumes: Arc<Volumes>,
        failure: Failure,
    ) -> std::io::Result<Self> {
        // Looked for before anybody stores anything: what is reserved has no row yet.
        let leaks = Leaks { spent: volumes.spent(), leaking: volumes.leaking(SLACK_BYTES) };
        let shared = Arc::new(Shared::default());
        let work = Work { index, volumes, failure, shared: Arc::clone(&shared) };
        let thread = thread::Builder::new()
            .name("block-reclaim".into())
            .spawn(move || work.run(leaks, &told))?;
        Ok(Self { tasks, thread: Some(thread), shared })
    }

    /// Whether the file system has said that it cannot punch holes.
    pub(super) fn cannot_punch(&self) -> bool {
        self.shared.cannot_punch.load(Ordering::Relaxed)
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Relaxed);
        let _ = self.tasks.send(Task::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

impl Work {
    fn run(&self, leaks: Leaks, told: &Receiver<Task>) {
        if self.mend(leaks, told).is_break() {
            return;
        }
        while let Ok(Task::Free(first)) = told.recv() {
            let mut extents = vec![first];
            let until = Instant::now() + GATHERING;
            let mut is_last = false;
            while extents.len() < QUEUE_LEN {
                match told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(Task::Free(extent)) => extents.push(extent),
                    Err(RecvTimeoutError::Timeout) => break,
                    Ok(Task::Stop) | Err(RecvTimeoutError::Disconnected) => {
                        is_last = true;
                        break;
                    }
                }
            }
            self.free(extents);
            if is_last {
                return;
            }
        }
    }

    /// Frees what is waiting already, so that nobody who deletes has to wait for a long task. Breaks when that was the last.
    fn free_waiting(&self, told: &Receiver<Task>) -> ControlFlow<()> {
        let mut extents = Vec::new();
        let mut flow = ControlFlow::Continue(());
        for task in told.try_iter().take(QUEUE_LEN) {
            match task {
                Task::Free(extent) => extents.push(extent),
                Task::Stop => {
                    flow = ControlFlow::Break(());
                    break;
                }
            }
        }
        self.free(extents);
        flow
    }

    fn free(&self, mut extents: Vec<Extent>) {
        if extents.is_empty() || !self.sync() {
            return;
        }
        extents.sort_unstable();
        self.volumes.freed(&extents);
        let spent = self.volumes.spent();
        extents.retain(|extent| !spent.contains(&extent.place.volume));
        // Neighbours go together.
        let mut merged: Vec<Extent> = Vec::new();
        for extent in extents {
            match merged.last_mut() {
                Some(last)
                    if last.place.volume == extent.place.volume
                        && last.end() == extent.place.offset =>
                {
                    last.bytes += extent.bytes;
                }
                _ => merged.push(extent),
            }
        }
        self.punch(&merged);
        self.remove(spent);
    }

    /// Whether it is durable that what was deleted is deleted. After a failure nothing is freed any more: the next start
    /// finds it.
    fn sync(&self) -> bool {
        if self.failure.get().is_some() {
            return false;
        }
        match self.index.sync() {
            Ok(()) => true,
            Err(reason) => {
                self.failure.note(&reason);
                false
            }
        }
    }

    /// In the order of their places.
    fn punch(&self, extents: &[Extent]) {
        for in_volume in extents.chunk_by(|one, next| one.place.volume == next.place.volume) {
            let number = in_volume[0].place.volume;
            let file = match self.volumes.file(number) {
                Ok(file) => file,
                // Nothing was left in it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(volume = number, %error, "a volume cannot be opened to free room in it");
                    continue;
                }
            };
            for extent in in_volume {
                if self.shared.cannot_punch.load(Ordering::Relaxed) {
                    return;
                }
                match file.punch(extent.place.offset, extent.bytes) {
                    Ok(()) => {
                        metrics::counter!("reelraft_store_punched_bytes_total")
                            .increment(extent.bytes);
                    }
                    Err(error) if error.kind() == ErrorKind::Unsupported => {
                        self.shared.cannot_punch.store(true, Ordering::Relaxed);
                        tracing::warn!(
                            "the file system cannot punch holes into files: the space of deleted blocks comes back only \
                             when all blocks of a volume have been deleted"
                        );
                    }
                    Err(error) => {
                        tracing::warn!(
                            volume = number, %error,
                            "the space of deleted blocks cannot be freed; the next start tries again"
                        );
                        break;
                    }
                }
            }
            self.volumes.measure(&file);
        }
    }

    fn remove(&self, spent: Vec<u32>) {
        for number in spent {
            // The file first: a tail without a file is forgotten at the next start, but a file without a tail would be read
            // from its beginning.
            let removed = self.volumes.remove(number).map_err(|error| error.to_string());
            if let Err(error) = removed.and_then(|()| self.index.delete_tail(number)) {
                tracing::warn!(volume = number, error, "an empty volume cannot be removed");
            }
        }
    }

    /// Frees what a crash has left, and between its parts what is deleted meanwhile: see the module. Breaks when there is
    /// nothing more to do.
    fn mend(&self, Leaks { spent, mut leaking }: Leaks, told: &Receiver<Task>) -> ControlFlow<()> {
        leaking.retain(|(number, _)| !spent.contains(number));
        if !spent.is_empty() && self.sync() {
            self.remove(spent);
        }
        for volumes in leaking.chunks(VOLUMES_PER_PASS) {
            self.free_waiting(told)?;
            if self.cannot_go_on() {
                break;
            }
            // Which extents there are, before it is made durable what was deleted: what is deleted later still counts here.
            let gaps = match self.gaps(volumes) {
                Ok(gaps) => gaps,
                Err(error) => {
                    tracing::warn!(error, "the space that a crash left taken cannot be found");
                    break;
                }
            };
            if self.cannot_go_on() || !self.sync() {
                break;
            }
            tracing::info!(
                volumes = volumes.len(),
                gaps = gaps.len(),
                "freeing what a crash left taken in volumes"
            );
            self.punch(&gaps);
        }
        ControlFlow::Continue(())
    }

    /// Whether looking for gaps is of no use (any more).
    fn cannot_go_on(&self) -> bool {
        self.shared.is_stopping.load(Ordering::Relaxed)
            || self.shared.cannot_punch.load(Ordering::Relaxed)
    }

    /// What lies between the records of some volumes up to the ends given, in the order of their places. Nothing will ever
    /// be stored there.
    fn gaps(&self, volumes: &[(u32, u64)]) -> Result<Vec<Extent>, String> {
        let mut extents = Vec::new();
        self.index.for_all_rows(&mut |_, row| {
            if volumes.iter().any(|(number, _)| *number == row.place.volume) {
                extents.push(Extent::of(row.place, row.len));
            }
        })?;
        extents.sort_unstable();
        Ok(gaps_between(&extents, volumes))
    }
}

/// `extents` and `volumes` are in order.
fn gaps_between(extents: &[Extent], volumes: &[(u32, u64)]) -> Vec<Extent> {
    let mut gaps = Vec::new();
    for (number, end) in volumes {
        let mut at = FIRST_RECORD;
        let mut gap_until = |from: u64, until: u64| {
            if from < until {
                let place = Place { volume: *number, offset: from };
                gaps.push(Extent { place, bytes: until - from });
            }
        };
        let first = extents.partition_point(|extent| extent.place.volume < *number);
        for extent in &extents[first..] {
            if extent.place.volume != *number || extent.place.offset >= *end {
                break;
            }
            gap_until(at, extent.place.offset);
            at = at.max(extent.end());
        }
        gap_until(at, *end);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_all_that_no_record_takes() {
        let extent = |volume, offset, bytes| Extent { place: Place { volume, offset }, bytes };
        let (first, unit) = (FIRST_RECORD, 4096);
        assert_eq!(gaps_between(&[], &[(1, first), (2, first + unit)]), [extent(2, first, unit)]);
        let taken = [
            extent(1, first, unit),
            extent(2, first + unit, unit),
            extent(2, first + 2 * unit, 2 * unit),
            extent(2, first + 6 * unit, unit),
            // Stored after the ends were looked at.
            extent(2, first + 9 * unit, unit),
            extent(4, first, unit),
        ];
        assert_eq!(
            gaps_between(&taken, &[(1, first + unit), (2, first + 8 * unit), (4, first + unit)]),
            [
                extent(2, first, unit),
                extent(2, first + 4 * unit, 2 * unit),
                extent(2, first + 7 * unit, unit)
            ]
        );
    }
}
