//! Group commit: many writers, one fsync.
//!
//! Writers write without fsync, and one thread makes durable what everybody has written since it last did so. Whoever comes
//! meanwhile waits for the next time. Groups therefore grow by themselves just as far as the disk is slow: one lone writer
//! waits for nobody, and no timer has to be tuned.
//!
//! The first failure is the last one. The kernel may have dropped what it could not write and call the next fsync a
//! success, so nobody is told that anything is durable from then on.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};

use tokio::sync::oneshot;

/// Writers that may queue up for the next group. Each of them holds a thread of the writers' pool until it is in the queue,
/// so there are never more than a handful that could wait for room.
const QUEUE_LEN: usize = 1024;

type Answer = Result<(), Arc<str>>;

/// Why nothing can be made durable any more, once that is so. Shared by all that write.
#[derive(Clone, Debug, Default)]
pub(super) struct Failure(Arc<OnceLock<Arc<str>>>);

impl Failure {
    pub(super) fn get(&self) -> Option<Arc<str>> {
        self.0.get().cloned()
    }

    /// Notes one, and says which was the first.
    pub(super) fn note(&self, reason: &str) -> Arc<str> {
        let first = self.0.get_or_init(|| {
            tracing::error!(
                reason,
                "the block store takes no more writes until the node starts again"
            );
            Arc::from(reason)
        });
        Arc::clone(first)
    }
}

struct Waiter<T> {
    change: T,
    answer: oneshot::Sender<Answer>,
}

/// The committing thread's handle. When it is dropped, the thread commits a last time what is in the queue and ends.
#[derive(Debug)]
pub(super) struct Committer<T> {
    /// `None` only while it is being dropped.
    queue: Option<SyncSender<Waiter<T>>>,
    thread: Option<JoinHandle<()>>,
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

impl<T: Send + 'static> Committer<T> {
    /// Starts the thread. `commit` makes durable what was written before it was called; it is not called again after a
    /// failure.
    pub(super) fn start(
        failure: Failure,
        commit: impl FnMut(Vec<T>) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, waiters) = sync_channel(QUEUE_LEN);
        let thread = thread::Builder::new()
            .name("block-commit".into())
            .spawn(move || run(&waiters, &failure, commit))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }

    /// Joins the next group. To be called after the write, on a thread that may block.
    pub(super) fn join(&self, change: T) -> Ticket {
        let (answer, ticket) = oneshot::channel();
        // Fails only when the thread is gone; then the ticket says so.
        if let Some(queue) = &self.queue {
            let _ = queue.send(Waiter { change, answer });
        }
        Ticket(ticket)
    }
}

impl<T> Drop for Committer<T> {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic over there has been reported over there.
            let _ = thread.join();
        }
    }
}

fn run<T>(
    waiters: &Receiver<Waiter<T>>,
    failure: &Failure,
    mut commit: impl FnMut(Vec<T>) -> Result<(), String>,
) {
    while let Ok(first) = waiters.recv() {
        let group = std::iter::once(first).chain(waiters.try_iter().take(QUEUE_LEN));
        let (changes, answers): (Vec<_>, Vec<_>) =
            group.map(|waiter| (waiter.change, waiter.answer)).unzip();
        let result = match failure.get() {
            Some(reason) => Err(reason),
            None => commit(changes).map_err(|reason| failure.note(&reason)),
        };
        for answer in answers {
            // Whoever has stopped waiting is not told.
            let _ = answer.send(result.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn those_who_come_during_a_commit_share_the_next_one() {
        let (begun, has_begun) = mpsc::channel();
        let (go_on, may_go_on) = mpsc::channel::<()>();
        let committer = Committer::start(Failure::default(), move |group| {
            begun.send(group).unwrap();
            may_go_on.recv().map_err(|error| error.to_string())
        })
        .unwrap();

        let first = committer.join(0);
        assert_eq!(has_begun.recv().unwrap(), [0]);
        let others: Vec<_> = (1..20).map(|change| committer.join(change)).collect();
        go_on.send(()).unwrap();
        go_on.send(()).unwrap();
        assert_eq!(first.durable().await, Ok(()));
        for other in others {
            assert_eq!(other.durable().await, Ok(()));
        }
        assert_eq!(has_begun.recv().unwrap(), (1..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn after_a_failed_commit_nothing_is_durable_any_more() {
        let mut results =
            vec![Ok(()), Err("No space on this planet".to_owned()), Ok(())].into_iter();
        let failure = Failure::default();
        let committer =
            Committer::start(failure.clone(), move |_| results.next().unwrap()).unwrap();
        assert_eq!(committer.join(()).durable().await, Ok(()));
        assert_eq!(failure.get(), None);

        let failed = Err(Arc::from("No space on this planet"));
        assert_eq!(committer.join(()).durable().await, failed);
        assert_eq!(
            committer.join(()).durable().await,
            failed,
            "the third commit would have succeeded"
        );
        assert_eq!(failure.get().as_deref(), Some("No space on this planet"));
    }
}
