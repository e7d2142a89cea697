//! The child process: it does jobs over its pipes inside the sandbox, and can do nothing else.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::Studio;
use transcoder::worker::{FrameBuffer, FromChild, SourceState, ToChild, frame};
use transcoder::{
    AudioJob, Code, CopyJob, Failure, Job, Lane, Output, PieceJob, PrepareJob, ThumbnailJob,
    sandbox,
};

fn worker() -> PathBuf {
    let this = std::env::current_exe().unwrap();
    this.ancestors().nth(2).unwrap().join("examples/worker")
}

struct Parent {
    child: Child,
    buffer: FrameBuffer,
    reads: usize,
    report: Option<sandbox::Report>,
}

impl Parent {
    fn start() -> Self {
        let child = Command::new(worker()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self {
            child: child.expect("start the worker"),
            buffer: FrameBuffer::default(),
            reads: 0,
            report: None,
        }
    }

    fn send(&mut self, message: &ToChild) {
        self.child.stdin.as_mut().unwrap().write_all(&frame::encode(message).unwrap()).unwrap();
    }

    fn receive(&mut self) -> Option<FromChild> {
        loop {
            if let Some(message) = self.buffer.take().unwrap() {
                return Some(message);
            }
            let mut portion = [0; 64 * 1024];
            match self.child.stdout.as_mut().unwrap().read(&mut portion).unwrap() {
                0 => return None,
                count => self.buffer.feed(&portion[..count]),
            }
        }
    }

    /// Starts a child, lets it do one job on these bytes, and waits for its end.
    fn work(job: Job, source: &[u8]) -> (Result<Vec<Output>, Failure>, Self) {
        let mut parent = Self::start();
        let state = SourceState { len: Some(source.len() as u64), complete: true };
        parent.send(&ToChild::Start { job, source: state });
        let mut outputs = Vec::new();
        let outcome = loop {
            match parent.receive().expect("the child says how it ends") {
                FromChild::Sandbox(report) => parent.report = Some(report),
                FromChild::Read { offset, len } => {
                    parent.reads += 1;
                    let rest = source.get(offset as usize..).unwrap_or_default();
                    let part = &rest[..rest.len().min(len as usize)];
                    let answer =
                        if part.is_empty() { ToChild::End } else { ToChild::Data(part.to_vec()) };
                    parent.send(&answer);
                }
                FromChild::Output(output) => outputs.push(output),
                FromChild::Done => break Ok(outputs),
                FromChild::Failed(failure) => break Err(failure),
            }
        };
        assert!(parent.receive().is_none(), "nothing after the last word");
        assert!(parent.child.wait().unwrap().success());
        (outcome, parent)
    }
}

#[test]
fn every_kind_of_job_works_inside_the_sandbox() {
    let studio = Studio::open();
    let clip = studio.clip(
        "-f lavfi -i testsrc2=s=960x540:r=25:d=3 -f lavfi -i sine=d=3 -c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a libmp3lame",
        "clip.mp4",
    );
    let (outputs, parent) = Parent::work(Job::Prepare(PrepareJob::default()), &clip);
    let Ok([Output::Plan(plan)]) = outputs.as_deref() else { panic!("{outputs:?}") };
    assert!(parent.reads <= 4, "{} reads for a small file", parent.reads);
    assert!(parent.report.is_some());
    assert_eq!(plan.renditions[0].lane, Lane::Copy);
    let recipe = plan.recipe.clone();
    let piece = PieceJob {
        recipe: recipe.clone(),
        renditions: vec![1, 2],
        first_segment: 0,
        cuts: vec![0],
        end: None,
        threads: 4,
    };
    for job in [
        Job::Copy(CopyJob { recipe: recipe.clone(), renditions: vec![0], cuts: plan.cuts.clone() }),
        Job::Audio(AudioJob { recipe: recipe.clone(), rendition: 3, cuts: plan.cuts.clone() }),
        Job::Piece(piece),
        Job::Thumbnail(ThumbnailJob { recipe, at_ms: None, max_width: 320 }),
    ] {
        let outputs = Parent::work(job, &clip).0.unwrap();
        let is_result =
            |output: &Output| matches!(output, Output::Segment { .. } | Output::Thumbnail { .. });
        assert!(outputs.iter().any(is_result), "{outputs:?}");
    }
}

#[test]
fn failures_cross_the_pipe() {
    let (outcome, _) =
        Parent::work(Job::Prepare(PrepareJob::default()), b"#EXTM3U\nfile:///etc/passwd\n");
    assert_eq!(outcome.unwrap_err().code, Code::NotAVideo);
}

#[test]
fn a_parent_that_goes_away_ends_the_child() {
    let mut parent = Parent::start();
    let state = SourceState { len: None, complete: false };
    parent.send(&ToChild::Start { job: Job::Prepare(PrepareJob::default()), source: state });
    while !matches!(parent.receive(), Some(FromChild::Read { .. })) {}
    drop(parent.child.stdin.take());
    drop(parent.child.stdout.take());
    parent.child.wait().unwrap();
}

const INSIDE: &str = "TRANSCODER_TEST_INSIDE";

#[test]
fn the_sandbox_has_no_way_out() {
    let this = std::env::current_exe().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    let arguments = ["--exact", "inside_the_sandbox", "--nocapture", "--test-threads=1"];
    let output = Command::new(this).args(arguments).env(INSIDE, file.path()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("all walls hold"), "{text}");
}

/// Does its work only when the test above starts it.
#[test]
fn inside_the_sandbox() {
    let Some(file) = std::env::var_os(INSIDE) else { return };
    let report = sandbox::enter(&sandbox::Limits::default()).unwrap();
    eprintln!("{report:?}");
    let refused = |what: &str, failed: bool| assert!(failed, "{what} was possible");
    refused("reading a file", std::fs::read("/etc/hostname").is_err());
    refused("writing a file", std::fs::write(&file, b"x").is_err());
    refused("removing a file", std::fs::remove_file(&file).is_err());
    refused("listing a directory", std::fs::read_dir("/").is_err());
    refused("asking about a file", std::fs::metadata("/etc/hostname").is_err());
    refused(
        "a connection",
        TcpStream::connect("127.0.0.1:9").is_err_and(|e| e.raw_os_error() == Some(libc::EPERM)),
    );
    refused("a datagram socket", UdpSocket::bind("127.0.0.1:0").is_err());
    refused("a local socket", std::os::unix::net::UnixStream::pair().is_err());
    refused("a program", Command::new("/bin/true").status().is_err());
    // Threads are what is left.
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    eprintln!("all walls hold");
}
