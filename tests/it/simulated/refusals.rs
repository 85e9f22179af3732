//! The source refuses: how often it is asked all the same, and how soon collection resumes.

use std::time::Duration;

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, SOON, Simulation};
use super::wire::{SELF_HOSTED, Sent};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::verdict::RetryAfter;

fn log(simulation: &Simulation, org: &str, seed: u64, hours: i64) {
    simulation.add(org, Generator::seeded(seed).background(BEGIN, BEGIN + hours * HOUR, 12.0));
}

fn since(sent: &[Sent], at: Duration) -> Vec<Duration> {
    sent.iter().map(|sent| sent.at).filter(|sent| *sent >= at).collect()
}

#[tokio::test(start_paused = true)]
async fn a_403_is_tried_once_in_a_quarter_of_an_hour_until_the_secret_changes() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 1, 26);
    simulation.start();
    simulation.pass(HOUR).await;
    let token = simulation.org("acme").token();
    simulation.org("acme").allow(&token, false);
    let denied = simulation.elapsed();
    simulation.pass(DAY).await;
    let asked = since(&simulation.wire.asked("acme"), denied);
    assert!((90..=100).contains(&asked.len()), "{} refused calls in a day", asked.len());
    assert_eq!(simulation.source("acme"), ("paused", "permission".into()));

    let token = simulation.org("acme").add_token();
    simulation.write_token("acme", &token);
    simulation.pass(SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()), "a changed secret is tried at once");
    simulation.pass(5 * MINUTE).await;
    simulation.assert_complete("acme", BEGIN + DAY);
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_does_not_hammer_a_service_that_answers_403() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 2, 2);
    let token = simulation.org("acme").token();
    simulation.org("acme").allow(&token, false);
    for _ in 0..180 {
        simulation.start();
        simulation.pass(30).await;
        simulation.kill().await;
        simulation.pass(10).await;
    }
    let asked = simulation.wire.asked("acme").len();
    assert!((4..=2 * (4 + 4) + 2).contains(&asked), "{asked} calls in two hours of crashes");
    simulation.org("acme").allow(&token, true);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn the_next_token_gets_its_turn_where_the_first_may_not_read() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 3, 2);
    let first = simulation.org("acme").token();
    let next = simulation.org("acme").add_token();
    let place = simulation.write_next_token("acme", &next);
    simulation.setup("acme").source = format!("next_token = {{ file = {place:?} }}");
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.org("acme").allow(&first, false);
    simulation.until("the org is refused", 6 * MINUTE, || simulation.source("acme").0 == "paused").await;
    simulation.pass(15 * MINUTE + SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
    assert_eq!(simulation.pulumi.ledger.answered("acme", 403), 1);
}

#[tokio::test(start_paused = true)]
async fn a_401_is_probed_once_a_minute_until_the_secret_changes() {
    let mut simulation = Simulation::of(&["acme", "beta"]);
    log(&simulation, "acme", 4, 4);
    log(&simulation, "beta", 5, 4);
    simulation.start();
    simulation.pass(HOUR).await;
    let token = simulation.org("acme").rotate_token();
    let revoked = simulation.elapsed();
    simulation.pass(2 * HOUR).await;
    let asked = since(&simulation.wire.asked("acme"), revoked);
    assert!((100..=120).contains(&asked.len()), "{} refused calls in two hours", asked.len());
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(60)), "{asked:?}");
    assert_eq!(simulation.source("acme"), ("paused", "credentials".into()));
    assert_eq!(simulation.source("beta"), ("ok", String::new()));
    simulation.write_token("acme", &token);
    simulation.pass(SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
    simulation.assert_complete("beta", BEGIN + 4 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_accepted_again_is_found_out_within_a_minute() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 6, 2);
    simulation.start();
    let token = simulation.org("acme").token();
    simulation.pass(HOUR).await;
    simulation.org("acme").revoke_token(&token);
    simulation.until("the org is refused", 6 * MINUTE, || simulation.source("acme").0 == "paused").await;
    simulation.pass(20 * MINUTE).await;
    simulation.org("acme").accept_token(&token);
    simulation.pass(MINUTE + SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()));
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
}

/// The pause after one 429 that carries this header.
async fn pause_after(retry_after: RetryAfter) -> Duration {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 7, 4);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.pulumi.fault("acme", Fault::Throttled(retry_after), Times::Next(1));
    simulation.until("the org is throttled", 6 * MINUTE, || simulation.source("acme").1 == "throttled").await;
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
    let asked: Vec<Duration> = simulation.wire.asked("acme").iter().map(|sent| sent.at).collect();
    let refused = simulation.pulumi.ledger.entries().iter().position(|entry| entry.status == Some(429));
    let refused = refused.expect("one was refused");
    asked[refused + 1] - asked[refused]
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_a_429_names_is_kept_in_full_up_to_an_hour() {
    let seconds = async |retry_after| pause_after(retry_after).await.as_secs() as i64;
    assert!((1_200..1_205).contains(&seconds(RetryAfter::Seconds(1_200)).await));
    assert!((1_199..1_205).contains(&seconds(RetryAfter::DateIn(1_200)).await));
    assert!((3_600..3_605).contains(&seconds(RetryAfter::Seconds(10 * 365 * 86_400)).await));
    assert!((60..=67).contains(&seconds(RetryAfter::None).await));
    assert!((60..=67).contains(&seconds(RetryAfter::DateIn(-600)).await));
    assert!((60..=67).contains(&seconds(RetryAfter::Raw("soon".into())).await));
}

#[tokio::test(start_paused = true)]
async fn the_pause_after_429s_without_a_wait_grows_to_five_minutes() {
    let mut simulation = Simulation::of(&["acme"]);
    log(&simulation, "acme", 8, 2);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.pulumi.fault("acme", Fault::throttled(), Times::UntilCleared);
    let throttled = simulation.elapsed() + Duration::from_secs(301);
    simulation.pass(6 * HOUR).await;
    let asked = since(&simulation.wire.asked("acme"), throttled);
    let pauses: Vec<u64> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs()).collect();
    assert!(pauses.iter().all(|pause| (60..=301).contains(pause)), "{pauses:?}");
    assert!(pauses[6..].iter().all(|pause| *pause >= 300), "{pauses:?}");
    simulation.org("acme").clear_faults();
    simulation.pass(6 * MINUTE).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_second_orgs_429_pauses_its_host_and_no_other() {
    let mut simulation = Simulation::of(&["acme", "beta", "gamma", "other"]);
    for (seed, org) in ["acme", "beta", "gamma", "other"].into_iter().enumerate() {
        log(&simulation, org, seed as u64, 3);
        simulation.setup(org).source = "poll_interval = \"1m\"".into();
    }
    simulation.setup("other").api = SELF_HOSTED;
    simulation.start();
    simulation.pass(HOUR).await;
    let throttled = simulation.elapsed();
    for org in ["acme", "beta"] {
        simulation.pulumi.fault(org, Fault::Throttled(RetryAfter::Seconds(900)), Times::Next(1));
    }
    simulation.pass(2 * MINUTE).await;
    simulation.pass(12 * MINUTE).await;
    let from = throttled + Duration::from_secs(120);
    let asked = |org: &str| since(&simulation.wire.asked(org), from).len();
    assert_eq!((asked("acme"), asked("beta"), asked("gamma")), (0, 0, 0));
    assert!(asked("other") >= 11, "another host goes on: {}", asked("other"));
    simulation.pass_until(BEGIN + 4 * HOUR).await;
    for org in ["acme", "beta", "gamma", "other"] {
        simulation.assert_complete(org, BEGIN + 3 * HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn one_orgs_429_leaves_the_others_of_its_host_alone() {
    let mut simulation = Simulation::of(&["acme", "beta"]);
    log(&simulation, "acme", 1, 2);
    log(&simulation, "beta", 2, 2);
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.pulumi.fault("acme", Fault::Throttled(RetryAfter::Seconds(1_800)), Times::Next(1));
    let throttled = simulation.elapsed();
    simulation.pass(30 * MINUTE).await;
    assert!(since(&simulation.wire.asked("beta"), throttled).len() >= 6);
    simulation.pass_until(BEGIN + 3 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 2 * HOUR);
    simulation.assert_complete("beta", BEGIN + 2 * HOUR);
}
