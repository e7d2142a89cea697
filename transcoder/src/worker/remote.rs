//! The source as the child sees it: reads that go through the pipe to the parent.
//!
//! libav reads small pieces and hops between the places where a container keeps sound and pictures. Each answer of the
//! parent costs two switches between processes, so reads are made large, and the last few answers are kept: a hop back to
//! where the other track is then costs nothing.

use std::collections::VecDeque;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::{Arc, Mutex};

use super::frame::{self, FromChild, READ_BYTES_MAX, SourceState, ToChild};
use crate::job::Source;

/// How many answers are kept: places that a container is read at in turns (sound, pictures, index, subtitles).
const WINDOWS_MAX: usize = 4;

/// Reads after a jump begin at a multiple of this, so that a short jump back is still inside the window.
const ALIGNMENT: u64 = 64 * 1024;

struct Window {
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    fn from(&self, position: u64) -> Option<&[u8]> {
        let skip = usize::try_from(position.checked_sub(self.offset)?).ok()?;
        self.bytes.get(skip..).filter(|rest| !rest.is_empty())
    }
}

/// See the module.
pub(super) struct RemoteSource<R, W> {
    input: R,
    output: Arc<Mutex<W>>,
    state: SourceState,
    position: u64,
    /// The most recently used first.
    windows: VecDeque<Window>,
}

impl<R: Read, W: Write> RemoteSource<R, W> {
    pub(super) fn new(input: R, output: Arc<Mutex<W>>, state: SourceState) -> Self {
        Self { input, output, state, position: 0, windows: VecDeque::new() }
    }

    /// Makes the window with the present position the first one. `false` at the end of the source.
    fn load(&mut self) -> io::Result<bool> {
        let position = self.position;
        if let Some(found) = self.windows.iter().position(|window| window.from(position).is_some())
        {
            let window = self.windows.remove(found).expect("the index was found just now");
            self.windows.push_front(window);
            return Ok(true);
        }
        if self.state.len.is_some_and(|len| position >= len) {
            return Ok(false);
        }
        let continues = self.windows.iter().any(|w| w.offset + w.bytes.len() as u64 == position);
        let offset = if continues { position } else { position - position % ALIGNMENT };
        // When only the beginning of that has arrived, the answer may end before the position; ask again from there.
        let mut offset = offset;
        loop {
            let Some(bytes) = self.request(offset)? else { return Ok(false) };
            let window = Window { offset, bytes };
            if window.from(position).is_some() {
                self.windows.truncate(WINDOWS_MAX - 1);
                self.windows.push_front(window);
                return Ok(true);
            }
            offset += window.bytes.len() as u64;
        }
    }

    fn request(&mut self, offset: u64) -> io::Result<Option<Vec<u8>>> {
        let request = frame::encode(&FromChild::Read { offset, len: READ_BYTES_MAX })?;
        {
            let mut output =
                self.output.lock().map_err(|_| io::Error::other("a thread panicked"))?;
            output.write_all(&request)?;
            output.flush()?;
        }
        loop {
            match frame::read(&mut self.input)? {
                ToChild::Data(bytes)
                    if bytes.is_empty() || bytes.len() > READ_BYTES_MAX as usize =>
                {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "not an answer to a read",
                    ));
                }
                ToChild::Data(bytes) => return Ok(Some(bytes)),
                ToChild::End => return Ok(None),
                ToChild::ReadError(detail) => return Err(io::Error::other(detail)),
                ToChild::Source(state) => self.state = state,
                ToChild::Start { .. } => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a second job"));
                }
            }
        }
    }
}

impl<R: Read, W: Write> Read for RemoteSource<R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.load()? {
            return Ok(0);
        }
        let rest = self.windows[0].from(self.position).expect("load put it there");
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl<R, W> Seek for RemoteSource<R, W> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
            SeekFrom::End(delta) => match self.state.len {
                Some(len) => len.checked_add_signed(delta),
                None => return Err(io::ErrorKind::Unsupported.into()),
            },
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl<R, W> Source for RemoteSource<R, W>
where
    R: Read + Send + 'static,
    W: Write + Send + 'static,
{
    fn len(&self) -> Option<u64> {
        self.state.len
    }

    fn is_complete(&self) -> bool {
        self.state.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers for the parent, prepared beforehand: as many bytes per read as `portion` says.
    fn answers(source: &[u8], requests: &[(u64, usize)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for &(offset, portion) in requests {
            let rest = &source[offset as usize..];
            let answer = ToChild::Data(rest[..portion.min(rest.len())].to_vec());
            bytes.extend(frame::encode(&answer).unwrap());
        }
        bytes
    }

    fn requests(output: &Arc<Mutex<Vec<u8>>>) -> Vec<u64> {
        let mut buffer = frame::FrameBuffer::default();
        buffer.feed(&output.lock().unwrap());
        let mut offsets = Vec::new();
        while let Some(FromChild::Read { offset, .. }) = buffer.take().unwrap() {
            offsets.push(offset);
        }
        offsets
    }

    #[test]
    fn hops_between_two_places_are_answered_from_what_is_here() {
        let source: Vec<u8> = (0..300_000u32).map(|i| (i / 7) as u8).collect();
        let state = SourceState { len: Some(source.len() as u64), complete: true };
        let pipe = answers(&source, &[(0, 100_000), (196_608, 90_000)]);
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut remote = RemoteSource::new(io::Cursor::new(pipe), Arc::clone(&output), state);
        let mut buffer = [0; 1000];
        for step in 0..20u64 {
            for base in [10, 200_000] {
                let at = base + step * 1000;
                remote.seek(SeekFrom::Start(at)).unwrap();
                remote.read_exact(&mut buffer).unwrap();
                assert_eq!(buffer, source[at as usize..at as usize + 1000]);
            }
        }
        assert_eq!(requests(&output), [0, 196_608]);
    }

    #[test]
    fn short_answers_of_a_running_upload_are_continued() {
        let source: Vec<u8> = (0..200_000u32).map(|i| (i / 3) as u8).collect();
        let state = SourceState { len: None, complete: false };
        let mut pipe = answers(&source, &[(65_536, 10), (65_546, 40_000)]);
        pipe.extend(
            frame::encode(&ToChild::Source(SourceState { len: Some(105_546), complete: true }))
                .unwrap(),
        );
        pipe.extend(frame::encode(&ToChild::End).unwrap());
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut remote = RemoteSource::new(io::Cursor::new(pipe), Arc::clone(&output), state);
        assert!(remote.seek(SeekFrom::End(0)).is_err());
        remote.seek(SeekFrom::Start(70_000)).unwrap();
        let mut rest = Vec::new();
        remote.read_to_end(&mut rest).unwrap();
        assert_eq!(rest, source[70_000..105_546]);
        assert_eq!(requests(&output), [65_536, 65_546, 105_546]);
        assert!(remote.is_complete());
        assert_eq!(remote.seek(SeekFrom::End(-1)).unwrap(), 105_545);
    }
}
