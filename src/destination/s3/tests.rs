//! The S3 store against a small fake of S3 on loopback, which answers what a test has written down and else behaves.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use axum::body::{Body, to_bytes};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use time::macros::format_description;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

use super::client::{Connections, Deadlines};
use super::{Bucket, destination};
use crate::clock::{Clock, Second};
use crate::config::settings::{
    S3Checksums, S3Credentials, S3Encryption, S3Key, S3LockMode, S3ObjectLock, S3Role, S3Settings,
};
use crate::destination::archive::Archive;
use crate::destination::archive::contract::{self, Alone, Place, chunk, deliver, org};
use crate::destination::{Answer, Destination, Receipt};
use crate::http::Route;
use crate::problem::{PauseReason, Problem};
use crate::secret::{Place as SecretPlace, SecretSource};
use crate::trial::{How, Outcome, Trial};

#[derive(Clone)]
struct Seen {
    method: Method,
    path: String,
    headers: HeaderMap,
}

/// One answer, written down beforehand.
struct Said {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
    /// Whether the request has its effect all the same.
    acts: bool,
}

/// An error of S3.
fn refusal(status: u16, code: &str) -> Said {
    let body = format!("<Error><Code>{code}</Code><Message>the store's words</Message></Error>");
    Said { status, headers: vec![], body, acts: false }
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Bytes, HeaderMap)>,
    script: VecDeque<Said>,
    seen: Vec<Seen>,
    /// How far the store's clock is ahead, in seconds.
    ahead: i64,
    forgets_metadata: bool,
    /// The locks of the paths that have one: mode, until when.
    locks: BTreeMap<String, (String, String)>,
    ignores_locks: bool,
    ignores_encryption: bool,
}

struct Fake {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    secrets: tempfile::TempDir,
    connections: Connections,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    async fn start() -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&shared)));
            }
        });
        let fake = Fake {
            address,
            state,
            secrets: tempfile::tempdir().unwrap(),
            connections: Connections::default(),
            task,
        };
        fake.put_secret("first-secret");
        fake
    }

    fn put_secret(&self, secret: &str) {
        self.put("secret", secret);
    }

    fn put(&self, name: &str, secret: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.secrets.path().join(name);
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn key(&self, access_key_id: &str, file: &str) -> S3Key {
        let place = SecretPlace::File(self.secrets.path().join(file));
        let secret_access_key = SecretSource { place, group_may_read: false };
        S3Key { access_key_id: access_key_id.into(), secret_access_key }
    }

    fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: "audit".into(),
            prefix: "a/b".into(),
            region: Some("eu-west-1".into()),
            endpoint_url: Some(format!("http://{}", self.address)),
            force_path_style: true,
            credentials: S3Credentials::Static { key: self.key("AKTEST", "secret"), next: None },
            fips: false,
            dual_stack: false,
            role: None,
            encryption: None,
            object_lock: None,
            storage_class: None,
            expected_bucket_owner: None,
            heartbeat_interval: None,
            checksums: S3Checksums::WhenSupported,
            route: Route::default(),
        }
    }

    fn archive(&self) -> Archive<Bucket> {
        destination(&self.settings(), &org(), &self.connections, &Clock::system()).unwrap()
    }

    fn says(&self, said: Said) {
        self.state.lock().unwrap().script.push_back(said);
    }

    fn seen(&self, method: Method) -> Vec<Seen> {
        let state = self.state.lock().unwrap();
        state.seen.iter().filter(|seen| seen.method == method).cloned().collect()
    }
}

impl Place for Fake {
    type Store = Bucket;

    fn store(&self) -> Bucket {
        Bucket::new(&self.settings(), &org(), &self.connections, &Clock::system()).unwrap()
    }
}

async fn serve(socket: impl AsyncRead + AsyncWrite + Unpin, state: Arc<Mutex<State>>) {
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (parts, body) = request.into_parts();
            let body = to_bytes(Body::new(body), 64 << 20).await.unwrap();
            let mut state = state.lock().unwrap();
            Ok::<_, std::convert::Infallible>(answer(&mut state, &parts, body))
        }
    });
    // A client that goes away is no failure of the test.
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await.ok();
}

fn answer(state: &mut State, request: &http::request::Parts, body: Bytes) -> Response<Body> {
    let path = request.uri.path().replace("%3D", "=");
    state.seen.push(Seen {
        method: request.method.clone(),
        path: path.clone(),
        headers: request.headers.clone(),
    });
    let now = Clock::system().now() + state.ahead;
    let said = state.script.pop_front();
    let said = match said {
        Some(said) if said.acts => {
            act(state, request, &path, body.clone(), now.0);
            Some(said)
        }
        said => said,
    };
    let mut response = match said {
        Some(said) => {
            let mut response = Response::builder().status(said.status);
            for (name, value) in said.headers {
                response = response.header(name, value);
            }
            response.body(Body::from(said.body)).unwrap()
        }
        None => act(state, request, &path, body, now.0),
    };
    let date = DateTime::from_secs(now.0).fmt(DateTimeFormat::HttpDate).unwrap();
    response.headers_mut().insert("date", date.parse().unwrap());
    response
}

fn act(
    state: &mut State,
    request: &http::request::Parts,
    path: &str,
    body: Bytes,
    now: i64,
) -> Response<Body> {
    let refuse = |said: Said| Response::builder().status(said.status).body(Body::from(said.body)).unwrap();
    let header = |name| request.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    let signed = time::PrimitiveDateTime::parse(&header("x-amz-date").unwrap(), &format).unwrap();
    if (signed.assume_utc().unix_timestamp() - now).abs() > 900 {
        return refuse(refusal(403, "RequestTimeTooSkewed"));
    }
    if request.uri.query().is_some_and(|query| query.contains("list-type=2")) {
        return refuse(Said {
            status: 200,
            headers: vec![],
            body: "<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>".into(),
            acts: false,
        });
    }
    match request.uri.query().unwrap_or_default() {
        query if query.contains("object-lock") => {
            return refuse(match state.ignores_locks {
                true => refusal(404, "ObjectLockConfigurationNotFoundError"),
                false => Said {
                    status: 200,
                    headers: vec![],
                    body: "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>".into(),
                    acts: false,
                },
            });
        }
        query if query.contains("retention") && state.ignores_locks => {
            return refuse(refusal(400, "InvalidRequest"));
        }
        query if query.contains("retention") && request.method == Method::PUT => {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let of = |name: &str| {
                let after = text.split_once(&format!("<{name}>")).unwrap().1;
                after.split_once("</").unwrap().0.to_owned()
            };
            state.locks.insert(path.to_owned(), (of("Mode"), of("RetainUntilDate")));
            return Response::builder().body(Body::empty()).unwrap();
        }
        query if query.contains("retention") => {
            return refuse(match state.locks.get(path) {
                None => refusal(404, "NoSuchObjectLockConfiguration"),
                Some((mode, until)) => Said {
                    status: 200,
                    headers: vec![],
                    body: format!(
                        "<Retention><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>"
                    ),
                    acts: false,
                },
            });
        }
        _ => {}
    }
    let encryption = header("x-amz-server-side-encryption").filter(|_| !state.ignores_encryption);
    match request.method {
        Method::PUT
            if state.objects.contains_key(path) && header("if-none-match").as_deref() == Some("*") =>
        {
            refuse(refusal(412, "PreconditionFailed"))
        }
        Method::PUT => {
            let lock = (header("x-amz-object-lock-mode"), header("x-amz-object-lock-retain-until-date"));
            if let ((Some(mode), Some(until)), false) = (lock, state.ignores_locks) {
                state.locks.insert(path.to_owned(), (mode, until));
            }
            state.objects.insert(path.to_owned(), (body, request.headers.clone()));
            let response = Response::builder().header("etag", "\"tag\"");
            let response = match encryption {
                Some(encryption) => response.header("x-amz-server-side-encryption", encryption),
                None => response,
            };
            response.body(Body::empty()).unwrap()
        }
        _ => match state.objects.get(path) {
            None => refuse(refusal(404, "NoSuchKey")),
            Some((body, headers)) => {
                let mut response = Response::builder().header("etag", "\"tag\"");
                for (name, value) in headers {
                    let metadata = name.as_str().starts_with("x-amz-meta-") && !state.forgets_metadata;
                    let encryption = name == "x-amz-server-side-encryption" && !state.ignores_encryption;
                    if metadata || encryption {
                        response = response.header(name, value);
                    }
                }
                response.body(Body::from(body.clone())).unwrap()
            }
        },
    }
}

fn durable(answer: Answer) -> Receipt {
    match answer {
        Answer::Durable(receipt) => receipt,
        answer => panic!("not durable: {answer:?}"),
    }
}

fn paused(answer: Answer) -> Problem {
    match answer {
        Answer::Paused(problem) => problem,
        answer => panic!("not paused: {answer:?}"),
    }
}

contract::holds!(Fake::start());

#[tokio::test]
async fn an_object_says_what_it_is() {
    let fake = Fake::start().await;
    let chunk = chunk(12, "one", 3);
    let receipt = durable(deliver(&fake, &chunk).await);
    assert_eq!((receipt.status, receipt.reference.as_str(), receipt.rows), (200, "\"tag\"", 3));
    assert_eq!(receipt.bytes, (chunk.claim.len() + chunk.body.len()) as u64);

    let [claim, object] = <[Seen; 2]>::try_from(fake.seen(Method::PUT)).ok().unwrap();
    assert_eq!(claim.path, "/audit/a/b/_chain/org=acme/00000000000000000012.json");
    assert_eq!(object.path, "/audit/a/b/org=acme/date=2026-11-21/00000000000000000012.jsonl.gz");
    assert_eq!(claim.headers["content-type"], "application/json");
    let expected = [
        ("content-type", "application/x-ndjson"),
        ("if-none-match", "*"),
        ("x-amz-meta-chunk", "12"),
        ("x-amz-meta-count", "3"),
        ("x-amz-meta-first-time", "2026-11-21T10:15:00Z"),
        ("x-amz-meta-last-time", "2026-11-21T10:15:02Z"),
    ];
    for (name, value) in expected {
        assert_eq!(object.headers[name], value, "{name}");
    }
    assert_eq!(object.headers["x-amz-meta-sha256"], crate::event::hex(&chunk.sha256).as_str());
    assert!(object.headers.contains_key("x-amz-checksum-sha256"));
    assert_eq!(
        object.headers["x-amz-sdk-checksum-algorithm"], "SHA256",
        "a bucket that locks by itself may ask for it"
    );
    assert!(!object.headers.contains_key("content-encoding"));
    assert_eq!(object.headers["content-length"], chunk.body.len().to_string().as_str());
}

#[tokio::test]
async fn an_empty_prefix_is_the_root_of_the_bucket() {
    let fake = Fake::start().await;
    let settings = S3Settings { prefix: String::new(), ..fake.settings() };
    let mut archive = destination(&settings, &org(), &fake.connections, &Clock::system()).unwrap();
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(fake.seen(Method::PUT)[0].path, "/audit/_chain/org=acme/00000000000000000000.json");
}

#[tokio::test]
async fn an_object_without_metadata_is_known_by_its_lines() {
    let fake = Fake::start().await;
    let chunk = chunk(0, "one", 5);
    fake.state.lock().unwrap().forgets_metadata = true;
    durable(deliver(&fake, &chunk).await);
    assert_eq!(durable(deliver(&fake, &chunk).await).status, 200);
}

#[tokio::test]
async fn a_put_that_was_stored_though_its_answer_was_lost_is_our_own() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    let chunk = chunk(0, "one", 2);
    fake.says(Said { acts: true, ..refusal(500, "InternalError") });
    assert!(matches!(archive.deliver(&chunk, &Alone).await, Answer::Ambiguous(_)));
    fake.says(refusal(409, "ConditionalRequestConflict"));
    assert!(matches!(archive.deliver(&chunk, &Alone).await, Answer::Ambiguous(_)));
    durable(archive.deliver(&chunk, &Alone).await);
}

#[tokio::test]
async fn a_retried_object_does_not_claim_again() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    let chunk = chunk(0, "one", 2);
    fake.says(Said { acts: true, status: 200, headers: vec![("etag", "\"tag\"")], body: String::new() });
    fake.says(refusal(500, "InternalError"));
    assert!(matches!(archive.deliver(&chunk, &Alone).await, Answer::Ambiguous(_)));
    durable(archive.deliver(&chunk, &Alone).await);
    let claims = fake.seen(Method::PUT).into_iter().filter(|seen| seen.path.contains("_chain")).count();
    assert_eq!(claims, 1);
}

#[tokio::test]
async fn a_success_that_holds_an_error_is_none() {
    let fake = Fake::start().await;
    fake.says(Said { status: 200, ..refusal(200, "InternalError") });
    assert!(matches!(deliver(&fake, &chunk(0, "one", 1)).await, Answer::Ambiguous(_)));
}

#[tokio::test]
async fn a_request_is_sent_once_however_it_fails() {
    let fake = Fake::start().await;
    for status in [500, 502, 503] {
        fake.says(refusal(status, "ServiceUnavailable"));
        assert!(matches!(deliver(&fake, &chunk(0, "one", 1)).await, Answer::Ambiguous(_)), "{status}");
    }
    assert_eq!(fake.seen(Method::PUT).len(), 3);
}

#[tokio::test]
async fn slow_down_is_waited_for_as_long_as_it_says() {
    let fake = Fake::start().await;
    let chunk = chunk(0, "one", 1);
    let seconds = |n| Some(Duration::from_secs(n));
    let cases = [
        (503, "SlowDown", vec![], None),
        (503, "SlowDown", vec![("retry-after", "17")], seconds(17)),
        (429, "", vec![("retry-after", "0")], None),
        (503, "ServiceUnavailable", vec![("retry-after", "5")], seconds(5)),
    ];
    for (status, code, headers, expected) in cases {
        fake.says(Said { headers, ..refusal(status, code) });
        let Answer::Throttled { wait, cause } = deliver(&fake, &chunk).await else {
            panic!("{status} {code}")
        };
        assert_eq!(wait, expected, "{cause}");
    }
}

#[tokio::test]
async fn what_only_a_person_can_change_is_said_with_its_remedy() {
    let fake = Fake::start().await;
    let west = || vec![("x-amz-bucket-region", "us-west-2")];
    let cases = [
        (
            refusal(403, "AccessDenied"),
            PauseReason::Permission,
            "s3:PutObject, s3:GetObject and s3:ListBucket",
        ),
        (refusal(403, "AccessDenied"), PauseReason::Permission, "bucket `audit` for s3://audit/a/b/*"),
        (refusal(400, "KMS.DisabledException"), PauseReason::Permission, "KMS key"),
        (refusal(404, "NoSuchBucket"), PauseReason::Configuration, "create bucket `audit`"),
        (
            Said { headers: west(), ..refusal(301, "PermanentRedirect") },
            PauseReason::Configuration,
            "us-west-2",
        ),
        (refusal(501, "NotImplemented"), PauseReason::Configuration, "If-None-Match"),
        (refusal(400, "InvalidRequest"), PauseReason::Configuration, "[s3]"),
    ];
    for (said, reason, words) in cases {
        fake.says(said);
        let problem = paused(deliver(&fake, &chunk(0, "one", 1)).await);
        assert_eq!(problem.reason, reason, "{problem:?}");
        assert!(problem.remedy.contains(words), "{problem:?}");
        assert!(problem.cause.contains("the store's words"), "{problem:?}");
    }
}

#[tokio::test]
async fn expired_credentials_are_read_again_and_sent_once_more_at_once() {
    let fake = Fake::start().await;
    for code in ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"] {
        fake.says(refusal(403, code));
        durable(deliver(&fake, &chunk(0, "one", 1)).await);
    }
}

#[tokio::test]
async fn refused_credentials_wait_for_a_new_secret() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    assert!(!archive.secret_changed().await, "nothing has been read yet");
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    let problem = paused(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert!(problem.remedy.contains("AKTEST"), "{problem:?}");
    assert!(!archive.secret_changed().await);
    fake.put_secret("second-secret");
    assert!(archive.secret_changed().await);
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert!(!archive.secret_changed().await);
}

/// An ESC environment with one secret in it, which counts how often it is opened.
#[derive(Default)]
struct Esc(Mutex<u32>);

#[async_trait::async_trait]
impl crate::http::Transport for Esc {
    async fn send(
        &self,
        request: crate::http::Request,
    ) -> Result<crate::http::Response, crate::http::Failure> {
        let body = if request.method == Method::POST {
            *self.0.lock().unwrap() += 1;
            r#"{"id":"session"}"#
        } else {
            r#"{"properties":{"aws":{"value":{"key":{"value":"secret"}}}}}"#
        };
        Ok(crate::http::Response { status: 200, headers: HeaderMap::new(), body: body.into() })
    }
}

#[tokio::test]
async fn a_refused_secret_of_an_environment_is_read_again_for_the_next_client_but_not_for_every_one() {
    use crate::config::settings::{SourceAccess, SourceCredentials};
    use crate::pulumi::environment::{Environments, RENEWAL_PAUSE, parse_place};
    use crate::pulumi::exchange::Exchanges;
    use crate::secret::EscPlace;

    let fake = Fake::start().await;
    let mut settings = fake.settings();
    let S3Credentials::Static { key: S3Key { secret_access_key, .. }, .. } = &mut settings.credentials else {
        panic!()
    };
    let (environment, path) = parse_place("acme/infra/siem#aws.key").unwrap();
    let access = SourceAccess {
        api_url: "https://api.example".into(),
        route: Route::default(),
        // Any secret there is.
        credentials: SourceCredentials::Stored { token: secret_access_key.clone(), next_token: None },
    };
    secret_access_key.place = SecretPlace::Esc(Arc::new(EscPlace { environment, path, access }));
    let esc = Arc::<Esc>::default();
    let line = Arc::clone(&esc) as Arc<dyn crate::http::Transport>;
    let environments =
        Environments::new(Arc::new(move |_| Ok(Arc::clone(&line))), Exchanges::default(), Clock::system());
    let connections = Connections::new(Arc::default(), environments);
    let mut archive = destination(&settings, &org(), &connections, &Clock::system()).unwrap();
    let opened = || *esc.0.lock().unwrap();

    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(opened(), 1);
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    durable(archive.deliver(&chunk(1, "one", 1), &Alone).await);
    assert_eq!(opened(), 1, "it was opened just before");
    assert!(!archive.secret_changed().await);

    tokio::time::pause();
    tokio::time::advance(RENEWAL_PAUSE).await;
    tokio::time::resume();
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    let problem = paused(archive.deliver(&chunk(2, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert!(problem.remedy.contains("ESC environment acme/infra/siem#aws.key"), "{problem:?}");
    assert_eq!(opened(), 2);
    durable(archive.deliver(&chunk(2, "one", 1), &Alone).await);
    assert_eq!(opened(), 2);
}

#[tokio::test]
async fn a_secret_that_is_not_there_is_noticed_when_it_comes() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    std::fs::remove_file(fake.secrets.path().join("secret")).unwrap();
    let problem = paused(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert!(!archive.secret_changed().await);
    fake.put_secret("late-secret");
    assert!(archive.secret_changed().await);
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
}

/// Which key each request was signed with.
fn signers(fake: &Fake) -> Vec<String> {
    let seen = std::mem::take(&mut fake.state.lock().unwrap().seen);
    let signed = seen.iter().filter_map(|seen| seen.headers.get("authorization")?.to_str().ok());
    signed.filter_map(|text| Some(text.split("Credential=").nth(1)?.split('/').next()?.to_owned())).collect()
}

#[tokio::test]
async fn a_second_key_is_taken_over_when_the_first_is_refused_and_stays_in_use_for_all() {
    for code in ["ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch"] {
        let fake = Fake::start().await;
        fake.put("second", "second-secret");
        let next = Some(fake.key("AKNEXT", "second"));
        let credentials = S3Credentials::Static { key: fake.key("AKTEST", "secret"), next };
        let settings = S3Settings { credentials, ..fake.settings() };
        let clock = Clock::simulated(Second(1_795_256_100));
        let archive = || destination(&settings, &org(), &fake.connections, &clock).unwrap();
        let (mut one, mut other) = (archive(), archive());
        durable(one.deliver(&chunk(0, "one", 1), &Alone).await);
        assert_eq!(one.standing().unwrap().in_use.unwrap().key, "access_key_id");
        signers(&fake);
        fake.says(refusal(403, code));
        durable(one.deliver(&chunk(1, "one", 1), &Alone).await);
        assert_eq!(one.standing().unwrap().in_use.unwrap().key, "next_access_key_id");
        let signed = signers(&fake);
        assert_eq!(signed[0], "AKTEST");
        assert!(signed.len() > 1 && signed[1..].iter().all(|id| id == "AKNEXT"), "{signed:?}");
        durable(other.deliver(&chunk(2, "one", 1), &Alone).await);
        assert!(signers(&fake).iter().all(|id| id == "AKNEXT"), "orgs share what is known");
        // Refused as well: a person has to act, and either place will do.
        for _ in 0..4 {
            fake.says(refusal(403, code));
        }
        let problem = paused(one.deliver(&chunk(3, "one", 1), &Alone).await);
        assert_eq!(problem.reason, PauseReason::Credentials);
        for part in ["AKTEST", "AKNEXT", "second"] {
            assert!(problem.remedy.contains(part), "{}", problem.remedy);
        }
        fake.state.lock().unwrap().script.clear();
        assert!(!one.secret_changed().await);
        fake.put("second", "third-secret");
        assert!(one.secret_changed().await);
        durable(one.deliver(&chunk(3, "one", 1), &Alone).await);
    }
}

#[tokio::test]
async fn a_changed_key_is_tried_while_the_old_one_works_and_replaces_it_only_when_accepted() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    archive.look_at_secrets().await;
    signers(&fake);
    archive.look_at_secrets().await;
    assert_eq!(signers(&fake).len(), 0, "nothing has changed");
    let used = archive.standing().unwrap().in_use;

    fake.put_secret("wrong-secret");
    fake.says(refusal(403, "SignatureDoesNotMatch"));
    archive.look_at_secrets().await;
    let standing = archive.standing().unwrap();
    assert_eq!(standing.in_use, used);
    let warning = standing.warning.unwrap();
    assert!(warning.contains("access_key_id") && warning.contains("SignatureDoesNotMatch"), "{warning}");
    signers(&fake);
    durable(archive.deliver(&chunk(1, "one", 1), &Alone).await);
    archive.look_at_secrets().await;
    assert_eq!(fake.state.lock().unwrap().script.len(), 0);

    fake.put_secret("");
    archive.look_at_secrets().await;
    assert_eq!(archive.standing().unwrap().in_use, used);
    fake.put_secret("right-secret");
    archive.look_at_secrets().await;
    let standing = archive.standing().unwrap();
    assert!(standing.in_use != used && standing.warning.is_none(), "{standing:?}");
    assert_eq!((standing.taken, standing.refused), (1, 1));
    durable(archive.deliver(&chunk(2, "one", 1), &Alone).await);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_corrected_by_the_stores() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    fake.state.lock().unwrap().ahead = 7_200;
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    durable(archive.deliver(&chunk(1, "one", 1), &Alone).await);
    assert_eq!(fake.seen(Method::PUT).len(), 5, "the offset is learned from the first answer and kept");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fake = Fake::start().await;
    let settings = S3Settings {
        endpoint_url: Some(format!("http://{}", listener.local_addr().unwrap())),
        ..fake.settings()
    };
    let soon = Duration::from_millis(50);
    let deadlines = Deadlines { read: soon, operation: 4 * soon, ..Deadlines::default() };
    let mut archive =
        destination(&settings, &org(), &Connections::within(deadlines), &Clock::system()).unwrap();
    assert!(matches!(archive.deliver(&chunk(0, "one", 1), &Alone).await, Answer::Ambiguous(_)));
}

#[tokio::test]
async fn nobody_listening_is_worth_another_try() {
    let fake = Fake::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = S3Settings { endpoint_url: Some(format!("http://{free}")), ..fake.settings() };
    let mut archive = destination(&settings, &org(), &fake.connections, &Clock::system()).unwrap();
    let Answer::Ambiguous(cause) = archive.deliver(&chunk(0, "one", 1), &Alone).await else { panic!() };
    assert!(cause.contains("refused"), "{cause}");
}

#[tokio::test]
async fn check_asks_and_writes_nothing() {
    let fake = Fake::start().await;
    let mut archive = fake.archive();
    let how = How { write_probe: false, clock: Clock::system() };
    let listed = || Said { status: 200, headers: vec![], body: "<ListBucketResult/>".into(), acts: false };
    let trials = archive.check(&how).await;
    assert_eq!(
        trials.iter().map(|trial| trial.tried).collect::<Vec<_>>(),
        ["list", "read", "object lock", "clock"]
    );
    assert_eq!(trials[0].outcome, Outcome::Ok("s3://audit/a/b/ can be listed".into()));
    assert!(trials.iter().all(|trial| matches!(trial.outcome, Outcome::Ok(_))), "{trials:?}");

    fake.says(refusal(403, "AccessDenied"));
    let trials = archive.check(&how).await;
    let Outcome::Failed(problem) = &trials[0].outcome else { panic!("{trials:?}") };
    assert_eq!(problem.reason, PauseReason::Permission);
    assert!(problem.cause.starts_with("LIST s3://audit/a/b/_chain/: 403 AccessDenied"), "{problem:?}");
    assert_eq!(trials[1].tried, "clock", "nothing more of the bucket is worth trying");

    fake.says(listed());
    fake.says(refusal(403, "AccessDenied"));
    let trials = archive.check(&how).await;
    let Outcome::Failed(problem) = &trials[1].outcome else { panic!("{trials:?}") };
    assert!(problem.cause.starts_with("GET s3://audit/a/b/_chain/org=acme/"), "{problem:?}");

    fake.says(refusal(503, "SlowDown"));
    assert!(
        matches!(archive.check(&how).await[0].outcome, Outcome::Unreachable { .. }),
        "it passes by itself"
    );
    assert!(fake.seen(Method::PUT).is_empty());
}

#[tokio::test]
async fn check_says_what_object_lock_does_and_does_without_the_permission_to_ask() {
    let fake = Fake::start().await;
    let how = How { write_probe: false, clock: Clock::system() };
    let said = |status, body: &str| Said { status, headers: vec![], body: body.into(), acts: false };
    let locked = "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention>\
                  <Mode>GOVERNANCE</Mode><Years>7</Years></DefaultRetention></Rule></ObjectLockConfiguration>";
    for (answer, part) in [
        (said(200, locked), "kept 7 years (GOVERNANCE)"),
        (refusal(404, "ObjectLockConfigurationNotFoundError"), "off for this bucket"),
        (refusal(403, "AccessDenied"), "s3:GetBucketObjectLockConfiguration is not granted"),
        (refusal(501, "NotImplemented"), "not known (NotImplemented)"),
    ] {
        fake.says(said(200, "<ListBucketResult/>"));
        fake.says(refusal(404, "NoSuchKey"));
        fake.says(answer);
        let trials = fake.archive().check(&how).await;
        let Outcome::Ok(found) = &trials[2].outcome else { panic!("{trials:?}") };
        assert!(found.contains(part), "{found}");
    }
}

#[tokio::test]
async fn check_compares_the_clock_with_the_stores_also_where_it_is_refused() {
    let fake = Fake::start().await;
    let how = How { write_probe: false, clock: Clock::system() };
    fake.state.lock().unwrap().ahead = 7_200;
    fake.says(refusal(403, "AccessDenied"));
    let trials = fake.archive().check(&how).await;
    let Outcome::Warning { cause, remedy } = &trials[1].outcome else { panic!("{trials:?}") };
    assert!(cause.contains("behind the store of s3://audit/a/b/") && remedy.contains("NTP"), "{cause}");
}

#[tokio::test]
async fn a_store_that_overwrites_is_found_out_by_the_write_probe() {
    let fake = Fake::start().await;
    for _ in 0..2 {
        fake.says(Said { status: 200, headers: vec![("etag", "\"tag\"")], body: String::new(), acts: true });
    }
    let Outcome::Failed(problem) = fake.archive().write_probe().await else { panic!() };
    assert!(problem.cause.contains("ignores `If-None-Match`"), "{problem:?}");
}

/// The fake behind TLS, with a certificate of its own authority, which is written to `ca`.
async fn tls(fake: &Fake, ca: &Path) -> SocketAddr {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(ca, made.cert.pem()).unwrap();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let state = Arc::clone(&fake.state);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if let Ok(socket) = acceptor.accept(socket).await {
                tokio::spawn(serve(socket, Arc::clone(&state)));
            }
        }
    });
    address
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_waits_for_ca_file() {
    let fake = Fake::start().await;
    let ca = fake.secrets.path().join("ca.pem");
    let address = tls(&fake, &ca).await;
    let settings = S3Settings { endpoint_url: Some(format!("https://{address}")), ..fake.settings() };
    let mut archive = destination(&settings, &org(), &fake.connections, &Clock::system()).unwrap();
    let problem = paused(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Configuration);
    assert!(problem.remedy.contains("ca_file"), "{problem:?}");

    let settings = S3Settings { route: Route::trusting(Some(ca)), ..settings };
    let mut archive = destination(&settings, &org(), &fake.connections, &Clock::system()).unwrap();
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
}

/// Settings that ask for everything the store can be asked for.
fn demanding(fake: &Fake) -> S3Settings {
    S3Settings {
        encryption: Some(S3Encryption::Kms { key_id: Some("alias/audit".into()) }),
        object_lock: Some(LOCK),
        storage_class: Some("STANDARD_IA".into()),
        expected_bucket_owner: Some("123456789012".into()),
        ..fake.settings()
    }
}

const LOCK: S3ObjectLock =
    S3ObjectLock { mode: S3LockMode::Compliance, retain: Duration::from_secs(2_555 * 86_400) };

fn made(settings: &S3Settings, fake: &Fake) -> Archive<Bucket> {
    destination(settings, &org(), &fake.connections, &Clock::system()).unwrap()
}

#[tokio::test]
async fn what_is_asked_of_the_store_is_in_every_request_that_it_belongs_to() {
    let fake = Fake::start().await;
    let settings = demanding(&fake);
    let mut archive = made(&settings, &fake);
    let before = Clock::system().now();
    durable(archive.deliver(&chunk(0, "one", 2), &Alone).await);
    durable(archive.deliver(&chunk(1, "one", 2), &Alone).await);
    let puts = fake.seen(Method::PUT);
    let [claim, object] = [&puts[0], &puts[1]];
    for put in [claim, object] {
        assert_eq!(put.headers["x-amz-server-side-encryption"], "aws:kms");
        assert_eq!(put.headers["x-amz-server-side-encryption-aws-kms-key-id"], "alias/audit");
        assert_eq!(put.headers["x-amz-object-lock-mode"], "COMPLIANCE");
        let until = put.headers["x-amz-object-lock-retain-until-date"].to_str().unwrap();
        let until = Second::parse_rfc3339(until).unwrap();
        let counted = until - before - 2_555 * 86_400;
        assert!((0..60).contains(&counted), "counted from the upload: {until}");
        assert!(put.headers.contains_key("x-amz-checksum-sha256"), "S3 locks nothing without one");
    }
    assert_eq!(object.headers["x-amz-storage-class"], "STANDARD_IA");
    assert!(!claim.headers.contains_key("x-amz-storage-class"), "a claim is small and read again");
    let read = fake.seen(Method::GET);
    assert_eq!(read.len(), 1, "the lock is read back once: {:?}", read.len());
    let how = How { write_probe: false, clock: Clock::system() };
    assert!(!archive.check(&how).await.iter().any(Trial::ends));
    durable(made(&settings, &fake).deliver(&chunk(1, "one", 2), &Alone).await);
    let all = fake.state.lock().unwrap().seen.clone();
    assert!(all.len() > 10);
    for seen in all {
        assert_eq!(
            seen.headers["x-amz-expected-bucket-owner"], "123456789012",
            "{} {}",
            seen.method, seen.path
        );
    }
}

#[tokio::test]
async fn nothing_is_asked_that_nobody_asked_for() {
    let fake = Fake::start().await;
    let chunk = chunk(0, "one", 1);
    durable(deliver(&fake, &chunk).await);
    durable(deliver(&fake, &chunk).await);
    let all = fake.state.lock().unwrap().seen.clone();
    for seen in &all {
        for name in ["server-side-encryption", "object-lock-mode", "storage-class", "expected-bucket-owner"] {
            assert!(!seen.headers.contains_key(format!("x-amz-{name}")), "{name}");
        }
    }
    assert_eq!(all.len(), 6, "two puts; again two, one claim read, one object asked about");
}

#[tokio::test]
async fn a_store_that_dislikes_checksums_gets_none() {
    let fake = Fake::start().await;
    let settings = S3Settings { checksums: S3Checksums::WhenRequired, ..fake.settings() };
    durable(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    durable(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    for seen in fake.state.lock().unwrap().seen.iter() {
        let odd: Vec<_> = seen.headers.keys().filter(|name| name.as_str().contains("checksum")).collect();
        assert!(odd.is_empty(), "{} {odd:?}", seen.method);
    }
}

#[tokio::test]
async fn a_store_without_locks_pauses_until_it_has_them_and_nothing_stays_unlocked() {
    let fake = Fake::start().await;
    let settings = S3Settings { object_lock: Some(LOCK), ..fake.settings() };
    let mut archive = made(&settings, &fake);
    fake.state.lock().unwrap().ignores_locks = true;
    let chunk = chunk(0, "one", 2);
    for _ in 0..3 {
        let problem = paused(archive.deliver(&chunk, &Alone).await);
        assert_eq!(problem.reason, PauseReason::Configuration);
        assert!(problem.remedy.contains("enable Object Lock on bucket `audit`"), "{problem:?}");
    }
    assert_eq!(fake.state.lock().unwrap().objects.len(), 1, "no events are stored unlocked");
    let how = How { write_probe: false, clock: Clock::system() };
    let tried = archive.check(&how).await;
    let missing = |trial: &Trial| matches!(&trial.outcome, Outcome::Failed(problem) if problem.remedy.contains("enable Object Lock"));
    assert!(tried.iter().any(missing), "{tried:?}");

    fake.state.lock().unwrap().ignores_locks = false;
    durable(archive.deliver(&chunk, &Alone).await);
    let state = fake.state.lock().unwrap();
    assert_eq!(state.locks.len(), 2, "the claim that was there was locked late");
    assert!(state.locks.values().all(|(mode, _)| mode == "COMPLIANCE"));
}

#[tokio::test]
async fn a_bucket_that_refuses_locks_is_known_by_its_words() {
    let fake = Fake::start().await;
    let settings = S3Settings { object_lock: Some(LOCK), ..fake.settings() };
    let body = "<Error><Code>InvalidRequest</Code><Message>Bucket is missing Object Lock Configuration</Message></Error>";
    fake.says(Said { status: 400, headers: vec![], body: body.into(), acts: false });
    let problem = paused(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    assert!(problem.remedy.contains("enable Object Lock on bucket `audit`"), "{problem:?}");
    fake.state.lock().unwrap().ignores_locks = true;
    fake.says(refusal(400, "InvalidRequest"));
    let problem = paused(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    assert!(problem.cause.ends_with("the bucket has no Object Lock"), "{problem:?}");
    fake.state.lock().unwrap().ignores_locks = false;
    fake.says(refusal(400, "InvalidRequest"));
    let problem = paused(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    assert!(problem.remedy.contains("as the answer says"), "{problem:?}");
    fake.says(refusal(403, "AccessDenied"));
    let problem = paused(made(&settings, &fake).deliver(&chunk(0, "one", 1), &Alone).await);
    assert!(problem.remedy.contains("s3:PutObjectRetention, s3:GetObjectRetention"), "{problem:?}");
}

#[tokio::test]
async fn a_lock_that_cannot_be_read_back_is_not_believed() {
    let fake = Fake::start().await;
    let settings = S3Settings { object_lock: Some(LOCK), ..fake.settings() };
    let mut archive = made(&settings, &fake);
    let tag = || Said { status: 200, headers: vec![("etag", "\"tag\"")], body: String::new(), acts: true };
    fake.says(tag());
    fake.says(refusal(500, "InternalError"));
    assert!(matches!(archive.deliver(&chunk(0, "one", 1), &Alone).await, Answer::Ambiguous(_)));
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    let mut archive = made(&settings, &fake);
    fake.says(tag());
    fake.says(refusal(403, "AccessDenied"));
    let problem = paused(archive.deliver(&chunk(1, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Permission);
}

#[tokio::test]
async fn the_write_probe_sees_locks_too_and_locks_its_own_piece_for_a_minute() {
    let fake = Fake::start().await;
    let settings = S3Settings { object_lock: Some(LOCK), ..fake.settings() };
    let before = Clock::system().now();
    for _ in 0..2 {
        let outcome = made(&settings, &fake).write_probe().await;
        assert!(!outcome.is_bad(), "{outcome:?}");
    }
    let locks: Vec<_> = fake.state.lock().unwrap().locks.values().cloned().collect();
    let until = Second::parse_rfc3339(&locks[0].1).unwrap();
    assert!((60..120).contains(&(until - before)), "{locks:?}");
    fake.state.lock().unwrap().ignores_locks = true;
    let outcome = made(&settings, &fake).write_probe().await;
    let Outcome::Failed(problem) = outcome else { panic!("{outcome:?}") };
    assert!(problem.remedy.contains("enable Object Lock"), "{problem:?}");
}

#[tokio::test]
async fn a_store_that_does_not_encrypt_pauses_and_gets_no_events() {
    let fake = Fake::start().await;
    let settings = S3Settings { encryption: Some(S3Encryption::Store), ..fake.settings() };
    fake.state.lock().unwrap().ignores_encryption = true;
    let mut archive = made(&settings, &fake);
    for _ in 0..3 {
        let problem = paused(archive.deliver(&chunk(0, "one", 1), &Alone).await);
        assert_eq!(problem.reason, PauseReason::Configuration);
        assert!(problem.cause.contains("`sse`"), "{problem:?}");
    }
    assert_eq!(fake.state.lock().unwrap().objects.len(), 1);
}

#[tokio::test]
async fn orgs_that_reach_their_store_alike_share_what_is_known_of_it() {
    let fake = Fake::start().await;
    fake.state.lock().unwrap().ahead = 7_200;
    durable(fake.archive().deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(fake.seen(Method::PUT).len(), 3, "the clock's offset is learned");
    durable(fake.archive().deliver(&chunk(1, "one", 1), &Alone).await);
    assert_eq!(fake.seen(Method::PUT).len(), 5, "and known to the other");
}

/// Answers every request itself and notes where it would have gone.
#[derive(Clone, Debug, Default)]
struct Noting(Arc<Mutex<Vec<String>>>);

impl HttpConnector for Noting {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        self.0.lock().unwrap().push(request.uri().to_owned());
        let sts = r#"<AssumeRoleResponse><AssumeRoleResult><Credentials><AccessKeyId>ASIA</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"#;
        let body = if request.uri().contains("://sts") { sts } else { "" };
        let answer = Response::builder().header("etag", "\"tag\"").body(body.into()).unwrap();
        HttpConnectorFuture::ready(Ok(answer.try_into().unwrap()))
    }
}

#[tokio::test]
async fn fips_and_dual_stack_choose_the_endpoints_of_s3_and_of_the_role() {
    let fake = Fake::start().await;
    let role = S3Role {
        arn: "arn:aws:iam::123456789012:role/x".into(),
        external_id: None,
        session_name: "audit".into(),
    };
    let cases = [
        (false, false, false, "audit.s3.eu-west-1.amazonaws.com", "sts.eu-west-1.amazonaws.com"),
        (true, false, false, "audit.s3-fips.eu-west-1.amazonaws.com", "sts-fips.eu-west-1.amazonaws.com"),
        (false, true, false, "audit.s3.dualstack.eu-west-1.amazonaws.com", "sts.eu-west-1.api.aws"),
        (true, true, false, "audit.s3-fips.dualstack.eu-west-1.amazonaws.com", "sts-fips.eu-west-1.api.aws"),
        (false, false, true, "s3.eu-west-1.amazonaws.com/audit", "sts.eu-west-1.amazonaws.com"),
    ];
    for (fips, dual_stack, force_path_style, s3, sts) in cases {
        let noting = Noting::default();
        let http = SharedHttpConnector::new(noting.clone());
        let connections = Connections::through(http_client_fn(move |_, _| http.clone()));
        let settings = S3Settings {
            endpoint_url: None,
            fips,
            dual_stack,
            force_path_style,
            role: Some(role.clone()),
            ..fake.settings()
        };
        let mut archive = destination(&settings, &org(), &connections, &Clock::system()).unwrap();
        durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
        let asked = noting.0.lock().unwrap().clone();
        assert_eq!(asked[0], format!("https://{sts}/"));
        assert!(asked[1].starts_with(&format!("https://{s3}/a/b/_chain/")), "{asked:?}");
        assert_eq!(asked.len(), 3, "one session for both puts: {asked:?}");
    }
}

/// What the service that gives roles out says to whoever asks it, and what becomes of it.
#[tokio::test]
async fn a_role_that_is_refused_says_who_must_allow_it() {
    #[derive(Clone, Debug)]
    struct Refusing(u16, &'static str);
    impl HttpConnector for Refusing {
        fn call(&self, _: HttpRequest) -> HttpConnectorFuture {
            let answer = Response::builder().status(self.0).body(self.1.into()).unwrap();
            HttpConnectorFuture::ready(Ok(answer.try_into().unwrap()))
        }
    }
    let fake = Fake::start().await;
    let role = S3Role {
        arn: "arn:aws:iam::123456789012:role/x".into(),
        external_id: Some("acme-7".into()),
        session_name: "audit".into(),
    };
    let said = |status, body| {
        let http = SharedHttpConnector::new(Refusing(status, body));
        let connections = Connections::through(http_client_fn(move |_, _| http.clone()));
        let settings = S3Settings { role: Some(role.clone()), ..fake.settings() };
        destination(&settings, &org(), &connections, &Clock::system()).unwrap()
    };
    let denied = "<ErrorResponse><Error><Code>AccessDenied</Code><Message>not authorized to perform: sts:AssumeRole</Message></Error></ErrorResponse>";
    let problem = paused(said(403, denied).deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Permission);
    for part in ["sts:AssumeRole on arn:aws:iam::123456789012:role/x", "sts:ExternalId `acme-7`"] {
        assert!(problem.remedy.contains(part), "{problem:?}");
    }
    assert!(problem.cause.contains("not authorized"), "{problem:?}");
    let unknown = "<ErrorResponse><Error><Code>InvalidClientTokenId</Code><Message>unknown key</Message></Error></ErrorResponse>";
    let problem = paused(said(403, unknown).deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert!(problem.remedy.contains("AKTEST"), "the key behind the role: {problem:?}");
}
