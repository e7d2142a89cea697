//! Clips made by the ffmpeg program, sources of several kinds, and a reader of the boxes that comes out.
//!
//! Timing is checked on the boxes: ffprobe reports times late by the reordering delay on files like ours.
#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

pub mod boxes;
pub mod movie;

use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use transcoder::Source;

/// A directory that goes away with the test, and clips in it.
pub struct Studio {
    pub directory: tempfile::TempDir,
}

impl Studio {
    pub fn open() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs `ffmpeg ARGUMENTS NAME` in the directory and returns the bytes of the file.
    pub fn clip(&self, arguments: &str, name: &str) -> Vec<u8> {
        ffmpeg(self.directory.path(), &format!("{arguments} {name}"));
        std::fs::read(self.path(name)).unwrap()
    }
}

/// Runs the ffmpeg program; what it prints on standard error at level `info` comes back.
pub fn ffmpeg(directory: &Path, arguments: &str) -> String {
    let output = Command::new("ffmpeg")
        .current_dir(directory)
        .args(["-hide_banner", "-nostdin", "-y"])
        .args(arguments.split_whitespace())
        .output()
        .expect("run ffmpeg");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "ffmpeg {arguments}\n{text}");
    text
}

/// A source that is all there.
pub struct Whole(Cursor<Vec<u8>>);

impl Whole {
    pub fn new(bytes: &[u8]) -> Self {
        Self(Cursor::new(bytes.to_vec()))
    }
}

impl Read for Whole {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Seek for Whole {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

impl Source for Whole {
    fn len(&self) -> Option<u64> {
        Some(self.0.get_ref().len() as u64)
    }

    fn is_complete(&self) -> bool {
        true
    }
}

/// A source of which only a part has arrived: reads beyond it wait until more is let in, for ever if need be.
#[derive(Clone)]
pub struct Upload {
    bytes: Arc<Vec<u8>>,
    arrived: Arc<(Mutex<u64>, Condvar)>,
    position: u64,
}

impl Upload {
    pub fn new(bytes: &[u8], arrived: u64) -> Self {
        let arrived = Arc::new((Mutex::new(arrived), Condvar::new()));
        Self { bytes: Arc::new(bytes.to_vec()), arrived, position: 0 }
    }

    /// Lets bytes up to this offset in.
    pub fn arrive(&self, up_to: u64) {
        *self.arrived.0.lock().unwrap() = up_to;
        self.arrived.1.notify_all();
    }
}

impl Read for Upload {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.bytes.len() as u64;
        let mut arrived = self.arrived.0.lock().unwrap();
        while self.position >= *arrived && self.position < len {
            arrived = self.arrived.1.wait(arrived).unwrap();
        }
        let end = len.min(*arrived).min(self.position + buffer.len() as u64);
        let Some(part) = self.bytes.get(self.position as usize..end as usize) else { return Ok(0) };
        buffer[..part.len()].copy_from_slice(part);
        self.position = end;
        Ok(part.len())
    }
}

impl Seek for Upload {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(offset) => offset,
            SeekFrom::Current(delta) => self.position.strict_add_signed(delta),
            SeekFrom::End(delta) => (self.bytes.len() as u64).strict_add_signed(delta),
        };
        Ok(self.position)
    }
}

impl Source for Upload {
    fn len(&self) -> Option<u64> {
        Some(self.bytes.len() as u64)
    }

    fn is_complete(&self) -> bool {
        *self.arrived.0.lock().unwrap() >= self.bytes.len() as u64
    }
}
