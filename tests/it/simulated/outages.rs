//! A destination, or what it needs, is away for a while.

use std::sync::Arc;
use std::time::Duration;

use pulumi_audit_forwarder::journal::memory::MemoryJournal;

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, SOON, Simulation};
use super::wire::{AZURE, ENTRA, PULUMI, S3};
use crate::world::clock::parse_rfc3339;
use crate::world::ingestion::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, TENANT, rule_of};
use crate::world::truth::Expect;

fn visible_at(second: i64) -> Expect {
    Expect { as_of: second, ..Expect::default() }
}

#[tokio::test(start_paused = true)]
async fn azure_away_for_an_hour_delays_only_azure() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(1).lively(BEGIN, BEGIN + 4 * HOUR, 60.0));
    simulation.start();
    simulation.pass_until(BEGIN + HOUR).await;
    let (gone, back) = (simulation.elapsed(), simulation.elapsed() + Duration::from_secs(3_600));
    simulation.wire.goes_away(AZURE);
    simulation.pass(HOUR - 1).await;
    simulation.archived("acme", &visible_at(simulation.now() - 2 * 5 * MINUTE)).assert_complete();
    let lane = simulation.lane("acme", "sentinel");
    assert_eq!(lane.state.as_str(), "waiting", "nobody is needed: {lane:?}");
    assert!(lane.backlog_events > 0);
    assert_eq!(simulation.lane("acme", "file").state.as_str(), "ok");
    simulation.pass(1).await;

    simulation.wire.comes_back(AZURE);
    let drained = || simulation.lane("acme", "sentinel").backlog_chunks == 0;
    simulation.until("the backlog drains", 5 * MINUTE + SOON, drained).await;
    simulation.ingested("acme", &visible_at(BEGIN + 2 * HOUR - 5 * MINUTE)).assert_complete();

    let sent = simulation.wire.sent_to(AZURE);
    let tries: Vec<Duration> = sent
        .iter()
        .map(|sent| sent.at)
        .filter(|at| (gone..=back + Duration::from_secs(301)).contains(at))
        .collect();
    for pair in tries.windows(2) {
        assert!(
            pair[1] - pair[0] <= Duration::from_secs(301),
            "a pause of more than five minutes: {tries:?}"
        );
    }
    let during = tries.iter().filter(|at| **at < back).count();
    assert!((12..=60).contains(&during), "{during} tries in an hour");
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn azure_away_for_three_days_loses_nothing_and_every_row_keeps_its_time() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let (gone, back) = (BEGIN + HOUR, BEGIN + HOUR + 3 * DAY);
    simulation.add("acme", Generator::seeded(2).background(BEGIN, back + HOUR, 15.0));
    simulation.start();
    simulation.pass_until(gone).await;
    simulation.wire.goes_away(AZURE);
    for _ in 0..3 {
        simulation.pass(DAY - HOUR).await;
        simulation.archived("acme", &visible_at(simulation.now() - 2 * 5 * MINUTE)).assert_complete();
        let lane = simulation.lane("acme", "sentinel");
        assert_eq!((lane.state.as_str(), lane.reason.as_deref()), ("waiting", Some("backoff")));
    }
    simulation.pass_until(back).await;
    simulation.wire.comes_back(AZURE);
    let drained = || simulation.lane("acme", "sentinel").backlog_chunks == 0;
    simulation.until("the backlog drains", 2 * 5 * MINUTE, drained).await;
    simulation.pass(2 * HOUR).await;
    simulation.assert_complete("acme", back + HOUR);
    // Azure replaces a `TimeGenerated` that is two days old; when an event happened is in a column of our own.
    let rows = simulation.azure.rows_of_rule(&rule_of("acme"));
    assert!(rows.iter().any(|row| row.restamped), "some were too old to keep their `TimeGenerated`");
    for row in rows {
        assert_eq!(parse_rfc3339(row.text("EventTime_t")), row.number("Timestamp_d"), "{row:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_service_that_is_down_for_most_of_a_tokens_life_costs_nothing() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(2).background(BEGIN, BEGIN + 4 * HOUR, 120.0));
    simulation.start();
    simulation.until("rows arrive", 20 * MINUTE, || simulation.entra.book.issued() == 1).await;
    simulation.wire.goes_away(ENTRA);
    let down_until = simulation.now() + 58 * MINUTE;
    while simulation.now() < down_until {
        simulation.pass(MINUTE).await;
        let lane = simulation.lane("acme", "sentinel");
        assert_eq!(lane.state.as_str(), "ok", "{lane:?}");
    }
    simulation.ingested("acme", &visible_at(simulation.now() - 6 * MINUTE)).assert_complete();
    assert!(simulation.wire.sent_to(ENTRA).len() > 1, "the next token was asked for in good time");
    simulation.wire.comes_back(ENTRA);
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 4 * HOUR);
    assert_eq!(simulation.azure.ledger.answered(&rule_of("acme"), 401), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_journal_makes_its_org_wait_and_drops_nothing() {
    let mut simulation = Simulation::of(&["acme", "beta"]).with_sentinel();
    simulation.journal_bytes_max = 64 * 1024;
    for (seed, org) in [(3, "acme"), (4, "beta")] {
        simulation.add(org, Generator::seeded(seed).lively(BEGIN, BEGIN + 10 * HOUR, 90.0));
    }
    simulation.start();
    simulation.pass_until(BEGIN + HOUR).await;
    simulation.azure.fault_on(&rule_of("acme"), Fault::unavailable(), Times::UntilCleared);
    simulation
        .until("the journal is full", 9 * HOUR, || {
            simulation.source("acme") == ("waiting", "journal_full".into())
        })
        .await;
    let full = simulation.now();
    simulation.pass_until(BEGIN + 10 * HOUR + 10 * MINUTE).await;
    assert!(simulation.now() - full > HOUR, "it stays full for a while");
    assert_eq!(simulation.source("acme"), ("waiting", "journal_full".into()));
    assert_eq!(
        simulation.lane("acme", "file").backlog_chunks,
        0,
        "what is journaled goes on to the other destination"
    );
    simulation.assert_complete("beta", BEGIN + 10 * HOUR);

    simulation.azure.clear_faults();
    let cleared = simulation.now();
    simulation.pass(HOUR).await;
    simulation.assert_complete("acme", cleared);
    assert_eq!(simulation.source("acme").0, "ok");
}

#[tokio::test(start_paused = true)]
async fn a_part_that_panics_is_started_again_and_the_others_go_on() {
    let mut simulation = Simulation::of(&["acme", "beta"]).with_sentinel();
    for (seed, org) in [(5, "acme"), (6, "beta")] {
        simulation.add(org, Generator::seeded(seed).background(BEGIN, BEGIN + 6 * HOUR, 60.0));
    }
    simulation.start();
    for hour in 1..6 {
        simulation.pass_until(BEGIN + hour * HOUR).await;
        simulation.wire.panics_for(if hour % 2 == 0 { PULUMI } else { AZURE }, 3);
    }
    simulation.pass_until(BEGIN + 7 * HOUR).await;
    assert_eq!(simulation.wire.panics_left(), 0);
    for org in ["acme", "beta"] {
        simulation.assert_complete(org, BEGIN + 6 * HOUR);
    }
    let unsettled = simulation.status("acme").coverage.unsettled;
    assert!(unsettled <= DAY, "later looks go on: {unsettled}");
}

#[tokio::test(start_paused = true)]
async fn an_org_that_panics_while_it_looks_at_its_archive_begins_again() {
    let mut simulation = Simulation::of(&["acme"]);
    let setup = simulation.setup("acme");
    (setup.s3, setup.file) = (true, false);
    simulation.add("acme", Generator::seeded(8).background(BEGIN, BEGIN + 3 * HOUR, 60.0));
    simulation.wire.panics_for(S3, 3);
    simulation.start();
    simulation.pass(30 * MINUTE).await;
    let panicked = simulation.wire.panicked();
    assert_eq!(panicked.len(), 3);
    let collected = simulation.wire.asked("acme");
    let first = collected.first().expect("it begins all the same");
    assert!(panicked.iter().all(|at| *at < first.at), "{panicked:?}, and collected since {:?}", first.at);

    // The same where there is an archive to go on from.
    simulation.kill().await;
    simulation.journal = Arc::new(MemoryJournal::named("emptied"));
    simulation.wire.panics_for(S3, 1);
    simulation.start();
    simulation.pass_until(BEGIN + 4 * HOUR).await;
    assert_eq!(simulation.wire.panics_left(), 0);
    simulation.assert_complete("acme", BEGIN + 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_rotated_client_secret_pauses_only_azure_and_is_taken_up_at_once() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(7).background(BEGIN, BEGIN + 6 * HOUR, 60.0));
    simulation.start();
    simulation.pass(HOUR).await;
    simulation.entra.rotate_secret(TENANT, CLIENT_ID, "another-secret");
    simulation.entra.book.revoke_all();
    let paused = || simulation.lane("acme", "sentinel").state.as_str() == "paused";
    simulation.until("the lane is paused", 10 * MINUTE, paused).await;
    let before = simulation.wire.sent_to(ENTRA).len();
    simulation.pass(2 * HOUR).await;
    let asked = simulation.wire.sent_to(ENTRA).len() - before;
    assert!((100..=130).contains(&asked), "{asked} questions for a token in two hours");
    assert_eq!(simulation.lane("acme", "sentinel").reason.as_deref(), Some("credentials"));
    simulation.archived("acme", &visible_at(simulation.now() - 6 * MINUTE)).assert_complete();
    simulation.write_client_secret("another-secret");
    let drained = || simulation.lane("acme", "sentinel").backlog_chunks == 0;
    simulation.until("the backlog drains", 2 * SOON, drained).await;
    simulation.pass_until(BEGIN + 7 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 6 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_role_that_is_missing_is_asked_for_every_few_minutes_and_found_when_it_comes() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(8).background(BEGIN, BEGIN + 6 * HOUR, 60.0));
    simulation.azure.denies_the_role();
    simulation.start();
    simulation.pass(4 * HOUR).await;
    let asked = simulation.wire.sent_to(AZURE).len();
    assert!((48..=55).contains(&asked), "{asked} tries in four hours");
    assert_eq!(simulation.lane("acme", "sentinel").reason.as_deref(), Some("permission"));
    simulation.azure.grants_the_role();
    let drained = || simulation.lane("acme", "sentinel").backlog_chunks == 0;
    simulation.until("the backlog drains", 5 * MINUTE + SOON, drained).await;
    simulation.pass_until(BEGIN + 7 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 6 * HOUR);
}
