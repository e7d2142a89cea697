//! The server over real connections: both versions of HTTP, disconnects, limits and the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cluster::catalog;
use cluster::tables::videos::VideoState;
use gateway::Settings;
use gateway::backend::Backend;
use gateway::upload::BLOCK_BYTES;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::memory::Memory;
use crate::site::settings;
use crate::uploads::{pattern, until};
use crate::views::watched;

struct Server {
    memory: Arc<Memory>,
    address: SocketAddr,
    stop: CancellationToken,
    ended: JoinHandle<std::io::Result<()>>,
    _stop_at_the_end: DropGuard,
}

impl Server {
    async fn start(settings: Settings) -> Self {
        let memory = Memory::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serve =
            gateway::serve(listener, memory.clone(), settings, stop.clone().cancelled_owned());
        let ended = tokio::spawn(serve);
        Self { memory, address, _stop_at_the_end: stop.clone().drop_guard(), stop, ended }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends a request on a connection of its own and reads until the server closes it.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        within(stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn create_video(&self) -> String {
        let answer = self
            .exchange(b"POST /api/v1/videos HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: video/mp4\r\ncontent-length: 5\r\n\r\nbytes")
            .await;
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
        location.to_owned()
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), future).await.expect("within ten seconds")
}

fn only_state(memory: &Memory) -> Option<VideoState> {
    let query = catalog::Query { limit: 1, cursor: None, search: None, visibility: None };
    Some(catalog::list_videos(&*memory.catalog(), &query).unwrap().videos.pop()?.state)
}

#[tokio::test]
async fn a_connection_serves_one_request_after_the_other() {
    let server = Server::start(settings()).await;
    let twice = "GET /healthz HTTP/1.1\r\nhost: a\r\n\r\nGET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let answer = server.exchange(twice.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 2, "{answer}");
}

#[tokio::test]
async fn http_2_without_tls_works_too() {
    let server = Server::start(settings()).await;
    let io = TokioIo::new(server.connect().await);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::get("http://a/healthz").body(Empty::<Bytes>::new()).unwrap();
    let response = within(send.send_request(request)).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok\n");
    drop(send);
    within(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_during_an_upload_fails_the_video() {
    let server = Server::start(settings()).await;
    let mut stream = server.connect().await;
    let head = "POST /api/v1/videos HTTP/1.1\r\nhost: a\r\ncontent-type: video/mp4\r\ncontent-length: 4000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&pattern(BLOCK_BYTES + 10)).await.unwrap();
    let uploading =
        |memory: &Memory| only_state(memory).filter(|state| *state == VideoState::Uploading);
    until(&server.memory, uploading).await;
    drop(stream);
    let failed = |memory: &Memory| only_state(memory).filter(|state| *state == VideoState::Failed);
    until(&server.memory, failed).await;
}

#[tokio::test]
async fn a_client_that_sends_too_much_still_reads_the_answer() {
    let server = Server::start(settings()).await;
    let mut stream = server.connect().await;
    let length = 16 << 20;
    let head = format!(
        "POST /api/v1/videos HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: video/mp4\r\ncontent-length: {length}\r\n\r\n"
    );
    // Many clients write all of the body before they look at what came back.
    stream.write_all(head.as_bytes()).await.unwrap();
    within(stream.write_all(&vec![0; length])).await.unwrap();
    let mut answer = Vec::new();
    within(stream.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("upload_too_large"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asks_first_is_told_to_keep_its_bytes() {
    let server = Server::start(settings()).await;
    let head = "POST /api/v1/videos HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-type: video/mp4\r\ncontent-length: 99999999\r\n\r\n";
    let answer = server.exchange(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn endless_headers_are_cut_off() {
    let server = Server::start(settings()).await;
    let mut stream = server.connect().await;
    let mut request = b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: ".to_vec();
    request.resize(1 << 20, b'x');
    // The server may close while we still write.
    let _ = stream.write_all(&request).await;
    let mut answer = Vec::new();
    let _ = within(stream.read_to_end(&mut answer)).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
    assert!(
        server
            .exchange(b"GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n")
            .await
            .contains("200 OK")
    );
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = Server::start(Settings { connections_max: 1, ..settings() }).await;
    let mut first = server.connect().await;
    first.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut byte = [0];
    within(first.read_exact(&mut byte)).await.unwrap();
    let second = server.exchange(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    let mut second = std::pin::pin!(second);
    let early = tokio::time::timeout(Duration::from_millis(50), &mut second).await;
    assert!(early.is_err(), "the first connection still has the only permit");
    drop(first);
    assert!(second.await.contains("200 OK"));
}

#[tokio::test]
async fn connections_that_never_ask_are_closed() {
    let first_request = Duration::from_millis(200);
    let server = Server::start(Settings { first_request, ..settings() }).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let beginnings: [&[u8]; 4] = [b"", &preface[..10], preface, b"GET /healthz HTTP/1.1\r\nx: "];
    for beginning in beginnings {
        let mut silent = server.connect().await;
        silent.write_all(beginning).await.unwrap();
        // Closed or reset; what HTTP/2 says first may come before.
        let _ = within(silent.read_to_end(&mut Vec::new())).await;
    }
    let mut asked = server.connect().await;
    for _ in 0..2 {
        asked.write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            assert!(within(asked.read_buf(&mut answer)).await.unwrap() > 0);
        }
        tokio::time::sleep(first_request * 2).await;
    }
}

#[tokio::test]
async fn silent_connections_give_their_permits_back() {
    let first_request = Duration::from_millis(200);
    let server = Server::start(Settings { connections_max: 2, first_request, ..settings() }).await;
    let _silent = [server.connect().await, server.connect().await];
    let answer = server.exchange(b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    assert!(answer.await.contains("200 OK"));
}

#[tokio::test]
async fn stopping_ends_event_streams_and_uploads_and_reports_views() {
    let server = Server::start(settings()).await;
    let location = server.create_video().await;
    let heartbeat = watched("a");
    let request = format!(
        "POST {location}/heartbeat HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{heartbeat}",
        heartbeat.len()
    );
    assert!(server.exchange(request.as_bytes()).await.starts_with("HTTP/1.1 204"));

    let mut events = server.connect().await;
    events
        .write_all(format!("GET {location}/events HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut told = Vec::new();
    while !String::from_utf8_lossy(&told).contains("event: video") {
        within(events.read_buf(&mut told)).await.unwrap();
    }
    let mut upload = server.connect().await;
    let head = "POST /api/v1/videos HTTP/1.1\r\nhost: a\r\ncontent-type: video/mp4\r\ncontent-length: 4000000\r\n\r\nsome";
    upload.write_all(head.as_bytes()).await.unwrap();
    let uploading =
        |memory: &Memory| only_state(memory).filter(|state| *state == VideoState::Uploading);
    until(&server.memory, uploading).await;

    server.stop.cancel();
    within(server.ended).await.unwrap().unwrap();
    within(events.read_to_end(&mut told)).await.unwrap();
    let mut answer = Vec::new();
    within(upload.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(only_state(&server.memory), Some(VideoState::Failed));
    let id = location.rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(catalog::video(&*server.memory.catalog(), id).unwrap().unwrap().views, 1);
    assert!(TcpStream::connect(server.address).await.is_err());
}
