//! Events that show late, and seconds that hold too many: nothing is passed over in silence.

use std::collections::BTreeSet;
use std::slice::from_ref;

use crate::forwarder::{asked, complete, metric, org, recent, sample, start};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::Behaviour;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::setup::OrgSetup;
use crate::world::truth::Expect;
use crate::world::truth::archive::Archive;

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_arrives_marked_as_late_and_is_counted() {
    let world = World::builder().events(50).start().await;
    let mut acme = recent(&world, "acme").with_file().with_sentinel();
    // Head sweeps read each second once, so only a later look can find what shows after it.
    acme.more_source = "overlap = \"0s\"\nrescan_after = [\"7s\"]\n".to_owned();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    until("the first sweep has ended", async || {
        daemon.get("/readyz").await.is_some_and(|(code, _)| code == 200)
    })
    .await;

    let now = world.clock.now();
    let late = Event::at(now).described("shown four seconds late").late_by(4);
    world.pulumi().org("acme").add([late.clone(), late.clone()]);
    world.pulumi().org("acme").add([Event::at(now).described("shown at once")]);
    until("the late events have arrived", async || {
        let line = |text: &str| lines(&world).iter().filter(|(_, event)| event.contains(text)).count();
        line("shown at once") == 1 && line("shown four seconds late") == 2
    })
    .await;
    complete(&world, &acme).await;

    let modes = |text: &str| -> Vec<String> {
        lines(&world).into_iter().filter(|(_, event)| event.contains(text)).map(|(mode, _)| mode).collect()
    };
    assert_eq!(modes("shown four seconds late"), ["late", "late"]);
    assert_eq!(modes("shown at once"), ["live"]);
    let rows = world.rows("acme");
    let row = |text: &str| rows.iter().find(|row| row.text("Description_s") == text).expect("it arrived");
    assert_eq!(row("shown four seconds late").text("IngestMode_s"), "late");
    assert_eq!(row("shown at once").text("IngestMode_s"), "live");

    let (_, page) = daemon.get("/metrics").await.expect("metrics are served");
    let acme = [("org", "acme")];
    assert_eq!(sample(&page, "events_late_total", &acme), Some(2.0));
    assert_eq!(sample(&page, "event_lateness_seconds_count", &acme), Some(2.0));
    let seconds = sample(&page, "event_lateness_seconds_sum", &acme).expect("it is there");
    assert!(seconds >= 2.0 * 4.0, "the lateness was measured: {seconds}");
    assert!(daemon.stop().await.success());
}

fn lines(world: &World) -> Vec<(String, String)> {
    Archive::of_directory(&world.paths.archive_of("acme"))
        .lines("acme", &mut Vec::new())
        .into_iter()
        .map(|line| (line.mode, String::from_utf8_lossy(&line.event).into_owned()))
        .collect()
}

/// An org with 350 events in one second and others around it. Answers that second.
async fn crowded(behaviour: Behaviour) -> (World, OrgSetup, i64, Daemon) {
    let world = World::builder().behaviour(behaviour).events(300).start().await;
    let second = world.clock.now() - 600;
    world.pulumi().org("acme").add(Generator::seeded(5).burst(second, 350));
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let daemon = start(&world, from_ref(&acme));
    (world, acme, second, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_of_350_events_is_declared_damaged_where_it_cannot_be_proven_whole_and_stops_nothing() {
    let (world, _, second, mut daemon) = crowded(Behaviour::mysql()).await;
    let due = || Expect { as_of: world.clock.now(), damaged: BTreeSet::from([second]), ..Expect::default() };
    let others = async || {
        world.check_file_with("acme", "acme", &due()).is_complete()
            && world.check_sentinel_with("acme", &due()).is_complete()
    };
    until("all other seconds have arrived", others).await;
    until("the second is declared", async || {
        org(&mut daemon, "acme").await.is_some_and(|org| org["coverage"]["damaged"] == 1)
    })
    .await;
    assert_eq!(metric(&mut daemon, "coverage_damaged_seconds", &[("org", "acme")]).await, Some(1.0));
    assert!(daemon.log().contains("too dense"), "the log says so");

    let report = world.check_file("acme");
    assert!(report.doubled.is_empty() && report.foreign.is_empty() && report.problems.is_empty(), "{report}");
    // What could be read of it is kept: at least a page of it, and every type that fits a page.
    assert!(report.lost.len() <= 250, "{report}");

    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described("after the crowd")]);
    until("collection goes on", others).await;
    let cursor = metric(&mut daemon, "cursor_timestamp_seconds", &[("org", "acme")]).await;
    assert!(cursor.is_some_and(|cursor| cursor as i64 > second), "the cursor has passed it: {cursor:?}");
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_of_350_events_arrives_whole_where_tokens_lead_through_it() {
    let (world, acme, second, mut daemon) = crowded(Behaviour::ideal()).await;
    asked(&world, "acme", 20).await;
    until("everything has arrived, or the second is declared", async || {
        let damaged = org(&mut daemon, "acme").await.is_some_and(|org| org["coverage"]["damaged"] != 0);
        let lost = world.check_file("acme").lost.len() + world.check_sentinel("acme").lost.len();
        lost == 0 && (damaged || world.check_file("acme").is_complete())
    })
    .await;
    let report = world.check_file("acme");
    report.assert_complete();
    assert_eq!(world.pulumi().truth("acme").iter().filter(|event| event.timestamp == second).count(), 350);
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described("after the crowd")]);
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
}
