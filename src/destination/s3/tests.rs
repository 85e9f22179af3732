//! The S3 store against a small fake of S3 on loopback, which answers what a test has written down and else behaves.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
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
use crate::clock::Clock;
use crate::config::settings::{S3Credentials, S3Settings};
use crate::destination::archive::Archive;
use crate::destination::archive::contract::{self, Alone, Place, chunk, deliver, org};
use crate::destination::{Answer, Destination, PauseReason, Problem, Receipt};
use crate::probe::trial::{How, Outcome};
use crate::secret::{Place as SecretPlace, SecretSource};

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
        use std::os::unix::fs::PermissionsExt;
        let path = self.secrets.path().join("secret");
        std::fs::write(&path, secret).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn settings(&self) -> S3Settings {
        S3Settings {
            bucket: "audit".into(),
            prefix: "a/b".into(),
            region: Some("eu-west-1".into()),
            endpoint_url: Some(format!("http://{}", self.address)),
            force_path_style: true,
            credentials: S3Credentials::Static {
                access_key_id: "AKTEST".into(),
                secret_access_key: SecretSource {
                    place: SecretPlace::File(self.secrets.path().join("secret")),
                    group_may_read: false,
                },
            },
            ca_file: None,
        }
    }

    fn archive(&self) -> Archive<Bucket> {
        destination(&self.settings(), &org(), &self.connections).unwrap()
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
        Bucket::new(&self.settings(), &org(), &self.connections).unwrap()
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
    match request.method {
        Method::PUT
            if state.objects.contains_key(path) && header("if-none-match").as_deref() == Some("*") =>
        {
            refuse(refusal(412, "PreconditionFailed"))
        }
        Method::PUT => {
            state.objects.insert(path.to_owned(), (body, request.headers.clone()));
            Response::builder().header("etag", "\"tag\"").body(Body::empty()).unwrap()
        }
        _ => match state.objects.get(path) {
            None => refuse(refusal(404, "NoSuchKey")),
            Some((body, headers)) => {
                let mut response = Response::builder().header("etag", "\"tag\"");
                for (name, value) in headers {
                    if name.as_str().starts_with("x-amz-meta-") && !state.forgets_metadata {
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
    assert!(!object.headers.contains_key("content-encoding"));
    assert_eq!(object.headers["content-length"], chunk.body.len().to_string().as_str());
}

#[tokio::test]
async fn an_empty_prefix_is_the_root_of_the_bucket() {
    let fake = Fake::start().await;
    let settings = S3Settings { prefix: String::new(), ..fake.settings() };
    let mut archive = destination(&settings, &org(), &fake.connections).unwrap();
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
    let mut archive = destination(&settings, &org(), &Connections::new(deadlines)).unwrap();
    assert!(matches!(archive.deliver(&chunk(0, "one", 1), &Alone).await, Answer::Ambiguous(_)));
}

#[tokio::test]
async fn nobody_listening_is_worth_another_try() {
    let fake = Fake::start().await;
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let settings = S3Settings { endpoint_url: Some(format!("http://{free}")), ..fake.settings() };
    let mut archive = destination(&settings, &org(), &fake.connections).unwrap();
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
    let mut archive = destination(&settings, &org(), &fake.connections).unwrap();
    let problem = paused(archive.deliver(&chunk(0, "one", 1), &Alone).await);
    assert_eq!(problem.reason, PauseReason::Configuration);
    assert!(problem.remedy.contains("ca_file"), "{problem:?}");

    let settings = S3Settings { ca_file: Some(ca), ..settings };
    let mut archive = destination(&settings, &org(), &fake.connections).unwrap();
    durable(archive.deliver(&chunk(0, "one", 1), &Alone).await);
}
