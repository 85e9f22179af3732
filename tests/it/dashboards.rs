//! The dashboards in `dashboards`: that they are what their source makes, that Grafana's own types know all of it, that their colours
//! are the alerts', and that a real Prometheus which scrapes the real daemon answers every query of every panel.
//!
//! With `DASHBOARD_PICTURES` set to a folder, the drawings for the documentation are put there (`make dashboard-pictures`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::alerting::prometheus::{Prometheus, yaml};
use crate::alerting::{RULES, alerts, known, list, repository, rules, text, unknown_in};
use crate::forwarder::{metric, recent, start};
use crate::referees::tool;
use crate::world::World;
use crate::world::certificates::ClientCertificate;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until_within};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, OrgSetup, TENANT, rule_of};
use crate::world::verdict::Cut;

const NAMES: [&str; 4] = ["orgs", "org", "services", "process"];

fn file(name: &str) -> String {
    format!("pulumi-audit-{name}.json")
}

fn dashboard(name: &str) -> Value {
    let path = repository("dashboards").join(file(name));
    serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("it is JSON")
}

/// The panels of all dashboards, headings aside, each with a name for reports.
fn panels() -> Vec<(String, Value)> {
    let mut all = Vec::new();
    for name in NAMES {
        let panels = dashboard(name)["panels"].as_array().cloned().expect("it has panels");
        let panels = panels.into_iter().filter(|panel| panel["type"] != "row");
        all.extend(panels.map(|panel| (format!("{name}: {}", text(&panel, "title")), panel)));
    }
    assert!(all.len() > 60, "the dashboards were understood");
    all
}

/// A query as it is sent with All jobs, and one org chosen.
fn asked(expression: &str) -> String {
    let asked = expression.replace("$job", ".+").replace("$org", "acme").replace("$__rate_interval", "10s");
    assert!(!asked.contains('$'), "a variable that is not known here: {asked}");
    asked
}

fn queries(panel: &Value) -> Vec<String> {
    let queries: Vec<_> = list(panel, "targets").iter().map(|target| asked(text(target, "expr"))).collect();
    assert!(!queries.is_empty(), "{panel} asks nothing");
    queries
}

fn generate(into: &Path, from: &Path) -> Output {
    let mut command = Command::new("sh");
    command.arg(repository("dashboards/generate.sh")).args([into, from]);
    command.output().expect("a shell starts")
}

#[test]
fn the_dashboards_are_what_their_source_makes_and_grafanas_types_refuse_what_grafana_does_not_know() {
    tool("dashboards/node_modules/@grafana/schema/package.json");
    let made = tempfile::tempdir().expect("a directory can be made");
    let source = repository("dashboards/source");
    let generated = generate(made.path(), &source);
    assert!(generated.status.success(), "{}", String::from_utf8_lossy(&generated.stdout));
    for name in NAMES {
        let (now, then) = (
            fs::read_to_string(made.path().join(file(name))).expect("it was written"),
            fs::read_to_string(repository("dashboards").join(file(name))).unwrap_or_default(),
        );
        assert!(
            now == then,
            "{} is not what dashboards/source makes: run `sh dashboards/generate.sh`",
            file(name)
        );
    }
    // That it would find something: an option that no panel of Grafana has.
    let spoiled = tempfile::tempdir().expect("a directory can be made");
    for entry in fs::read_dir(source).expect("there is a source") {
        let path = entry.expect("it can be read").path();
        let wrong = fs::read_to_string(&path).expect("it is text").replace("graphMode:", "graphStyle:");
        fs::write(spoiled.path().join(path.file_name().expect("it has a name")), wrong)
            .expect("it can be written");
    }
    let refused = generate(made.path(), spoiled.path());
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(!refused.status.success() && said.contains("graphStyle"), "{said}");
}

/// Where a panel's colours change: the number, and the colour of what is bad.
fn judgements(panel: &Value) -> Vec<(f64, String)> {
    let mut all = vec![&panel["fieldConfig"]["defaults"]["thresholds"]];
    for overridden in list(&panel["fieldConfig"], "overrides") {
        let properties = list(overridden, "properties").iter();
        all.extend(properties.filter(|it| it["id"] == "thresholds").map(|it| &it["value"]));
    }
    let mut found = Vec::new();
    for steps in all.into_iter().map(|thresholds| list(thresholds, "steps")) {
        let color = |step: &Value| text(step, "color").to_owned();
        for pair in steps.windows(2) {
            let at = pair[1]["value"].as_f64().expect("a step begins somewhere");
            // Where less is worse, what is bad stands below.
            let bad = if ["green", "transparent"].contains(&&*color(&pair[1])) { &pair[0] } else { &pair[1] };
            found.push((at, color(bad)));
        }
    }
    found
}

/// The values from which on, or below which, an alert can fire.
fn begins(expression: &str) -> Vec<f64> {
    let words: Vec<&str> = expression
        .split(|c: char| c.is_whitespace() || "(){},\"".contains(c))
        .filter(|word| !word.is_empty())
        .collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let Some(value) = word.trim_start_matches("le=").parse::<f64>().ok() else { continue };
        found.push(value);
        // More than a count of four is five and more, and what is not 1 is 0.
        if at > 0 && [">", "=="].contains(&words[at - 1]) && value < 60.0 && value.fract() == 0.0 {
            found.push(value + 1.0);
        }
    }
    // No forwarder, and a count that is higher than a day before.
    if expression.contains("absent(") || expression.contains(" offset 1d") {
        found.push(1.0);
    }
    found
}

#[test]
fn every_panel_says_what_is_normal_and_its_colours_are_those_of_the_alerts_it_links_to() {
    let alerts: BTreeMap<String, Value> = alerts()
        .into_values()
        .map(|alert| (text(&alert["annotations"], "runbook").trim_start_matches("docs/").to_owned(), alert))
        .collect();
    let mut linked = BTreeSet::new();
    for (name, panel) in panels() {
        let says = text(&panel, "description");
        assert!(says.ends_with('.') && !says.trim_end_matches('.').contains(". "), "{name}: one sentence");
        assert!(says.len() > 40 && says.len() < 260, "{name}: {says}");
        let mut about = Vec::new();
        for link in list(&panel, "links") {
            let url = text(link, "url");
            let page = url.strip_prefix("${docs}/").unwrap_or_else(|| panic!("{name} leads to {url}"));
            assert!(repository("docs").join(page).is_file(), "{name} leads to {page}, which is not there");
            about.extend(alerts.get(page));
            linked.insert(page.to_owned());
        }
        for (at, color) in judgements(&panel) {
            let severity = match &*color {
                "red" => "critical",
                "orange" => "warning",
                "blue" => "info",
                other => panic!("{name}: {other} is no alert's colour"),
            };
            let fits = |alert: &&Value| {
                text(&alert["labels"], "severity") == severity && begins(text(alert, "expr")).contains(&at)
            };
            assert!(about.iter().any(fits), "{name}: no {severity} alert that it links to begins at {at}");
        }
    }
    let missing: Vec<&String> = alerts.keys().filter(|page| !linked.contains(*page)).collect();
    assert!(missing.is_empty(), "no panel leads to {missing:?}");
    // That numbers are told apart.
    assert_eq!(begins("changes(x[1h]) > 4 and on (job) y"), [4.0, 5.0]);
    assert!(begins("abs(x) > 120").contains(&120.0) && !begins("abs(x) > 120").contains(&121.0));
}

#[tokio::test]
async fn no_panel_asks_for_a_metric_a_label_or_a_value_that_neither_daemon_nor_rules_have() {
    let mut known = known(&rules()).await;
    // Of Prometheus itself.
    known.insert("scrape_duration_seconds".to_owned(), BTreeMap::new());
    let labels = ["alertname", "alertstate", "severity", "org", "destination"];
    let labels = labels.map(|label| (label.to_owned(), BTreeSet::new()));
    known.insert("ALERTS".to_owned(), labels.into());
    for (name, panel) in panels() {
        for query in queries(&panel) {
            assert_eq!(unknown_in(&known, &query), None, "{name} asks\n{query}");
        }
        // What stands in braces in a legend, and what a table shows, are labels that a query keeps.
        let all = queries(&panel).join(" ");
        for target in list(&panel, "targets") {
            for label in target["legendFormat"].as_str().unwrap_or_default().split("{{").skip(1) {
                let (label, _) = label.split_once("}}").expect("braces are closed");
                assert!(all.contains(label) || label == "instance", "{name}: {label} is not kept");
            }
        }
    }
    for name in NAMES {
        for variable in list(&dashboard(name)["templating"], "list") {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let inside = query.strip_prefix("label_values(").and_then(|rest| rest.strip_suffix(')'));
            let (selector, label) = inside.and_then(|it| it.rsplit_once(", ")).expect("values of a label");
            assert_eq!(unknown_in(&known, &asked(selector)), None, "{query}");
            assert!(
                known[selector.split('{').next().unwrap_or_default()].contains_key(label) || label == "job"
            );
        }
    }
    assert!(unknown_in(&known, r#"sum by (lane) (pulumi_audit_backlog_events)"#).is_some());
}

/// What has no data while all is well, and why. Everything else has some within seconds.
const EMPTY_WHILE_WELL: [(&str, &str); 20] = [
    ("orgs: Next secret ends in", "of a client secret nobody says when it ends"),
    ("orgs: Who waits, and why", "nobody does"),
    ("orgs: Who waits, and why #2", "nothing is paused"),
    ("orgs: Alerts that fire", "none does"),
    ("orgs: Paused, and why", "nothing is"),
    ("orgs: Not read yet", "everything is read"),
    ("orgs: Quarantined and odd events (6 h)", "no event was refused"),
    ("orgs: Quarantined and odd events (6 h) #2", "every event was as documented"),
    ("org: Next secret ends in", "as above"),
    ("org: Credentials #2", "as above"),
    ("org: Quarantined and odd events (6 h)", "as above"),
    ("org: Quarantined and odd events (6 h) #2", "as above"),
    ("services: Failed sweeps within an hour: most of an organization", "none failed"),
    ("services: How late events become visible", "no event was late"),
    ("services: How late events become visible #2", "no event was late"),
    ("services: How late events become visible #3", "no event was late"),
    ("services: Throttled: part of the last hour", "nobody was asked to slow down"),
    ("services: Sends to Sentinel without an answer (15 min)", "all were answered"),
    ("services: Secrets that end first", "as above"),
    ("services: Quarantined (6 h)", "as above"),
];

/// Every query of every panel by its panel, numbered from the second on.
fn all_queries() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (name, panel) in panels() {
        for (number, query) in queries(&panel).into_iter().enumerate() {
            let name = if number == 0 { name.clone() } else { format!("{name} #{}", number + 1) };
            assert!(all.insert(name.clone(), query).is_none(), "two panels are called {name}");
        }
    }
    all
}

/// Whether an answer has a number in it; what no event has happened for is divided by nothing.
fn has_data(answer: &[Value]) -> bool {
    let is_number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
    answer.iter().any(is_number)
}

struct Stage {
    world: World,
    daemon: Daemon,
    prometheus: Prometheus,
    acme: OrgSetup,
    events: Generator,
}

impl Stage {
    /// Three orgs that do well, and the rules as they are, but that one of them fires at once rather than after five minutes.
    async fn set() -> Stage {
        let names = ["acme", "globex", "initech", "hooli", "umbrella"];
        let world = World::builder().orgs(&names).with_s3().events(60).start().await;
        let acme = recent(&world, "acme").with_sentinel().with_s3();
        let well = [
            &acme,
            &recent(&world, "globex").with_sentinel().with_s3(),
            &recent(&world, "initech").with_sentinel(),
        ];
        let mut daemon = start(&world, &well.map(Clone::clone));
        let mut target = None;
        until_within(Duration::from_secs(60), "the daemon is ready", async || {
            target = daemon.admin();
            daemon.get("/readyz").await.is_some_and(|(code, _)| code == 200)
        })
        .await;
        let mut rules = yaml(RULES);
        for group in rules["groups"].as_array_mut().expect("there are groups") {
            for rule in group["rules"].as_array_mut().expect("there are rules") {
                if rule["alert"] == "PulumiAuditPaused" {
                    rule["for"] = "1s".into();
                }
            }
        }
        let directory = world.paths.root.join("prometheus");
        let prometheus = Prometheus::start(&directory, &target.expect("it is served"), &rules).await;
        Stage { world, daemon, prometheus, acme, events: Generator::seeded(11).plain() }
    }

    /// Something happens in the orgs that do well.
    fn goes_on(&mut self) {
        let now = self.world.clock.now();
        for (org, count) in [("acme", 3), ("globex", 2), ("initech", 1)] {
            let events: Vec<Event> = (0..count).map(|_| self.events.event(now)).collect();
            self.world.pulumi().org(org).add(events);
        }
    }

    /// Asks everything again and again, until exactly `empty` never had data.
    async fn answers_all_but(&mut self, empty: &BTreeSet<String>) {
        let mut left = all_queries();
        let begun = Instant::now();
        while !left.keys().eq(empty) {
            let names: Vec<&String> = left.keys().filter(|name| !empty.contains(*name)).collect();
            let full: Vec<&String> = empty.iter().filter(|name| !left.contains_key(*name)).collect();
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "no data: {names:#?}; data all the same: {full:#?}"
            );
            self.goes_on();
            let mut filled = Vec::new();
            for (name, query) in &left {
                if has_data(&self.prometheus.query(query).await) {
                    filled.push(name.clone());
                }
            }
            left.retain(|name, _| !filled.contains(name));
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whatever a panel can show comes about.
    async fn trouble_of_every_kind(&mut self) {
        let world = &self.world;
        let now = world.clock.now();
        // A certificate, as only of that it is known when it ends.
        let certificate = ClientCertificate::create();
        world.entra().trusts(TENANT, CLIENT_ID, &certificate);
        let pair = world.paths.write_secret("pair", &certificate.pem);
        self.acme.identity = Some(format!(
            "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, certificate = {{ file = {pair:?} }} }}"
        ));
        // Nothing is read twice by head sweeps, so that a late event is found by a later look.
        self.acme.more_source = "overlap = \"0s\"\nrescan_after = [\"7s\"]\n".to_owned();
        world.write_org(&self.acme);
        world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
        let acme = world.pulumi().org("acme");
        acme.add([Event::at(now).described("a poisoned row"), Event::at(now).described("after it")]);
        acme.add([Event::at(now).with_unknown("mood", json!("fine"))]);
        world.ingestion().fault_on(
            &rule_of("initech"),
            crate::world::ingestion::Fault::status(403),
            Times::UntilCleared,
        );
        // Of an org that meets nothing else, and whose counters Prometheus has seen before: a series that begins above 0 has not risen.
        let lost = crate::world::ingestion::Fault::AnswerLost(Cut::Close);
        world.ingestion().fault_on(&rule_of("globex"), lost, Times::Next(2));
        // One is slowed down from its beginning, and one is read a little before its service breaks.
        world.pulumi().fault("umbrella", Fault::throttled(), Times::UntilCleared);
        world.pulumi().fault("hooli", Fault::html(502), Times::After(3, u32::MAX));
        let month_ago = rfc3339(now - 30 * 86_400);
        world.write_org(&recent(world, "umbrella").with_sentinel());
        world.write_org(&OrgSetup::new("hooli").since(&month_ago).with_sentinel().with_s3());
    }

    /// A late event, once the org looks for such.
    fn is_late(&self) {
        let late = Event::at(self.world.clock.now()).described("shown late").late_by(4);
        self.world.pulumi().org("acme").add([late]);
    }

    /// Some minutes more, in one of which Azure is away, then a picture of each dashboard.
    async fn is_drawn(&mut self, folder: &Path) {
        let begun = Instant::now();
        let mut away = false;
        for (until, outage) in [(40, false), (85, true), (170, false)] {
            if outage {
                self.world.azure().goes_away().await;
            } else if away {
                self.world.azure().comes_back();
            }
            away = outage;
            while begun.elapsed() < Duration::from_secs(until) {
                self.goes_on();
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        }
        let output = Command::new("node")
            .arg(repository("tests/browser/draw.mjs"))
            .args([tool("browser/node_modules"), "/usr/bin/chromium".into()])
            .args([repository("dashboards"), folder.to_owned()])
            .args([&self.prometheus.url(), "acme"])
            .output()
            .expect("node starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_answers_every_query_and_what_is_empty_while_all_is_well_fills_in_trouble() {
    let mut stage = Stage::set().await;
    let empty = EMPTY_WHILE_WELL.iter().map(|(name, _)| (*name).to_owned()).collect();
    stage.answers_all_but(&empty).await;

    stage.trouble_of_every_kind().await;
    until_within(Duration::from_secs(60), "a late event is found", async || {
        stage.goes_on();
        stage.is_late();
        tokio::time::sleep(Duration::from_millis(500)).await;
        metric(&mut stage.daemon, "events_late_total", &[("org", "acme")]).await > Some(0.0)
    })
    .await;
    let lost = [("org", "globex"), ("destination", "sentinel"), ("outcome", "ambiguous")];
    until_within(Duration::from_secs(60), "an answer is lost", async || {
        stage.goes_on();
        metric(&mut stage.daemon, "deliveries_total", &lost).await > Some(0.0)
    })
    .await;
    stage.answers_all_but(&BTreeSet::new()).await;

    if let Some(folder) = std::env::var_os("DASHBOARD_PICTURES").map(PathBuf::from) {
        stage.is_drawn(&folder).await;
    }
    assert!(stage.daemon.stop().await.success());
}
