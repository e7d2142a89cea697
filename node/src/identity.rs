//! Who this node is, and the directory that proves it.
//!
//! A node's word counts in elections and for durable copies, so two processes must never speak with one voice and a
//! process must never speak without its memory. Both follow from one directory: it is locked by the process that uses it,
//! and its `node.json` names the node whose log, catalog and blocks lie beside it.
//!
//! # Invariants
//!
//! - At most one process holds a [`DataDir`] of a path. The kernel drops the lock with the process, however it ends.
//! - `node.json` is written once, whole or not at all (temporary file, fsync, rename, fsync of the directory), and before
//!   any database exists. A log or a catalog without it is somebody else's, or damaged: the node does not start on it.
//!   A restored node gets it last, after its databases.
//! - The directory is its owner's alone: it holds keys.
//! - A node id is given once. A wiped directory is a new node, so nothing here ever changes an identity.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail, ensure};
use cluster::ids::NodeId;
use serde::{Deserialize, Serialize};

use crate::ballast;
use crate::credentials::TlsDir;
use crate::files;

/// What `node.json` holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    #[serde(with = "hex::serde")]
    pub cluster_id: [u8; 16],
    pub node_id: NodeId,
    /// Members and where they were when this node joined, so that it finds somebody before it knows the catalog.
    pub peers: Vec<Peer>,
    /// Random: tells this identity from another one with the same numbers, should an operator restore the wrong file.
    #[serde(with = "hex::serde")]
    pub incarnation: [u8; 16],
    /// RFC 3339.
    pub created: String,
}

/// Another node and its RPC address, `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Peer {
    pub node_id: NodeId,
    pub rpc_addr: String,
}

impl Identity {
    /// A new identity, made now.
    #[must_use]
    pub fn new(cluster_id: [u8; 16], node_id: NodeId, peers: Vec<Peer>) -> Self {
        Self {
            cluster_id,
            node_id,
            peers,
            incarnation: random(),
            created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        }
    }
}

/// 128 random bits from the operating system.
#[must_use]
pub fn random_id() -> [u8; 16] {
    random()
}

/// Random bytes from the operating system.
///
/// # Panics
/// When the system has no randomness to give; nothing can be done safely then.
#[must_use]
pub fn random<const BYTES: usize>() -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)
        .expect("the kernel's random generator works once the system has booted");
    bytes
}

/// A node's directory, in use by this process alone.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

const IDENTITY_FILE: &str = "node.json";
const LOCK_FILE: &str = "lock";
const PID_FILE: &str = "pid";
const REMOVED_FILE: &str = "removed";

/// What [`crate::restore::recover`] makes in a new directory and removes in the end: the catalog as it is put together, and the
/// backup of it.
pub(crate) const SALVAGED_DIR: &str = "salvaged";
pub(crate) const RECOVERED_FILE: &str = "recovered.backup";

/// All that a node has in its directory, its configuration where people keep it beside the data (as `reelraft dev` does), and
/// what a file system may have in its root.
const ENTRIES: [&str; 14] = [
    IDENTITY_FILE,
    LOCK_FILE,
    PID_FILE,
    REMOVED_FILE,
    SALVAGED_DIR,
    RECOVERED_FILE,
    "admin.sock",
    ballast::FILE,
    "content",
    "lost+found",
    "node.toml",
    "raft",
    "state",
    "tls",
];

impl DataDir {
    /// Makes the directory if need be and takes it for this process. Writes the process id to `pid` in it.
    ///
    /// # Errors
    /// When another process has it, or when it cannot be written.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        refuse_foreign(path)?;
        fs::create_dir_all(path)
            .with_context(|| format!("create {}{}", path.display(), whose(path)))?;
        let path = path.canonicalize().with_context(|| format!("resolve {}", path.display()))?;
        // The catalog has the key of the cluster's authority: whoever can read it can become a member.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("keep {} from other users", path.display()))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .with_context(|| format!("open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(path.join(PID_FILE)).unwrap_or_default();
                bail!(
                    "{} is in use by another node process (pid {}): stop it, or choose another data_dir",
                    path.display(),
                    if holder.trim().is_empty() { "unknown" } else { holder.trim() }
                );
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("lock {}", lock_path.display()));
            }
        }
        let dir = Self { path, _lock: lock };
        ballast::make_way(&dir.path);
        dir.write(PID_FILE, format!("{}\n", std::process::id()).as_bytes())?;
        Ok(dir)
    }

    /// As [`Self::open`], for a directory that has to be there: a slip of the pen must not make one.
    ///
    /// # Errors
    /// As there, and when it is not there.
    pub fn open_present(path: &Path) -> anyhow::Result<Self> {
        ensure!(path.is_dir(), "there is no directory {}", path.display());
        Self::open(path)
    }

    /// Whether a node has ever used this directory. Others have files called `lock` too, but something else beside them.
    #[must_use]
    pub fn is_one(path: &Path) -> bool {
        let is_file = |name| {
            fs::symlink_metadata(path.join(name)).is_ok_and(|about: fs::Metadata| about.is_file())
        };
        is_file(IDENTITY_FILE)
            || is_file(REMOVED_FILE)
            || is_file(LOCK_FILE) && foreign_entry(path).is_ok_and(|foreign| foreign.is_none())
    }

    /// Whether it says which node it belongs to.
    #[must_use]
    pub fn has_identity(path: &Path) -> bool {
        path.join(IDENTITY_FILE).exists()
    }

    /// Why the node of this directory must not run any more, if that is so.
    #[must_use]
    pub fn ended_because(path: &Path) -> Option<String> {
        let text = fs::read_to_string(path.join(REMOVED_FILE)).ok()?;
        Some(text.trim().to_owned())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Log and vote.
    #[must_use]
    pub fn raft(&self) -> PathBuf {
        self.path.join("raft")
    }

    /// The catalog.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.path.join("state")
    }

    /// Blocks.
    #[must_use]
    pub fn content(&self) -> PathBuf {
        self.path.join("content")
    }

    /// Who this node is; `None` when it has never belonged to a cluster.
    ///
    /// # Errors
    /// When the file is damaged, or missing although there are databases.
    pub fn identity(&self) -> anyhow::Result<Option<Identity>> {
        let path = self.path.join(IDENTITY_FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.refuse_orphans()?;
                return Ok(None);
            }
            Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
        };
        ensure!(
            !is_from_before_certificates(&text),
            "{} is of a cluster that was made before nodes had certificates, which this version cannot continue: move the data \
             directories of its nodes away and make a new cluster",
            path.display()
        );
        let identity: Identity = serde_json::from_slice(&text).with_context(|| {
            format!(
                "{} is damaged: restore it from a backup, or move the directory away and let the node join as a new one",
                path.display()
            )
        })?;
        ensure!(identity.node_id.0 != 0, "{} gives node id 0, which no node has", path.display());
        Ok(Some(identity))
    }

    /// Makes this node `identity`, durably. The same identity again is no error.
    ///
    /// # Errors
    /// When it is somebody else already, or cannot write.
    pub fn adopt(&self, identity: &Identity) -> anyhow::Result<()> {
        if let Some(present) = self.identity()? {
            ensure!(
                present.cluster_id == identity.cluster_id && present.node_id == identity.node_id,
                "this node is node {} of cluster {} already",
                present.node_id,
                hex::encode(present.cluster_id)
            );
            return Ok(());
        }
        self.write_identity(identity)
    }

    /// Makes this node `identity`, durably, whose databases are there already: a restored catalog was put there for it.
    ///
    /// # Errors
    /// When it is somebody already, or cannot write.
    pub fn adopt_restored(&self, identity: &Identity) -> anyhow::Result<()> {
        let path = self.path.join(IDENTITY_FILE);
        ensure!(!path.exists(), "{} is there already", path.display());
        self.write_identity(identity)
    }

    fn write_identity(&self, identity: &Identity) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec_pretty(identity).context("encode the identity")?;
        text.push(b'\n');
        self.write(IDENTITY_FILE, &text)
    }

    /// What the node proves itself with.
    #[must_use]
    pub fn tls(&self) -> TlsDir {
        TlsDir::new(self.path.join("tls"))
    }

    /// Refuses to go on with a node that was removed from its cluster.
    ///
    /// # Errors
    /// When it was.
    pub fn refuse_removed(&self) -> anyhow::Result<()> {
        let path = self.path.join(REMOVED_FILE);
        match fs::read_to_string(&path) {
            Ok(text) => bail!("{}", text.trim()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Writes down that the cluster has removed this node: from now on it refuses to start.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_removed(&self, identity: &Identity) -> anyhow::Result<()> {
        self.write(REMOVED_FILE, removed_text(identity).as_bytes())
    }

    /// Writes down that `new`, the first node of another cluster in the directory `at`, goes on with what this node `old` had:
    /// from now on this one refuses to start, even when its machine does so by itself.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn mark_continued(&self, old: &Identity, new: &Identity, at: &Path) -> anyhow::Result<()> {
        let text = format!(
            "what this node, node {} of cluster {}, had went on in {} as node {} of cluster {}, so it must never start again: start \
             that one, or move this directory away",
            old.node_id,
            hex::encode(old.cluster_id),
            at.display(),
            new.node_id,
            hex::encode(new.cluster_id)
        );
        self.write(REMOVED_FILE, text.as_bytes())
    }

    /// Takes back what [`DataDir::open`] wrote for others to read. The lock goes when the value does.
    pub fn close(&self) {
        // Whoever finds a stale pid sees that there is no such process: not worth an error at the end of a clean stop.
        let _ = fs::remove_file(self.path.join(PID_FILE));
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        files::write_durably(&path, bytes).with_context(|| format!("write {}", path.display()))
    }

    /// A log or a catalog that is nobody's. Blocks may be: they name themselves, and each is verified when it is read, so a node
    /// that comes back as a new one can bring its copies along.
    fn refuse_orphans(&self) -> anyhow::Result<()> {
        for database in [self.raft(), self.state()] {
            let empty = files::is_empty(&database)
                .with_context(|| format!("list {}", database.display()))?;
            ensure!(
                empty,
                "{} holds data but {} is missing, so nobody knows whose it is: restore the file from a backup, or move the \
                 directory away and let the node join as a new one",
                database.display(),
                self.path.join(IDENTITY_FILE).display()
            );
        }
        Ok(())
    }
}

/// A directory that has been something else so far: a slip of the pen must not take it away from other users and fill it.
fn refuse_foreign(path: &Path) -> anyhow::Result<()> {
    if DataDir::is_one(path) {
        return Ok(());
    }
    let foreign = match foreign_entry(path) {
        Ok(foreign) => foreign,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(error)
                .with_context(|| format!("look into {}{}", path.display(), whose(path)));
        }
    };
    if let Some(name) = foreign {
        bail!(
            "{} is no data directory: {} in it is not a node's. Choose an empty or a new one (--data-dir, data_dir)",
            path.display(),
            name.display()
        );
    }
    Ok(())
}

/// Something in a directory that no node has put there.
fn foreign_entry(path: &Path) -> io::Result<Option<OsString>> {
    for entry in fs::read_dir(path)? {
        let name = entry?.file_name();
        let whole = Path::new(&name);
        // What was being written when the process ended ([`files::write_durably`]).
        let temporary = whole.extension().is_some_and(|extension| extension == "tmp");
        let meant = if temporary { whole.with_extension("") } else { whole.to_owned() };
        if !ENTRIES.iter().any(|known| meant.as_os_str() == *known) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// Who would have to start the node on this directory, where that is somebody else.
fn whose(path: &Path) -> String {
    let owner = path.ancestors().find_map(|path| fs::metadata(path).ok()).map(|about| about.uid());
    let me = rustix::process::getuid().as_raw();
    match owner {
        Some(owner) if owner != me => {
            format!(" as user {me} (user {owner} owns it or what is above it)")
        }
        Some(_) | None => String::new(),
    }
}

/// What a removed node says, now and whenever it is started again.
#[must_use]
pub fn removed_text(identity: &Identity) -> String {
    format!(
        "this node, node {} of cluster {}, was removed from its cluster and can never come back: to use this machine again, move \
         the data directory away and let it join as a new node",
        identity.node_id,
        hex::encode(identity.cluster_id)
    )
}

/// Whether a `node.json` lists the addresses of founders, as it did before nodes joined with certificates.
fn is_from_before_certificates(text: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(text)
        .is_ok_and(|value| value.get("members").is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        let peer = Peer { node_id: NodeId(1), rpc_addr: "a:1".to_owned() };
        Identity::new([7; 16], NodeId(2), vec![peer])
    }

    #[test]
    fn an_identity_survives_and_stays() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        let mode = fs::metadata(home.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        assert_eq!(dir.identity().unwrap(), None);
        let identity = identity();
        dir.adopt(&identity).unwrap();
        dir.adopt(&Identity::new([7; 16], NodeId(2), identity.peers.clone())).unwrap();
        drop(dir);

        let dir = DataDir::open(home.path()).unwrap();
        assert_eq!(dir.identity().unwrap(), Some(identity.clone()));
        for other in [
            Identity { cluster_id: [8; 16], ..identity.clone() },
            Identity { node_id: NodeId(3), ..identity.clone() },
        ] {
            assert!(dir.adopt(&other).is_err());
        }
        assert_eq!(dir.identity().unwrap(), Some(identity));
    }

    #[test]
    fn a_directory_has_one_user() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        let error = DataDir::open(home.path()).unwrap_err().to_string();
        assert!(error.contains("in use"), "{error}");
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        dir.close();
        drop(dir);
        DataDir::open(home.path()).unwrap();
    }

    #[test]
    fn databases_without_an_identity_are_not_touched() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        fs::create_dir(dir.state()).unwrap();
        assert_eq!(dir.identity().unwrap(), None, "an empty directory is no database");
        fs::write(dir.state().join("CURRENT"), "MANIFEST-000001\n").unwrap();
        let error = dir.identity().unwrap_err().to_string();
        assert!(error.contains("node.json is missing"), "{error}");
        assert!(dir.adopt(&identity()).is_err());
    }

    #[test]
    fn a_directory_of_something_else_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let site = home.path().join("site");
        fs::create_dir_all(site.join("content")).unwrap();
        fs::set_permissions(&site, fs::Permissions::from_mode(0o755)).unwrap();
        // The blocks of a node that was lost, and nothing else.
        drop(DataDir::open(&site).unwrap());
        assert!(DataDir::is_one(&site));
        fs::remove_file(site.join(LOCK_FILE)).unwrap();
        fs::remove_file(site.join(PID_FILE)).unwrap();
        fs::set_permissions(&site, fs::Permissions::from_mode(0o755)).unwrap();

        fs::write(site.join("index.html"), "a web site").unwrap();
        let error = DataDir::open(&site).unwrap_err().to_string();
        assert!(error.contains("is no data directory: index.html"), "{error}");
        assert_eq!(mode(&site), 0o755, "and nothing was changed");
        // Others lock their directories too.
        fs::write(site.join(LOCK_FILE), "").unwrap();
        assert!(!DataDir::is_one(&site));
        assert!(DataDir::open(&site).is_err());
        assert_eq!(mode(&site), 0o755);
        // A node's own directory may have something else in it too, also when the node was removed.
        for proof in [IDENTITY_FILE, REMOVED_FILE] {
            fs::write(site.join(proof), "").unwrap();
            assert!(DataDir::is_one(&site), "{proof}");
            drop(DataDir::open(&site).unwrap());
            assert_eq!(mode(&site), 0o700);
            fs::remove_file(site.join(proof)).unwrap();
        }
    }

    #[test]
    fn what_a_crash_leaves_is_still_a_nodes() {
        let home = tempfile::tempdir().unwrap();
        drop(DataDir::open(home.path()).unwrap());
        for left in ["node.json.tmp", "pid.tmp", SALVAGED_DIR, RECOVERED_FILE] {
            fs::write(home.path().join(left), "").unwrap();
        }
        assert!(DataDir::is_one(home.path()));
        fs::write(home.path().join("letter.tmp"), "").unwrap();
        assert!(!DataDir::is_one(home.path()));
    }

    #[test]
    fn a_removed_node_stays_removed_and_says_so() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        dir.refuse_removed().unwrap();
        dir.mark_removed(&identity()).unwrap();
        let error = dir.refuse_removed().unwrap_err().to_string();
        assert!(error.contains("node 2") && error.contains("was removed"), "{error}");
    }

    #[test]
    fn a_node_from_before_there_were_certificates_is_told_from_a_damaged_one() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        let text = r#"{"cluster_id": "07", "node_id": 1, "members": ["a:1"]}"#;
        fs::write(home.path().join("node.json"), text).unwrap();
        let error = dir.identity().unwrap_err().to_string();
        assert!(error.contains("before nodes had certificates"), "{error}");
    }

    #[test]
    fn a_damaged_identity_is_an_error() {
        let home = tempfile::tempdir().unwrap();
        let dir = DataDir::open(home.path()).unwrap();
        for text in ["", "{", "{\"node_id\": 1}"] {
            fs::write(home.path().join("node.json"), text).unwrap();
            let error = format!("{:#}", dir.identity().unwrap_err());
            assert!(error.contains("damaged"), "{error}");
        }
    }
}
