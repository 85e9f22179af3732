//! Rows in quarantine, from the command line: looked at while the daemon runs, sent again or dropped while it does not.

use serde_json::Value;

use crate::forwarder::{again, command, err, out, party, recent, start};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::events::Event;
use crate::world::setup::OrgSetup;

const LANE: [&str; 4] = ["--org", "acme", "--destination", "sentinel"];

/// Delivered but for these poisoned rows, which are in quarantine.
async fn poisoned(rows: usize) -> (World, OrgSetup, Daemon) {
    let world = World::builder().events(200).start().await;
    let now = world.clock.now();
    // Each with another row after it: three in a row would say that the table is wrong.
    let poison = (0..rows).flat_map(|row| {
        let at = now - 6_000 + 900 * i64::try_from(row).expect("a few");
        [Event::at(at).described(&format!("a poisoned row {row}")), Event::at(at + 1)]
    });
    world.pulumi().org("acme").add(poison);
    world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let mut daemon = start(&world, std::slice::from_ref(&acme));
    quarantined(&mut daemon, rows as u64).await;
    until("the other rows are there", async || {
        let lost = world.check_sentinel("acme").lost.len();
        lost == rows
    })
    .await;
    (world, acme, daemon)
}

async fn quarantined(daemon: &mut Daemon, rows: u64) {
    until(&format!("{rows} rows are in quarantine"), async || {
        let lane = party(daemon, "acme", "sentinel").await.unwrap_or_default();
        lane["quarantined"].as_u64() == Some(rows) && lane["backlog_chunks"] == 0
    })
    .await;
}

async fn listed(world: &World) -> Value {
    let ended = command(world, &["quarantine", "list", "--json"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    serde_json::from_str(&out(&ended)).expect("it is JSON")
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_listed_and_shown_beside_the_daemon_and_nothing_is_decided_then() {
    let (world, _, mut daemon) = poisoned(1).await;
    let list = listed(&world).await;
    let row = &list["rows"][0];
    assert_eq!(list["rows"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!((&row["reason"], &row["provisional"]), (&"refused".into(), &false.into()), "{row}");
    assert!(row["since"].is_string(), "{row}");
    let (chunk, number) = (row["chunk"].to_string(), row["row"].to_string());
    let place = ["--chunk", &chunk, "--row", &number];

    let shown = command(&world, &[&["quarantine", "show"], &LANE[..], &place].concat()).await;
    assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
    let line: Value = serde_json::from_str(&out(&shown)).expect("it is JSON");
    assert_eq!(line["event"]["description"], "a poisoned row 0");
    assert_eq!(line["key"], row["key"]);

    for decision in [&["retry"][..], &["drop", "--reason", "no"]] {
        let ended = command(&world, &[&["quarantine"], decision, &LANE, &place].concat()).await;
        assert_eq!(ended.status.code(), Some(75), "{}", err(&ended));
        assert!(err(&ended).contains(&daemon.pid().to_string()), "{}", err(&ended));
        assert!(err(&ended).contains("stop the daemon first"), "{}", err(&ended));
    }
    assert_eq!(listed(&world).await, list);
    assert!(daemon.stop().await.success());
    assert_eq!(listed(&world).await, list, "the stopped daemon's directory says the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_retried_after_the_repair_arrive_and_those_still_refused_stay() {
    let (world, acme, mut daemon) = poisoned(5).await;
    assert!(daemon.stop().await.success());
    let ended =
        command(&world, &[&["quarantine", "retry", "--all", "--reason", "repaired"], &LANE[..]].concat())
            .await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    assert!(out(&ended).contains("acme: 5 rows will be sent to sentinel again"), "{}", out(&ended));
    assert!(err(&ended).contains("decided about rows in quarantine"), "the log has it too: {}", err(&ended));
    let list = listed(&world).await;
    assert!(list["rows"].as_array().expect("rows").iter().all(|row| row["provisional"] == true), "{list}");

    // All but one are accepted now.
    world.ingestion().refuse_rows(|row| row.contains("a poisoned row 3"));
    let now = world.clock.now();
    world.pulumi().org("acme").add((0..3).map(|at| Event::at(now - 60 + at)));
    let mut daemon = again(&world);
    quarantined(&mut daemon, 1).await;
    let report = world.check_sentinel("acme");
    assert_eq!(report.lost.len(), 1, "{report}");
    assert!(report.lost[0].contains("a poisoned row 3"), "{report}");
    assert!(report.doubled.is_empty() && report.foreign.is_empty() && report.problems.is_empty(), "{report}");
    assert_eq!(report.removable, 0, "nothing was sent twice: {report}");
    assert!(daemon.stop().await.success());
    let list = listed(&world).await;
    assert_eq!(list["rows"][0]["provisional"], false, "{list}");
    assert_eq!(list["decisions"][0]["action"], "retry");
    assert_eq!(list["decisions"][0]["reason"], "repaired");
    assert_eq!(list["decisions"][0]["rows"].as_array().map(Vec::len), Some(5));

    // Repaired for good.
    world.ingestion().accept_all_rows();
    let ended = command(&world, &[&["quarantine", "retry", "--all"], &LANE[..]].concat()).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 30)]);
    let mut daemon = again(&world);
    quarantined(&mut daemon, 0).await;
    crate::forwarder::complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    world.check_sentinel("acme").assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_rows_are_gone_from_the_list_kept_in_the_archive_and_never_sent() {
    let (world, _, mut daemon) = poisoned(2).await;
    until("the archive has everything", async || world.check_file("acme").is_complete()).await;
    assert!(daemon.stop().await.success());
    let drop = [&["quarantine", "drop", "--all", "--reason", "known, and of no use"], &LANE[..]].concat();
    let ended = command(&world, &drop).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    for part in ["known, and of no use", "uid ", "drop"] {
        assert!(err(&ended).contains(part), "`{part}` is in the log line: {}", err(&ended));
    }
    let list = listed(&world).await;
    assert_eq!(list["rows"].as_array().map(Vec::len), Some(0), "{list}");
    assert_eq!(list["decisions"][0]["rows"].as_array().map(Vec::len), Some(2), "{list}");

    world.ingestion().accept_all_rows();
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "nothing is left to complain of: {}", err(&ended));
    assert_eq!(world.check_sentinel("acme").lost.len(), 2, "they were not sent again");
    world.check_file("acme").assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn coverage_is_shown_beside_the_daemon_and_after_it() {
    let world = World::builder().events(50).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, std::slice::from_ref(&acme));
    crate::forwarder::complete(&world, &acme).await;
    let json = async || {
        let ended = command(&world, &["coverage", "--json"]).await;
        assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
        let answer: Value = serde_json::from_str(&out(&ended)).expect("it is JSON");
        answer["orgs"][0].clone()
    };
    until("the hole behind the tip is filled", async || json().await["coverage"]["holes"] == 0).await;
    let running = json().await;
    assert_eq!((&running["id"], &running["holes"]), (&"acme".into(), &Value::Array(Vec::new())));
    assert_eq!(running["cursor"], running["tip"]);
    assert_eq!(running["spans"][0]["from"], running["start"]);
    assert!(daemon.stop().await.success());
    assert_eq!(json().await["start"], running["start"]);
    let table = command(&world, &["coverage", "--org", "acme"]).await;
    assert_eq!(table.status.code(), Some(0), "{}", err(&table));
    for part in ["acme (", "FROM", "AT AGE", running["start"].as_str().expect("it is known")] {
        assert!(out(&table).contains(part), "`{part}` is in: {}", out(&table));
    }
    assert_eq!(command(&world, &["coverage", "--org", "nobody"]).await.status.code(), Some(2));
}
