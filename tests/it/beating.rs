//! Heartbeats: silence can be told from an organization in which nothing happens, by whoever sees the destination alone.

use std::slice::from_ref;

use serde_json::Value;

use crate::forwarder::{complete, metric, paused, recent, start, works};
use crate::world::World;
use crate::world::daemon::until;
use crate::world::ingestion::rows::{Row, Type};
use crate::world::ingestion::{Columns, HEARTBEAT_STREAM};
use crate::world::pulumi::events::Generator;
use crate::world::setup::{OrgSetup, PREFIX, rule_of};

/// As the file for other programs lists them.
fn columns() -> Columns {
    let listed: Vec<Value> =
        serde_json::from_str(include_str!("../../data/heartbeat-columns.json")).expect("it is JSON");
    let kind = |column: &Value| match column["type"].as_str() {
        Some("datetime") => Type::DateTime,
        Some("long") => Type::Long,
        Some("string") => Type::Text,
        other => panic!("{other:?}"),
    };
    listed.iter().map(|column| (column["name"].as_str().expect("a name").to_owned(), kind(column))).collect()
}

fn beating(world: &World, org: &str) -> OrgSetup {
    let mut setup = recent(world, org).with_sentinel();
    setup.more_sentinel = format!("heartbeat_stream = {HEARTBEAT_STREAM:?}\nheartbeat_interval = \"1s\"\n");
    setup
}

fn beats(world: &World, org: &str) -> Vec<Row> {
    let rows = world.ingestion().rows_by_stream(HEARTBEAT_STREAM);
    rows.into_iter().filter(|row| row.text("OrgId_s") == org).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_beat_moves_on_where_nothing_happens_and_tells_of_what_stands_still() {
    let world = World::builder().with_s3().events(40).start().await;
    world.ingestion().declare_stream(&rule_of("acme"), HEARTBEAT_STREAM, columns());
    let mut acme = beating(&world, "acme").with_s3();
    acme.more_s3 = "heartbeat_interval = \"1s\"\n".to_owned();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let delivered = || {
        let rows = beats(&world, "acme");
        rows.last().map(|row| row.text("DeliveredUntil_t").to_owned()).unwrap_or_default()
    };
    until("a beat tells how far it is", async || !delivered().is_empty()).await;
    let known = delivered();
    until("it moves on without an event", async || delivered() > known).await;
    assert!(world.ingestion().dropped_columns().is_empty(), "every column is declared");

    world.pulumi().org("acme").revoke_token(&world.pulumi().org("acme").token());
    paused(&mut daemon, "acme", "source", "credentials").await;
    until("a beat tells of the pause", async || {
        beats(&world, "acme").last().is_some_and(|row| row.text("Reason_s") == "credentials")
    })
    .await;
    assert_eq!(beats(&world, "acme").last().expect("a beat").text("State_s"), "paused");

    let below = format!("{PREFIX}/_heartbeat/org=acme/date=");
    let keys = world.s3().bucket.keys(&below).await;
    assert!(keys.len() >= 2, "{keys:?}");
    let body = world.s3().bucket.get(keys.last().expect("a key")).await.expect("it is there");
    let beat: Value = serde_json::from_slice(&body).expect("it is JSON");
    let names: Vec<&str> = beat.as_object().expect("an object").keys().map(String::as_str).collect();
    let mut listed: Vec<_> = columns().into_iter().map(|(name, _)| name).collect();
    listed.sort();
    assert_eq!(names, listed);

    assert!(daemon.stop().await.success());
    world.check_s3("acme").await.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_no_beats_holds_up_no_event_and_is_told_of_once() {
    let world = World::with_events(40).await;
    let acme = beating(&world, "acme");
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let count = |daemon: &crate::world::daemon::Daemon, text: &str| daemon.log().matches(text).count();
    until("it is told of", async || count(&daemon, "a heartbeat was not sent") == 1).await;
    let asked =
        || world.ingestion().ledger.entries().iter().filter(|entry| entry.status == Some(400)).count();
    until("it is tried again", async || asked() >= 3).await;
    assert_eq!(count(&daemon, "a heartbeat was not sent"), 1);
    world.pulumi().org("acme").add(Generator::seeded(7).burst(world.clock.now() - 1, 10));
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "sentinel").await;

    world.ingestion().declare_stream(&rule_of("acme"), HEARTBEAT_STREAM, columns());
    let counted = [("org", "acme"), ("destination", "sentinel"), ("outcome", "failed")];
    let failed = metric(&mut daemon, "heartbeats_total", &counted).await.expect("it is counted");
    assert!(failed >= 3.0, "{failed}");
    until("beats arrive", async || !beats(&world, "acme").is_empty()).await;
    until("that is told, too", async || count(&daemon, "heartbeats are sent again") == 1).await;
    assert!(daemon.stop().await.success());
    assert_eq!(world.check_sentinel("acme").removable, 0);
}
