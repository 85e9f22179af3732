//! A door before a service: it misbehaves on every connection until it relents, and then passes everything on, byte by byte.
//!
//! It writes to sockets by hand, because a server library would not say what is said here.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub(super) type Connection = Box<dyn Stream>;
type Doing = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;
/// What is done to a connection that was just accepted.
pub(super) type Misdeed = Arc<dyn Fn(Connection) -> Doing + Send + Sync>;

pub(super) fn misdeed<F, Done>(does: F) -> Misdeed
where
    F: Fn(Connection) -> Done + Send + Sync + 'static,
    Done: Future<Output = io::Result<()>> + Send + 'static,
{
    Arc::new(move |connection| Box::pin(does(connection)))
}

pub(super) struct Front {
    address: SocketAddr,
    relented: watch::Sender<bool>,
    met: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Front {
    /// `behind` is `127.0.0.1:PORT` of the service itself. With `tls` the misdeed is done inside of it; what is passed on later is
    /// passed on as it is.
    pub(super) async fn start(behind: &str, tls: Option<Arc<ServerConfig>>, misdeed: Misdeed) -> Front {
        let behind: SocketAddr = behind
            .rsplit("//")
            .next()
            .map(|host| host.replace("localhost", "127.0.0.1"))
            .expect("an address")
            .parse()
            .expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (relented, has_relented) = watch::channel(false);
        let met = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&met);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((tcp, _)) = listener.accept().await else { continue };
                let (tls, misdeed, count) = (tls.clone(), Arc::clone(&misdeed), Arc::clone(&count));
                tokio::spawn(serve(tcp, behind, tls, misdeed, count, has_relented.clone()));
            }
        });
        Front { address, relented, met, accepting }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn tls_url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// How many connections it has mistreated.
    pub(super) fn met(&self) -> usize {
        self.met.load(Ordering::SeqCst)
    }

    /// Ends what it does to connections; all further ones reach the service.
    pub(super) fn relents(&self) {
        self.relented.send_replace(true);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(
    mut tcp: TcpStream,
    behind: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    misdeed: Misdeed,
    met: Arc<AtomicUsize>,
    mut relented: watch::Receiver<bool>,
) {
    if *relented.borrow() {
        if let Ok(mut service) = TcpStream::connect(behind).await {
            let _one_has_gone = copy_bidirectional(&mut tcp, &mut service).await;
        }
        return;
    }
    met.fetch_add(1, Ordering::SeqCst);
    let done = async {
        let connection: Connection = match tls {
            None => Box::new(tcp),
            Some(config) => Box::new(TlsAcceptor::from(config).accept(tcp).await?),
        };
        misdeed(connection).await
    };
    tokio::select! {
        _the_client_may_leave_at_any_time = done => {}
        _ = relented.wait_for(|relented| *relented) => {}
    }
}

/// Reads a request's head.
pub(super) async fn head<S: AsyncRead + Unpin>(connection: &mut S) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < 64 * 1024 {
        head.push(connection.read_u8().await?);
    }
    Ok(head)
}

/// Says this once a request has come, and closes.
pub(super) fn says(bytes: Vec<u8>) -> Misdeed {
    let bytes = Arc::new(bytes);
    misdeed(move |mut connection| {
        let bytes = Arc::clone(&bytes);
        async move {
            head(&mut connection).await?;
            connection.write_all(&bytes).await?;
            connection.flush().await?;
            connection.shutdown().await
        }
    })
}

/// Says `first`, and then `more` again and again.
pub(super) fn says_for_ever(first: &[u8], more: Vec<u8>) -> Misdeed {
    let (first, more) = (first.to_vec(), Arc::new(more));
    misdeed(move |mut connection| {
        let (first, more) = (first.clone(), Arc::clone(&more));
        async move {
            head(&mut connection).await?;
            connection.write_all(&first).await?;
            loop {
                connection.write_all(&more).await?;
            }
        }
    })
}

/// Says it, a byte at a time.
pub(super) fn drips(bytes: &[u8], every: Duration) -> Misdeed {
    let bytes = bytes.to_vec();
    misdeed(move |mut connection| {
        let bytes = bytes.clone();
        async move {
            head(&mut connection).await?;
            for byte in bytes.iter().cycle() {
                connection.write_all(&[*byte]).await?;
                connection.flush().await?;
                tokio::time::sleep(every).await;
            }
            Ok(())
        }
    })
}

/// Takes the connection, reads nothing and says nothing.
pub(super) fn is_silent() -> Misdeed {
    misdeed(|connection| async move {
        let _held = connection;
        std::future::pending().await
    })
}

/// Reads a request a byte at a time, and never comes to its end.
pub(super) fn reads_slowly(every: Duration) -> Misdeed {
    misdeed(move |mut connection| async move {
        loop {
            connection.read_u8().await?;
            tokio::time::sleep(every).await;
        }
    })
}

pub(super) fn answer(headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
