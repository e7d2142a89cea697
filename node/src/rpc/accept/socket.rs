//! A connection that can change its threads.
//!
//! Who is at the other end and what for is known after the handshake only, and the handshake is made where strangers cannot
//! keep consensus from its work. A socket is woken by the threads that it is registered with, so one that is served by
//! others has to be registered with them: handing the wake-ups over would cost more than what they are about.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// A connection. It is without its stream only while it moves.
#[derive(Debug)]
pub(super) struct Socket(Option<TcpStream>);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Some(stream))
    }

    /// Has it woken by the threads of `runtime` from now on.
    ///
    /// # Errors
    /// When that runtime is ending. The connection cannot be used any more then.
    pub(super) fn move_to(&mut self, runtime: &Handle) -> io::Result<()> {
        let stream = self.0.take().ok_or_else(lost)?.into_std()?;
        let _on_its_threads = runtime.enter();
        self.0 = Some(TcpStream::from_std(stream)?);
        Ok(())
    }

    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        self.get_mut().0.as_mut().map(Pin::new).ok_or_else(lost)
    }
}

fn lost() -> io::Error {
    io::Error::new(
        io::ErrorKind::NotConnected,
        "the connection was lost on its way to other threads",
    )
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio::runtime::Builder;

    use super::*;

    async fn pair() -> (Socket, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (Socket::new(listener.accept().await.unwrap().0), other)
    }

    #[tokio::test]
    async fn a_socket_goes_on_elsewhere_where_it_stopped() {
        let (mut socket, mut other) = pair().await;
        let elsewhere = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        other.write_all(b"before").await.unwrap();
        socket.move_to(elsewhere.handle()).unwrap();
        let echoing = elsewhere.spawn(async move {
            let mut bytes = [0; 11];
            socket.read_exact(&mut bytes).await.unwrap();
            socket.write_all(&bytes).await.unwrap();
        });
        other.write_all(b"after").await.unwrap();
        let mut echo = [0; 11];
        other.read_exact(&mut echo).await.unwrap();
        assert_eq!(&echo, b"beforeafter");
        echoing.await.unwrap();
        elsewhere.shutdown_background();
    }

    #[tokio::test]
    async fn threads_that_are_gone_take_no_socket() {
        let (mut socket, mut other) = pair().await;
        let gone = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let handle = gone.handle().clone();
        let end = move || gone.shutdown_timeout(Duration::from_secs(10));
        tokio::task::spawn_blocking(end).await.unwrap();
        assert!(socket.move_to(&handle).is_err());
        assert!(socket.read_u8().await.is_err());
        assert_eq!(other.read(&mut [0]).await.unwrap(), 0, "closed");
    }
}
