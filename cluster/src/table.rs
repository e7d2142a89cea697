//! Typed tables over the key-value view, so that code which decides reads like prose: `VIDEOS.get(view, &id)?`.
//!
//! A [`Table`] joins a [`TableId`] with the types of its keys and rows. It holds nothing; the rows are in the view. Keys are
//! written by [`Key`] so that the order of the bytes is the order of the values: numbers big-endian, ids as they are, tuples
//! one part after the other. Rows are written by [`crate::codec`].

use std::marker::PhantomData;
use std::ops::ControlFlow;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec;
use crate::ids::{BlockHash, ClientId, NodeId, TokenId, VideoId};
use crate::view::{TableId, Transaction, View, ViewError};

/// What can be a key, or a part of one.
pub trait Key: Sized {
    /// Appends the key's bytes. Their order is the order of the keys, for ever.
    fn write(&self, to: &mut Vec<u8>);

    /// Takes the key's bytes off the front, if they are there.
    fn read(from: &mut &[u8]) -> Option<Self>;

    /// The key as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }
}

macro_rules! number_key {
    ($($number:ty),*) => { $(
        impl Key for $number {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.to_be_bytes());
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self::from_be_bytes(*bytes))
            }
        }
    )* };
}

number_key!(u8, u16, u32, u64);

macro_rules! id_key {
    ($($id:ty),*) => { $(
        impl Key for $id {
            fn write(&self, to: &mut Vec<u8>) {
                to.extend_from_slice(&self.0);
            }

            fn read(from: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = from.split_first_chunk()?;
                *from = rest;
                Some(Self(*bytes))
            }
        }
    )* };
}

id_key!(VideoId, BlockHash, ClientId, TokenId);

impl Key for NodeId {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        u64::read(from).map(Self)
    }
}

/// The key of a table with one row.
impl Key for () {
    fn write(&self, _: &mut Vec<u8>) {}

    fn read(_: &mut &[u8]) -> Option<Self> {
        Some(())
    }
}

/// A text takes all the rest of a key, so it can only be the last part.
impl Key for String {
    fn write(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.as_bytes());
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        let text = str::from_utf8(from).ok()?.to_owned();
        *from = &[];
        Some(text)
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some((A::read(from)?, B::read(from)?))
    }
}

impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn write(&self, to: &mut Vec<u8>) {
        self.0.write(to);
        self.1.write(to);
        self.2.write(to);
    }

    fn read(from: &mut &[u8]) -> Option<Self> {
        Some((A::read(from)?, B::read(from)?, C::read(from)?))
    }
}

/// Part of a table: `from <= key < to`. An empty `to` means to the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    from: Vec<u8>,
    to: Vec<u8>,
}

impl KeyRange {
    /// The whole table.
    #[must_use]
    pub fn all() -> Self {
        Self { from: Vec::new(), to: Vec::new() }
    }

    /// All keys that begin with `prefix`.
    #[must_use]
    pub fn under(prefix: &impl Key) -> Self {
        let from = prefix.to_bytes();
        let to = after_all_under(&from);
        Self { from, to }
    }

    /// The same range, from `key` on.
    #[must_use]
    pub fn starting_at(self, key: &impl Key) -> Self {
        Self { from: self.from.max(key.to_bytes()), to: self.to }
    }

    /// The same range, from the first key that is greater than `key`.
    #[must_use]
    pub fn starting_after(self, key: &impl Key) -> Self {
        let mut next = key.to_bytes();
        next.push(0);
        Self { from: self.from.max(next), to: self.to }
    }

    /// The same range, from the first key that is greater than all that begin with `prefix`.
    #[must_use]
    pub fn starting_after_all_under(self, prefix: &impl Key) -> Self {
        let next = after_all_under(&prefix.to_bytes());
        if next.is_empty() {
            // Nothing is greater: the range that begins at its own end is empty.
            return Self { from: vec![0xff], to: vec![0xff] };
        }
        Self { from: self.from.max(next), to: self.to }
    }

    /// The same range, up to but without `key`.
    #[must_use]
    pub fn ending_before(self, key: &impl Key) -> Self {
        let end = key.to_bytes();
        let to = if self.to.is_empty() { end } else { self.to.min(end) };
        if to.is_empty() {
            return Self { from: vec![0xff], to: vec![0xff] };
        }
        Self { from: self.from, to }
    }
}

/// The least bytes greater than everything that begins with `prefix`; empty when there is none.
fn after_all_under(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(last) = last.checked_add(1) {
            next.push(last);
            break;
        }
    }
    next
}

/// A table of rows of type `V` under keys of type `K`.
pub struct Table<K, V> {
    id: TableId,
    types: PhantomData<fn() -> (K, V)>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    /// The typed face of a table.
    #[must_use]
    pub const fn new(id: TableId) -> Self {
        Self { id, types: PhantomData }
    }

    /// The row under `key`.
    ///
    /// # Errors
    /// When the view fails, or the row cannot be decoded.
    pub fn get(&self, view: &dyn View, key: &K) -> Result<Option<V>, ViewError> {
        match view.get(self.id, &key.to_bytes())? {
            Some(bytes) => self.decode_row(&bytes).map(Some),
            None => Ok(None),
        }
    }

    /// Whether there is a row under `key`.
    ///
    /// # Errors
    /// When the view fails.
    pub fn has(&self, view: &dyn View, key: &K) -> Result<bool, ViewError> {
        Ok(view.get(self.id, &key.to_bytes())?.is_some())
    }

    /// Sets the row under `key`.
    pub fn put(&self, tx: &mut Transaction<'_>, key: &K, row: &V) {
        tx.put(self.id, key.to_bytes(), codec::encode(row));
    }

    /// Removes the row under `key`. No harm if it is not there.
    pub fn delete(&self, tx: &mut Transaction<'_>, key: &K) {
        tx.delete(self.id, key.to_bytes());
    }

    /// Calls `visit` for each row of `range` in the order of the keys, until it breaks.
    ///
    /// # Errors
    /// When the view fails, or a row cannot be decoded.
    pub fn scan(
        &self,
        view: &dyn View,
        range: &KeyRange,
        visit: &mut dyn FnMut(K, V) -> ControlFlow<()>,
    ) -> Result<(), ViewError> {
        let mut failed = None;
        view.scan(self.id, &range.from, &range.to, &mut |key, value| match self
            .decode_key(key)
            .and_then(|key| Ok((key, self.decode_row(value)?)))
        {
            Ok((key, row)) => visit(key, row),
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// The first rows of `range`, at most `limit`.
    ///
    /// # Errors
    /// When the view fails, or a row cannot be decoded.
    pub fn collect(
        &self,
        view: &dyn View,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<(K, V)>, ViewError> {
        let mut rows = Vec::new();
        if limit > 0 {
            self.scan(view, range, &mut |key, row| {
                rows.push((key, row));
                if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        Ok(rows)
    }

    /// The first row of `range`.
    ///
    /// # Errors
    /// When the view fails, or the row cannot be decoded.
    pub fn first(&self, view: &dyn View, range: &KeyRange) -> Result<Option<(K, V)>, ViewError> {
        Ok(self.collect(view, range, 1)?.pop())
    }

    /// The first keys of `range`, at most `limit`. The rows are not decoded.
    ///
    /// # Errors
    /// When the view fails, or a key cannot be decoded.
    pub fn keys(
        &self,
        view: &dyn View,
        range: &KeyRange,
        limit: usize,
    ) -> Result<Vec<K>, ViewError> {
        let mut keys = Vec::new();
        let mut failed = None;
        if limit > 0 {
            view.scan(self.id, &range.from, &range.to, &mut |key, _| {
                match self.decode_key(key) {
                    Ok(key) => keys.push(key),
                    Err(error) => {
                        failed = Some(error);
                        return ControlFlow::Break(());
                    }
                }
                if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
        }
        failed.map_or(Ok(keys), Err)
    }

    fn decode_key(&self, bytes: &[u8]) -> Result<K, ViewError> {
        let mut rest = bytes;
        K::read(&mut rest)
            .filter(|_| rest.is_empty())
            .ok_or_else(|| self.unreadable(format!("the key {} is malformed", hex::encode(bytes))))
    }

    fn decode_row(&self, bytes: &[u8]) -> Result<V, ViewError> {
        codec::decode(bytes).map_err(|error| self.unreadable(format!("decode a row: {error}")))
    }

    fn unreadable(&self, reason: String) -> ViewError {
        ViewError { table: self.id.name(), reason }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::view::MemoryView;

    const NUMBERS: Table<(u16, u64), String> = Table::new(TableId::Videos);

    fn with_rows(keys: &[(u16, u64)]) -> MemoryView {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        for key in keys {
            NUMBERS.put(&mut tx, key, &format!("{key:?}"));
        }
        let batch = tx.into_batch();
        view.write(batch);
        view
    }

    #[test]
    fn ranges_cover_what_they_say() {
        let keys =
            [(0, 0), (1, 0), (1, 255), (1, 256), (1, u64::MAX), (2, 0), (u16::MAX, u64::MAX)];
        let view = with_rows(&keys);
        let found = |range: KeyRange| NUMBERS.keys(&view, &range, 100).unwrap();
        assert_eq!(found(KeyRange::all()), keys);
        assert_eq!(found(KeyRange::under(&1_u16)), keys[1..5]);
        assert_eq!(found(KeyRange::under(&1_u16).starting_at(&(1_u16, 255_u64))), keys[2..5]);
        assert_eq!(found(KeyRange::under(&1_u16).starting_after(&(1_u16, 255_u64))), keys[3..5]);
        assert_eq!(found(KeyRange::under(&1_u16).ending_before(&(1_u16, 256_u64))), keys[1..3]);
        assert_eq!(found(KeyRange::all().starting_after_all_under(&1_u16)), keys[5..]);
        assert_eq!(found(KeyRange::all().starting_after_all_under(&u16::MAX)), []);
        assert_eq!(found(KeyRange::all().ending_before(&())), []);
        assert_eq!(found(KeyRange::under(&u16::MAX)), keys[6..]);
        assert_eq!(NUMBERS.first(&view, &KeyRange::under(&7_u16)).unwrap(), None);
        assert_eq!(NUMBERS.keys(&view, &KeyRange::all(), 0).unwrap(), []);
    }

    #[test]
    fn a_row_that_cannot_be_decoded_is_an_error_with_the_table_name() {
        let mut view = MemoryView::default();
        let mut tx = Transaction::new(&view);
        tx.put(TableId::Videos, (1_u16, 1_u64).to_bytes(), vec![99]);
        let batch = tx.into_batch();
        view.write(batch);
        let error = NUMBERS.get(&view, &(1, 1)).unwrap_err();
        assert!(error.to_string().contains("videos"), "{error}");
        assert!(NUMBERS.collect(&view, &KeyRange::all(), 9).is_err());
    }

    proptest! {
        #[test]
        fn the_order_of_the_bytes_is_the_order_of_the_keys(a: (u16, u64), b: (u16, u64)) {
            prop_assert_eq!(a.cmp(&b), a.to_bytes().cmp(&b.to_bytes()));
            let bytes = a.to_bytes();
            prop_assert_eq!(<(u16, u64)>::read(&mut bytes.as_slice()), Some(a));
        }
    }
}
