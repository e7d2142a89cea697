//! The socket in a node's directory, through which its operator speaks to it.
//!
//! Whoever may open the socket is an operator: it is readable and writable for its owner alone, from the moment that it
//! exists. No secret has to be kept for it, and nobody comes through it from another machine.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use hyper_util::rt::TokioIo;
use rustix::fs::{Mode, fchmod};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

use super::accept::NO_ROOM_PAUSE;
use crate::identity::DataDir;

/// The socket's name in the data directory.
const SOCKET_FILE: &str = "admin.sock";

/// The longest path of a socket, in bytes (`sun_path` without its terminator, unix(7)).
const PATH_BYTES_MAX: usize = 107;

/// How many operators may wait to be answered.
const BACKLOG: u32 = 16;

/// Where the socket of the node in `data_dir` is.
#[must_use]
pub fn path_in(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET_FILE)
}

/// Opens the socket of the node in `data_dir`, which must be in use by this process alone: a socket that is there already
/// belongs to a process that has ended.
///
/// # Errors
/// When the path is too long for a socket, or cannot be written.
pub fn bind(data_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = path_in(data_dir);
    check_length(&path)?;
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("replace {}", path.display()));
        }
    }
    let listen = || -> io::Result<UnixListener> {
        let socket = UnixSocket::new_stream()?;
        // Before it has a name: so there is no moment at which others can open it.
        fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        socket.bind(&path)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("listen on {}", path.display()))
}

/// Takes the socket away. One that stays behind harms nobody.
pub fn unbind(data_dir: &Path) {
    let _ = std::fs::remove_file(path_in(data_dir));
}

/// Serves `services` on the socket until `stop` is cancelled.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(
    listener: UnixListener,
    services: Routes,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let connections = futures::stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok::<_, io::Error>(stream), listener)),
                Err(error) => {
                    // Too many files are open, perhaps: not the end, and no reason to ask again at once.
                    tracing::debug!(%error, "accept an operator's connection");
                    tokio::time::sleep(NO_ROOM_PAUSE).await;
                }
            }
        }
    });
    super::serve_connections(connections, services, stop).await
}

/// A connection to the node that runs on `data_dir`.
///
/// # Errors
/// When none does, or this user may not speak to it.
pub async fn connect(data_dir: &Path) -> anyhow::Result<Channel> {
    let path = path_in(data_dir);
    check_length(&path)?;
    let stream = UnixStream::connect(&path).await.map_err(|error| {
        let nobody = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        if nobody.contains(&error.kind()) {
            anyhow::anyhow!("no node runs on {}", nobody_because(data_dir))
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            anyhow::anyhow!("{}: {}", path.display(), not_yours(data_dir))
        } else {
            let speaking = format!("speak to the node through {}", path.display());
            anyhow::Error::new(error).context(speaking)
        }
    })?;
    let mut stream = Some(TokioIo::new(stream));
    let once = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take().ok_or(io::ErrorKind::ConnectionReset);
        async move { stream.map_err(io::Error::from) }
    });
    super::endpoint("local")
        .context("describe the connection")?
        .connect_with_connector(once)
        .await
        .with_context(|| format!("speak to the node through {}", path.display()))
}

/// Which directory no node runs on, and what to do: the operator may have named the wrong one, and a node that is started on
/// it by mistake would be a new one.
fn nobody_because(data_dir: &Path) -> String {
    const NAME_IT: &str =
        "`--data-dir` or REELRAFT_DATA_DIR names the data directory of a node on this machine";
    let dir = data_dir.display();
    if !data_dir.exists() {
        format!("{dir}: there is no such directory; {NAME_IT}")
    } else if !DataDir::is_one(data_dir) {
        format!("{dir}: it is no data directory; {NAME_IT}")
    } else if let Some(why) = DataDir::ended_because(data_dir) {
        format!("{dir}: {why}; {NAME_IT}")
    } else {
        format!("{dir}: start `reelraft serve --data-dir {dir}` first")
    }
}

fn not_yours(data_dir: &Path) -> String {
    let owner = std::fs::metadata(data_dir).map(|about| about.uid());
    let me = rustix::process::getuid().as_raw();
    match owner {
        Ok(owner) => format!(
            "user {me} may not speak to this node: run this command as user {owner}, which the directory belongs to"
        ),
        Err(_) => format!(
            "user {me} may not look there: run this command as the user that the node runs as"
        ),
    }
}

fn check_length(path: &Path) -> anyhow::Result<()> {
    let length = path.as_os_str().len();
    ensure!(
        length <= PATH_BYTES_MAX,
        "the path {} has {length} bytes and a socket's can have {PATH_BYTES_MAX}: choose a shorter data_dir",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_and_replaces_that_of_a_dead_process() {
        let home = tempfile::tempdir().unwrap();
        let error = connect(home.path()).await.unwrap_err().to_string();
        assert!(error.contains("no node runs on"), "{error}");

        assert!(error.contains("is no data directory"), "{error}");
        let error = connect(&home.path().join("none")).await.unwrap_err().to_string();
        assert!(error.contains("there is no such directory"), "{error}");

        // A node's.
        std::fs::write(home.path().join("lock"), "").unwrap();
        drop(bind(home.path()).unwrap());
        let error = connect(home.path()).await.unwrap_err().to_string();
        assert!(error.contains("start `reelraft serve"), "its process is dead: {error}");
        std::fs::write(home.path().join("removed"), "it was removed").unwrap();
        let error = connect(home.path()).await.unwrap_err().to_string();
        assert!(error.contains("was removed"), "{error}");

        let listener = bind(home.path()).unwrap();
        let mode = std::fs::metadata(path_in(home.path())).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        UnixStream::connect(path_in(home.path())).await.unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_said_to_be() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("d".repeat(120));
        std::fs::create_dir(&deep).unwrap();
        let error = bind(&deep).unwrap_err().to_string();
        assert!(error.contains("choose a shorter data_dir"), "{error}");
        assert!(connect(&deep).await.is_err());
    }
}
