//! Pulumi without a stored secret: tokens in exchange for the platform's, and destinations' secrets out of ESC; each exchange and
//! each opening is an audit event, so they are counted.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::slice::from_ref;

use bytes::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::delivery::binary;
use crate::forwarder::{asked, command, complete, err, metric, out, party, paused, recent, start, works};
use crate::world::World;
use crate::world::clock::WorldClock;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::Pulumi;
use crate::world::pulumi::behaviour::{Behaviour, Fault};
use crate::world::pulumi::events::Generator;
use crate::world::pulumi::oauth::Issuer;
use crate::world::s3::seaweed::{ACCESS_KEY, SECRET_KEY};
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, TENANT};
use crate::world::verdict::{Cut, Verdict};

const SUBJECT: &str = "system:serviceaccount:audit:forwarder";
const SIEM: &str = "infra/siem";

/// Puts the platform's token where the daemon reads it, as Kubernetes does: readable by others.
fn project(world: &World, token: &str) -> PathBuf {
    let file = world.paths.write_secret("subject", token);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).expect("its mode can be set");
    file
}

fn exchanging(world: &World, org: &str) -> OrgSetup {
    let file = project(world, &world.pulumi().org(org).issue(SUBJECT, 3_600));
    recent(world, org).with_oidc(&format!("{{ subject_token_file = {file:?} }}"))
}

fn more_events(world: &World, org: &str, seed: u64) {
    world.pulumi().org(org).add(Generator::seeded(seed).burst(world.clock.now() - 1, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_exchange_reads_the_log_and_is_exchanged_once_more_when_it_is_refused() {
    let world = World::with_events(40).await;
    let pulumi = world.pulumi().org("acme");
    pulumi.trust(Issuer::for_organization(SUBJECT));
    let acme = exchanging(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert_eq!(pulumi.exchanges().len(), 1);
    let refreshes = [("org", "acme"), ("credential", "source"), ("outcome", "ok")];
    assert_eq!(metric(&mut daemon, "credential_refreshes_total", &refreshes).await, Some(1.0));
    let ends = metric(&mut daemon, "credential_expiry_timestamp_seconds", &refreshes[..2]).await;
    let ends = ends.expect("it is known") - world.clock.now() as f64;
    assert!((7_000.0..=7_201.0).contains(&ends), "{ends}");
    let slot = [("org", "acme"), ("credential", "source"), ("slot", "first")];
    assert_eq!(metric(&mut daemon, "credential_in_use", &slot).await, Some(1.0));
    let in_use = party(&mut daemon, "acme", "source").await.expect("it answers")["token"].clone();
    assert_eq!(in_use["slot"], "oidc", "{in_use}");

    // The platform has replaced its token, and the one it was exchanged for is revoked.
    let first = pulumi.exchanges().remove(0);
    let second = pulumi.issue(SUBJECT, 3_600);
    project(&world, &second);
    pulumi.revoke_token(&first.access_token);
    more_events(&world, "acme", 2);
    complete(&world, &acme).await;
    assert_eq!(party(&mut daemon, "acme", "source").await.expect("it answers")["token"], in_use);
    let exchanges = pulumi.exchanges();
    assert_eq!(exchanges.len(), 2);
    assert_eq!(exchanges[1].subject_token, second);
    assert!(daemon.stop().await.success());
    for entry in world.pulumi().ledger.entries().iter().filter(|entry| entry.about == "acme/exchange") {
        assert_eq!((entry.method.as_str(), entry.header("authorization")), ("POST", None));
    }
    let log = daemon.log();
    for secret in [&first.subject_token, &first.access_token, &second, &exchanges[1].access_token] {
        assert!(!log.contains(secret));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orgs_that_ask_for_the_same_token_share_one_exchange() {
    let world = World::builder().orgs(&["acme", "beta", "gamma"]).events(40).start().await;
    let pulumi = world.pulumi().org("acme");
    pulumi.trust(Issuer::for_person(SUBJECT, "auditor"));
    let file = project(&world, &pulumi.issue(SUBJECT, 3_600));
    let oidc = format!(
        "{{ subject_token_file = {file:?}, token_type = \"personal\", scope = \"user:auditor\", organization = \"acme\" }}"
    );
    // The answer to the first exchange is lost on its way: it happened, and has to be made once more.
    pulumi.exchange_fault(Fault::Lost(Cut::Close), Times::Next(1));
    let orgs = ["acme", "beta", "gamma"].map(|org| recent(&world, org).with_oidc(&oidc).with_file());
    let mut daemon = start(&world, &orgs);
    for org in &orgs {
        complete(&world, org).await;
    }
    assert_eq!(pulumi.exchanges().len(), 2);
    assert_eq!(world.pulumi().ledger.requests("acme/exchange"), 2);
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_that_is_refused_pauses_the_source_until_the_platform_replaces_its_token() {
    let world = World::builder().orgs(&["acme", "beta"]).events(40).start().await;
    let pulumi = world.pulumi().org("acme");
    pulumi.trust(Issuer::for_organization(SUBJECT));
    let acme = exchanging(&world, "acme").with_file();
    let file = project(&world, &pulumi.issue(SUBJECT, -10));
    let beta = recent(&world, "beta").with_file();
    let mut daemon = start(&world, &[acme.clone(), beta]);
    let remedy = paused(&mut daemon, "acme", "source", "credentials").await;
    for part in ["urn:pulumi:org:acme", &file.to_string_lossy(), "organization tokens"] {
        assert!(remedy.contains(part), "`{part}` is in: {remedy}");
    }
    let (good, said) = checked(&world).await;
    assert!(!good && said.contains("exchange     FAILED") && said.contains("invalid_grant"), "{said}");
    asked(&world, "beta", 3).await;
    // The daemon's own, and that of `check`.
    let asked = world.pulumi().ledger.requests("acme/exchange");
    assert!((2..=3).contains(&asked), "{asked}: it does not ask again and again");
    project(&world, &pulumi.issue(SUBJECT, 3_600));
    works(&mut daemon, "acme", "source").await;
    complete(&world, &acme).await;
    assert_eq!(pulumi.exchanges().len(), 1);
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_goes_over_from_a_stored_token_to_an_exchange_and_back_while_the_daemon_runs() {
    let world = World::with_events(40).await;
    let pulumi = world.pulumi().org("acme");
    pulumi.trust(Issuer::for_organization(SUBJECT));
    let stored = recent(&world, "acme").with_sentinel().with_file();
    let mut daemon = start(&world, from_ref(&stored));
    complete(&world, &stored).await;
    let file = project(&world, &pulumi.issue(SUBJECT, 3_600));
    let exchanged = stored.clone().with_oidc(&format!("{{ subject_token_file = {file:?} }}"));
    for (seed, (setup, slot)) in [(&exchanged, "oidc"), (&stored, "token")].into_iter().enumerate() {
        world.write_org(setup);
        more_events(&world, "acme", 2 + seed as u64);
        until("the other credential is in use", async || {
            let source = party(&mut daemon, "acme", "source").await.unwrap_or_default();
            source["token"]["slot"] == slot
        })
        .await;
        complete(&world, setup).await;
    }
    assert_eq!(pulumi.exchanges().len(), 1);
    assert!(daemon.stop().await.success());
    world.check_file("acme").assert_complete();
    assert_eq!(world.check_sentinel("acme").removable, 0);
    assert!(daemon.log().contains("source.oidc"), "what changed is named");
}

/// What `check` says, in whole.
async fn checked(world: &World) -> (bool, String) {
    let ended = command(world, &["check"]).await;
    (ended.status.success(), format!("{}{}", out(&ended), err(&ended)))
}

fn in_siem(path: &str) -> String {
    format!("{{ esc = \"acme/{SIEM}#{path}\" }}")
}

fn client_secret_in_siem(path: &str) -> String {
    format!(
        "{{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {} }}",
        in_siem(path)
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_sentinel_and_of_s3_come_out_of_one_opening_with_the_exchanged_token() {
    let world = World::builder().with_s3().events(40).start().await;
    let pulumi = world.pulumi().org("acme");
    pulumi.trust(Issuer::for_organization(SUBJECT));
    let values = json!({"azure": {"tenant": TENANT, "secret": CLIENT_SECRET}, "aws": {"keys": [SECRET_KEY]}});
    pulumi.write_environment(SIEM, values);
    let mut acme =
        exchanging(&world, "acme").with_sentinel_as(&client_secret_in_siem("azure.secret")).with_s3();
    acme.s3_key = false;
    acme.more_s3 =
        format!("access_key_id = {ACCESS_KEY:?}\nsecret_access_key = {}\n", in_siem("aws[\\\"keys\\\"][0]"));
    world.write_config(from_ref(&acme), "");
    let log = world.paths.root.join("log");
    let mut daemon =
        Daemon::start_with(binary(), &world.paths.config, &log, &["--log-level", "trace", "run"]);
    complete(&world, &acme).await;
    assert_eq!(pulumi.openings(SIEM), (1, 1));
    assert_eq!(pulumi.exchanges().len(), 1, "the source and the environment share one");

    let (good, said) = checked(&world).await;
    assert!(good, "{said}");
    assert_eq!(said.matches("secret       ok").count(), 2, "{said}");
    assert!(said.contains("exchange     ok"), "{said}");
    assert_eq!(pulumi.openings(SIEM), (2, 2), "`check` opens it once for itself");
    assert_eq!(pulumi.exchanges().len(), 2);

    // A secret that is refused: it was read less than five minutes ago, so nothing is opened, whoever asks however often.
    world.azure().rotate_secret("another~simulated~secret");
    more_events(&world, "acme", 2);
    let remedy = paused(&mut daemon, "acme", "sentinel", "credentials").await;
    assert!(remedy.contains(&format!("ESC environment acme/{SIEM}#azure.secret")), "{remedy}");
    assert_eq!(pulumi.openings(SIEM), (2, 2));
    let status = daemon.get("/api/status").await.expect("it answers").1;
    assert!(daemon.stop().await.success());
    pulumi.write_environment(
        SIEM,
        json!({"azure": {"secret": "another~simulated~secret"}, "aws": {"keys": [SECRET_KEY]}}),
    );
    let told = format!("{}{}{said}{status}", daemon.log(), daemon.out());
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert_eq!(pulumi.openings(SIEM), (3, 3));
    assert!(daemon.stop().await.success());
    for exchange in pulumi.exchanges() {
        for secret in [exchange.subject_token, exchange.access_token] {
            assert!(!told.contains(&secret));
        }
    }
    assert!(!told.contains(CLIENT_SECRET) && !told.contains(SECRET_KEY));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_cannot_be_read_names_what_to_do_and_holds_up_nobody_else() {
    let world = World::with_events(40).await;
    let pulumi = world.pulumi().org("acme");
    let token = pulumi.token();
    pulumi.write_environment(SIEM, json!({"azure": {"secret": {"unknown": true}, "pin": 1234}}));
    let with = |path: &str| recent(&world, "acme").with_sentinel_as(&client_secret_in_siem(path)).with_file();
    for (path, part) in [
        ("azure.secret", "the value of `azure.secret` is unknown"),
        ("azure.sekret", "there is no `azure.sekret` in it"),
        ("azure", "`azure` is a map"),
        ("azure.pin", "put it in quotes"),
    ] {
        world.write_config(&[with(path)], "");
        let (good, said) = checked(&world).await;
        assert!(!good && said.contains("secret       FAILED") && said.contains(part), "{said}");
        assert!(!said.contains("1234"), "{said}");
    }
    pulumi.spoil_environment(SIEM, Some(&format!("no provider `x` for {token}")));
    let (_, said) = checked(&world).await;
    assert!(
        said.contains("no provider `x` for [REDACTED]") && said.contains("correct environment"),
        "{said}"
    );
    pulumi.spoil_environment(SIEM, None);
    pulumi.environment_fault(Fault::html(503), Times::Next(1));
    let (_, said) = checked(&world).await;
    assert!(said.contains("secret       UNREACHABLE"), "{said}");

    pulumi.allow_open(&token, false);
    let acme = with("azure.secret");
    let mut daemon = start(&world, from_ref(&acme));
    paused(&mut daemon, "acme", "sentinel", "credentials").await;
    let cause = party(&mut daemon, "acme", "sentinel").await.expect("it answers")["cause"].to_string();
    let said = format!("{cause}{}", daemon.log());
    assert!(said.contains("environment:open"), "{said}");
    world.pulumi().org("acme").allow_open(&token, true);
    let file_only = OrgSetup { sentinel: false, ..acme };
    complete(&world, &file_only).await;
    let before = world.pulumi().ledger.requests("acme/environments");
    asked(&world, "acme", 3).await;
    assert_eq!(world.pulumi().ledger.requests("acme/environments"), before, "a refusal stands for a while");
    assert!(daemon.stop().await.success());
}

// ---- The simulated service itself, asked without a network ----

fn answered(verdict: &Verdict) -> (u16, Value) {
    let response = verdict.response.as_ref().expect("an answer");
    (response.status().as_u16(), serde_json::from_slice(response.body()).expect("a JSON body"))
}

#[test]
fn the_world_exchanges_what_an_issuer_has_issued_for_a_token_that_ends() {
    let (clock, turn) = WorldClock::turned(1_795_256_100);
    let pulumi = Pulumi::new(clock, 1);
    pulumi.found("acme", Behaviour::mysql());
    let org = pulumi.org("acme");
    let mut issuer = Issuer::for_organization(SUBJECT);
    issuer.max_expiration = 3_600;
    org.trust(issuer);
    let subject = org.issue(SUBJECT, 600);
    let fields = |subject: &str| {
        [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", "urn:pulumi:org:acme"),
            ("subject_token_type", "urn:ietf:params:oauth:token-type:id_token"),
            ("requested_token_type", "urn:pulumi:token-type:access_token:organization"),
            ("subject_token", subject),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let ask = |fields: &[(String, String)], as_json: bool| {
        let (content_type, body) = if as_json {
            let map: serde_json::Map<String, Value> =
                fields.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
            ("application/json", Value::from(map).to_string())
        } else {
            let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
            ("application/x-www-form-urlencoded", pairs.join("&"))
        };
        let request = Request::post("/api/oauth/token").header("content-type", content_type);
        answered(&pulumi.answer(request.body(Bytes::from(body)).expect("a request")))
    };
    let list = |token: &str| {
        let request =
            Request::get("/api/orgs/acme/auditlogs/v2").header("authorization", format!("token {token}"));
        answered(&pulumi.answer(request.body(Bytes::new()).expect("a request")))
    };
    for as_json in [false, true] {
        let (status, body) = ask(&fields(&subject), as_json);
        assert_eq!((status, &body["expires_in"]), (200, &json!(3_600)), "{body}");
        assert_eq!(list(body["access_token"].as_str().expect("a token")).0, 200);
    }
    let token = org.exchanges()[0].access_token.clone();
    let (_, page) = list(&token);
    let events = page["auditLogEvents"].as_array().expect("events");
    assert_eq!(events.len(), 2, "each exchange is an event");
    assert_eq!(events[0]["event"], "organization-token-created-for-oidc-issuer");

    let mut wrong = fields(&subject);
    "urn:pulumi:token-type:access_token:team".clone_into(&mut wrong[3].1);
    assert_eq!(ask(&wrong, false).1["error"], "invalid_grant");
    "refresh".clone_into(&mut wrong[0].1);
    assert_eq!(ask(&wrong, false).1["error"], "unsupported_grant_type");
    assert_eq!(ask(&fields("no.such.token"), false).1["error"], "invalid_grant");
    turn.advance(std::time::Duration::from_secs(601));
    assert_eq!(ask(&fields(&subject), false).1["error_description"], "token is expired");
    turn.advance(std::time::Duration::from_secs(3_000));
    assert_eq!(list(&token).0, 401, "the access token has ended too");
    assert_eq!(org.exchanges().len(), 2);
}

#[test]
fn the_world_opens_environments_for_a_session_and_leaves_two_events_a_reading() {
    let (clock, turn) = WorldClock::turned(1_795_256_100);
    let pulumi = Pulumi::new(clock, 1);
    pulumi.found("acme", Behaviour::mysql());
    let org = pulumi.org("acme");
    org.write_environment(SIEM, json!({"a": {"b": "x"}, "n": [1]}));
    let token = org.token();
    let ask = |method: &str, path: &str| {
        let request = Request::builder().method(method).uri(format!("/api/esc/environments/acme/{path}"));
        let request = request.header("authorization", format!("token {token}"));
        answered(&pulumi.answer(request.body(Bytes::new()).expect("a request")))
    };
    let (status, opened) = ask("POST", "infra/siem/open?duration=2h");
    assert_eq!(status, 200);
    let session = format!("infra/siem/open/{}", opened["id"].as_str().expect("an id"));
    let (_, values) = ask("GET", &session);
    assert_eq!(values["properties"]["a"]["value"]["b"], json!({"value": "x", "secret": true}));
    assert_eq!(values["properties"]["n"]["value"], json!([{"value": 1}]));
    assert_eq!(ask("POST", "infra/siem/versions/3/open").0, 200);
    assert_eq!(ask("POST", "infra/other/open").0, 404);
    assert_eq!(org.openings(SIEM), (2, 1));
    assert_eq!(org.len(), 3);
    org.allow_open(&token, false);
    assert_eq!(ask("POST", "infra/siem/open").0, 403);
    assert_eq!(org.truth().len(), 4, "a refusal is an event too");
    turn.advance(std::time::Duration::from_secs(7_200));
    assert_eq!(ask("GET", &session).0, 404, "the session has ended");
}
