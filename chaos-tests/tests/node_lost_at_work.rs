//! A node is lost while it does all that a node can do at once: it leads the cluster, encodes a video, and serves viewers.
//!
//! Once without warning (`kill -9`) and once in order (`SIGTERM`). Neither costs a viewer a byte or a noticeable pause, and
//! what is being encoded becomes complete.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::clips::{Clip, Codec, count_frames};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::outcome::{
    PLAYABLE_WITHIN, still_plays, until_playable, until_ready, until_writable, watch_everywhere,
};
use chaos_tests::player::{Player, WAIT_MAX};
use chaos_tests::wait;

/// Workers notice at their next read or write that nobody is there any more.
const WORKERS_GONE_WITHIN: Duration = Duration::from_secs(20);

const SECONDS: u32 = 32;

#[tokio::test(flavor = "multi_thread")]
async fn killed() -> Result<()> {
    scenario(3, async |cluster| lose_the_leader(cluster, Fault::Kill).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped() -> Result<()> {
    scenario(3, async |cluster| lose_the_leader(cluster, Fault::Terminate).await).await
}

async fn lose_the_leader(cluster: &mut Cluster, fault: Fault) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let standard = Clip::new(Codec::H264, 20, 640, 360).make(folder.path()).await?;
    let foreign = Clip::new(Codec::Mpeg4, SECONDS, 1280, 720).make(folder.path()).await?;

    let lost = cluster.leader().await?;
    let at_lost = cluster.nodes[lost].client()?;
    let survivor = cluster.nodes[(lost + 1) % 3].client()?;
    let nodes = vec![at_lost.clone(), survivor.clone(), cluster.nodes[(lost + 2) % 3].client()?];
    let film = survivor.upload_video(&standard, "film").await?;
    until_ready(&survivor, &film.id).await?;
    let before = watch_everywhere(cluster, &film.id).await?;

    let made = survivor.upload_video(&foreign, "being encoded").await?;
    until_playable(&at_lost, &made.id).await?;
    let mut of_film = Player::new(nodes.clone(), &film.id).start();
    let mut of_made = Player::new(nodes, &made.id).start();
    of_film.plays(1).await?;
    of_made.plays(1).await?;
    let workers = wait::until("the leader encodes", PLAYABLE_WITHIN, async || {
        let workers = cluster.nodes[lost].workers()?;
        Ok((!workers.is_empty()).then_some(workers))
    })
    .await?;
    ensure!(cluster.leader().await? == lost, "the leader has changed by itself");
    cluster.end(lost, fault)?;
    ensure!(survivor.video(&made.id).await?.state == "processing", "nothing was left to do");

    of_film.plays(2 * before.files.len()).await?;
    until_writable(&survivor, &film.id).await?;
    until_ready(&survivor, &made.id).await?;
    let complete = watch_everywhere(cluster, &made.id).await?;
    still_plays(cluster, &film.id, &before).await?;
    let frames = count_frames(&format!("{}/v/{}/master.m3u8", survivor.base, made.id)).await?;
    ensure!(frames == u64::from(SECONDS * 25), "{frames} pictures instead of {}", SECONDS * 25);
    let viewed = of_film.finish().await?;
    ensure!(viewed.files == before.files, "the viewer was given other bytes");
    ensure!(viewed.moves.len() == 1, "one node was lost: {:?}", viewed.moves);
    ensure!(viewed.longest_wait < WAIT_MAX, "the viewer waited {:?}", viewed.longest_wait);
    let viewed = of_made.finish().await?;
    ensure!(viewed.files == complete.files, "the early viewer was given other bytes");
    ensure!(!viewed.moves.is_empty(), "the early viewer did not see the node go");
    wait::until("the workers of the lost node are gone", WORKERS_GONE_WITHIN, async || {
        Ok(workers.iter().all(|worker| !is_running(*worker)).then_some(()))
    })
    .await?;

    cluster.restart(lost)?;
    cluster.wait_until_ready().await?;
    still_plays(cluster, &film.id, &before).await?;
    still_plays(cluster, &made.id, &complete).await?;
    let video = at_lost.upload_video(&standard, "back in service").await.context("upload")?;
    until_ready(&at_lost, &video.id).await?;
    watch_everywhere(cluster, &video.id).await?;
    Ok(())
}

fn is_running(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}
