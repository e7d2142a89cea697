//! A person's way through the web app in a real browser, and the promise that a viewer does not notice when the serving
//! node dies.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{ChildStdout, Command};

/// The browser gives up by itself after a minute for each step.
const STEP_WITHIN: Duration = Duration::from_secs(75);

/// What a viewer may notice when the node that serves them is killed.
const STALL_MS_MAX: u64 = 500;

/// A jump to what is not buffered, with the page's own node dead: it has to notice and to ask another one.
const SEEK_MS_MAX: u64 = 5000;

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_does_not_notice_that_the_serving_node_is_killed() -> Result<()> {
    scenario(3, async |cluster| person(cluster).await).await
}

async fn step(lines: &mut Lines<BufReader<ChildStdout>>, name: &str) -> Result<Value> {
    let line = tokio::time::timeout(STEP_WITHIN, lines.next_line())
        .await
        .with_context(|| format!("wait for {name}"))??
        .with_context(|| format!("the browser script ended before {name}"))?;
    let said: Value = serde_json::from_str(&line).with_context(|| line.clone())?;
    ensure!(said["step"] == name, "{said} instead of {name}");
    Ok(said)
}

async fn person(cluster: &mut Cluster) -> Result<()> {
    let chromium = std::env::var_os("REELRAFT_CHROMIUM")
        .filter(|path| !path.is_empty())
        .context("REELRAFT_CHROMIUM is not set: run the tests with `make test`")?;
    let folder = tempfile::tempdir()?;
    // Long enough to be encoded still while its beginning plays.
    let clip = Clip::new(Codec::Mpeg4, 20, 1280, 720).make(folder.path()).await?;
    // Ready at once, and too long for the player's buffer.
    let longer = Clip::new(Codec::H264, 180, 640, 360).make(folder.path()).await?;
    let screenshots = std::env::var_os("REELRAFT_SCREENSHOTS").map(PathBuf::from);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("browser/person.mjs");

    let (uploading, watching) = (0, 1);
    let mut browser = Command::new("node")
        .arg(script)
        .arg(&chromium)
        .arg(cluster.nodes[uploading].url())
        .arg(cluster.nodes[watching].url())
        .arg(&clip)
        .args(screenshots)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("start node")?;
    let mut input = browser.stdin.take().context("take the script's input")?;
    let output = browser.stdout.take().context("take the script's output")?;
    let mut lines = BufReader::new(output).lines();

    step(&mut lines, "uploaded").await?;
    let playing = step(&mut lines, "playing").await?;
    ensure!(playing["state"] != "ready", "the video played only when it was ready: {playing}");

    let longer = cluster.nodes[uploading].client()?.upload_video(&longer, "longer").await?;
    input.write_all(format!("{}\n", longer.id).as_bytes()).await?;
    step(&mut lines, "buffered").await?;

    cluster.end(watching, Fault::Kill)?;
    input.write_all(b"killed\n").await?;
    let survived = step(&mut lines, "survived").await?;
    let stall = survived["longestStallMs"].as_u64().context("a number")?;
    ensure!(stall <= STALL_MS_MAX, "playback stood still: {survived}");
    let sought = step(&mut lines, "sought").await?;
    ensure!(
        sought["tookMs"].as_u64().is_some_and(|ms| ms <= SEEK_MS_MAX),
        "a jump took long: {sought}"
    );

    let done = step(&mut lines, "done").await?;
    ensure!(done["problems"] == serde_json::json!([]), "errors on the pages: {done}");
    Ok(())
}
