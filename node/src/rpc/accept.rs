//! Connections that come in: from a socket to a caller that has proved who it is.
//!
//! The listener is the only place that strangers reach, so everything here is bounded: how many handshakes go on at once
//! and how long each may take, how many strangers are connected and for how long. Who speaks something else than TLS, or
//! dawdles, is cut off without a word.
//!
//! Connections for consensus leave here for the threads of consensus, all others stay on those of the caller.

mod socket;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use self::socket::Socket;
use super::caller::{Caller, Roster};
use super::tls::{Protocol, Tls};

/// How long a handshake may take: two round trips and some arithmetic, on a bad network too.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How many handshakes may go on at once. Further connections wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 256;

/// How many strangers may be connected at once, and for how long: they have one question, and wait half a minute for its
/// answer.
const STRANGERS_MAX: usize = 32;
const STRANGER_MAX: Duration = Duration::from_secs(60);

/// How long to wait when the system has no room for another connection.
pub(super) const NO_ROOM_PAUSE: Duration = Duration::from_millis(100);

/// How many connections may wait for the server to take them. One that is well does at once.
const READY_MAX: usize = 16;

/// What a node listens with.
#[derive(Clone, Debug)]
pub struct Presence {
    /// How it proves who it is, and asks others to.
    pub tls: Arc<Tls>,
    /// The threads of its consensus.
    pub consensus: Handle,
    /// Whose word no longer counts.
    pub roster: Roster,
}

/// How this node listens, once it belongs to a cluster.
pub type LatePresence = watch::Receiver<Option<Presence>>;

/// Connections that were accepted, by what they are for. The port is open for as long as `calls` exists.
pub struct Incoming {
    pub calls: mpsc::Receiver<Connection>,
    pub consensus: mpsc::Receiver<Connection>,
}

/// Where they are handed over.
#[derive(Clone)]
struct Ready {
    calls: mpsc::Sender<Connection>,
    consensus: mpsc::Sender<Connection>,
}

impl Ready {
    fn queue_for(&self, protocol: Protocol) -> &mpsc::Sender<Connection> {
        match protocol {
            Protocol::Calls => &self.calls,
            Protocol::Consensus => &self.consensus,
        }
    }
}

/// A connection whose other end is known.
pub struct Connection {
    stream: TlsStream<Socket>,
    caller: Caller,
    protocol: Protocol,
    /// For strangers.
    guest: Option<Guest>,
}

/// A stranger's place and time.
struct Guest {
    _place: OwnedSemaphorePermit,
    end: Pin<Box<Sleep>>,
}

/// Accepts connections on `listener`. As long as this node belongs to no cluster it has nothing to say: connections are
/// closed.
pub fn connections(listener: TcpListener, presence: LatePresence) -> Incoming {
    let (calls, incoming_calls) = mpsc::channel(READY_MAX);
    let (consensus, incoming_consensus) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        let ready = Ready { calls, consensus };
        tokio::select! {
            () = accept(&listener, &presence, &ready) => {}
            () = ready.calls.closed() => {}
        }
    });
    Incoming { calls: incoming_calls, consensus: incoming_consensus }
}

async fn accept(listener: &TcpListener, presence: &LatePresence, ready: &Ready) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let strangers = Arc::new(Semaphore::new(STRANGERS_MAX));
    loop {
        let place = Arc::clone(&handshakes).acquire_owned().await.expect("it is never closed");
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // One connection failed, or there are too many files open: neither is the end.
                tracing::debug!(%error, "accept a connection of a node");
                sleep(NO_ROOM_PAUSE).await;
                continue;
            }
        };
        let Some(presence) = presence.borrow().clone() else {
            tracing::debug!(%from, "closed a connection: this node belongs to no cluster yet");
            continue;
        };
        let (ready, strangers) = (ready.clone(), Arc::clone(&strangers));
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_MAX, shake_hands(&presence, stream, strangers)).await;
            match shaken {
                Ok(Ok(connection)) => {
                    let queue = ready.queue_for(connection.protocol);
                    // Only a server that stops, or hangs, does not take it.
                    if queue.send_timeout(connection, HANDSHAKE_MAX).await.is_err() {
                        tracing::debug!(%from, "nobody took a connection");
                    }
                }
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%from, "a handshake took too long"),
            }
            drop(place);
        });
    }
}

async fn shake_hands(
    presence: &Presence,
    stream: TcpStream,
    strangers: Arc<Semaphore>,
) -> io::Result<Connection> {
    let tls = &presence.tls;
    stream.set_nodelay(true)?;
    let mut stream = TlsAcceptor::from(tls.server()).accept(Socket::new(stream)).await?;
    let (_, session) = stream.get_ref();
    let protocol = Protocol::of(session.alpn_protocol());
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else {
        if protocol == Protocol::Consensus {
            return Err(io::Error::other("a stranger wants to take part in consensus"));
        }
        let place = strangers
            .try_acquire_owned()
            .map_err(|_| io::Error::other("too many strangers at once"))?;
        let guest = Guest { _place: place, end: Box::pin(sleep(STRANGER_MAX)) };
        return Ok(Connection { stream, caller: Caller::Stranger, protocol, guest: Some(guest) });
    };
    let node = tls
        .node_of(certificate)
        .ok_or_else(|| io::Error::other("the certificate names no node of this cluster"))?;
    if protocol == Protocol::Consensus {
        // It hears so when it calls for anything else.
        if presence.roster.is_removed(node) {
            return Err(io::Error::other("a removed node wants to take part in consensus"));
        }
        stream.get_mut().0.move_to(&presence.consensus)?;
    }
    Ok(Connection { stream, caller: Caller::Node(node), protocol, guest: None })
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(guest) = &mut self.guest
            && guest.end.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
