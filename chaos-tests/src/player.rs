//! Watches a video as a player would: from the multivariant playlist down to each segment, and remembers every byte.
//!
//! What it checks on the way is what makes a real player stop: a playlist that does not parse, a segment that is listed but
//! cannot be had, durations that do not add up, renditions of different length.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use m3u8_rs::{MasterPlaylist, MediaPlaylist, MediaPlaylistType};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::client::Client;

/// Renditions of one video may end this many seconds apart: the last audio frame does not end with the last picture.
const ENDS_APART_MAX_SECONDS: f64 = 0.5;

/// A player gives up when it could not get something at any of its nodes for this long.
const NOWHERE_MAX: Duration = Duration::from_secs(20);

/// How long a player waits before it asks again for what no node could give, or for a playlist that has not ended.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long a player in the background takes for one segment. Far less than a segment lasts, so that a test can wait for it.
const SEGMENT_TAKES: Duration = Duration::from_millis(50);

/// A player in the background that was told to finish has to reach the end within this time.
const FINISHED_WITHIN: Duration = Duration::from_secs(120);

/// What a viewer does not notice: a player has the next segment when it asks for the one after that.
pub const WAIT_MAX: Duration = Duration::from_secs(4);

/// BLAKE3 hash and length of files, by path.
pub type Files = BTreeMap<String, (String, usize)>;

/// All that a player was given for one video.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// Each initialization segment and segment.
    pub files: Files,
    /// Seconds of each media playlist, by path.
    pub seconds: BTreeMap<String, f64>,
    /// Whether the playlists said that nothing more will come.
    pub ended: bool,
}

impl Watched {
    /// Seconds that can be played: those of the shortest rendition.
    #[must_use]
    pub fn playable_seconds(&self) -> f64 {
        self.seconds.values().copied().fold(f64::INFINITY, f64::min)
    }
}

/// Reads all that is listed for the video at that node.
///
/// # Errors
/// When anything is missing or malformed.
pub async fn watch(client: &Client, video: &str) -> Result<Watched> {
    Player::new(vec![client.clone()], video).play().await
}

/// Plays one video at the first of several nodes, and when that one fails at the next, as the web app does.
#[derive(Debug)]
pub struct Player {
    nodes: Vec<Client>,
    /// The place of the node that is asked first.
    at: usize,
    /// Such as `/v/ID`.
    root: String,
    /// What has been played since the start of the video.
    played: BTreeSet<String>,
    /// What was given, ever.
    files: Files,
    /// Why it went to another node, each time.
    moves: Vec<String>,
    longest_wait: Duration,
    segment_takes: Duration,
    /// How many files have been played in all.
    progress: watch::Sender<usize>,
}

/// What a player has been through.
#[derive(Debug)]
pub struct Experience {
    /// All that it was given.
    pub files: Files,
    /// Why it went to another node, each time.
    pub moves: Vec<String>,
    /// The longest time from asking for something until it was there.
    pub longest_wait: Duration,
}

impl Player {
    /// A player that has not begun.
    #[must_use]
    pub fn new(nodes: Vec<Client>, video: &str) -> Self {
        Self {
            nodes,
            at: 0,
            root: format!("/v/{video}"),
            played: BTreeSet::new(),
            files: Files::new(),
            moves: Vec::new(),
            longest_wait: Duration::ZERO,
            segment_takes: Duration::ZERO,
            progress: watch::Sender::new(0),
        }
    }

    /// Reads the playlists, and plays all that they list and that has not been played.
    ///
    /// # Errors
    /// When anything is malformed, cannot be had at any node, or is not what it was before.
    pub async fn play(&mut self) -> Result<Watched> {
        let master_path = format!("{}/master.m3u8", self.root);
        let master = parse_master(&self.get(&master_path).await?)?;
        let mut playlists: Vec<String> =
            master.variants.iter().map(|variant| variant.uri.clone()).collect();
        playlists.extend(master.alternatives.iter().filter_map(|media| media.uri.clone()));
        playlists.sort();
        playlists.dedup();
        ensure!(!master.variants.is_empty(), "{master_path} lists nothing");

        let (mut seconds, mut ended) = (BTreeMap::new(), true);
        for uri in playlists {
            let path = join(&master_path, &uri);
            let playlist = parse_media(&self.get(&path).await?).with_context(|| path.clone())?;
            ended &= playlist.end_list;
            seconds.insert(path.clone(), self.play_rendition(&path, &playlist).await?);
        }
        let watched = Watched { files: self.files.clone(), seconds, ended };
        if ended {
            let longest = watched.seconds.values().copied().fold(0.0, f64::max);
            ensure!(
                longest - watched.playable_seconds() <= ENDS_APART_MAX_SECONDS,
                "{}: renditions differ in length: {:?}",
                self.root,
                watched.seconds
            );
        }
        Ok(watched)
    }

    /// Plays in the background, to the end and from the start again, until it is told to finish.
    #[must_use]
    pub fn start(mut self) -> Viewer {
        self.segment_takes = SEGMENT_TAKES;
        let progress = self.progress.subscribe();
        let (finish, told_to_finish) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                if !self.play().await?.ended {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                } else if *told_to_finish.borrow() {
                    let Self { files, moves, longest_wait, .. } = self;
                    return Ok(Experience { files, moves, longest_wait });
                } else {
                    self.played.clear();
                }
            }
        });
        Viewer { progress, finish, task }
    }

    /// Plays what is new in the media playlist, and says how long all of it is.
    async fn play_rendition(&mut self, path: &str, playlist: &MediaPlaylist) -> Result<f64> {
        ensure!(
            playlist.end_list == (playlist.playlist_type == Some(MediaPlaylistType::Vod)),
            "{path}: a playlist that has ended is of type VOD, another one is not"
        );
        let mut seconds = 0.0;
        for segment in &playlist.segments {
            ensure!(
                f64::from(segment.duration).round() <= playlist.target_duration as f64,
                "{path}: {} lasts {} s, more than the target duration",
                segment.uri,
                segment.duration
            );
            seconds += f64::from(segment.duration);
            let mut wanted = vec![segment.uri.clone()];
            wanted.extend(segment.map.as_ref().map(|map| map.uri.clone()));
            for uri in wanted {
                let path = join(path, &uri);
                if self.played.insert(path.clone()) {
                    self.play_file(path).await?;
                }
            }
        }
        Ok(seconds)
    }

    async fn play_file(&mut self, path: String) -> Result<()> {
        let bytes = self.get(&path).await?;
        ensure!(!bytes.is_empty(), "{path} is empty");
        let file = (blake3::hash(&bytes).to_hex().to_string(), bytes.len());
        match self.files.entry(path) {
            Entry::Vacant(place) => {
                place.insert(file);
            }
            Entry::Occupied(before) => ensure!(
                *before.get() == file,
                "{}: {file:?} instead of {:?}",
                before.key(),
                before.get()
            ),
        }
        // The speed at which the viewer watches, not a wait for something to happen.
        tokio::time::sleep(self.segment_takes).await;
        self.progress.send_modify(|files| *files += 1);
        Ok(())
    }

    /// The body at the node that is being watched, or at the next one that has it.
    async fn get(&mut self, path: &str) -> Result<Bytes> {
        let (start, first) = (Instant::now(), self.at);
        loop {
            let error = match self.nodes[self.at].bytes(path).await {
                Ok(bytes) => {
                    self.longest_wait = self.longest_wait.max(start.elapsed());
                    return Ok(bytes);
                }
                Err(error) => error,
            };
            if self.nodes.len() == 1 || start.elapsed() > NOWHERE_MAX {
                return Err(error);
            }
            self.moves.push(format!("{error:#}"));
            self.at = (self.at + 1) % self.nodes.len();
            if self.at == first {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
        }
    }
}

/// A player in the background.
#[derive(Debug)]
pub struct Viewer {
    progress: watch::Receiver<usize>,
    finish: watch::Sender<bool>,
    task: JoinHandle<Result<Experience>>,
}

impl Viewer {
    /// Waits until so many more files have been played.
    ///
    /// # Errors
    /// When that takes too long, or the player had to give up.
    pub async fn plays(&mut self, files: usize) -> Result<()> {
        let goal = *self.progress.borrow() + files;
        let played = self.progress.wait_for(|played| *played >= goal);
        match tokio::time::timeout(FINISHED_WITHIN, played).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => match (&mut self.task).await? {
                Ok(_) => bail!("the player ended without being told to"),
                Err(error) => Err(error.context("the player gave up")),
            },
            Err(_) => {
                bail!("the player did not play {files} more files within {FINISHED_WITHIN:?}")
            }
        }
    }

    /// Lets it play to the end.
    ///
    /// # Errors
    /// When it had to give up, or does not reach the end in time.
    pub async fn finish(self) -> Result<Experience> {
        // It may have given up; its result says so.
        let _ = self.finish.send(true);
        tokio::time::timeout(FINISHED_WITHIN, self.task)
            .await
            .with_context(|| {
                format!("the player did not reach the end within {FINISHED_WITHIN:?}")
            })??
            .context("the player gave up")
    }
}

fn parse_master(text: &[u8]) -> Result<MasterPlaylist> {
    match m3u8_rs::parse_master_playlist_res(text) {
        Ok(playlist) => Ok(playlist),
        Err(error) => {
            bail!("not a multivariant playlist: {error}: {}", String::from_utf8_lossy(text))
        }
    }
}

fn parse_media(text: &[u8]) -> Result<MediaPlaylist> {
    match m3u8_rs::parse_media_playlist_res(text) {
        Ok(playlist) => Ok(playlist),
        Err(error) => bail!("not a media playlist: {error}: {}", String::from_utf8_lossy(text)),
    }
}

/// The path that a relative reference in the playlist at `playlist` means.
fn join(playlist: &str, reference: &str) -> String {
    if reference.starts_with('/') {
        return reference.to_owned();
    }
    let folder = playlist.rsplit_once('/').map_or("", |(folder, _)| folder);
    format!("{folder}/{reference}")
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn references_are_relative_to_the_playlist() {
        assert_eq!(join("/v/1/master.m3u8", "720p/index.m3u8"), "/v/1/720p/index.m3u8");
        assert_eq!(join("/v/1/720p/index.m3u8", "0.m4s"), "/v/1/720p/0.m4s");
        assert_eq!(join("/v/1/720p/index.m3u8", "/v/1/720p/0.m4s"), "/v/1/720p/0.m4s");
    }
}
