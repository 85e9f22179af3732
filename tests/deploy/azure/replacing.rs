//! `docs/replace-the-connector.md`, followed step by step: Pulumi's connector is simulated, the forwarder is the real one.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::templates::{documented, given_in};
use super::{Deployment, Question, TABLE, binary, cells, kusto, run, simulated};
use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until};
use crate::world::ingestion::rows::Row;
use crate::world::ingestion::{CONNECTOR_STREAM, Fault, official_columns};
use crate::world::pulumi::events::{Event, Generator};
use crate::world::script::Times;
use crate::world::setup::{OrgSetup, rule_of};
use crate::world::truth::{self, Expect, Source};
use crate::world::verdict::Cut;

const PAGE: &str = "docs/replace-the-connector.md";
const WINDOW: i64 = 300;
/// The connector's own rule, which stays as it is.
const CONNECTOR_RULE: &str = "dcr-c0ffeec0ffeec0ffeec0ffeec0ffee00";

/// Polls windows of five minutes one after the other, and hands on what it reads as it is.
struct Connector<'world> {
    world: &'world World,
    client: reqwest::Client,
    polled: i64,
}

impl<'world> Connector<'world> {
    fn new(world: &'world World, from: i64) -> Self {
        let client = reqwest::Client::builder().no_proxy().build().expect("a client");
        Self { world, client, polled: from }
    }

    async fn poll_until(&mut self, end: i64) {
        while self.polled < end {
            let next = self.polled + WINDOW;
            let url = format!("{}/api/orgs/acme/auditlogs/v2", self.world.pulumi_url());
            let page = self
                .client
                .get(format!("{url}?startTime={}&endTime={next}", self.polled))
                .header("authorization", format!("token {}", self.world.pulumi().org("acme").token()))
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
                .expect("Pulumi answers")
                .bytes()
                .await
                .expect("a page");
            let page: Value = serde_json::from_slice(&page).expect("it is JSON");
            assert!(page["continuationToken"].is_null(), "a window fits a page here");
            let events = page["auditLogEvents"].as_array().cloned().unwrap_or_default();
            let (endpoint, stream) = (self.world.ingestion_url(), CONNECTOR_STREAM);
            self.client
                .post(format!(
                    "{endpoint}/dataCollectionRules/{CONNECTOR_RULE}/streams/{stream}?api-version=2023-01-01"
                ))
                .bearer_auth(self.world.entra().token_for("https://monitor.azure.com"))
                .header("content-type", "application/json")
                .body(Value::Array(events).to_string())
                .send()
                .await
                .and_then(reqwest::Response::error_for_status)
                .expect("Azure takes it");
            self.polled = next;
        }
    }
}

/// Everything in the table, whoever delivered it.
fn table(world: &World) -> Vec<Row> {
    [CONNECTOR_RULE, &rule_of("acme")].map(|rule| world.ingestion().rows_of_rule(rule)).concat()
}

/// One of the page's queries with this test's `start`, on these rows.
fn found(deployment: &Deployment, query: &str, start: i64, rows: &[Row]) -> Vec<Value> {
    let shown = "datetime(2026-11-22T06:00:00Z)";
    assert!(query.contains(shown), "{query}");
    let query = query.replace(shown, &format!("datetime({})", rfc3339(start)));
    let question = Question { table: TABLE, columns: deployment.table(TABLE), rows: cells(rows), query };
    run(&[question]).remove(0)
}

/// Rows of a query's answer, for the count that knows the truth: rows without a key show that they are the connector's.
fn as_rows(answer: Vec<Value>) -> Vec<Row> {
    let row = |row: Value| {
        let mut cells: BTreeMap<String, Value> = serde_json::from_value(row).expect("a row");
        if cells["EventKey_s"] == "" {
            cells.remove("EventKey_s");
        }
        Row { request: 0, received: 0, rule: String::new(), stream: String::new(), cells, restamped: false }
    };
    answer.into_iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connector_is_replaced_without_a_gap_and_each_event_is_shown_once() {
    let world = World::start().await;
    let (azure, pulumi) = (world.ingestion(), world.pulumi());
    let now = world.clock.now();
    let began = now - 24 * WINDOW;
    pulumi.org("acme").add(Generator::seeded(3).spread(began, now - 30, 400));
    pulumi.org("acme").add(Event::at(now - 2_400).described("Read a secret").twins(4));
    azure.create_rule(CONNECTOR_RULE);
    azure.declare_stream(CONNECTOR_RULE, "Custom-PulumiAuditLogs_CL", Vec::new());
    let mut connector = Connector::new(&world, began);
    connector.poll_until(began + 17 * WINDOW).await;
    // Seen by nobody who has read that time already.
    let late = "became visible when the connector had been there";
    pulumi.org("acme").add([Event::at(now - 3_000).described(late)]);

    // 1. and 2.
    let start = now - 3_600;
    let commands = documented(PAGE);
    let first = given_in(&commands[0]);
    assert_eq!(first["analyticRules"], false, "the connector's rules are still there");
    let runtime = json!({"endpoint": world.ingestion_url(), "immutableId": rule_of("acme")});
    let deployment = Deployment::of(&first, "AzureCloud", &runtime);
    assert_eq!(deployment.alert_rules().len(), 0);
    let kept = simulated(&deployment.table(TABLE));
    assert!(official_columns().iter().all(|column| kept.contains(column)), "the table keeps its columns");
    for stream in deployment.streams() {
        azure.declare_stream(&rule_of("acme"), &stream, simulated(&deployment.stream(&stream)));
    }

    // 3.
    let queries = kusto(PAGE);
    let (compare, once) = (&queries[0], &queries[1]);
    let behind = found(&deployment, compare, start, &table(&world));
    assert!(behind.len() > 3, "the comparison names what the forwarder has not: {behind:?}");
    azure.fault_on(&rule_of("acme"), Fault::AnswerLost(Cut::Reset), Times::Next(1));
    let setup = OrgSetup {
        more_source: deployment.section_in(&world, ""),
        ..OrgSetup::new("acme").since(&rfc3339(start))
    };
    let config = world.write_config(&[setup], "");
    let mut daemon = Daemon::start(binary(), &config, &world.paths.root.join("log"));
    connector.poll_until(began + 20 * WINDOW).await;
    let due = |since| Expect { since, as_of: world.clock.now(), ..Expect::default() };
    let forwarded = || {
        let rows = azure.rows_of_rule(&rule_of("acme"));
        truth::table::check(&rows, "acme", &world.source("acme"), world.clock.now(), &due(start))
    };
    until("everything since the start has arrived", async || forwarded().is_complete()).await;

    // 4.
    assert_eq!(found(&deployment, compare, start, &table(&world)), Vec::<Value>::new());
    let more = compare.replace("Forwarder < Connector", "Forwarder > Connector");
    let missed = found(&deployment, &more, start, &table(&world));
    assert!(!missed.is_empty(), "the late event and a lost answer's copies show");

    // 5.: the connector does not poll any more. Life goes on.
    let (until_here, last) = (connector.polled, world.clock.now() - 1);
    pulumi.org("acme").add(Generator::seeded(5).burst(last, 12));
    until("what came after the connector has arrived", async || forwarded().is_complete()).await;
    assert!(daemon.stop().await.success());
    let report = forwarded();
    assert!(report.is_complete() && report.removable > 0, "{report}");

    // What is there twice: what the connector has since `start`, and not the late event.
    let rows = table(&world);
    let since =
        |row: &&Row| !row.cells.contains_key("EventKey_s") && row.number("Timestamp_d") >= Some(start);
    let twice: Vec<_> = rows.iter().filter(since).cloned().collect();
    let mut overlap: Source = world.source("acme");
    overlap.events.retain(|event| {
        let is_late = String::from_utf8_lossy(&event.bytes).contains(late);
        (start..until_here).contains(&event.timestamp) && !is_late
    });
    assert!(twice.len() > 100, "{}", twice.len());
    truth::table::check(&twice, "acme", &overlap, world.clock.now(), &Expect::default()).assert_complete();

    // Each event once, from where the connector began.
    let shown = as_rows(found(&deployment, once, start, &rows));
    let report = truth::table::check(&shown, "acme", &world.source("acme"), world.clock.now(), &due(began));
    report.assert_complete();
    assert_eq!((report.removable, report.arrived), (0, shown.len()), "{report}");
    assert!(rows.len() > shown.len() + twice.len(), "copies of a lost answer are removed as well");

    // 6.
    let last = Deployment::of(&given_in(&commands[1]), "AzureCloud", &runtime);
    assert_eq!(last.alert_rules().len(), 3);
    assert_eq!(last.table(TABLE), deployment.table(TABLE));
    assert_eq!(last.section(), deployment.section());
}
