//! From a bound listener to requests: connections, their limits and their end.
//!
//! A permit is taken before a connection is accepted, so that under a flood connections wait in the kernel and not in our
//! memory. HTTP/1.1 and HTTP/2 without TLS are told apart by their first bytes, for which no library here has a deadline: a
//! connection that has not made a request after a while is closed, whatever it did instead, so that silent ones cannot keep
//! all permits.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::backend::Backend;
use crate::meters::InUse;
use crate::settings::Settings;
use crate::state::{Gateway, Shared};

/// How long the head of a request may take, and how long an idle connection is kept for the next one.
const HEADER_TIME_MAX: Duration = Duration::from_secs(30);

/// A peer that takes no bytes for this long has gone, or has paused a download it can resume with a range.
const WRITE_STALL_MAX: Duration = Duration::from_secs(120);

/// Bounds the head of a request, and what is read ahead of an upload's body, per connection.
const READ_BUFFER_BYTES: usize = 128 * 1024;

/// More headers than any browser or proxy sends.
const HEADERS_MAX: usize = 100;

/// Requests at the same time on one HTTP/2 connection; a player has a handful.
const STREAMS_MAX: u32 = 128;

/// What an HTTP/2 peer may send ahead, per stream and per connection: enough for 1 Gbit/s at 8 ms, small beside a block.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What is queued for one HTTP/2 stream before the handler has to wait.
const STREAM_SEND_BYTES: usize = 512 * 1024;

/// An HTTP/2 connection is asked for a sign of life after this long, and given up when none comes.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// After an error of `accept` that is not about one connection (out of descriptors): long enough to let some close.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves people until `shutdown`, then lets connections finish for as long as the settings allow.
///
/// # Errors
/// Never in a running system: errors of single connections are logged, and `accept` is tried again.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<dyn Backend>,
    settings: Settings,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let stopping = CancellationToken::new();
    let gateway = Gateway::new(backend, settings, stopping.clone());
    let router = crate::routes::router(Arc::clone(&gateway));
    let views = tokio::spawn(crate::views::report(Arc::clone(&gateway)));
    let connections = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(gateway.settings.connections_max));

    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let permit = tokio::select! {
            () = &mut shutdown => break,
            permit = Arc::clone(&permits).acquire_owned() => {
                permit.expect("this semaphore is never closed")
            }
        };
        let stream = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let connection = connection(&gateway, &router, stream, &connections);
        tokio::spawn(async move {
            connection.await;
            drop(permit);
        });
    }

    drop(listener);
    stopping.cancel();
    gateway.tasks.close();
    let drained = async {
        connections.shutdown().await;
        gateway.tasks.wait().await;
    };
    if tokio::time::timeout(gateway.settings.drain, drained).await.is_err() {
        tracing::warn!("connections and uploads that did not finish in time are cut");
    }
    // It ends by itself after a last, bounded report.
    if let Err(error) = views.await {
        tracing::warn!(%error, "report views");
    }
    Ok(())
}

/// The future that serves one connection to its end.
fn connection(
    gateway: &Shared,
    router: &Router,
    stream: TcpStream,
    connections: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<> {
    // Small answers must not wait for more to come: players ask for one playlist at a time.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "set TCP_NODELAY");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_STALL_MAX));

    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIME_MAX)
        .max_buf_size(READ_BUFFER_BYTES)
        .max_headers(HEADERS_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(STREAM_SEND_BYTES)
        .max_header_list_size(32 * 1024)
        .keep_alive_interval(Some(KEEP_ALIVE))
        .keep_alive_timeout(KEEP_ALIVE);
    let requested = CancellationToken::new();
    let service = {
        let requested = requested.clone();
        router.clone().map_request(move |request: Request<Incoming>| {
            requested.cancel();
            request
        })
    };
    let served = builder
        .serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(service))
        .into_owned();
    let served = connections.watch(served);
    let deadline = gateway.settings.first_request;
    let silent = async move {
        // The head of one request, not all of them: from here on other limits hold.
        if tokio::time::timeout(deadline, requested.cancelled()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let in_use = InUse::of(&gateway.meters.connections);
    async move {
        tokio::select! {
            served = served => if let Err(error) = served {
                // Peers go away in many ways, and none of them is our error.
                tracing::trace!(error, "connection ended");
            },
            () = silent => tracing::trace!("connection closed before its first request"),
        }
        drop(in_use);
    }
}
