//! Secrets are exchanged while the forwarder runs: no call fails that need not, and nothing is lost, doubled or late.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::simulation::{BEGIN, HOUR, MINUTE, SOON, Simulation};
use super::wire::ENTRA;
use crate::forwarder::sample;
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::{ACCESS_KEY, CLIENT_ID, TENANT};

const NEXT_SECRET: &str = "simulated~second~client~secret";

fn log(simulation: &Simulation, seed: u64, hours: i64) {
    simulation.add("acme", Generator::seeded(seed).background(BEGIN, BEGIN + hours * HOUR, 12.0));
}

/// A forwarder with a second token, whose place is as it says.
fn with_next_token(next: &str) -> Simulation {
    let mut simulation = Simulation::of(&["acme"]);
    let place = simulation.write_next_token("acme", next);
    simulation.setup("acme").source = format!("next_token = {{ file = {place:?} }}");
    simulation
}

fn refused(simulation: &Simulation, status: u16) -> u64 {
    simulation.pulumi.ledger.answered("acme", status)
}

fn slot(simulation: &Simulation) -> String {
    simulation.status("acme").source.token.map(|token| token.slot).unwrap_or_default()
}

fn warning(simulation: &Simulation) -> String {
    simulation.status("acme").source.token.and_then(|token| token.warning).unwrap_or_default()
}

fn metric(simulation: &Simulation, name: &str, labels: &[(&str, &str)]) -> f64 {
    sample(&simulation.metrics(), name, labels).expect("there is such a series")
}

#[tokio::test(start_paused = true)]
async fn a_replaced_token_is_in_use_within_seconds_and_the_old_one_can_go_without_a_refused_call() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, 21, 2);
    simulation.start();
    simulation.pass(HOUR).await;
    let old = simulation.org("acme").token();
    let new = simulation.org("acme").add_token();
    let since = simulation.status("acme").source.token.expect("one is in use").since;
    simulation.write_token("acme", &new);
    simulation.nudge();
    simulation.pass(SOON).await;
    let token = simulation.status("acme").source.token.expect("one is in use");
    assert!(token.slot == "token" && token.since > since, "{token:?}");
    simulation.org("acme").revoke_token(&old);
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
    assert_eq!(refused(&simulation, 401), 0);
    let labels = [("org", "acme"), ("credential", "source"), ("outcome", "ok")];
    assert_eq!(metric(&simulation, "credential_refreshes_total", &labels), 1.0);
}

#[tokio::test(start_paused = true)]
async fn when_the_secret_in_use_ends_is_said_for_as_long_as_it_is_known() {
    let mut simulation = Simulation::of(&["acme"]);
    let end = BEGIN + 10 * 24 * HOUR;
    let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{end}}}"#)));
    simulation.org("acme").add_token_as(&jwt);
    simulation.start();
    simulation.pass(HOUR).await;
    let ends = |simulation: &Simulation| {
        ["credential_secret_expiry_timestamp_seconds", "credential_expiry_timestamp_seconds"]
            .map(|name| sample(&simulation.metrics(), name, &[("org", "acme"), ("credential", "source")]))
    };
    assert_eq!(ends(&simulation), [None, None]);
    simulation.write_token("acme", &jwt);
    simulation.nudge();
    simulation.pass(SOON).await;
    assert_eq!(ends(&simulation), [Some(end as f64); 2]);
    let plain = simulation.org("acme").add_token();
    simulation.write_token("acme", &plain);
    simulation.nudge();
    simulation.pass(SOON).await;
    assert_eq!(ends(&simulation), [None, None], "it says nothing of the sort");
}

#[tokio::test(start_paused = true)]
async fn a_wrong_token_in_its_place_costs_one_refused_call_and_replaces_nothing() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, 22, 3);
    simulation.start();
    simulation.pass(HOUR).await;
    let token = simulation.org("acme").token();
    for bytes in [&b""[..], b"\n", b"two\nlines\n", b"pul-\xff\xfe"] {
        simulation.write_over("acme-token", bytes);
        simulation.nudge();
        simulation.pass(6 * MINUTE).await;
        assert_eq!(simulation.source("acme"), ("ok", String::new()));
        assert!(warning(&simulation).contains("stays in use"), "{}", warning(&simulation));
    }
    assert_eq!(refused(&simulation, 401), 0, "what is no token is not sent");
    simulation.write_over("acme-token", &token.as_bytes()[..20]);
    simulation.nudge();
    simulation.pass(HOUR).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    assert_eq!(refused(&simulation, 401), 1, "half a token is tried once");
    assert!(warning(&simulation).contains("401"), "{}", warning(&simulation));
    simulation.write_over("acme-token", format!("\u{feff}{token}\r\n").as_bytes());
    simulation.nudge();
    simulation.pass(SOON).await;
    assert_eq!(warning(&simulation), "");
    simulation.pass_until(BEGIN + 4 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_next_token_is_tried_on_request_and_the_first_can_go_without_a_refused_call() {
    let mut simulation = with_next_token("not-known-yet");
    log(&simulation, 23, 2);
    simulation.start();
    simulation.pass(HOUR).await;
    let first = simulation.org("acme").token();
    assert_eq!((slot(&simulation), refused(&simulation, 401)), ("token".to_owned(), 0));
    let next = simulation.org("acme").add_token();
    simulation.write_next_token("acme", &next);
    simulation.nudge();
    simulation.pass(SOON).await;
    assert_eq!(slot(&simulation), "next_token");
    let in_use = |slot| [("org", "acme"), ("credential", "source"), ("slot", slot)];
    assert_eq!(metric(&simulation, "credential_in_use", &in_use("first")), 0.0);
    assert_eq!(metric(&simulation, "credential_in_use", &in_use("next")), 1.0);
    simulation.org("acme").revoke_token(&first);
    // A restart remembers which one it was.
    simulation.kill().await;
    simulation.start();
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    assert_eq!(slot(&simulation), "next_token");
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
    assert_eq!(refused(&simulation, 401), 0);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_lives_longer_than_the_organization_allows_gives_way_to_the_next_at_once() {
    let mut simulation = with_next_token("");
    log(&simulation, 24, 2);
    let next = simulation.org("acme").add_token();
    simulation.write_next_token("acme", &next);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.pulumi.fault("acme", Fault::ExpiryPolicy { days: 90 }, Times::Next(1));
    simulation.pass(6 * MINUTE).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    assert_eq!(slot(&simulation), "next_token");
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
    assert_eq!(refused(&simulation, 403), 1);
}

#[tokio::test(start_paused = true)]
async fn where_both_live_too_long_that_is_said_and_they_are_asked_with_in_turn() {
    let mut simulation = with_next_token("");
    log(&simulation, 25, 4);
    let next = simulation.org("acme").add_token();
    simulation.write_next_token("acme", &next);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.pulumi.fault("acme", Fault::ExpiryPolicy { days: 90 }, Times::UntilCleared);
    simulation.pass(2 * HOUR).await;
    assert_eq!(simulation.source("acme"), ("paused", "permission".into()));
    let remedy = simulation.status("acme").source.remedy.unwrap_or_default();
    assert!(remedy.contains("expiry policy"), "{remedy}");
    let asked = refused(&simulation, 403);
    assert!((7..=10).contains(&asked), "{asked} refused calls in two hours");
    simulation.org("acme").clear_faults();
    simulation.pass(16 * MINUTE).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn two_refused_tokens_are_asked_with_in_turn_once_a_minute_until_one_is_replaced() {
    let mut simulation = with_next_token("never-known");
    log(&simulation, 26, 3);
    simulation.start();
    simulation.pass(HOUR).await;
    let new = simulation.org("acme").rotate_token();
    simulation.pass(HOUR).await;
    assert_eq!(simulation.source("acme"), ("paused", "credentials".into()));
    assert_eq!(simulation.status("acme").source.token, None, "none is in use");
    let asked = refused(&simulation, 401);
    assert!((50..=62).contains(&asked), "{asked} refused calls in an hour");
    simulation.write_next_token("acme", &new);
    simulation.pass(SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    assert_eq!(slot(&simulation), "next_token");
    simulation.pass_until(BEGIN + 4 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_requests_to_look_again_sends_nothing() {
    let mut simulation = with_next_token("never-known");
    log(&simulation, 27, 1);
    simulation.start();
    simulation.pass(22 * MINUTE).await;
    let before = simulation.wire.asked("acme").len();
    simulation.nudge();
    simulation.pass(SOON).await;
    let tried = simulation.wire.asked("acme").len();
    assert_eq!((refused(&simulation, 401), tried - before), (1, 2), "an untried value, and the one in use");
    for _ in 0..2_000 {
        simulation.nudge();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(simulation.wire.asked("acme").len() - tried <= 2, "the regular sweep at most");
    // In a pause it is a wish to try again, granted now and then.
    let new = simulation.org("acme").rotate_token();
    simulation.until("it is refused", 6 * MINUTE, || simulation.source("acme").0 == "paused").await;
    let before = simulation.wire.asked("acme").len();
    for _ in 0..6_000 {
        simulation.nudge();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let tried = simulation.wire.asked("acme").len() - before;
    assert!((1..=7).contains(&tried), "{tried} calls in a minute of requests");
    simulation.write_token("acme", &new);
    simulation.pass_until(BEGIN + 2 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + HOUR);
}

fn with_next_secret(next: &str) -> Simulation {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let place = simulation.write_secret("next-client-secret", next);
    simulation.setup("acme").identity = format!(", next_secret = {{ file = {place:?} }}");
    simulation
}

fn credential(simulation: &Simulation, lane: &str) -> (String, String) {
    let credential = simulation.lane("acme", lane).credential;
    credential.map(|known| (known.slot, known.warning.unwrap_or_default())).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_second_client_secret_takes_over_when_the_first_is_refused() {
    let mut simulation = with_next_secret(NEXT_SECRET);
    log(&simulation, 28, 4);
    simulation.start();
    simulation.pass(HOUR).await;
    assert_eq!(credential(&simulation, "sentinel"), ("secret".to_owned(), String::new()));
    simulation.entra.rotate_secret(TENANT, CLIENT_ID, NEXT_SECRET);
    simulation.entra.book.revoke_all();
    simulation.pass(2 * HOUR).await;
    assert_eq!(simulation.lane("acme", "sentinel").state.as_str(), "ok");
    assert_eq!(credential(&simulation, "sentinel"), ("next_secret".to_owned(), String::new()));
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
    let refused = simulation.entra.ledger.entries().iter().filter(|entry| entry.status == Some(401)).count();
    assert_eq!(refused, 1, "the second stays in use");
}

#[tokio::test(start_paused = true)]
async fn a_changed_client_secret_that_is_refused_leaves_the_old_one_in_use() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    log(&simulation, 29, 5);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.write_client_secret("wrong");
    let asked = simulation.wire.sent_to(ENTRA).len();
    simulation.nudge();
    simulation.pass(SOON).await;
    let warning = credential(&simulation, "sentinel").1;
    assert!(warning.contains("secret is refused") && warning.contains("AADSTS7000215"), "{warning}");
    assert!(simulation.wire.sent_to(ENTRA).len() - asked <= 4);
    simulation.pass(2 * HOUR).await;
    assert_eq!(
        simulation.lane("acme", "sentinel").state.as_str(),
        "ok",
        "tokens are still had with the old one"
    );
    simulation.entra.add_secret(TENANT, CLIENT_ID, NEXT_SECRET, None);
    simulation.write_client_secret(NEXT_SECRET);
    simulation.nudge();
    simulation.pass(SOON).await;
    assert_eq!(credential(&simulation, "sentinel"), ("secret".to_owned(), String::new()));
    simulation.entra.rotate_secret(TENANT, CLIENT_ID, NEXT_SECRET);
    simulation.pass_until(BEGIN + 6 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 5 * HOUR);
    let refused = simulation.entra.ledger.entries().iter().filter(|entry| entry.status == Some(401)).count();
    assert_eq!(refused, 1);
}

#[tokio::test(start_paused = true)]
async fn two_refused_client_secrets_pause_the_lane_until_one_is_replaced() {
    let mut simulation = with_next_secret("never-known");
    log(&simulation, 30, 3);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.entra.rotate_secret(TENANT, CLIENT_ID, NEXT_SECRET);
    simulation.entra.book.revoke_all();
    simulation
        .until("the lane is paused", HOUR, || simulation.lane("acme", "sentinel").state.as_str() == "paused")
        .await;
    let before = simulation.wire.sent_to(ENTRA).len();
    simulation.pass(HOUR).await;
    let asked = simulation.wire.sent_to(ENTRA).len() - before;
    assert!(asked <= 130, "{asked} requests in an hour, two for each token that is asked for");
    simulation.write_secret("next-client-secret", NEXT_SECRET);
    simulation.pass(SOON).await;
    assert_eq!(simulation.lane("acme", "sentinel").state.as_str(), "ok");
    simulation.pass_until(BEGIN + 4 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_second_access_key_takes_over_when_the_first_is_deleted_and_a_changed_one_is_tried_before() {
    let mut simulation = Simulation::of(&["acme"]);
    let place = simulation.write_secret("next-s3-secret", "second-secret");
    simulation.setup("acme").s3 = true;
    simulation.setup("acme").bucket =
        format!("next_access_key_id = \"AKIASECOND\"\nnext_secret_access_key = {{ file = {place:?} }}");
    log(&simulation, 31, 4);
    simulation.start();
    simulation.pass(HOUR).await;
    assert_eq!(credential(&simulation, "s3").0, "access_key_id");
    simulation.store.delete_key(ACCESS_KEY);
    simulation.pass(HOUR).await;
    assert_eq!(simulation.lane("acme", "s3").state.as_str(), "ok");
    assert_eq!(credential(&simulation, "s3").0, "next_access_key_id");
    // The first place gets another secret, which is refused: the second key stays.
    simulation.write_s3_secret("another-secret");
    simulation.nudge();
    simulation.pass(SOON).await;
    let (slot, warning) = credential(&simulation, "s3");
    assert!(slot == "next_access_key_id" && warning.contains("InvalidAccessKeyId"), "{slot}: {warning}");
    let labels = [("org", "acme"), ("credential", "s3"), ("outcome", "ok")];
    assert_eq!(metric(&simulation, "credential_refreshes_total", &labels), 1.0);
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
    let refused = simulation.store.ledger.entries().iter().filter(|entry| entry.status == Some(403)).count();
    assert_eq!(refused, 2, "each was refused once");
    simulation.store.delete_key("AKIASECOND");
    simulation.add("acme", Generator::seeded(32).spread(simulation.now(), simulation.now() + 60, 5));
    simulation
        .until("the lane is paused", HOUR, || simulation.lane("acme", "s3").state.as_str() == "paused")
        .await;
    assert_eq!(simulation.lane("acme", "s3").reason.as_deref(), Some("credentials"));
}

/// 50 events a second, and every four seconds another token and another client secret: the old ones are deleted two seconds after
/// the new ones are in their places.
#[tokio::test(start_paused = true)]
async fn a_hundred_rotations_under_load_fail_no_call_and_lose_double_and_delay_nothing() {
    const ROTATIONS: i64 = 100;
    const EVERY: i64 = 4;
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let end = BEGIN + ROTATIONS * EVERY;
    let count = usize::try_from(50 * (end - BEGIN)).expect("it is small");
    simulation.add("acme", Generator::seeded(33).spread(BEGIN, end, count));
    simulation.setup("acme").source =
        "poll_interval = \"5s\"\noverlap = \"5s\"\nrescan_after = []\nrequests_per_second = 100\nhost_requests_per_second = 1000"
            .to_owned();
    simulation.start();
    simulation.pass(2).await;
    let mut lag = 0;
    for rotation in 0..ROTATIONS {
        let token = simulation.org("acme").add_token();
        simulation.write_token("acme", &token);
        let secret = format!("client-secret-{rotation}");
        simulation.entra.add_secret(TENANT, CLIENT_ID, &secret, None);
        simulation.write_client_secret(&secret);
        simulation.nudge();
        simulation.pass(EVERY / 2).await;
        simulation.org("acme").revoke_all_but(&token);
        simulation.entra.rotate_secret(TENANT, CLIENT_ID, &secret);
        simulation.pass(EVERY - EVERY / 2).await;
        let tip = simulation.status("acme").tip.map_or(BEGIN, |tip| tip.0.0);
        lag = lag.max(simulation.now() - tip);
    }
    simulation.pass(30).await;
    simulation.assert_complete("acme", end);
    let calls = simulation.pulumi.ledger.requests("acme");
    let failed = simulation.pulumi.ledger.entries().iter().filter(|entry| entry.status != Some(200)).count();
    assert_eq!(failed, 0, "of {calls} calls to Pulumi");
    let failed = simulation.azure.ledger.entries().iter().filter(|entry| entry.status != Some(204)).count();
    assert_eq!(failed, 0, "of the requests to Azure");
    let failed = simulation.entra.ledger.entries().iter().filter(|entry| entry.status != Some(200)).count();
    assert_eq!(failed, 0, "of the requests for tokens");
    let status = simulation.status("acme");
    assert_eq!(status.coverage.holes, 0, "no gap");
    assert!(lag <= 10, "{lag} s behind at most");
    let taken = |credential| {
        metric(&simulation, "credential_refreshes_total", &[("credential", credential), ("outcome", "ok")])
    };
    assert_eq!(taken("source"), ROTATIONS as f64, "each token was taken over");
    assert!(taken("sentinel") >= ROTATIONS as f64, "and each client secret");
}
