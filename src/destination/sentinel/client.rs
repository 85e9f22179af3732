//! The Logs Ingestion API on the wire: one request, and what its answer means.
//!
//! Sends a body once and sorts the answer into a [`Verdict`]; it does not wait, retry, split or hold a token. Everything it passes on
//! of Azure's words is cut and free of the token.
//!
//! *Why our own:* there is no Rust client for this API, and what matters most here, which answers are definitive, is what a
//! general client decides for itself.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::chunk::gzip;
use crate::clock::{Clock, Second};
use crate::event::hex;
use crate::http::{Request, Response, Transport};
use crate::mutant::{self, Mutant};
use crate::problem::{PauseReason, Problem};
use crate::retry::retry_after;
use crate::secret::Secret;

/// The only stable version (learn.microsoft.com, "Logs Ingestion API in Azure Monitor", 2026-09).
const API_VERSION: &str = "2023-01-01";
/// Azure bills plain size and takes what comes in free, so little effort is right.
const GZIP_LEVEL: u32 = 1;
/// For the whole exchange; a body is at most a megabyte before compression.
const DEADLINE: Duration = Duration::from_secs(60);
/// Most bytes of an answer; real ones have a few hundred.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Most characters of Azure's words that are passed on.
const WORDS_CHARACTERS_MAX: usize = 300;

/// What Azure's answer to one body means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Accepted {
        status: u16,
        reference: String,
        /// As sent, compressed.
        bytes: u64,
    },
    /// 401: the token is not taken.
    Unauthorized {
        cause: String,
    },
    /// 400 or 413: perhaps a row's fault.
    Refused {
        status: u16,
        /// Status and code, for people and logs.
        cause: String,
        /// Azure's words as well, which may repeat parts of a row: for the quarantine record only.
        detail: String,
    },
    /// Perhaps taken, perhaps not.
    Ambiguous(String),
    Throttled {
        wait: Option<Duration>,
        cause: String,
    },
    Paused(Problem),
}

/// One stream of one data collection rule.
pub struct Client {
    url: String,
    endpoint: String,
    rule_id: String,
    stream: String,
    /// For remedies: who needs the role. It may become known with the first token.
    identity: Box<dyn Fn() -> String + Send + Sync>,
    transport: Arc<dyn Transport>,
    clock: Clock,
    requests: AtomicU64,
}

impl Client {
    pub fn new(
        endpoint: &str,
        rule_id: &str,
        stream: &str,
        identity: impl Fn() -> String + Send + Sync + 'static,
        transport: Arc<dyn Transport>,
        clock: Clock,
    ) -> Client {
        Client {
            url: format!(
                "{endpoint}/dataCollectionRules/{}/streams/{}?api-version={API_VERSION}",
                percent_encoded(rule_id),
                percent_encoded(stream)
            ),
            endpoint: endpoint.to_owned(),
            rule_id: rule_id.to_owned(),
            stream: stream.to_owned(),
            identity: Box::new(identity),
            transport,
            clock,
            requests: AtomicU64::new(0),
        }
    }

    /// `stream … of rule …`, for messages.
    pub fn target(&self) -> String {
        format!("stream `{}` of rule `{}`", self.stream, self.rule_id)
    }

    /// Sends one plain body, compressed, once.
    pub async fn post(&self, token: &Secret, plain: &[u8]) -> Verdict {
        let Ok(mut authorization) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) else {
            return Verdict::Unauthorized {
                cause: "the access token is not text that a header can hold".into(),
            };
        };
        authorization.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        if let Ok(id) = HeaderValue::from_str(&self.request_id()) {
            headers.insert("x-ms-client-request-id", id);
        }
        let body = gzip(plain, GZIP_LEVEL);
        let bytes = body.len() as u64;
        let request = Request {
            method: Method::POST,
            url: self.url.clone(),
            headers,
            body,
            body_bytes_max: ANSWER_BYTES_MAX,
            deadline: DEADLINE,
        };
        match self.transport.send(request).await {
            Ok(response) => self.verdict(&response, token, bytes),
            Err(failure) => match failure.remedy("sentinel") {
                Some(remedy) => self.configuration(format!("{}: {failure}", self.endpoint), remedy),
                None => Verdict::Ambiguous(failure.to_string()),
            },
        }
    }

    fn verdict(&self, response: &Response, token: &Secret, bytes: u64) -> Verdict {
        let status = response.status;
        let error = Words::of(response, token);
        let cause = error.cause(status);
        match status {
            200 | 202 | 204 if error.code.is_none() && !is_html(response) => {
                let reference = response.header("x-ms-request-id").unwrap_or_default();
                Verdict::Accepted { status, reference: reference.chars().take(100).collect(), bytes }
            }
            // An answer of something in between: nobody knows whether Azure has seen the rows.
            200 | 202 | 204 => Verdict::Ambiguous(format!("{cause}, with a body that is not Azure's")),
            401 if mutant::is(Mutant::DropOn401) => Verdict::Accepted { status, reference: String::new(), bytes },
            413 if mutant::is(Mutant::DropOn413) => Verdict::Accepted { status, reference: String::new(), bytes },
            401 => Verdict::Unauthorized { cause: error.full(status) },
            400 if error.is("InvalidStream") => self.configuration(
                error.full(status),
                format!("declare stream `{}` in rule `{}`, or correct `stream`", self.stream, self.rule_id),
            ),
            400 | 413 => Verdict::Refused { status, cause, detail: error.full(status) },
            403 => Verdict::Paused(Problem {
                reason: PauseReason::Permission,
                cause: error.full(status),
                remedy: format!(
                    "grant {} the role Monitoring Metrics Publisher on data collection rule {}; a new role takes up to 30 minutes. \
                     Where the endpoint allows private links only, this host must reach it through one. Nothing is lost, delivery resumes by itself",
                    (self.identity)(), self.rule_id
                ),
            }),
            404 => self.configuration(
                error.full(status),
                format!(
                    "check `endpoint` ({}) and `rule_id` ({}): the rule's immutable id, and the endpoint of that rule or of its data collection endpoint",
                    self.endpoint, self.rule_id
                ),
            ),
            429 => Verdict::Throttled { wait: wait_asked(response, self.clock.now()), cause },
            503 => match wait_asked(response, self.clock.now()) {
                Some(wait) => Verdict::Throttled { wait: Some(wait), cause },
                None => Verdict::Ambiguous(cause),
            },
            408 | 500..=599 => Verdict::Ambiguous(cause),
            300..=399 => self.configuration(
                format!("{} answered with a redirect ({status}), which is never followed", self.endpoint),
                "set `endpoint` to the logs ingestion endpoint itself, and let no proxy redirect it".into(),
            ),
            _ => self.configuration(
                error.full(status),
                format!("check `endpoint` ({}) and any proxy before it", self.endpoint),
            ),
        }
    }

    fn configuration(&self, cause: String, remedy: String) -> Verdict {
        Verdict::Paused(Problem { reason: PauseReason::Configuration, cause, remedy })
    }

    /// A GUID that is new for every request. From the clock and a count, so that a simulated run repeats exactly.
    fn request_id(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(&self.url);
        hasher.update(self.clock.since_epoch().as_nanos().to_be_bytes());
        hasher.update(self.requests.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        hasher.update(std::process::id().to_be_bytes());
        let text = hex(&hasher.finalize()[..16]);
        // Version 8: made in its maker's own way (RFC 9562, section 5.8).
        format!("{}-{}-8{}-a{}-{}", &text[..8], &text[8..12], &text[13..16], &text[17..20], &text[20..])
    }
}

/// What an error answer says.
struct Words {
    code: Option<String>,
    message: Option<String>,
}

impl Words {
    fn of(response: &Response, token: &Secret) -> Words {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            error: Option<Error<'a>>,
        }
        #[derive(Deserialize)]
        struct Error<'a> {
            #[serde(borrow)]
            code: Option<Cow<'a, str>>,
            #[serde(borrow)]
            message: Option<Cow<'a, str>>,
        }
        let clean = |text: &str| {
            let text = text.replace(token.expose(), "[REDACTED]");
            text.chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .take(WORDS_CHARACTERS_MAX)
                .collect::<String>()
        };
        let error = serde_json::from_slice::<Body<'_>>(&response.body).ok().and_then(|body| body.error);
        let (code, message) = error.map_or((None, None), |error| (error.code, error.message));
        let code = code.or(response.header("x-ms-error-code").map(Cow::Borrowed));
        Words { code: code.map(|code| clean(&code)), message: message.map(|message| clean(&message)) }
    }

    fn is(&self, code: &str) -> bool {
        self.code.as_deref() == Some(code)
    }

    /// Status and code.
    fn cause(&self, status: u16) -> String {
        match &self.code {
            Some(code) => format!("Azure answered {status} {code}"),
            None => format!("Azure answered {status}"),
        }
    }

    /// Status, code and message.
    fn full(&self, status: u16) -> String {
        match &self.message {
            Some(message) => format!("{}: {message}", self.cause(status)),
            None => self.cause(status),
        }
    }
}

fn is_html(response: &Response) -> bool {
    response
        .header("content-type")
        .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/html"))
}

/// The wait that an answer asks for. A date in it is counted from the answer's own, so that a clock that is wrong here does no harm.
pub(super) fn wait_asked(response: &Response, now: Second) -> Option<Duration> {
    let date = response.header("date").and_then(|text| httpdate::parse_http_date(text).ok());
    let since_epoch = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let there = since_epoch.and_then(|since| i64::try_from(since.as_secs()).ok()).map(Second);
    retry_after(response.header("retry-after")?, there.unwrap_or(now))
}

/// Everything but unreserved characters (RFC 3986) is encoded: a stream's name may hold a space.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte))
            }
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// An empty array: shows whether rows would be accepted, and writes nothing.
pub const NO_ROWS: &[u8] = b"[]";

/// Any answer to rows.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    use crate::hostile::given::{CANARY, assert_fit_to_print};

    struct Nobody;

    #[async_trait::async_trait]
    impl Transport for Nobody {
        async fn send(&self, _: Request) -> Result<Response, crate::http::Failure> {
            Err(crate::http::Failure::Connection("nobody".into()))
        }
    }

    for header in ["retry-after", "x-ms-error-code", "content-type", "x-ms-request-id"] {
        let response = crate::hostile::given::response(bytes, header);
        let clock = Clock::simulated(Second(1_795_256_100));
        let client = Client::new("https://x.example", "dcr-1", "s", || "app".into(), Arc::new(Nobody), clock);
        match client.verdict(&response, &Secret::new(CANARY.into()), 1) {
            Verdict::Accepted { status, reference, .. } => {
                assert!(matches!(status, 200 | 202 | 204));
                assert!(reference.chars().count() <= 100);
            }
            Verdict::Unauthorized { cause } | Verdict::Ambiguous(cause) => assert_fit_to_print(&cause),
            Verdict::Refused { cause, detail, .. } => {
                assert_fit_to_print(&cause);
                assert_fit_to_print(&detail);
            }
            Verdict::Throttled { wait, cause } => {
                assert!(wait.is_none_or(|wait| wait <= crate::retry::RETRY_AFTER_MAX));
                assert_fit_to_print(&cause);
            }
            Verdict::Paused(problem) => {
                assert_fit_to_print(&problem.cause);
                assert_fit_to_print(&problem.remedy);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use async_trait::async_trait;
    use bytes::Bytes;

    use super::super::tests::unpacked;
    use super::*;
    use crate::http::Failure;

    const NOW: Second = Second(784_111_777);

    struct Once(Mutex<Option<Result<Response, Failure>>>, Mutex<Option<Request>>);

    #[async_trait]
    impl Transport for Once {
        async fn send(&self, request: Request) -> Result<Response, Failure> {
            *self.1.lock().unwrap() = Some(request);
            self.0.lock().unwrap().take().unwrap()
        }
    }

    fn response(status: u16, headers: &[(&str, &str)], body: &str) -> Response {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(http::HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
        }
        Response { status, headers: map, body: Bytes::copy_from_slice(body.as_bytes()) }
    }

    async fn exchange(answer: Result<Response, Failure>) -> (Verdict, Request) {
        let transport = Arc::new(Once(Mutex::new(Some(answer)), Mutex::new(None)));
        let client = Client::new(
            "https://x.example",
            "dcr-1",
            "Custom-a b",
            || "app `a`".into(),
            Arc::clone(&transport) as Arc<dyn Transport>,
            Clock::simulated(NOW),
        );
        let verdict = client.post(&Secret::new("canary".into()), b"[{}]").await;
        let request = transport.1.lock().unwrap().take().unwrap();
        (verdict, request)
    }

    async fn verdict(status: u16, headers: &[(&str, &str)], body: &str) -> Verdict {
        exchange(Ok(response(status, headers, body))).await.0
    }

    #[tokio::test]
    async fn a_request_is_what_the_service_documents() {
        let (_, request) = exchange(Ok(response(204, &[], ""))).await;
        assert_eq!(request.method, Method::POST);
        assert_eq!(
            request.url,
            "https://x.example/dataCollectionRules/dcr-1/streams/Custom-a%20b?api-version=2023-01-01"
        );
        assert_eq!(request.headers["content-encoding"], "gzip");
        assert_eq!(request.headers["content-type"], "application/json");
        assert!(request.headers["authorization"].is_sensitive());
        assert_eq!(request.headers["x-ms-client-request-id"].len(), 36);
        assert_eq!(unpacked(&request.body), b"[{}]");
        assert!(!format!("{:?}", request.headers).contains("canary"));
    }

    #[tokio::test]
    async fn every_status_has_its_meaning() {
        for status in [200, 202, 204] {
            assert!(matches!(verdict(status, &[("retry-after", "0")], "").await, Verdict::Accepted { .. }));
        }
        for status in [408, 500, 502, 503, 504] {
            assert!(matches!(
                verdict(status, &[("retry-after", "0")], "<html>").await,
                Verdict::Ambiguous(_)
            ));
        }
        for status in [301, 307, 405, 407, 410, 418, 451, 201, 101] {
            let Verdict::Paused(problem) = verdict(status, &[], "").await else { panic!("{status}") };
            assert_eq!(problem.reason, PauseReason::Configuration, "{status}");
        }
        assert!(matches!(verdict(401, &[], "").await, Verdict::Unauthorized { .. }));
        assert!(matches!(verdict(413, &[], "").await, Verdict::Refused { status: 413, .. }));
        assert!(matches!(verdict(400, &[], "").await, Verdict::Refused { status: 400, .. }));
        assert_eq!(
            verdict(429, &[("retry-after", "7")], "").await,
            Verdict::Throttled { wait: Some(Duration::from_secs(7)), cause: "Azure answered 429".into() }
        );
        assert!(matches!(
            verdict(429, &[("retry-after", "0")], "").await,
            Verdict::Throttled { wait: None, .. }
        ));
        assert!(matches!(
            verdict(503, &[("retry-after", "9")], "").await,
            Verdict::Throttled { wait: Some(_), .. }
        ));
    }

    #[tokio::test]
    async fn a_success_that_is_not_azures_is_not_believed() {
        assert!(matches!(
            verdict(200, &[("content-type", "Text/HTML")], "<html>").await,
            Verdict::Ambiguous(_)
        ));
        let error = r#"{"error":{"code":"Oops"}}"#;
        assert!(matches!(verdict(200, &[], error).await, Verdict::Ambiguous(_)));
    }

    #[tokio::test]
    async fn a_pause_says_which_role_on_which_rule() {
        let body = r#"{"error":{"code":"OperationFailed","message":"no access\nfor canary"}}"#;
        let Verdict::Paused(problem) = verdict(403, &[], body).await else { panic!() };
        assert_eq!(problem.reason, PauseReason::Permission);
        assert_eq!(problem.cause, "Azure answered 403 OperationFailed: no access for [REDACTED]");
        for part in ["app `a`", "Monitoring Metrics Publisher", "dcr-1", "30 minutes"] {
            assert!(problem.remedy.contains(part), "{}", problem.remedy);
        }
        let unknown = r#"{"error":{"code":"InvalidStream","message":"x"}}"#;
        let Verdict::Paused(problem) = verdict(400, &[], unknown).await else { panic!() };
        assert_eq!(problem.reason, PauseReason::Configuration);
        assert!(problem.remedy.contains("Custom-a b"));
        let header = verdict(400, &[("x-ms-error-code", "InvalidStream")], "").await;
        assert!(matches!(header, Verdict::Paused(_)));
    }

    #[tokio::test]
    async fn what_azure_says_of_a_row_is_kept_from_the_cause() {
        let body = r#"{"error":{"code":"InvalidPayload","message":"near 'secret stack'"}}"#;
        let Verdict::Refused { cause, detail, .. } = verdict(400, &[], body).await else { panic!() };
        assert_eq!(cause, "Azure answered 400 InvalidPayload");
        assert!(detail.contains("secret stack"));
    }

    #[tokio::test]
    async fn failures_without_an_answer_are_ambiguous_but_for_an_untrusted_certificate() {
        for failure in [
            Failure::Timeout(DEADLINE),
            Failure::Connection("reset".into()),
            Failure::TooLarge(1),
            Failure::Undecodable("x".into()),
        ] {
            assert!(matches!(exchange(Err(failure)).await.0, Verdict::Ambiguous(_)));
        }
        let (verdict, _) = exchange(Err(Failure::Untrusted("UnknownIssuer".into()))).await;
        let Verdict::Paused(problem) = verdict else { panic!() };
        assert_eq!(problem.reason, PauseReason::Configuration);
        assert!(problem.remedy.contains("ca_file"));
    }

    #[test]
    fn a_date_to_wait_for_is_counted_from_the_answers_own() {
        let wait = |headers: &[(&str, &str)]| {
            wait_asked(&response(429, headers, ""), NOW).map(|wait| wait.as_secs())
        };
        let later = ("retry-after", "Sun, 06 Nov 1994 08:50:07 GMT");
        assert_eq!(wait(&[later]), Some(30), "without one, from our clock");
        assert_eq!(wait(&[later, ("date", "Sun, 06 Nov 1994 08:50:00 GMT")]), Some(7));
        assert_eq!(wait(&[later, ("date", "garbage")]), Some(30));
        assert_eq!(wait(&[("retry-after", "0")]), None);
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        assert_eq!(wait(&[]), None);
    }
}
