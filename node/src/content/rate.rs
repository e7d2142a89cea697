//! Bytes per second, over the last few seconds.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Long enough to be calm, short enough to show that something has stopped.
const WINDOW: Duration = Duration::from_secs(10);
/// Events closer together than this are kept as one, which bounds how many are kept.
const STEP: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct RateMeter {
    events: Mutex<VecDeque<(Instant, u64)>>,
}

impl RateMeter {
    pub(super) fn note(&self, bytes: u64) {
        let now = Instant::now();
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        match events.back_mut() {
            Some((at, sum)) if now.duration_since(*at) < STEP => *sum += bytes,
            _ => events.push_back((now, bytes)),
        }
        forget(&mut events, now);
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        forget(&mut events, Instant::now());
        events.iter().map(|(_, bytes)| bytes).sum::<u64>() / WINDOW.as_secs()
    }
}

fn forget(events: &mut VecDeque<(Instant, u64)>, now: Instant) {
    while events.front().is_some_and(|(at, _)| now.duration_since(*at) > WINDOW) {
        events.pop_front();
    }
}
