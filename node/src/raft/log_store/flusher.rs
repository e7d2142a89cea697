//! One thread that brings writes to disk, as many as there are with each fsync.
//!
//! While an fsync runs, the writes that arrive meanwhile gather in the queue; the next fsync covers all of them. So the
//! number of writes per second is not bound to the number of fsyncs per second, and one writer alone waits for no more than
//! its own fsync.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::storage::IOFlushed;
use rocksdb::DB;
use tokio::sync::{mpsc, oneshot};

use super::super::types::TypeConfig;

/// Writes that may wait for the disk. Consensus appends in batches of up to thousands of entries, so this is more than it
/// can have under way; a full queue makes it wait.
const QUEUE_LENGTH: usize = 1024;

/// An fsync that takes longer is worth a line in the log: a healthy disk needs milliseconds.
const SLOW: Duration = Duration::from_millis(500);

/// Who is told when a write is on disk.
pub(super) enum Waiter {
    Entries(IOFlushed<TypeConfig>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Waiter {
    fn complete(self, result: io::Result<()>) {
        match self {
            Self::Entries(callback) => callback.io_completed(result),
            Self::Vote(done) => {
                // Whoever asked has been dropped; the write itself counts all the same.
                let _ = done.send(result);
            }
        }
    }
}

/// The handle of the thread. Dropping it waits for the writes under way.
pub(super) struct Flusher {
    queue: Option<mpsc::Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn start(db: Arc<DB>) -> Self {
        let (queue, waiters) = mpsc::channel(QUEUE_LENGTH);
        let thread = std::thread::Builder::new()
            .name("raft-flush".to_owned())
            .spawn(move || run(&db, waiters))
            .expect("a thread can be started while the node starts");
        Self { queue: Some(queue), thread: Some(thread) }
    }

    /// Has `waiter` told when all that was written before this call is on disk.
    ///
    /// # Errors
    /// When the thread has ended, which it does only with the store.
    pub(super) async fn submit(&self, waiter: Waiter) -> io::Result<()> {
        let queue = self.queue.as_ref().expect("the queue is taken only when this is dropped");
        queue.send(waiter).await.map_err(|_| io::Error::other("the flusher has stopped"))
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

fn run(db: &DB, mut queue: mpsc::Receiver<Waiter>) {
    // After a failed fsync the kernel may have dropped the pages, and a second one would wrongly succeed: no write of this
    // process counts any more.
    let mut failed: Option<String> = None;
    let mut waiters = Vec::new();
    while queue.blocking_recv_many(&mut waiters, QUEUE_LENGTH) > 0 {
        if failed.is_none() {
            let started = Instant::now();
            if let Err(error) = db.flush_wal(true) {
                failed = Some(error.into_string());
            }
            let took = started.elapsed();
            metrics::histogram!("reelraft_raft_fsync_seconds").record(took);
            if took > SLOW {
                tracing::warn!(milliseconds = took.as_millis(), "the disk of the log is slow");
            }
        }
        for waiter in waiters.drain(..) {
            waiter.complete(match &failed {
                None => Ok(()),
                Some(reason) => Err(io::Error::other(reason.clone())),
            });
        }
    }
}
