//! What people do in a library, each in a loop of its own.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use bytes::Bytes;

use super::{Film, Shared, locked};
use crate::client::{Client, accepted};
use crate::player::watch;

/// Videos that are kept; the next one takes the place of one that is deleted.
const KEPT: usize = 12;

/// What makes an upload unlike all others, in a part of the file that players skip. All the rest is shared between videos.
const OWN_BYTES: usize = 2_000_000;

/// An upload that takes longer is given up: its node may have been paused.
const UPLOADED_WITHIN: Duration = Duration::from_secs(30);

/// Nodes learn what is complete one after the other. Who asks for something that is so new may be told that it is not there.
const LAG_MAX: Duration = Duration::from_secs(3);

/// Between two requests of one client: it leaves the machine to the nodes.
const PAUSE: Duration = Duration::from_millis(50);

impl Shared {
    pub(super) async fn upload(self: Arc<Self>, mut random: fastrand::Rng) {
        while self.goes_on() {
            let door = self.door(&mut random, true);
            let (true, Some((_, door))) = (self.living().len() < KEPT, door) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let number = self.number.fetch_add(1, Ordering::Relaxed);
            let bytes = with_own_bytes(&self.clips[random.usize(..self.clips.len())], number);
            let source = (blake3::hash(&bytes), bytes.len());
            match upload(&door.client, bytes, number).await {
                Ok(id) => {
                    let film = Film { source, watched: None, deleted: false };
                    locked(&self.films).insert(id.clone(), film);
                    self.count(|counts| counts.uploads += 1);
                    self.await_ready(&id, &mut random).await;
                }
                // Nothing was promised.
                Err(_) => self.count(|counts| counts.uploads_failed += 1),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Watches it once it is complete, to know what it has to be from then on.
    async fn await_ready(&self, id: &str, random: &mut fastrand::Rng) {
        while self.goes_on() {
            tokio::time::sleep(PAUSE).await;
            let Some((_, door)) = self.door(random, false) else { continue };
            let Ok(video) = door.client.video(id).await else { continue };
            if video.state == "failed" {
                return self.trouble(&format!("{id} failed: {:?}", video.error));
            }
            if video.state != "ready" {
                continue;
            }
            // Rendered playlists lag behind for a moment.
            if let Ok(watched) = watch(&door.client, id).await
                && watched.ended
            {
                if let Some(film) = locked(&self.films).get_mut(id) {
                    film.watched = Some((Arc::new(watched), Instant::now()));
                }
                return;
            }
        }
    }

    pub(super) async fn view(self: Arc<Self>, mut random: fastrand::Rng) {
        while self.goes_on() {
            tokio::time::sleep(PAUSE).await;
            let mut films = self.living();
            films.retain(|(_, film)| film.age().is_some_and(|age| age > LAG_MAX));
            let Some((id, film)) = random.choice(films) else { continue };
            let Some((number, door)) = self.door(&mut random, false) else { continue };
            let source =
                (format!("/v/{id}/source"), (film.source.0.to_hex().to_string(), film.source.1));
            let files = film.watched.iter().flat_map(|(watched, _)| watched.files.clone());
            let Some((path, expected)) = random.choice(files.chain([source]).collect::<Vec<_>>())
            else {
                continue;
            };
            let asked = Instant::now();
            let answer = door.client.bytes(&path).await;
            let took = asked.elapsed();
            if self.living().iter().all(|(living, _)| *living != id) {
                continue;
            }
            match answer {
                Ok(bytes) => {
                    let found = (blake3::hash(&bytes).to_hex().to_string(), bytes.len());
                    if found != expected {
                        self.trouble(&format!("node {number} served wrong bytes of {path}"));
                    }
                    self.count(|counts| {
                        counts.reads += 1;
                        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                        counts.longest_read_ms = counts.longest_read_ms.max(ms);
                    });
                }
                Err(_) if self.is_excused(number, &door) => {
                    self.count(|counts| counts.reads_excused += 1);
                }
                Err(error) => {
                    let (age, states) =
                        (film.age().unwrap_or_default(), states(&door.client).await);
                    self.trouble(&format!(
                        "node {number} did not serve {path}, complete since {age:.1?}, in {took:.1?}: {error:#}; {states}"
                    ));
                }
            }
        }
    }

    pub(super) async fn delete(self: Arc<Self>, mut random: fastrand::Rng) {
        while self.goes_on() {
            tokio::time::sleep(PAUSE).await;
            let mut films = self.living();
            films.retain(|(_, film)| film.watched.is_some());
            if films.len() < KEPT - 1 {
                continue;
            }
            let Some((id, _)) = random.choice(films) else { continue };
            // Before it is asked for: whoever watches may find it gone from then on.
            if let Some(film) = locked(&self.films).get_mut(&id) {
                film.deleted = true;
            }
            // Once begun it is finished, or what is there in the end could be anything.
            loop {
                if let Some((_, door)) = self.door(&mut random, false)
                    && let Ok(answer) = door.client.delete(&format!("/api/v1/videos/{id}")).await
                    && (answer.status().is_success() || answer.status().as_u16() == 404)
                {
                    break;
                }
                tokio::time::sleep(PAUSE).await;
            }
            self.count(|counts| counts.deletions += 1);
        }
    }
}

/// How the node says that all are, itself among them.
async fn states(client: &Client) -> String {
    let seen = match client.cluster().await {
        Ok(seen) => seen,
        Err(error) => return format!("it does not say how the nodes are: {error:#}"),
    };
    let nodes = seen["nodes"].as_array().into_iter().flatten();
    let states = nodes.map(|node| format!("{} is {}", node["name"], node["status"]));
    format!("it says: {}", states.collect::<Vec<_>>().join(", "))
}

/// The clip with a box at its end that players skip.
fn with_own_bytes(clip: &Bytes, number: u64) -> Bytes {
    let mut bytes = clip.to_vec();
    let len = u32::try_from(OWN_BYTES + 8).expect("it is a small constant");
    bytes.extend(len.to_be_bytes());
    bytes.extend(b"free");
    let mut own = vec![0; OWN_BYTES];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut own);
    bytes.extend(own);
    bytes.into()
}

async fn upload(client: &Client, bytes: Bytes, number: u64) -> Result<String> {
    let title = format!("film {number}");
    let answer = client.upload_bytes(bytes, &title, None, None);
    match tokio::time::timeout(UPLOADED_WITHIN, answer).await {
        Ok(answer) => Ok(accepted(answer?).await?.id),
        Err(_) => bail!("it took longer than {UPLOADED_WITHIN:?}"),
    }
}
