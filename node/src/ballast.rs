//! Room that a node keeps on its disk for the moment when there is none left.
//!
//! A database that finds no room can neither write nor be opened: what its log holds has to be written to sorted files first,
//! and deleting something is a write as well. So a node holds a file of nothing, really allocated, in its data directory, and
//! deletes it when somebody has filled the disk. With that room the log and the catalog go on, a node that was killed comes
//! up again and serves what it has, and what people delete is deleted. When there is plenty of room, the file is made anew.
//!
//! Blocks never use that room: what is missing of the ballast counts as used ([`Ballast::space`]), and
//! even without that a store that heeds [`watermark::NO_BLOCKS`] leaves it alone, because it takes less than what lies between that
//! mark and [`watermark::RELEASE_BALLAST`].
//!
//! # Assumptions
//!
//! - `raft/` and `state/` are on the file system of the data directory. A disk of their own has no ballast.
//! - Nobody needs more of it than what is written until somebody makes room: the log of a cluster goes on, so a disk that stays
//!   full ends the node all the same, some hundred thousand commands later.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use tokio_util::sync::CancellationToken;

use crate::files::{self, Space};
use crate::watermark::{self, DiskPressure};

/// Its name in the data directory.
pub(crate) const FILE: &str = "ballast";

/// Between two looks at the disk. Whoever fills it faster makes the databases fail; the next start finds the ballast.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Per cent of the file system that it takes, unless that is less than [`BYTES_MIN`].
const PERCENT: u64 = 1;

/// What the databases need to be opened, with room for some minutes of commands: each writes at most what its log holds, some
/// 16 MiB, to sorted files, and begins a new log.
const BYTES_MIN: u64 = 64 << 20;

/// Per cent that it takes of a file system that is too small for [`BYTES_MIN`]: no more than what lies between the marks.
const PERCENT_MAX: u64 = 3;

/// How many bytes it has on a file system of `total_bytes`, when it may have `bytes_max`.
fn bytes_on(total_bytes: u64, bytes_max: u64) -> u64 {
    let hundredth = total_bytes / 100;
    (hundredth * PERCENT).max(BYTES_MIN).min(hundredth * PERCENT_MAX).min(bytes_max)
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    Release,
    Make,
}

/// Pure. Between releasing it and making it lies far more than its own size, so that the two do not alternate: a disk on which
/// it was released has less than [`watermark::RELEASE_BALLAST`] beside it, and one on which it is made has
/// [`watermark::NO_BLOCKS`] beside it.
fn step(held: bool, bytes: u64, space: Space) -> Step {
    if held {
        let needed = watermark::RELEASE_BALLAST.free_bytes(space.total_bytes);
        return if space.free_bytes < needed { Step::Release } else { Step::Nothing };
    }
    let Some(free_bytes) = space.free_bytes.checked_sub(bytes).filter(|_| bytes > 0) else {
        return Step::Nothing;
    };
    let (before, after) =
        (DiskPressure::of(space), DiskPressure::of(Space { free_bytes, ..space }));
    // It is no reason to give up anything.
    if after.takes_copies() || (after.takes_blocks() && after == before) {
        Step::Make
    } else {
        Step::Nothing
    }
}

/// How things are with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BallastState {
    /// It is there, or is not wanted.
    Held,
    /// There is no room for it.
    Released,
    /// The file system cannot reserve room. That was told.
    Impossible,
}

/// The ballast of one data directory.
#[derive(Debug)]
pub struct Ballast {
    path: PathBuf,
    /// Bytes at most; 0 when none is wanted.
    bytes_max: u64,
    state: AtomicU8,
}

impl Ballast {
    #[must_use]
    pub fn new(data_dir: &Path, bytes_max: u64) -> Self {
        let state = AtomicU8::new(BallastState::Held as u8);
        Self { path: data_dir.join(FILE), bytes_max, state }
    }

    /// How things were at the last look.
    #[must_use]
    pub fn state(&self) -> BallastState {
        match self.state.load(Ordering::Relaxed) {
            state if state == BallastState::Released as u8 => BallastState::Released,
            state if state == BallastState::Impossible as u8 => BallastState::Impossible,
            _ => BallastState::Held,
        }
    }

    /// The file system of the data directory, as if the ballast were there.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn space(&self) -> io::Result<Space> {
        let space = files::space(self.data_dir())?;
        let lacking = match self.state() {
            BallastState::Held | BallastState::Impossible => 0,
            BallastState::Released => bytes_on(space.total_bytes, self.bytes_max),
        };
        Ok(Space { free_bytes: space.free_bytes.saturating_sub(lacking), ..space })
    }

    /// Where it lies.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new("."))
    }

    /// Looks at the disk and does what is to be done. Blocks the calling thread. What fails is tried again at the next look.
    pub fn look(&self) {
        let before = self.state();
        if before == BallastState::Impossible {
            return;
        }
        let now = match self.settle() {
            Ok(state) => state,
            Err(error) if is_unsupported(&error) => {
                tracing::warn!(%error, "this file system cannot reserve room: there is no ballast for a full disk");
                BallastState::Impossible
            }
            Err(error) => {
                tracing::debug!(%error, "look after the ballast");
                before
            }
        };
        self.state.store(now as u8, Ordering::Relaxed);
    }

    fn settle(&self) -> io::Result<BallastState> {
        let space = files::space(self.data_dir())?;
        let bytes = bytes_on(space.total_bytes, self.bytes_max);
        if bytes == 0 {
            remove(&self.path)?;
            return Ok(BallastState::Held);
        }
        let held_bytes = allocated(&self.path)?;
        // Half of it may be what a crash left, or the disk has grown: it is made anew.
        let held = held_bytes >= bytes / 2;
        if !held && held_bytes > 0 {
            remove(&self.path)?;
            return Ok(BallastState::Released);
        }
        match step(held, bytes, space) {
            Step::Nothing if held => Ok(BallastState::Held),
            Step::Nothing => Ok(BallastState::Released),
            Step::Release => {
                release(&self.path, space)?;
                Ok(BallastState::Released)
            }
            Step::Make => {
                make(&self.path, bytes)?;
                tracing::info!(
                    bytes,
                    "made a ballast: room on the disk that is given up when it is full"
                );
                Ok(BallastState::Held)
            }
        }
    }

    /// Looks until `stop`.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            let ballast = self.clone();
            // A disk that hangs holds up this look, and there is no other.
            let look = tokio::task::spawn_blocking(move || ballast.look());
            if stop.run_until_cancelled(look).await.is_none()
                || stop.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_none()
            {
                return;
            }
        }
    }
}

/// Gives up the ballast in `data_dir` if the disk is full, before anything is written there.
pub(crate) fn make_way(data_dir: &Path) {
    let path = data_dir.join(FILE);
    let released = || -> io::Result<()> {
        let space = files::space(data_dir)?;
        if allocated(&path)? > 0 && step(true, 0, space) == Step::Release {
            release(&path, space)?;
        }
        Ok(())
    };
    if let Err(error) = released() {
        tracing::warn!(%error, "look after the ballast");
    }
}

fn release(path: &Path, space: Space) -> io::Result<()> {
    remove(path)?;
    tracing::warn!(
        free_bytes = space.free_bytes,
        total_bytes = space.total_bytes,
        "the disk is full: its ballast was given up so that this node can go on. Make room; the ballast is made again by itself"
    );
    metrics::counter!("reelraft_ballast_releases_total").increment(1);
    Ok(())
}

/// Bytes that it takes on disk.
fn allocated(path: &Path) -> io::Result<u64> {
    /// As the kernel counts them, on all file systems.
    const UNIT: u64 = 512;
    match fs::metadata(path) {
        Ok(about) => Ok(about.blocks().saturating_mul(UNIT)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

fn make(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    let made = fallocate(&file, FallocateFlags::empty(), 0, bytes)
        .map_err(io::Error::from)
        .and_then(|()| file.sync_all());
    drop(file);
    if made.is_err() {
        remove(path)?;
    }
    made
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn it_suits_the_disk() {
        assert_eq!(bytes_on(10 << 40, GIB), GIB);
        assert_eq!(bytes_on(20 * GIB, GIB), 20 * GIB / 100);
        assert_eq!(bytes_on(4 * GIB, GIB), BYTES_MIN);
        assert_eq!(bytes_on(300 * MIB, GIB), 9 * MIB);
        assert_eq!(bytes_on(10 << 40, 5 * MIB), 5 * MIB);
        assert_eq!(bytes_on(10 << 40, 0), 0);
    }

    #[test]
    fn it_is_released_once_and_made_again_when_there_is_plenty() {
        for total_bytes in [300 * MIB, 2 * GIB, 100 * GIB, 4 << 40] {
            let bytes = bytes_on(total_bytes, GIB);
            let at = |free_bytes| Space { free_bytes, total_bytes };
            let mark = watermark::RELEASE_BALLAST.free_bytes(total_bytes);
            assert_eq!(step(true, bytes, at(mark)), Step::Nothing);
            assert_eq!(step(true, bytes, at(mark - 1)), Step::Release);
            // What it leaves is not enough to make it again.
            assert_eq!(step(false, bytes, at(mark - 1 + bytes)), Step::Nothing);
            for free_bytes in (0..=total_bytes).step_by((total_bytes / 1000) as usize) {
                if step(false, bytes, at(free_bytes)) == Step::Make {
                    let left = at(free_bytes - bytes);
                    assert_eq!(step(true, bytes, left), Step::Nothing, "{free_bytes}");
                    let (before, after) =
                        (DiskPressure::of(at(free_bytes)), DiskPressure::of(left));
                    assert!(before == after || after <= DiskPressure::Low, "{free_bytes}");
                }
            }
            assert_eq!(step(false, bytes, at(total_bytes)), Step::Make);
            assert_eq!(step(false, bytes, at(0)), Step::Nothing);
        }
    }

    #[test]
    fn blocks_never_take_its_place() {
        for total_bytes in [100 * MIB, 300 * MIB, 2 * GIB, 6 * GIB, 100 * GIB, 4 << 40] {
            let released = watermark::RELEASE_BALLAST.free_bytes(total_bytes) - 1;
            let free_bytes = released + bytes_on(total_bytes, GIB);
            assert!(!DiskPressure::of(Space { free_bytes, total_bytes }).takes_blocks());
        }
    }

    #[test]
    fn one_that_is_not_wanted_is_not_made() {
        assert_eq!(step(false, 0, Space { free_bytes: GIB, total_bytes: GIB }), Step::Nothing);
    }

    #[test]
    fn it_takes_room_and_gives_it_back() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join(FILE);
        let ballast = Ballast::new(home.path(), MIB);
        ballast.look();
        assert_eq!(ballast.state(), BallastState::Held);
        assert!(allocated(&path).unwrap() >= MIB);
        // What a crash left of another one is no ballast.
        fs::write(&path, b"a").unwrap();
        for _ in 0..2 {
            ballast.look();
        }
        assert!(allocated(&path).unwrap() >= MIB);
        make_way(home.path());
        assert!(path.exists(), "there is room");
        Ballast::new(home.path(), 0).look();
        assert!(!path.exists(), "nobody wants it any more");
    }
}
