//! What to upload: clips that FFmpeg makes on the spot, and things that are no clips.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// A generated clip.
#[derive(Clone, Copy, Debug)]
pub struct Clip {
    pub seconds: u32,
    pub width: u32,
    pub height: u32,
    pub codec: Codec,
}

/// What the clip is encoded with, which decides the lane that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// MP4 with H.264 and AAC and its index in front: repackaged, and playable while it is still being uploaded.
    H264,
    /// The same with the index at the end, as FFmpeg writes it by default.
    H264IndexLast,
    /// Matroska with MPEG-4 Part 2 and MP3: all of it has to be encoded.
    Mpeg4,
}

impl Clip {
    /// A short clip.
    #[must_use]
    pub fn new(codec: Codec, seconds: u32, width: u32, height: u32) -> Self {
        Self { seconds, width, height, codec }
    }

    /// Makes the clip in `folder`. The content moves and makes noise, so that nothing of it compresses to nothing.
    ///
    /// # Errors
    /// When FFmpeg is missing or refuses.
    pub async fn make(self, folder: &Path) -> Result<PathBuf> {
        let Self { seconds, width, height, codec } = self;
        let (video, audio, extra, extension): (&[&str], _, &[&str], _) = match codec {
            Codec::H264 => (
                &["libx264", "-preset", "veryfast", "-g", "50"],
                "aac",
                &["-movflags", "+faststart"],
                "mp4",
            ),
            Codec::H264IndexLast => {
                (&["libx264", "-preset", "veryfast", "-g", "50"], "aac", &[], "mp4")
            }
            Codec::Mpeg4 => (&["mpeg4", "-q:v", "4"], "libmp3lame", &[], "mkv"),
        };
        let path = folder
            .join(format!("{codec:?}-{seconds}s-{width}x{height}.{extension}").to_lowercase());
        let mut command = Command::new("ffmpeg");
        command
            .args(["-v", "error", "-y", "-f", "lavfi", "-i"])
            .arg(format!("testsrc2=size={width}x{height}:rate=25:duration={seconds}"))
            .args(["-f", "lavfi", "-i"])
            .arg(format!("sine=frequency=440:beep_factor=4:sample_rate=48000:duration={seconds}"))
            .args(["-pix_fmt", "yuv420p", "-c:v"])
            .args(video)
            .args(["-c:a", audio, "-ac", "2", "-b:a", "128k"])
            .args(extra)
            .arg(&path);
        run(command).await.with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }
}

async fn run(mut command: Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("start ffmpeg (is it installed?)")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// How many pictures a player decodes of what is behind `url`: FFmpeg itself plays it.
///
/// # Errors
/// When FFmpeg cannot play it to the end without an error.
pub async fn count_frames(url: &str) -> Result<u64> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-count_frames"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0"])
        .arg(url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("start ffprobe (is it installed?)")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success() && errors.is_empty(), "play {url}: {errors}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .find_map(|line| line.trim().trim_end_matches(',').parse().ok())
        .with_context(|| format!("read the number of frames in {text:?}"))
}
