//! What can happen to a process.

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A fault that is done to a running node from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `SIGKILL`: the process ends between two instructions.
    Kill,
    /// `SIGSTOP`: the process is there but does nothing, as in a long pause of the machine.
    Pause,
    /// `SIGCONT`: the end of a pause.
    Resume,
    /// `SIGTERM`: an operator stops it.
    Terminate,
}

/// Does it to the process with this id, which the caller started.
///
/// # Errors
/// When there is no such process any more.
pub fn inflict(fault: Fault, process: u32) -> Result<()> {
    let signal = match fault {
        Fault::Kill => Signal::SIGKILL,
        Fault::Pause => Signal::SIGSTOP,
        Fault::Resume => Signal::SIGCONT,
        Fault::Terminate => Signal::SIGTERM,
    };
    let pid = i32::try_from(process).context("read process id")?;
    kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {process}"))
}
