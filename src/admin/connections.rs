//! The admin endpoints' connections: few at a time, none for ever, none that only listens.
//!
//! *Why here:* the server has no limits of its own, and a probe must not fail because somebody opened a thousand connections.

use std::collections::VecDeque;
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
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A further one ends the oldest: what holds a connection for long is no probe.
const CONNECTIONS_MAX: usize = 64;
/// A connection on which nothing moves for this long is closed. Longer than the usual scrape interval.
const IDLE: Duration = Duration::from_secs(75);
/// However much moves, a connection is closed at this age: the next request opens another.
const AGE_MAX: Duration = Duration::from_secs(300);

pub(super) struct Connections {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    /// What ends each, oldest first; of those that have ended nobody else holds it.
    open: VecDeque<Arc<CancellationToken>>,
}

impl Connections {
    pub(super) fn new(listener: TcpListener) -> Connections {
        Connections { listener, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), open: VecDeque::new() }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Waits where the process is out of file descriptors, and tries again.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        self.open.retain(|ends| Arc::strong_count(ends) > 1);
        if self.permits.available_permits() == 0
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.cancel();
        }
        let permit = match Arc::clone(&self.permits).acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore; if it were closed, nothing more would be accepted.
            Err(_) => std::future::pending().await,
        };
        let ends_it = Arc::new(CancellationToken::new());
        self.open.push_back(Arc::clone(&ends_it));
        let told = Box::pin((*ends_it).clone().cancelled_owned());
        let now = Instant::now();
        let idle = Box::pin(sleep(IDLE));
        (Connection { stream, idle, ends: now + AGE_MAX, told, _open: ends_it, _permit: permit }, peer)
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
    /// Another one needs its place.
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    _open: Arc<CancellationToken>,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    /// Passes on what moved, and counts the wait for what did not.
    fn timed<T>(&mut self, cx: &mut Context<'_>, moved: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if Instant::now() >= self.ends || self.told.as_mut().poll(cx).is_ready() {
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
