//! The forwarder's transport without a network: requests become calls of the simulated services, delays become sleeps.
//!
//! It also sees what no service can: whether anything went to a host that is not configured, or with another's credential; which
//! answers reached the forwarder; and a digest of everything sent, by which two runs of one seed are compared.

#![allow(
    dead_code,
    clippy::allow_attributes,
    clippy::expect_used,
    reason = "two targets include this and each uses another part of it; and in a test a panic is the report"
)]

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use pulumi_audit_forwarder::http::{Failure, Request, Response, Transport};
use tokio::time::{Instant, sleep, timeout};

use super::crash::{Call, Fate, Side};
use crate::world::entra::Entra;
use crate::world::ingestion::Ingestion;
use crate::world::pulumi::Pulumi;
use crate::world::s3::memory::Memory;
use crate::world::verdict::{Cut, Verdict};

pub(crate) const PULUMI: &str = "api.pulumi.example";
/// A second address of the same service: another host, as far as budgets are concerned.
pub(crate) const SELF_HOSTED: &str = "pulumi.acme.example";
pub(crate) const ENTRA: &str = "login.example";
pub(crate) const AZURE: &str = "ingest.example";
pub(crate) const S3: &str = "s3.example";

/// Each way of a request.
const LATENCY: Duration = Duration::from_millis(20);

/// A request as it was sent, whether or not anybody was there to take it.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    /// Since the simulation began.
    pub(crate) at: Duration,
    pub(crate) host: String,
    pub(crate) path: String,
    /// Nothing where nothing was answered.
    pub(crate) status: Option<u16>,
    /// Of all of it but what signatures are made of.
    pub(crate) digest: u64,
}

pub(crate) struct Wire {
    pulumi: Arc<Pulumi>,
    entra: Arc<Entra>,
    azure: Arc<Ingestion>,
    store: Arc<Memory>,
    begun: Instant,
    away: Mutex<BTreeSet<&'static str>>,
    sent: Mutex<Vec<Sent>>,
    panics: Mutex<(&'static str, u32)>,
    panicked: Mutex<Vec<Duration>>,
    /// Numbers of the uploads whose success the forwarder has heard of.
    heard: Mutex<BTreeSet<u64>>,
    violations: Mutex<Vec<String>>,
}

impl Wire {
    pub(crate) fn new(
        pulumi: Arc<Pulumi>,
        entra: Arc<Entra>,
        azure: Arc<Ingestion>,
        store: Arc<Memory>,
    ) -> Wire {
        let begun = Instant::now();
        Wire {
            pulumi,
            entra,
            azure,
            store,
            begun,
            away: Mutex::default(),
            sent: Mutex::default(),
            panics: Mutex::default(),
            panicked: Mutex::default(),
            heard: Mutex::default(),
            violations: Mutex::default(),
        }
    }

    /// Connections to the host are refused from now on.
    pub(crate) fn goes_away(&self, host: &'static str) {
        self.away.lock().expect("no test panics here").insert(host);
    }

    pub(crate) fn comes_back(&self, host: &'static str) {
        self.away.lock().expect("no test panics here").remove(host);
    }

    /// Whoever sends one of the next requests to the host panics.
    pub(crate) fn panics_for(&self, host: &'static str, times: u32) {
        *self.panics.lock().expect("the panic comes after the lock") = (host, times);
    }

    pub(crate) fn panics_left(&self) -> u32 {
        self.panics.lock().expect("the panic comes after the lock").1
    }

    /// When somebody did, since the simulation began.
    pub(crate) fn panicked(&self) -> Vec<Duration> {
        self.panicked.lock().expect("the panic comes after the lock").clone()
    }

    fn panic_is_due(&self, host: &str) -> bool {
        let mut panics = self.panics.lock().expect("the panic comes after the lock");
        let due = panics.0 == host && panics.1 > 0;
        panics.1 -= u32::from(due);
        if due {
            self.panicked.lock().expect("the panic comes after the lock").push(self.begun.elapsed());
        }
        due
    }

    pub(crate) fn sent_to(&self, host: &str) -> Vec<Sent> {
        let sent = self.sent.lock().expect("no test panics here");
        sent.iter().filter(|sent| sent.host == host).cloned().collect()
    }

    /// When a host was asked for paths with this part, and what it answered.
    pub(crate) fn answers(&self, host: &str, part: &str) -> Vec<(Duration, Option<u16>)> {
        let sent = self.sent.lock().expect("no test panics here");
        let fits = |sent: &&Sent| sent.host == host && sent.path.contains(part);
        sent.iter().filter(fits).map(|sent| (sent.at, sent.status)).collect()
    }

    /// List requests for an org.
    pub(crate) fn asked(&self, org: &str) -> Vec<Sent> {
        let list = format!("/api/orgs/{org}/auditlogs/v2?");
        let sent = self.sent.lock().expect("no test panics here");
        sent.iter().filter(|sent| sent.path.starts_with(&list)).cloned().collect()
    }

    /// Every request so far, in its order.
    pub(crate) fn everything(&self) -> Vec<Sent> {
        self.sent.lock().expect("no test panics here").clone()
    }

    /// Adds a request that nobody made, for a judge to find.
    pub(crate) fn pretend(&self, sent: Sent) {
        self.sent.lock().expect("no test panics here").push(sent);
    }

    pub(crate) fn heard(&self) -> BTreeSet<u64> {
        self.heard.lock().expect("no test panics here").clone()
    }

    /// What must never be sent, and was.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().expect("no test panics here").clone()
    }

    /// Answers between two moments since the simulation began.
    pub(crate) fn sent_between(&self, from: Duration, until: Duration) -> Vec<Sent> {
        let sent = self.sent.lock().expect("no test panics here");
        let first = sent.partition_point(|sent| sent.at < from);
        sent[first..].iter().take_while(|sent| sent.at <= until).cloned().collect()
    }

    fn note(&self, host: &str, request: &Request, path: String) -> usize {
        let at = self.begun.elapsed();
        let mut digest = DefaultHasher::new();
        digest.write(request.method.as_str().as_bytes());
        digest.write(path.as_bytes());
        digest.write(&request.body);
        let credential =
            request.headers.get(http::header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
        let fits = match host {
            PULUMI | SELF_HOSTED => credential.starts_with(b"token "),
            AZURE => credential.starts_with(b"Bearer "),
            S3 => credential.starts_with(b"AWS4-HMAC-SHA256 "),
            ENTRA => credential.is_empty(),
            _ => false,
        };
        if !fits {
            let text = format!("a request to {host} that must not be, or with another's credential: {path}");
            self.violations.lock().expect("no test panics here").push(text);
        }
        let mut sent = self.sent.lock().expect("no test panics here");
        sent.push(Sent { at, host: host.to_owned(), path, status: None, digest: digest.finish() });
        sent.len() - 1
    }

    fn decide(&self, host: &str, request: http::Request<Bytes>) -> Verdict {
        match host {
            PULUMI | SELF_HOSTED => self.pulumi.answer(request),
            ENTRA => self.entra.answer(request),
            AZURE => self.azure.answer(request),
            S3 => self.store.answer(request),
            // It stands among the violations.
            _ => Verdict::hang_up(),
        }
    }

    async fn exchange(&self, request: Request, fate: &Fate) -> Result<Response, Failure> {
        fate.pass(Call::Request, Side::Before).await;
        let limit = request.body_bytes_max;
        let uri: http::Uri = request.url.parse().expect("the forwarder asks for addresses");
        let host = uri.host().expect("an address names a host").to_owned();
        // As people write keys; the SDK escapes them.
        let path = uri.path_and_query().map(|path| path.as_str().replace("%3D", "=")).unwrap_or_default();
        let place = self.note(&host, &request, path);
        let mut inner = http::Request::builder().method(request.method).uri(uri);
        if let Some(headers) = inner.headers_mut() {
            *headers = request.headers;
        }
        let inner = inner.body(request.body).expect("a request is well formed");
        sleep(LATENCY).await;
        assert!(!self.panic_is_due(&host), "a panic that the test asked for");
        if fate.is_dead() {
            std::future::pending::<()>().await;
        }
        if self.away.lock().expect("no test panics here").contains(host.as_str()) {
            return Err(Failure::Connection("connection refused".into()));
        }
        let stored_before = self.azure.stored_requests();
        let verdict = self.decide(&host, inner);
        let stored = self.azure.stored_requests();
        self.sent.lock().expect("no test panics here")[place].status =
            verdict.status().filter(|_| verdict.cut.is_none() && verdict.delay < Duration::MAX);
        fate.pass(Call::Request, Side::After).await;
        sleep(LATENCY).await;
        let answer = arrival(verdict, limit, host != S3).await;
        if stored > stored_before && answer.as_ref().is_ok_and(|answer| answer.status < 300) {
            self.heard.lock().expect("no test panics here").insert(stored);
        }
        answer
    }
}

/// How an answer arrives, if it does.
async fn arrival(verdict: Verdict, limit: usize, unpacks: bool) -> Result<Response, Failure> {
    if !verdict.delay.is_zero() {
        sleep(verdict.delay).await;
    }
    let response = match (verdict.response, verdict.cut) {
        (Some(response), None) => response,
        (_, Some(Cut::Reset | Cut::ResetAfter(_))) => return Err(Failure::Connection("reset".into())),
        _ => return Err(Failure::Connection("closed".into())),
    };
    if let Some((bytes, every)) = verdict.drip {
        let pieces = response.body().len().div_ceil(bytes.max(1));
        sleep(every.saturating_mul(u32::try_from(pieces).unwrap_or(u32::MAX))).await;
    }
    let (head, body) = response.into_parts();
    let body = if unpacks && body.starts_with(&[0x1f, 0x8b]) { unpacked(&body)? } else { body };
    if body.len() > limit {
        return Err(Failure::TooLarge(limit));
    }
    Ok(Response { status: head.status.as_u16(), headers: head.headers, body })
}

fn unpacked(body: &[u8]) -> Result<Bytes, Failure> {
    let mut plain = Vec::new();
    MultiGzDecoder::new(body)
        .read_to_end(&mut plain)
        .map_err(|error| Failure::Undecodable(error.to_string()))?;
    Ok(Bytes::from(plain))
}

/// One process's end of the wire.
pub(crate) struct Line {
    pub(crate) wire: Arc<Wire>,
    pub(crate) fate: Arc<Fate>,
}

#[async_trait]
impl Transport for Line {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = request.deadline;
        let exchange = self.wire.exchange(request, &self.fate);
        timeout(deadline, exchange).await.unwrap_or(Err(Failure::Timeout(deadline)))
    }
}
