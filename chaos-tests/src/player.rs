//! Watches a video as a player would: from the multivariant playlist down to each segment, and remembers every byte.
//!
//! What it checks on the way is what makes a real player stop: a playlist that does not parse, a segment that is listed but
//! cannot be had, durations that do not add up, renditions of different length.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use anyhow::{Context, Result, bail, ensure};
use m3u8_rs::{MasterPlaylist, MediaPlaylist, MediaPlaylistType};

use crate::client::Client;

/// Renditions of one video may end this many seconds apart: the last audio frame does not end with the last picture.
const ENDS_APART_MAX_SECONDS: f64 = 0.5;

/// All that a player was given for one video.
#[derive(Clone, Debug, PartialEq)]
pub struct Watched {
    /// BLAKE3 hash and length of each initialization segment and segment, by path.
    pub files: BTreeMap<String, (String, usize)>,
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
    let root = format!("/v/{video}");
    let master = client.bytes(&format!("{root}/master.m3u8")).await?;
    let master = parse_master(&master)?;
    let mut playlists: Vec<String> =
        master.variants.iter().map(|variant| variant.uri.clone()).collect();
    playlists.extend(master.alternatives.iter().filter_map(|media| media.uri.clone()));
    playlists.sort();
    playlists.dedup();
    ensure!(!master.variants.is_empty(), "{root}: the multivariant playlist lists nothing");

    let mut watched = Watched { files: BTreeMap::new(), seconds: BTreeMap::new(), ended: true };
    for uri in playlists {
        let path = join(&format!("{root}/master.m3u8"), &uri);
        let playlist = parse_media(&client.bytes(&path).await?).with_context(|| path.clone())?;
        watched.ended &= playlist.end_list;
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
                let path = join(&path, &uri);
                if let Entry::Vacant(place) = watched.files.entry(path) {
                    let bytes = client.bytes(place.key()).await?;
                    ensure!(!bytes.is_empty(), "{} is empty", place.key());
                    place.insert((blake3::hash(&bytes).to_hex().to_string(), bytes.len()));
                }
            }
        }
        watched.seconds.insert(path, seconds);
    }
    if watched.ended {
        let longest = watched.seconds.values().copied().fold(0.0, f64::max);
        ensure!(
            longest - watched.playable_seconds() <= ENDS_APART_MAX_SECONDS,
            "{root}: renditions differ in length: {:?}",
            watched.seconds
        );
    }
    Ok(watched)
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
