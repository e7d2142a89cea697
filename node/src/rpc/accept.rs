//! Connections that come in: from a socket to a caller that has proved who it is.
//!
//! The listener is the only place that strangers reach, so everything here is bounded: how many handshakes go on at once
//! and how long each may take, how many strangers are connected and for how long. Who speaks something else than TLS, or
//! dawdles, is cut off without a word.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::caller::Caller;
use super::tls::Tls;

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

/// How many connections may wait for the server to take them. It does at once.
const READY_MAX: usize = 16;

/// How this node speaks, once it belongs to a cluster.
pub type LateTls = watch::Receiver<Option<Arc<Tls>>>;

/// A connection whose other end is known.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    /// For strangers.
    guest: Option<Guest>,
}

/// A stranger's place and time.
struct Guest {
    _place: OwnedSemaphorePermit,
    end: Pin<Box<Sleep>>,
}

/// Accepts connections on `listener` for as long as the stream that is returned exists. While there is no `tls`, this node
/// belongs to no cluster and has nothing to say: connections are closed.
pub fn connections(
    listener: TcpListener,
    tls: LateTls,
) -> impl Stream<Item = io::Result<Connection>> {
    let (ready, mut connections) = mpsc::channel(READY_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = accept(&listener, &tls, &ready) => {}
            () = ready.closed() => {}
        }
    });
    futures::stream::poll_fn(move |cx| connections.poll_recv(cx).map(|next| next.map(Ok)))
}

async fn accept(listener: &TcpListener, tls: &LateTls, ready: &mpsc::Sender<Connection>) {
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
        let Some(tls) = tls.borrow().clone() else {
            tracing::debug!(%from, "closed a connection: this node belongs to no cluster yet");
            continue;
        };
        let (ready, strangers) = (ready.clone(), Arc::clone(&strangers));
        tokio::spawn(async move {
            let shaken = timeout(HANDSHAKE_MAX, shake_hands(&tls, stream, strangers)).await;
            drop(place);
            match shaken {
                // Only a server that stops does not take it.
                Ok(Ok(connection)) => drop(ready.send(connection).await),
                Ok(Err(error)) => tracing::debug!(%from, %error, "a handshake failed"),
                Err(_) => tracing::debug!(%from, "a handshake took too long"),
            }
        });
    }
}

async fn shake_hands(
    tls: &Tls,
    stream: TcpStream,
    strangers: Arc<Semaphore>,
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(tls.server()).accept(stream).await?;
    let (_, session) = stream.get_ref();
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else {
        let place = strangers
            .try_acquire_owned()
            .map_err(|_| io::Error::other("too many strangers at once"))?;
        let guest = Guest { _place: place, end: Box::pin(sleep(STRANGER_MAX)) };
        return Ok(Connection { stream, caller: Caller::Stranger, guest: Some(guest) });
    };
    let node = tls
        .node_of(certificate)
        .ok_or_else(|| io::Error::other("the certificate names no node of this cluster"))?;
    Ok(Connection { stream, caller: Caller::Node(node), guest: None })
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
