//! Disks that can be full: each a file system in memory, mounted below the data of one node.
//!
//! It looks large, because nodes leave room on their disks and take no blocks when there is little, and takes no more memory
//! than what is written to it. [`Disk::fill`] makes it hardly larger than what is on it and fills the rest with a file.
//!
//! # Cleaning up
//!
//! A [`Disk`] is unmounted when it is dropped. A test that was killed leaves it mounted; its name has the id of the process in
//! it, and the next disk unmounts those of processes that are gone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statvfs::statvfs;

/// The names of all disks begin with this, then comes the id of the process.
const PREFIX: &str = "reelraft-disk-";

/// How large an empty disk says it is: twice what a node wants to be free.
const BYTES: u64 = 2 << 30;

/// How much of a disk that is being filled is left for the file that fills it. What is written while the disk is made
/// smaller has to fit in.
const FILLER_BYTES: u64 = 4 << 20;

/// A file of whoever filled the disk.
const FILLER: &str = "somebody-elses-file";

/// A node may write while the disk is being filled, so the size is found by trying.
const TRIES_MAX: usize = 20;

/// One disk, unmounted when dropped.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
    name: String,
}

impl Disk {
    /// Puts the folder at `path`, with what is in it, on a disk of its own. Nobody may be using it.
    ///
    /// # Errors
    /// Without the rights to do so (root's).
    pub fn below(path: &Path) -> Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "mounting a file system needs root: run this test as root, in a container for example"
        );
        unmount_abandoned()?;
        let name = format!("{PREFIX}{}", std::process::id());
        let before = path.with_extension("before");
        let present = path.exists();
        if present {
            fs::rename(path, &before).context("put what is there aside")?;
        }
        fs::create_dir_all(path)?;
        let disk = Self { path: path.to_owned(), name };
        disk.mount(MsFlags::empty(), BYTES)
            .with_context(|| format!("mount a file system at {}", path.display()))?;
        if present {
            let copied = Command::new("cp").arg("-aT").args([&before, path]).status()?;
            ensure!(copied.success(), "copy what was there: {copied}");
            fs::remove_dir_all(before)?;
        }
        Ok(disk)
    }

    /// Leaves no room on it, for anybody.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self) -> Result<()> {
        self.shrink()?;
        let mut filler = File::create(self.filler()).context("make a file that fills the disk")?;
        let chunk = vec![0x5a; 64 << 10];
        let mut length = chunk.len();
        loop {
            // Whole chunks, then what is left, so that not even a short record has room.
            match filler.write(&chunk[..length]) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOSPC as i32) => {
                    if length == 1 {
                        return Ok(());
                    }
                    length /= 2;
                }
                Err(error) => return Err(error).context("fill the disk"),
            }
        }
    }

    /// Deletes what fills it, as an operator would who was told that it is full.
    ///
    /// # Errors
    /// When it was not filled.
    pub fn make_room(&self) -> Result<()> {
        fs::remove_file(self.filler()).context("delete the file that fills the disk")?;
        self.mount(MsFlags::MS_REMOUNT, BYTES).context("enlarge a disk")
    }

    fn shrink(&self) -> Result<()> {
        for _ in 0..TRIES_MAX {
            let now = statvfs(&self.path)?;
            let used = (now.blocks() - now.blocks_free()) * now.fragment_size();
            match self.mount(MsFlags::MS_REMOUNT, used + FILLER_BYTES) {
                // More was written meanwhile.
                Err(Errno::EINVAL) => {}
                done => return done.context("make a disk smaller"),
            }
        }
        bail!("{} grows too fast to be filled", self.path.display());
    }

    fn filler(&self) -> PathBuf {
        self.path.join(FILLER)
    }

    fn mount(&self, flags: MsFlags, bytes: u64) -> nix::Result<()> {
        let size = format!("size={bytes}");
        mount(Some(self.name.as_str()), &self.path, Some("tmpfs"), flags, Some(size.as_str()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // There is nobody left to tell if it fails; the next disk tries again.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
    }
}

/// Unmounts what processes have left behind that are gone.
fn unmount_abandoned() -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("list mounts")?;
    for line in mounts.lines() {
        let mut words = line.split(' ');
        let (Some(name), Some(path)) = (words.next(), words.next()) else { continue };
        let Some(process) = name.strip_prefix(PREFIX) else { continue };
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
    Ok(())
}
