//! P1: many viewers of hot segments at one node; beside nginx with sendfile on the same files.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::Cluster;
use chaos_tests::player::watch;
use chaos_tests::wait;
use tempfile::TempDir;

use crate::load::wrk;
use crate::peers;
use crate::report::Report;

/// Objects that are asked for, in turn.
const OBJECTS: usize = 400;
const SECONDS: u32 = 10;
const CONNECTIONS: u32 = 16;

/// A clip whose segments have about 1.5 MiB: 6 s at 2.1 Mbit/s, in the size of the lowest rung, so that nothing has to be
/// encoded. A minute of it is encoded once and then repeated; each repetition gives other segments, because the time is part
/// of them.
pub(crate) async fn long_clip(folder: &Path, bytes_max: u64) -> Result<std::path::PathBuf> {
    let minute = folder.join("minute.mp4");
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut args = words(
        "-f lavfi -i testsrc2=size=640x360:rate=25:duration=60 -f lavfi -i sine=duration=60:sample_rate=48000",
    );
    args.extend(words("-vf noise=alls=40:allf=t -c:v libx264 -preset ultrafast -b:v 2100k -minrate 2100k -maxrate 2100k -bufsize 2100k"));
    args.extend(words("-x264-params nal-hrd=cbr -g 150 -keyint_min 150 -sc_threshold 0 -pix_fmt yuv420p -profile:v main -c:a aac -ac 2 -b:a 128k"));
    args.push(minute.display().to_string());
    peers::ffmpeg(&args, None).await?;
    let repeats = bytes_max / std::fs::metadata(&minute)?.len();
    let long = folder.join("long.mp4");
    let mut args = words(&format!("-stream_loop {} -i", repeats.saturating_sub(1)));
    args.push(minute.display().to_string());
    args.extend(words("-c copy -movflags +faststart"));
    args.push(long.display().to_string());
    peers::ffmpeg(&args, None).await?;
    Ok(long)
}

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    report.step("P1: make a clip with 1.5 MiB segments");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = long_clip(folder.path(), 700 << 20).await?;
    let settings = [("REELRAFT_CONTENT_CACHE", "800MiB"), ("REELRAFT_LOG_FILTER", "warn")];
    let cluster = Cluster::start_with(3, &settings).await?;
    let client = cluster.nodes[0].client()?;
    report.step("P1: upload it");
    let video = client.upload_video(&clip, "long").await?;
    let duration = wait::until("the duration is known", Duration::from_secs(60), async || {
        Ok(client.video(&video.id).await?.duration_seconds)
    })
    .await?;
    wait::until("all of it is playable", Duration::from_secs(300), async || {
        Ok((client.video(&video.id).await?.playable_seconds > duration - 8.0).then_some(()))
    })
    .await?;
    let watched = watch(&client, &video.id).await?;
    let root = folder.path().join("www");
    let mut paths = Vec::new();
    for (path, (_, len)) in &watched.files {
        if *len < 1 << 20 || paths.len() == OBJECTS {
            continue;
        }
        let file = root.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(file.parent().context("a segment has a folder")?)?;
        std::fs::write(&file, client.bytes(path).await?)?;
        paths.push(format!("\"{path}\""));
    }
    ensure!(paths.len() == OBJECTS, "only {} segments are large enough", paths.len());
    let script = format!(
        "local paths = {{{}}}\nlocal n = 0\nrequest = function()\n  n = n + 1\n  return wrk.format(\"GET\", paths[n % #paths + 1])\nend\n",
        paths.join(",")
    );
    report.step("P1: read, Reelraft and nginx");
    let ours = wrk(&client.base, CONNECTIONS, SECONDS, &script, folder.path()).await?;
    drop(cluster);
    let nginx = peers::nginx(&root).await?;
    let theirs = wrk(&nginx.url, CONNECTIONS, SECONDS, &script, folder.path()).await?;
    ensure!(ours.errors == 0 && theirs.errors == 0, "requests failed: {ours:?} {theirs:?}");
    report.add(
        "P1",
        "hot segments of 1.5 MiB, 400 of them, 16 connections",
        format!(
            "{:.0}/s, {:.2} GB/s, p99 {:.0?}",
            ours.requests_per_second,
            ours.bytes_per_second / 1e9,
            ours.p99
        ),
        format!(
            "nginx {:.0}/s, {:.2} GB/s, p99 {:.0?}",
            theirs.requests_per_second,
            theirs.bytes_per_second / 1e9,
            theirs.p99
        ),
        Some(ours.bytes_per_second / theirs.bytes_per_second),
    );
    Ok(())
}
