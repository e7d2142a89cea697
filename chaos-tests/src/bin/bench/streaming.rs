//! P6, P7, P8: how soon a video can be watched, and what the full ladder costs; beside the FFmpeg command line.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::{Client, Video, accepted};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::Cluster;
use chaos_tests::player::watch;
use tempfile::TempDir;

use crate::measure::children_cpu;
use crate::peers::{self, Encoding};
use crate::report::Report;

/// How often a video is looked at while it is waited for: the resolution of these figures.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The rungs of the peer's ladder for a source of 1080p: width, height, most bits per second in thousands.
const LADDER: [(u32, u32, u32); 4] =
    [(1920, 1080, 5000), (1280, 720, 2800), (854, 480, 1400), (640, 360, 800)];

fn signed(from: Instant, to: Instant) -> f64 {
    if to >= from { (to - from).as_secs_f64() } else { -(from - to).as_secs_f64() }
}

/// Times of one upload.
struct Times {
    video: Video,
    began: Instant,
    accepted: Instant,
    playable: Instant,
    ready: Option<Instant>,
}

/// Uploads at the given speed and looks when the video becomes playable (with a segment that really comes), and ready.
async fn upload(
    client: &Client,
    file: &Path,
    bytes_per_second: Option<u64>,
    until_ready: bool,
) -> Result<Times> {
    let key = format!("bench-{}", std::process::id());
    let key = format!("{key}-{}", file.display())
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>();
    let began = Instant::now();
    let looking = tokio::spawn({
        let (client, key) = (client.clone(), key.clone());
        async move {
            let mut playable = None;
            loop {
                if let Some(video) = client.video_by_upload_key(&key).await? {
                    ensure!(video.state != "failed", "{:?}", video.error);
                    if playable.is_none() && video.playable_seconds > 0.0 {
                        watch(&client, &video.id).await?;
                        playable = Some(Instant::now());
                    }
                    let ready = (video.state == "ready").then(Instant::now);
                    if let Some(playable) = playable
                        && (ready.is_some() || !until_ready)
                    {
                        return Ok((playable, ready));
                    }
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    });
    let answer = client.upload(file, "bench", Some(&key), bytes_per_second).await?;
    let accepted_at = Instant::now();
    let video = accepted(answer).await?;
    let (playable, ready) =
        tokio::time::timeout(Duration::from_secs(600), looking).await.context("wait")???;
    Ok(Times { video, began, accepted: accepted_at, playable, ready })
}

/// P6: input that needs no encoding. 0 is the moment at which the last byte was acknowledged.
pub(crate) async fn standard_input(report: &mut Report) -> Result<()> {
    report.step("P6: standard input");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let first = Clip::new(Codec::H264, 60, 1920, 1080).make(folder.path()).await?;
    let last = Clip::new(Codec::H264IndexLast, 60, 1920, 1080).make(folder.path()).await?;
    let mut args = vec!["-i".to_owned(), first.display().to_string()];
    args.extend(
        "-c copy -f hls -hls_time 4 -hls_playlist_type vod -hls_segment_type fmp4"
            .split(' ')
            .map(str::to_owned),
    );
    args.push(folder.path().join("out.m3u8").display().to_string());
    let peer = peers::ffmpeg(&args, None).await?;
    let peer_text = format!("ffmpeg -c copy, whole file {:.2} s", peer.wall.as_secs_f64());
    let cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    let client = cluster.nodes[0].client()?;
    for (what, file, speed) in [
        ("index first, as fast as it goes", &first, None),
        ("index first, 10 MB/s", &first, Some(10_000_000)),
        ("index last, as fast as it goes", &last, None),
    ] {
        let times = upload(&client, file, speed, false).await?;
        let playable = signed(times.accepted, times.playable);
        let whole = signed(times.began, times.accepted);
        report.add(
            "P6",
            format!("60 s 1080p H.264, {what}: accepted → playable"),
            format!("{playable:+.2} s (the upload took {whole:.2} s)"),
            peer_text.clone(),
            (playable > 0.0).then(|| peer.wall.as_secs_f64() / playable),
        );
        client.delete(&format!("/api/v1/videos/{}", times.video.id)).await?;
    }
    Ok(())
}

/// P7: input that has to be encoded. 0 is the beginning of the upload: the first seconds are there a moment later.
pub(crate) async fn foreign_input(report: &mut Report) -> Result<()> {
    report.step("P7: input that has to be encoded");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = Clip::new(Codec::Mpeg4, 60, 1920, 1080).make(folder.path()).await?;
    let peer = ladder(&clip, folder.path()).await?;
    let first = peer.first.context("ffmpeg wrote no playlist")?.as_secs_f64();
    let cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    let client = cluster.nodes[0].client()?;
    let times = upload(&client, &clip, None, false).await?;
    let playable = signed(times.began, times.playable);
    report.add(
        "P7",
        "60 s 1080p MPEG-4: upload begins → playable in all rungs",
        format!("{playable:.2} s (the upload took {:.2} s)", signed(times.began, times.accepted)),
        format!("ffmpeg, four rungs, first playlist after {first:.2} s"),
        Some(first / playable),
    );
    Ok(())
}

/// P8: the whole ladder of a minute of 1080p.
pub(crate) async fn full_ladder(report: &mut Report) -> Result<()> {
    report.step("P8: the full ladder, ffmpeg");
    let folder = TempDir::with_prefix("reelraft-bench-")?;
    let clip = Clip::new(Codec::Mpeg4, 60, 1920, 1080).make(folder.path()).await?;
    let peer = ladder(&clip, folder.path()).await?;
    report.step("P8: the full ladder, Reelraft");
    let cluster = Cluster::start_with(3, &[("REELRAFT_LOG_FILTER", "warn")]).await?;
    let client = cluster.nodes[0].client()?;
    let times = upload(&client, &clip, None, true).await?;
    let mut cpu = Duration::ZERO;
    for node in &cluster.nodes {
        cpu += children_cpu(node.process_id()?)?;
    }
    let ready = times.ready.context("ready")?;
    let wall = signed(times.began, ready);
    report.add(
        "P8",
        "60 s 1080p MPEG-4 to four rungs: processor time of the workers",
        format!("{:.1} s, wall {wall:.1} s", cpu.as_secs_f64()),
        format!("ffmpeg {:.1} s, wall {:.1} s", peer.cpu.as_secs_f64(), peer.wall.as_secs_f64()),
        Some(peer.cpu.as_secs_f64() / cpu.as_secs_f64()),
    );
    Ok(())
}

/// The peer: one decode, four rungs, HLS.
async fn ladder(clip: &Path, folder: &Path) -> Result<Encoding> {
    let mut args = vec!["-i".to_owned(), clip.display().to_string(), "-filter_complex".to_owned()];
    let split: String = (0..LADDER.len()).map(|n| format!("[s{n}]")).collect();
    let scales: Vec<_> = LADDER
        .iter()
        .enumerate()
        .map(|(n, (w, h, _))| format!("[s{n}]scale={w}:{h}[v{n}]"))
        .collect();
    args.push(format!("[0:v]split={}{split};{}", LADDER.len(), scales.join(";")));
    let mut map = Vec::new();
    for (n, (_, height, kbits)) in LADDER.iter().enumerate() {
        let crf = if *height == 360 { 21 } else { 23 };
        for word in [
            "-map",
            &format!("[v{n}]"),
            &format!("-c:v:{n}"),
            "libx264",
            &format!("-preset:v:{n}"),
            "veryfast",
            &format!("-crf:v:{n}"),
            &crf.to_string(),
            &format!("-maxrate:v:{n}"),
            &format!("{kbits}k"),
            &format!("-bufsize:v:{n}"),
            &format!("{}k", kbits * 2),
        ] {
            args.push(word.to_owned());
        }
        map.push(format!("v:{n},agroup:sound"));
    }
    // The sound once for all rungs, as we encode it.
    args.extend(["-map".to_owned(), "0:a".to_owned()]);
    map.push("a:0,agroup:sound".to_owned());
    args.extend("-c:a aac -b:a 128k -g 50 -keyint_min 50 -sc_threshold 0 -f hls -hls_time 4 -hls_playlist_type event -hls_segment_type fmp4 -master_pl_name master.m3u8 -var_stream_map".split(' ').map(str::to_owned));
    args.push(map.join(" "));
    let out = folder.join("ladder");
    std::fs::create_dir_all(&out)?;
    args.push("-hls_fmp4_init_filename".to_owned());
    args.push("init.mp4".to_owned());
    args.push("-hls_segment_filename".to_owned());
    args.push(out.join("%v-%d.m4s").display().to_string());
    args.push(out.join("%v.m3u8").display().to_string());
    peers::ffmpeg(&args, Some(&out.join("3.m3u8"))).await
}
