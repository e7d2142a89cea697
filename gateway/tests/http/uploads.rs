//! Uploads: raw and as a form, their limits, and what becomes of those that do not reach their end.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use bytes::Bytes;
use cluster::catalog;
use cluster::command::Action;
use cluster::features;
use cluster::ids::BlockHash;
use cluster::tables::videos::VideoState;
use futures::StreamExt;
use gateway::api::{self, Video, VideoPage};
use gateway::backend::Backend;
use gateway::upload::BLOCK_BYTES;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::memory::{Blocks, Memory, Proposals};
use crate::site::{Answer, Site, settings};

/// Bytes of which no two blocks are alike.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 997 + at % 251) as u8).collect()
}

/// A body that the test feeds chunk by chunk.
fn fed() -> (mpsc::Sender<Result<Bytes, std::io::Error>>, Body) {
    let (feed, fed) = mpsc::channel(1);
    let stream = futures::stream::unfold(fed, |mut fed: mpsc::Receiver<_>| async move {
        Some((fed.recv().await?, fed))
    });
    (feed, Body::from_stream(stream))
}

fn spawn_upload(site: &Site, body: Body) -> AbortOnDropHandle<Answer> {
    let site = Site { memory: site.memory.clone(), router: site.router.clone() };
    AbortOnDropHandle::new(tokio::spawn(async move { site.upload("?title=Fed", body).await }))
}

/// Waits until something holds of the catalog.
pub(crate) async fn until<T>(memory: &Memory, mut look: impl FnMut(&Memory) -> Option<T>) -> T {
    let mut applied = memory.applied();
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            applied.borrow_and_update();
            if let Some(found) = look(memory) {
                return found;
            }
            applied.changed().await.unwrap();
        }
    });
    waited.await.expect("it happens within ten seconds")
}

fn only_video(memory: &Memory) -> Option<cluster::tables::videos::VideoRow> {
    let query = catalog::Query { limit: 10, cursor: None, search: None, visibility: None };
    catalog::list_videos(&*memory.catalog(), &query).unwrap().videos.pop()
}

#[tokio::test]
async fn a_raw_upload_becomes_blocks_in_order() {
    let site = Site::new();
    let bytes = pattern(3 * BLOCK_BYTES + 1234);
    let answer =
        site.upload("?title=%20My%20film%20", bytes.clone()).await.expect(StatusCode::CREATED);
    let video: Video = answer.json();
    assert_eq!(video.title, "My film");
    assert_eq!(video.state, api::VideoState::Processing);
    assert_eq!(answer.header("location"), format!("/api/v1/videos/{}", video.id));
    assert_eq!(answer.header("reelraft-index"), site.memory.index().to_string());
    assert!(answer.headers.contains_key("etag"));

    let blocks = catalog::source_blocks(&*site.memory.catalog(), video.id, 0, 10).unwrap();
    let expected: Vec<_> =
        bytes.chunks(BLOCK_BYTES).map(|chunk| (BlockHash::of(chunk), chunk.len() as u32)).collect();
    let stored: Vec<_> = blocks.iter().map(|found| (found.block.hash, found.block.len)).collect();
    assert_eq!(stored, expected);
    assert_eq!(
        site.get(&format!("/v/{}/source", video.id)).await.expect(StatusCode::OK).body,
        bytes
    );
}

#[tokio::test]
async fn a_body_of_unknown_length_in_uneven_chunks_is_the_same_file() {
    let site = Site::new();
    let bytes = pattern(2 * BLOCK_BYTES + 77);
    let mut chunks = Vec::new();
    let mut rest = Bytes::from(bytes.clone());
    for size in [1, 1_500_000, 0, 70_000].into_iter().cycle() {
        if rest.is_empty() {
            break;
        }
        chunks.push(Ok::<_, Infallible>(rest.split_to(size.min(rest.len()))));
    }
    let body = Body::from_stream(futures::stream::iter(chunks));
    let video: Video = site.upload("", body).await.expect(StatusCode::CREATED).json();
    assert_eq!(video.title, "Untitled");
    assert_eq!(site.get(&format!("/v/{}/source", video.id)).await.body, bytes);
}

#[tokio::test]
async fn the_video_exists_and_grows_while_it_is_uploaded() {
    let site = Site::new();
    let (feed, body) = fed();
    let request = Request::post("/api/v1/videos?title=Growing")
        .header("content-type", "video/mp4")
        .header("reelraft-upload-key", "my key")
        .body(body)
        .unwrap();
    let router = site.router.clone();
    let upload = AbortOnDropHandle::new(tokio::spawn(async move {
        tower::ServiceExt::oneshot(router, request).await.unwrap()
    }));

    let row = until(&site.memory, only_video).await;
    assert_eq!((row.state, row.source.received), (VideoState::Uploading, 0));
    let page: VideoPage = site.get("/api/v1/videos?upload_key=my%20key").await.json();
    assert_eq!(page.items[0].id, row.id);
    assert_eq!(page.items[0].state, api::VideoState::Uploading);

    feed.send(Ok(pattern(BLOCK_BYTES + 10).into())).await.unwrap();
    let received = |memory: &Memory| only_video(memory).map(|row| row.source.received);
    until(&site.memory, |memory| {
        received(memory).filter(|received| *received == BLOCK_BYTES as u64)
    })
    .await;
    drop(feed);
    assert_eq!(upload.await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(received(&site.memory), Some(BLOCK_BYTES as u64 + 10));
}

#[tokio::test]
async fn a_second_upload_with_the_same_key_is_refused() {
    let site = Site::new();
    let headers = [("content-type", "video/mp4"), ("reelraft-upload-key", "once")];
    let again = || site.request(Method::POST, "/api/v1/videos", &headers, "bytes");
    again().await.expect(StatusCode::CREATED);
    again().await.problem(StatusCode::CONFLICT, "upload_key_used");
    assert_eq!(site.get("/api/v1/videos").await.json::<VideoPage>().items.len(), 1);
}

#[tokio::test]
async fn puts_are_in_flight_together_but_bounded() {
    let site = Site::with(gateway::Settings { upload_blocks_in_flight: 3, ..settings() });
    *site.memory.block_faults.lock().unwrap() = Blocks::Slow(Duration::from_millis(5));
    site.upload("", pattern(8 * BLOCK_BYTES)).await.expect(StatusCode::CREATED);
    assert_eq!(site.memory.puts.most.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn blocks_that_become_durable_during_a_command_share_the_next_one() {
    let site = Site::new();
    *site.memory.proposals.lock().unwrap() = Proposals::Slow(Duration::from_millis(100));
    site.upload("", pattern(8 * BLOCK_BYTES)).await.expect(StatusCode::CREATED);
    let log = site.memory.log.lock().unwrap();
    let appended: Vec<_> = log
        .iter()
        .filter_map(|action| {
            if let Action::AppendSource { blocks, .. } = action { Some(blocks.len()) } else { None }
        })
        .collect();
    assert_eq!(appended.iter().sum::<usize>(), 8);
    assert!(appended.len() <= 3, "{appended:?}");
}

#[tokio::test]
async fn uploads_share_the_blocks_in_flight() {
    let site = Site::with(gateway::Settings {
        upload_blocks_in_flight: 4,
        upload_blocks_in_flight_total: 2,
        ..settings()
    });
    *site.memory.block_faults.lock().unwrap() = Blocks::Slow(Duration::from_millis(5));
    let uploads = (0..4).map(|_| site.upload("", pattern(3 * BLOCK_BYTES)));
    for answer in futures::future::join_all(uploads).await {
        answer.expect(StatusCode::CREATED);
    }
    assert_eq!(site.memory.puts.most.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn too_much_by_its_own_word_is_refused_before_a_byte_is_read() {
    let site = Site::new();
    let headers =
        [("content-type", "video/mp4"), ("content-length", "8388609"), ("expect", "100-continue")];
    let (_feed, body) = fed();
    let answer = site.request(Method::POST, "/api/v1/videos", &headers, body).await;
    answer.problem(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large");
    assert!(only_video(&site.memory).is_none());
}

#[tokio::test]
async fn too_much_as_it_flows_is_refused_and_leaves_nothing() {
    let site = Site::new();
    let chunks = (0..9).map(|_| Ok::<_, Infallible>(Bytes::from(pattern(BLOCK_BYTES))));
    let answer = site.upload("", Body::from_stream(futures::stream::iter(chunks))).await;
    answer.problem(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large");
    assert!(only_video(&site.memory).is_none());
}

#[tokio::test]
async fn the_limit_itself_is_allowed() {
    let site = Site::new();
    site.upload("", pattern(8 << 20)).await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_failed_video() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    until(&site.memory, |memory| only_video(memory).filter(|row| row.source.received > 0)).await;
    // As hyper does it: the handler is dropped, and the body ends with an error.
    drop(upload);
    feed.send(Err(std::io::ErrorKind::ConnectionReset.into())).await.unwrap();
    let failed = |memory: &Memory| only_video(memory).filter(|row| row.state == VideoState::Failed);
    let row = until(&site.memory, failed).await;
    assert_eq!(row.error.unwrap().code, "upload_interrupted");
}

#[tokio::test]
async fn an_upload_that_stands_still_is_ended() {
    let site =
        Site::with(gateway::Settings { upload_idle: Duration::from_millis(30), ..settings() });
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    feed.send(Ok(Bytes::from_static(b"a"))).await.unwrap();
    upload.await.unwrap().problem(StatusCode::REQUEST_TIMEOUT, "upload_too_slow");
    assert_eq!(only_video(&site.memory).unwrap().state, VideoState::Failed);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_only_trickles_is_ended() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    // One byte each ten seconds is never idle for thirty.
    while feed.send(Ok(Bytes::from_static(b"a"))).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(10)).await;
        if upload.is_finished() {
            break;
        }
    }
    upload.await.unwrap().problem(StatusCode::REQUEST_TIMEOUT, "upload_too_slow");
}

#[tokio::test]
async fn an_empty_file_is_a_failed_video() {
    let site = Site::new();
    let video: Video =
        site.upload("?title=Nothing", Body::empty()).await.expect(StatusCode::CREATED).json();
    assert_eq!(video.state, api::VideoState::Failed);
    assert_eq!(video.error.unwrap().code, "empty_file");
}

#[tokio::test]
async fn a_file_that_turns_out_to_be_no_video_ends_the_upload_early() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    let row =
        until(&site.memory, |memory| only_video(memory).filter(|row| row.source.received > 0))
            .await;
    site.memory.must_apply(Action::FailVideo {
        id: row.id,
        error: cluster::tables::videos::VideoError {
            code: "not_a_video".into(),
            detail: "Text.".into(),
        },
    });
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    let video: Video = upload.await.unwrap().expect(StatusCode::CREATED).json();
    assert_eq!(video.state, api::VideoState::Failed);
    assert_eq!(video.error.unwrap().code, "not_a_video");
}

#[tokio::test]
async fn a_video_that_is_deleted_while_it_is_uploaded_ends_the_upload() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    let row = until(&site.memory, only_video).await;
    site.memory.must_apply(Action::DeleteVideo { id: row.id, if_version: None });
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    drop(feed);
    upload.await.unwrap().problem(StatusCode::CONFLICT, "upload_deleted");
}

#[tokio::test]
async fn an_answer_that_was_lost_does_not_end_an_upload() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    until(&site.memory, only_video).await;
    *site.memory.proposals.lock().unwrap() = Proposals::LoseOneAnswer;
    let bytes = pattern(2 * BLOCK_BYTES + 5);
    feed.send(Ok(bytes.clone().into())).await.unwrap();
    drop(feed);
    let video: Video = upload.await.unwrap().expect(StatusCode::CREATED).json();
    assert_eq!(site.get(&format!("/v/{}/source", video.id)).await.body, bytes);
}

#[tokio::test]
async fn an_upload_outlasts_an_election() {
    let site =
        Site::with(gateway::Settings { upload_patience: Duration::from_secs(10), ..settings() });
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    until(&site.memory, only_video).await;
    *site.memory.proposals.lock().unwrap() = Proposals::NoLeader;
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    drop(feed);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!upload.is_finished());
    *site.memory.proposals.lock().unwrap() = Proposals::Work;
    upload.await.unwrap().expect(StatusCode::CREATED);
}

#[tokio::test]
async fn nothing_is_half_accepted_when_copies_are_not_possible() {
    let site = Site::new();
    *site.memory.block_faults.lock().unwrap() = Blocks::Unavailable;
    site.upload("", "bytes").await.problem(StatusCode::SERVICE_UNAVAILABLE, "too_few_copies");
    assert!(only_video(&site.memory).is_none());
}

#[tokio::test]
async fn holders_lost_on_the_way_fail_the_video() {
    let site = Site::new();
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    until(&site.memory, only_video).await;
    *site.memory.block_faults.lock().unwrap() = Blocks::Unavailable;
    feed.send(Ok(pattern(BLOCK_BYTES).into())).await.unwrap();
    upload.await.unwrap().problem(StatusCode::SERVICE_UNAVAILABLE, "too_few_copies");
    until(&site.memory, |memory| only_video(memory).filter(|row| row.state == VideoState::Failed))
        .await;
}

#[tokio::test]
async fn more_uploads_than_there_is_room_for_are_asked_to_come_back() {
    let site = Site::with(gateway::Settings { uploads_max: 1, ..settings() });
    let (feed, body) = fed();
    let upload = spawn_upload(&site, body);
    until(&site.memory, only_video).await;
    site.upload("", "bytes").await.problem(StatusCode::SERVICE_UNAVAILABLE, "busy");
    drop(feed);
    upload.await.unwrap().expect(StatusCode::CREATED);
    site.upload("", "bytes").await.expect(StatusCode::CREATED);
}

#[tokio::test]
async fn without_anonymous_upload_an_account_is_needed() {
    let site = Site::with(gateway::Settings { anonymous_upload: false, ..settings() });
    site.upload("", "bytes").await.problem(StatusCode::FORBIDDEN, "account_needed");
}

#[tokio::test]
async fn what_is_said_of_a_video_is_checked() {
    let site = Site::new();
    let long = "x".repeat(201);
    site.upload(&format!("?title={long}"), "b")
        .await
        .problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields");
    site.upload("?visibility=hidden", "b")
        .await
        .problem(StatusCode::BAD_REQUEST, "invalid_request");
    for content_type in ["application/json", "text/plain", "application/x-www-form-urlencoded"] {
        let headers = [("content-type", content_type)];
        let answer = site.request(Method::POST, "/api/v1/videos", &headers, "b").await;
        answer.problem(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type");
    }
    let video: Video = site
        .upload("?filename=a/b/Trip.mp4&visibility=unlisted&description=%20d%20", "b")
        .await
        .json();
    assert_eq!((video.title.as_str(), video.description.as_str()), ("Trip", "d"));
    assert_eq!(video.visibility, api::Visibility::Unlisted);
}

mod forms {
    use super::*;

    const BOUNDARY: &str = "the-boundary";

    fn field(name: &str, value: &str) -> Vec<u8> {
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
        .into()
    }

    fn file(name: &str, bytes: &[u8]) -> Vec<u8> {
        let mut part = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"{name}\"\r\nContent-Type: video/mp4\r\n\r\n"
        )
        .into_bytes();
        part.extend_from_slice(bytes);
        part.extend_from_slice(b"\r\n");
        part
    }

    fn end() -> Vec<u8> {
        format!("--{BOUNDARY}--\r\n").into()
    }

    async fn send(site: &Site, parts: &[Vec<u8>]) -> Answer {
        let headers = [("content-type", "multipart/form-data; boundary=the-boundary")];
        site.request(Method::POST, "/api/v1/videos", &headers, parts.concat()).await
    }

    #[tokio::test]
    async fn fields_may_come_before_and_after_the_file() {
        let site = Site::new();
        let bytes = pattern(BLOCK_BYTES + 3);
        let parts = [
            field("title", " Before "),
            file("dir/clip.mp4", &bytes),
            field("description", "after"),
            field("visibility", "unlisted"),
            field("other", "of no concern"),
            end(),
        ];
        let video: Video = send(&site, &parts).await.expect(StatusCode::CREATED).json();
        assert_eq!((video.title.as_str(), video.description.as_str()), ("Before", "after"));
        assert_eq!(video.visibility, api::Visibility::Unlisted);
        assert_eq!(video.state, api::VideoState::Processing);
        assert_eq!(site.get(&format!("/v/{}/source", video.id)).await.body, bytes);
    }

    #[tokio::test]
    async fn the_name_of_the_file_is_the_title_when_there_is_none() {
        let site = Site::new();
        let parts = [file("Holiday 1.mov", b"bytes"), field("title", "  "), end()];
        let video: Video = send(&site, &parts).await.expect(StatusCode::CREATED).json();
        assert_eq!(video.title, "Holiday 1");
    }

    #[tokio::test]
    async fn a_form_that_is_not_as_it_should_be_leaves_nothing() {
        let site = Site::new();
        let refused = [
            vec![field("title", "No file"), end()],
            vec![file("a.mp4", b"a"), file("b.mp4", b"b"), end()],
        ];
        for parts in refused {
            send(&site, &parts).await.problem(StatusCode::BAD_REQUEST, "invalid_request");
        }
        let parts = [file("a.mp4", b"a"), field("visibility", "hidden"), end()];
        send(&site, &parts).await.problem(StatusCode::UNPROCESSABLE_ENTITY, "invalid_fields");
        assert!(only_video(&site.memory).is_none());
    }

    #[tokio::test]
    async fn a_form_that_breaks_off_fails_the_video() {
        let site = Site::new();
        let mut broken = file("a.mp4", &pattern(BLOCK_BYTES));
        broken.truncate(broken.len() - 500);
        send(&site, &[broken]).await.problem(StatusCode::BAD_REQUEST, "upload_interrupted");
        assert_eq!(only_video(&site.memory).unwrap().error.unwrap().code, "upload_interrupted");
    }

    #[tokio::test]
    async fn a_file_that_is_too_large_is_refused() {
        let site = Site::new();
        let parts = [file("a.mp4", &pattern((8 << 20) + 1)), end()];
        send(&site, &parts).await.problem(StatusCode::PAYLOAD_TOO_LARGE, "upload_too_large");
        assert!(only_video(&site.memory).is_none());
    }

    /// Sends chunks; also how many of them were read before the answer came.
    async fn send_chunks(site: &Site, chunks: Vec<Vec<u8>>) -> (Answer, usize) {
        let read = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&read);
        // The rest is read and forgotten after the answer, so the count stands still only here.
        let chunks = futures::stream::iter(chunks).then(move |chunk| {
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::task::yield_now().await;
                Ok::<_, Infallible>(Bytes::from(chunk))
            }
        });
        let headers = [("content-type", "multipart/form-data; boundary=the-boundary")];
        let body = Body::from_stream(chunks);
        let answer = site.request(Method::POST, "/api/v1/videos", &headers, body).await;
        let read = read.load(Ordering::Relaxed);
        (answer, read)
    }

    #[tokio::test]
    async fn forms_without_a_boundary_or_with_endless_headers_are_ended_early() {
        let site = Site::new();
        let endless_header = format!("--{BOUNDARY}\r\nx: ").into_bytes();
        let after_a_field = [field("title", "a"), endless_header.clone()].concat();
        let after_the_file = [file("a.mp4", b"bytes"), endless_header.clone()].concat();
        for start in [Vec::new(), endless_header, after_a_field, after_the_file] {
            let mut chunks = vec![start];
            chunks.resize(1 + (8 << 20) / 4096, vec![b'x'; 4096]);
            let (answer, read) = send_chunks(&site, chunks).await;
            answer.problem(StatusCode::BAD_REQUEST, "malformed_form");
            assert!(read < 64, "{read} chunks of 4 KiB");
        }
        assert!(only_video(&site.memory).is_none());
    }

    #[tokio::test]
    async fn a_form_may_come_in_chunks_of_any_size() {
        let site = Site::new();
        let bytes = pattern(200_000);
        let text = "\u{1D11E} ".repeat(4000);
        let parts = [
            b"a preamble\r\n".to_vec(),
            field("title", "Before"),
            field("description", &text),
            file("a.mp4", &bytes),
            field("visibility", "unlisted"),
            end(),
        ];
        let whole = parts.concat();
        for size in [7, 1000, 16 * 1024 + 1, 64 * 1024, whole.len()] {
            let chunks = whole.chunks(size).map(<[u8]>::to_vec).collect();
            let (answer, _) = send_chunks(&site, chunks).await;
            let video: Video = answer.expect(StatusCode::CREATED).json();
            assert_eq!((video.title.as_str(), video.description.as_str()), ("Before", text.trim()));
            assert_eq!(site.get(&format!("/v/{}/source", video.id)).await.body, bytes);
        }
        // A small first chunk that ends before the boundary, and a large one with all the rest.
        let (answer, _) = send_chunks(&site, vec![whole[..5].to_vec(), whole[5..].to_vec()]).await;
        answer.expect(StatusCode::CREATED);
    }
}

#[tokio::test]
async fn blocks_that_may_have_been_collected_since_they_were_put_are_put_again() {
    let site = Site::new();
    // From now on nothing counts that was put before.
    site.memory.must_apply(Action::RaiseFeatureLevel { level: features::UPKEEP });
    for _ in 0..2 {
        site.memory.must_apply(Action::ForgetBlocks { marked_before_ms: u64::MAX });
    }
    site.memory.late_puts.store(1, Ordering::SeqCst);
    site.upload("", pattern(3 * BLOCK_BYTES)).await.expect(StatusCode::CREATED);

    // As often as it happens by chance, and not for ever.
    site.memory.late_puts.store(usize::MAX, Ordering::SeqCst);
    let answer = site.upload("", pattern(100)).await;
    answer.problem(StatusCode::SERVICE_UNAVAILABLE, "block_unreadable");
}
