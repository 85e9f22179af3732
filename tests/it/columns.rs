//! Each choice of columns, against a rule that declares exactly these: every event arrives, and nothing of a row is dropped.

use std::collections::BTreeSet;

use crate::forwarder::{complete, metric, recent, start};
use crate::world::World;
use crate::world::daemon::until;
use crate::world::ingestion::rows::Row;
use crate::world::ingestion::{CONNECTOR_STREAM, Fault, TABLE_STREAM, official_columns, table_columns};
use crate::world::pulumi::events::{Event, Person};
use crate::world::script::Times;
use crate::world::setup::{OrgSetup, rule_of};
use crate::world::verdict::Cut;

/// Events that a mapping could trip over: twins, a long text, nobody, a display name, more than is known.
fn trying(at: i64) -> Vec<Event> {
    let twin = Event::at(at).described("Decrypted secret value for stack \"shop/prod\"");
    let mut nobody = Event::at(at).described("Login of user \"x\" failed.");
    (nobody.user, nobody.auth_failure) = (Person::nobody(), true);
    let mut renamed = Event::at(at).described("an older service sends display names");
    renamed.event = "Stack Deleted".to_owned();
    let mut more = Event::at(at).described("more than is known").with_unknown("riskScore", 7.into());
    more.user = Person { email: Some("emmy@example.com".to_owned()), ..Person::new("emmy", "Emmy Noether") };
    let long = Event::at(at).described(&"a long story ".repeat(10_000));
    [twin.twins(3), vec![nobody, renamed, more, long]].concat()
}

fn names(row: &Row) -> BTreeSet<String> {
    row.cells.keys().cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_choice_of_columns_fits_the_rule_that_declares_them() {
    let choices = ["official", "extended", "raw", "connector"];
    let world = World::builder().orgs(&choices).events(250).start().await;
    let azure = world.ingestion();
    azure.declare_stream(&rule_of("official"), TABLE_STREAM, official_columns());
    let mut without_raw = table_columns();
    without_raw.retain(|(name, _)| name != "RawEvent");
    azure.declare_stream(&rule_of("extended"), TABLE_STREAM, without_raw);
    let setups: Vec<OrgSetup> = choices
        .iter()
        .map(|id| {
            world.pulumi().org(id).add(trying(world.clock.now() - 600));
            let setup = recent(&world, id).with_sentinel();
            match *id {
                "raw" => OrgSetup { more_sentinel: "raw_event = true\n".to_owned(), ..setup },
                columns => setup.with_columns(columns),
            }
        })
        .collect();
    let mut daemon = start(&world, &setups);
    for setup in &setups {
        complete(&world, setup).await;
        let labels = [("org", setup.id.as_str()), ("kind", "cut_text")];
        until(&format!("the cut text of {} is counted", setup.id), async || {
            metric(&mut daemon, "schema_anomalies_total", &labels).await == Some(1.0)
        })
        .await;
    }
    assert!(daemon.stop().await.success());

    assert!(azure.dropped_columns().is_empty(), "{:?}", azure.dropped_columns());
    let official: BTreeSet<String> = official_columns().into_iter().map(|(name, _)| name).collect();
    let table: BTreeSet<String> = table_columns().into_iter().map(|(name, _)| name).collect();
    for id in choices {
        let report = world.check_sentinel(id);
        report.assert_complete();
        assert_eq!(report.removable, 0, "{report}");
        let rows = world.rows(id);
        let stream = if id == "connector" { CONNECTOR_STREAM } else { TABLE_STREAM };
        assert!(rows.iter().all(|row| row.stream == stream));
        assert!(rows.iter().all(|row| row.cells.values().all(|cell| !cell.is_null())), "{id}");
        let cut = rows.iter().filter(|row| row.text("Description_s").ends_with("…[cut]")).count();
        assert_eq!(cut, 1, "{id}");
        let of = |text: &str| {
            rows.iter().find(|row| row.text("Description_s") == text).expect("the event has a row").clone()
        };
        let more = of("more than is known");
        assert_eq!((more.text("UserLogin_s"), more.text("UserName_s")), ("emmy", "Emmy Noether"));
        assert_eq!(of("Login of user \"x\" failed.").text("UserLogin_s"), "");
        let renamed = of("an older service sends display names");
        match id {
            "official" => assert_eq!(names(&more), official),
            "connector" => assert_eq!(names(&more), official, "the rule has made them"),
            "raw" => {
                assert_eq!(names(&more), table);
                assert_eq!(more.cells["RawEvent"]["riskScore"], 7);
                assert_eq!(more.cells["RawEvent"]["user"]["email"], "emmy@example.com");
            }
            _ => assert!(names(&more).is_subset(&table) && !names(&more).contains("RawEvent")),
        }
        // Pulumi's poller does not look display names up either.
        let event = if id == "connector" { "Stack Deleted" } else { "stack-deleted" };
        assert_eq!(renamed.text("Event_s"), event, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_event_keys_a_lost_answer_loses_nothing_and_its_copies_stay() {
    let world = World::builder().orgs(&["official", "connector"]).events(200).start().await;
    let azure = world.ingestion();
    azure.declare_stream(&rule_of("official"), TABLE_STREAM, official_columns());
    let ids = ["official", "connector"];
    let setups = ids.map(|id| {
        azure.fault_on(&rule_of(id), Fault::AnswerLost(Cut::Reset), Times::Next(1));
        recent(&world, id).with_sentinel().with_columns(id)
    });
    let mut daemon = start(&world, &setups);
    for id in ids {
        until(&format!("every event of {id} has arrived, some twice"), async || {
            let report = world.check_sentinel(id);
            report.loses_nothing() && !report.doubled.is_empty()
        })
        .await;
        let report = world.check_sentinel(id);
        assert_eq!((report.arrived, report.removable), (report.due + report.doubled.len(), 0), "{report}");
        let labels = [("org", id), ("destination", "sentinel"), ("outcome", "ambiguous")];
        assert_eq!(metric(&mut daemon, "deliveries_total", &labels).await, Some(1.0), "and it is said");
    }
    assert!(daemon.stop().await.success());
}
