//! One child process that runs libav.
//!
//! The child is this same program under a hidden command. It gets two pipes and nothing else, gives up what it does not
//! need (`transcoder::sandbox`), does one job and exits. This side drives it without trusting it: frames are bounded,
//! what it prints is cut short, and dropping a [`Worker`] kills it.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tracing::{Instrument, debug, warn};
use transcoder::worker::{FrameBuffer, FromChild, ToChild, frame};

/// The hidden command.
const COMMAND: &str = "media-worker";

/// How long a child may take to read the answer to its own question.
const WRITE_WITHIN: Duration = Duration::from_secs(60);

/// Bytes taken from the pipe at a time: what a Linux pipe holds.
const PIPE_BYTES: usize = 64 * 1024;

/// What a child may print before the rest is thrown away: it prints nothing in good order, and a hostile file must not fill
/// the log.
const STDERR_LINES_MAX: usize = 50;

/// The longest line that is taken over from a child's standard error.
const STDERR_LINE_BYTES_MAX: u64 = 500;

/// How much politer than the node a worker is (`nice`): answering players and voting go before encoding.
const NICENESS: i32 = 10;

/// The life of the child process: what the hidden command does.
#[must_use]
pub fn main() -> ExitCode {
    // If the node dies, so does its worker; the end of the pipes would tell it only after the current segment.
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        tracing::debug!(%error, "ask to die with the parent");
    }
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "lower the priority");
    }
    transcoder::worker::main(&transcoder::sandbox::Limits::default())
}

/// A running child.
pub(super) struct Worker {
    // Killed when dropped.
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    frames: FrameBuffer,
    portion: Box<[u8]>,
}

impl Worker {
    /// Starts a child. It waits for its job.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(COMMAND)
            // Nothing of the node's environment, which may hold secrets, and no hold on its directory.
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let input = child.stdin.take().context("take the child's input")?;
        let output = child.stdout.take().context("take the child's output")?;
        let errors = child.stderr.take().context("take the child's errors")?;
        tokio::spawn(log_errors(errors).in_current_span());
        let portion = vec![0; PIPE_BYTES].into_boxed_slice();
        Ok(Self { child, input, output, frames: FrameBuffer::default(), portion })
    }

    /// Sends a frame.
    pub(super) async fn send(&mut self, message: &ToChild) -> Result<()> {
        let bytes = frame::encode(message).context("encode a frame")?;
        self.write(&bytes).await
    }

    /// Answers a read, without copying the bytes into a frame first.
    pub(super) async fn send_data(&mut self, bytes: Bytes) -> Result<()> {
        let header = frame::data_header(bytes.len()).context("encode a frame")?;
        self.write(&header).await?;
        self.write(&bytes).await
    }

    /// A child in good order takes what it asked for at once.
    async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        tokio::time::timeout(WRITE_WITHIN, self.input.write_all(bytes))
            .await
            .with_context(|| format!("the worker took nothing for {WRITE_WITHIN:?}"))?
            .context("write to the worker")
    }

    /// The next thing that the child says. Can be cancelled without losing anything.
    pub(super) async fn receive(&mut self) -> Result<FromChild> {
        loop {
            if let Some(message) = self.frames.take().context("understand the worker")? {
                return Ok(message);
            }
            let read = self.output.read(&mut self.portion).await.context("read from the worker")?;
            if read == 0 {
                let status = self.child.wait().await.context("wait for the worker")?;
                bail!("the worker ended in the middle of its job: {status}");
            }
            self.frames.feed(&self.portion[..read]);
        }
    }
}

async fn log_errors(errors: ChildStderr) {
    let mut reader = BufReader::new(errors);
    for _ in 0..STDERR_LINES_MAX {
        let mut line = Vec::new();
        let mut limited = (&mut reader).take(STDERR_LINE_BYTES_MAX);
        match limited.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => warn!(line = %String::from_utf8_lossy(&line).trim_end(), "worker"),
            Err(error) => {
                debug!(%error, "read what the worker prints");
                return;
            }
        }
    }
    // Go on reading, so that the child does not block on a full pipe.
    if let Err(error) = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await {
        debug!(%error, "read what the worker prints");
    }
}
