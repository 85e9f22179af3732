//! The one HTTP client: connections and TLS contexts shared by all orgs, one per certificate authority file.

use std::collections::HashMap;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use flate2::read::MultiGzDecoder;

use super::{Failure, Request, Response, Transport};

/// Name lookup, connection and handshake together.
const CONNECT_DEADLINE: Duration = Duration::from_secs(20);
/// Idle connections go after this, so that a changed DNS answer counts soon.
const IDLE_CONNECTION: Duration = Duration::from_secs(90);
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
#[derive(Clone, Debug)]
pub struct Client {
    client: reqwest::Client,
    /// For plain HTTP to this machine: the services that vouch for it answer nobody who comes through a proxy.
    local: reqwest::Client,
}

impl Client {
    /// A client that trusts the system's authorities and those in `ca_file`.
    ///
    /// # Errors
    /// When the file cannot be read or holds no certificate.
    pub fn new(ca_file: Option<&Path>) -> Result<Client, ClientError> {
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
        Ok(Client { client, local: local.build().map_err(setup)? })
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
pub struct Clients(Mutex<HashMap<Option<PathBuf>, Client>>);

impl Clients {
    /// # Errors
    /// As [`Client::new`].
    pub fn get(&self, ca_file: Option<&Path>) -> Result<Client, ClientError> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_file.map(Path::to_owned);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = Client::new(ca_file)?;
        clients.insert(key, client.clone());
        Ok(client)
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
        match tokio::time::timeout(deadline, exchange(self.client_for(&request.url), request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::Timeout(deadline)),
        }
    }
}

async fn exchange(client: &reqwest::Client, request: Request) -> Result<Response, Failure> {
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
    let mut body = BytesMut::new();
    while let Some(piece) = answer.chunk().await.map_err(failure)? {
        if body.len() + piece.len() > limit {
            return Err(Failure::TooLarge(limit));
        }
        body.extend_from_slice(&piece);
    }
    let labelled = headers.get(http::header::CONTENT_ENCODING).is_some_and(|value| {
        value.as_bytes().eq_ignore_ascii_case(b"gzip") || value.as_bytes().eq_ignore_ascii_case(b"x-gzip")
    });
    // A proxy may have decoded the body and left the label, or the reverse: the magic bytes decide. No JSON begins with them.
    let body = if body.starts_with(&[0x1f, 0x8b]) {
        decoded(body.freeze(), limit)?
    } else if labelled && body.first().is_some_and(|byte| !byte.is_ascii()) {
        return Err(Failure::Undecodable("labelled gzip, and is not".into()));
    } else {
        body.freeze()
    };
    Ok(Response { status, headers, body })
}

/// Unpacks gzip up to `limit` bytes, so that a bomb costs no more than a page.
pub fn decoded(body: Bytes, limit: usize) -> Result<Bytes, Failure> {
    let mut plain = Vec::with_capacity((body.len() * 6).min(limit));
    let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(body.as_ref())
        .take(bound)
        .read_to_end(&mut plain)
        .map_err(|error| Failure::Undecodable(error.to_string()))?;
    if plain.len() > limit {
        return Err(Failure::TooLarge(limit));
    }
    Ok(Bytes::from(plain))
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
