//! Stands between the forwarder and the S3 server and makes what no local server does: lost replies, conflicts, throttling, stale
//! listings.
//!
//! It passes requests on as they are, `Host` included, because the signature covers them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{CONNECTION, EXPECT, IF_NONE_MATCH, TRANSFER_ENCODING};
use http::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::super::clock::WorldClock;
use super::super::ledger::{self, Ledger};
use super::super::query;
use super::super::script::{Script, Times};
use super::super::server::{Answering, Service};
use super::super::verdict::{Cut, Verdict, respond, with_header};

const ANSWER_MAX: usize = 256 * 1024 * 1024;

/// Which requests a fault is for.
#[derive(Debug, Clone, Default)]
pub struct Scope {
    /// Nothing: all methods.
    pub method: Option<Method>,
    /// A part of the path, such as `_chain/`; empty fits all.
    pub path: String,
}

impl Scope {
    pub fn any() -> Self {
        Self::default()
    }

    pub fn puts(path: &str) -> Self {
        Self { method: Some(Method::PUT), path: path.to_owned() }
    }
}

#[derive(Debug, Clone)]
pub enum Fault {
    /// Passed on, and the reply lost.
    ReplyLost(Cut),
    /// Not passed on; this error, in S3's XML.
    Error {
        status: u16,
        code: &'static str,
    },
    /// Not passed on.
    Redirect(String),
    /// Not passed on; status 200 with an error in the body.
    ErrorInSuccess(&'static str),
    /// Not passed on, and the connection ends.
    Lost(Cut),
    /// Passed on after a wait.
    Late(Duration),
    /// Passed on, and the reply comes after a wait.
    ReplyLate(Duration),
    Stall,
    /// Not passed on; success, as a store answers that ignores `If-None-Match`.
    Overwrites,
}

impl Fault {
    pub fn conflict() -> Self {
        Self::Error { status: 409, code: "ConditionalRequestConflict" }
    }
    pub fn slow_down() -> Self {
        Self::Error { status: 503, code: "SlowDown" }
    }
    pub fn internal_error() -> Self {
        Self::Error { status: 500, code: "InternalError" }
    }
    pub fn access_denied() -> Self {
        Self::Error { status: 403, code: "AccessDenied" }
    }
    pub fn expired_token() -> Self {
        Self::Error { status: 400, code: "ExpiredToken" }
    }
    pub fn invalid_access_key() -> Self {
        Self::Error { status: 403, code: "InvalidAccessKeyId" }
    }
    pub fn wrong_signature() -> Self {
        Self::Error { status: 403, code: "SignatureDoesNotMatch" }
    }
    pub fn skewed_time() -> Self {
        Self::Error { status: 403, code: "RequestTimeTooSkewed" }
    }
    pub fn no_such_bucket() -> Self {
        Self::Error { status: 404, code: "NoSuchBucket" }
    }
}

pub struct Proxy {
    behind: SocketAddr,
    clock: WorldClock,
    pub ledger: Ledger,
    /// The bodies of posts, of which a test makes few.
    posts: Mutex<Vec<String>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: Script<Scope, Fault>,
    /// While listings are stale: paths put since, which they do not show.
    unlisted: Option<BTreeSet<String>>,
}

impl Proxy {
    pub fn new(behind: SocketAddr, clock: WorldClock) -> Self {
        Self { behind, clock, ledger: Ledger::default(), posts: Mutex::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the proxy's state")
    }

    pub fn fault(&self, scope: Scope, fault: Fault, times: Times) {
        self.state().faults.push(scope, fault, times);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear(|_| true);
    }

    /// What is put from now on stays out of listings, as in an eventually consistent store.
    pub fn listings_go_stale(&self) {
        self.state().unlisted.get_or_insert_default();
    }

    pub fn listings_catch_up(&self) {
        self.state().unlisted = None;
    }

    async fn decide(&self, request: Request<Bytes>) -> Verdict {
        let (head, body) = request.into_parts();
        let segments = query::segments(head.uri.path());
        let path = segments.join("/");
        let bucket = segments.first().map_or("", String::as_str);
        let mut entry = ledger::entry(self.clock.now(), &head, body.len(), bucket);
        if head.method == Method::POST {
            let text = String::from_utf8_lossy(&body).into_owned();
            self.posts.lock().expect("no test panics while it holds this").push(text);
        }
        let fault = self.state().faults.strike(|scope, _| {
            scope.method.as_ref().is_none_or(|method| *method == head.method) && path.contains(&scope.path)
        });
        let verdict = match fault {
            Some(Fault::Error { status, code }) => Verdict::answer(error(status, code, &path)),
            Some(Fault::Redirect(to)) => {
                Verdict::answer(with_header(respond(307, "application/xml", ""), "location", &to))
            }
            Some(Fault::ErrorInSuccess(code)) => Verdict::answer(error(200, code, &path)),
            Some(Fault::Lost(cut)) => Verdict::hang_up().cut(cut),
            Some(Fault::Overwrites) => {
                let stored = respond(200, "application/xml", "");
                Verdict::answer(with_header(stored, "etag", "\"00000000000000000000000000000000\""))
            }
            Some(Fault::Stall) => Verdict::hang_up().after(Duration::MAX),
            fault => {
                if let Some(Fault::Late(wait)) = fault {
                    tokio::time::sleep(wait).await;
                }
                let listing = head.method == Method::GET
                    && head.uri.query().is_some_and(|query| query.contains("list-type"));
                let put = head.method == Method::PUT;
                match self.pass_on(Request::from_parts(head, body)).await {
                    Err(_) => Verdict::hang_up(),
                    Ok(response) => {
                        entry.done = response.status().is_success();
                        let mut state = self.state();
                        if let Some(unlisted) = state.unlisted.as_mut().filter(|_| put && entry.done) {
                            unlisted.insert(segments[1..].join("/"));
                        }
                        let response = match &state.unlisted {
                            Some(unlisted) if listing => without(response, unlisted),
                            _ => response,
                        };
                        drop(state);
                        match fault {
                            Some(Fault::ReplyLost(cut)) => Verdict::answer(response).cut(cut),
                            Some(Fault::ReplyLate(wait)) => Verdict::answer(response).after(wait),
                            _ => Verdict::answer(response),
                        }
                    }
                }
            }
        };
        entry.status = verdict.status().filter(|_| verdict.cut.is_none());
        self.ledger.write(entry);
        verdict
    }

    async fn pass_on(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        let tcp = TcpStream::connect(self.behind).await?;
        tcp.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tcp)).await?;
        let connection = tokio::spawn(connection);
        let (mut head, body) = request.into_parts();
        for hop_by_hop in [CONNECTION, EXPECT, TRANSFER_ENCODING] {
            head.headers.remove(hop_by_hop);
        }
        let response = sender.send_request(Request::from_parts(head, Body::from(body))).await?;
        let (mut head, body) = response.into_parts();
        let body = axum::body::to_bytes(Body::new(body), ANSWER_MAX).await?;
        connection.abort();
        head.headers.remove(TRANSFER_ENCODING);
        head.headers.remove(CONNECTION);
        Ok(Response::from_parts(head, body))
    }

    pub fn posts(&self) -> Vec<String> {
        self.posts.lock().expect("no test panics while it holds this").clone()
    }

    /// Puts so far, create-only or not, with what they were answered: (path, create-only, status).
    pub fn puts(&self) -> Vec<(String, bool, Option<u16>)> {
        self.ledger
            .entries()
            .into_iter()
            .filter(|entry| entry.method == "PUT")
            .map(|entry| (entry.target.clone(), entry.header(IF_NONE_MATCH.as_str()).is_some(), entry.status))
            .collect()
    }
}

impl Service for Proxy {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering {
        Box::pin(async move { self.decide(request).await })
    }
}

fn error(status: u16, code: &str, path: &str) -> Response<Bytes> {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>simulated {code}</Message><Resource>/{path}</Resource><RequestId>0000000000000000</RequestId></Error>"
    );
    respond(status, "application/xml", body)
}

/// A listing without these keys.
fn without(response: Response<Bytes>, unlisted: &BTreeSet<String>) -> Response<Bytes> {
    let (mut head, body) = response.into_parts();
    let text = String::from_utf8_lossy(&body);
    let mut kept = String::with_capacity(text.len());
    let mut pieces = text.split("<Contents>");
    kept.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let (object, after) = piece.split_once("</Contents>").unwrap_or((piece, ""));
        let hidden = unlisted.iter().any(|key| object.contains(&format!("<Key>{key}</Key>")));
        if !hidden {
            kept.push_str("<Contents>");
            kept.push_str(object);
            kept.push_str("</Contents>");
        }
        kept.push_str(after);
    }
    head.headers.remove(http::header::CONTENT_LENGTH);
    Response::from_parts(head, kept.into())
}
