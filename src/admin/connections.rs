//! The admin endpoints' connections: few at a time, none for ever, none that only listens.
//!
//! *Why here:* the server has no limits of its own, and a probe must not fail because somebody opened a thousand connections.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// A connection on which nothing moves for this long is closed. Longer than the usual scrape interval.
const IDLE: Duration = Duration::from_secs(75);
/// However much moves, a connection is closed at this age: the next request opens another.
const AGE_MAX: Duration = Duration::from_secs(300);

pub(super) struct Connections {
    listener: TcpListener,
    permits: Arc<Semaphore>,
}

impl Connections {
    pub(super) fn new(listener: TcpListener) -> Connections {
        Connections { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)) }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let permit = match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore; if it were closed, nothing more would be accepted.
            Err(_) => std::future::pending().await,
        };
        // Waits where the process is out of file descriptors, and tries again.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let now = Instant::now();
        let idle = Box::pin(sleep(IDLE));
        (Connection { stream, idle, ends: now + AGE_MAX, _permit: permit }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

pub(super) struct Connection {
    stream: TcpStream,
    /// Ends when nothing has moved for [`IDLE`], or at the connection's greatest age.
    idle: Pin<Box<Sleep>>,
    ends: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Passes on what moved, and counts the wait for what did not.
    fn timed<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if Instant::now() >= self.ends {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        if moved.is_ready() {
            let deadline = (Instant::now() + IDLE).min(self.ends);
            self.idle.as_mut().reset(deadline);
            return moved;
        }
        self.idle.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.timed(cx, moved)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.timed(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.timed(cx, moved)
    }
}
