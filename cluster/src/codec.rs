//! How values are written into the log and the tables: MessagePack with field names, behind a version byte.
//!
//! Field names make a value readable by the version before and the version after: a field that is added carries
//! `#[serde(default)]`, a field that is unknown is skipped. The version byte is for the day when that is not enough.
//!
//! Decoding is bounded: an input longer than [`DECODE_BYTES_MAX`] or nested deeper than [`DECODE_DEPTH_MAX`] is refused, and
//! no length that is only claimed makes it allocate (serde caps what it reserves ahead).

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The first byte of every encoded value.
pub const VERSION: u8 = 1;

/// The longest input that is decoded. The longest value there is, a video row with its plan, stays below a megabyte.
pub const DECODE_BYTES_MAX: usize = 16 << 20;

/// The deepest nesting that is decoded. No type here is nested deeper than ten levels; the bound protects the stack.
pub const DECODE_DEPTH_MAX: usize = 32;

/// An input that is not an encoded value of the type asked for.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("it is empty")]
    Empty,
    #[error("it has version {0}, this program reads version {VERSION}")]
    Version(u8),
    #[error("it has {0} bytes, {DECODE_BYTES_MAX} at most are allowed")]
    TooLong(usize),
    #[error("{0} bytes follow the value")]
    TrailingBytes(usize),
    #[error(transparent)]
    Content(#[from] rmp_serde::decode::Error),
}

/// `value` in bytes.
///
/// # Panics
/// When the type's own `Serialize` fails, which none in this crate does.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    value
        .serialize(&mut rmp_serde::Serializer::new(&mut bytes).with_struct_map())
        .expect("plain data is always encodable, and a Vec takes every write");
    bytes
}

/// The value in `bytes`.
///
/// # Errors
/// When `bytes` is not exactly one value of this type in a version known here, or exceeds the bounds.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > DECODE_BYTES_MAX {
        return Err(DecodeError::TooLong(bytes.len()));
    }
    let (version, content) = bytes.split_first().ok_or(DecodeError::Empty)?;
    if *version != VERSION {
        return Err(DecodeError::Version(*version));
    }
    let mut rest = content;
    let mut deserializer = rmp_serde::Deserializer::new(&mut rest);
    deserializer.set_max_depth(DECODE_DEPTH_MAX);
    let value = T::deserialize(&mut deserializer)?;
    drop(deserializer);
    if rest.is_empty() { Ok(value) } else { Err(DecodeError::TrailingBytes(rest.len())) }
}

/// For `#[serde(with = "crate::codec::bytes")]`: a `Vec<u8>` as bytes, not as a list of numbers.
pub mod bytes {
    use std::fmt;

    use serde::de::{Error, SeqAccess, Visitor};
    use serde::{Deserializer, Serializer};

    /// Writes the bytes as one byte string.
    ///
    /// # Errors
    /// When the serializer fails.
    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    /// Reads a byte string, or a list of numbers from formats that have no byte strings (JSON).
    ///
    /// # Errors
    /// When there is neither.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;

        impl<'de> Visitor<'de> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<u8>, A::Error> {
                let mut bytes = Vec::new();
                while let Some(byte) = list.next_element()? {
                    bytes.push(byte);
                }
                Ok(bytes)
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Older {
        name: String,
        #[serde(with = "super::bytes")]
        data: Vec<u8>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Newer {
        #[serde(with = "super::bytes")]
        data: Vec<u8>,
        #[serde(default)]
        added: Option<u32>,
        name: String,
    }

    #[test]
    fn versions_with_and_without_a_field_read_each_other() {
        let older = Older { name: "a".into(), data: vec![0, 255] };
        let newer = Newer { name: "a".into(), data: vec![0, 255], added: None };
        assert_eq!(decode::<Newer>(&encode(&older)).unwrap(), newer);
        assert_eq!(decode::<Older>(&encode(&Newer { added: Some(7), ..newer })).unwrap(), older);
    }

    #[test]
    fn bytes_take_one_byte_each() {
        let row = Older { name: String::new(), data: vec![200; 1000] };
        assert!(encode(&row).len() < 1030);
    }

    #[test]
    fn what_is_not_exactly_one_value_is_refused() {
        let good = encode(&7_u32);
        assert_eq!(decode::<u32>(&good).unwrap(), 7);
        assert!(matches!(decode::<u32>(&[]), Err(DecodeError::Empty)));
        assert!(matches!(decode::<u32>(&[9, 7]), Err(DecodeError::Version(9))));
        let longer = [good.as_slice(), &[0]].concat();
        assert!(matches!(decode::<u32>(&longer), Err(DecodeError::TrailingBytes(1))));
        assert!(decode::<u32>(&good[..1]).is_err());
        assert!(decode::<String>(&good).is_err());
    }

    #[test]
    fn claimed_lengths_and_depths_cost_nothing() {
        // A list that claims four billion entries, and lists within lists.
        assert!(decode::<Vec<u64>>(&[VERSION, 0xdd, 0xff, 0xff, 0xff, 0xff]).is_err());
        #[derive(Debug, Deserialize)]
        struct Nested(#[expect(dead_code, reason = "only decoded")] Vec<Self>);
        let mut deep = vec![0x91; 100_000];
        deep[0] = VERSION;
        assert!(decode::<Nested>(&deep).is_err());
    }
}
