//! Nodes come, are drained, leave, and are restarted one after the other, while people upload and watch.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::client::Client;
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::leaving::DRAINED_WITHIN;
use chaos_tests::outcome::{still_plays, until_ready, watch_everywhere};
use chaos_tests::wait;
use serde_json::json;
use tokio::task::JoinHandle;

/// Whoever writes may be refused for a moment, while leadership passes on; not for longer.
const WRITTEN_WITHIN: Duration = Duration::from_secs(20);

/// A video of some seconds is made by then, beside everything else.
const MADE_WITHIN: Duration = Duration::from_secs(60);

/// Writes that have to succeed between two restarts.
const BETWEEN_RESTARTS: usize = 20;

/// Somebody who uploads one video after the other, at one node after the other, and tries again what was refused.
struct Uploader {
    nodes: Arc<Mutex<Vec<Client>>>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<Result<Vec<String>>>,
}

impl Uploader {
    fn start(cluster: &Cluster, file: PathBuf) -> Result<Self> {
        let nodes = Arc::new(Mutex::new(cluster.clients()?));
        let stop = Arc::new(AtomicBool::new(false));
        let (pool, stopped) = (nodes.clone(), stop.clone());
        let task = tokio::spawn(async move {
            let mut uploaded = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let number = uploaded.len();
                let pick = |turn: usize| {
                    let nodes = pool.lock().unwrap_or_else(PoisonError::into_inner);
                    nodes[turn % nodes.len()].clone()
                };
                let turn = AtomicUsize::new(number);
                let next = || pick(turn.fetch_add(1, Ordering::Relaxed));
                let title = format!("during {number}");
                let video = wait::until("an upload is taken", WRITTEN_WITHIN, async || {
                    Ok(Some(next().upload_video(&file, &title).await?))
                })
                .await?;
                wait::until("an upload becomes a video", MADE_WITHIN, async || {
                    let video = next().video(&video.id).await?;
                    Ok((video.state == "ready").then_some(()))
                })
                .await?;
                uploaded.push(video.id);
            }
            Ok(uploaded)
        });
        Ok(Self { nodes, stop, task })
    }

    /// From now on at these nodes.
    fn use_nodes(&self, clients: Vec<Client>) {
        *self.nodes.lock().unwrap_or_else(PoisonError::into_inner) = clients;
    }

    /// The videos that were uploaded.
    async fn finish(self) -> Result<Vec<String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_five_become_three_while_people_upload() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264IndexLast, 4, 320, 180).make(folder.path()).await?;

    scenario(3, async |cluster| {
        let first = cluster.nodes[0].client()?.upload_video(&clip, "before").await?;
        until_ready(&cluster.nodes[0].client()?, &first.id).await?;
        let before = watch_everywhere(cluster, &first.id).await?;
        let uploader = Uploader::start(cluster, clip.clone())?;
        cluster.grow(2).await?;
        uploader.use_nodes(cluster.clients()?);

        // Whoever leads has the most to hand over; and one of those that have just come.
        let leader = cluster.leader().await?;
        let leaving = [leader, if leader == 3 { 4 } else { 3 }];
        let stays = (0..5).find(|place| !leaving.contains(place)).context("three stay")?;
        let here = |cluster: &Cluster| -> Result<Vec<Client>> {
            let staying = cluster.nodes.iter().enumerate().filter(|(at, _)| !leaving.contains(at));
            staying.map(|(_, node)| node.client()).collect()
        };
        uploader.use_nodes(here(cluster)?);
        let began = Instant::now();
        for place in leaving {
            let id = (place + 1).to_string();
            let refused = cluster.operate(&["node", "remove", &id], stays).await;
            let reason = format!("{:#}", refused.err().context("removed with all it has")?);
            ensure!(reason.contains("drain it first"), "{reason}");
            cluster.drain(place, stays).await?;
        }
        for place in leaving {
            cluster.until_drained(place, stays).await?;
        }
        eprintln!("two of five nodes were drained within {:?}", began.elapsed());
        // While they still run, they still answer.
        still_plays(cluster, &first.id, &before).await?;
        for place in leaving {
            cluster.remove_drained(place, stays).await?;
        }

        let during = uploader.finish().await?;
        ensure!(during.len() >= 3, "only {} videos were uploaded meanwhile", during.len());
        eprintln!("{} videos were uploaded meanwhile", during.len());
        let client = cluster.nodes[stays].client()?;
        let last = client.upload_video(&clip, "after").await?;
        until_ready(&client, &last.id).await?;
        wait::until("nothing lacks a copy", DRAINED_WITHIN, async || {
            let seen = client.cluster().await?;
            Ok((seen["under_replicated_blocks"] == 0).then_some(()))
        })
        .await?;
        still_plays(cluster, &first.id, &before).await?;
        for id in during.iter().chain([&last.id]) {
            watch_everywhere(cluster, id).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_write_that_is_tried_again() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264IndexLast, 4, 320, 180).make(folder.path()).await?;

    scenario(3, async |cluster| {
        let client = cluster.nodes[0].client()?;
        let video = client.upload_video(&clip, "write 0").await?;
        until_ready(&client, &video.id).await?;
        let before = watch_everywhere(cluster, &video.id).await?;

        let written = Arc::new(AtomicUsize::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let writer = tokio::spawn({
            let (written, stop, id) = (written.clone(), stop.clone(), video.id.clone());
            let clients = cluster.clients()?;
            async move {
                let mut longest = Duration::ZERO;
                let turn = AtomicUsize::new(0);
                while !stop.load(Ordering::Relaxed) {
                    let number = written.load(Ordering::Relaxed) + 1;
                    let title = json!({"title": format!("write {number}")});
                    let began = Instant::now();
                    wait::until("a write is taken", WRITTEN_WITHIN, async || {
                        let turn = turn.fetch_add(1, Ordering::Relaxed);
                        let client = &clients[turn % clients.len()];
                        let answer = client.patch(&format!("/api/v1/videos/{id}"), &title).await?;
                        ensure!(answer.status().is_success(), "{}", answer.text().await?);
                        Ok(Some(()))
                    })
                    .await?;
                    longest = longest.max(began.elapsed());
                    written.store(number, Ordering::Relaxed);
                }
                anyhow::Ok(longest)
            }
        });
        for place in 0..3 {
            cluster.end(place, Fault::Terminate)?;
            more(&written).await?;
            cluster.restart(place)?;
            cluster.wait_until_ready().await?;
            more(&written).await?;
        }
        stop.store(true, Ordering::Relaxed);
        let longest = writer.await??;
        let title = format!("write {}", written.load(Ordering::Relaxed));
        eprintln!("the last was {title:?}, the longest took {longest:?}");
        for client in cluster.clients()? {
            wait::until("all nodes have the last write", WRITTEN_WITHIN, async || {
                Ok((client.video(&video.id).await?.title == title).then_some(()))
            })
            .await?;
        }
        still_plays(cluster, &video.id, &before).await
    })
    .await
}

/// Waits until some more writes have succeeded.
async fn more(written: &AtomicUsize) -> Result<()> {
    let enough = written.load(Ordering::Relaxed) + BETWEEN_RESTARTS;
    wait::until("writes go on", WRITTEN_WITHIN * 2, async || {
        Ok((written.load(Ordering::Relaxed) >= enough).then_some(()))
    })
    .await
}
