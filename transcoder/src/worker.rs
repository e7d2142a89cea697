//! The child process that runs libav, and what it says to its parent.
//!
//! The parent starts the child with two pipes, sends one [`ToChild::Start`], answers the child's reads of the source, and
//! takes outputs until [`FromChild::Done`] or [`FromChild::Failed`]. Then the child exits; a process never does two jobs,
//! so nothing that a hostile file did to it outlives the job.
//!
//! The parent must go on reading while it writes: the child answers nothing while its own output is not taken, and both
//! pipes are short. The frames are encoded and decoded without I/O ([`frame`]), so that an asynchronous parent can drive
//! them; the child's end is blocking, in [`serve`].

pub mod frame;
mod remote;

use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use crate::error::{Code, Failure};
use crate::job::{Output, Sink};
use crate::sandbox;

pub use frame::{FrameBuffer, FromChild, ProtocolError, SourceState, ToChild};

/// The whole life of the child process: loads what libav loads lazily, enters the sandbox, does the job that arrives on
/// standard input and exits.
///
/// The exit code says only whether the conversation came to its end; the outcome of the job is in the last frame.
pub fn main(limits: &sandbox::Limits) -> ExitCode {
    crate::load_libraries();
    let report = match sandbox::enter(limits) {
        Ok(report) => report,
        Err(error) => {
            let failure =
                Failure::new(Code::Internal, format!("cannot enter the sandbox: {error}"));
            return exit_code(send(&mut io::stdout(), &FromChild::Failed(failure)));
        }
    };
    let mut stdout = io::stdout();
    let served =
        send(&mut stdout, &FromChild::Sandbox(report)).and_then(|()| serve(io::stdin(), stdout));
    exit_code(served)
}

fn exit_code(result: io::Result<()>) -> ExitCode {
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Takes one job from `input`, does it, and says on `output` how it went.
///
/// # Errors
/// When a pipe broke or the parent did not keep to the protocol.
pub fn serve<R, W>(mut input: R, output: W) -> io::Result<()>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    let ToChild::Start { job, source } = frame::read(&mut input)? else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the first frame is not a job"));
    };
    let output = Arc::new(Mutex::new(output));
    let source = remote::RemoteSource::new(input, Arc::clone(&output), source);
    let mut sink = PipeSink { output: Arc::clone(&output) };
    let last = match crate::run(&job, source, &mut sink) {
        Ok(()) => FromChild::Done,
        Err(failure) => FromChild::Failed(failure),
    };
    let mut output = output.lock().expect("the job's threads have ended without a panic");
    send(&mut *output, &last)
}

fn send<W: Write>(output: &mut W, frame: &FromChild) -> io::Result<()> {
    output.write_all(&frame::encode(frame)?)?;
    output.flush()
}

struct PipeSink<W> {
    output: Arc<Mutex<W>>,
}

impl<W: Write> Sink for PipeSink<W> {
    fn put(&mut self, output: Output) -> io::Result<()> {
        let bytes = frame::encode(&FromChild::Output(output))?;
        let mut pipe = self.output.lock().map_err(|_| io::Error::other("a thread panicked"))?;
        pipe.write_all(&bytes)?;
        pipe.flush()
    }
}
