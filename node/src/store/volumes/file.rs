//! One volume as a file.
//!
//! Bytes are read into memory with `pread` and never mapped: a page of a mapped file that the disk cannot deliver is a
//! SIGBUS, which ends the process, where `pread` returns an error about one block.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::buffer::spare_capacity;
use rustix::fs::{Advice, FallocateFlags};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2, pwritev, retry_on_intr};

use super::record::{FIRST_RECORD, HEAD_BYTES, Head};
use crate::files;

const EXTENSION: &str = "volume";

/// `st_blocks` counts these.
const STAT_BLOCK_BYTES: u64 = 512;

#[derive(Debug)]
pub(super) struct VolumeFile {
    pub(super) number: u32,
    /// `None` when the head is damaged or cannot be read: records whose place is known can be read all the same.
    pub(super) key: Option<[u8; 32]>,
    file: File,
}

/// Where volume `number` is.
pub(super) fn path_of(directory: &Path, number: u32) -> PathBuf {
    directory.join(format!("{number:08}.{EXTENSION}"))
}

/// The volumes in a directory, in any order.
///
/// # Errors
/// When it cannot be listed.
pub(super) fn list(directory: &Path) -> io::Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION)
            && let Some(number) = path.file_stem().and_then(|stem| stem.to_str()?.parse().ok())
        {
            numbers.push(number);
        }
    }
    Ok(numbers)
}

/// Whether the disk could not deliver what is on it.
pub(super) fn is_disk_failure(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::IO)
}

/// Whether the process or the machine had too little of something that is not disk: it says nothing about what is there.
pub(super) fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

impl VolumeFile {
    /// Makes a volume that is there after a power cut. What is left of a failed attempt has to be removed.
    ///
    /// # Errors
    /// When there is one already, or the disk is full or fails.
    pub(super) fn create(directory: &Path, number: u32) -> io::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
        let path = path_of(directory, number);
        let mut options = OpenOptions::new();
        let file = options.create_new(true).read(true).write(true).mode(0o600).open(path)?;
        let volume = Self { number, key: Some(key), file };
        volume.write_at(&mut [IoSlice::new(&Head { number, key }.encode())], 0)?;
        volume.file.sync_all()?;
        files::sync_directory(directory)?;
        Ok(volume)
    }

    /// # Errors
    /// When it is not there or cannot be read.
    pub(super) fn open(directory: &Path, number: u32) -> io::Result<Self> {
        let path = path_of(directory, number);
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            // A kernel that has found a file system damaged allows nothing but reading, which is what matters then.
            Err(error) if error.kind() == ErrorKind::ReadOnlyFilesystem => File::open(path)?,
            opened => opened?,
        };
        let mut volume = Self { number, key: None, file };
        volume.key = match volume.read(0, HEAD_BYTES) {
            Ok(head) => head
                .as_slice()
                .try_into()
                .ok()
                .and_then(Head::decode)
                .filter(|head| head.number == number)
                .map(|head| head.key),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) if is_disk_failure(&error) => {
                tracing::error!(volume = number, %error, "the head of a volume cannot be read");
                None
            }
            Err(error) => return Err(error),
        };
        Ok(volume)
    }

    /// Writes a record, not durably.
    ///
    /// # Errors
    /// When the disk is full or fails. Part of it may have been written.
    pub(super) fn write(&self, offset: u64, header: &[u8], bytes: &[u8]) -> io::Result<()> {
        self.write_at(&mut [IoSlice::new(header), IoSlice::new(bytes)], offset)
    }

    fn write_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        while !slices.is_empty() {
            let written = retry_on_intr(|| pwritev(&self.file, slices, offset))?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    /// # Errors
    /// `UnexpectedEof` when the file ends before; what the disk reports.
    pub(super) fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = offset + bytes.len() as u64;
            // The allocator may have given more room than was asked for; what is read into it is cut off below.
            match pread(&self.file, spare_capacity(&mut bytes), at) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bytes.truncate(len);
        Ok(bytes)
    }

    /// Makes durable what was written before. Also the length, as far as it is needed to read that.
    ///
    /// # Errors
    /// When the disk fails.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives the space of a range back to the file system. It reads as zeros from then on.
    ///
    /// # Errors
    /// `Unsupported` when this file system cannot.
    pub(super) fn punch(&self, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(retry_on_intr(|| rustix::fs::fallocate(&self.file, flags, offset, len))?)
    }

    /// Whether the beginning of a range is in the page cache. `false` where the file system does not tell. To ask may make the
    /// kernel begin to read it from the disk.
    pub(super) fn is_cached(&self, offset: u64) -> bool {
        let mut byte = [0];
        preadv2(&self.file, &mut [IoSliceMut::new(&mut byte)], offset, ReadWriteFlags::NOWAIT)
            .is_ok()
    }

    /// Takes a range out of the page cache, so that the next read comes from the disk. Does not touch what has yet to be
    /// written. The kernel may ignore it; nothing depends on it but how much a read proves.
    pub(super) fn forget_cached(&self, offset: u64, len: u64) {
        let _ = rustix::fs::fadvise(
            &self.file,
            offset,
            std::num::NonZeroU64::new(len),
            Advice::DontNeed,
        );
    }

    /// Length in bytes, holes and all.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Whether it has been removed from its directory, as far as the file system tells.
    pub(super) fn is_removed(&self) -> bool {
        self.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
    }

    /// Bytes that it takes on disk.
    ///
    /// # Errors
    /// When the file system fails.
    pub(super) fn allocated_bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * STAT_BLOCK_BYTES)
    }

    /// Whether nothing was ever stored in it: what a crash leaves that comes while it is made.
    pub(super) fn is_unfinished(&self) -> io::Result<bool> {
        Ok(self.key.is_none() && self.len()? <= FIRST_RECORD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_whose_head_the_disk_cannot_deliver_is_one_without_a_key() {
        let dir = tempfile::tempdir().unwrap();
        // Nothing is mapped at address 0, which reading reports as a disk does.
        std::os::unix::fs::symlink("/proc/self/mem", path_of(dir.path(), 1)).unwrap();
        let volume = VolumeFile::open(dir.path(), 1).unwrap();
        assert!(volume.key.is_none());
        assert!(is_disk_failure(&volume.read(0, HEAD_BYTES).unwrap_err()));
    }
}
