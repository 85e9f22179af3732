//! Azure's Logs Ingestion endpoint: checks in the real order, answers with the recorded headers, and a table without any notion of
//! a row being there already.

pub mod rows;

use std::collections::BTreeMap;
use std::future::ready;
use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{Method, Request, Response};
use serde_json::json;

use super::chance::Chance;
use super::clock::{WorldClock, http_date};
use super::entra::TokenBook;
use super::ledger::{self, Ledger};
use super::query;
use super::script::{Script, Times};
use super::server::{Answering, Service};
use super::verdict::{Cut, RetryAfter, Verdict, html, respond, with_header};
use rows::{Row, Transform, Type};

const CONTENT_MAX: usize = 1_048_576;
const AUDIENCES: [&str; 3] =
    ["https://monitor.azure.com", "https://monitor.azure.us", "https://monitor.azure.cn"];
const ROLE_MISSING: &str = "The authentication token provided does not have access to ingest data for the data collection rule with immutable Id '{rule}' PipelineAccessResult: AccessGranted: False, IsRbacPresent: False, IsDcrDceBindingValid: , DcrArmId: /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/audit/providers/Microsoft.Insights/dataCollectionRules/{rule}, Message: Required authorization action was not found for tenantId 11111111-1111-1111-1111-111111111111 objectId 22222222-2222-2222-2222-222222222222 on resourceId ConfigurationId: {rule}.";

pub type Columns = Vec<(String, Type)>;

/// The stream of our rows' columns, declared by whoever follows the documentation.
pub const TABLE_STREAM: &str = "Custom-PulumiAuditLogs_CL";
/// A stream for heartbeats; no rule has it unless it is declared.
pub const HEARTBEAT_STREAM: &str = "Custom-PulumiAuditHeartbeat_CL";
/// The stream of Pulumi's own rule, which makes columns of the fields that its poller sends.
pub const CONNECTOR_STREAM: &str = "Custom-PulumiAuditLogs";

/// How much of what arrives is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    Rows,
    /// Only how many: for benchmarks, where the table would cost more than the forwarder.
    Counts,
}

#[derive(Debug, Clone)]
pub enum Fault {
    /// Stored, and the answer never comes.
    AnswerLost(Cut),
    /// Stored, and the answer comes late.
    AnswerLate(Duration),
    /// Nothing stored.
    Status {
        status: u16,
        code: &'static str,
        retry_after: RetryAfter,
    },
    Html(u16),
    Redirect(String),
    /// The connection ends while the body is still coming; nothing stored.
    WhileReceiving(Cut),
    /// Nothing stored, nothing answered.
    Stall,
    /// An error body that comes in drops; nothing stored.
    Drip {
        status: u16,
        every: Duration,
    },
    /// Stored, and answered with this success in place of 204.
    Success(u16),
    /// 401 whatever the token.
    Unauthorized,
}

impl Fault {
    pub fn status(status: u16) -> Self {
        Self::Status { status, code: "", retry_after: RetryAfter::Seconds(0) }
    }

    pub fn throttled(retry_after: RetryAfter) -> Self {
        Self::Status { status: 429, code: "TooManyRequests", retry_after }
    }

    pub fn unavailable() -> Self {
        Self::Status { status: 503, code: "ServiceUnavailable", retry_after: RetryAfter::Seconds(0) }
    }
}

type Refuses = Arc<dyn Fn(&str) -> bool + Send + Sync>;

pub struct Ingestion {
    state: Mutex<State>,
    pub ledger: Ledger,
    book: TokenBook,
    clock: WorldClock,
}

struct State {
    rules: BTreeMap<String, Rule>,
    faults: Script<Option<String>, Fault>,
    refuses: Option<Refuses>,
    content_max: usize,
    plain_max: Option<usize>,
    requests_per_minute: Option<u64>,
    keep: Keep,
    table: Vec<Arc<Row>>,
    accepted: BTreeMap<String, u64>,
    dropped_columns: BTreeMap<String, u64>,
    errors: Vec<String>,
    stored_requests: u64,
    chance: Chance,
}

#[derive(Debug, Clone)]
struct Rule {
    streams: BTreeMap<String, Stream>,
    denied: bool,
    role_from: i64,
    minute: i64,
    in_minute: u64,
}

#[derive(Debug, Clone)]
struct Stream {
    columns: Columns,
    /// What the rule makes of a row before it is stored; nothing where it takes rows as they are.
    transform: Option<Transform>,
}

impl Ingestion {
    pub fn new(clock: WorldClock, book: TokenBook, seed: u64) -> Self {
        let state = State {
            rules: BTreeMap::new(),
            faults: Script::default(),
            refuses: None,
            content_max: CONTENT_MAX,
            plain_max: None,
            requests_per_minute: None,
            keep: Keep::Rows,
            table: Vec::new(),
            accepted: BTreeMap::new(),
            dropped_columns: BTreeMap::new(),
            errors: Vec::new(),
            stored_requests: 0,
            chance: Chance::seeded(seed ^ 0x69_6e_67),
        };
        Self { state: Mutex::new(state), ledger: Ledger::default(), book, clock }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the table")
    }

    /// A data collection rule with the streams that the forwarder and Pulumi's own connector use.
    pub fn create_rule(&self, rule: &str) {
        let connector = Stream { columns: connector_columns(), transform: Some(rows::connector_transform) };
        let streams = BTreeMap::from([
            (TABLE_STREAM.to_owned(), Stream { columns: table_columns(), transform: None }),
            (CONNECTOR_STREAM.to_owned(), connector),
        ]);
        self.state().rules.insert(
            rule.to_owned(),
            Rule { streams, denied: false, role_from: i64::MIN, minute: i64::MIN, in_minute: 0 },
        );
    }

    pub fn delete_rule(&self, rule: &str) {
        self.state().rules.remove(rule);
    }

    /// Declares a stream that is stored as it is, or changes what is declared. No columns: takes the stream away.
    pub fn declare_stream(&self, rule: &str, stream: &str, columns: Columns) {
        let mut state = self.state();
        let streams = &mut state.rules.get_mut(rule).expect("the rule exists").streams;
        match columns.is_empty() {
            true => streams.remove(stream),
            false => streams.insert(stream.to_owned(), Stream { columns, transform: None }),
        };
    }

    /// The identity loses its role on every rule.
    pub fn denies_the_role(&self) {
        self.state().rules.values_mut().for_each(|rule| rule.denied = true);
    }

    pub fn grants_the_role(&self) {
        self.state().rules.values_mut().for_each(|rule| (rule.denied, rule.role_from) = (false, i64::MIN));
    }

    /// The role was granted, and works from this second on.
    pub fn role_arrives_at(&self, second: i64) {
        self.state().rules.values_mut().for_each(|rule| (rule.denied, rule.role_from) = (false, second));
    }

    /// The next requests, for any rule, meet this fault.
    pub fn fault(&self, fault: Fault, times: Times) {
        self.state().faults.push(None, fault, times);
    }

    /// The same for one rule.
    pub fn fault_on(&self, rule: &str, fault: Fault, times: Times) {
        self.state().faults.push(Some(rule.to_owned()), fault, times);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear(|_| true);
    }

    /// A body with such a row (its JSON text) is refused whole with 400.
    pub fn refuse_rows(&self, refuses: impl Fn(&str) -> bool + Send + Sync + 'static) {
        self.state().refuses = Some(Arc::new(refuses));
    }

    pub fn accept_all_rows(&self) {
        self.state().refuses = None;
    }

    /// Another limit than 1 MiB on the bytes as sent, and one on the bytes unpacked.
    pub fn limit(&self, content_max: usize, plain_max: Option<usize>) {
        let mut state = self.state();
        (state.content_max, state.plain_max) = (content_max, plain_max);
    }

    pub fn limit_requests_per_minute(&self, requests: Option<u64>) {
        self.state().requests_per_minute = requests;
    }

    pub fn keep(&self, keep: Keep) {
        self.state().keep = keep;
    }

    pub fn all_rows(&self) -> Vec<Row> {
        self.state().table.iter().map(|row| Row::clone(row)).collect()
    }

    /// What one rule's sender has stored, duplicates included.
    pub fn rows_of_rule(&self, rule: &str) -> Vec<Row> {
        self.shared_rows_of_rule(rule).iter().map(|row| Row::clone(row)).collect()
    }

    /// The same rows without copies of them: a row in the table never changes. Heartbeats are rows of another table.
    pub fn shared_rows_of_rule(&self, rule: &str) -> Vec<Arc<Row>> {
        let state = self.state();
        state.table.iter().filter(|row| row.rule == rule && row.stream != HEARTBEAT_STREAM).cloned().collect()
    }

    pub fn rows_by_stream(&self, stream: &str) -> Vec<Row> {
        let state = self.state();
        state.table.iter().filter(|row| row.stream == stream).map(|row| Row::clone(row)).collect()
    }

    /// Requests that stored rows so far; the newest one's rows carry this number.
    pub fn stored_requests(&self) -> u64 {
        self.state().stored_requests
    }

    /// Rows accepted for a rule so far, also when only counts are kept.
    pub fn accepted(&self, rule: &str) -> u64 {
        self.state().accepted.get(rule).copied().unwrap_or_default()
    }

    /// Fields that no stream declares, and how often each was dropped without a word.
    pub fn dropped_columns(&self) -> BTreeMap<String, u64> {
        self.state().dropped_columns.clone()
    }

    /// What the diagnostic table says of bodies that vanished after a 204.
    pub fn errors(&self) -> Vec<String> {
        self.state().errors.clone()
    }

    pub fn answer(&self, request: Request<Bytes>) -> Verdict {
        let (head, body) = request.into_parts();
        let now = self.clock.now();
        let segments = query::segments(head.uri.path());
        let (rule, stream) = match &segments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["dataCollectionRules", rule, "streams", stream] => ((*rule).to_owned(), (*stream).to_owned()),
            _ => (String::new(), String::new()),
        };
        let mut entry = ledger::entry(now, &head, body.len(), &rule);
        // Unpacking is the dear part, and needs no lock.
        let plain = unpack(&head, &body);
        entry.plain_bytes = plain.as_ref().map_or(0, |plain| plain.len());
        let mut state = self.state();
        let before = state.stored_requests;
        let mut verdict = self.decide(&mut state, &head, &rule, &stream, &body, plain.as_deref(), now);
        entry.done = state.stored_requests > before;
        let (request_id, own_id) = (state.chance.uuid(), state.chance.uuid());
        drop(state);
        verdict.response = verdict.response.map(|response| {
            let client_id =
                head.headers.get("x-ms-client-request-id").and_then(|id| id.to_str().ok()).unwrap_or(&own_id);
            dress(response, &request_id, client_id, now)
        });
        entry.status = verdict.status().filter(|_| verdict.cut.is_none());
        self.ledger.write(entry);
        verdict
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the request, and there is one caller")]
    fn decide(
        &self,
        state: &mut State,
        head: &Parts,
        rule: &str,
        stream: &str,
        body: &Bytes,
        plain: Option<&[u8]>,
        now: i64,
    ) -> Verdict {
        let fault = state.faults.strike(|scope, fault| {
            scope.as_deref().is_none_or(|scope| scope == rule) && !matches!(fault, Fault::WhileReceiving(_))
        });
        match &fault {
            Some(Fault::Status { status, code, retry_after }) => {
                return Verdict::answer(
                    retry_after.on(problem(*status, code, "The simulated service refuses."), now),
                );
            }
            Some(Fault::Html(status)) => return Verdict::answer(html(*status, "Bad Gateway")),
            Some(Fault::Redirect(to)) => {
                return Verdict::answer(with_header(respond(307, "", Bytes::new()), "location", to));
            }
            Some(Fault::Stall) => return Verdict::hang_up().after(Duration::MAX),
            Some(Fault::Drip { status, every }) => {
                let mut verdict =
                    Verdict::answer(problem(*status, "Slow", "A long text that comes in drops."));
                verdict.drip = Some((1, *every));
                return verdict;
            }
            Some(Fault::Unauthorized) => return Verdict::answer(unauthorized("")),
            _ => {}
        }
        let refused = self.check(state, head, rule, stream, body, plain, now);
        if let Some(response) = refused {
            return Verdict::answer(response);
        }
        self.store(state, rule, stream, plain.unwrap_or_default(), now);
        let accepted = Verdict::answer(respond(204, "", Bytes::new()));
        match fault {
            Some(Fault::AnswerLost(cut)) => accepted.cut(cut),
            Some(Fault::AnswerLate(delay)) => accepted.after(delay),
            Some(Fault::Success(status)) => Verdict::answer(respond(status, "", Bytes::new())),
            _ => accepted,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "each is one fact of the request, and there is one caller")]
    fn check(
        &self,
        state: &mut State,
        head: &Parts,
        rule: &str,
        stream: &str,
        body: &Bytes,
        plain: Option<&[u8]>,
        now: i64,
    ) -> Option<Response<Bytes>> {
        let header = |name| head.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        if head.method != Method::POST || rule.is_empty() {
            return Some(respond(404, "", Bytes::new()));
        }
        let pairs = query::pairs(head.uri.query().unwrap_or_default());
        if query::value(&pairs, "api-version") != Some("2023-01-01") {
            return Some(problem(
                400,
                "InvalidApiVersion",
                "The api-version query parameter is missing or unknown.",
            ));
        }
        let grant = header(AUTHORIZATION)
            .and_then(|value| value.strip_prefix("Bearer "))
            .and_then(|token| self.book.find(token))
            .filter(|grant| !grant.revoked && grant.expires > now);
        let Some(grant) = grant else { return Some(unauthorized("InvalidAuthenticationToken")) };
        if !AUDIENCES.contains(&grant.audience.as_str()) {
            return Some(unauthorized("InvalidAudience"));
        }
        let per_minute = state.requests_per_minute;
        let Some(known) = state.rules.get_mut(rule) else {
            let text = format!("Data collection rule with immutable Id '{rule}' not found.");
            return Some(problem(404, "NotFound", &text));
        };
        if known.denied || now < known.role_from {
            return Some(problem(403, "OperationFailed", &ROLE_MISSING.replace("{rule}", rule)));
        }
        if !known.streams.contains_key(stream) {
            let text = format!("The stream {stream} was not configured in the data collection rule.");
            return Some(problem(400, "InvalidStream", &text));
        }
        if body.len() > state.content_max {
            let text = format!(
                "Maximum allowed content length: {} bytes (1 MB). Provided content length: {} bytes.",
                state.content_max,
                body.len()
            );
            return Some(problem(413, "ContentLengthLimitExceeded", &text));
        }
        if body.is_empty() {
            return Some(respond(500, "", Bytes::new()));
        }
        if !header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("application/json")) {
            return Some(problem(415, "UnsupportedMediaType", "The content type must be application/json."));
        }
        let Some(plain) = plain else {
            return Some(problem(400, "InvalidContentEncoding", "The body could not be unpacked."));
        };
        if state.plain_max.is_some_and(|max| plain.len() > max) {
            return Some(problem(
                413,
                "ContentLengthLimitExceeded",
                "Maximum allowed content length exceeded after unpacking.",
            ));
        }
        if let Some(limit) = per_minute {
            let minute = now.div_euclid(60);
            if known.minute != minute {
                (known.minute, known.in_minute) = (minute, 0);
            }
            known.in_minute += 1;
            if known.in_minute > limit {
                let wait = RetryAfter::Seconds((60 - now.rem_euclid(60)) as u64);
                return Some(
                    wait.on(problem(429, "TooManyRequests", "Too many requests for this rule."), now),
                );
            }
        }
        if let Some(refuses) = &state.refuses
            && rows::split(plain).is_ok_and(|rows| rows.iter().any(|row| refuses(row.get())))
        {
            return Some(problem(
                400,
                "InvalidPayload",
                "The payload contains a record that cannot be processed.",
            ));
        }
        None
    }

    fn store(&self, state: &mut State, rule: &str, stream: &str, plain: &[u8], now: i64) {
        state.stored_requests += 1;
        if state.keep == Keep::Counts {
            let count = rows::split(plain).map_or(0, |rows| rows.len() as u64);
            *state.accepted.entry(rule.to_owned()).or_default() += count;
            return;
        }
        let Stream { columns, transform } = &state.rules[rule].streams[stream];
        let shaped = rows::shape(plain, columns, *transform, now);
        *state.accepted.entry(rule.to_owned()).or_default() += shaped.rows.len() as u64;
        let request = state.stored_requests;
        state.table.extend(shaped.rows.into_iter().map(|(cells, restamped)| {
            Arc::new(Row {
                request,
                received: now,
                rule: rule.to_owned(),
                stream: stream.to_owned(),
                cells,
                restamped,
            })
        }));
        for (name, count) in shaped.dropped_columns {
            *state.dropped_columns.entry(name).or_default() += count;
        }
        state.errors.extend(shaped.error);
    }
}

impl Service for Ingestion {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering {
        Box::pin(ready(self.answer(request)))
    }

    fn hangs_up_while_receiving(&self, head: &Parts) -> Option<Cut> {
        let fault = self.state().faults.strike(|scope, fault| {
            let about = scope.as_deref().is_none_or(|rule| head.uri.path().contains(rule));
            about && matches!(fault, Fault::WhileReceiving(_))
        });
        let Some(Fault::WhileReceiving(cut)) = fault else { return None };
        let segments = query::segments(head.uri.path());
        let rule = segments.get(1).cloned().unwrap_or_default();
        self.ledger.write(ledger::entry(self.clock.now(), head, 0, &rule));
        Some(cut)
    }
}

/// The fifteen columns of `PulumiAuditLogs_CL`, as Pulumi's own connector makes the table.
pub fn official_columns() -> Columns {
    let text = [
        "SourceIP_s",
        "Event_s",
        "Description_s",
        "UserName_s",
        "UserLogin_s",
        "UserAvatarUrl_s",
        "TokenID_s",
        "TokenName_s",
        "ActorName_s",
        "ActorUrn_s",
    ];
    let mut columns: Columns = text.iter().map(|name| ((*name).to_owned(), Type::Text)).collect();
    let flags = ["RequireOrgAdmin_b", "RequireStackAdmin_b", "AuthFailure_b"];
    columns.extend(flags.iter().map(|name| ((*name).to_owned(), Type::Boolean)));
    columns.push(("TimeGenerated".to_owned(), Type::DateTime));
    columns.push(("Timestamp_d".to_owned(), Type::Long));
    columns
}

/// Those and the forwarder's additions.
pub fn table_columns() -> Columns {
    let mut columns = official_columns();
    let text = ["EventKey_s", "OrgName_s", "OrgId_s", "IngestMode_s"];
    columns.extend(text.iter().map(|name| ((*name).to_owned(), Type::Text)));
    columns.push(("EventTime_t".to_owned(), Type::DateTime));
    columns.push(("Chunk_d".to_owned(), Type::Long));
    columns.push(("RawEvent".to_owned(), Type::Dynamic));
    columns
}

/// The raw field names of the connector's own rule.
pub fn connector_columns() -> Columns {
    let text = ["sourceIP", "event", "description", "tokenID", "tokenName", "actorName", "actorUrn"];
    let mut columns: Columns = text.iter().map(|name| ((*name).to_owned(), Type::Text)).collect();
    let flags = ["reqOrgAdmin", "reqStackAdmin", "authFailure"];
    columns.extend(flags.iter().map(|name| ((*name).to_owned(), Type::Boolean)));
    columns.push(("timestamp".to_owned(), Type::Long));
    columns.push(("user".to_owned(), Type::Dynamic));
    columns
}

fn unpack(head: &Parts, body: &Bytes) -> Option<Bytes> {
    match head.headers.get(CONTENT_ENCODING).map(http::HeaderValue::as_bytes) {
        None => Some(body.clone()),
        Some(b"gzip") => {
            let mut plain = Vec::new();
            MultiGzDecoder::new(&body[..]).take(64 << 20).read_to_end(&mut plain).ok()?;
            Some(plain.into())
        }
        Some(_) => None,
    }
}

fn unauthorized(code: &str) -> Response<Bytes> {
    with_header(
        problem(401, code, "The access token is missing, expired or not valid."),
        "www-authenticate",
        "Bearer",
    )
}

fn problem(status: u16, code: &str, message: &str) -> Response<Bytes> {
    if code.is_empty() {
        return respond(status, "", Bytes::new());
    }
    let body = json!({"error": {"code": code, "message": message}}).to_string();
    with_header(respond(status, "application/json", body), "x-ms-error-code", code)
}

/// The headers that were recorded on every real answer, `Retry-After: 0` among them.
fn dress(mut response: Response<Bytes>, request_id: &str, client_id: &str, now: i64) -> Response<Bytes> {
    let throttled = matches!(response.status().as_u16(), 429 | 503);
    if !throttled && !response.headers().contains_key("retry-after") {
        response = with_header(response, "retry-after", "0");
    }
    for (name, value) in [
        ("server", "Microsoft-HTTPAPI/2.0"),
        ("strict-transport-security", "max-age=31536000; includeSubDomains; preload"),
        ("x-content-type-options", "nosniff"),
        ("x-ms-request-id", request_id),
        ("x-ms-client-request-id", client_id),
        ("date", &http_date(now)),
    ] {
        response = with_header(response, name, value);
    }
    response
}
