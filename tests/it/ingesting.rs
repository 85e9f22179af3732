//! Azure misbehaves, or is not set up yet: every row arrives, copies can be told, and refused rows wait for a person.

use std::collections::BTreeMap;
use std::slice::from_ref;
use std::time::Duration;

use serde_json::Value;

use crate::forwarder::{again, complete, metric, party, paused, recent, start, works};
use crate::world::World;
use crate::world::daemon::{Daemon, until, until_within};
use crate::world::entra;
use crate::world::ingestion::{Fault, table_columns};
use crate::world::pulumi::events::Event;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, TENANT, rule_of};
use crate::world::verdict::{Cut, RetryAfter};

const STREAM: &str = "Custom-PulumiAuditLogs_CL";

/// An org with so many events, delivered to Sentinel and to files, and the daemon at work when `trouble` has been made.
async fn delivering(events: usize, trouble: impl FnOnce(&World)) -> (World, OrgSetup, Daemon) {
    let world = World::builder().events(events).start().await;
    trouble(&world);
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let daemon = start(&world, from_ref(&acme));
    (world, acme, daemon)
}

async fn lane(daemon: &mut Daemon, id: &str) -> Value {
    party(daemon, id, "sentinel").await.unwrap_or_default()
}

async fn quarantined(daemon: &mut Daemon, id: &str) -> Option<u64> {
    lane(daemon, id).await["quarantined"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lost_after_the_rows_were_stored_add_only_rows_whose_keys_are_there_already() {
    let (world, acme, mut daemon) = delivering(1_200, |world| {
        world.azure().loses_answers(2);
        world.ingestion().fault(Fault::AnswerLost(Cut::Reset), Times::After(1, 1));
    })
    .await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let report = world.check_sentinel("acme");
    report.assert_complete();
    let mut rows_of_request: BTreeMap<u64, usize> = BTreeMap::new();
    for row in world.rows("acme") {
        *rows_of_request.entry(row.request).or_default() += 1;
    }
    let largest = rows_of_request.into_values().max().expect("there are rows");
    assert!(report.removable > 0, "the answers were lost after the rows were stored");
    assert!(report.removable <= 3 * largest, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_for_azure_is_split_and_nothing_is_set_aside() {
    const LIMIT: usize = 40_000;
    let (world, acme, mut daemon) =
        delivering(800, |world| world.ingestion().limit(1_048_576, Some(LIMIT))).await;
    complete(&world, &acme).await;
    assert_eq!(quarantined(&mut daemon, "acme").await, Some(0));
    assert!(daemon.stop().await.success());
    let entries = world.ingestion().ledger.entries();
    assert!(entries.iter().any(|entry| entry.status == Some(413)), "the limit was met");
    assert!(entries.iter().all(|entry| !entry.done || entry.plain_bytes <= LIMIT));
    assert_eq!(world.check_sentinel("acme").removable, 0, "what was refused whole is not there twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_row_waits_in_quarantine_and_the_rest_arrives() {
    let (world, _, mut daemon) = delivering(400, |world| {
        let poison = Event::at(world.clock.now() - 1_800).described("a poisoned row");
        world.pulumi().org("acme").add([poison]);
        world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
    })
    .await;
    until("the row is in quarantine", async || quarantined(&mut daemon, "acme").await == Some(1)).await;
    until("all other rows have arrived", async || {
        let report = world.check_sentinel("acme");
        report.lost.len() == 1 && lane(&mut daemon, "acme").await["backlog_events"] == 0
    })
    .await;
    let report = world.check_sentinel("acme");
    assert!(report.lost[0].contains("a poisoned row"), "{report}");
    assert!(report.doubled.is_empty() && report.foreign.is_empty() && report.problems.is_empty(), "{report}");
    let labels = [("org", "acme"), ("destination", "sentinel"), ("reason", "refused")];
    assert_eq!(metric(&mut daemon, "quarantined_events_total", &labels).await, Some(1.0));
    let labels = [("org", "acme"), ("destination", "sentinel"), ("outcome", "refused")];
    assert_eq!(metric(&mut daemon, "deliveries_total", &labels).await, Some(1.0), "one chunk came in part");
    assert_eq!(lane(&mut daemon, "acme").await["state"], "ok", "one bad row stops nothing");
    until("the archive has it whole", async || world.check_file("acme").is_complete()).await;
    assert!(!daemon.log().contains("a poisoned row"), "the log tells nobody what the row held");
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_token_is_replaced_without_a_pause_and_without_a_copy() {
    let (world, acme, mut daemon) =
        delivering(300, |world| world.ingestion().fault(Fault::Unauthorized, Times::Next(1))).await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    assert_eq!(world.entra().book.issued(), 2, "one token, and one in its place");
    assert_eq!(world.check_sentinel("acme").removable, 0);
    assert!(!daemon.log().contains("\"paused\""), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn throttling_outages_and_answers_that_are_not_azures_are_waited_out() {
    let (world, acme, mut daemon) = delivering(300, |world| {
        let azure = world.ingestion();
        azure.fault(Fault::throttled(RetryAfter::Seconds(3)), Times::Next(1));
        azure.fault(Fault::unavailable(), Times::Next(1));
        azure.fault(Fault::Html(502), Times::Next(1));
        azure.fault(Fault::WhileReceiving(Cut::Reset), Times::Next(1));
        azure.fault(Fault::Success(200), Times::After(1, 1));
        world.entra().fault(entra::Fault::unavailable(), Times::Next(1));
        world.entra().fault(entra::Fault::Html(502), Times::Next(1));
    })
    .await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let entries = world.ingestion().ledger.entries();
    let throttled = entries.iter().position(|entry| entry.status == Some(429)).expect("it was throttled");
    let (at, next) = (entries[throttled].at, entries[throttled + 1].at);
    assert!(next - at >= 3, "`Retry-After: 3` is honoured: asked at {at}, then at {next}");
    world.check_sentinel("acme").assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_client_secret_pauses_the_lane_until_its_file_is_replaced() {
    let (world, acme, mut daemon) =
        delivering(200, |world| world.entra().rotate_secret(TENANT, CLIENT_ID, "another~secret")).await;
    let remedy = paused(&mut daemon, "acme", "sentinel", "credentials").await;
    assert!(remedy.contains("client-secret"), "the remedy names the place of the secret: {remedy}");
    assert!(!remedy.contains(CLIENT_SECRET));
    until("files have everything meanwhile", async || world.check_file("acme").is_complete()).await;
    let outcome = |outcome| [("org", "acme"), ("destination", "sentinel"), ("outcome", outcome)];
    assert!(metric(&mut daemon, "deliveries_total", &outcome("failed")).await >= Some(1.0));
    assert_eq!(metric(&mut daemon, "deliveries_total", &outcome("refused")).await, Some(0.0), "no row was");
    world.paths.write_secret("client-secret", "another~secret");
    works(&mut daemon, "acme", "sentinel").await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
}

/// One world with an org for each mistake, because a paused lane asks again only after a minute.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_person_repairs_in_azure_is_taken_up_without_a_restart_and_nothing_is_set_aside() {
    let ids = ["role", "stream", "redirect", "columns", "rule"];
    let world = World::builder().orgs(&ids).events(60).start().await;
    let azure = world.ingestion();
    let denied = Fault::Status { status: 403, code: "OperationFailed", retry_after: RetryAfter::Seconds(0) };
    azure.fault_on(&rule_of("role"), denied, Times::UntilCleared);
    azure.declare_stream(&rule_of("stream"), STREAM, Vec::new());
    let elsewhere = format!("{}/stolen", world.pulumi_url());
    azure.fault_on(&rule_of("redirect"), Fault::Redirect(elsewhere), Times::UntilCleared);
    azure.refuse_rows(|row| row.contains("\"OrgId_s\":\"columns\""));
    azure.delete_rule(&rule_of("rule"));
    let setups: Vec<OrgSetup> = ids.iter().map(|id| recent(&world, id).with_sentinel().with_file()).collect();
    let mut daemon = start(&world, &setups);

    for (id, reason, named) in [
        ("role", "permission", "Monitoring Metrics Publisher"),
        ("stream", "configuration", STREAM),
        ("redirect", "configuration", "endpoint"),
        ("columns", "configuration", "columns"),
        ("rule", "configuration", "rule_id"),
    ] {
        let remedy = paused(&mut daemon, id, "sentinel", reason).await;
        assert!(remedy.contains(named), "the remedy of {id} names `{named}`: {remedy}");
        assert_eq!(quarantined(&mut daemon, id).await, Some(0), "nothing of {id} is set aside");
        let labels = [("org", id), ("destination", "sentinel"), ("reason", reason)];
        assert_eq!(metric(&mut daemon, "paused", &labels).await, Some(1.0));
        assert_eq!(world.rows(id).len(), 0);
    }
    for id in ids {
        world.pulumi().org(id).add([Event::at(world.clock.now() - 1).described("during the pause")]);
        until("files have everything meanwhile", async || world.check_file(id).is_complete()).await;
        works(&mut daemon, id, "file").await;
    }
    let stolen = |entry: &crate::world::ledger::Entry| entry.target.contains("stolen");
    assert!(!world.pulumi().ledger.entries().iter().any(stolen), "a redirect is never followed");

    azure.clear_faults();
    azure.declare_stream(&rule_of("stream"), STREAM, table_columns());
    azure.accept_all_rows();
    azure.create_rule(&rule_of("rule"));
    for (id, setup) in ids.iter().zip(&setups) {
        until_within(Duration::from_secs(120), &format!("{id} goes on by itself"), async || {
            world.check_sentinel(id).is_complete()
        })
        .await;
        works(&mut daemon, id, "sentinel").await;
        assert_eq!(quarantined(&mut daemon, id).await, Some(0), "nothing of {id} is left behind");
        assert_eq!(world.check_sentinel(id).removable, 0, "{id}");
        complete(&world, setup).await;
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_refused_by_a_broken_table_arrive_after_a_restart_too() {
    let (world, acme, mut daemon) = delivering(300, |world| world.ingestion().refuse_rows(|_| true)).await;
    paused(&mut daemon, "acme", "sentinel", "configuration").await;
    daemon.kill();
    world.ingestion().accept_all_rows();
    let mut daemon = again(&world);
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "sentinel").await;
    assert_eq!(quarantined(&mut daemon, "acme").await, Some(0));
    assert!(daemon.stop().await.success());
}
