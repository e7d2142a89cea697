//! The programs that we compare ourselves with, started for the time of one measurement.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::faults::{Fault, inflict};
use chaos_tests::wait;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// A peer that was started has to answer within this time.
pub(crate) const UP_WITHIN: Duration = Duration::from_secs(20);

/// A peer that was asked to end is given this long.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// A running peer; ends when dropped.
pub(crate) struct Peer {
    pub(crate) url: String,
    child: Child,
    _folder: TempDir,
}

impl Drop for Peer {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}

/// Ends a peer. Asks first: nginx takes its workers along only when it is asked.
pub(crate) fn terminate(child: &mut Child) {
    let Some(process) = child.id() else { return };
    // It may have ended by itself; what is left after the wait is killed when the child is dropped.
    let _ = inflict(Fault::Terminate, process);
    let deadline = Instant::now() + GONE_WITHIN;
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn free_ports<const N: usize>() -> Result<[u16; N]> {
    let held: Vec<_> =
        (0..N).map(|_| std::net::TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&held) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}

pub(crate) fn spawn(program: &str, args: &[String], folder: &Path) -> Result<Child> {
    Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.join("errors"))?)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {program} (`make bench` installs it)"))
}

/// nginx as for static files: sendfile, two workers, keep-alive.
pub(crate) async fn nginx(root: &Path) -> Result<Peer> {
    let folder = TempDir::with_prefix("reelraft-nginx-")?;
    let [port] = free_ports()?;
    let config = format!(
        "daemon off; master_process on; user root; worker_processes 2; pid {0}/pid; error_log {0}/error.log;\n\
         events {{ worker_connections 512; }}\n\
         http {{ access_log off; sendfile on; tcp_nopush on; tcp_nodelay on; keepalive_requests 1000000;\n\
         client_body_temp_path {0}/b; proxy_temp_path {0}/p; fastcgi_temp_path {0}/f; uwsgi_temp_path {0}/u; scgi_temp_path {0}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {1}; }} }}\n",
        folder.path().display(),
        root.display()
    );
    let file = folder.path().join("nginx.conf");
    std::fs::write(&file, config)?;
    let child = spawn("nginx", &["-c".to_owned(), file.display().to_string()], folder.path())?;
    let url = format!("http://127.0.0.1:{port}");
    up(&url).await?;
    Ok(Peer { url, child, _folder: folder })
}

async fn up(url: &str) -> Result<()> {
    wait::until(&format!("{url} answers"), UP_WITHIN, async || {
        reqwest::get(url).await?;
        Ok(Some(()))
    })
    .await
}

/// What the FFmpeg command used, and when it had something to show.
pub(crate) struct Encoding {
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// From the start until `appears` existed.
    pub(crate) first: Option<Duration>,
}

/// Runs the FFmpeg command line and looks when a file appears.
pub(crate) async fn ffmpeg(args: &[String], appears: Option<&Path>) -> Result<Encoding> {
    let before = measure_children()?;
    let start = Instant::now();
    let mut child = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y"])
        .args(args)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .context("start ffmpeg (is it installed?)")?;
    let mut first = None;
    let status = loop {
        if first.is_none() && appears.is_some_and(Path::exists) {
            first = Some(start.elapsed());
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    ensure!(status.success(), "ffmpeg ended with {status}");
    Ok(Encoding { wall: start.elapsed(), cpu: measure_children()?.saturating_sub(before), first })
}

/// Processor time of this process's ended children.
fn measure_children() -> Result<Duration> {
    crate::measure::children_cpu(std::process::id())
}
