//! The forwarder's transport without a network: requests become calls of the simulated services, delays become sleeps.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use pulumi_audit_forwarder::http::{Failure, Request, Response, Transport};
use tokio::time::{Instant, sleep, timeout};

use crate::world::entra::Entra;
use crate::world::ingestion::Ingestion;
use crate::world::pulumi::Pulumi;
use crate::world::verdict::{Cut, Verdict};

pub(super) const PULUMI: &str = "api.pulumi.example";
/// A second address of the same service: another host, as far as budgets are concerned.
pub(super) const SELF_HOSTED: &str = "pulumi.acme.example";
pub(super) const ENTRA: &str = "login.example";
pub(super) const AZURE: &str = "ingest.example";

/// Each way of a request.
const LATENCY: Duration = Duration::from_millis(20);

/// A request as it was sent, whether or not anybody was there to take it.
#[derive(Clone, Debug)]
pub(super) struct Sent {
    /// Since the simulation began.
    pub(super) at: Duration,
    pub(super) host: String,
    pub(super) path: String,
}

pub(super) struct Wire {
    pulumi: Arc<Pulumi>,
    entra: Arc<Entra>,
    azure: Arc<Ingestion>,
    begun: Instant,
    away: Mutex<BTreeSet<&'static str>>,
    sent: Mutex<Vec<Sent>>,
    panics: Mutex<(&'static str, u32)>,
}

impl Wire {
    pub(super) fn new(pulumi: Arc<Pulumi>, entra: Arc<Entra>, azure: Arc<Ingestion>) -> Wire {
        let begun = Instant::now();
        Wire {
            pulumi,
            entra,
            azure,
            begun,
            away: Mutex::default(),
            sent: Mutex::default(),
            panics: Mutex::default(),
        }
    }

    /// Connections to the host are refused from now on.
    pub(super) fn goes_away(&self, host: &'static str) {
        self.away.lock().expect("no test panics here").insert(host);
    }

    pub(super) fn comes_back(&self, host: &'static str) {
        self.away.lock().expect("no test panics here").remove(host);
    }

    /// Whoever sends one of the next requests to the host panics.
    pub(super) fn panics_for(&self, host: &'static str, times: u32) {
        *self.panics.lock().expect("the panic comes after the lock") = (host, times);
    }

    pub(super) fn panics_left(&self) -> u32 {
        self.panics.lock().expect("the panic comes after the lock").1
    }

    fn panic_is_due(&self, host: &str) -> bool {
        let mut panics = self.panics.lock().expect("the panic comes after the lock");
        let due = panics.0 == host && panics.1 > 0;
        panics.1 -= u32::from(due);
        due
    }

    pub(super) fn sent_to(&self, host: &str) -> Vec<Sent> {
        let sent = self.sent.lock().expect("no test panics here");
        sent.iter().filter(|sent| sent.host == host).cloned().collect()
    }

    /// List requests for an org.
    pub(super) fn asked(&self, org: &str) -> Vec<Sent> {
        let list = format!("/api/orgs/{org}/auditlogs/v2?");
        let sent = self.sent.lock().expect("no test panics here");
        sent.iter().filter(|sent| sent.path.starts_with(&list)).cloned().collect()
    }

    fn decide(&self, host: &str, request: http::Request<Bytes>) -> Verdict {
        match host {
            PULUMI | SELF_HOSTED => self.pulumi.answer(request),
            ENTRA => self.entra.answer(request),
            AZURE => self.azure.answer(request),
            _ => panic!("a request went to {host}, which is not configured"),
        }
    }

    async fn exchange(&self, request: Request) -> Result<Response, Failure> {
        let limit = request.body_bytes_max;
        let uri: http::Uri = request.url.parse().expect("the forwarder asks for addresses");
        let host = uri.host().expect("an address names a host").to_owned();
        self.sent.lock().expect("no test panics here").push(Sent {
            at: self.begun.elapsed(),
            host: host.clone(),
            path: uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        });
        let mut inner = http::Request::builder().method(request.method).uri(uri);
        if let Some(headers) = inner.headers_mut() {
            *headers = request.headers;
        }
        let inner = inner.body(request.body).expect("a request is well formed");
        sleep(LATENCY).await;
        assert!(!self.panic_is_due(&host), "a panic that the test asked for");
        if self.away.lock().expect("no test panics here").contains(host.as_str()) {
            return Err(Failure::Connection("connection refused".into()));
        }
        let verdict = self.decide(&host, inner);
        sleep(LATENCY).await;
        arrival(verdict, limit).await
    }
}

/// How an answer arrives, if it does.
async fn arrival(verdict: Verdict, limit: usize) -> Result<Response, Failure> {
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
    let body = if body.starts_with(&[0x1f, 0x8b]) { unpacked(&body)? } else { body };
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

#[async_trait]
impl Transport for Wire {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let deadline = request.deadline;
        timeout(deadline, self.exchange(request)).await.unwrap_or(Err(Failure::Timeout(deadline)))
    }
}
