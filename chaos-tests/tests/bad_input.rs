//! What is no video, and requests that make no sense: each ends with a clear answer, and the node stays healthy.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos_tests::client::{Client, accepted};
use chaos_tests::clips::{Clip, Codec};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::wait;
use reqwest::{Method, StatusCode};
use serde_json::Value;

/// The promise of the interface.
const FAILED_WITHIN: Duration = Duration::from_secs(15);

/// Two files of an archive without compression: enough for every archive detector.
const ZIP: &[u8] = b"PK\x03\x04\x0a\0\0\0\0\0\0\0\0\0\x86\xa6\x106\x05\0\0\0\x05\0\0\0\x01\0\0\0ahello\
    PK\x01\x02\x1e\x03\x0a\0\0\0\0\0\0\0\0\0\x86\xa6\x106\x05\0\0\0\x05\0\0\0\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0aPK\x05\x06\0\0\0\0\x01\0\x01\0/\0\0\0$\0\0\0\0\0";

async fn fails(client: &Client, name: &str, content: Bytes) -> Result<String> {
    let response = client.upload_bytes(content, name, None, None).await?;
    let status = response.status();
    if status != StatusCode::CREATED {
        // Refused at once is as good, with a code.
        ensure!(status.is_client_error(), "{name}: {status}");
        let problem: Value = response.json().await?;
        return Ok(problem["code"].as_str().context("a code")?.to_owned());
    }
    let video = accepted(response).await?;
    let failed = wait::until(&format!("{name} fails"), FAILED_WITHIN, async || {
        let video = client.video(&video.id).await?;
        ensure!(video.state != "ready", "{name} is ready");
        Ok((video.state == "failed").then_some(video))
    })
    .await?;
    let error = failed.error.context("an error")?;
    ensure!(!error.detail.is_empty(), "{name}: no detail");
    Ok(error.code)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_video_fails_with_a_code() -> Result<()> {
    scenario(3, async |cluster| no_videos(cluster).await).await
}

async fn no_videos(cluster: &Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip =
        std::fs::read(Clip::new(Codec::H264IndexLast, 3, 320, 240).make(folder.path()).await?)?;
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "nobody may see this")?;
    // A server that counts who connects: a playlist must not make a node fetch anything.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let bait = listener.local_addr()?;
    let visited = tokio::spawn(async move { listener.accept().await.map(|_| ()) });

    let client = cluster.nodes[0].client()?;
    let secret = secret.display();
    let cases: Vec<(&str, Bytes, &[&str])> = vec![
        ("empty", Bytes::new(), &["empty_file"]),
        ("text.mp4", Bytes::from_static(b"This is no video at all.\n"), &["not_a_video"]),
        ("zip", Bytes::from_static(ZIP), &["not_a_video"]),
        ("zeros", Bytes::from(vec![0; 3 << 20]), &["not_a_video"]),
        (
            "truncated.mp4",
            Bytes::from(clip[..clip.len() / 2].to_vec()),
            &["truncated", "corrupt_media", "not_a_video"],
        ),
        (
            "hls.mp4",
            Bytes::from(format!(
                "#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nfile://{secret}\n#EXTINF:4,\nhttp://{bait}/a.ts\n#EXT-X-ENDLIST\n"
            )),
            &["not_a_video"],
        ),
        (
            "concat.mp4",
            Bytes::from(format!(
                "ffconcat version 1.0\nfile '{secret}'\nfile 'http://{bait}/b.mp4'\n"
            )),
            &["not_a_video"],
        ),
        (
            "sdp.mp4",
            Bytes::from(format!(
                "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
                bait.port()
            )),
            &["not_a_video"],
        ),
    ];
    for (name, content, codes) in cases {
        let code = fails(&client, name, content).await?;
        ensure!(codes.contains(&code.as_str()), "{name}: {code} is none of {codes:?}");
    }
    ensure!(!visited.is_finished(), "a node connected to an address that a playlist named");
    visited.abort();
    for client in cluster.clients()? {
        client.bytes("/healthz").await?;
        client.bytes("/readyz").await?;
    }
    requests(&client).await
}

/// The status and the code of the problem that the answer has to be.
async fn problem(response: reqwest::Response) -> Result<(u16, String)> {
    let status = response.status().as_u16();
    let kind =
        response.headers().get("content-type").context("a content type")?.to_str()?.to_owned();
    ensure!(kind.starts_with("application/problem+json"), "{status} with {kind}");
    let problem: Value = response.json().await?;
    ensure!(problem["request_id"].is_string(), "no request id: {problem}");
    ensure!(problem["status"] == status, "{status} but {problem}");
    Ok((status, problem["code"].as_str().context("a code")?.to_owned()))
}

async fn requests(client: &Client) -> Result<()> {
    let unknown = "/api/v1/videos/00000000000000000000000000000000";
    ensure!(problem(client.get(unknown).await?).await?.0 == 404, "unknown video");
    ensure!(problem(client.get("/api/v1/videos/nonsense").await?).await?.0 == 404, "no video id");
    ensure!(problem(client.get("/api/v1/nothing").await?).await?.0 == 404, "unknown route");
    ensure!(
        problem(client.get("/v/00000000000000000000000000000000/master.m3u8").await?).await?.0
            == 404,
        "no playlist"
    );
    ensure!(problem(client.delete(unknown).await?).await?.0 == 404, "delete what is not there");
    let bad_json = client
        .request(Method::PATCH, unknown, "application/json", Bytes::from_static(b"{"))
        .await?;
    ensure!(matches!(problem(bad_json).await?.0, 400 | 422), "bad JSON");
    let wrong_method =
        client.request(Method::PUT, "/api/v1/videos", "text/plain", Bytes::new()).await?;
    ensure!(wrong_method.headers().contains_key("allow"), "no Allow");
    ensure!(problem(wrong_method).await?.0 == 405, "wrong method");
    too_large(client).await
}

/// A gibibyte and one byte, as announced: refused before any of it is read.
async fn too_large(client: &Client) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let address = client.base.trim_start_matches("http://");
    let mut connection = tokio::net::TcpStream::connect(address).await?;
    let head = format!(
        "POST /api/v1/videos?title=large HTTP/1.1\r\nHost: {address}\r\nContent-Type: video/mp4\r\nContent-Length: {}\r\n\r\n",
        (1_u64 << 30) + 1
    );
    connection.write_all(head.as_bytes()).await?;
    let mut answer = vec![0; 1024];
    let read = tokio::time::timeout(Duration::from_secs(5), connection.read(&mut answer)).await??;
    let answer = String::from_utf8_lossy(&answer[..read]);
    ensure!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_writes_are_refused_and_playback_goes_on() -> Result<()> {
    scenario(3, async |cluster| minority(cluster).await).await
}

async fn minority(cluster: &mut Cluster) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let clip = Clip::new(Codec::H264, 4, 320, 240).make(folder.path()).await?;
    let client = cluster.nodes[0].client()?;
    let video = client.upload_video(&clip, "clip").await?;
    wait::until("the video is ready", Duration::from_secs(60), async || {
        Ok((client.video(&video.id).await?.state == "ready").then_some(()))
    })
    .await?;
    let survivor = cluster.nodes[2].client()?;
    wait::until("the third copies are made", Duration::from_secs(30), async || {
        let seen = survivor.cluster().await?;
        Ok((seen["under_replicated_blocks"] == 0).then_some(()))
    })
    .await?;
    cluster.end(0, chaos_tests::faults::Fault::Kill)?;
    cluster.end(1, chaos_tests::faults::Fault::Kill)?;

    let start = std::time::Instant::now();
    let answer = survivor
        .patch(&format!("/api/v1/videos/{}", video.id), &serde_json::json!({"title": "no"}))
        .await?;
    let took = start.elapsed();
    ensure!(answer.headers().contains_key("retry-after"), "no Retry-After: {}", answer.status());
    ensure!(problem(answer).await?.0 == 503, "a write without a majority");
    ensure!(took < Duration::from_secs(6), "the refusal took {took:?}");
    let upload = survivor.upload(&clip, "no", None, None).await?;
    ensure!(problem(upload).await?.0 == 503, "an upload without a majority");

    chaos_tests::player::watch(&survivor, &video.id).await?;
    survivor.bytes("/healthz").await?;
    Ok(())
}
