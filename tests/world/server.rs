//! Serves a simulated service on loopback: HTTP/1.1, with or without TLS, on a free port that stays the same while it is away.
//!
//! It carries out what a [`Verdict`] says about delays and cut connections, and decides nothing itself.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::verdict::{Cut, Verdict};

/// Bodies beyond this are not for any service of the world.
const BODY_MAX: usize = 256 * 1024 * 1024;

pub type Answering = Pin<Box<dyn Future<Output = Verdict> + Send>>;

pub trait Service: Send + Sync + 'static {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering;

    /// How the connection ends, if it is to end while the body is still coming.
    fn hangs_up_while_receiving(&self, _head: &Parts) -> Option<Cut> {
        None
    }
}

/// Most of what one server hears that is kept.
const HEARD_MAX: usize = 256 * 1024 * 1024;

/// Every byte that clients have said, once somebody listens: what came out of TLS, and the bodies that were packed once more as they are
/// unpacked.
#[derive(Default)]
struct Heard {
    listens: AtomicBool,
    bytes: Mutex<Vec<u8>>,
}

impl Heard {
    fn keep(&self, bytes: &[u8]) {
        if self.listens.load(Ordering::SeqCst) {
            let mut heard = self.bytes.lock().expect("never poisoned");
            assert!(heard.len() + bytes.len() <= HEARD_MAX, "nothing that is said may be missed");
            heard.extend_from_slice(bytes);
        }
    }

    fn keep_unpacked(&self, body: &[u8]) {
        if self.listens.load(Ordering::SeqCst) && body.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            // What cannot be unpacked is searched as it came.
            let _damaged = io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(body), &mut plain);
            self.keep(&plain);
        }
    }
}

/// A service on a port. Dropping it frees the port and ends every connection.
pub struct Server {
    address: SocketAddr,
    tls: bool,
    present: watch::Sender<bool>,
    /// The port without a listener, held while the service is away: connections are refused and nobody else can take it.
    held: Arc<Mutex<Option<TcpSocket>>>,
    serving: Mutex<Option<JoinHandle<()>>>,
    service: Arc<dyn Service>,
    config: Option<Arc<ServerConfig>>,
    heard: Arc<Heard>,
}

impl Server {
    pub async fn start<S: Service>(service: Arc<S>, config: Option<Arc<ServerConfig>>) -> Self {
        let socket = bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("loopback has a free port");
        let address = socket.local_addr().expect("a bound socket has an address");
        let server = Self {
            address,
            tls: config.is_some(),
            present: watch::channel(true).0,
            held: Arc::new(Mutex::new(Some(socket))),
            serving: Mutex::new(None),
            service,
            config,
            heard: Arc::default(),
        };
        server.comes_back();
        server
    }

    /// `http://127.0.0.1:PORT` or `https://localhost:PORT`.
    pub fn url(&self) -> String {
        match self.tls {
            true => format!("https://localhost:{}", self.address.port()),
            false => format!("http://{}", self.address),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on all that clients say is kept.
    pub fn listens_in(&self) {
        self.heard.listens.store(true, Ordering::SeqCst);
    }

    /// All that they have said since.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.bytes.lock().expect("never poisoned").clone()
    }

    /// Ends every connection and refuses new ones, until [`Server::comes_back`].
    pub async fn goes_away(&self) {
        self.present.send_replace(false);
        let serving = self.serving.lock().expect("never poisoned").take();
        if let Some(serving) = serving {
            let _ended = serving.await;
        }
    }

    pub fn comes_back(&self) {
        let Some(socket) = self.held.lock().expect("never poisoned").take() else { return };
        self.present.send_replace(true);
        let listener = socket.listen(1024).expect("a bound port can listen");
        let accept = accept(
            listener,
            self.present.subscribe(),
            Arc::clone(&self.held),
            Arc::clone(&self.service),
            self.config.clone(),
            Arc::clone(&self.heard),
        );
        *self.serving.lock().expect("never poisoned") = Some(tokio::spawn(accept));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(serving) = self.serving.lock().ok().and_then(|mut serving| serving.take()) {
            serving.abort();
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(
    listener: TcpListener,
    mut present: watch::Receiver<bool>,
    held: Arc<Mutex<Option<TcpSocket>>>,
    service: Arc<dyn Service>,
    config: Option<Arc<ServerConfig>>,
    heard: Arc<Heard>,
) {
    let address = listener.local_addr().expect("a listener has an address");
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = present.wait_for(|present| !present) => break,
            Some(_ended) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                connections.spawn(connection(tcp, Arc::clone(&service), config.clone(), Arc::clone(&heard)));
            }
        }
    }
    connections.shutdown().await;
    drop(listener);
    let socket = bind(address).expect("the port that was just ours is free");
    *held.lock().expect("never poisoned") = Some(socket);
}

async fn connection(
    tcp: TcpStream,
    service: Arc<dyn Service>,
    config: Option<Arc<ServerConfig>>,
    heard: Arc<Heard>,
) {
    if tcp.set_nodelay(true).is_err() {
        return;
    }
    let reset = Arc::new(AtomicBool::new(false));
    let wire = Wire { tcp, reset: Arc::clone(&reset) };
    match config {
        None => serve(Overheard { inner: wire, heard }, service, reset).await,
        Some(config) => {
            if let Ok(wire) = TlsAcceptor::from(config).accept(wire).await {
                serve(Overheard { inner: wire, heard }, service, reset).await;
            }
        }
    }
}

async fn serve<I>(io: Overheard<I>, service: Arc<dyn Service>, reset: Arc<AtomicBool>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let heard = Arc::clone(&io.heard);
    let answer = service_fn(move |request: Request<Incoming>| {
        let (service, reset, heard) = (Arc::clone(&service), Arc::clone(&reset), Arc::clone(&heard));
        async move { answer(request, service, &reset, &heard).await }
    });
    // A client that goes away is no fault of the world; whether its request counted stands in the ledger. The `Date` header is
    // the services' own, because their clock may be a simulated one.
    let _ended = hyper::server::conn::http1::Builder::new()
        .auto_date_header(false)
        .serve_connection(TokioIo::new(io), answer)
        .await;
}

async fn answer(
    request: Request<Incoming>,
    service: Arc<dyn Service>,
    reset: &Arc<AtomicBool>,
    heard: &Heard,
) -> Result<Response<Travelling>, Ended> {
    let (head, body) = request.into_parts();
    if let Some(cut) = service.hangs_up_while_receiving(&head) {
        reset.store(matches!(cut, Cut::Reset | Cut::ResetAfter(_)), Ordering::SeqCst);
        return Err(Ended);
    }
    let body = axum::body::to_bytes(Body::new(body), BODY_MAX).await.map_err(|_| Ended)?;
    heard.keep_unpacked(&body);
    let verdict = service.handle(Request::from_parts(head, body)).await;
    if !verdict.delay.is_zero() {
        tokio::time::sleep(verdict.delay).await;
    }
    let (stop_after, resets) = match verdict.cut {
        None => (None, false),
        Some(Cut::Close) => return Err(Ended),
        Some(Cut::Reset) => {
            reset.store(true, Ordering::SeqCst);
            return Err(Ended);
        }
        Some(Cut::BodyAfter(bytes)) => (Some(bytes), false),
        Some(Cut::ResetAfter(bytes)) => (Some(bytes), true),
    };
    let Some(response) = verdict.response else { return Err(Ended) };
    let (head, body) = response.into_parts();
    let travelling = Travelling {
        whole: body.len() as u64,
        left: body,
        sent: 0,
        stop_after,
        on_stop: resets.then(|| Arc::clone(reset)),
        flushed: false,
        drip: verdict.drip,
        pause: None,
    };
    Ok(Response::from_parts(head, travelling))
}

/// The connection ends here, on purpose.
#[derive(Debug)]
pub struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was ended on purpose")
    }
}

impl std::error::Error for Ended {}

impl From<Infallible> for Ended {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A body on its way: whole, in drips, or cut off.
struct Travelling {
    whole: u64,
    left: Bytes,
    sent: usize,
    stop_after: Option<usize>,
    on_stop: Option<Arc<AtomicBool>>,
    flushed: bool,
    drip: Option<(usize, Duration)>,
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl hyper::body::Body for Travelling {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        if self.stop_after == Some(self.sent) {
            if !self.flushed {
                // hyper writes out what it holds whenever a body is not ready; without this the bytes before the cut would go with it.
                self.flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(reset) = &self.on_stop {
                reset.store(true, Ordering::SeqCst);
            }
            return Poll::Ready(Some(Err(Ended)));
        }
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let mut size = self.left.len();
        if let Some((piece, pause)) = self.drip {
            let sleep = self.pause.get_or_insert_with(|| Box::pin(tokio::time::sleep(pause)));
            std::task::ready!(sleep.as_mut().poll(cx));
            self.pause = None;
            size = size.min(piece.max(1));
        }
        if let Some(stop) = self.stop_after {
            size = size.min(stop.saturating_sub(self.sent));
        }
        let piece = self.left.split_to(size);
        self.sent += size;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole - self.sent as u64)
    }
}

/// A stream whose reader is listened to.
struct Overheard<I> {
    inner: I,
    heard: Arc<Heard>,
}

impl<I: AsyncRead + Unpin> AsyncRead for Overheard<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.heard.keep(&buf.filled()[before..]);
        read
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Overheard<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A TCP stream that can end with a reset instead of a farewell.
struct Wire {
    tcp: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.reset.load(Ordering::SeqCst) {
            let _best_effort = self.tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
