//! The child process alone: what a node starts for each job, with its two pipes. Used by the tests of the sandbox.

use std::process::ExitCode;

fn main() -> ExitCode {
    transcoder::worker::main(&transcoder::sandbox::Limits::default())
}
