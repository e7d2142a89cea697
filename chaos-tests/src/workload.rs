//! Many clients that read and write the descriptions of a few videos, at all nodes, and note what they were told.
//!
//! Each description is a register of the [`crate::history`]. The videos are uploads that are no videos: they fail at once and
//! can be edited like any other, so nothing is encoded meanwhile. Every client picks a node anew for each request, and does
//! not repeat what failed: whether it happened is for the checker to find out.
//!
//! Some registers have one writer, which reads at another node after each write. There a write that is applied twice, or
//! lost, cannot hide behind somebody else's next write.

mod requests;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::future::try_join_all;
use tokio::task::JoinSet;

use crate::client::{Client, accepted};
use crate::cluster::Cluster;
use crate::history::check::CONFIGURATIONS_MAX;
use crate::history::{Content, Fate, Operation, Recorder, Verdict, What, check, positions};
use crate::outcome::until_failed;
use crate::wait;
use requests::{At, Said};

/// Registers that all clients write to.
const SHARED: usize = 4;

/// Registers with one writer each.
const OWN: usize = 4;

/// Clients at the same time.
const CLIENTS: usize = 16;

/// How long a client waits for an answer, every other one alike. A node promises to say within 5 s that it cannot do something,
/// and the patient ones wait for that; the others would rather not know.
const PATIENCE: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];

/// How long a node that did not answer is left alone, so that not all clients wait for it all the time.
const SHUNNED: Duration = Duration::from_secs(3);

/// What a client waits after a request that failed: a dead node refuses at once, and would be asked all the time.
const PAUSE: Duration = Duration::from_millis(20);

/// Something that is no video has failed by then.
const FAILED_WITHIN: Duration = Duration::from_secs(30);

/// A cluster without faults answers within this time, on a busy machine too.
const CALM_WITHIN: Duration = Duration::from_secs(30);

/// A video whose description is written and read.
#[derive(Clone, Debug)]
struct Register {
    id: String,
    initial: Content,
}

/// Clients at work.
#[derive(Debug)]
pub struct Workload {
    registers: Vec<Register>,
    recorder: Recorder,
    shared: Arc<Shared>,
    clients: JoinSet<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The nodes to be asked, by their numbers; replaced as a whole.
    nodes: Mutex<Arc<Vec<(usize, String)>>>,
    progress: Mutex<Progress>,
}

/// How far all clients together have come.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    /// Writes that were acknowledged.
    acknowledged: u64,
    /// When the one of them began that began last.
    latest: Option<Instant>,
}

impl Shared {
    fn nodes(&self) -> MutexGuard<'_, Arc<Vec<(usize, String)>>> {
        self.nodes.lock().expect("nobody panics who holds it")
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().expect("nobody panics who holds it")
    }
}

/// How many operations came to what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub reads: usize,
    pub reads_without_answer: usize,
    pub acknowledged: usize,
    pub mismatched: usize,
    pub never: usize,
    pub unknown: usize,
}

impl Workload {
    /// Makes the videos and lets the clients begin.
    ///
    /// # Errors
    /// When the cluster does not take uploads.
    pub async fn start(cluster: &Cluster) -> Result<Self> {
        let recorder = Recorder::default();
        let client = cluster.running().next().context("no node runs")?.client()?;
        let registers = (0..SHARED + OWN).map(|number| register(&client, number));
        let registers = try_join_all(registers).await?;
        let shared = Arc::new(Shared::default());
        let mut workers = Vec::new();
        for number in 0..CLIENTS {
            let client = Worker {
                number,
                patience: PATIENCE[number % PATIENCE.len()],
                told: Arc::default(),
                nodes: Vec::new(),
                registers: registers.clone(),
                recorder: recorder.clone(),
                shared: shared.clone(),
                shunned: None,
                random: fastrand::Rng::with_seed(number as u64),
                versions: registers.iter().map(|register| register.initial.version).collect(),
                values: 0,
            };
            workers.push(client);
        }
        let mut load = Self { registers, recorder, shared, clients: JoinSet::new() };
        load.use_nodes(cluster);
        for worker in workers {
            load.clients.spawn(worker.run());
        }
        Ok(load)
    }

    /// From now on the clients ask the nodes that run, and no others.
    pub fn use_nodes(&self, cluster: &Cluster) {
        *self.shared.nodes() =
            Arc::new(cluster.running().map(|node| (node.number, node.url())).collect());
    }

    /// Waits until a write that began after this call was acknowledged, and says how long that took.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn goes_on(&self, limit: Duration) -> Result<Duration> {
        let start = Instant::now();
        let acknowledged =
            async || Ok(self.shared.progress().latest.filter(|began| *began >= start));
        wait::until("a new write is acknowledged", limit, acknowledged).await?;
        Ok(start.elapsed())
    }

    /// Waits until so many writes more were acknowledged.
    ///
    /// # Errors
    /// When that takes longer than `limit`.
    pub async fn acknowledges(&self, more: u64, limit: Duration) -> Result<()> {
        let enough = self.shared.progress().acknowledged + more;
        let what = format!("{more} writes are acknowledged");
        let acknowledged =
            async || Ok((self.shared.progress().acknowledged >= enough).then_some(()));
        wait::until(&what, limit, acknowledged).await
    }

    /// Ends the clients, reads every register at every node that runs, all of which have to be in service, and checks all that
    /// the clients were told.
    ///
    /// # Errors
    /// When a client was told something that no cluster may say, when what they were told cannot have happened, or when that
    /// could not be decided.
    pub async fn finish(mut self, cluster: &Cluster) -> Result<Summary> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.context("wait for a client")??;
        }
        for node in cluster.running() {
            let at = At::new(node.number, &node.url(), CLIENTS, CALM_WITHIN)?;
            for register in &self.registers {
                wait::until("everything can be read in the end", CALM_WITHIN, async || {
                    Ok(match at.read(&self.recorder, &register.id).await? {
                        Said::Content(content) => Some(content),
                        Said::Acknowledged(_) | Said::Nothing => None,
                    })
                })
                .await?;
            }
        }
        let operations = self.recorder.operations();
        judge(&self.registers, &operations)?;
        Ok(summary(&operations))
    }
}

/// One video whose upload failed, with what it shows.
async fn register(client: &Client, number: usize) -> Result<Register> {
    let upload = Bytes::from_static(b"This is no video, but it has a description.\n");
    let video =
        accepted(client.upload_bytes(upload, &format!("{number}"), None, None).await?).await?;
    until_failed(client, &video.id, FAILED_WITHIN).await?;
    let initial = requests::content_of(client, &video.id).await?;
    Ok(Register { id: video.id, initial })
}

fn judge(registers: &[Register], operations: &[Operation]) -> Result<()> {
    for register in registers {
        let of: Vec<_> = operations
            .iter()
            .filter(|operation| operation.register == register.id)
            .cloned()
            .collect();
        match check(&register.initial, &of, CONFIGURATIONS_MAX) {
            Verdict::Linearizable => {}
            Verdict::Broken(reason) => bail!("video {}: {reason}", register.id),
            Verdict::Undecided(reason) => {
                bail!("video {}: the history could not be decided: {reason}", register.id)
            }
        }
    }
    positions::check(operations).map_err(anyhow::Error::msg)
}

fn summary(operations: &[Operation]) -> Summary {
    let mut summary = Summary::default();
    for operation in operations {
        let count = match &operation.what {
            What::Read(Some(_)) => &mut summary.reads,
            What::Read(None) => &mut summary.reads_without_answer,
            What::Change { fate: Fate::Applied { .. }, .. } => &mut summary.acknowledged,
            What::Change { fate: Fate::Mismatch { .. }, .. } => &mut summary.mismatched,
            What::Change { fate: Fate::Never, .. } => &mut summary.never,
            What::Change { fate: Fate::Unknown, .. } => &mut summary.unknown,
        };
        *count += 1;
    }
    summary
}

impl Summary {
    /// Whether there was enough of everything that a fault leads to for the check to mean something.
    ///
    /// # Errors
    /// When there was not.
    pub fn ensure_meaningful(&self, acknowledged_min: usize) -> Result<()> {
        ensure!(
            self.acknowledged >= acknowledged_min && self.reads >= acknowledged_min,
            "too little happened: {self:?}"
        );
        ensure!(self.mismatched > 0, "nobody lost a race: {self:?}");
        Ok(())
    }
}

/// One client.
struct Worker {
    number: usize,
    patience: Duration,
    /// The nodes that it was told of last, and itself at each of them.
    told: Arc<Vec<(usize, String)>>,
    nodes: Vec<At>,
    registers: Vec<Register>,
    recorder: Recorder,
    shared: Arc<Shared>,
    /// A node that did not answer, and until when nothing is asked of it.
    shunned: Option<(usize, Instant)>,
    random: fastrand::Rng,
    /// The version of each register that this client saw last.
    versions: Vec<u64>,
    /// Values written so far.
    values: u64,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.meet_nodes()?;
            let own =
                (self.number < OWN && self.random.u8(..4) == 0).then_some(SHARED + self.number);
            let place = own.unwrap_or_else(|| self.random.usize(..SHARED));
            let said = match self.random.u8(..8) {
                0..3 if own.is_none() => self.read(place).await?,
                3..5 => self.write(place, Some(self.versions[place])).await?,
                _ => self.write(place, None).await?,
            };
            if own.is_some() {
                self.read(place).await?;
            }
            if matches!(said, Said::Nothing) {
                tokio::time::sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    fn meet_nodes(&mut self) -> Result<()> {
        let told = self.shared.nodes().clone();
        if !Arc::ptr_eq(&told, &self.told) {
            let meet =
                |(node, url): &(usize, String)| At::new(*node, url, self.number, self.patience);
            self.nodes = told.iter().map(meet).collect::<Result<_>>()?;
            self.told = told;
            self.shunned = None;
        }
        Ok(())
    }

    fn choose_node(&mut self) -> usize {
        let node = self.random.usize(..self.nodes.len());
        match self.shunned {
            Some((shunned, until)) if node == shunned && Instant::now() < until => {
                (node + 1) % self.nodes.len()
            }
            _ => node,
        }
    }

    async fn read(&mut self, place: usize) -> Result<Said> {
        let node = self.choose_node();
        let asked = Instant::now();
        let said = self.nodes[node].read(&self.recorder, &self.registers[place].id).await?;
        self.learn(place, node, asked, &said);
        Ok(said)
    }

    async fn write(&mut self, place: usize, expected: Option<u64>) -> Result<Said> {
        self.values += 1;
        let value = format!("{}.{}", self.number, self.values);
        let node = self.choose_node();
        let asked = Instant::now();
        let id = &self.registers[place].id;
        let said = self.nodes[node].write(&self.recorder, id, &value, expected).await?;
        self.learn(place, node, asked, &said);
        Ok(said)
    }

    fn learn(&mut self, place: usize, node: usize, asked: Instant, said: &Said) {
        match said {
            Said::Content(content) => self.versions[place] = content.version,
            Said::Acknowledged(content) => {
                self.versions[place] = content.version;
                let mut progress = self.shared.progress();
                progress.acknowledged += 1;
                progress.latest = progress.latest.max(Some(asked));
            }
            Said::Nothing if asked.elapsed() >= self.patience => {
                self.shunned = Some((node, Instant::now() + SHUNNED));
            }
            Said::Nothing => {}
        }
    }
}
