//! HTTP as the rest of the daemon sees it: one request, one whole answer, or one of a few failures.
//!
//! Every exchange has a deadline and a bound on its body; redirects are never followed, so a token is never sent to a host that was
//! not configured. What an answer means is for the modules that know the service.
//!
//! *Why a trait:* simulated days run against the simulated services in the same process, without sockets, on tokio's paused clock.

mod client;
mod proxy;
pub mod route;
mod stamp;
mod tls;
mod unpacking;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE, HeaderName, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method};

pub use client::{Client, Clients};
pub use route::Route;
#[cfg(any(test, fuzzing))]
pub(crate) use unpacking::Unpacking;

/// Who asks, in every request.
pub const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));
/// Most characters kept of what a peer, or a library about it, says in its own words.
const WORDS_MAX: usize = 300;
/// Headers that hold secrets, whoever has set them.
const SENSITIVE: [HeaderName; 6] = [
    AUTHORIZATION,
    PROXY_AUTHORIZATION,
    COOKIE,
    HeaderName::from_static("x-identity-header"),
    HeaderName::from_static("secret"),
    HeaderName::from_static("x-amz-security-token"),
];

/// One request. Printing it shows neither headers nor body: both may hold secrets.
#[derive(Clone)]
pub struct Request {
    pub method: Method,
    pub url: String,
    /// Sensitive values must be marked so ([`http::HeaderValue::set_sensitive`]).
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Most bytes of the answer's body, decoded.
    pub body_bytes_max: usize,
    /// For the whole exchange.
    pub deadline: Duration,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &without_query(&self.url))
            .finish_non_exhaustive()
    }
}

/// One whole answer. A gzip body is decoded, by its label or, where a proxy lost the label, by its magic bytes. Printing it shows
/// neither headers nor body: a token service answers with a token.
#[derive(Clone)]
pub struct Response {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Response {
    /// A header's text, when it is there and is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Why there is no whole answer. The texts name hosts, never headers or bodies, and are short.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// Name lookup, TCP, a proxy's tunnel and the handshake together.
    #[error("no connection within {0:?}")]
    Unconnected(Duration),
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error("the answer stood still for {0:?}")]
    Stalled(Duration),
    /// Refused, reset, unknown name, broken handshake, cut body: worth another try.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The peer's certificate is not trusted: a person has to act.
    #[error("certificate not trusted: {0}")]
    Untrusted(String),
    /// The peer does not accept the certificate we show, or wants one and there is none: a person has to act.
    #[error("refused by the other side's TLS: {0}")]
    Unidentified(String),
    /// The proxy will not let us through, and will say the same next time: a person has to act.
    #[error("proxy {proxy} {cause}")]
    Proxy { proxy: String, cause: String },
    #[error("body larger than {0} bytes")]
    TooLarge(usize),
    /// Gzip that does not decode.
    #[error("body does not decode: {0}")]
    Undecodable(String),
}

impl Failure {
    /// Whether it was patience that ended.
    pub fn is_timeout(&self) -> bool {
        use Failure::{Silent, Stalled, Timeout, Unconnected};
        matches!(self, Timeout(_) | Unconnected(_) | Silent(_) | Stalled(_))
    }

    /// What a person has to do about it, if anything; `section` is where the configuration says how this service is reached.
    pub fn remedy(&self, section: &str) -> Option<String> {
        Some(match self {
            Failure::Untrusted(_) => {
                format!(
                    "set `ca_file` under [{section}] to the authority that signed it; a proxy that opens TLS has one of its own"
                )
            }
            Failure::Unidentified(_) if section == "source" => format!(
                "set `client_certificate` under [{section}] to a certificate with its key that the service accepts; files are read again when they change"
            ),
            Failure::Unidentified(_) => {
                "let nothing between here and there ask for a client certificate: there is none to show"
                    .into()
            }
            Failure::Proxy { proxy, .. } => format!(
                "have the proxy {proxy} let this host through, or correct `proxy`, `proxy_username` and `proxy_password` under [{section}] \
                 (without `proxy`, the variable HTTPS_PROXY); `proxy = \"off\"` goes without one. Tried again by itself"
            ),
            _ => return None,
        })
    }
}

/// Why there can be no client for a route.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot read ca_file {path}: {cause}; give a file with certificates in PEM form")]
    Authority { path: PathBuf, cause: String },
    #[error("cannot use client_certificate {place}: {cause}")]
    Certificate { place: String, cause: String },
    #[error("cannot use proxy_password: {0}")]
    Password(String),
    #[error(
        "cannot find the system's certificate authorities: {0}; install them (the package is called ca-certificates), name their file in \
         the variable SSL_CERT_FILE, or give `ca_file` in each section"
    )]
    SystemAuthorities(String),
    #[error("cannot set up HTTP: {0}")]
    Setup(String),
}

impl ClientError {
    /// The key to correct.
    pub fn key(&self) -> &'static str {
        match self {
            ClientError::Authority { .. } | ClientError::SystemAuthorities(_) => "ca_file",
            ClientError::Certificate { .. } => "client_certificate",
            ClientError::Password(_) => "proxy_password",
            ClientError::Setup(_) => "proxy",
        }
    }
}

/// An address without what might be secret in it.
fn without_query(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
            let host = host.rsplit('@').next().unwrap_or_default();
            format!("{scheme}://{host}{path}")
        }
        None => url.to_owned(),
    }
}

/// Foreign words as they may be printed: on one line, and not endless.
fn cleaned(text: &str) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().take(WORDS_MAX).map(shown).collect()
}

/// Nothing prints these, and HTTP/2 keeps them out of its tables.
fn mark_sensitive(headers: &mut HeaderMap) {
    for name in SENSITIVE {
        if let http::header::Entry::Occupied(mut entry) = headers.entry(name) {
            entry.iter_mut().for_each(|value| value.set_sensitive(true));
        }
    }
}

/// Sends requests.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends once; never retries and never follows a redirect.
    async fn send(&self, request: Request) -> Result<Response, Failure>;
}
