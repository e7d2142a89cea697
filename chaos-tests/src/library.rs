//! A library of videos in continuous use: people upload, watch and delete, at every node that can be asked.
//!
//! What a cluster owes them is recorded as they go: an upload that was acknowledged stays until it is deleted, all that is read
//! has the bytes that it had at first, and a node that nothing happens to answers every read. So whoever does something to a
//! node says so before and after ([`Library::spare`]): what fails there meanwhile is nobody's fault. All other failures are
//! [troubles](Library::troubles), with what was known of the nodes at that moment.

mod people;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::clips::{Clip, Codec};
use crate::cluster::Cluster;
use crate::outcome::{still_plays, until_ready, watch_everywhere};
use crate::player::Watched;
use crate::wait;

/// Clients that watch, each one file at a time.
const VIEWERS: usize = 3;

/// Who may be asked.
#[derive(Clone, Debug)]
struct Door {
    client: Client,
    /// Something is being done to it.
    spared: bool,
    /// It takes no uploads any more, being about to leave.
    leaving: bool,
    /// Goes up each time that it is spared: what began before is excused as well.
    spares: u64,
}

/// An upload that was acknowledged.
#[derive(Clone, Debug)]
struct Film {
    source: (blake3::Hash, usize),
    /// What it was at first, once it was complete, and when that was.
    watched: Option<(Arc<Watched>, Instant)>,
    /// Somebody deletes it, or has.
    deleted: bool,
}

impl Film {
    /// Since it was complete.
    fn age(&self) -> Option<Duration> {
        self.watched.as_ref().map(|(_, complete)| complete.elapsed())
    }
}

/// How much happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    pub uploads: u64,
    pub uploads_failed: u64,
    pub reads: u64,
    pub reads_excused: u64,
    pub deletions: u64,
    pub longest_read_ms: u64,
}

#[derive(Debug)]
struct Shared {
    doors: Mutex<BTreeMap<usize, Door>>,
    films: Mutex<BTreeMap<String, Film>>,
    counts: Mutex<Use>,
    troubles: Mutex<Vec<String>>,
    clips: Vec<Bytes>,
    stop: AtomicBool,
    /// Of the next upload.
    number: AtomicU64,
    began: Instant,
}

/// People who use a cluster, until they are told to stop.
#[derive(Debug)]
pub struct Library {
    shared: Arc<Shared>,
    people: JoinSet<()>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nobody panics who holds it")
}

impl Library {
    /// Opens it on the nodes that run; `seed` decides who asks what of whom.
    ///
    /// # Errors
    /// When there is no FFmpeg to make clips with.
    pub async fn open(cluster: &Cluster, folder: &Path, seed: u64) -> Result<Self> {
        let mut clips = Vec::new();
        for seconds in [2, 4] {
            let clip: PathBuf = Clip::new(Codec::H264, seconds, 320, 180).make(folder).await?;
            clips.push(tokio::fs::read(clip).await?.into());
        }
        let shared = Arc::new(Shared {
            doors: Mutex::default(),
            films: Mutex::default(),
            counts: Mutex::default(),
            troubles: Mutex::default(),
            clips,
            stop: AtomicBool::new(false),
            number: AtomicU64::new(seed << 32),
            began: Instant::now(),
        });
        let mut library = Self { shared, people: JoinSet::new() };
        library.meet(cluster)?;
        library.people.spawn(library.shared.clone().upload(fastrand::Rng::with_seed(seed)));
        library.people.spawn(library.shared.clone().delete(fastrand::Rng::with_seed(seed + 1)));
        for viewer in 0..VIEWERS as u64 {
            let random = fastrand::Rng::with_seed(seed + 2 + viewer);
            library.people.spawn(library.shared.clone().view(random));
        }
        Ok(library)
    }

    /// Learns of nodes that have come, and forgets those that do not run. Who is spared stays so.
    ///
    /// # Errors
    /// When an HTTP client cannot be set up.
    pub fn meet(&mut self, cluster: &Cluster) -> Result<()> {
        let mut doors = locked(&self.shared.doors);
        let running: BTreeMap<_, _> = cluster
            .running()
            .map(|node| Ok((node.number, node.client()?)))
            .collect::<Result<_>>()?;
        doors.retain(|number, _| running.contains_key(number));
        for (number, client) in running {
            doors.entry(number).or_insert(Door {
                client,
                spared: false,
                leaving: false,
                spares: 0,
            });
        }
        Ok(())
    }

    /// From now on nothing is asked of the node, and what is being asked of it may fail.
    pub fn spare(&self, place: usize) {
        self.change(place, |door| {
            door.spared = true;
            door.spares += 1;
        });
    }

    /// Ends that: the node has to answer.
    pub fn demand(&self, place: usize) {
        self.change(place, |door| door.spared = false);
    }

    /// From now on nothing is uploaded through the node. It still has to answer.
    pub fn upload_elsewhere(&self, place: usize) {
        self.change(place, |door| door.leaving = true);
    }

    fn change(&self, place: usize, change: impl FnOnce(&mut Door)) {
        if let Some(door) = locked(&self.shared.doors).get_mut(&(place + 1)) {
            change(door);
        }
    }

    /// How much happened so far.
    #[must_use]
    pub fn so_far(&self) -> Use {
        *locked(&self.shared.counts)
    }

    /// Waits until so many more videos were uploaded, and files read.
    ///
    /// # Errors
    /// When that takes longer than `limit`, or nothing was done right meanwhile.
    pub async fn goes_on(&self, uploads: u64, reads: u64, limit: Duration) -> Result<()> {
        let before = self.so_far();
        wait::until("people upload and watch", limit, async || {
            let now = self.so_far();
            ensure!(
                now.uploads >= before.uploads + uploads && now.reads >= before.reads + reads,
                "{now:?} after {before:?}"
            );
            Ok(Some(()))
        })
        .await
    }

    /// What nodes did that they should not have done.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        locked(&self.shared.troubles).clone()
    }

    /// Closes it: nobody asks anything any more.
    ///
    /// # Errors
    /// When one of the people panicked.
    pub async fn close(&mut self) -> Result<Use> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.people.join_next().await {
            ended.context("wait for somebody")?;
        }
        Ok(self.so_far())
    }

    /// Checks at all nodes that run that each video which was not deleted is there, as it was uploaded and as it was at first.
    /// Returns how many there are.
    ///
    /// # Errors
    /// When one is not.
    pub async fn is_all_there(&self, cluster: &Cluster) -> Result<usize> {
        let films = locked(&self.shared.films).clone();
        let clients = cluster.clients()?;
        let mut there = 0;
        for (id, film) in films.iter().filter(|(_, film)| !film.deleted) {
            until_ready(&clients[0], id).await?;
            match &film.watched {
                Some((before, _)) => still_plays(cluster, id, before).await?,
                None => drop(watch_everywhere(cluster, id).await?),
            }
            for client in &clients {
                let source = client.bytes(&format!("/v/{id}/source")).await?;
                let found = (blake3::hash(&source), source.len());
                ensure!(found == film.source, "{} serves another source of {id}", client.base);
            }
            there += 1;
        }
        Ok(there)
    }
}

impl Shared {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, change: impl FnOnce(&mut Use)) {
        change(&mut locked(&self.counts));
    }

    fn trouble(&self, what: &str) {
        let doors = locked(&self.doors);
        let spared: Vec<_> =
            doors.iter().filter(|(_, door)| door.spared).map(|(number, _)| *number).collect();
        let at = self.began.elapsed();
        locked(&self.troubles).push(format!("after {at:.1?}, nodes {spared:?} spared: {what}"));
    }

    /// A node that has to answer.
    fn door(&self, random: &mut fastrand::Rng, for_upload: bool) -> Option<(usize, Door)> {
        let doors = locked(&self.doors);
        let open = doors.iter().filter(|(_, door)| !(door.spared || for_upload && door.leaving));
        let open: Vec<_> = open.collect();
        random.choice(open).map(|(number, door)| (*number, door.clone()))
    }

    /// Whether something has been done to the node since.
    fn is_excused(&self, number: usize, asked: &Door) -> bool {
        let doors = locked(&self.doors);
        doors.get(&number).is_none_or(|door| door.spared || door.spares != asked.spares)
    }

    fn living(&self) -> Vec<(String, Film)> {
        let films = locked(&self.films);
        let living = films.iter().filter(|(_, film)| !film.deleted);
        living.map(|(id, film)| (id.clone(), film.clone())).collect()
    }
}
