//! The one HTTP client: connections and TLS contexts shared by all orgs, one per certificate authority file.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Failure, Request, Response, Transport};

/// Name lookup, connection and handshake together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// Idle connections go after this, so that a changed DNS answer counts soon.
const IDLE_CONNECTION: Duration = Duration::from_secs(90);
/// Larger bodies are read one at a time. Real pages have tens of kilobytes. Whoever waits for the turn holds this much already.
const LARGE_BODY_BYTES: usize = 1024 * 1024;
/// Most bytes of a certificate authority file.
const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read ca_file {path}: {cause}; give a file with certificates in PEM form")]
    Authority { path: PathBuf, cause: String },
    #[error("cannot set up HTTP: {0}")]
    Setup(String),
}

/// A reqwest client behind [`Transport`].
///
/// *Why large bodies take turns:* a service that answers every org with a bomb at once would need the greatest body for each of them.
/// The turn ends when the last slice of the body is gone, so what is made of it counts as well.
#[derive(Clone, Debug)]
pub struct Client {
    client: reqwest::Client,
    /// For plain HTTP to this machine: the services that vouch for it answer nobody who comes through a proxy.
    local: reqwest::Client,
    turn: Turn,
}

/// The one place for a large body, of all clients that share it.
#[derive(Clone, Debug)]
struct Turn(Arc<Semaphore>);

impl Default for Turn {
    fn default() -> Turn {
        Turn(Arc::new(Semaphore::new(1)))
    }
}

impl Client {
    /// A client that trusts the system's authorities and those in `ca_file`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn new(ca_file: Option<&Path>) -> Result<Client, ClientError> {
        Client::with(ca_file, Turn::default())
    }

    fn with(ca_file: Option<&Path>, turn: Turn) -> Result<Client, ClientError> {
        let builder = || {
            reqwest::Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .connect_timeout(CONNECT_DEADLINE)
                .pool_idle_timeout(IDLE_CONNECTION)
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
        };
        // Without authorities: it never speaks TLS, and each set of them costs memory.
        let local = builder().no_proxy().tls_certs_only([]);
        let mut builder = builder();
        if let Some(path) = ca_file {
            for certificate in certificates(path)? {
                builder = builder.add_root_certificate(certificate);
            }
        }
        let setup = |error: reqwest::Error| ClientError::Setup(error.to_string());
        // What is certified is looked at only now.
        let client = builder.build().map_err(|error| match ca_file {
            Some(path) => ClientError::Authority { path: path.to_owned(), cause: innermost(&error) },
            None => setup(error),
        })?;
        Ok(Client { client, local: local.build().map_err(setup)?, turn })
    }

    /// The client itself for one request, for libraries that bring their own.
    pub fn client_for(&self, url: &str) -> &reqwest::Client {
        if is_local(url) { &self.local } else { &self.client }
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Whether this is plain HTTP to this machine, or to an address that routers do not pass on.
fn is_local(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let near = |address: IpAddr| match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    };
    url.scheme() == "http" && (host == "localhost" || host.parse().is_ok_and(near))
}

fn certificates(path: &Path) -> Result<Vec<reqwest::Certificate>, ClientError> {
    let unreadable = |cause: String| ClientError::Authority { path: path.to_owned(), cause };
    let mut pem = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX).read_to_end(&mut pem))
        .map_err(|error| unreadable(error.to_string()))?;
    let certificates =
        reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| unreadable(error.to_string()))?;
    if certificates.is_empty() {
        return Err(unreadable("it holds no certificate".into()));
    }
    Ok(certificates)
}

/// One client for each certificate authority file in use.
#[derive(Debug, Default)]
pub struct Clients {
    known: Mutex<HashMap<Option<PathBuf>, Client>>,
    turn: Turn,
}

impl Clients {
    /// # Errors
    /// As [`Client::new`].
    pub fn get(&self, ca_file: Option<&Path>) -> Result<Client, ClientError> {
        let mut clients = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_file.map(Path::to_owned);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Client::with(ca_file, self.turn.clone())?;
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// The file holds something else than when it was read: the next to ask gets a client made anew.
    pub fn forget(&self, ca_file: &Path) {
        let mut clients = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        clients.remove(&Some(ca_file.to_owned()));
    }

    /// The same, as the trait object that the services' clients take.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn transport(&self, ca_file: Option<&Path>) -> Result<Arc<dyn Transport>, ClientError> {
        self.get(ca_file).map(|client| Arc::new(client) as Arc<dyn Transport>)
    }
}

#[async_trait]
impl Transport for Client {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = request.deadline;
        match tokio::time::timeout(deadline, exchange(self.client_for(&request.url), request, &self.turn))
            .await
        {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout(deadline)),
        }
    }
}

async fn exchange(client: &reqwest::Client, request: Request, turn: &Turn) -> Result<Response, Failure> {
    let limit = request.body_bytes_max;
    let mut answer = client
        .request(request.method, request.url)
        .headers(request.headers)
        .body(request.body)
        .send()
        .await
        .map_err(failure)?;
    let status = answer.status().as_u16();
    let headers = std::mem::take(answer.headers_mut());
    let labelled = headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| {
        value.as_bytes().eq_ignore_ascii_case(b"gzip") || value.as_bytes().eq_ignore_ascii_case(b"x-gzip")
    });
    let mut body = Unpacking::new(limit);
    let mut permit = None;
    while let Some(mut piece) = answer.chunk().await.map_err(failure)? {
        while !piece.is_empty() {
            if body.len() > LARGE_BODY_BYTES && permit.is_none() {
                permit = Arc::clone(&turn.0).acquire_owned().await.ok();
            }
            // A thousand times as much may come out of it.
            body.add(&piece.split_to(piece.len().min(PIECE_BYTES)))?;
        }
    }
    let plain = body.finish(labelled)?;
    Ok(Response { status, headers, body: Bytes::from_owner(Held { plain, _permit: permit }) })
}

/// So much of a body is unpacked before it is asked whether it is large.
const PIECE_BYTES: usize = 4 * 1024;

/// A body, and its turn if it is large.
struct Held {
    plain: Vec<u8>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.plain
    }
}

/// A body that is unpacked while it comes in, up to `limit` bytes, so that a bomb costs no more than a page. A proxy may have decoded
/// it and left the label, or the reverse: the magic bytes decide. No JSON begins with them.
pub(crate) struct Unpacking {
    limit: usize,
    state: State,
}

enum State {
    /// Fewer bytes than tell what it is.
    Unknown(Vec<u8>),
    Plain(Vec<u8>),
    Gzip(Box<MultiGzDecoder<Bounded>>),
}

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

impl Unpacking {
    pub(crate) fn new(limit: usize) -> Unpacking {
        Unpacking { limit, state: State::Unknown(Vec::new()) }
    }

    /// Bytes so far, unpacked.
    fn len(&self) -> usize {
        match &self.state {
            State::Unknown(plain) | State::Plain(plain) => plain.len(),
            State::Gzip(decoder) => decoder.get_ref().plain.len(),
        }
    }

    pub(crate) fn add(&mut self, piece: &[u8]) -> Result<(), Failure> {
        if let State::Unknown(begun) = &mut self.state {
            begun.extend_from_slice(piece);
            if begun.len() < GZIP_MAGIC.len() {
                return Ok(());
            }
            let begun = std::mem::take(begun);
            let bounded = Bounded { plain: Vec::new(), limit: self.limit, overflowed: false };
            self.state = if begun.starts_with(&GZIP_MAGIC) {
                State::Gzip(Box::new(MultiGzDecoder::new(bounded)))
            } else {
                State::Plain(Vec::new())
            };
            return self.add(&begun);
        }
        let written = match &mut self.state {
            State::Unknown(plain) | State::Plain(plain) => {
                if plain.len() + piece.len() > self.limit {
                    return Err(Failure::TooLarge(self.limit));
                }
                grow(plain, piece, self.limit);
                Ok(())
            }
            State::Gzip(decoder) => decoder.write_all(piece),
        };
        written.map_err(|error| self.undecodable(&error))
    }

    pub(crate) fn finish(mut self, labelled: bool) -> Result<Vec<u8>, Failure> {
        match &mut self.state {
            State::Unknown(plain) | State::Plain(plain) => {
                if labelled && plain.first().is_some_and(|byte| !byte.is_ascii()) {
                    return Err(Failure::Undecodable("labelled gzip, and is not".into()));
                }
                Ok(std::mem::take(plain))
            }
            State::Gzip(decoder) => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(&mut decoder.get_mut().plain)),
                Err(error) => Err(self.undecodable(&error)),
            },
        }
    }

    fn undecodable(&self, error: &io::Error) -> Failure {
        match &self.state {
            State::Gzip(decoder) if decoder.get_ref().overflowed => Failure::TooLarge(self.limit),
            _ => Failure::Undecodable(error.to_string()),
        }
    }
}

/// A body that has become large gets all the room it may need at once, which costs nothing until it is written to: growing by
/// doubling would leave holes as large as itself in the allocator.
fn grow(plain: &mut Vec<u8>, piece: &[u8], limit: usize) {
    if plain.capacity() < limit && plain.len() + piece.len() > LARGE_BODY_BYTES {
        plain.reserve_exact(limit - plain.len());
    }
    plain.extend_from_slice(piece);
}

/// Takes so many bytes, and no more.
struct Bounded {
    plain: Vec<u8>,
    limit: usize,
    overflowed: bool,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.plain.len() + piece.len() > self.limit {
            self.overflowed = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        grow(&mut self.plain, piece, self.limit);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sorts reqwest's errors. Its texts may hold the URL, which may hold an org's name but no secret; only the innermost cause is kept.
fn failure(error: reqwest::Error) -> Failure {
    use std::error::Error;
    let mut cause: &dyn Error = &error;
    let mut untrusted = None;
    while let Some(source) = cause.source() {
        cause = source;
        if let Some(rustls::Error::InvalidCertificate(certificate)) = cause.downcast_ref::<rustls::Error>() {
            untrusted = Some(format!("{certificate:?}"));
        }
    }
    let text = cause.to_string();
    if let Some(text) = untrusted {
        return Failure::Untrusted(text);
    }
    // rustls errors often arrive inside an io::Error, whose source() skips them.
    if text.contains("invalid peer certificate") {
        return Failure::Untrusted(text.replace("invalid peer certificate: ", ""));
    }
    if error.is_timeout() {
        return Failure::Timeout(CONNECT_DEADLINE);
    }
    Failure::Connection(text)
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn plain_http_to_this_machine_goes_past_every_proxy_and_nothing_else_does() {
        for url in [
            "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01",
            "http://localhost:42356/msi/token",
            "http://127.0.0.1:41741/MSI/token/",
            "http://[::1]:80/",
        ] {
            assert!(is_local(url), "{url}");
        }
        for url in [
            "https://127.0.0.1/",
            "http://10.0.0.1/",
            "http://example.com/",
            "https://login.microsoftonline.com/",
            "http://localhost.example/",
            "",
        ] {
            assert!(!is_local(url), "{url}");
        }
    }
}
