//! Nodes speaking to each other: where connections are made and where they are taken.
//!
//! All services of a node (consensus, blocks, cluster, administration) share one listener. This module is the only place
//! that opens it, builds the server and builds a channel to another node, so that encryption and authentication of peers
//! have one place to go.
//!
//! # Invariants
//!
//! - Nothing is served outside the loopback interface: whoever reaches the port can act as a node, and as long as nodes do
//!   not authenticate each other that must be nobody but this machine.
//! - Every message between nodes names its cluster, sender and receiver ([`envelope`]) and is refused by anybody else.

pub mod admin;
pub mod blocks;
pub mod cluster;
pub mod envelope;
pub mod late;
pub mod peers;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

/// The longest message between nodes, in bytes: a block of the greatest size and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = (32 << 20) + (64 << 10);

/// How long dialling may take. A node on the same network answers within milliseconds; a longer wait only delays the
/// attempt after the node came back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How often an idle connection is probed, and how long the answer may take. Finds a peer whose machine vanished without
/// closing its connections; a killed process is noticed at once, because the kernel closes them.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How many bytes may be under way in one call and in one connection before the receiver has to say that it goes on
/// reading. Some blocks of 1 to 4 MiB at once; the defaults (64 KiB) would make a block wait for many round trips.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// How long calls that are being answered get when the server stops. Streams between nodes never end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the port for other nodes could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "the RPC address {0} is not a loopback address: nodes do not authenticate each other yet, so RPC is served on \
         127.0.0.0/8 and ::1 only"
    )]
    NotLoopback(SocketAddr),
    #[error("listen on the RPC address {0} (--rpc-listen, rpc.listen)")]
    Listen(SocketAddr, #[source] io::Error),
}

/// Opens the port for other nodes. Port 0 lets the system choose.
///
/// # Errors
/// When the address is not on the loopback interface, or is in use.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    if !address.ip().is_loopback() {
        return Err(BindError::NotLoopback(address));
    }
    TcpListener::bind(address).await.map_err(|error| BindError::Listen(address, error))
}

/// Serves `services` until `stop` resolves, and then a moment longer for calls that are being answered.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(
    listener: TcpListener,
    services: Routes,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), tonic::transport::Error> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(services)
        .serve_with_incoming_shutdown(
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            async {
                stop.await;
                // The receiver is gone only when the server ended by itself.
                let _ = stopping.send(());
            },
        );
    let deadline = async {
        // An error means that the server dropped the sender: it has ended, and `serving` says how.
        if stopped.await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        result = serving => result,
        () = deadline => Ok(()),
    }
}

/// A channel to the node at `address` (`host:port`). Dials when it is first used and again whenever the connection is lost.
fn channel(address: &str) -> Result<Channel, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_lazy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_interfaces_are_refused() {
        let error = bind(([0, 0, 0, 0], 0).into()).await.unwrap_err();
        assert!(matches!(error, BindError::NotLoopback(_)));
        assert!(error.to_string().contains("loopback"));
        bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    }
}
