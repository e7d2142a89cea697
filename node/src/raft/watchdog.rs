//! What consensus does when the disk of its log is slow or hangs, which openraft takes for a disk that is merely slow.
//!
//! A leader can lead without a disk: the others are a majority. But each entry waits for the slower of them then, and when
//! the leader's own writes never come to rest, it is one failure away from a stop. So it lets somebody else lead as soon as
//! its disk owes an answer for [`RaftSettings::stall_ms`], and asks for no votes until the disk works again. A disk that
//! says nothing for [`RaftSettings::hang_ms`] is not coming back: the process ends, and the others know that it is gone.
//!
//! A node whose disk does not answer gives no votes and acknowledges nothing all the while, because both wait for the disk.
//!
//! A disk that nobody writes to is asked for a sign of life every second. The watch has a thread of its own, so that it goes
//! on when all others wait for the disk.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use tokio::runtime::Handle;

use super::log_store::LogStore;
use super::{Raft, RaftSettings};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A disk that has had nothing to do for this long is asked for a sign of life.
const CANARY_EVERY: Duration = Duration::from_secs(1);

/// Between two tries at handing over leadership. The first is to the follower that is closest; after that the leader falls
/// silent as well, so that those who can elect somebody do.
const HAND_OVER_EVERY: Duration = Duration::from_secs(1);

/// What is done when this node must not go on: the process ends, unless a test wants to see it.
pub(super) type GiveUp = Arc<dyn Fn(&str) + Send + Sync>;

/// The watch. It ends when this is dropped.
pub(super) struct Watchdog {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How long the disk has owed the same answer, counted while somebody watched: a process that was paused as a whole has not
/// waited for its disk.
#[derive(Default)]
struct Patience {
    unfinished: Option<u64>,
    waited: Duration,
}

impl Patience {
    fn look(&mut self, unfinished: Option<(u64, Duration)>, since_last_look: Duration) -> Duration {
        match unfinished {
            None => *self = Self::default(),
            Some((name, age)) if self.unfinished == Some(name) => {
                self.waited = (self.waited + since_last_look.min(2 * LOOK_EVERY)).min(age);
            }
            Some((name, age)) => {
                *self = Self { unfinished: Some(name), waited: age.min(LOOK_EVERY) };
            }
        }
        self.waited
    }
}

struct Watch {
    raft: Raft,
    log: LogStore,
    runtime: Handle,
    stall: Duration,
    hang: Duration,
    give_up: GiveUp,
    patience: Patience,
    /// Since when the disk is taken for ill, and when leadership was last offered to somebody.
    ill: Option<Instant>,
    offered: Option<Instant>,
}

impl Watchdog {
    pub(super) fn start(
        settings: &RaftSettings,
        raft: Raft,
        log: LogStore,
        runtime: Handle,
        give_up: GiveUp,
    ) -> std::io::Result<Self> {
        let mut watch = Watch {
            raft,
            log,
            runtime,
            stall: Duration::from_millis(settings.stall_ms),
            hang: Duration::from_millis(settings.hang_ms),
            give_up,
            patience: Patience::default(),
            ill: None,
            offered: None,
        };
        let (stop, stopped) = channel();
        let thread =
            std::thread::Builder::new().name("raft-watch".to_owned()).spawn(move || {
                let mut last = Instant::now();
                while matches!(stopped.recv_timeout(LOOK_EVERY), Err(RecvTimeoutError::Timeout)) {
                    let now = Instant::now();
                    if !watch.look(now, now - last) {
                        return;
                    }
                    last = now;
                }
            })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the disk panicked");
        }
    }
}

impl Watch {
    /// Returns whether there is any use in looking again.
    fn look(&mut self, now: Instant, since_last_look: Duration) -> bool {
        let health = self.log.health();
        let waited = self.patience.look(health.unfinished(), since_last_look);
        metrics::gauge!("reelraft_raft_append_age_seconds").set(waited.as_secs_f64());
        if waited == Duration::ZERO && health.last_success() >= CANARY_EVERY {
            self.log.ask_disk();
        }
        if waited >= self.hang {
            (self.give_up)(&format!(
                "the disk of the log or of the catalog has not answered for {waited:.1?}; it may be broken or unplugged"
            ));
            return false;
        }
        if waited >= self.stall {
            self.be_ill(now, waited);
        } else if self.ill.is_some() && waited < self.stall / 2 {
            self.be_well(now);
        }
        true
    }

    fn be_ill(&mut self, now: Instant, waited: Duration) {
        if self.ill.is_none() {
            tracing::error!(
                "the disk of the log or of the catalog has not answered for {waited:.1?}: this node votes for nobody and does not lead"
            );
            metrics::counter!("reelraft_raft_disk_stalls_total").increment(1);
            self.ill = Some(now);
            self.log.health().set_stalled(true);
            self.raft.runtime_config().elect(false);
        }
        let metrics = self.raft.metrics().borrow_watched().clone();
        if metrics.state != ServerState::Leader {
            return;
        }
        match self.offered {
            Some(offered) if now - offered < HAND_OVER_EVERY => return,
            Some(_) => {
                tracing::warn!(
                    "nobody took over yet: this node falls silent, so that the others elect somebody"
                );
                self.raft.runtime_config().heartbeat(false);
            }
            None => {}
        }
        self.offered = Some(now);
        let replication = metrics.replication.unwrap_or_default();
        let heir = metrics
            .membership_config
            .voter_ids()
            .filter(|voter| *voter != metrics.id)
            .max_by_key(|voter| replication.get(voter).copied().flatten());
        if let Some(heir) = heir {
            tracing::warn!(heir, "handing over leadership because of the disk");
            let raft = self.raft.clone();
            self.runtime.spawn(async move { raft.trigger().transfer_leader(heir).await });
        }
    }

    fn be_well(&mut self, now: Instant) {
        let ill = self.ill.take().map(|since| now - since).unwrap_or_default();
        tracing::info!("the disk of the log or of the catalog answers again, after {ill:.1?}");
        self.offered = None;
        self.log.health().set_stalled(false);
        self.raft.runtime_config().elect(true);
        self.raft.runtime_config().heartbeat(true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_in_which_somebody_watched_counts() {
        let mut patience = Patience::default();
        let (short, long) = (LOOK_EVERY, Duration::from_secs(60));
        assert_eq!(patience.look(None, short), Duration::ZERO);
        assert_eq!(patience.look(Some((1, short / 2)), short), short / 2);
        assert_eq!(patience.look(Some((1, short * 2)), short), short * 3 / 2);
        // The process was paused for a minute.
        assert_eq!(patience.look(Some((1, long)), long), short * 7 / 2);
        // The answer came, and something else is under way.
        assert_eq!(patience.look(Some((2, short / 4)), short), short / 4);
        assert_eq!(patience.look(None, short), Duration::ZERO);
    }
}
