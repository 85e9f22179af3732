use std::collections::VecDeque;
use std::path::Path;

use async_trait::async_trait;

use super::*;
use crate::config::settings::SourceCredentials;

const LIFE_SECONDS: u64 = 7_200;

/// Exchanges everything for `pul-1`, `pul-2`, …, unless a script says otherwise.
#[derive(Default)]
struct Service {
    asked: Mutex<Vec<(String, String)>>,
    script: Mutex<VecDeque<Result<(u16, String), Failure>>>,
    down: Mutex<bool>,
    /// How long an answer takes.
    slow: Mutex<Duration>,
}

#[async_trait]
impl Transport for Service {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        assert!(!request.headers.contains_key("authorization"), "an exchange shows no token");
        assert_eq!(request.headers["content-type"], "application/x-www-form-urlencoded");
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let number = {
            let mut asked = self.asked.lock().unwrap();
            asked.push((request.url, body));
            asked.len()
        };
        let slow = *self.slow.lock().unwrap();
        tokio::time::sleep(slow).await;
        if *self.down.lock().unwrap() {
            return Err(Failure::Connection("refused".into()));
        }
        let granted = format!(
            r#"{{"access_token":"pul-{number}","token_type":"token","expires_in":{LIFE_SECONDS},"scope":""}}"#
        );
        let (status, body) = self.script.lock().unwrap().pop_front().unwrap_or(Ok((200, granted)))?;
        Ok(Response { status, headers: HeaderMap::new(), body: Bytes::from(body) })
    }
}

struct Bench {
    service: Arc<Service>,
    exchange: Arc<Exchange>,
    subject: tempfile::NamedTempFile,
}

fn access(subject: &Path) -> (SourceAccess, Oidc) {
    let oidc = Oidc {
        organization: "acme".into(),
        subject_token_file: subject.to_owned(),
        token_type: TokenType::Organization,
        scope: String::new(),
        expiration: None,
    };
    let access = SourceAccess {
        api_url: "https://api.example".into(),
        route: crate::http::Route::default(),
        credentials: SourceCredentials::Exchanged(oidc.clone()),
    };
    (access, oidc)
}

fn bench() -> Bench {
    let subject = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(subject.path(), "subject-canary-1\n").unwrap();
    let service = Arc::<Service>::default();
    let transport = Arc::clone(&service) as Arc<dyn Transport>;
    let (access, oidc) = access(subject.path());
    let exchange = Exchanges::default().get(&access, &oidc, &transport, &Clock::simulated(Second(0)));
    Bench { service, exchange, subject }
}

impl Bench {
    fn asked(&self) -> usize {
        self.service.asked.lock().unwrap().len()
    }

    async fn token(&self) -> Result<String, SourceError> {
        self.exchange.token().await.map(|token| token.secret().expose().to_owned())
    }

    fn will_answer(&self, status: u16, body: &str) {
        self.service.script.lock().unwrap().push_back(Ok((status, body.to_owned())));
    }

    async fn answers(&self, status: u16, body: &str) -> SourceError {
        self.will_answer(status, body);
        self.token().await.unwrap_err()
    }
}

/// Lets what goes on in the background run.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

const DENIED: &str = r#"{"error":"invalid_grant","error_description":"no policy allows subject-canary-1"}"#;

#[tokio::test(start_paused = true)]
async fn a_token_is_exchanged_once_and_used_until_three_quarters_of_its_life_are_over() {
    let bench = bench();
    assert_eq!(bench.token().await.unwrap(), "pul-1");
    pass(LIFE_SECONDS * 3 / 4 - 60).await;
    assert_eq!(bench.token().await.unwrap(), "pul-1");
    pass(1).await;
    assert_eq!(bench.asked(), 1);
    pass(70).await;
    assert_eq!(bench.token().await.unwrap(), "pul-1", "the next one is fetched meanwhile");
    pass(1).await;
    assert_eq!(bench.token().await.unwrap(), "pul-2");
    assert_eq!(bench.asked(), 2);
    let asked = bench.service.asked.lock().unwrap().clone();
    assert_eq!(asked[0].0, "https://api.example/api/oauth/token");
    assert!(asked[0].1.contains("&subject_token=subject-canary-1&"), "{}", asked[0].1);
    let life = bench.exchange.figures().life.unwrap().as_secs();
    assert!((LIFE_SECONDS - 2..=LIFE_SECONDS).contains(&life));
}

#[tokio::test(start_paused = true)]
async fn the_platforms_token_is_read_again_for_each_exchange_whatever_its_mode() {
    use std::os::unix::fs::PermissionsExt;
    let bench = bench();
    std::fs::set_permissions(bench.subject.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
    bench.token().await.unwrap();
    std::fs::write(bench.subject.path(), "subject-canary-2").unwrap();
    pass(LIFE_SECONDS + 1).await;
    bench.token().await.unwrap();
    let asked = bench.service.asked.lock().unwrap().clone();
    assert!(asked[1].1.contains("&subject_token=subject-canary-2&"), "{}", asked[1].1);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_for_the_rest_of_a_tokens_life_costs_nothing() {
    let bench = bench();
    bench.token().await.unwrap();
    *bench.service.down.lock().unwrap() = true;
    pass(LIFE_SECONDS * 3 / 4).await;
    for _ in 0..LIFE_SECONDS / 4 / 10 - 1 {
        pass(10).await;
        assert_eq!(bench.token().await.unwrap(), "pul-1");
    }
    assert!((4..=20).contains(&bench.asked()), "{} tries, fewer and fewer", bench.asked());
    pass(20).await;
    assert!(matches!(bench.token().await, Err(SourceError::Transient(_))), "at its end there is none");
    *bench.service.down.lock().unwrap() = false;
    pass(300).await;
    assert!(bench.token().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn many_ask_and_one_exchange_is_made_also_when_it_fails() {
    let bench = bench();
    *bench.service.slow.lock().unwrap() = Duration::from_secs(5);
    let ask = || {
        let exchange = Arc::clone(&bench.exchange);
        tokio::spawn(async move { exchange.token().await.map(|token| token.secret().expose().to_owned()) })
    };
    let tasks: Vec<_> = (0..50).map(|_| ask()).collect();
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap(), "pul-1");
    }
    assert_eq!(bench.asked(), 1);
    assert!(bench.exchange.reject(&bench.exchange.token().await.unwrap()));
    bench.will_answer(400, DENIED);
    let tasks: Vec<_> = (0..50).map(|_| ask()).collect();
    for task in tasks {
        assert!(matches!(task.await.unwrap(), Err(SourceError::Credentials { .. })));
    }
    assert_eq!(bench.asked(), 2, "those who waited share the failure");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_tried_again_each_minute_and_at_once_with_another_subject() {
    let bench = bench();
    for _ in 0..10 {
        bench.will_answer(400, DENIED);
    }
    for _ in 0..60 {
        let Err(SourceError::Credentials { cause, .. }) = bench.token().await else { panic!() };
        assert_eq!(
            cause,
            "Pulumi answered a token exchange with 400 invalid_grant: no policy allows [REDACTED]"
        );
        assert!(!bench.exchange.has_changed(Lack::OfToken));
        pass(2).await;
    }
    assert!((2..=3).contains(&bench.asked()), "{} exchanges in two minutes", bench.asked());
    bench.service.script.lock().unwrap().clear();
    std::fs::write(bench.subject.path(), "subject-canary-2").unwrap();
    assert!(bench.exchange.has_changed(Lack::OfToken));
    assert!(bench.token().await.is_ok());
    assert!(bench.exchange.has_changed(Lack::OfToken), "others may go on as well");
}

#[tokio::test(start_paused = true)]
async fn failures_that_pass_are_tried_more_and_more_seldom() {
    let bench = bench();
    *bench.service.down.lock().unwrap() = true;
    for _ in 0..3_600 {
        assert!(matches!(bench.token().await, Err(SourceError::Transient(_))));
        assert!(!bench.exchange.has_changed(Lack::OfToken));
        pass(1).await;
    }
    assert!((15..=40).contains(&bench.asked()), "{} exchanges in an hour", bench.asked());
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_leads_to_one_exchange_in_five_minutes_and_stays_in_use_between() {
    let bench = bench();
    let old = bench.exchange.token().await.unwrap();
    let trust = Lack::OfTrust(bench.exchange.subject());
    pass(2).await;
    assert!(bench.exchange.reject(&old));
    let new = bench.exchange.token().await.unwrap();
    assert_eq!(new.secret().expose(), "pul-2");
    assert!(bench.exchange.reject(&old), "one that was replaced already is not");
    assert_eq!(bench.token().await.unwrap(), "pul-2");
    for _ in 0..29 {
        assert!(!bench.exchange.reject(&new), "another would fare no better");
        assert_eq!(bench.token().await.unwrap(), "pul-2", "others may have more luck with it");
        assert!(!bench.exchange.has_changed(trust));
        pass(10).await;
    }
    assert_eq!(bench.asked(), 2);
    pass(11).await;
    assert!(bench.exchange.reject(&new));
    assert_eq!(bench.token().await.unwrap(), "pul-3");
    std::fs::write(bench.subject.path(), "subject-2").unwrap();
    assert!(bench.exchange.has_changed(trust));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_may_too_little_is_replaced_at_the_next_try_where_that_can_be() {
    let bench = bench();
    let old = bench.exchange.token().await.unwrap();
    bench.exchange.retire(&old);
    *bench.service.down.lock().unwrap() = true;
    for _ in 0..10 {
        assert_eq!(bench.token().await.unwrap(), "pul-1", "better than none");
    }
    assert_eq!(bench.asked(), 2);
    *bench.service.down.lock().unwrap() = false;
    pass(2).await;
    assert_eq!(bench.token().await.unwrap(), "pul-3");
    bench.exchange.retire(&old);
    assert_eq!(bench.token().await.unwrap(), "pul-3", "one that was replaced is not retired");
    assert_eq!(bench.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_sorted_and_none_shows_what_was_sent() {
    let credentials = |error: SourceError| match error {
        SourceError::Credentials { cause, remedy } => {
            assert!(!cause.contains("canary") && !remedy.contains("canary-1"), "{cause} {remedy}");
            remedy
        }
        other => panic!("{other:?}"),
    };
    for (status, body, part) in [
        (400, DENIED, "policy that allows organization tokens"),
        (401, r#"{"error":"invalid_client"}"#, "urn:pulumi:org:acme"),
        (400, r#"{"error":"invalid_scope"}"#, "`scope`"),
        (400, r#"{"code":400,"message":"OIDC needs an object store"}"#, "is registered"),
        (404, "<html>", "api_url"),
        (403, "<html>", "what stands between"),
        (418, "", "is registered"),
    ] {
        let remedy = credentials(bench().answers(status, body).await);
        assert!(remedy.contains(part), "{status}: {remedy}");
    }
    for (status, body) in [
        (200, ""),
        (200, "<html>"),
        (200, r#"{"access_token":"","expires_in":7200}"#),
        (200, r#"{"error":"invalid_grant"}"#),
        (204, ""),
        (408, ""),
        (500, r#"{"message":"subject-canary-1"}"#),
        (503, "<html>"),
    ] {
        let error = bench().answers(status, body).await;
        assert!(matches!(&error, SourceError::Transient(cause) if !cause.contains("canary")), "{error:?}");
    }
    assert!(matches!(bench().answers(429, "").await, SourceError::Throttled { wait: None }));
    assert!(matches!(bench().answers(307, "").await, SourceError::Configuration { .. }));
    let bench = bench();
    bench.service.script.lock().unwrap().push_back(Err(Failure::Untrusted("x".into())));
    assert!(matches!(bench.token().await, Err(SourceError::Barred { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_subject_that_cannot_be_read_asks_nothing_until_it_is_there() {
    let bench = bench();
    std::fs::write(bench.subject.path(), "").unwrap();
    let Err(SourceError::Credentials { cause, remedy }) = bench.token().await else { panic!() };
    assert!(cause.contains("is empty") && remedy.contains("urn:pulumi:org:acme"), "{cause} {remedy}");
    assert_eq!(bench.asked(), 0);
    std::fs::write(bench.subject.path(), "subject").unwrap();
    assert!(bench.exchange.has_changed(Lack::OfToken));
    assert!(bench.token().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_the_same_shares_an_exchange_and_one_that_starts_again_finds_its_token() {
    let subject = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(subject.path(), "subject").unwrap();
    let service = Arc::<Service>::default();
    let transport = Arc::clone(&service) as Arc<dyn Transport>;
    let exchanges = Exchanges::default();
    let (same, oidc) = access(subject.path());
    let get = |access: &SourceAccess| {
        let SourceCredentials::Exchanged(oidc) = &access.credentials else { panic!() };
        exchanges.get(access, oidc, &transport, &Clock::simulated(Second(0)))
    };
    let first = get(&same);
    assert!(Arc::ptr_eq(&first, &get(&same)));
    let others = [
        Oidc { organization: "beta".into(), ..oidc.clone() },
        Oidc { token_type: TokenType::Team, scope: "team:a".into(), ..oidc.clone() },
        Oidc { expiration: Some(Duration::from_secs(600)), ..oidc },
    ];
    for other in others {
        let other = SourceAccess { credentials: SourceCredentials::Exchanged(other), ..same.clone() };
        assert!(!Arc::ptr_eq(&first, &get(&other)));
    }
    first.token().await.unwrap();
    drop(first);
    assert_eq!(get(&same).token().await.unwrap().secret().expose(), "pul-1");
    pass(LIFE_SECONDS + 1).await;
    get(&SourceAccess { api_url: "https://other.example".into(), ..same });
    assert_eq!(
        exchanges.0.lock().unwrap().len(),
        1,
        "one that nobody has and that has no token is forgotten"
    );
}

#[test]
fn a_token_is_never_printed() {
    let now = Instant::now();
    let token = Token { secret: Secret::new("canary".into()), refresh: now, expires: now };
    assert!(!format!("{token:?}").contains("canary"));
}
