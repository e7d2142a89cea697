//! `reelraft video upload`: send a file, and wait for it to be ready if asked to.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::TryStreamExt;
use gateway::api::{Video, VideoState};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Method;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use tokio::time::{Instant, sleep};
use tokio_util::io::ReaderStream;

use super::{Visibility, path_of};
use crate::cli::client::{Api, Target};
use crate::cli::output;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file
    file: PathBuf,
    /// The title; the file's name when left out
    #[arg(long)]
    title: Option<String>,
    /// Who finds and sees it
    #[arg(long, value_enum, default_value_t = Visibility::Public)]
    visibility: Visibility,
    /// Return when the video is ready; fail when it fails
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    target: Target,
    /// Print the video as JSON
    #[arg(long)]
    json: bool,
}

/// How much of the file is in memory at a time.
const READ_BYTES: usize = 256 * 1024;

/// Between two looks at a video that is being processed.
const POLL: Duration = Duration::from_millis(500);

/// How long a node may be away while somebody waits for a video: as long as a restart takes, with room.
const ABSENCE_MAX: Duration = Duration::from_secs(60);

pub(super) async fn run(args: Args) -> anyhow::Result<()> {
    let api = Api::new(&args.target)?;
    let mut video = send(&api, &args).await?;
    if args.wait {
        video = wait(&api, video).await?;
    }
    if args.json {
        output::json(&video)?;
    } else {
        output::line(&format!("{}  {}", video.id, api.url(&video.urls.watch)));
    }
    Ok(())
}

async fn send(api: &Api, args: &Args) -> anyhow::Result<Video> {
    let path = &args.file;
    let file =
        tokio::fs::File::open(path).await.with_context(|| format!("open {}", path.display()))?;
    let about = file.metadata().await.with_context(|| format!("look at {}", path.display()))?;
    ensure!(about.is_file(), "{} is no file", path.display());

    let bar = bar(about.len(), "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} to go")?;
    let counted = bar.clone();
    let body = ReaderStream::with_capacity(file, READ_BYTES)
        .inspect_ok(move |part| counted.inc(part.len() as u64));
    let title = args.title.clone().unwrap_or_else(|| title_of(path));
    let visibility = match args.visibility {
        Visibility::Public => "public",
        Visibility::Unlisted => "unlisted",
        Visibility::Private => "private",
    };
    let filename =
        path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let request = api
        .request(Method::POST, "/api/v1/videos")
        .query(&[("title", title.as_str()), ("visibility", visibility), ("filename", &filename)])
        .header(CONTENT_TYPE, media_type(path))
        .header(CONTENT_LENGTH, about.len())
        .body(reqwest::Body::wrap_stream(body));
    let sent = api.read(request).await.with_context(|| format!("upload {}", path.display()));
    bar.finish_and_clear();
    sent
}

/// Looks at the video until it is ready.
async fn wait(api: &Api, mut video: Video) -> anyhow::Result<Video> {
    let bar = bar(1000, "{bar:30} {percent} % processed{msg}")?;
    let mut last_seen = Instant::now();
    loop {
        match video.state {
            VideoState::Ready => {
                bar.finish_and_clear();
                return Ok(video);
            }
            VideoState::Failed => {
                bar.finish_and_clear();
                match &video.error {
                    Some(error) => {
                        bail!("video {} failed: {} ({})", video.id, error.detail, error.code)
                    }
                    None => bail!("video {} failed", video.id),
                }
            }
            VideoState::Uploading | VideoState::Processing => {}
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "progress is between 0 and 1, and the cast saturates"
        )]
        bar.set_position((video.progress * 1000.0) as u64);
        if video.playable_seconds > 0.0 {
            bar.set_message(format!(", {} playable", output::clock(Some(video.playable_seconds))));
        }
        sleep(POLL).await;
        match api.get(&path_of(video.id)).await {
            Ok(now) => {
                video = now;
                last_seen = Instant::now();
            }
            Err(error) if last_seen.elapsed() > ABSENCE_MAX => {
                return Err(error.context(format!("wait for video {}", video.id)));
            }
            Err(_) => {}
        }
    }
}

/// A progress bar on a terminal, nothing elsewhere.
fn bar(total: u64, template: &str) -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template(template).context("lay out the progress bar")?;
    Ok(ProgressBar::new(total).with_style(style))
}

fn title_of(path: &Path) -> String {
    path.file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_else(|| "Video".to_owned())
}

/// What the server is told; it looks at the bytes itself and takes any `video/*`.
fn media_type(path: &Path) -> &'static str {
    let extension = path.extension().map(|extension| extension.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("mp4" | "m4v") => "video/mp4",
        Some("mov") => "video/quicktime",
        Some("mkv") => "video/x-matroska",
        Some("webm") => "video/webm",
        Some("avi") => "video/x-msvideo",
        Some("ts" | "m2ts" | "mts") => "video/mp2t",
        _ => "video/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_title_has_its_name() {
        assert_eq!(title_of(Path::new("/tmp/My holiday.mp4")), "My holiday");
        assert_eq!(media_type(Path::new("a.MKV")), "video/x-matroska");
        assert_eq!(media_type(Path::new("a")), "video/octet-stream");
    }
}
