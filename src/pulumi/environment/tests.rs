use async_trait::async_trait;

use super::*;
use crate::clock::Second;
use crate::config::settings::{Oidc, TokenType};
use crate::http::Failure;

/// One service with environments; the token of whoever asks must be among those accepted.
struct Service {
    asked: Mutex<Vec<String>>,
    accepted: Mutex<Vec<String>>,
    value: Mutex<String>,
    /// What openings are answered with in place of a session.
    refusal: Mutex<Option<(u16, String)>>,
    down: Mutex<bool>,
}

impl Default for Service {
    fn default() -> Service {
        Service {
            asked: Mutex::default(),
            accepted: Mutex::new(vec!["token-1".into(), "pul-1".into()]),
            value: Mutex::new("canary-1".into()),
            refusal: Mutex::default(),
            down: Mutex::default(),
        }
    }
}

#[async_trait]
impl Transport for Service {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let path = request.url.strip_prefix("https://api.example").expect("the service's address").to_owned();
        self.asked.lock().unwrap().push(format!("{} {path}", request.method));
        if *self.down.lock().unwrap() {
            return Err(Failure::Connection("refused".into()));
        }
        let answer = |status: u16, body: String| {
            Ok(Response { status, headers: http::HeaderMap::new(), body: Bytes::from(body) })
        };
        if path == "/api/oauth/token" {
            let exchanges = self.asked.lock().unwrap().iter().filter(|asked| asked.contains("oauth")).count();
            return answer(200, format!(r#"{{"access_token":"pul-{exchanges}","expires_in":90000}}"#));
        }
        let token = request.headers["authorization"].to_str().unwrap().strip_prefix("token ").unwrap();
        if !self.accepted.lock().unwrap().iter().any(|accepted| accepted == token) {
            return answer(401, format!(r#"{{"code":401,"message":"{token} is not valid"}}"#));
        }
        if request.method == Method::POST {
            let refusal = self.refusal.lock().unwrap().clone();
            return match refusal {
                Some((status, body)) => answer(status, body),
                None => answer(200, r#"{"id":"session-1"}"#.into()),
            };
        }
        let value = self.value.lock().unwrap().clone();
        answer(
            200,
            format!(
                r#"{{"properties":{{"a":{{"value":{{"b":{{"value":"{value}","secret":true}},"c":{{"value":"other"}}}}}}}}}}"#
            ),
        )
    }
}

struct Bench {
    service: Arc<Service>,
    environments: Environments,
    folder: tempfile::TempDir,
}

fn bench() -> Bench {
    let service = Arc::<Service>::default();
    let transport = Arc::clone(&service) as Arc<dyn Transport>;
    let connect: Connect = Arc::new(move |_| Ok(Arc::clone(&transport)));
    let environments =
        Environments::new(connect, Exchanges::default(), Clock::simulated(Second(1_795_256_100)));
    Bench { service, environments, folder: tempfile::tempdir().unwrap() }
}

impl Bench {
    fn stored(&self, name: &str, token: &str) -> SecretSource {
        use std::os::unix::fs::PermissionsExt;
        let path = self.folder.path().join(name);
        std::fs::write(&path, token).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        SecretSource { place: Place::File(path), group_may_read: false }
    }

    fn by(&self, credentials: SourceCredentials, place: &str) -> SecretSource {
        let (environment, path) = parse_place(place).unwrap();
        let access = SourceAccess {
            api_url: "https://api.example".into(),
            route: crate::http::Route::default(),
            credentials,
        };
        let place = Place::Esc(Arc::new(EscPlace { environment, path, access }));
        SecretSource { place, group_may_read: false }
    }

    fn secret(&self, place: &str) -> SecretSource {
        let token = self.stored("token", "token-1");
        self.by(SourceCredentials::Stored { token, next_token: None }, place)
    }

    async fn read(&self, secret: &SecretSource) -> Result<String, SecretError> {
        self.environments.read(secret, Freshness::Kept).await.map(|secret| secret.expose().to_owned())
    }

    async fn renewed(&self, secret: &SecretSource) -> Result<String, SecretError> {
        self.environments.read(secret, Freshness::Renewed).await.map(|secret| secret.expose().to_owned())
    }

    fn opened(&self) -> usize {
        self.service.asked.lock().unwrap().iter().filter(|asked| asked.contains("open?duration")).count()
    }

    fn refuses(&self, status: u16, body: &str) {
        *self.service.refusal.lock().unwrap() = Some((status, body.to_owned()));
    }
}

async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn an_environment_is_opened_once_a_session_for_all_its_secrets() {
    let bench = bench();
    let (one, other) = (bench.secret("acme/infra/siem#a.b"), bench.secret("acme/infra/siem#a.c"));
    assert!(matches!(bench.environments.seen(&one), Err(SecretError::Unavailable { .. })));
    for _ in 0..114 {
        assert_eq!(bench.read(&one).await.unwrap(), "canary-1");
        assert_eq!(bench.read(&other).await.unwrap(), "other");
        assert_eq!(bench.environments.seen(&one).unwrap().expose(), "canary-1");
        pass(60).await;
    }
    assert_eq!(
        *bench.service.asked.lock().unwrap(),
        [
            "POST /api/esc/environments/acme/infra/siem/open?duration=2h",
            "GET /api/esc/environments/acme/infra/siem/open/session-1"
        ]
    );
    pass(60).await;
    assert!(
        matches!(bench.environments.seen(&one), Err(SecretError::Unavailable { .. })),
        "the session has ended"
    );
    *bench.service.value.lock().unwrap() = "canary-2".into();
    assert_eq!(bench.read(&one).await.unwrap(), "canary-2");
    assert_eq!(bench.opened(), 2);
    bench.read(&bench.secret("acme/infra/siem@3#a.b")).await.unwrap();
    assert_eq!(bench.opened(), 3, "another version is another environment");
}

#[tokio::test(start_paused = true)]
async fn many_read_and_one_opens() {
    let bench = bench();
    let secret = bench.secret("acme/infra/siem#a.b");
    let tasks: Vec<_> = (0..50)
        .map(|_| {
            let (environments, secret) = (bench.environments.clone(), secret.clone());
            tokio::spawn(async move { environments.read(&secret, Freshness::Kept).await.is_ok() })
        })
        .collect();
    for task in tasks {
        assert!(task.await.unwrap());
    }
    assert_eq!(bench.opened(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_secret_opens_its_environment_again_once_in_five_minutes() {
    let bench = bench();
    let secret = bench.secret("acme/infra/siem#a.b");
    bench.read(&secret).await.unwrap();
    *bench.service.value.lock().unwrap() = "canary-2".into();
    assert_eq!(bench.renewed(&secret).await.unwrap(), "canary-1", "it has just been opened");
    assert_eq!(bench.opened(), 1);
    pass(301).await;
    assert_eq!(bench.renewed(&secret).await.unwrap(), "canary-2");
    for _ in 0..60 {
        assert_eq!(bench.renewed(&secret).await.unwrap(), "canary-2");
        pass(60).await;
    }
    assert!((11..=14).contains(&bench.opened()), "{} openings in 65 minutes", bench.opened());
}

#[tokio::test(start_paused = true)]
async fn what_was_read_is_used_on_while_pulumi_does_not_answer_but_not_for_ever() {
    let bench = bench();
    let secret = bench.secret("acme/infra/siem#a.b");
    bench.read(&secret).await.unwrap();
    *bench.service.down.lock().unwrap() = true;
    assert_eq!(bench.renewed(&secret).await.unwrap(), "canary-1");
    let before = bench.service.asked.lock().unwrap().len();
    for _ in 0..23 {
        pass(3_600).await;
        assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    }
    assert!(bench.service.asked.lock().unwrap().len() - before <= 24);
    pass(3_600).await;
    let error = bench.read(&secret).await.unwrap_err();
    assert!(matches!(&error, SecretError::Unavailable { wait: None, .. }), "{error}");
    *bench.service.down.lock().unwrap() = false;
    pass(300).await;
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_ends_a_secret_with_its_session_and_is_not_asked_for_again_and_again() {
    let bench = bench();
    let secret = bench.secret("acme/infra/siem#a.b");
    bench.read(&secret).await.unwrap();
    bench.refuses(403, r#"{"code":403,"message":"[environment:open] is required"}"#);
    pass(400).await;
    assert_eq!(bench.renewed(&secret).await.unwrap(), "canary-1", "while the session goes on");
    pass(7_200).await;
    let before = bench.opened();
    for _ in 0..60 {
        let error = bench.read(&secret).await.unwrap_err().to_string();
        assert!(
            error.contains("ESC environment acme/infra/siem#a.b") && error.contains("environment:open"),
            "{error}"
        );
        assert!(!error.contains("canary"), "{error}");
        pass(60).await;
    }
    assert!((4..=5).contains(&(bench.opened() - before)), "{} in an hour", bench.opened() - before);
    *bench.service.refusal.lock().unwrap() = None;
    pass(900).await;
    assert!(bench.read(&secret).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn every_answer_is_sorted_and_none_shows_a_token_or_a_value() {
    for (status, body, part) in [
        (
            400,
            r#"{"code":400,"message":"bad","diagnostics":[{"summary":"no provider x for token-1"}]}"#,
            "no provider x for [REDACTED]",
        ),
        (404, r#"{"code":404,"message":"not found"}"#, "see that environment `acme/infra/siem` exists"),
        (307, "", "redirect"),
        (418, "<html>", "correct environment"),
    ] {
        let bench = bench();
        bench.refuses(status, body);
        let error = bench.read(&bench.secret("acme/infra/siem#a.b")).await.unwrap_err();
        assert!(matches!(error, SecretError::Withheld { .. }), "{error:?}");
        assert!(error.to_string().contains(part), "{error}");
    }
    for (status, body) in [(200, r#"{"diagnostics":[]}"#), (200, ""), (500, ""), (503, "<html>"), (408, "")] {
        let bench = bench();
        bench.refuses(status, body);
        let error = bench.read(&bench.secret("acme/infra/siem#a.b")).await.unwrap_err();
        assert!(matches!(error, SecretError::Unavailable { wait: None, .. }), "{error:?}");
    }
    let bench = bench();
    for (path, part) in [("a.x", "there is no `a.x`"), ("a", "`a` is a map"), ("z", "there is no `z`")] {
        let error =
            bench.read(&bench.secret(&format!("acme/infra/siem#{path}"))).await.unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("canary"), "{error}");
    }
    *bench.service.value.lock().unwrap() = "canary one".into();
    pass(7_200).await;
    let secret = bench.secret("acme/infra/siem#a.b");
    let error = bench.read(&secret).await.unwrap_err();
    assert!(
        matches!(&error, SecretError::Malformed { .. }) && !error.to_string().contains("canary"),
        "{error}"
    );
    let bytes = bench.environments.read_bytes(&secret, Freshness::Kept).await.unwrap();
    assert_eq!(bytes.expose(), b"canary one");
    *bench.service.value.lock().unwrap() = String::new();
    pass(7_200).await;
    assert!(matches!(bench.read(&secret).await, Err(SecretError::Empty { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_gives_way_to_the_next_one_which_is_then_the_first() {
    let bench = bench();
    let (token, next) = (bench.stored("token", "revoked"), bench.stored("next", "token-1"));
    let credentials = SourceCredentials::Stored { token, next_token: Some(next) };
    let secret = bench.by(credentials, "acme/infra/siem#a.b");
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    assert_eq!(bench.opened(), 2);
    pass(7_200).await;
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    assert_eq!(bench.opened(), 3);
    bench.service.accepted.lock().unwrap().clear();
    pass(7_200).await;
    let error = bench.read(&secret).await.unwrap_err();
    assert!(matches!(error, SecretError::Withheld { .. }), "{error:?}");
    assert!(error.to_string().contains("401") && !error.to_string().contains("token-1"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn an_exchanged_token_opens_environments_and_is_exchanged_once_more_when_it_is_refused() {
    let bench = bench();
    let subject = bench.folder.path().join("subject");
    std::fs::write(&subject, "subject").unwrap();
    let oidc = Oidc {
        organization: "acme".into(),
        subject_token_file: subject,
        token_type: TokenType::Organization,
        scope: String::new(),
        expiration: None,
    };
    let secret = bench.by(SourceCredentials::Exchanged(oidc), "acme/infra/siem#a.b");
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    let exchanges =
        || bench.service.asked.lock().unwrap().iter().filter(|asked| asked.contains("oauth")).count();
    pass(7_200).await;
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    assert_eq!(exchanges(), 1);
    *bench.service.accepted.lock().unwrap() = vec!["pul-2".into()];
    pass(7_200).await;
    assert_eq!(bench.read(&secret).await.unwrap(), "canary-1");
    assert_eq!(exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn secrets_on_this_machine_are_read_as_they_stand_and_an_environment_that_nobody_reads_is_forgotten() {
    let bench = bench();
    let stored = bench.stored("secret", "here");
    assert_eq!(bench.read(&stored).await.unwrap(), "here");
    assert_eq!(bench.environments.seen(&stored).unwrap().expose(), "here");
    assert!(bench.service.asked.lock().unwrap().is_empty());
    let secret = bench.secret("acme/infra/siem#a.b");
    assert!(matches!(secret.read(), Err(SecretError::Unavailable { .. })), "nothing is opened unasked");
    bench.read(&secret).await.unwrap();
    pass(50 * 3_600).await;
    bench.read(&bench.secret("acme/infra/other#a.b")).await.unwrap();
    assert_eq!(bench.environments.known().len(), 1);
}
