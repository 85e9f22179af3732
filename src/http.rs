//! HTTP as the rest of the daemon sees it: one request, one whole answer, or one of a few failures.
//!
//! Every exchange has a deadline and a bound on its body; redirects are never followed, so a token is never sent to a host that was
//! not configured. What an answer means is for the modules that know the service.
//!
//! *Why a trait:* simulated days run against the simulated services in the same process, without sockets, on tokio's paused clock.

mod client;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method};

#[cfg(any(test, fuzzing))]
pub(crate) use client::Unpacking;
pub use client::{Client, ClientError, Clients};

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
            .field("url", &self.url)
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

/// Why there is no whole answer. The texts name hosts, never headers or bodies.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Failure {
    #[error("no whole answer within {0:?}")]
    Timeout(Duration),
    /// Refused, reset, unknown name, broken handshake, cut body: worth another try.
    #[error("connection failed: {0}")]
    Connection(String),
    /// The peer's certificate is not trusted: a person has to act.
    #[error("certificate not trusted: {0}")]
    Untrusted(String),
    #[error("body larger than {0} bytes")]
    TooLarge(usize),
    /// Gzip that does not decode.
    #[error("body does not decode: {0}")]
    Undecodable(String),
}

/// Sends requests.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends once; never retries and never follows a redirect.
    async fn send(&self, request: Request) -> Result<Response, Failure>;
}
