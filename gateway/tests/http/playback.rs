//! Playlists that grow and end, segments with ranges and conditions, posters, manifests, originals.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use bytes::Bytes;
use gateway::Settings;
use gateway::api::Video;
use m3u8_rs::MediaPlaylistType;

use crate::clip::{self, Copying};
use crate::memory::Blocks;
use crate::site::{Site, settings};
use crate::uploads::pattern;

async fn media(site: &Site, path: &str) -> m3u8_rs::MediaPlaylist {
    // Rendered playlists are kept for half a second; demanding an index passes by.
    let index = site.memory.index().to_string();
    let answer =
        site.get_with(path, &[("reelraft-min-index", &index)]).await.expect(StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/vnd.apple.mpegurl");
    m3u8_rs::parse_media_playlist(&answer.body).unwrap().1
}

#[tokio::test]
async fn a_video_is_playable_while_it_is_processed_and_after() {
    let site = Site::new();
    let video = site.video().await;
    let playlist = format!("/v/{}/source/index.m3u8", video.id);
    for path in
        [&video.urls.hls, &video.urls.dash, &playlist, &format!("/v/{}/thumbnail.jpg", video.id)]
    {
        site.get(path).await.problem(StatusCode::NOT_FOUND, "not_available_yet");
    }
    let copying = Copying::begin(&site.memory, video.id);
    site.get(&video.urls.hls).await.problem(StatusCode::NOT_FOUND, "not_available_yet");
    copying.commit(&site.memory, 0);

    let master = site.get(&video.urls.hls).await.expect(StatusCode::OK);
    assert_eq!(master.header("cache-control"), "public, max-age=1");
    let (_, parsed) = m3u8_rs::parse_master_playlist(&master.body).unwrap();
    assert_eq!(parsed.variants[0].uri, "source/index.m3u8");
    assert_eq!(parsed.variants[0].codecs.as_deref(), Some("avc1.64001f,mp4a.40.2"));
    assert_eq!(parsed.alternatives[0].uri.as_deref(), Some("audio/index.m3u8"));

    let growing = media(&site, &playlist).await;
    assert_eq!(growing.playlist_type, Some(MediaPlaylistType::Event));
    assert_eq!(growing.start.as_ref().map(|start| start.time_offset), Some(0.0));
    assert_eq!(growing.segments.len(), 1);
    assert!(!growing.end_list);
    site.get(&video.urls.dash).await.problem(StatusCode::NOT_FOUND, "not_available_yet");

    copying.finish(&site.memory, video.id);
    let ended = media(&site, &playlist).await;
    assert_eq!(ended.playlist_type, Some(MediaPlaylistType::Vod));
    assert!(ended.end_list && ended.start.is_none());
    assert_eq!(ended.segments.len(), clip::SEGMENTS as usize);
    assert_eq!(ended.target_duration, growing.target_duration);
    assert_eq!(ended.segments[0].uri, growing.segments[0].uri);
    assert_eq!(media(&site, &format!("/v/{}/audio/index.m3u8", video.id)).await.segments.len(), 3);

    for (index, segment) in ended.segments.iter().enumerate() {
        let bytes = site
            .get(&format!("/v/{}/source/{}", video.id, segment.uri))
            .await
            .expect(StatusCode::OK);
        assert_eq!(bytes.body, clip::segment_bytes(0, index as u32));
    }
}

#[tokio::test]
async fn a_manifest_names_segments_that_exist() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let answer = site.get(&video.urls.dash).await.expect(StatusCode::OK);
    assert_eq!(answer.header("content-type"), "application/dash+xml");
    assert_eq!(answer.header("cache-control"), "public, max-age=60");
    let document = roxmltree::Document::parse(answer.text()).unwrap();
    let mut seen = 0;
    for template in
        document.descendants().filter(|node| node.tag_name().name() == "SegmentTemplate")
    {
        let base = format!("/v/{}/", video.id);
        let init = format!("{base}{}", template.attribute("initialization").unwrap());
        site.get(&init).await.expect(StatusCode::OK);
        for number in 0..clip::SEGMENTS {
            let media =
                template.attribute("media").unwrap().replace("$Number$", &number.to_string());
            site.get(&format!("{base}{media}")).await.expect(StatusCode::OK);
            seen += 1;
        }
    }
    assert_eq!(seen, 6);
}

#[tokio::test]
async fn a_segment_is_immutable_and_conditional() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let path = format!("/v/{}/source/1.m4s", video.id);
    let whole = site.get(&path).await.expect(StatusCode::OK);
    assert_eq!(whole.body, clip::segment_bytes(0, 1));
    assert_eq!(whole.header("content-type"), "video/mp4");
    assert_eq!(whole.header("cache-control"), "public, max-age=31536000, immutable");
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-length"), whole.body.len().to_string());
    let etag = whole.header("etag");
    let gets = site.memory.gets.load(Ordering::SeqCst);
    let same =
        site.get_with(&path, &[("if-none-match", etag)]).await.expect(StatusCode::NOT_MODIFIED);
    assert!(same.body.is_empty());
    assert_eq!(same.header("etag"), etag);
    let head = site.head(&path).await.expect(StatusCode::OK);
    assert_eq!(head.header("content-length"), whole.body.len().to_string());
    assert!(head.body.is_empty());
    assert_eq!(site.memory.gets.load(Ordering::SeqCst), gets, "neither needs the block");
    let audio = site.get(&format!("/v/{}/audio/init.mp4", video.id)).await.expect(StatusCode::OK);
    assert_eq!(audio.header("content-type"), "audio/mp4");
    assert_eq!(audio.body, clip::init_bytes(1));
}

#[tokio::test]
async fn a_segment_can_be_had_in_part() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let path = format!("/v/{}/source/0.m4s", video.id);
    let bytes = clip::segment_bytes(0, 0);
    let length = bytes.len();
    for (range, expected) in [
        ("bytes=0-9", 0..10),
        ("bytes=5-", 5..length),
        ("bytes=-7", length - 7..length),
        ("bytes=3-999999", 3..length),
    ] {
        let part =
            site.get_with(&path, &[("range", range)]).await.expect(StatusCode::PARTIAL_CONTENT);
        assert_eq!(part.body, bytes[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{length}", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), content_range);
        assert_eq!(part.header("content-length"), expected.len().to_string());
    }
    let outside = site.get_with(&path, &[("range", "bytes=999999-")]).await;
    outside.problem(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable");
    assert_eq!(outside.header("content-range"), format!("bytes */{length}"));
    for range in ["bytes=0-1,3-4", "lines=1-2", "bytes=x"] {
        let whole = site.get_with(&path, &[("range", range)]).await.expect(StatusCode::OK);
        assert_eq!(whole.body.len(), length);
    }
    let etag = site.get(&path).await.header("etag").to_owned();
    let same = site.get_with(&path, &[("range", "bytes=0-1"), ("if-range", &etag)]).await;
    same.expect(StatusCode::PARTIAL_CONTENT);
    let other = site.get_with(&path, &[("range", "bytes=0-1"), ("if-range", "\"other\"")]).await;
    other.expect(StatusCode::OK);
}

#[tokio::test]
async fn what_is_not_a_segment_is_unknown() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    for file in [
        "source/3.m4s",
        "source/00.m4s",
        "source/0.mp4",
        "other/0.m4s",
        "other/index.m3u8",
        "audio/9.m4s",
        "%FF/index.m3u8",
        "%FF/0.m4s",
        "source/%FF",
    ] {
        let answer = site.get(&format!("/v/{}/{file}", video.id)).await;
        answer.problem(StatusCode::NOT_FOUND, "unknown_segment");
    }
    let long = format!("/v/{}/{}/0.m4s", video.id, "x".repeat(100));
    site.get(&long).await.problem(StatusCode::NOT_FOUND, "unknown_segment");
    site.get(&format!("/v/{}/sprites.vtt", video.id))
        .await
        .problem(StatusCode::NOT_FOUND, "not_available_yet");
}

#[tokio::test]
async fn a_deleted_video_is_gone_at_once_where_it_was_deleted() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let segment = format!("/v/{}/source/0.m4s", video.id);
    site.get(&segment).await.expect(StatusCode::OK);
    site.get(&video.urls.hls).await.expect(StatusCode::OK);
    site.delete(&video, &[]).await.expect(StatusCode::NO_CONTENT);
    site.get(&segment).await.problem(StatusCode::NOT_FOUND, "unknown_video");
    site.get(&video.urls.hls).await.problem(StatusCode::NOT_FOUND, "unknown_video");
}

#[tokio::test]
async fn a_block_that_cannot_be_read_is_said_without_details() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    *site.memory.block_faults.lock().unwrap() = Blocks::Unavailable;
    let answer = site.get(&format!("/v/{}/source/0.m4s", video.id)).await;
    answer.problem(StatusCode::SERVICE_UNAVAILABLE, "block_unreadable");
}

#[tokio::test]
async fn a_poster_is_a_picture() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let poster = site.get(video.urls.thumbnail.as_ref().unwrap()).await.expect(StatusCode::OK);
    assert_eq!(poster.header("content-type"), "image/jpeg");
    assert_eq!(poster.body, clip::THUMBNAIL);
}

#[tokio::test]
async fn a_playlist_that_has_not_changed_is_not_sent_again() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let etag = site.get(&video.urls.hls).await.header("etag").to_owned();
    site.get_with(&video.urls.hls, &[("if-none-match", &etag)])
        .await
        .expect(StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_original_is_there_in_whole_and_in_part_while_it_is_kept() {
    let site = Site::with(Settings { keep_source: true, ..settings() });
    let bytes = Bytes::from(pattern(3 * gateway::upload::BLOCK_BYTES + 100));
    let length = bytes.len();
    let video: Video =
        site.upload("?filename=clip.webm", bytes.clone()).await.expect(StatusCode::CREATED).json();
    Copying::begin(&site.memory, video.id).finish(&site.memory, video.id);
    let video = site.read(&video).await;
    let path = video.urls.source.as_ref().unwrap();
    let whole = site.get(path).await.expect(StatusCode::OK);
    assert_eq!(whole.body, bytes);
    assert_eq!(whole.header("content-type"), "video/webm");
    assert_eq!(whole.header("content-disposition"), "attachment; filename*=UTF-8''clip.webm");
    let head = site.head(path).await.expect(StatusCode::OK);
    assert_eq!((head.header("content-length"), head.body.len()), (length.to_string().as_str(), 0));
    let block = gateway::upload::BLOCK_BYTES;
    for expected in [0..1, block - 1..block + 1, block..2 * block, 5..length, 3 * block + 1..length]
    {
        let range = format!("bytes={}-{}", expected.start, expected.end - 1);
        let part =
            site.get_with(path, &[("range", &range)]).await.expect(StatusCode::PARTIAL_CONTENT);
        assert!(part.body == bytes[expected.clone()], "{range}");
        assert_eq!(part.header("content-length"), expected.len().to_string());
    }
    let outside = site.get_with(path, &[("range", "bytes=99999999-")]).await;
    outside.problem(StatusCode::RANGE_NOT_SATISFIABLE, "range_not_satisfiable");
}

#[tokio::test]
async fn the_original_is_gone_when_it_is_not_kept() {
    let site = Site::new();
    let video = clip::ready(&site).await;
    let answer = site.get(&format!("/v/{}/source", video.id)).await;
    answer.problem(StatusCode::NOT_FOUND, "source_not_kept");
}
