//! Group commit: many writers, one fsync.
//!
//! RocksDB joins concurrent synchronous writers into one fsync only up to a mebibyte in all, which is less than one block.
//! So blocks are written without fsync, and one thread flushes the log for everybody who has written since its last flush.
//! Whoever comes while it is flushing waits for the next flush. Groups therefore grow by themselves just as far as the
//! disk is slow: one lone writer waits for nobody, and no timer has to be tuned.
//!
//! The first flush that fails is the last one. The kernel may have dropped what it could not write and call the next flush a
//! success, so nobody is told that anything is durable from then on.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

/// Writers that may queue up for the next flush. Each of them holds a thread of the writers' pool until it is in the queue,
/// so there are never more than a handful that could wait for room.
const QUEUE_LEN: usize = 1024;

type Answer = Result<(), Arc<str>>;

/// The flushing thread's handle. When it is dropped, the thread flushes a last time for those in the queue and ends.
#[derive(Debug)]
pub(super) struct Committer {
    /// `None` only while it is being dropped.
    queue: Option<SyncSender<oneshot::Sender<Answer>>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<OnceLock<Arc<str>>>,
}

/// A place in the next group. Resolves when that group is durable, or has failed.
#[derive(Debug)]
pub(super) struct Ticket(oneshot::Receiver<Answer>);

impl Ticket {
    pub(super) async fn durable(self) -> Answer {
        // The thread answers everybody whom it takes from the queue; it can only be gone because it panicked.
        self.0.await.unwrap_or_else(|_| Err(Arc::from("the committing thread is gone")))
    }
}

impl Committer {
    /// Starts the thread. `flush` makes durable all that was written before it was called.
    pub(super) fn start(
        flush: impl FnMut() -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, waiters) = sync_channel(QUEUE_LEN);
        let failure = Arc::new(OnceLock::new());
        let failed = Arc::clone(&failure);
        let thread = thread::Builder::new()
            .name("block-commit".into())
            .spawn(move || run(&waiters, &failed, flush))?;
        Ok(Self { queue: Some(queue), thread: Some(thread), failure })
    }

    /// Joins the next group. To be called after the write, on a thread that may block.
    pub(super) fn join(&self) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        // Fails only when the thread is gone; then the ticket says so.
        if let Some(queue) = &self.queue {
            let _ = queue.send(answer);
        }
        Ticket(ticket)
    }

    /// Why nothing can be made durable any more.
    pub(super) fn failure(&self) -> Option<Arc<str>> {
        self.failure.get().cloned()
    }

    /// Notes a failure of a write itself, which leaves the log in doubt just as a failed flush does.
    pub(super) fn fail(&self, reason: &str) {
        if self.failure.set(Arc::from(reason)).is_ok() {
            tracing::error!(
                reason,
                "the block store takes no more writes until the node starts again"
            );
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

fn run(
    waiters: &Receiver<oneshot::Sender<Answer>>,
    failure: &OnceLock<Arc<str>>,
    mut flush: impl FnMut() -> Result<(), String>,
) {
    let mut group = Vec::new();
    while let Ok(first) = waiters.recv() {
        group.push(first);
        group.extend(waiters.try_iter().take(QUEUE_LEN));
        let result = match failure.get() {
            Some(reason) => Err(Arc::clone(reason)),
            None => flush().map_err(|reason| {
                tracing::error!(
                    reason,
                    "fsync failed: the block store takes no more writes until the node starts again"
                );
                Arc::clone(failure.get_or_init(|| Arc::from(reason)))
            }),
        };
        for waiter in group.drain(..) {
            // Whoever has stopped waiting is not told.
            let _ = waiter.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn those_who_come_during_a_flush_share_the_next_one() {
        let flushes = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&flushes);
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let committer = Committer::start(move || {
            count.fetch_add(1, Ordering::SeqCst);
            begun.send(()).unwrap();
            may_go_on.recv().map_err(|error| error.to_string())
        })
        .unwrap();

        let first = committer.join();
        has_begun.recv().unwrap();
        let others: Vec<_> = (0..20).map(|_| committer.join()).collect();
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(first.durable().await, Ok(()));
        for other in others {
            assert_eq!(other.durable().await, Ok(()));
        }
        assert_eq!(flushes.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn after_a_failed_flush_nothing_is_durable_any_more() {
        let mut results =
            vec![Ok(()), Err("No space on this planet".to_owned()), Ok(())].into_iter();
        let committer = Committer::start(move || results.next().unwrap()).unwrap();
        assert_eq!(committer.join().durable().await, Ok(()));
        assert_eq!(committer.failure(), None);

        let failed = Err(Arc::from("No space on this planet"));
        assert_eq!(committer.join().durable().await, failed);
        assert_eq!(
            committer.join().durable().await,
            failed,
            "the third flush would have succeeded"
        );
        assert_eq!(committer.failure().as_deref(), Some("No space on this planet"));
    }
}
