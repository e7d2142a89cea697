//! The media loop: takes jobs on videos, has them done by sandboxed child processes, and commits what these make.
//!
//! Every node with the role `transcoder` runs it. There is no scheduler: jobs are rows of the catalog in order of urgency,
//! and whoever has a free slot claims the first that is due. A claim is a lease; while the job runs it is renewed, and when
//! it is lost (this node was cut off for too long) the child is killed, because somebody else does the job by then. A node
//! that dies needs nobody to notice: its leases end.
//!
//! # Invariants
//!
//! - Nothing of libav runs in this process. What a child sends is bounded and checked before it is believed.
//! - A segment is durable before the log names it.
//! - Slots bound how many children there are; each child's results in flight are bounded in number.
//!
//! [`worker`] is one child process, [`source`] answers its reads, [`results`] stores and commits what it yields, [`convert`]
//! translates between the catalog's words and the transcoder's.

mod convert;
mod job;
mod results;
mod source;
mod worker;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Claim, LeaseToken, Reply};
use cluster::ids::NodeId;
use cluster::jobs::{JobId, JobKind};
use gateway::backend::{Backend, Unavailable};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::raft::ClusterClock;

pub use worker::main as worker_main;

/// How long a lease lasts without being renewed. Short, because a dead node's jobs wait this long, and with them whoever
/// watches a video that is still being made; long enough for an election in between. Losing one by mistake costs only the
/// work: a lease that is over stays good until somebody else claims the job.
const LEASE: Duration = Duration::from_secs(5);

/// How often leases are renewed: twice may fail before one is lost.
const RENEW_EVERY: Duration = Duration::from_millis(1250);

/// How long the loop sleeps at most when nothing wakes it: leases of dead nodes end without an event.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long to wait after a claim that came to nothing.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);

/// Jobs beyond the slots that may wait for bytes of running uploads: as many as a gateway takes uploads at a time, so that all
/// uploads together cannot fill the places on all nodes and keep others from beginning. Each is a sleeping process of some
/// 30 MiB.
const WAITING_MAX: usize = 32;

/// How long a stopping node tries to give its jobs back.
const RELEASE_WITHIN: Duration = Duration::from_secs(2);

/// What a node may do at a time.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program to start as a worker: this one.
    pub program: PathBuf,
    /// Jobs at a time that keep a processor busy (encode). 0 for none.
    pub encode_slots: usize,
    /// Jobs at a time that mostly wait for bytes (prepare, copy). 0 for none.
    pub copy_slots: usize,
    /// Processors that one encode job may use.
    pub threads_per_job: u16,
}

/// The kinds of jobs that take an encode slot.
const ENCODE_KINDS: [JobKind; 3] = [JobKind::Audio, JobKind::Piece, JobKind::Thumbnail];

/// The kinds of jobs that take a copy slot.
const COPY_KINDS: [JobKind; 2] = [JobKind::Prepare, JobKind::Copy];

/// Does jobs until `shutdown`, with leases by `clock`; then kills the children and gives the jobs back. `work` changes whenever there may be jobs to
/// claim that were not there before.
pub async fn run(
    backend: Arc<dyn Backend>,
    work: watch::Receiver<u64>,
    node: NodeId,
    clock: ClusterClock,
    settings: Settings,
    shutdown: CancellationToken,
) {
    let mut media = Media {
        backend,
        node,
        clock,
        settings,
        running: BTreeMap::new(),
        tasks: JoinSet::new(),
        claim_not_before: Instant::now(),
    };
    // Leases of this node from before its start: whatever had them is gone.
    media.release(&shutdown).await;
    media.work(work, &shutdown).await;
    media.stop().await;
}

struct Running {
    token: LeaseToken,
    abort: AbortHandle,
    /// Whether it waits for bytes of a running upload: it needs no processor then, and takes no slot.
    waits: Arc<AtomicBool>,
}

struct Media {
    backend: Arc<dyn Backend>,
    node: NodeId,
    clock: ClusterClock,
    settings: Settings,
    running: BTreeMap<JobId, Running>,
    tasks: JoinSet<JobId>,
    /// No claims before that.
    claim_not_before: Instant,
}

impl Media {
    async fn work(&mut self, mut work: watch::Receiver<u64>, shutdown: &CancellationToken) {
        let mut renew = tokio::time::interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            work.mark_unchanged();
            self.claim_while_slots_are_free(shutdown).await;
            let now = Instant::now();
            // After a claim that came to nothing, nobody else says when the next one may be made.
            let pause = Some(self.claim_not_before).filter(|end| *end > now);
            let look_at = pause.map_or(now + LOOK_EVERY, |end| end.min(now + LOOK_EVERY));
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(ended) = self.tasks.join_next() => self.forget(ended),
                _ = renew.tick() => self.renew().await,
                changed = work.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(look_at) => {}
            }
        }
    }

    async fn claim_while_slots_are_free(&mut self, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() && Instant::now() >= self.claim_not_before {
            let kinds = self.free_kinds();
            // The node's own catalog may lag, but it spares the log from questions whose answer is "nothing".
            let catalog = self.backend.catalog();
            match catalog::has_claimable_job(
                catalog.as_ref(),
                self.node,
                &kinds,
                self.clock.now_ms(),
            ) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(%error, "look for jobs");
                    return;
                }
            }
            let action = Action::ClaimJob {
                node: self.node,
                kinds,
                lease_ms: u64::try_from(LEASE.as_millis()).expect("a few seconds"),
            };
            match self.backend.propose(action).await.map(|applied| applied.reply) {
                Ok(Reply::Claimed(Some(claim))) => self.start(claim),
                Ok(_) => {
                    // Another node was faster, or there is another leader, whose clock is a little behind. Asking again at
                    // once would wake this loop by its own entry in the log.
                    self.claim_not_before = Instant::now() + CLAIM_PAUSE;
                    return;
                }
                Err(error) => {
                    debug!(%error, "claim a job");
                    return;
                }
            }
        }
    }

    /// The kinds of jobs that a slot is free for.
    fn free_kinds(&self) -> Vec<JobKind> {
        let taken = |kinds: &[JobKind]| {
            let at_work = |running: &Running| !running.waits.load(Ordering::Relaxed);
            self.running
                .iter()
                .filter(|(job, running)| kinds.contains(&job.kind) && at_work(running))
                .count()
        };
        let mut kinds = Vec::new();
        let slots = self.settings.copy_slots + self.settings.encode_slots;
        if self.running.len() >= slots + WAITING_MAX {
            return kinds;
        }
        if taken(&COPY_KINDS) < self.settings.copy_slots {
            kinds.extend(COPY_KINDS);
        }
        if taken(&ENCODE_KINDS) < self.settings.encode_slots {
            kinds.extend(ENCODE_KINDS);
        }
        kinds
    }

    fn start(&mut self, claim: Claim) {
        let Claim { job, token } = claim;
        info!(%job, token = token.0, "start job");
        let waits = Arc::new(AtomicBool::new(false));
        let context = job::Context {
            waits: Arc::clone(&waits),
            backend: Arc::clone(&self.backend),
            settings: self.settings.clone(),
            job,
            token,
        };
        let abort = self.tasks.spawn(async move {
            job::run(context).await;
            job
        });
        if let Some(earlier) = self.running.insert(job, Running { token, abort, waits }) {
            // Our own lease ended unnoticed and we got the job again: the earlier try must not go on beside this one.
            earlier.abort.abort();
        }
    }

    fn forget(&mut self, ended: Result<JobId, tokio::task::JoinError>) {
        match ended {
            Ok(job) => {
                // A try that was replaced by a new one of the same job ends after the new one began.
                if self.running.get(&job).is_some_and(|running| running.abort.is_finished()) {
                    self.running.remove(&job);
                }
            }
            Err(error) if error.is_cancelled() => {
                self.running.retain(|_, running| !running.abort.is_finished());
            }
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn renew(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let action = Action::RenewLeases {
            node: self.node,
            leases: self.running.iter().map(|(job, running)| (*job, running.token)).collect(),
            lease_ms: u64::try_from(LEASE.as_millis()).expect("a few seconds"),
        };
        match self.backend.propose(action).await.map(|applied| applied.reply) {
            Ok(Reply::Lost(jobs)) => {
                for job in jobs {
                    if let Some(running) = self.running.get(&job)
                        && !running.abort.is_finished()
                    {
                        info!(%job, "the lease is lost: stop");
                        running.abort.abort();
                    }
                }
            }
            Ok(_) => {}
            Err(error) => debug!(%error, "renew leases"),
        }
    }

    /// Tells the cluster that whatever jobs this node had when its last process ended, nobody does them.
    async fn release(&self, shutdown: &CancellationToken) {
        let action = Action::ReleaseJobs { node: self.node, jobs: Vec::new() };
        while let Err(error) = self.backend.propose(action.clone()).await {
            debug!(%error, "release jobs");
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn stop(mut self) {
        // Children die with the tasks that own them.
        self.tasks.shutdown().await;
        let jobs: Vec<_> = self.running.keys().copied().collect();
        if !jobs.is_empty() {
            // By name: no try of theirs was lost.
            let action = Action::ReleaseJobs { node: self.node, jobs };
            match tokio::time::timeout(RELEASE_WITHIN, self.backend.propose(action)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => debug!(%error, "release jobs"),
                Err(_) => debug!("release jobs: no answer in time"),
            }
        }
    }
}

/// Whether the answer to a command says that somebody else has the job now.
fn lease_lost(reply: &Reply) -> bool {
    matches!(
        reply,
        Reply::Refused(
            cluster::command::Refusal::LeaseLost | cluster::command::Refusal::UnknownVideo
        )
    )
}

/// Retries what the cluster cannot do at present, with growing pauses, until `give_up_after`.
async fn patiently<T, F, Fut>(give_up_after: Duration, mut attempt: F) -> Result<T, Unavailable>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, Unavailable>>,
{
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LONGEST_PAUSE: Duration = Duration::from_secs(2);
    let deadline = Instant::now() + give_up_after;
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() + pause > deadline => return Err(error),
            Err(error) => debug!(%error, "try again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
