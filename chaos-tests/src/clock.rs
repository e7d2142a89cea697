//! Wall clocks that are wrong, each for one node alone.
//!
//! A [`Clock`] belongs to one node and can be set while that runs. What only counts how much time passes (`CLOCK_MONOTONIC`)
//! stays as it is, as it does when somebody sets the clock of a machine.
//!
//! # Why not a library
//!
//! Linux can shift what counts the time since its start in a namespace, but not the wall clock. `libfaketime` does that,
//! and cannot be loaded here: it looks for functions when it is first asked for the time, which allocates, and jemalloc asks
//! for the time while it makes its first arena. What is left is `clock/preload.c`, which replaces four functions of the C
//! library and is compiled when a test needs it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Replaces the functions that tell the time.
const PRELOAD: &str = include_str!("clock/preload.c");

/// The compiler that building a node needs as well.
const COMPILER: &str = "clang";

/// The wall clock of one node.
#[derive(Debug)]
pub struct Clock {
    preload: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// One that is right, until it is set. What it consists of is put into `folder`.
    ///
    /// # Errors
    /// When that cannot be compiled.
    pub fn new(folder: &Path) -> Result<Self> {
        let clock = Self { preload: folder.join("clock.so"), offset: folder.join("clock") };
        std::fs::write(&clock.offset, 0_i64.to_ne_bytes()).context("make a clock")?;
        let mut compiler = Command::new(COMPILER)
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-x", "c", "-", "-o"])
            .arg(&clock.preload)
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {COMPILER} (is it installed?)"))?;
        let mut input = compiler.stdin.take().context("speak to the compiler")?;
        input.write_all(PRELOAD.as_bytes())?;
        drop(input);
        let status = compiler.wait()?;
        ensure!(status.success(), "{COMPILER} could not compile a wrong clock: {status}");
        Ok(clock)
    }

    /// Sets it to so many seconds ahead of the right time, or behind it if negative.
    ///
    /// # Errors
    /// When the file in which it is noted is gone.
    pub fn set(&self, ahead_seconds: i64) -> Result<()> {
        // In place: whoever has it mapped must never find it empty.
        let file = File::options().write(true).open(&self.offset)?;
        file.write_all_at(&ahead_seconds.to_ne_bytes(), 0).context("set a clock")
    }

    /// Under which variables a process goes by it.
    pub(crate) fn variables(&self) -> [(&'static str, &Path); 2] {
        [("LD_PRELOAD", &self.preload), ("WRONG_CLOCK", &self.offset)]
    }
}
