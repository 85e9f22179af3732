//! The real daemon delivers through the rule that the template declares, and the alert rules are asked about what arrived.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Deployment, HEARTBEAT_TABLE, TABLE, binary, cells, kusto, run, simulated};
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

/// What the alert rules find in rows, each looking back as far as it does; by display name.
fn alerts(deployment: &Deployment, rows: &[Value], now: i64) -> BTreeMap<String, Vec<Value>> {
    let mut found = BTreeMap::new();
    for rule in deployment.alert_rules() {
        let properties = &rule["properties"];
        let text = |key: &str| properties[key].as_str().expect("a text").to_owned();
        let minutes: i64 = text("queryPeriod").trim_matches(['P', 'T', 'M']).parse().expect("minutes");
        let recent: Vec<_> = rows
            .iter()
            .filter(|row| {
                let time = row["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
                time > now - minutes * 60
            })
            .collect();
        let table = json!({TABLE: {"columns": deployment.table(TABLE), "rows": recent}});
        let answer = run(&table, &json!({"rule": text("query")}));
        found.insert(text("displayName"), answer["rule"].as_array().expect("rows").clone());
    }
    found
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
        world.pulumi().org(set).add(quiet(now - 3_600, now - 30, 120)).add(loud(now - 40));
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
        until(&format!("{set} beats"), async || {
            let beats = azure.rows_by_stream(HEARTBEAT_STREAM);
            beats.iter().any(|beat| beat.text("OrgId_s") == set && !beat.cells["DeliveredUntil_t"].is_null())
        })
        .await;
    }
    assert!(daemon.stop().await.success());

    assert_eq!(azure.dropped_columns(), BTreeMap::new(), "every field is declared");
    assert_eq!(azure.errors(), Vec::<String>::new());
    for (set, deployment) in SETS.iter().zip(&deployments) {
        arrived(set, stored(set)).assert_complete();
        let sent = world.rows(set);
        for row in &sent {
            let nulls: Vec<_> =
                row.cells.iter().filter(|(_, cell)| cell.is_null()).map(|(name, _)| name.as_str()).collect();
            // Who sends events as they are leaves out a flag that is false.
            let absent = |name: &&str| {
                *set == "connector" && ["reqOrgAdmin", "reqStackAdmin", "authFailure"].contains(name)
            };
            let nulls: Vec<_> = nulls.into_iter().filter(|name| !absent(name)).collect();
            assert_eq!(nulls, Vec::<&str>::new(), "{set}: {:?}", row.cells);
        }
        // The same through the template's own transform.
        let stream =
            deployment.streams().into_iter().find(|stream| !stream.contains("Heartbeat")).expect("a stream");
        let source = json!({"source": {"columns": deployment.stream(&stream), "rows": cells(&sent)}});
        let mut rows = run(&source, &json!({"rows": deployment.transform(&stream)}))["rows"]
            .as_array()
            .expect("rows")
            .clone();
        assert_eq!(rows.len(), sent.len());
        if *set == "connector" {
            let mut wanted = cells(&stored(set));
            for row in rows.iter_mut().chain(&mut wanted) {
                let time = row["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
                row["TimeGenerated"] = json!(rfc3339(time));
            }
            assert_eq!(rows, wanted, "both transforms make the same rows");
        } else {
            rows = cells(&sent);
        }

        let found = alerts(deployment, &rows, world.clock.now());
        let of = |name: &str| &found[&format!("Pulumi Cloud - {name}")];
        let failures = of("Excessive Authentication Failures");
        assert_eq!(values(failures, "SourceIP_s"), ["198.51.100.6"], "{set}: {failures:?}");
        assert_eq!(failures[0]["Failures"], 6, "{set}");
        assert_eq!(values(of("Stack Deleted"), "UserLogin_s"), ["ada", "edsger"], "{set}");
        let members = of("Organization Membership Change");
        assert_eq!(
            values(members, "Event_s"),
            ["member-added", "member-removed", "member-role-changed"],
            "{set}"
        );
        assert_eq!(values(members, "UserLogin_s"), ["grace-h"; 3], "{set}");

        let loud = |row: &&Value| {
            let event = row["Event_s"].as_str().expect("a text");
            row["AuthFailure_b"] == true || event == "stack-deleted" || event.starts_with("member-")
        };
        let peace: Vec<_> = rows.iter().filter(|row| !loud(row)).cloned().collect();
        assert!(peace.len() > 50, "{set}");
        for (name, found) in alerts(deployment, &peace, world.clock.now()) {
            assert_eq!(found, Vec::<Value>::new(), "{set}: {name}");
        }
    }
    silence_is_told_by_the_documented_query(&deployments[0], &azure.rows_by_stream(HEARTBEAT_STREAM));
}

fn silence_is_told_by_the_documented_query(deployment: &Deployment, beats: &[Row]) {
    let query = kusto("docs/formats.md")
        .into_iter()
        .find(|query| query.contains(HEARTBEAT_TABLE))
        .expect("it is shown");
    let silent = |beats: Vec<Value>| {
        let table = json!({HEARTBEAT_TABLE: {"columns": deployment.table(HEARTBEAT_TABLE), "rows": beats}});
        values(run(&table, &json!({"silent": query}))["silent"].as_array().expect("rows"), "OrgId_s")
    };
    assert_eq!(silent(cells(beats)), Vec::<String>::new(), "all of them beat");
    let mut older = cells(beats);
    for beat in older.iter_mut().filter(|beat| beat["OrgId_s"] == "official") {
        let time = beat["TimeGenerated"].as_str().and_then(parse_rfc3339).expect("a time");
        beat["TimeGenerated"] = json!(rfc3339(time - 2_400));
    }
    assert_eq!(silent(older), ["official"], "its last beat is forty minutes old");
}
