//! Which database directory is in use, and moving files so that a crash leaves all or nothing.
//!
//! Below the root lie `active`, a file with the name of the directory in use, and that directory, `db-N`. Other `db-*`
//! directories are leftovers of a replacement that a crash cut off and are removed at the start.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::StateError;
use crate::files::{sync_directory, write_durably};

/// The directory of a new catalog.
pub(super) const FIRST: &str = "db-1";

const PREFIX: &str = "db-";
const ACTIVE: &str = "active";

/// The name after that of the directory `path`.
pub(super) fn successor(path: &Path) -> String {
    let number = path.file_name().and_then(|name| number(name.to_str()?)).unwrap_or(0);
    format!("{PREFIX}{}", number + 1)
}

fn number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// The directory in use; `None` for a new catalog.
pub(super) fn read_active(root: &Path) -> Result<Option<String>, StateError> {
    let path = root.join(ACTIVE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let name = text.trim_end();
            if number(name).is_none() {
                return Err(StateError::Open {
                    path,
                    reason: format!("it names {name:?} as the catalog in use"),
                });
            }
            Ok(Some(name.to_owned()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateError::io("read", &path)(error)),
    }
}

/// Makes `name` the directory in use.
pub(super) fn write_active(root: &Path, name: &str) -> Result<(), StateError> {
    let path = root.join(ACTIVE);
    write_durably(&path, format!("{name}\n").as_bytes()).map_err(StateError::io("write", &path))
}

/// Removes the databases that are not in use.
pub(super) fn remove_others(root: &Path, active: &str) -> Result<(), StateError> {
    for entry in fs::read_dir(root).map_err(StateError::io("list", root))? {
        let entry = entry.map_err(StateError::io("list", root))?;
        let is_other =
            entry.file_name().to_str().is_some_and(|name| number(name).is_some() && name != active);
        if is_other {
            let path = entry.path();
            tracing::info!(path = %path.display(), "removing a catalog that is not in use");
            fs::remove_dir_all(&path).map_err(StateError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes the names in a directory durable.
fn sync(path: &Path) -> Result<(), StateError> {
    sync_directory(path).map_err(StateError::io("sync", path))
}

/// Makes the directory `to` with the files of `from` in it, durably.
pub(crate) fn link_or_copy_all(from: &Path, to: &Path) -> Result<(), StateError> {
    fs::create_dir_all(to).map_err(StateError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(StateError::io("list", from))? {
        let source = entry.map_err(StateError::io("list", from))?.path();
        let Some(name) = source.file_name() else { continue };
        link_or_copy(&source, &to.join(name))?;
    }
    sync(to)?;
    sync(to.parent().unwrap_or(Path::new(".")))
}

/// Makes the file `to` with the content of `from`; its name is not durable yet. Sorted files never change and are linked
/// where the file system can; everything else is copied.
pub(crate) fn link_or_copy(from: &Path, to: &Path) -> Result<(), StateError> {
    let never_changes = to.extension().or(from.extension()).is_some_and(|kind| kind == "sst");
    if never_changes && fs::hard_link(from, to).is_ok() {
        return Ok(());
    }
    fs::copy(from, to).map_err(StateError::io("copy", from))?;
    File::open(to).and_then(|file| file.sync_all()).map_err(StateError::io("sync", to))
}
