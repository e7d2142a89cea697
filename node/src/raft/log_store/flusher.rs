//! One thread that brings writes to disk, as many as there are with each fsync.
//!
//! While an fsync runs, the writes that arrive meanwhile gather in the queue; the next fsync covers all of them. So the
//! number of writes per second is not bound to the number of fsyncs per second, and one writer alone waits for no more than
//! its own fsync.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::super::types::TypeConfig;

/// Writes that may wait for the disk. Consensus appends in batches of up to thousands of entries, so this is more than it
/// can have under way; a full queue makes it wait.
const QUEUE_LENGTH: usize = 1024;

/// An fsync that takes longer is worth a line in the log: a healthy disk needs milliseconds.
const SLOW: Duration = Duration::from_millis(500);

/// What brings the log's writes to disk. There is one; tests put a sick one in its place.
pub(in crate::raft) trait Disk: Send + 'static {
    /// Returns when all that was written before is on disk. Blocks.
    ///
    /// # Errors
    /// When it is not; nobody can know then what is.
    fn sync(&self) -> Result<(), String>;

    /// Writes down what the last [`sync`](Self::sync) has brought to disk, once nobody waits for it any more.
    ///
    /// # Errors
    /// When the disk takes no more.
    fn mark(&self) -> Result<(), String>;
}

/// Who is told when a write is on disk.
pub(super) enum Waiter {
    /// The index of the last entry goes with it.
    Entries(IOFlushed<TypeConfig>, Option<u64>),
    Vote(oneshot::Sender<io::Result<()>>),
    /// Nobody: it only shows whether the disk still works.
    Canary,
}

impl Waiter {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Entries(callback, _) => callback.io_completed(result),
            Self::Vote(done) => {
                // Whoever asked has been dropped; the write itself counts all the same.
                let _ = done.send(result);
            }
            Self::Canary => {}
        }
    }
}

/// How the disk does.
#[derive(Debug)]
pub(in crate::raft) struct DiskHealth {
    started: Instant,
    /// When the oldest write was submitted that is being brought to disk: nanoseconds since `started`, 0 for none.
    flushing: AtomicU64,
    /// When a write to the kernel began that has not returned, likewise.
    writing: AtomicU64,
    /// When the last fsync succeeded, likewise.
    flushed: AtomicU64,
    /// The index after the last entry that is known to be on disk.
    durable_end: AtomicU64,
    /// Whether the watch over the disk takes it for ill.
    stalled: AtomicBool,
}

impl DiskHealth {
    fn new(durable: Option<u64>) -> Self {
        Self {
            started: Instant::now(),
            flushing: AtomicU64::new(0),
            writing: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            durable_end: AtomicU64::new(durable.map_or(0, |last| last + 1)),
            stalled: AtomicBool::new(false),
        }
    }

    fn stamp(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.started);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX).max(1)
    }

    /// Names the work that the disk has not finished, and tells how old it is. `None` when it has finished everything.
    pub(in crate::raft) fn unfinished(&self) -> Option<(u64, Duration)> {
        let stamps = [self.flushing.load(Ordering::Acquire), self.writing.load(Ordering::Acquire)];
        let oldest = stamps.into_iter().filter(|stamp| *stamp != 0).min()?;
        Some((oldest, self.started.elapsed().saturating_sub(Duration::from_nanos(oldest))))
    }

    /// How long ago the last fsync ended well.
    pub(in crate::raft) fn last_success(&self) -> Duration {
        let at = Duration::from_nanos(self.flushed.load(Ordering::Acquire));
        self.started.elapsed().saturating_sub(at)
    }

    /// The last entry that is certainly on disk.
    pub(in crate::raft) fn durable(&self) -> Option<u64> {
        self.durable_end.load(Ordering::Acquire).checked_sub(1)
    }

    /// The entries from `from` on are removed from the log: those that take their place are not on disk yet.
    pub(super) fn truncated(&self, from: u64) {
        self.durable_end.fetch_min(from, Ordering::AcqRel);
    }

    /// Whether it has owed an answer for too long.
    pub(in crate::raft) fn is_stalled(&self) -> bool {
        self.stalled.load(Ordering::Relaxed)
    }

    pub(in crate::raft) fn set_stalled(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Does `work`, which may block on the disk. One at a time: there is one thread of consensus, and only it writes.
    pub(in crate::raft) fn while_writing<T>(&self, work: impl FnOnce() -> T) -> T {
        self.writing.store(self.stamp(Instant::now()), Ordering::Release);
        let done = work();
        self.writing.store(0, Ordering::Release);
        done
    }
}

/// The handle of the thread. Dropping it waits for the writes under way.
pub(super) struct Flusher {
    queue: Option<mpsc::Sender<(Instant, Waiter)>>,
    thread: Option<JoinHandle<()>>,
    health: Arc<DiskHealth>,
}

impl Flusher {
    /// Starts the thread. `durable` is the last entry that is on disk already.
    pub(super) fn start(disk: Box<dyn Disk>, durable: Option<u64>) -> Self {
        let (queue, waiters) = mpsc::channel(QUEUE_LENGTH);
        let health = Arc::new(DiskHealth::new(durable));
        let thread = std::thread::Builder::new()
            .name("raft-flush".to_owned())
            .spawn({
                let health = Arc::clone(&health);
                move || run(disk.as_ref(), &health, waiters)
            })
            .expect("a thread can be started while the node starts");
        Self { queue: Some(queue), thread: Some(thread), health }
    }

    pub(super) fn health(&self) -> &Arc<DiskHealth> {
        &self.health
    }

    fn queue(&self) -> &mpsc::Sender<(Instant, Waiter)> {
        self.queue.as_ref().expect("the queue is taken only when this is dropped")
    }

    /// Has `waiter` told when all that was written before this call is on disk.
    ///
    /// # Errors
    /// When the thread has ended, which it does only with the store.
    pub(super) async fn submit(&self, waiter: Waiter) -> io::Result<()> {
        self.queue()
            .send((Instant::now(), waiter))
            .await
            .map_err(|_| io::Error::other("the flusher has stopped"))
    }

    /// Has the disk asked for a sign of life, unless it has enough to do.
    pub(super) fn submit_canary(&self) {
        let _ = self.queue().try_send((Instant::now(), Waiter::Canary));
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        drop(self.queue.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that flushes the log panicked");
        }
    }
}

fn run(disk: &dyn Disk, health: &DiskHealth, mut queue: mpsc::Receiver<(Instant, Waiter)>) {
    // After a failed fsync the kernel may have dropped the pages, and a second one would wrongly succeed: no write of this
    // process counts any more.
    let mut failed: Option<String> = None;
    let mut waiters = Vec::new();
    while queue.blocking_recv_many(&mut waiters, QUEUE_LENGTH) > 0 {
        if failed.is_none() {
            let started = Instant::now();
            let oldest = waiters.first().map_or(started, |(submitted, _)| *submitted);
            health.flushing.store(health.stamp(oldest), Ordering::Release);
            match disk.sync() {
                Ok(()) => {
                    let mut ends = waiters.iter().rev().filter_map(|(_, waiter)| match waiter {
                        Waiter::Entries(_, last) => *last,
                        Waiter::Vote(_) | Waiter::Canary => None,
                    });
                    if let Some(last) = ends.next() {
                        health.durable_end.store(last + 1, Ordering::Release);
                    }
                    health.flushed.store(health.stamp(Instant::now()), Ordering::Release);
                }
                Err(error) => {
                    tracing::error!(
                        error,
                        "the log could not be brought to disk: this node writes no more"
                    );
                    failed = Some(error);
                }
            }
            let took = started.elapsed();
            metrics::histogram!("reelraft_raft_fsync_seconds").record(took);
            if took > SLOW {
                tracing::warn!(milliseconds = took.as_millis(), "the disk of the log is slow");
            }
        }
        for (_, waiter) in waiters.drain(..) {
            waiter.complete(match &failed {
                None => Ok(()),
                Some(reason) => Err(io::Error::other(reason.clone())),
            });
        }
        if failed.is_none()
            && let Err(error) = disk.mark()
        {
            tracing::error!(error, "the log takes no more: this node writes no more");
            failed = Some(error);
        }
        health.flushing.store(0, Ordering::Release);
    }
}
