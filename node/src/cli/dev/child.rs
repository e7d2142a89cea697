//! One node process: spawned, listened to, stopped.

use std::process::{ExitStatus, Stdio};

use anyhow::Context;
use futures::future::select_all;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::layout::Node;
use crate::cli::output;

/// A node process that this process has started.
#[derive(Debug)]
pub(super) struct Child {
    number: usize,
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
    /// Whether [`next_exit`] has told of its end.
    reported: bool,
}

/// How a process was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    ByItself,
    Killed,
}

impl Child {
    /// Starts `reelraft serve` for `node` and passes its output on, with the node's name in front of each line.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub(super) fn spawn(node: &Node) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("find this program's own file")?;
        let mut process = Command::new(&program)
            .arg("serve")
            .arg("--config")
            .arg(node.config_file())
            .arg("--stop-with-parent")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C in a terminal goes to a whole process group; here the supervisor alone decides when to stop.
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let pid = process
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .and_then(Pid::from_raw)
            .context("a process that was just started has an id")?;
        let prefix = output::node_prefix(node.number);
        if let Some(stdout) = process.stdout.take() {
            tokio::spawn(pass_on(prefix.clone(), stdout));
        }
        if let Some(stderr) = process.stderr.take() {
            tokio::spawn(pass_on(prefix, stderr));
        }
        let (ended, exit) = watch::channel(None);
        tokio::spawn(async move {
            match process.wait().await {
                Ok(status) => drop(ended.send(Some(status))),
                Err(error) => output::note(&format!("cannot wait for a node process: {error}")),
            }
        });
        Ok(Self { number: node.number, pid, exit, reported: false })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Asks it to stop.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits until it has ended; kills it at the deadline.
    pub(super) async fn wait(&mut self, deadline: Instant) -> Stopped {
        if timeout_at(deadline, self.exit.wait_for(Option::is_some)).await.is_ok() {
            return Stopped::ByItself;
        }
        self.signal(Signal::KILL);
        // A process that was killed ends; the kernel alone decides when.
        let _ = self.exit.wait_for(Option::is_some).await;
        Stopped::Killed
    }

    fn signal(&self, signal: Signal) {
        // Once it has been waited for, its number may belong to somebody else.
        if self.exited().is_none() {
            // It may have ended this moment: then there is nothing to do.
            let _ = kill_process(self.pid, signal);
        }
    }
}

/// The number and status of the next child that ends; each is told of once. Never returns when all have been.
pub(super) async fn next_exit(children: &mut [Child]) -> (usize, ExitStatus) {
    let waiting: Vec<_> = children
        .iter_mut()
        .filter(|child| !child.reported)
        .map(|child| {
            Box::pin(async move {
                let status =
                    child.exit.wait_for(Option::is_some).await.ok().and_then(|status| *status);
                match status {
                    Some(status) => {
                        child.reported = true;
                        (child.number, status)
                    }
                    None => std::future::pending().await,
                }
            })
        })
        .collect();
    if waiting.is_empty() {
        return std::future::pending().await;
    }
    select_all(waiting).await.0
}

/// A node's lines are as long as its log events. Reads to the end whatever comes: a full pipe would stop the node.
async fn pass_on(prefix: String, stream: impl AsyncRead + Unpin) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while let Ok(1..) = reader.read_until(b'\n', &mut line).await {
        output::prefixed(&prefix, String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}
