//! What a simulated service does with a request: the answer, and how the answer travels or fails to.
//!
//! The services decide in plain code and return a [`Verdict`]; only [`super::server`] knows sockets. So a test can call a
//! service directly, under paused time, and get the same behaviour without a network.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response, StatusCode};

#[derive(Debug)]
pub struct Verdict {
    /// Nothing: the connection ends without an answer.
    pub response: Option<Response<Bytes>>,
    /// How long nothing happens first. [`Duration::MAX`] is a stall that only the client ends.
    pub delay: Duration,
    pub cut: Option<Cut>,
    /// Sends the body in pieces of so many bytes with a pause before each.
    pub drip: Option<(usize, Duration)>,
}

/// How a connection ends before its answer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Closed without a byte of the answer.
    Close,
    /// Reset without a byte of the answer.
    Reset,
    /// Head and this many bytes of the body, then closed.
    BodyAfter(usize),
    /// Head and this many bytes of the body, then reset.
    ResetAfter(usize),
}

/// What an in-process caller sees of a [`Cut`].
#[derive(Debug, PartialEq, Eq)]
pub struct ConnectionLost;

impl Verdict {
    pub fn answer(response: Response<Bytes>) -> Self {
        Self { response: Some(response), delay: Duration::ZERO, cut: None, drip: None }
    }

    pub fn hang_up() -> Self {
        Self { response: None, delay: Duration::ZERO, cut: Some(Cut::Close), drip: None }
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    pub fn cut(mut self, cut: Cut) -> Self {
        self.cut = Some(cut);
        self
    }

    pub fn status(&self) -> Option<u16> {
        self.response.as_ref().map(|response| response.status().as_u16())
    }

    /// The answer as a client without a network would get it: late, or not at all.
    pub async fn arrive(self) -> Result<Response<Bytes>, ConnectionLost> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match (self.response, self.cut) {
            (Some(response), None) => Ok(response),
            _ => Err(ConnectionLost),
        }
    }
}

pub fn respond(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("a status from 100 to 999");
    if !content_type.is_empty() {
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

pub fn with_header(mut response: Response<Bytes>, name: &'static str, value: &str) -> Response<Bytes> {
    response.headers_mut().insert(
        HeaderName::from_static(name),
        HeaderValue::from_bytes(value.as_bytes()).expect("a value that a header can hold"),
    );
    response
}

/// A page of a firewall or a load balancer, which knows nothing of JSON.
pub fn html(status: u16, title: &str) -> Response<Bytes> {
    respond(
        status,
        "text/html; charset=utf-8",
        format!("<html><head><title>{status} {title}</title></head><body><h1>{title}</h1></body></html>\n"),
    )
}

/// `Retry-After`, in each of the forms a server may choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryAfter {
    None,
    Seconds(u64),
    /// An HTTP date so many seconds from now; negative lies in the past.
    DateIn(i64),
    Raw(String),
}

impl RetryAfter {
    pub fn on(&self, response: Response<Bytes>, now: i64) -> Response<Bytes> {
        match self {
            Self::None => response,
            Self::Seconds(seconds) => with_header(response, "retry-after", &seconds.to_string()),
            Self::DateIn(seconds) => {
                with_header(response, "retry-after", &super::clock::http_date(now + seconds))
            }
            Self::Raw(text) => with_header(response, "retry-after", text),
        }
    }
}
