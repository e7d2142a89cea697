//! Sequence numbers for commands: each is used once, and the catalog is told which ones need no answer any more.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cluster::apply::REPLY_WINDOW;
use tokio::sync::Notify;

/// How far the newest number may be ahead of the oldest one without an answer: the catalog remembers the replies to
/// [`REPLY_WINDOW`] numbers, and would refuse an older command that arrives late.
const SPREAD_MAX: u64 = REPLY_WINDOW / 2;

#[derive(Default)]
struct Numbers {
    last: u64,
    waiting: BTreeSet<u64>,
}

/// The numbers of one proposer.
#[derive(Default)]
pub(super) struct Window {
    numbers: Mutex<Numbers>,
    answered: Notify,
}

/// A number in use. Dropping it says that the answer has arrived or that nobody waits for it any more.
pub(super) struct Ticket {
    window: Arc<Window>,
    pub(super) sequence: u64,
    /// All numbers below have their answers.
    pub(super) answered_below: u64,
}

impl Window {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next number, as soon as the oldest one without an answer is not too far behind.
    pub(super) async fn take(self: &Arc<Self>) -> Ticket {
        loop {
            // Registered before the look, so that an answer between the two is not missed.
            let answered = self.answered.notified();
            if let Some(ticket) = self.try_take() {
                return ticket;
            }
            answered.await;
        }
    }

    fn try_take(self: &Arc<Self>) -> Option<Ticket> {
        let mut numbers = self.numbers();
        let sequence = numbers.last + 1;
        let oldest = numbers.waiting.first().copied().unwrap_or(sequence);
        if sequence - oldest >= SPREAD_MAX {
            return None;
        }
        numbers.last = sequence;
        numbers.waiting.insert(sequence);
        Some(Ticket { window: Arc::clone(self), sequence, answered_below: oldest })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.window.numbers().waiting.remove(&self.sequence);
        self.window.answered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_number_holds_the_others_back() {
        let window = Arc::new(Window::default());
        let oldest = window.try_take().unwrap();
        assert_eq!((oldest.sequence, oldest.answered_below), (1, 1));
        for sequence in 2..=SPREAD_MAX {
            let ticket = window.try_take().unwrap();
            assert_eq!((ticket.sequence, ticket.answered_below), (sequence, 1));
        }
        assert!(window.try_take().is_none());
        drop(oldest);
        let next = window.try_take().unwrap();
        assert_eq!((next.sequence, next.answered_below), (SPREAD_MAX + 1, SPREAD_MAX + 1));
    }

    #[tokio::test]
    async fn a_waiter_goes_on_when_the_oldest_is_answered() {
        let window = Arc::new(Window::default());
        let oldest = window.take().await;
        for _ in 2..=SPREAD_MAX {
            drop(window.take().await);
        }
        let waiting = tokio::spawn({
            let window = Arc::clone(&window);
            async move { window.take().await.sequence }
        });
        tokio::task::yield_now().await;
        drop(oldest);
        assert_eq!(waiting.await.unwrap(), SPREAD_MAX + 1);
    }
}
