//! Nodes speaking to each other: where connections are made and where they are taken.
//!
//! Everything that nodes ask each other shares one port. This module and those below it are the only ones that open it,
//! build the server and build a channel to another node: what comes in has gone through [`accept`], what goes out through
//! [`peers`], and both through [`tls`]. What an operator asks of a node comes another way, through a socket in the node's
//! directory ([`local`]).
//!
//! # Invariants
//!
//! - Who has no certificate of this cluster can ask to be let in ([`join`]) and nothing else; a node that was removed can ask
//!   nothing ([`members_only`]).
//! - Every message between nodes names its cluster, sender and receiver ([`envelope`]). It is refused by anybody else, and
//!   when its sender is not the node that the certificate is for.
//! - Before a node belongs to a cluster it answers nobody on this port.

pub mod accept;
pub mod admin;
pub mod blocks;
pub mod caller;
pub mod cluster;
pub mod envelope;
pub mod join;
pub mod late;
pub mod local;
pub mod members_only;
pub mod operations;
pub mod peers;
pub mod repair;
pub mod scrub;
#[cfg(test)]
pub(crate) mod testing;
pub mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ::cluster::ids::NodeId;
use futures::Stream;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Server};

use self::accept::LatePresence;
use self::tls::{Protocol, Tls};

/// The longest message between nodes, in bytes: a block of the greatest size and what surrounds it.
pub const MESSAGE_BYTES_MAX: usize = (32 << 20) + (64 << 10);

/// How long dialling may take, with the handshake. A node on the same network answers within milliseconds; a longer wait only
/// delays the attempt after the node came back.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle connection is probed, and how long the answer may take. Finds a peer whose machine vanished without
/// closing its connections; a killed process is noticed at once, because the kernel closes them.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// How many bytes may be under way in one call and in one connection before the receiver has to say that it goes on
/// reading. Some blocks of 1 to 4 MiB at once; the defaults (64 KiB) would make a block wait for many round trips.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The longest frame: a block comes in two or three of them instead of a hundred.
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// How long calls that are being answered get when the server stops. Streams between nodes never end by themselves.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the port for other nodes could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on the RPC address {address} (--rpc-listen, rpc.listen)")]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// Opens the port for other nodes. Port 0 lets the system choose.
///
/// # Errors
/// When the address is in use, or not one of this machine's.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// What other nodes may ask.
#[derive(Clone)]
pub struct Services {
    /// On the threads of whoever serves.
    pub calls: Routes,
    /// On the threads of consensus.
    pub consensus: Routes,
}

/// Serves `services` to whoever comes through the port for nodes until `stop` is cancelled, and then a moment longer for
/// calls that are being answered.
///
/// # Errors
/// When accepting connections fails for good.
pub async fn serve(
    listener: TcpListener,
    mut presence: LatePresence,
    services: Services,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let incoming = accept::connections(listener, presence.clone());
    let calls = serve_connections(taken_from(incoming.calls), services.calls, stop.clone());
    let consensus = async {
        let Some(threads) = stop.run_until_cancelled(threads_of_consensus(&mut presence)).await
        else {
            return Ok(());
        };
        let connections = taken_from(incoming.consensus);
        let serving = serve_connections(connections, services.consensus, stop.clone());
        // Consensus that has stopped has taken its connections with it.
        threads.spawn(serving).await.unwrap_or(Ok(()))
    };
    tokio::try_join!(calls, consensus).map(drop)
}

fn taken_from<C>(mut queue: mpsc::Receiver<C>) -> impl Stream<Item = io::Result<C>> {
    futures::stream::poll_fn(move |cx| queue.poll_recv(cx).map(|next| next.map(Ok)))
}

/// Waits until this node is a member.
async fn threads_of_consensus(presence: &mut LatePresence) -> Handle {
    loop {
        if let Some(presence) = presence.borrow_and_update().as_ref() {
            return presence.consensus.clone();
        }
        if presence.changed().await.is_err() {
            // It never will be one.
            std::future::pending::<()>().await;
        }
    }
}

async fn serve_connections<C>(
    connections: impl Stream<Item = io::Result<C>> + Send + 'static,
    services: Routes,
    stop: CancellationToken,
) -> Result<(), tonic::transport::Error>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_routes(services)
        .serve_with_incoming_shutdown(connections, stop.clone().cancelled_owned());
    let deadline = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        result = serving => result,
        () = deadline => Ok(()),
    }
}

/// A channel to `node` at `address` (`host:port`), and to nobody else who should listen there. Dials when it is first used
/// and again whenever the connection is lost.
fn channel(
    address: &str,
    node: NodeId,
    tls: &Arc<Tls>,
    protocol: Protocol,
) -> Result<Channel, tonic::transport::Error> {
    let endpoint = endpoint(address)?;
    let (address, tls) = (address.to_owned(), Arc::clone(tls));
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_: http::Uri| {
        let (address, config, name) = (address.clone(), tls.client(protocol), tls.name_of(node));
        async move { dial(&address, config, name).await.map(TokioIo::new) }
    })))
}

/// How connections to `address` are kept.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

/// Connects and shakes hands with whoever `name` is the name of.
async fn dial(
    address: &str,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let shaken = TlsConnector::from(config).connect(name, stream).await;
    shaken.map_err(|error| {
        if tls::is_about_time(&error) { io::Error::other(WrongTime(error)) } else { error }
    })
}

/// A certificate that is not good now: most likely because of a clock.
#[derive(Debug, thiserror::Error)]
#[error("{0}: are the clocks of both machines right?")]
struct WrongTime(#[source] io::Error);

#[cfg(test)]
mod tests;
