//! Files that survive a power cut, and what there is to know of a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What to do about a disk that is full.
pub(crate) const REMEDY_FOR_FULL_DISK: &str = "The disk is full: make room on it, then start this node again. Nothing that was \
                                               acknowledged is lost";

/// Whether an error is about that, or about a quota, for which the same helps. RocksDB passes on what the kernel said, and nothing else that could be recognized.
pub(crate) fn says_disk_is_full(error: &str) -> bool {
    error.contains("No space left") || error.contains("Disk quota exceeded")
}

/// Writes a small file whole or not at all, and so that it is there after a power cut: temporary file, fsync, rename, fsync
/// of the directory. Its owner alone can read it.
///
/// # Errors
/// When it cannot be written.
pub(crate) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = Path::new(&temporary);
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
///
/// # Errors
/// When the disk fails.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether there is nothing in a directory, or no directory.
///
/// # Errors
/// When it cannot be listed.
pub(crate) fn is_empty(path: &Path) -> io::Result<bool> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

/// How large a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// For those who are not root.
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// The space of the file system that holds `path`.
///
/// # Errors
/// When the system does not tell.
pub(crate) fn space(path: &Path) -> io::Result<Space> {
    let about = rustix::fs::statvfs(path)?;
    Ok(Space {
        free_bytes: about.f_bavail.saturating_mul(about.f_frsize),
        total_bytes: about.f_blocks.saturating_mul(about.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_disk_is_full_for_the_node_when_its_quota_is_used_up() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = format!("IO error: while appending to file: {}", io::Error::from(errno));
            assert!(says_disk_is_full(&error), "{error}");
        }
        assert!(!says_disk_is_full("IO error: Input/output error"));
    }

    #[test]
    fn a_file_is_replaced_whole_and_is_its_owners() {
        let home = tempfile::tempdir().unwrap();
        assert!(is_empty(home.path()).unwrap() && is_empty(&home.path().join("none")).unwrap());
        let path = home.path().join("file.json");
        for bytes in [&b"one"[..], b"another"] {
            write_durably(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1, "no temporary file stays");
        assert!(write_durably(&home.path().join("none/file"), b"").is_err());
        assert!(!is_empty(home.path()).unwrap() && is_empty(&path).is_err());
        assert!(space(home.path()).unwrap().total_bytes > 0);
    }
}
