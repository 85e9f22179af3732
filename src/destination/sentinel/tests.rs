//! The lane's side of Azure: what is sent after which answer. Azure is a transport in memory; time is tokio's, paused.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use super::*;
use crate::chunk::{CHUNK_EVENTS_MAX, Cut, Link, Mode, NewEvent, Packing, Summary};
use crate::clock::{Second, Window};
use crate::config::settings::{AzureIdentity, Columns};
use crate::event::{Event, EventKey, Identity, OrgId, Payload};
use crate::http::{Failure, Request, Response, Route};
use crate::metrics::Metrics;
use crate::pulumi::environment::Environments;
use crate::secret::{Place, SecretSource};
use crate::trial::Outcome;

const AT: Second = Second(1_795_256_100);

type Bad = fn(&str) -> bool;

/// Answers in memory: what is scripted first, then by the rows.
#[derive(Default)]
struct Azure {
    script: Mutex<VecDeque<Reply>>,
    /// Rows with such a description are refused.
    bad: Mutex<Option<Bad>>,
    plain_bytes_max: Mutex<Option<usize>>,
    /// Descriptions of accepted rows, and how many rows each request held.
    accepted: Mutex<Vec<String>>,
    requests: Mutex<Vec<usize>>,
    tokens: Mutex<Vec<String>>,
}

pub(super) fn unpacked(body: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(body).read_to_end(&mut plain).unwrap();
    plain
}

#[derive(Clone)]
enum Reply {
    Status(u16),
    Headers(u16, &'static [(&'static str, &'static str)]),
    Body(u16, &'static str),
    Lost(Failure),
    /// Stored, and the answer never comes.
    Hangs,
    /// As the rows say.
    Ordinary,
}

fn response(status: u16, headers: &[(&'static str, &str)], body: &str) -> Response {
    let mut map = HeaderMap::new();
    map.insert("retry-after", HeaderValue::from_static("0"));
    map.insert("x-ms-request-id", HeaderValue::from_static("request-1"));
    for (name, value) in headers {
        map.insert(*name, HeaderValue::from_str(value).unwrap());
    }
    Response { status, headers: map, body: Bytes::copy_from_slice(body.as_bytes()) }
}

#[async_trait]
impl Transport for Azure {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let plain = unpacked(&request.body);
        assert!(plain.len() <= BODY_BYTES_MAX);
        let rows: Vec<Value> = serde_json::from_slice(&plain).unwrap();
        self.requests.lock().unwrap().push(rows.len());
        self.tokens.lock().unwrap().push(request.headers["authorization"].to_str().unwrap().to_owned());
        let names: Vec<String> =
            rows.iter().map(|row| row["Description_s"].as_str().unwrap().to_owned()).collect();
        let reply = self.script.lock().unwrap().pop_front().unwrap_or(Reply::Ordinary);
        match reply {
            Reply::Status(status) => return Ok(response(status, &[], "")),
            Reply::Headers(status, headers) => return Ok(response(status, headers, "")),
            Reply::Body(status, body) => return Ok(response(status, &[], body)),
            Reply::Lost(failure) => return Err(failure),
            Reply::Hangs => {
                self.accepted.lock().unwrap().extend(names);
                std::future::pending::<()>().await;
                unreachable!()
            }
            Reply::Ordinary => {}
        }
        if self.plain_bytes_max.lock().unwrap().is_some_and(|max| plain.len() > max) {
            return Ok(response(413, &[("x-ms-error-code", "ContentLengthLimitExceeded")], ""));
        }
        let bad = *self.bad.lock().unwrap();
        if bad.is_some_and(|bad| names.iter().any(|name| bad(name))) {
            return Ok(response(400, &[], r#"{"error":{"code":"InvalidPayload","message":"a row is bad"}}"#));
        }
        self.accepted.lock().unwrap().extend(names);
        Ok(response(204, &[], ""))
    }
}

impl Azure {
    fn refuses(&self, bad: Bad) {
        *self.bad.lock().unwrap() = Some(bad);
    }

    fn is_repaired(&self) {
        *self.bad.lock().unwrap() = None;
    }

    fn replies(&self, replies: &[Reply]) {
        self.script.lock().unwrap().extend(replies.iter().cloned());
    }

    fn accepted(&self) -> Vec<String> {
        let mut names = self.accepted.lock().unwrap().clone();
        names.sort();
        names
    }

    fn take_requests(&self) -> Vec<usize> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// A token service in memory: gives `token-1`, `token-2`, …, or what is scripted.
#[derive(Default)]
pub(super) struct Entra {
    pub(super) script: Mutex<VecDeque<Result<(u16, String), Failure>>>,
    pub(super) down: Mutex<bool>,
    pub(super) asked: Mutex<u32>,
    pub(super) bodies: Mutex<Vec<(String, String)>>,
}

pub(super) const TOKEN_SECONDS: u64 = 3600;

#[async_trait]
impl Transport for Entra {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let number = {
            let mut asked = self.asked.lock().unwrap();
            *asked += 1;
            *asked
        };
        self.bodies.lock().unwrap().push((request.url, String::from_utf8(request.body.to_vec()).unwrap()));
        tokio::task::yield_now().await;
        if *self.down.lock().unwrap() {
            return Err(Failure::Connection("refused".into()));
        }
        let (status, body) = match self.script.lock().unwrap().pop_front() {
            Some(reply) => reply?,
            None => (
                200,
                format!(
                    r#"{{"token_type":"Bearer","expires_in":{TOKEN_SECONDS},"access_token":"token-{number}"}}"#
                ),
            ),
        };
        Ok(response(status, &[], &body))
    }
}

pub(super) fn secret_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

pub(super) fn settings(secret: &std::path::Path) -> SentinelSettings {
    SentinelSettings {
        endpoint: "https://ingest.example".into(),
        rule_id: "dcr-1".into(),
        stream: "Custom-PulumiAuditLogs_CL".into(),
        columns: Columns::Extended,
        raw_event: false,
        heartbeat: None,
        authority: "https://login.example".into(),
        scope: "https://monitor.azure.com/.default".into(),
        identity: AzureIdentity::ClientSecret {
            tenant_id: "tenant-1".into(),
            client_id: "client-1".into(),
            secret: SecretSource { place: Place::File(secret.to_owned()), group_may_read: false },
            next_secret: None,
        },
        route: Route::default(),
    }
}

struct Bench {
    azure: Arc<Azure>,
    entra: Arc<Entra>,
    metrics: Metrics,
    secret: tempfile::NamedTempFile,
    sentinel: Sentinel,
    chunks: Vec<Chunk>,
}

#[async_trait]
impl Backlog for Vec<Chunk> {
    async fn after(&self, number: u64) -> Option<Chunk> {
        self.iter().find(|chunk| chunk.number == number + 1).cloned()
    }
    async fn chunk(&self, number: u64) -> Option<Chunk> {
        self.iter().find(|chunk| chunk.number == number).cloned()
    }
}

impl Bench {
    /// A journal whose chunks have so many events each, described `chunk/event`.
    fn new(sizes: &[usize]) -> Bench {
        Bench::with(sizes, Vec::new(), |_| {})
    }

    fn with(sizes: &[usize], provisional: Vec<Refusal>, change: fn(&mut SentinelSettings)) -> Bench {
        let secret = secret_file("first-secret\n");
        let mut settings = settings(secret.path());
        change(&mut settings);
        let (azure, entra) = (Arc::<Azure>::default(), Arc::<Entra>::default());
        let clock = Clock::simulated(AT);
        let credential = Credential::new(
            &settings,
            Arc::clone(&entra) as Arc<dyn Transport>,
            Environments::default(),
            clock.clone(),
        );
        let metrics = Metrics::new("0", "none");
        let org = metrics.org(&OrgId::new("acme").unwrap(), &[DestinationName::Sentinel]);
        let sentinel = Sentinel::new(
            &settings,
            Arc::clone(&azure) as Arc<dyn Transport>,
            credential,
            clock,
            org,
            provisional,
        );
        let chunks = sizes.iter().enumerate().map(|(number, size)| {
            let events = (0..*size).map(|event| format!("{number}/{event:04}")).collect::<Vec<_>>();
            chunk(number as u64, &events, "")
        });
        Bench { azure, entra, metrics, secret, sentinel, chunks: chunks.collect() }
    }

    async fn deliver(&mut self, number: usize) -> Answer {
        self.sentinel.deliver(&self.chunks[number], &self.chunks).await
    }

    async fn durable(&mut self, number: usize) -> Receipt {
        match self.deliver(number).await {
            Answer::Durable(receipt) => receipt,
            other => panic!("{other:?}"),
        }
    }

    async fn paused(&mut self, number: usize) -> Problem {
        match self.deliver(number).await {
            Answer::Paused(problem) => problem,
            other => panic!("{other:?}"),
        }
    }
}

fn chunk(number: u64, descriptions: &[String], padding: &str) -> Chunk {
    let events = descriptions.iter().enumerate().map(|(ordinal, text)| {
        let raw = serde_json::json!({
            "timestamp": AT.0, "event": "stack-deleted", "description": text, "padding": padding
        });
        let event = Event {
            raw: Bytes::from(raw.to_string()),
            at: Some(AT),
            identity: Identity([u8::try_from(number).unwrap(); 32]),
            payload: Payload([0; 32]),
            kind: "stack-deleted".into(),
            odd: Default::default(),
        };
        NewEvent { key: EventKey::new(&event.identity, ordinal as u64), event }
    });
    let summary = Summary {
        start: None,
        coverage: Vec::new(),
        checkpoints: Default::default(),
        instance: "test".into(),
        forwarder: "test".into(),
        audit: None,
    };
    let cut = Cut {
        id: &OrgId::new("acme").unwrap(),
        org: "acme-corp",
        mode: Mode::Live,
        window: Window::new(AT, AT + 1),
        packing: Packing::Stored,
        next: number,
        link: Link::FIRST,
        before: summary.clone(),
        after: summary,
    };
    cut.chunks(events.collect()).remove(0)
}

fn names(chunk: usize, events: Range<usize>) -> Vec<String> {
    events.map(|event| format!("{chunk}/{event:04}")).collect()
}

fn rows_of(refusals: &[Refusal]) -> Vec<(u64, u32, bool)> {
    refusals.iter().map(|refusal| (refusal.at.chunk, refusal.at.row, refusal.provisional)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_one_request_and_its_receipt_says_what_arrived() {
    let mut bench = Bench::new(&[CHUNK_EVENTS_MAX]);
    let receipt = bench.durable(0).await;
    assert_eq!(bench.azure.take_requests(), [CHUNK_EVENTS_MAX]);
    assert_eq!(bench.azure.accepted(), names(0, 0..CHUNK_EVENTS_MAX));
    assert_eq!((receipt.status, receipt.rows, receipt.reference.as_str()), (204, 1000, "request-1"));
    assert!(receipt.bytes > 0 && receipt.quarantined.is_empty() && !receipt.confirms);
    assert_eq!(bench.durable(0).await, receipt, "asked again, it sends nothing and says the same");
    assert_eq!(bench.azure.take_requests(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_bad_row_is_found_with_few_questions_wherever_it_is() {
    for size in [1_usize, 2, 3, 7, 8, 100, 500] {
        for bad in (0..size).step_by(size.div_ceil(12)) {
            let mut bench = Bench::new(&[size]);
            bench.chunks[0] = {
                let mut events = names(0, 0..size);
                events[bad] = "bad".into();
                chunk(0, &events, "")
            };
            bench.azure.refuses(|name| name == "bad");
            let receipt = bench.durable(0).await;
            assert_eq!(bench.azure.accepted().len(), size - 1);
            assert_eq!(receipt.rows as usize, size - 1);
            // The last row may have no accepted row after it.
            let provisional = receipt.quarantined[0].provisional;
            assert!(!provisional || bad + 1 == size);
            assert_eq!(rows_of(&receipt.quarantined), [(0, bad as u32, provisional)]);
            assert_eq!(receipt.quarantined[0].reason, QuarantineReason::Refused);
            assert_eq!(receipt.quarantined[0].key, EventKey::new(&Identity([0; 32]), bad as u64).as_str());
            let extra = bench.azure.take_requests().len() - 1;
            assert!(extra as f64 <= 2.0 * (size as f64).log2(), "{extra} questions for row {bad} of {size}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_table_pauses_the_lane_and_leaves_nothing_behind_once_repaired() {
    let mut bench = Bench::new(&[1, 1, 500, 2]);
    bench.azure.refuses(|_| true);
    for number in [0, 1] {
        let receipt = bench.durable(number).await;
        assert_eq!(rows_of(&receipt.quarantined), [(number as u64, 0, true)]);
        assert!(!receipt.confirms);
    }
    let problem = bench.paused(2).await;
    assert_eq!(problem.reason, PauseReason::Configuration);
    assert!(problem.remedy.contains("Custom-PulumiAuditLogs_CL") && problem.remedy.contains("dcr-1"));
    assert!(!problem.cause.contains("a row is bad"), "what Azure says of a row stays in the quarantine");
    bench.azure.take_requests();
    bench.paused(2).await;
    assert_eq!(bench.azure.take_requests(), [1, 1], "the oldest refused row, and one from elsewhere");

    bench.azure.is_repaired();
    let receipt = bench.durable(2).await;
    assert_eq!(receipt.released, [RowId { chunk: 0, row: 0 }, RowId { chunk: 1, row: 0 }]);
    assert_eq!(receipt.quarantined, []);
    bench.durable(3).await;
    let all = [names(0, 0..1), names(1, 0..1), names(2, 0..500), names(3, 0..2)].concat();
    assert_eq!(bench.azure.accepted(), all, "everything, once");
}

#[tokio::test(start_paused = true)]
async fn a_table_broken_for_one_row_only_leaves_nothing_behind_either() {
    let mut bench = Bench::new(&[1, 3]);
    bench.azure.refuses(|_| true);
    bench.durable(0).await;
    bench.azure.is_repaired();
    let receipt = bench.durable(1).await;
    assert_eq!(receipt.released, [RowId { chunk: 0, row: 0 }]);
    assert_eq!(bench.azure.accepted(), [names(0, 0..1), names(1, 0..3)].concat());
}

#[tokio::test(start_paused = true)]
async fn three_bad_rows_stay_quarantined_once_one_from_elsewhere_is_accepted() {
    let mut bench = Bench::new(&[3, 4, 2]);
    bench.azure.refuses(|name| name.starts_with("0/"));
    bench.paused(0).await;
    let receipt = bench.durable(0).await;
    assert_eq!(rows_of(&receipt.quarantined), [(0, 0, false), (0, 1, false), (0, 2, false)]);
    assert_eq!(bench.azure.accepted().len(), 1, "one of the next chunk");
    let receipt = bench.durable(1).await;
    assert_eq!((receipt.rows, receipt.confirms), (4, false));
    bench.durable(2).await;
    assert_eq!(bench.azure.accepted(), [names(1, 0..4), names(2, 0..2)].concat(), "none of them twice");
}

#[tokio::test(start_paused = true)]
async fn bad_rows_of_earlier_chunks_are_confirmed_in_the_journal() {
    let mut bench = Bench::new(&[1, 1, 5]);
    bench.azure.refuses(|name| !name.starts_with("2/000") || name == "2/0000");
    bench.durable(0).await;
    bench.durable(1).await;
    bench.paused(2).await;
    let receipt = bench.durable(2).await;
    assert!(receipt.confirms);
    assert_eq!(receipt.released, []);
    assert_eq!(rows_of(&receipt.quarantined), [(2, 0, false)]);
    assert_eq!(bench.azure.accepted(), names(2, 1..5));
}

#[tokio::test(start_paused = true)]
async fn provisional_refusals_of_an_earlier_run_count() {
    let refusal = |chunk: u64, provisional: bool| Refusal {
        at: RowId { chunk, row: 0 },
        key: "k".into(),
        reason: QuarantineReason::Refused,
        detail: String::new(),
        provisional,
    };
    let earlier = vec![refusal(1, true), refusal(0, true), refusal(5, false)];
    let mut bench = Bench::with(&[1, 1, 2], earlier, |_| {});
    bench.azure.refuses(|_| true);
    bench.paused(2).await;
    assert_eq!(bench.azure.take_requests(), [2, 1], "the third refusal in a row");
    bench.azure.is_repaired();
    let receipt = bench.durable(2).await;
    assert_eq!(receipt.released.len(), 2);
    assert_eq!(bench.azure.accepted().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_refused_rows_alone_waits_for_others() {
    let mut bench = Bench::new(&[3]);
    bench.azure.refuses(|name| name.starts_with("0/"));
    for _ in 0..3 {
        bench.paused(0).await;
    }
    bench.chunks.push(chunk(1, &names(1, 0..1), ""));
    assert_eq!(bench.durable(0).await.quarantined.len(), 3);
    assert_eq!(bench.durable(1).await.rows, 1);
    assert_eq!(bench.azure.accepted(), names(1, 0..1));
}

#[tokio::test(start_paused = true)]
async fn a_try_after_a_lost_answer_sends_only_what_is_left() {
    let mut bench = Bench::with(&[], Vec::new(), |settings| settings.raw_event = true);
    let padding = "p".repeat(1100);
    bench.chunks = vec![chunk(0, &names(0, 0..430), &padding)];
    let Some(rows) = Rows::of(&bench.chunks[0], &bench.sentinel.columns).ok() else { panic!() };
    // Smaller bodies, so that there are several.
    bench.sentinel.body_bytes_max = 200_000;
    let bodies = rows.packed(200_000).len();
    assert!(bodies > 2);
    let lost = Failure::Timeout(Duration::from_secs(60));
    bench.azure.replies(&[Reply::Ordinary, Reply::Lost(lost), Reply::Status(503)]);
    assert!(matches!(bench.deliver(0).await, Answer::Ambiguous(_)));
    assert!(matches!(bench.deliver(0).await, Answer::Ambiguous(_)));
    let receipt = bench.durable(0).await;
    assert_eq!(receipt.rows, 430);
    assert_eq!(bench.azure.accepted(), names(0, 0..430), "each once");
    assert_eq!(bench.azure.take_requests().len(), bodies + 2);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_dropped_loses_nothing() {
    let mut bench = Bench::new(&[4]);
    bench.azure.refuses(|name| name == "0/0001");
    bench.azure.replies(&[Reply::Ordinary, Reply::Ordinary, Reply::Hangs]);
    let dropped = tokio::time::timeout(Duration::from_secs(1), bench.deliver(0)).await;
    assert!(dropped.is_err());
    let receipt = bench.durable(0).await;
    assert_eq!(receipt.rows, 3);
    let mut accepted = bench.azure.accepted();
    accepted.dedup();
    assert_eq!(accepted, ["0/0000", "0/0002", "0/0003"]);
}

#[tokio::test(start_paused = true)]
async fn a_lower_limit_is_found_and_remembered() {
    let mut bench = Bench::new(&[400, 400]);
    *bench.azure.plain_bytes_max.lock().unwrap() = Some(100_000);
    assert_eq!(bench.durable(0).await.rows, 400);
    let first = bench.azure.take_requests().len();
    assert_eq!(bench.durable(1).await.rows, 400);
    assert!(bench.azure.take_requests().len() < first);
    assert_eq!(bench.azure.accepted(), [names(0, 0..400), names(1, 0..400)].concat());

    let mut bench = Bench::new(&[1, 1]);
    *bench.azure.plain_bytes_max.lock().unwrap() = Some(10);
    let receipt = bench.durable(0).await;
    assert_eq!(receipt.quarantined[0].reason, QuarantineReason::TooLarge);
    assert!(receipt.quarantined[0].provisional);
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_its_consequence() {
    const DATE: &[(&str, &str)] =
        &[("retry-after", "Sat, 21 Nov 2026 10:15:30 GMT"), ("date", "Sat, 21 Nov 2026 10:15:00 GMT")];
    let throttled = |answer: &Answer, seconds: Option<u64>| matches!(answer, Answer::Throttled { wait, .. } if *wait == seconds.map(Duration::from_secs));
    let paused = |answer: &Answer, reason: PauseReason| matches!(answer, Answer::Paused(problem) if problem.reason == reason);
    type Check<'a> = &'a dyn Fn(&Answer) -> bool;
    let table: [(Reply, Check<'_>); 16] = [
        (Reply::Status(200), &|a| matches!(a, Answer::Durable(r) if r.status == 200)),
        (Reply::Status(202), &|a| matches!(a, Answer::Durable(r) if r.status == 202)),
        (Reply::Status(408), &|a| matches!(a, Answer::Ambiguous(_))),
        (Reply::Status(500), &|a| matches!(a, Answer::Ambiguous(_))),
        (Reply::Status(503), &|a| matches!(a, Answer::Ambiguous(_))),
        (Reply::Lost(Failure::Connection("reset".into())), &|a| matches!(a, Answer::Ambiguous(_))),
        (Reply::Headers(503, &[("retry-after", "5")]), &|a| throttled(a, Some(5))),
        (Reply::Headers(429, &[("retry-after", "7200")]), &|a| throttled(a, Some(3600))),
        (Reply::Headers(429, DATE), &|a| throttled(a, Some(30))),
        (Reply::Status(429), &|a| throttled(a, None)),
        (Reply::Status(403), &|a| paused(a, PauseReason::Permission)),
        (Reply::Status(404), &|a| paused(a, PauseReason::Configuration)),
        (Reply::Body(400, r#"{"error":{"code":"InvalidStream"}}"#), &|a| {
            paused(a, PauseReason::Configuration)
        }),
        (Reply::Status(307), &|a| paused(a, PauseReason::Configuration)),
        (Reply::Status(418), &|a| paused(a, PauseReason::Configuration)),
        (Reply::Lost(Failure::Untrusted("x".into())), &|a| paused(a, PauseReason::Configuration)),
    ];
    for (reply, right) in table {
        let mut bench = Bench::new(&[3]);
        bench.azure.replies(&[reply]);
        let answer = bench.deliver(0).await;
        assert!(right(&answer), "{answer:?}");
        assert_eq!(bench.azure.take_requests(), [3], "one question, whatever it answers");
        if !matches!(answer, Answer::Durable(_)) {
            assert_eq!(bench.durable(0).await.rows, 3);
            assert_eq!(bench.azure.accepted(), names(0, 0..3));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_costs_one_more_question_and_a_refused_one_pauses() {
    let mut bench = Bench::new(&[2, 2]);
    bench.azure.replies(&[Reply::Status(401)]);
    assert_eq!(bench.durable(0).await.rows, 2);
    assert_eq!(*bench.azure.tokens.lock().unwrap(), ["Bearer token-1", "Bearer token-2"]);

    bench.azure.replies(&[Reply::Status(401), Reply::Status(401), Reply::Status(401)]);
    bench.azure.take_requests();
    let problem = bench.paused(1).await;
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert!(problem.remedy.contains("client-1"));
    assert_eq!(bench.azure.take_requests().len(), 2);
    bench.paused(1).await;
    assert_eq!(bench.azure.take_requests().len(), 1, "in a pause one question a try, with a new token");
    assert_eq!(*bench.entra.asked.lock().unwrap(), 4);
    assert_eq!(bench.durable(1).await.rows, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_secret_pauses_until_another_is_there() {
    let mut bench = Bench::new(&[2]);
    assert!(!bench.sentinel.secret_changed().await);
    let refusal = r#"{"error":"invalid_client","error_description":"AADSTS7000215: first-secret","error_codes":[7000215]}"#;
    bench.entra.script.lock().unwrap().push_back(Ok((401, refusal.into())));
    let problem = bench.paused(0).await;
    assert_eq!(problem.reason, PauseReason::Credentials);
    for part in ["client-1", "tenant-1", &bench.secret.path().display().to_string()] {
        assert!(problem.remedy.contains(part), "{}", problem.remedy);
    }
    assert!(problem.cause.contains("AADSTS7000215") && !problem.cause.contains("first-secret"));
    assert!(!bench.sentinel.secret_changed().await);
    std::fs::write(bench.secret.path(), "second-secret\n").unwrap();
    assert!(bench.sentinel.secret_changed().await);
    assert_eq!(bench.durable(0).await.rows, 2);
    assert!(!bench.sentinel.secret_changed().await);
    let bodies = bench.entra.bodies.lock().unwrap();
    assert!(bodies[0].1.contains("first-secret") && bodies[1].1.contains("second-secret"));
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_rows_are_quarantined_beside_the_others() {
    let mut bench = Bench::new(&[]);
    let mut timeless = chunk(0, &["x".into()], "");
    let line = String::from_utf8(timeless.lines().unwrap()).unwrap();
    let line = line.replace("\"2026-11-21T10:15:00Z\"", "null").replace("stack-deleted", "Odd Thing");
    let lines = format!("{line}{}", line.replace("null", "\"2026-11-21T10:15:00Z\""));
    timeless.sha256 =
        sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &lines))
            .into();
    timeless.body = crate::chunk::gzip(lines.as_bytes(), 6);
    bench.chunks = vec![timeless];
    let receipt = bench.durable(0).await;
    assert_eq!(receipt.rows, 1);
    assert_eq!(rows_of(&receipt.quarantined), [(0, 0, false)]);
    assert_eq!(receipt.quarantined[0].reason, QuarantineReason::ImplausibleTime);
    let counted = "schema_anomalies_total{kind=\"unknown_event\",org=\"acme\"} 1\n";
    assert!(bench.metrics.page().collect::<String>().contains(counted));
    bench.durable(0).await;
    assert!(bench.metrics.page().collect::<String>().contains(counted), "counted once");
}

#[tokio::test(start_paused = true)]
async fn a_damaged_chunk_is_never_sent() {
    let mut bench = Bench::new(&[2]);
    bench.chunks[0].sha256[0] ^= 1;
    assert_eq!(bench.paused(0).await.reason, PauseReason::Disk);
    assert_eq!(bench.azure.take_requests(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_check_writes_nothing_and_says_what_is_wrong() {
    let mut bench = Bench::new(&[]);
    let how = How { write_probe: true, clock: Clock::simulated(Second(0)) };
    let rows = async |bench: &mut Bench| {
        let [token, rows] = <[Trial; 2]>::try_from(bench.sentinel.check(&how).await).unwrap();
        assert!(matches!(token.outcome, Outcome::Ok(_)), "{token:?}");
        rows.outcome
    };
    let Outcome::Ok(found) = rows(&mut bench).await else { panic!() };
    assert!(found.contains("Custom-PulumiAuditLogs_CL"), "{found}");
    assert_eq!(bench.azure.take_requests(), [0], "an empty array, and nothing more for a write probe");
    bench.azure.replies(&[Reply::Status(403), Reply::Status(400), Reply::Status(500), Reply::Status(429)]);
    let Outcome::Failed(problem) = rows(&mut bench).await else { panic!() };
    assert_eq!(problem.reason, PauseReason::Permission);
    let refused = rows(&mut bench).await;
    assert!(
        matches!(refused, Outcome::Ok(_)),
        "reachable and permitted, though the empty array is not taken"
    );
    let Outcome::Unreachable { cause, .. } = rows(&mut bench).await else { panic!() };
    assert!(cause.contains("500"), "{cause}");
    assert!(matches!(rows(&mut bench).await, Outcome::Unreachable { .. }), "throttled is no mistake");
}
