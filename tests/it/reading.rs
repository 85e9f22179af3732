//! Pulumi refuses, fails or answers oddly: that is never taken for "no events", and what a person must do is said.

use std::slice::from_ref;

use bytes::Bytes;

use crate::forwarder::{again, asked, complete, metric, org, party, paused, recent, start, works};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::{BadGzip, Fault};
use crate::world::pulumi::events::{Event, dreadful};
use crate::world::script::Times;
use crate::world::setup::OrgSetup;
use crate::world::truth::archive::Archive;
use crate::world::verdict::{Cut, RetryAfter};

async fn collecting(trouble: impl FnOnce(&World)) -> (World, OrgSetup, Daemon) {
    let world = World::builder().orgs(&["acme", "other"]).events(150).start().await;
    trouble(&world);
    let (acme, other) = (recent(&world, "acme").with_file(), recent(&world, "other").with_file());
    let daemon = start(&world, &[acme.clone(), other]);
    (world, acme, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_pauses_its_org_only_until_the_token_file_is_replaced() {
    let (world, acme, mut daemon) = collecting(|_| {}).await;
    complete(&world, &acme).await;
    let old = world.pulumi().org("acme").token();
    let new = world.pulumi().org("acme").rotate_token();
    let remedy = paused(&mut daemon, "acme", "source", "credentials").await;
    assert!(remedy.contains("acme-token"), "the remedy names the place of the token: {remedy}");
    assert!(!remedy.contains(&old));
    let labels = [("org", "acme"), ("destination", "source"), ("reason", "credentials")];
    assert_eq!(metric(&mut daemon, "paused", &labels).await, Some(1.0));

    for name in ["acme", "other"] {
        let event = Event::at(world.clock.now() - 1).described("during the pause");
        world.pulumi().org(name).add([event]);
    }
    until("the other org goes on", async || world.check_file("other").is_complete()).await;
    works(&mut daemon, "other", "source").await;
    assert_eq!(world.check_file("acme").lost.len(), 1);

    world.paths.write_secret("acme-token", &new);
    works(&mut daemon, "acme", "source").await;
    complete(&world, &acme).await;
    assert_eq!(metric(&mut daemon, "paused", &labels).await, Some(0.0));
    assert!(daemon.stop().await.success());
    let log = daemon.log();
    assert!(!log.contains(&old) && !log.contains(&new));
    assert_eq!(log.lines().filter(|line| line.contains("\"message\":\"paused\"")).count(), 1, "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("\"message\":\"pause ended\"")).count(), 1, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_token_takes_over_without_a_gap() {
    let world = World::builder().events(150).start().await;
    let mut acme = recent(&world, "acme").with_file();
    acme.next_token = true;
    let next = world.pulumi().org("acme").add_token();
    world.paths.write_secret("acme-token-next", &next);
    // The first is the one that the configuration names first.
    let first = world.pulumi().org("acme").add_token();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    world.pulumi().org("acme").revoke_token(&first);
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described("after the change")]);
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    assert_eq!(world.pulumi().ledger.answered("acme", 401), 1);
    assert!(!daemon.log().contains("\"message\":\"paused\""));
}

/// The role behind the org's token may not read its audit log.
fn forbid(world: &World) {
    let acme = world.pulumi().org("acme");
    acme.allow(&acme.token(), false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_org_is_asked_once_in_a_quarter_of_an_hour_and_restarts_add_four_tries_at_most() {
    let (world, _, mut daemon) = collecting(forbid).await;
    let refused = || world.pulumi().ledger.answered("acme", 403);
    let remedy = paused(&mut daemon, "acme", "source", "permission").await;
    assert!(remedy.contains("audit_logs:read"), "{remedy}");
    asked(&world, "other", 4).await;
    assert_eq!(refused(), 1, "the other org was swept several times meanwhile");

    for restart in 1..=7 {
        daemon.kill();
        daemon = again(&world);
        until("the restarted daemon says that it waits", async || {
            let source = party(&mut daemon, "acme", "source").await.unwrap_or_default();
            source["state"] == "paused" || source["state"] == "waiting"
        })
        .await;
        asked(&world, "other", 2).await;
        assert!(refused() <= 1 + restart.min(4), "{} refused calls after {restart} restarts", refused());
    }
    assert_eq!(refused(), 5);
    // Each refused call was itself recorded as an event, and nothing else was asked about the org.
    assert_eq!(world.pulumi().ledger.requests("acme"), 5);
    assert!(!world.check_file("acme").is_complete());
    until("the other org goes on", async || world.check_file("other").is_complete()).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forbidden_org_is_asked_at_once_when_its_token_changes() {
    let (world, acme, mut daemon) = collecting(forbid).await;
    paused(&mut daemon, "acme", "source", "permission").await;
    let better = world.pulumi().org("acme").add_token();
    world.paths.write_secret("acme-token", &better);
    works(&mut daemon, "acme", "source").await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_pulumi_asks_for_is_kept() {
    for wait in [RetryAfter::Seconds(3), RetryAfter::DateIn(4)] {
        let (world, acme, mut daemon) =
            collecting(|world| world.pulumi().fault("acme", Fault::Throttled(wait), Times::Next(1))).await;
        until("it says that it was throttled", async || {
            let source = party(&mut daemon, "acme", "source").await.unwrap_or_default();
            source["state"] == "waiting" && source["reason"] == "throttled"
        })
        .await;
        complete(&world, &acme).await;
        assert!(daemon.stop().await.success());
        let entries: Vec<_> =
            world.pulumi().ledger.entries().into_iter().filter(|entry| entry.about == "acme").collect();
        let throttled = entries.iter().position(|entry| entry.status == Some(429)).expect("it was throttled");
        let (at, next) = (entries[throttled].at, entries[throttled + 1].at);
        assert!(next - at >= 3, "asked at {at} and again at {next}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_failure_is_taken_for_an_empty_log_and_each_is_recovered_from() {
    let body = |text: &'static str| Fault::Body(Bytes::from_static(text.as_bytes()));
    let faults: Vec<(&str, Fault)> = vec![
        ("error-500", Fault::status(500)),
        ("error-504", Fault::status(504)),
        ("html-502", Fault::html(502)),
        ("html-503", Fault::html(503)),
        ("empty-200", body("")),
        ("no-content", Fault::status(204)),
        ("html-200", body("<html><body>maintenance</body></html>")),
        ("error-in-200", body("{\"code\":500,\"message\":\"internal\"}")),
        ("other-json", body("[]")),
        ("null", body("null")),
        ("cut-json", body("{\"auditLogEvents\":[{\"timestamp\":1}")),
        ("gzip-cut", Fault::BadGzip(BadGzip::Truncated)),
        ("gzip-checksum", Fault::BadGzip(BadGzip::WrongChecksum)),
        ("closed", Fault::closed()),
        ("reset", Fault::Lost(Cut::Reset)),
        ("body-closed", Fault::Lost(Cut::BodyAfter(60))),
        ("body-reset", Fault::Lost(Cut::ResetAfter(60))),
    ];
    let names: Vec<&str> = faults.iter().map(|(name, _)| *name).collect();
    let world = World::builder().orgs(&names).events(40).start().await;
    for (name, fault) in &faults {
        world.pulumi().fault(name, fault.clone(), Times::UntilCleared);
    }
    let setups: Vec<OrgSetup> = names.iter().map(|name| recent(&world, name).with_file()).collect();
    let mut daemon = start(&world, &setups);
    for name in &names {
        until(&format!("{name} has met its fault twice"), async || world.pulumi().ledger.requests(name) >= 2)
            .await;
        let seen = org(&mut daemon, name).await.expect("it is in the status");
        assert_eq!(seen["tip"], seen["start"], "{name}: nothing counts as read: {seen}");
        assert_ne!(seen["source"]["state"], "ok", "{name}: the failure is shown: {seen}");
        assert_eq!(metric(&mut daemon, "events_read_total", &[("org", name)]).await, Some(0.0), "{name}");
    }
    for name in &names {
        world.pulumi().org(name).clear_faults();
    }
    for setup in &setups {
        complete(&world, setup).await;
        works(&mut daemon, &setup.id, "source").await;
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_a_wrong_name_is_not_an_empty_log() {
    let world = World::builder().orgs(&["moved", "renamed", "edition"]).events(30).start().await;
    let elsewhere = format!("{}/api/orgs/moved/auditlogs/v2", world.ingestion_url());
    world.pulumi().fault("moved", Fault::Redirect(elsewhere), Times::UntilCleared);
    world.pulumi().org("edition").entitle(false);
    let setups: Vec<OrgSetup> =
        ["moved", "renamed", "edition"].iter().map(|name| recent(&world, name).with_file()).collect();
    world.write_config(&setups, "");
    world.pulumi().fault("renamed", Fault::status(404), Times::UntilCleared);
    let mut daemon = again(&world);
    for (name, named) in [("moved", "api_url"), ("renamed", "renamed"), ("edition", "edition")] {
        let remedy = paused(&mut daemon, name, "source", "configuration").await;
        assert!(remedy.contains(named), "{name}: {remedy}");
        let seen = org(&mut daemon, name).await.expect("it is in the status");
        assert_eq!(seen["tip"], seen["start"], "{name}");
    }
    assert_eq!(world.ingestion().ledger.total(), 0, "the token went nowhere else");
    assert!(daemon.stop().await.success());
    world.pulumi().org("moved").clear_faults();
    world.pulumi().org("renamed").clear_faults();
    world.pulumi().org("edition").entitle(true);
    let mut daemon = again(&world);
    for setup in &setups {
        complete(&world, setup).await;
    }
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_events_are_archived_as_they_came_and_spoil_neither_their_page_nor_more_rows_than_have_no_time() {
    let world = World::builder().events(120).start().await;
    let at = world.clock.now() - 900;
    let odd = dreadful(at);
    for (_, bytes) in &odd {
        world.pulumi().org("acme").add_verbatim(at, bytes);
    }
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;

    let timeless = [
        "no time",
        "null time",
        "time as a string",
        "time as a float",
        "time in milliseconds",
        "negative time",
        "year 9999",
        "a number too large for time",
    ];
    assert!(timeless.iter().all(|name| odd.iter().any(|(known, _)| known == name)));
    let lines = Archive::of_directory(&world.paths.archive_of("acme")).lines("acme", &mut Vec::new());
    for (name, bytes) in &odd {
        let line = lines.iter().find(|line| line.event == *bytes).expect("the event is there byte for byte");
        assert_eq!(line.time.is_none(), timeless.contains(name), "{name}");
    }
    assert_eq!(lines.len(), 120 + odd.len());
    assert_eq!(world.rows("acme").len(), lines.len() - timeless.len());
    let lane = party(&mut daemon, "acme", "sentinel").await.expect("the lane is in the status");
    assert_eq!(lane["quarantined"].as_u64(), Some(timeless.len() as u64));
    assert_eq!(lane["state"], "ok");
    let labels = [("org", "acme"), ("destination", "sentinel"), ("reason", "implausible_time")];
    assert_eq!(metric(&mut daemon, "quarantined_events_total", &labels).await, Some(timeless.len() as f64));
    let labels = [("org", "acme"), ("kind", "implausible_time")];
    assert_eq!(metric(&mut daemon, "schema_anomalies_total", &labels).await, Some(timeless.len() as f64));

    // What has no time is in every page of its second again, and is not new.
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described("the last")]);
    complete(&world, &acme).await;
    let lines = Archive::of_directory(&world.paths.archive_of("acme")).lines("acme", &mut Vec::new());
    assert_eq!(lines.len(), 121 + odd.len());
    assert!(daemon.stop().await.success());
}
