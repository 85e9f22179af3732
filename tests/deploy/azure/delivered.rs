//! The real daemon delivers through the rule that the template declares, and the alert rules are asked about what arrived.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Deployment, HEARTBEAT_TABLE, Question, TABLE, binary, cells, kusto, run, simulated};
use crate::world::World;
use crate::world::clock::{parse_rfc3339, rfc3339};
use crate::world::daemon::{Daemon, until};
use crate::world::ingestion::HEARTBEAT_STREAM;
use crate::world::ingestion::rows::{Row, connector_transform};
use crate::world::pulumi::events::{Event, Generator, Person};
use crate::world::setup::{OrgSetup, rule_of};
use crate::world::truth;

const SETS: [&str; 3] = ["extended", "official", "connector"];

/// What no alert rule may find: everything but what they are about.
fn quiet(from: i64, until: i64, count: usize) -> Vec<Event> {
    let mut events = Generator::seeded(11).spread(from, until, count);
    let loud = |event: &Event| {
        let name = event.event.to_ascii_lowercase().replace(' ', "-");
        event.auth_failure || name == "stack-deleted" || name.starts_with("member-")
    };
    events.retain(|event| !loud(event));
    events
}

fn loud(at: i64) -> Vec<Event> {
    let from = |address: &str| {
        let mut event = Event::at(at).described("Login failed.");
        (event.event, event.source_ip) = ("auth-failure".to_owned(), address.to_owned());
        (event.user, event.auth_failure) = (Person::nobody(), true);
        event
    };
    let named = |event: &str, login: &str| {
        let mut made = Event::at(at).described(&format!("{event} by {login}"));
        (made.event, made.user) = (event.to_owned(), Person::new(login, "Somebody"));
        made
    };
    let mut events = from("198.51.100.6").twins(6);
    events.extend(from("198.51.100.5").twins(5));
    events.extend([named("stack-deleted", "ada"), named("stack-deleted", "edsger")]);
    events.extend(
        ["member-added", "member-removed", "member-role-changed"].map(|event| named(event, "grace-h")),
    );
    events
}

/// An alert rule as a question about rows, of which it looks back as far as it does: its name, and the question.
fn question(deployment: &Deployment, rule: &Value, rows: &[Value], now: i64) -> (String, Question) {
    let text = |key: &str| rule["properties"][key].as_str().expect("a text").to_owned();
    let minutes: i64 = text("queryPeriod").trim_matches(['P', 'T', 'M']).parse().expect("minutes");
    let recent = |row: &&Value| {
        let time = row["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
        time > now - minutes * 60
    };
    let rows: Vec<_> = rows.iter().filter(recent).cloned().collect();
    assert!(rows.len() > 40, "there are others than those that are looked for");
    let columns = deployment.table(TABLE);
    (text("displayName"), Question { table: TABLE, columns, rows, query: text("query") })
}

/// The values of one column, sorted.
fn values(rows: &[Value], column: &str) -> Vec<String> {
    let mut values: Vec<_> =
        rows.iter().map(|row| row[column].as_str().expect("a text").to_owned()).collect();
    values.sort();
    values
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_fit_the_declared_streams_and_alert_rules_find_what_they_are_about_and_nothing_else() {
    let world = World::builder().orgs(&SETS).start().await;
    let azure = world.ingestion();
    let now = world.clock.now();
    let deployments = SETS.map(|set| {
        let runtime = json!({"endpoint": world.ingestion_url(), "immutableId": rule_of(set)});
        Deployment::of(&json!({"columns": set}), "AzureCloud", &runtime)
    });
    let mut setups = Vec::new();
    for (set, deployment) in SETS.iter().zip(&deployments) {
        // The rule has the template's streams and no others; rows are kept as they are sent.
        azure.delete_rule(&rule_of(set));
        azure.create_rule(&rule_of(set));
        for old in ["Custom-PulumiAuditLogs_CL", "Custom-PulumiAuditLogs"] {
            azure.declare_stream(&rule_of(set), old, Vec::new());
        }
        for stream in deployment.streams() {
            azure.declare_stream(&rule_of(set), &stream, simulated(&deployment.stream(&stream)));
        }
        world
            .pulumi()
            .org(set)
            .add(quiet(now - 3_600, now - 300, 100))
            .add(quiet(now - 280, now - 30, 100))
            .add(loud(now - 40));
        let raw = if *set == "extended" { "raw_event = true\n" } else { "" };
        let section = deployment.section_in(&world, &format!("heartbeat_interval = \"1s\"\n{raw}"));
        setups.push(OrgSetup { more_source: section, ..OrgSetup::new(set).since(&rfc3339(now - 7_200)) });
    }
    let config = world.write_config(&setups, "");
    let mut daemon = Daemon::start(binary(), &config, &world.paths.root.join("log"));
    let arrived = |set: &str, rows: Vec<Row>| {
        let due = truth::Expect { as_of: world.clock.now(), ..truth::Expect::default() };
        truth::table::check(&rows, set, &world.source(set), world.clock.now(), &due)
    };
    // The rows of each set as the table has them: the connector's through the transform, here the one that the world has.
    let stored = |set: &str| {
        let mut rows = world.rows(set);
        if set == "connector" {
            for row in &mut rows {
                row.cells = connector_transform(std::mem::take(&mut row.cells));
            }
        }
        rows
    };
    for set in SETS {
        until(&format!("everything of {set} has arrived"), async || arrived(set, stored(set)).is_complete())
            .await;
        until(&format!("a beat of {set} says so"), async || {
            let beats = azure.rows_by_stream(HEARTBEAT_STREAM);
            let delivered = |beat: &Row| parse_rfc3339(beat.text("DeliveredUntil_t")) > Some(now);
            beats.iter().any(|beat| beat.text("OrgId_s") == set && delivered(beat))
        })
        .await;
    }
    assert!(daemon.stop().await.success());

    assert_eq!(azure.dropped_columns(), BTreeMap::new(), "every field is declared");
    assert_eq!(azure.errors(), Vec::<String>::new());
    let mut transforms = Vec::new();
    for (set, deployment) in SETS.iter().zip(&deployments) {
        arrived(set, stored(set)).assert_complete();
        let sent = world.rows(set);
        for row in &sent {
            // Who sends events as they are leaves out a flag that is false.
            let absent = |name: &str| {
                *set == "connector" && ["reqOrgAdmin", "reqStackAdmin", "authFailure"].contains(&name)
            };
            let null = row.cells.iter().find(|(name, cell)| cell.is_null() && !absent(name));
            assert_eq!(null, None, "{set}: {:?}", row.cells);
        }
        let stream = deployment.streams().into_iter().find(|stream| !stream.contains("Heartbeat"));
        let stream = stream.expect("a stream for events");
        let (columns, query) = (deployment.stream(&stream), deployment.transform(&stream));
        transforms.push(Question { table: "source", columns, rows: cells(&sent), query });
    }
    let mut transformed = run(&transforms);
    let mut wanted = cells(&stored("connector"));
    for row in transformed[2].iter_mut().chain(&mut wanted) {
        let time = row["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
        row["TimeGenerated"] = json!(rfc3339(time));
    }
    assert_eq!(transformed[2], wanted, "the template's transform makes the rows that the connector's makes");

    let asking: Vec<_> = deployments
        .iter()
        .zip(&transformed)
        .flat_map(|(deployment, rows)| {
            deployment.alert_rules().into_iter().map(move |rule| question(deployment, rule, rows, now))
        })
        .collect();
    let (names, questions): (Vec<_>, Vec<_>) = asking.into_iter().unzip();
    let found: Vec<_> = names.into_iter().zip(run(&questions)).collect();
    for (set, found) in SETS.iter().zip(found.chunks(3)) {
        let found: BTreeMap<_, _> = found.iter().cloned().collect();
        let of = |name: &str| &found[&format!("Pulumi Cloud - {name}")];
        let failures = of("Excessive Authentication Failures");
        assert_eq!(values(failures, "SourceIP_s"), ["198.51.100.6"], "{set}: {failures:?}");
        assert_eq!(failures[0]["Failures"], 6, "{set}");
        assert_eq!(values(of("Stack Deleted"), "UserLogin_s"), ["ada", "edsger"], "{set}");
        let members = of("Organization Membership Change");
        let events = ["member-added", "member-removed", "member-role-changed"];
        assert_eq!(values(members, "Event_s"), events, "{set}");
        assert_eq!(values(members, "UserLogin_s"), ["grace-h"; 3], "{set}");
    }
    silence_is_told_by_the_documented_query(&deployments[0], &azure.rows_by_stream(HEARTBEAT_STREAM));
}

fn silence_is_told_by_the_documented_query(deployment: &Deployment, beats: &[Row]) {
    let queries = kusto("docs/formats.md");
    let query = queries.into_iter().find(|query| query.contains(HEARTBEAT_TABLE)).expect("it is shown");
    let mut older = cells(beats);
    for beat in older.iter_mut().filter(|beat| beat["OrgId_s"] == "official") {
        let time = beat["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
        beat["TimeGenerated"] = json!(rfc3339(time - 2_400));
    }
    let columns = deployment.table(HEARTBEAT_TABLE);
    let questions = [cells(beats), older].map(|rows| Question {
        table: HEARTBEAT_TABLE,
        columns: columns.clone(),
        rows,
        query: query.clone(),
    });
    let silent = run(&questions);
    assert_eq!(silent[0], Vec::<Value>::new(), "all of them beat");
    assert_eq!(values(&silent[1], "OrgId_s"), ["official"], "its last beat is forty minutes old");
}
