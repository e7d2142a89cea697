//! The frames on the pipes: one byte for the kind, four for the length (little endian), then that many bytes.
//!
//! Source bytes travel as they are; everything else is MessagePack with field names. Both ends are of the same build, so
//! there is no version. The parent must not trust the child (it may have been taken over by what it decodes): lengths are
//! bounded, and a frame that cannot be decoded is an error, never a panic.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::error::Failure;
use crate::job::{Job, Output};
use crate::sandbox;

/// The longest payload: the longest segment (32 MiB) and what is around it.
pub const PAYLOAD_BYTES_MAX: usize = 33 * 1024 * 1024;

/// The most bytes that one [`FromChild::Read`] asks for.
pub const READ_BYTES_MAX: u32 = 1024 * 1024;

const HEADER_BYTES: usize = 5;
const KIND_MESSAGE: u8 = 1;
const KIND_DATA: u8 = 2;

/// What the parent knows about the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceState {
    /// Bytes in all, when known.
    pub len: Option<u64>,
    /// Whether all of them have arrived.
    pub complete: bool,
}

/// What the parent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToChild {
    /// First, and once.
    Start { job: Job, source: SourceState },
    /// Answers a read: at least one byte, at most as many as were asked for. Sent once some of them have arrived.
    Data(Vec<u8>),
    /// Answers a read: the source ends at or before that offset.
    End,
    /// Answers a read: it cannot be had.
    ReadError(String),
    /// The upload went on; may come at any time.
    Source(SourceState),
}

/// What the child says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromChild {
    /// First: which walls are up.
    Sandbox(sandbox::Report),
    /// Asks for up to `len` bytes of the source from `offset` on. The next read comes only after the answer.
    Read {
        offset: u64,
        len: u32,
    },
    Output(Output),
    /// Last: the job is done.
    Done,
    /// Last: the job came to nothing.
    Failed(Failure),
}

/// The other end does not speak this protocol.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    #[error("a frame of {0} bytes is longer than any frame may be")]
    TooLong(usize),
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
    #[error("a frame cannot be decoded: {0}")]
    Malformed(String),
}

impl From<ProtocolError> for io::Error {
    fn from(error: ProtocolError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// [`ToChild`] without the bytes of [`ToChild::Data`].
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Control {
    Start { job: Job, source: SourceState },
    End,
    ReadError(String),
    Source(SourceState),
}

/// A message that travels in frames.
pub trait Message: Sized {
    /// The kind and the payload.
    fn to_payload(&self) -> Result<(u8, Vec<u8>), ProtocolError>;
    fn from_payload(kind: u8, payload: &[u8]) -> Result<Self, ProtocolError>;
}

impl Message for FromChild {
    fn to_payload(&self) -> Result<(u8, Vec<u8>), ProtocolError> {
        Ok((KIND_MESSAGE, pack(self)?))
    }

    fn from_payload(kind: u8, payload: &[u8]) -> Result<Self, ProtocolError> {
        if kind == KIND_MESSAGE { unpack(payload) } else { Err(ProtocolError::UnknownKind(kind)) }
    }
}

impl Message for ToChild {
    fn to_payload(&self) -> Result<(u8, Vec<u8>), ProtocolError> {
        let control = match self {
            Self::Data(bytes) => return Ok((KIND_DATA, bytes.clone())),
            Self::Start { job, source } => Control::Start { job: job.clone(), source: *source },
            Self::End => Control::End,
            Self::ReadError(detail) => Control::ReadError(detail.clone()),
            Self::Source(state) => Control::Source(*state),
        };
        Ok((KIND_MESSAGE, pack(&control)?))
    }

    fn from_payload(kind: u8, payload: &[u8]) -> Result<Self, ProtocolError> {
        match kind {
            KIND_DATA => Ok(Self::Data(payload.to_vec())),
            KIND_MESSAGE => Ok(match unpack(payload)? {
                Control::Start { job, source } => Self::Start { job, source },
                Control::End => Self::End,
                Control::ReadError(detail) => Self::ReadError(detail),
                Control::Source(state) => Self::Source(state),
            }),
            other => Err(ProtocolError::UnknownKind(other)),
        }
    }
}

fn pack<T: Serialize>(value: &T) -> Result<Vec<u8>, ProtocolError> {
    rmp_serde::to_vec_named(value).map_err(|error| ProtocolError::Malformed(error.to_string()))
}

fn unpack<T: for<'de> Deserialize<'de>>(payload: &[u8]) -> Result<T, ProtocolError> {
    rmp_serde::from_slice(payload).map_err(|error| ProtocolError::Malformed(error.to_string()))
}

/// The frame of a message, ready to be written.
///
/// # Errors
/// When it is longer than [`PAYLOAD_BYTES_MAX`].
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, ProtocolError> {
    let (kind, payload) = message.to_payload()?;
    let mut frame = header(kind, payload.len())?.to_vec();
    frame.extend_from_slice(&payload);
    Ok(frame)
}

/// What goes before the bytes that answer a read, for a parent that has them in a buffer of its own already.
///
/// # Errors
/// When there are more of them than any read asks for.
pub fn data_header(len: usize) -> Result<[u8; HEADER_BYTES], ProtocolError> {
    if len > READ_BYTES_MAX as usize {
        Err(ProtocolError::TooLong(len))
    } else {
        header(KIND_DATA, len)
    }
}

fn header(kind: u8, len: usize) -> Result<[u8; HEADER_BYTES], ProtocolError> {
    if len > PAYLOAD_BYTES_MAX {
        return Err(ProtocolError::TooLong(len));
    }
    let mut header = [kind; HEADER_BYTES];
    let len = u32::try_from(len).expect("the longest payload is far below 4 GiB");
    header[1..].copy_from_slice(&len.to_le_bytes());
    Ok(header)
}

fn parse_header(header: [u8; HEADER_BYTES]) -> Result<(u8, usize), ProtocolError> {
    let [kind, len @ ..] = header;
    let len = u32::from_le_bytes(len) as usize;
    if len > PAYLOAD_BYTES_MAX { Err(ProtocolError::TooLong(len)) } else { Ok((kind, len)) }
}

/// Reads one frame from a blocking stream.
///
/// # Errors
/// Those of the stream, and `InvalidData` for what is no frame.
pub fn read<M: Message>(input: &mut impl Read) -> io::Result<M> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let (kind, len) = parse_header(header)?;
    let mut payload = Vec::new();
    // Grows with what really comes, so that a made-up length costs nothing.
    if input.take(len as u64).read_to_end(&mut payload)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(M::from_payload(kind, &payload)?)
}

/// Finds frames in bytes that arrive in arbitrary portions. Does no I/O.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Appends what arrived.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame, if there is one.
    ///
    /// # Errors
    /// When the bytes are no frames; the conversation cannot go on then.
    pub fn take<M: Message>(&mut self) -> Result<Option<M>, ProtocolError> {
        let Some(header) = self.bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let (kind, len) = parse_header(*header)?;
        let end = HEADER_BYTES + len;
        if self.bytes.len() < end {
            self.bytes.reserve(end - self.bytes.len());
            return Ok(None);
        }
        let message = M::from_payload(kind, &self.bytes[HEADER_BYTES..end])?;
        self.bytes.drain(..end);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::PrepareJob;

    #[test]
    fn frames_survive_any_fragmentation() {
        let outputs = [
            FromChild::Output(Output::Segment {
                rendition: 1,
                number: 7,
                start: 1 << 40,
                duration: 90_000,
                bytes: vec![7; 3000],
            }),
            FromChild::Read { offset: 9, len: 10 },
            FromChild::Done,
        ];
        let bytes: Vec<u8> = outputs.iter().flat_map(|frame| encode(frame).unwrap()).collect();
        for portion in [1, 2, 5, 6, 1000, bytes.len()] {
            let mut buffer = FrameBuffer::default();
            let mut seen = Vec::new();
            for chunk in bytes.chunks(portion) {
                buffer.feed(chunk);
                while let Some(frame) = buffer.take::<FromChild>().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, outputs);
        }
    }

    #[test]
    fn the_parents_frames_come_back_equal() {
        let frames = [
            ToChild::Start {
                job: Job::Prepare(PrepareJob::default()),
                source: SourceState { len: Some(5), complete: false },
            },
            ToChild::Data(vec![1, 2, 3]),
            ToChild::End,
            ToChild::ReadError("gone".into()),
            ToChild::Source(SourceState { len: Some(5), complete: true }),
        ];
        for frame in frames {
            assert_eq!(read::<ToChild>(&mut &encode(&frame).unwrap()[..]).unwrap(), frame);
        }
        let mut data = data_header(3).unwrap().to_vec();
        data.extend_from_slice(&[1, 2, 3]);
        assert_eq!(data, encode(&ToChild::Data(vec![1, 2, 3])).unwrap());
    }

    #[test]
    fn a_made_up_length_is_refused_at_once() {
        let mut buffer = FrameBuffer::default();
        buffer.feed(&[KIND_MESSAGE, 0xff, 0xff, 0xff, 0xff]);
        assert!(matches!(buffer.take::<FromChild>(), Err(ProtocolError::TooLong(_))));
        let mut buffer = FrameBuffer::default();
        buffer.feed(&[KIND_MESSAGE, 1, 0, 0, 0, 0xc1]);
        assert!(matches!(buffer.take::<FromChild>(), Err(ProtocolError::Malformed(_))));
    }
}
