//! Applies the log to the catalog.
//!
//! Entries are taken in batches. A batch is one transaction over the catalog and one write, which also says how far the
//! catalog has come, and only then do the proposers get their replies. What the commands mean is decided in `cluster`; here
//! is only who calls it and when.
//!
//! # Invariants
//!
//! - The tables and `applied` are written together, so no entry is applied twice or skipped, whatever happens.
//! - An entry that cannot be decoded, or a catalog that cannot be read, stops consensus on this node: going on would make it
//!   differ from the others.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cluster::apply::apply;
use cluster::command::Reply;
use cluster::view::Transaction;
use cluster::{catalog, codec};
use futures::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use openraft::type_config::alias::SnapshotOf;
use openraft::{EntryPayload, OptionalSend};

use super::announce::Announcer;
use super::clock::ClusterClock;
use super::log_store::DiskHealth;
use super::snapshot::{SnapshotStore, StoredSnapshot};
use super::types::{Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig, entry_bytes};
use crate::state::{SnapshotView, StateDb, StateError};

pub(super) const APPLIED_KEY: &[u8] = b"applied";
pub(super) const MEMBERSHIP_KEY: &[u8] = b"membership";
const DURABLE_KEY: &[u8] = b"durable";

/// The most entries and bytes of commands in one write. Bounds the memory of a transaction and how long readers wait for
/// the next version; large enough that the cost of a write does not matter.
const BATCH_ENTRIES_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Why the catalog could not be changed, for those who have to say why consensus ended.
pub(super) type Failure = Arc<OnceLock<String>>;

/// The catalog as consensus sees it.
pub(super) struct StateMachine {
    state: Arc<StateDb>,
    snapshots: Arc<SnapshotStore>,
    applied: Option<LogId>,
    membership: StoredMembership,
    /// Tells how much of the log is on disk.
    disk: Arc<DiskHealth>,
    announcer: Announcer,
    clock: ClusterClock,
    failure: Failure,
    /// Between the beginnings of two snapshots that nobody asked for.
    snapshot_pause: Duration,
    snapshot_begun: Option<Instant>,
}

impl StateMachine {
    /// Goes on from where the catalog stands, and tells `announcer` of each batch.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub(super) fn open(
        state: Arc<StateDb>,
        snapshots: Arc<SnapshotStore>,
        disk: Arc<DiskHealth>,
        announcer: Announcer,
    ) -> io::Result<Self> {
        let (applied, membership) = decode_position(
            state.meta(APPLIED_KEY).map_err(io::Error::other)?,
            state.meta(MEMBERSHIP_KEY).map_err(io::Error::other)?,
        )?;
        announcer.everything(applied.map_or(0, |applied| applied.index));
        Ok(Self {
            state,
            snapshots,
            applied,
            membership,
            disk,
            announcer,
            clock: ClusterClock::new(),
            failure: Failure::default(),
            snapshot_pause: Duration::ZERO,
            snapshot_begun: None,
        })
    }

    /// Makes snapshots no more often than with this pause.
    pub(super) fn with_snapshot_pause(self, snapshot_pause: Duration) -> Self {
        Self { snapshot_pause, ..self }
    }

    /// Notes there what could not be done.
    pub(super) fn with_failure(self, failure: Failure) -> Self {
        Self { failure, ..self }
    }

    fn note_failure<T>(&self, done: io::Result<T>) -> io::Result<T> {
        note(&self.failure, done)
    }

    /// Sets that clock by what is applied.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub(super) fn with_clock(self, clock: ClusterClock) -> io::Result<Self> {
        let machine = Self { clock, ..self };
        machine.set_clock()?;
        Ok(machine)
    }

    fn set_clock(&self) -> io::Result<()> {
        let system = catalog::system(self.state.as_ref()).map_err(io::Error::other)?;
        self.clock.learn(system.time_ms);
        Ok(())
    }

    /// The last entry in the catalog.
    pub(super) fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The last entry in the catalog that was on disk in the log of this node, or of the one that the catalog came from, when
    /// the catalog was written. A log with less than that has lost something, unless a snapshot stands in for it.
    ///
    /// # Errors
    /// When the catalog cannot be read, or says something else than an index.
    pub(super) fn durable(&self) -> io::Result<Option<u64>> {
        let Some(bytes) = self.state.meta(DURABLE_KEY).map_err(io::Error::other)? else {
            return Ok(None);
        };
        let bytes = bytes.try_into().map_err(|_| io::Error::other("it names no index"))?;
        Ok(Some(u64::from_be_bytes(bytes)))
    }

    /// Applies one batch and answers its proposers.
    fn apply_batch(&mut self, batch: Vec<EntryResponder<TypeConfig>>) -> io::Result<()> {
        let mut answers: Vec<(ApplyResponder<TypeConfig>, Reply)> = Vec::new();
        let mut transaction = Transaction::new(self.state.as_ref());
        let mut applied = self.applied;
        let mut membership = None;
        let mut time_ms = 0;
        for (entry, responder) in batch {
            applied = Some(entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Blank => Reply::Done,
                EntryPayload::Normal(logged) => {
                    let index = entry.log_id.index;
                    let command = logged.decode().map_err(|error| {
                        io::Error::other(format!(
                            "the command at {index} cannot be decoded: {error}; was it written by a newer version of this \
                             program?"
                        ))
                    })?;
                    time_ms = time_ms.max(command.time_ms);
                    let outcome =
                        apply(&mut transaction, index, &command).map_err(io::Error::other)?;
                    outcome.reply
                }
                EntryPayload::Membership(new) => {
                    membership = Some(StoredMembership::new(Some(entry.log_id), new));
                    Reply::Done
                }
            };
            if let Some(responder) = responder {
                answers.push((responder, reply));
            }
        }
        let changes = transaction.into_batch();
        let mut meta = vec![(APPLIED_KEY, codec::encode(&applied))];
        let durable = self.disk.durable().min(applied.map(|applied| applied.index));
        if let Some(durable) = durable {
            meta.push((DURABLE_KEY, durable.to_be_bytes().to_vec()));
        }
        if let Some(membership) = &membership {
            meta.push((MEMBERSHIP_KEY, codec::encode(membership)));
        }
        let written = self.disk.while_writing(|| self.state.write(&changes, &meta));
        written.map_err(io::Error::other)?;
        self.applied = applied;
        if let Some(membership) = membership {
            self.membership = membership;
        }
        self.clock.learn(time_ms);
        self.announcer.batch(applied.map_or(0, |applied| applied.index), &changes);
        for (responder, reply) in answers {
            responder.send(reply);
        }
        Ok(())
    }
}

/// How far a database has come, read from its own rows.
fn decode_position(
    applied: Option<Vec<u8>>,
    membership: Option<Vec<u8>>,
) -> io::Result<(Option<LogId>, StoredMembership)> {
    let applied = match applied {
        Some(bytes) => codec::decode(&bytes).map_err(io::Error::other)?,
        None => None,
    };
    let membership = match membership {
        Some(bytes) => codec::decode(&bytes).map_err(io::Error::other)?,
        None => StoredMembership::default(),
    };
    Ok((applied, membership))
}

/// How far a catalog has come.
pub(super) fn position(state: &StateDb) -> io::Result<Option<LogId>> {
    let applied = state.meta(APPLIED_KEY).map_err(io::Error::other)?;
    Ok(decode_position(applied, None)?.0)
}

/// A catalog as it is now, and the last entry in it.
pub(super) fn moment(state: &StateDb) -> Result<(SnapshotView, u64), StateError> {
    let view = state.snapshot_view();
    let applied = decode_position(view.meta(APPLIED_KEY)?, None)
        .map_err(|error| StateError::Read(error.to_string()))?
        .0;
    Ok((view, applied.map_or(0, |applied| applied.index)))
}

/// How far the database of a checkpoint has come.
pub(super) fn checkpoint_meta(path: &std::path::Path) -> io::Result<SnapshotMeta> {
    let read = |key| StateDb::checkpoint_meta(path, key).map_err(io::Error::other);
    let (last_log_id, last_membership) =
        decode_position(read(APPLIED_KEY)?, read(MEMBERSHIP_KEY)?)?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

/// Makes a snapshot beside the commands that are applied meanwhile.
///
/// Taking the checkpoint brings what is in memory to disk, which takes a tenth of a second under load; no command waits for
/// that. Where in the log the snapshot stands is read from the checkpoint itself: the tables and the position in it were
/// written together, so whatever has been applied by then belongs to it.
pub(super) struct SnapshotBuilder {
    state: Arc<StateDb>,
    snapshots: Arc<SnapshotStore>,
    failure: Failure,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Arc<StoredSnapshot>;

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<TypeConfig, Arc<StoredSnapshot>>> {
        let (state, snapshots) = (Arc::clone(&self.state), Arc::clone(&self.snapshots));
        let built = blocking(move || {
            let started = Instant::now();
            let path = snapshots.begin().map_err(io::Error::other)?;
            state.checkpoint(&path).map_err(io::Error::other)?;
            let built = snapshots.finish(&path)?;
            metrics::histogram!("reelraft_raft_snapshot_seconds").record(started.elapsed());
            Ok(built)
        })
        .await;
        let built = note(&self.failure, built)?;
        Ok(Snapshot { meta: built.meta().clone(), snapshot: built })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<StoredSnapshot>;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(next) = entries.next().await {
            let (entry, responder): (Entry, _) = next?;
            bytes += entry_bytes(&entry);
            batch.push((entry, responder));
            if batch.len() >= BATCH_ENTRIES_MAX || bytes >= BATCH_BYTES_MAX {
                let applied = self.apply_batch(std::mem::take(&mut batch));
                self.note_failure(applied)?;
                bytes = 0;
                // Heartbeats share this thread.
                tokio::task::yield_now().await;
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let applied = self.apply_batch(batch);
        self.note_failure(applied)
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<SnapshotBuilder> {
        let soon = self.snapshot_begun.is_some_and(|begun| begun.elapsed() < self.snapshot_pause);
        if soon && !force {
            return None;
        }
        self.snapshot_begun = Some(Instant::now());
        Some(SnapshotBuilder {
            state: Arc::clone(&self.state),
            snapshots: Arc::clone(&self.snapshots),
            failure: Arc::clone(&self.failure),
        })
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        self.try_create_snapshot_builder(true)
            .await
            .expect("a snapshot that is forced is never put off")
    }

    /// Keeps the snapshot, then puts its database in the place of the present one. After a crash between the two, the start
    /// finds a snapshot that is ahead of the catalog and installs it again.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<StoredSnapshot>,
    ) -> io::Result<()> {
        let state = Arc::clone(&self.state);
        let snapshots = Arc::clone(&self.snapshots);
        let installed = blocking(move || {
            let kept = snapshots.keep(snapshot)?;
            state.replace(&kept.database()).map_err(io::Error::other)?;
            if let Err(error) = snapshots.forget_incoming() {
                tracing::warn!(%error, "what a snapshot arrived as stays on disk for now");
            }
            Ok(kept)
        })
        .await;
        let installed = self.note_failure(installed)?;
        let (applied, membership) = decode_position(
            self.state.meta(APPLIED_KEY).map_err(io::Error::other)?,
            self.state.meta(MEMBERSHIP_KEY).map_err(io::Error::other)?,
        )?;
        if applied != meta.last_log_id || installed.meta() != meta {
            return Err(io::Error::other(format!(
                "the snapshot says that it ends at {:?}, its database ends at {applied:?}",
                meta.last_log_id
            )));
        }
        self.applied = applied;
        self.membership = membership;
        self.set_clock()?;
        self.announcer.everything(applied.map_or(0, |applied| applied.index));
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<SnapshotOf<TypeConfig, Arc<StoredSnapshot>>>> {
        Ok(self
            .snapshots
            .current()
            .map(|stored| Snapshot { meta: stored.meta().clone(), snapshot: stored }))
    }
}

/// Keeps the first failure: the others follow from it.
fn note<T>(failure: &Failure, done: io::Result<T>) -> io::Result<T> {
    done.inspect_err(|error| drop(failure.set(error.to_string())))
}

/// Runs disk work where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests;
