//! Threads for what would hold up the async executor: hashing megabytes, reading and writing files.
//!
//! Tokio's blocking threads do the work; a pool bounds how many of them one kind of work may take, so that writers which wait
//! for the disk leave the readers alone.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// At most so many pieces of one kind of blocking work at a time. Clones share the bound.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    slots: Arc<Semaphore>,
}

impl Pool {
    pub(crate) fn new(threads: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(threads.max(1))) }
    }

    /// As many as work that needs the processor can use.
    pub(crate) fn for_processors() -> Self {
        Self::new(std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// Runs `work` on a blocking thread once there is a slot. Work that has begun goes on when the caller stops waiting.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        let slot = Arc::clone(&self.slots).acquire_owned().await.expect("it is never closed");
        let running = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(slot);
            result
        });
        match running.await {
            Ok(result) => result,
            // A release build aborts at the panic itself; the runtime drops waiting work only when it ends.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => std::future::pending().await,
            },
        }
    }
}
