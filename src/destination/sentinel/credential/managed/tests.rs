//! The metadata service in memory: what is asked, and every shape of its answers.

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::http::Failure;
use crate::problem::{PauseReason, Problem};
use crate::secret::{Place, SecretSource};

const NOW: Second = Second(1_795_256_100);

#[derive(Default)]
struct Service {
    replies: Mutex<VecDeque<Result<Response, Failure>>>,
    asked: Mutex<Vec<Request>>,
}

#[async_trait]
impl Transport for Service {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        self.asked.lock().unwrap().push(request);
        self.replies.lock().unwrap().pop_front().unwrap()
    }
}

fn reply(status: u16, headers: &[(&'static str, &'static str)], body: &str) -> Result<Response, Failure> {
    let headers = headers
        .iter()
        .map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value)));
    Ok(Response { status, headers: headers.collect(), body: Bytes::copy_from_slice(body.as_bytes()) })
}

fn managed(host: ManagedHost, id: ManagedId) -> (Managed, Arc<Service>) {
    let service = Arc::<Service>::default();
    let transport = Arc::clone(&service) as Arc<dyn Transport>;
    let scope = "https://monitor.azure.com/.default".to_owned();
    (Managed { host, id, scope, transport, clock: Clock::simulated(NOW) }, service)
}

async fn answers(answer: Result<Response, Failure>) -> Fetched {
    let (managed, service) = managed(ManagedHost::Machine, ManagedId::Client("client-7".into()));
    service.replies.lock().unwrap().push_back(answer);
    managed.fetch().await
}

async fn refusal(answer: Result<Response, Failure>) -> Problem {
    match answers(answer).await {
        Err(NoToken::Refused(problem)) => problem,
        other => panic!("{:?}", other.map(|(_, life)| life)),
    }
}

fn app_service(variable: &str) -> ManagedHost {
    let header = SecretSource { place: Place::Env(variable.into()), group_may_read: false };
    ManagedHost::AppService { endpoint: "http://127.0.0.1:41741/msi/token".into(), header }
}

#[tokio::test(start_paused = true)]
async fn each_identity_is_asked_for_in_the_words_of_its_host() {
    let ids = [
        (ManagedId::System, "", ""),
        (ManagedId::Client("c-1".into()), "&client_id=c%2D1", "&client_id=c%2D1"),
        (ManagedId::Object("o-1".into()), "&object_id=o%2D1", "&object_id=o%2D1"),
        (ManagedId::Resource("/s/x".into()), "&msi_res_id=%2Fs%2Fx", "&mi_res_id=%2Fs%2Fx"),
    ];
    let resource = "resource=https%3A%2F%2Fmonitor%2Eazure%2Ecom";
    for (id, machine, app) in ids {
        let (asking, service) = managed(ManagedHost::Machine, id.clone());
        service.replies.lock().unwrap().push_back(reply(200, &[], "{}"));
        assert!(asking.fetch().await.is_err());
        let asked = service.asked.lock().unwrap().remove(0);
        assert_eq!(asked.method, Method::GET);
        assert_eq!(asked.headers["metadata"], "true");
        assert_eq!(
            asked.url,
            format!(
                "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&{resource}{machine}"
            )
        );
        // Any variable that is surely set.
        let (asking, service) = managed(app_service("CARGO_PKG_NAME"), id);
        service.replies.lock().unwrap().push_back(reply(200, &[], "{}"));
        assert!(asking.fetch().await.is_err());
        let asked = service.asked.lock().unwrap().remove(0);
        assert_eq!(asked.headers["x-identity-header"], "pulumi-audit-forwarder");
        assert!(asked.headers["x-identity-header"].is_sensitive() && !asked.headers.contains_key("metadata"));
        assert_eq!(
            asked.url,
            format!("http://127.0.0.1:41741/msi/token?api-version=2019-08-01&{resource}{app}")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_tokens_life_is_understood_in_every_spelling() {
    let until = NOW.0 + 3_600;
    for (body, seconds) in [
        (
            format!(r#"{{"access_token":"t","expires_in":"3599","expires_on":"{until}","resource":"r"}}"#),
            3_599,
        ),
        (format!(r#"{{"access_token":"t","expires_on":"{until}"}}"#), 3_600),
        (format!(r#"{{"access_token":"t","expires_on":{until}}}"#), 3_600),
        (r#"{"access_token":"t","expires_in":86399}"#.to_owned(), 86_399),
        (r#"{"access_token":"t","expires_on":"1506484173"}"#.to_owned(), 0),
        (r#"{"access_token":"t","expires_on":"11/21/2026 10:00:00 AM +00:00"}"#.to_owned(), 0),
        (r#"{"access_token":"t"}"#.to_owned(), 0),
    ] {
        let (secret, life) = answers(reply(200, &[], &body)).await.unwrap();
        assert_eq!((secret.expose(), life.as_secs()), ("t", seconds), "{body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_machine_without_this_identity_is_told_how_to_get_it() {
    let unknown = r#"{"error":"invalid_request","error_description":"Identity not found"}"#;
    let problem = refusal(reply(400, &[], unknown)).await;
    assert_eq!(problem.reason, PauseReason::Credentials);
    assert_eq!(
        problem.cause,
        "the metadata service (169.254.169.254) answered 400 invalid_request for the managed identity with client id `client-7`"
    );
    assert!(
        problem.remedy.contains("assign the managed identity with client id `client-7`"),
        "{}",
        problem.remedy
    );

    let (system, service) = managed(ManagedHost::Machine, ManagedId::System);
    service.replies.lock().unwrap().push_back(reply(400, &[], unknown));
    let Err(NoToken::Refused(problem)) = system.fetch().await else { panic!() };
    assert!(problem.remedy.contains("switch on the system-assigned identity"), "{}", problem.remedy);
}

#[tokio::test(start_paused = true)]
async fn what_passes_by_itself_is_not_a_refusal() {
    for (status, body) in
        [(404, ""), (410, ""), (408, ""), (500, "{}"), (503, ""), (504, ""), (200, "{}"), (200, "<html>")]
    {
        let answer = answers(reply(status, &[], body)).await;
        assert!(matches!(answer, Err(NoToken::Failed(_))), "{status}");
    }
    assert!(matches!(
        answers(reply(200, &[], r#"{"access_token":"","expires_in":"3599"}"#)).await,
        Err(NoToken::Failed(_))
    ));
    let throttled = answers(reply(429, &[("retry-after", "7")], "")).await;
    assert!(
        matches!(throttled, Err(NoToken::Throttled { wait: Some(wait), .. }) if wait == Duration::from_secs(7))
    );
    assert!(matches!(answers(reply(429, &[], "")).await, Err(NoToken::Throttled { wait: None, .. })));
    assert!(matches!(answers(Err(Failure::Connection("refused".into()))).await, Err(NoToken::Failed(_))));
    for status in [302, 401, 403, 407] {
        assert_eq!(refusal(reply(status, &[], "<html>")).await.reason, PauseReason::Configuration);
    }
}

#[tokio::test(start_paused = true)]
async fn app_services_own_refusals_are_told_apart() {
    let ask = async |host, status| {
        let (asking, service) = managed(host, ManagedId::System);
        service.replies.lock().unwrap().push_back(reply(
            status,
            &[],
            r#"{"statusCode":0,"message":"canary"}"#,
        ));
        match asking.fetch().await {
            Err(NoToken::Refused(problem)) => problem,
            other => panic!("{:?}", other.map(|(_, life)| life)),
        }
    };
    assert!(ask(app_service("CARGO_PKG_NAME"), 401).await.remedy.contains("IDENTITY_HEADER"));
    assert!(ask(app_service("CARGO_PKG_NAME"), 400).await.remedy.contains("switch on the app's"));
    let problem = ask(app_service("PAF_TEST_NEVER_SET"), 200).await;
    assert!(problem.cause.contains("environment variable PAF_TEST_NEVER_SET"), "{}", problem.cause);
}

#[tokio::test(start_paused = true)]
async fn the_metadata_service_is_told_from_what_answers_in_other_clouds() {
    let metadata =
        r#"{"error":"invalid_request","error_description":"Required metadata header not specified"}"#;
    for (answer, there) in [
        (reply(400, &[], metadata), true),
        (reply(429, &[], ""), true),
        (reply(410, &[], ""), true),
        (reply(500, &[], ""), true),
        (reply(400, &[], "<html>"), false),
        (reply(401, &[], ""), false),
        (reply(404, &[], ""), false),
        (reply(200, &[], "{}"), false),
        (Err(Failure::Timeout(PROBE_DEADLINE)), false),
    ] {
        let (asking, service) = managed(ManagedHost::Machine, ManagedId::System);
        service.replies.lock().unwrap().push_back(answer);
        assert_eq!(asking.is_there().await, there);
        assert!(!service.asked.lock().unwrap()[0].headers.contains_key("metadata"));
    }
}
