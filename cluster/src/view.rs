//! The ordered key-value view that the catalog lives on.
//!
//! A node puts RocksDB column families under it, tests and simulations a [`MemoryView`]. The catalog asks for two things
//! only, a value by key and a scan in key order, so whatever offers these can carry it.
//!
//! Changes are collected in a [`Transaction`]: it reads through to the view below, sees its own changes, and ends as one
//! [`WriteBatch`] that the owner of the view writes atomically. Nothing in this crate writes anywhere.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// The tables, each with a number that is its name on disk for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum TableId {
    /// One row: the cluster's identity and the catalog's clock.
    System = 0,
    /// Node id → what the node says of itself.
    Nodes = 1,
    /// Two rows: which nodes hold which placement group, and which held it before.
    Layout = 2,
    /// Video id → the video.
    Videos = 3,
    /// Time of creation and log index, both newest first → video id. Holds every video.
    VideosByTime = 4,
    /// Key that an uploader chose → video id.
    UploadKeys = 5,
    /// Video id, offset of the byte after the block → a block of the uploaded file. The key is where the block ends, so that
    /// one step forward from any byte finds the block that holds it.
    SourceBlocks = 6,
    /// Video id, rendition → its state.
    Renditions = 7,
    /// Video id, rendition, number of the last segment → a run of segments that was committed together. The key is where the
    /// run ends, so that one step forward from any number finds the run that holds it.
    Segments = 8,
    /// Block hash → length and number of references.
    Blocks = 9,
    /// Video id, job → its state.
    Jobs = 10,
    /// Order of urgency → job. Holds every job that is not done.
    JobQueue = 11,
    /// Client id → its window of sequence numbers.
    Sessions = 12,
    /// Client id, sequence number → the reply that was given.
    Replies = 13,
    /// Node id, job → nothing. Holds every job that has a lease, whether or not it has expired.
    Leases = 14,
    /// Video id → nothing. Holds every video whose bytes are still arriving.
    Uploads = 15,
    /// One row: the cluster's certificate authority.
    Authority = 16,
    /// Token id → what the token allows, and whom it let in.
    Tokens = 17,
    /// Node id → whether it belongs to the cluster. Holds every node that ever did.
    Members = 18,
    /// Log index → what an operator, or the cluster itself, asked for, and what it came to.
    Audit = 19,
    /// Time, block hash → length. Holds every block that no row names any more and that is not given up yet, the oldest first.
    WaitingBlocks = 20,
    /// Log index, block hash → length. Holds every block that was given up and is not forgotten yet, in the order of the log.
    ReapedBlocks = 21,
}

impl TableId {
    /// All tables, in the order of their numbers.
    pub const ALL: [Self; 22] = [
        Self::System,
        Self::Nodes,
        Self::Layout,
        Self::Videos,
        Self::VideosByTime,
        Self::UploadKeys,
        Self::SourceBlocks,
        Self::Renditions,
        Self::Segments,
        Self::Blocks,
        Self::Jobs,
        Self::JobQueue,
        Self::Sessions,
        Self::Replies,
        Self::Leases,
        Self::Uploads,
        Self::Authority,
        Self::Tokens,
        Self::Members,
        Self::Audit,
        Self::WaitingBlocks,
        Self::ReapedBlocks,
    ];

    /// The name of the column family, for people and for disk.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Nodes => "nodes",
            Self::Layout => "layout",
            Self::Videos => "videos",
            Self::VideosByTime => "videos_by_time",
            Self::UploadKeys => "upload_keys",
            Self::SourceBlocks => "source_blocks",
            Self::Renditions => "renditions",
            Self::Segments => "segments",
            Self::Blocks => "blocks",
            Self::Jobs => "jobs",
            Self::JobQueue => "job_queue",
            Self::Sessions => "sessions",
            Self::Replies => "replies",
            Self::Leases => "leases",
            Self::Uploads => "uploads",
            Self::Authority => "authority",
            Self::Tokens => "tokens",
            Self::Members => "members",
            Self::Audit => "audit",
            Self::WaitingBlocks => "waiting_blocks",
            Self::ReapedBlocks => "reaped_blocks",
        }
    }
}

/// The view could not be read, or holds what this version cannot decode. A node that meets this while applying stops:
/// going on would make it differ from the others.
#[derive(Clone, Debug, thiserror::Error)]
#[error("read table {table}: {reason}")]
pub struct ViewError {
    /// The table's name.
    pub table: &'static str,
    /// What went wrong, for a person.
    pub reason: String,
}

/// What a scan calls for each row, until it says `Break`.
pub type Visitor<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Read access to ordered tables of bytes.
pub trait View {
    /// The value under `key`, if there is one.
    ///
    /// # Errors
    /// When the storage below fails.
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError>;

    /// Calls `visit` for each row with `from <= key < to` in the order of the keys, until it breaks. An empty `to` means no
    /// upper bound.
    ///
    /// # Errors
    /// When the storage below fails.
    fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), ViewError>;
}

/// Changes to be written together or not at all: `None` deletes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    /// In the order of table and key; a key occurs once.
    pub writes: BTreeMap<(TableId, Vec<u8>), Option<Vec<u8>>>,
}

/// A view with changes on top of it that only it can see.
pub struct Transaction<'a> {
    below: &'a dyn View,
    batch: WriteBatch,
}

impl<'a> Transaction<'a> {
    /// An empty transaction over `below`.
    #[must_use]
    pub fn new(below: &'a dyn View) -> Self {
        Self { below, batch: WriteBatch::default() }
    }

    /// Sets the value under `key`.
    pub fn put(&mut self, table: TableId, key: Vec<u8>, value: Vec<u8>) {
        self.batch.writes.insert((table, key), Some(value));
    }

    /// Removes `key`. No harm if it is not there.
    pub fn delete(&mut self, table: TableId, key: Vec<u8>) {
        self.batch.writes.insert((table, key), None);
    }

    /// Adds the changes of a transaction that was built on top of this one.
    pub fn absorb(&mut self, above: WriteBatch) {
        self.batch.writes.extend(above.writes);
    }

    /// The changes, to be written atomically to the view below.
    #[must_use]
    pub fn into_batch(self) -> WriteBatch {
        self.batch
    }
}

impl View for Transaction<'_> {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        match self.batch.writes.get(&(table, key.to_vec())) {
            Some(written) => Ok(written.clone()),
            None => self.below.get(table, key),
        }
    }

    fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), ViewError> {
        if !to.is_empty() && from >= to {
            return Ok(());
        }
        let mut written = self
            .batch
            .writes
            .range((table, from.to_vec())..)
            .take_while(|((of, key), _)| *of == table && (to.is_empty() || key.as_slice() < to))
            .peekable();
        let mut stopped = false;
        self.below.scan(table, from, to, &mut |key, value| {
            // What was written here and sorts before this row of the view below comes first.
            while let Some(((_, own_key), own)) =
                written.next_if(|((_, own_key), _)| own_key.as_slice() < key)
            {
                if let Some(own) = own
                    && visit(own_key, own).is_break()
                {
                    stopped = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match written.next_if(|((_, own_key), _)| own_key.as_slice() == key) {
                Some((_, Some(own))) => visit(key, own),
                Some((_, None)) => ControlFlow::Continue(()),
                None => visit(key, value),
            };
            stopped = flow.is_break();
            flow
        })?;
        if !stopped {
            for ((_, key), own) in written {
                if let Some(own) = own
                    && visit(key, own).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The whole catalog in memory: for tests, simulations, and small tools.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryView {
    rows: BTreeMap<(TableId, Vec<u8>), Vec<u8>>,
}

impl MemoryView {
    /// Takes over the changes of a transaction.
    pub fn write(&mut self, batch: WriteBatch) {
        for (place, value) in batch.writes {
            match value {
                Some(value) => self.rows.insert(place, value),
                None => self.rows.remove(&place),
            };
        }
    }

    /// The same rows without those of some tables.
    #[must_use]
    pub fn without(&self, tables: &[TableId]) -> Self {
        let mut rest = self.clone();
        rest.rows.retain(|(table, _), _| !tables.contains(table));
        rest
    }

    /// How many rows all tables have together.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }
}

impl View for MemoryView {
    fn get(&self, table: TableId, key: &[u8]) -> Result<Option<Vec<u8>>, ViewError> {
        Ok(self.rows.get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: TableId,
        from: &[u8],
        to: &[u8],
        visit: &mut Visitor<'_>,
    ) -> Result<(), ViewError> {
        for ((of, key), value) in self.rows.range((table, from.to_vec())..) {
            if *of != table || (!to.is_empty() && key.as_slice() >= to) {
                break;
            }
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Write = (u8, Option<u8>);

    fn table(number: u8) -> TableId {
        TableId::ALL[usize::from(number) % 2]
    }

    /// Keys of one and two bytes, so that one is the beginning of another.
    fn key(number: u8) -> Vec<u8> {
        if number.is_multiple_of(3) { vec![number, 0] } else { vec![number] }
    }

    fn write(tx: &mut Transaction<'_>, writes: &[Write]) {
        for (at, value) in writes {
            match value {
                Some(value) => tx.put(table(*at), key(*at), vec![*value]),
                None => tx.delete(table(*at), key(*at)),
            }
        }
    }

    fn rows(view: &dyn View, of: TableId, from: &[u8], to: &[u8], limit: usize) -> Vec<Vec<u8>> {
        let mut rows = vec![];
        view.scan(of, from, to, &mut |key, value| {
            rows.push([key, value].concat());
            if rows.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        rows
    }

    proptest! {
        #[test]
        fn a_transaction_shows_what_will_be_there_when_it_is_written(
            below: Vec<Write>, middle: Vec<Write>, above: Vec<Write>,
            from: u8, to: Option<u8>, limit in 1_usize..9,
        ) {
            let mut view = MemoryView::default();
            let mut tx = Transaction::new(&view);
            write(&mut tx, &below);
            let batch = tx.into_batch();
            view.write(batch);

            let mut outer = Transaction::new(&view);
            write(&mut outer, &middle);
            let mut inner = Transaction::new(&outer);
            write(&mut inner, &above);
            let (from, to) = (key(from), to.map(key).unwrap_or_default());
            let both = [TableId::ALL[0], TableId::ALL[1]];
            let shown = both.map(|of| rows(&inner, of, &from, &to, limit));
            let got: Vec<_> = (0..=255).map(|n| inner.get(table(n), &key(n)).unwrap()).collect();

            let batch = inner.into_batch();
            outer.absorb(batch);
            let batch = outer.into_batch();
            view.write(batch);
            prop_assert_eq!(shown, both.map(|of| rows(&view, of, &from, &to, limit)));
            let expected: Vec<_> = (0..=255).map(|n| view.get(table(n), &key(n)).unwrap()).collect();
            prop_assert_eq!(got, expected);
        }
    }

    #[test]
    fn tables_keep_their_numbers_and_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> =
            TableId::ALL.into_iter().map(TableId::name).collect();
        assert_eq!(names.len(), TableId::ALL.len());
        for (number, table) in TableId::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, number);
        }
    }
}
