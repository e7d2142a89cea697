//! Disks that can be full: each a file system in memory, mounted below the data of one node.
//!
//! It takes no more memory than what is written to it, until [`Disk::fill`] fills what is left with a file.
//!
//! # Cleaning up
//!
//! A [`Disk`] is unmounted when it is dropped. A test that was killed leaves it mounted; its name has the id of the process in
//! it, and the next disk unmounts those of processes that are gone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// The names of all disks begin with this, then comes the id of the process.
const PREFIX: &str = "reelraft-disk-";

/// How large a disk is: several times what a test stores, and all of it is memory when it is full.
const BYTES: u64 = 768 << 20;

/// What the file that fills a disk is written with at first; less when there is less room.
const CHUNK_BYTES: usize = 4 << 20;

/// A file of whoever filled the disk.
const FILLER: &str = "somebody-elses-file";

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
        let size = format!("size={BYTES}");
        let (name, kind, options) = (disk.name.as_str(), "tmpfs", size.as_str());
        mount(Some(name), path, Some(kind), MsFlags::empty(), Some(options))
            .with_context(|| format!("mount a file system at {}", path.display()))?;
        if present {
            let copied = Command::new("cp").arg("-aT").args([&before, path]).status()?;
            ensure!(copied.success(), "copy what was there: {copied}");
            fs::remove_dir_all(before)?;
        }
        Ok(disk)
    }

    /// Leaves no room on it, for anybody. May be called again: what was freed meanwhile is filled as well.
    ///
    /// # Errors
    /// When it cannot be filled.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::options()
            .create(true)
            .append(true)
            .open(self.filler())
            .context("make a file that fills the disk")?;
        let chunk = vec![0x5a; CHUNK_BYTES];
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
        fs::remove_file(self.filler()).context("delete the file that fills the disk")
    }

    fn filler(&self) -> PathBuf {
        self.path.join(FILLER)
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
