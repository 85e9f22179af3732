//! The rules for Prometheus in `deploy/prometheus`: that they are right, that each alert is tried and explained, and that a real
//! Prometheus fires and resolves them over the real daemon.

pub(crate) mod prometheus;
mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::slice::from_ref;

use serde_json::Value;

use crate::forwarder::{bare, complete, out, recent, start};
use crate::world::World;
use crate::world::certificates::ClientCertificate;
use crate::world::daemon::until;
use crate::world::pulumi::events::Event;
use crate::world::setup::{CLIENT_ID, TENANT};
use prometheus::{Prometheus, promtool, yaml};
use promql::{Selector, named};

pub(crate) const RULES: &str = "deploy/prometheus/pulumi-audit-forwarder.rules.yml";
const CASES: [&str; 2] = [
    "deploy/prometheus/pulumi-audit-forwarder.tests.yml",
    "deploy/prometheus/pulumi-audit-forwarder.days.tests.yml",
];
/// What Prometheus itself adds to every series.
const ADDED: [&str; 2] = ["job", "instance"];

pub(crate) fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// Every rule of the file, recording and alerting.
pub(crate) fn rules() -> Vec<Value> {
    list(&yaml(RULES), "groups").iter().flat_map(|group| list(group, "rules").to_vec()).collect()
}

/// The alerts of the file by their names.
pub(crate) fn alerts() -> BTreeMap<String, Value> {
    rules().into_iter().filter_map(|rule| Some((rule["alert"].as_str()?.to_owned(), rule))).collect()
}

fn assert_content(output: &std::process::Output) {
    let said = [&output.stdout[..], &output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

#[tokio::test(flavor = "multi_thread")]
async fn promtool_finds_nothing_wrong_with_the_page_of_the_real_daemon() {
    let world = World::builder().events(60).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let (_, page) = daemon.get("/metrics").await.expect("metrics are served");
    let checked = promtool(&["check", "metrics"], &page);
    assert_content(&checked);
    assert!(checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
    // That it would find something.
    let worse = page.replace("pulumi_audit_pages_total", "pulumi_audit_pages");
    assert!(!promtool(&["check", "metrics"], &worse).status.success());
    assert!(daemon.stop().await.success());
}

#[test]
fn promtool_finds_the_rules_right_and_every_case_as_it_should_be() {
    assert_content(&promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES], ""));
    assert_content(&promtool(&[&["test", "rules"], &CASES[..]].concat(), ""));
}

#[test]
fn every_alert_says_how_urgent_it_is_whom_it_is_about_and_where_to_read_on() {
    let mut pages = BTreeSet::new();
    for (name, alert) in alerts() {
        let severity = text(&alert["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        let page = text(&alert["annotations"], "runbook");
        let page = page.strip_prefix("docs/runbooks/").unwrap_or_else(|| panic!("{name}: {page}"));
        assert!(pages.insert(page.to_owned()), "{page} is of one alert");
        let written = fs::read_to_string(repository("docs/runbooks").join(page))
            .unwrap_or_else(|_| panic!("{name} has no page docs/runbooks/{page}"));
        assert!(written.starts_with(&format!("# {name}\n")), "{page} is about another alert");
        assert!(written.contains(&format!("\nSeverity: {severity}.")), "{page} says how urgent {name} is");
        let mut rest = written.as_str();
        for heading in ["\n## What it means\n\n", "\n## What to look at\n\n", "\n## What to do\n\n"] {
            let (_, after) = rest.split_once(heading).unwrap_or_else(|| panic!("{page} lacks {heading:?}"));
            assert!(
                after.trim_start().chars().next().is_some_and(|first| first != '#'),
                "{page}: {heading:?}"
            );
            rest = after;
        }
    }
    for entry in fs::read_dir(repository("docs/runbooks")).expect("there are pages") {
        let page = entry.expect("they can be read").file_name().to_string_lossy().into_owned();
        assert!(pages.contains(&page) || page == "README.md", "{page} is of no alert");
    }
}

#[tokio::test]
async fn every_command_that_a_page_shows_exists_as_it_is_written() {
    let mut shown = BTreeSet::new();
    for entry in fs::read_dir(repository("docs/runbooks")).expect("there are pages") {
        let written = fs::read_to_string(entry.expect("they can be read").path()).expect("it is text");
        let spans = written.split('`').skip(1).step_by(2).map(str::to_owned);
        shown.extend(spans.filter_map(|span| Some(span.strip_prefix("pulumi-audit-forwarder ")?.to_owned())));
    }
    assert!(shown.len() > 10, "{shown:?}");
    for line in shown {
        // Numbers stand for themselves; everything that is left is as people type it.
        let line = line.replace("NUMBER", "1");
        let arguments: Vec<&str> = line.split(' ').chain(["--help"]).collect();
        let ended = bare(&arguments).await;
        assert!(ended.status.success(), "{line}: {}", crate::forwarder::err(&ended));
    }
}

#[test]
fn every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_is_quiet() {
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for tried in CASES.iter().flat_map(|file| list(&yaml(file), "tests").to_vec()) {
        for case in list(&tried, "alert_rule_test") {
            let name = text(case, "alertname").to_owned();
            for expected in list(case, "exp_alerts") {
                let summary = text(&expected["exp_annotations"], "summary");
                for label in ["org", "destination", "credential", "kind"] {
                    if let Some(value) = expected["exp_labels"][label].as_str() {
                        assert!(
                            summary.contains(value),
                            "{name}: the summary does not name {label}: {summary}"
                        );
                    }
                }
                fires.insert(name.clone());
            }
            if list(case, "exp_alerts").is_empty() {
                quiet.insert(name);
            }
        }
    }
    let all: BTreeSet<String> = alerts().into_keys().collect();
    assert_eq!(fires, all, "each fires once, and nothing else does");
    assert_eq!(quiet, all, "each is quiet once");
}

/// What can be asked: label and values of every metric. The sets that are not closed are empty.
pub(crate) type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Of the daemon, as it says itself, and what the rules record.
pub(crate) async fn known(rules: &[Value]) -> Known {
    let reference = bare(&["metrics"]).await;
    let mut known = Known::new();
    for line in out(&reference).lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let mut labels = BTreeMap::new();
        for label in cells[2].split("; ").filter(|label| !label.is_empty()) {
            let (label, values) = label.split_once(": ").unwrap_or((label, ""));
            let values = values.split(' ').filter(|value| !value.is_empty());
            let values = values.map(|value| value.trim_matches('`').to_owned()).collect();
            labels.insert(label.trim_matches('`').to_owned(), values);
        }
        let name = cells[0].trim_matches('`').to_owned();
        if cells[1] == "histogram" {
            for suffix in ["_bucket", "_sum", "_count"] {
                let mut labels: BTreeMap<String, BTreeSet<String>> = labels.clone();
                if suffix == "_bucket" {
                    labels.insert("le".to_owned(), BTreeSet::new());
                }
                known.insert(format!("{name}{suffix}"), labels);
            }
        } else {
            known.insert(name, labels);
        }
    }
    assert!(known.len() > 60, "the reference was understood");
    for rule in rules.iter().filter(|rule| rule["record"].is_string()) {
        let labels =
            named(text(rule, "expr")).0.into_iter().filter_map(|from| known.get(&from.name).cloned());
        let labels = labels.flatten().collect();
        known.insert(text(rule, "record").to_owned(), labels);
    }
    known
}

/// Why a selector asks for something that there is not.
fn unknown(known: &Known, Selector { name, labels, .. }: &Selector) -> Option<String> {
    let Some(has) = known.get(name) else { return Some(format!("no metric is called {name}")) };
    for (label, wanted) in labels.iter().filter(|(label, _)| !ADDED.contains(&label.as_str())) {
        let Some(values) = has.get(label) else { return Some(format!("{name} has no label {label}")) };
        if let Some(value) = wanted.iter().find(|value| !values.is_empty() && !values.contains(*value)) {
            return Some(format!("{label} of {name} is never {value}"));
        }
    }
    None
}

/// The same for a whole expression, its groupings included.
pub(crate) fn unknown_in(known: &Known, expression: &str) -> Option<String> {
    let (selectors, grouped) = named(expression);
    let labels =
        |selector: &Selector| known.get(&selector.name).map(|has| has.keys().cloned().collect::<Vec<_>>());
    let all: BTreeSet<String> = selectors.iter().filter_map(labels).flatten().collect();
    let odd = |label: &&String| !all.contains(*label) && !ADDED.contains(&label.as_str());
    selectors
        .iter()
        .find_map(|selector| unknown(known, selector))
        .or_else(|| grouped.iter().find(odd).map(|label| format!("nothing here has a label {label}")))
}

#[tokio::test]
async fn no_rule_and_no_case_names_a_metric_a_label_or_a_value_that_the_daemon_does_not_have() {
    let rules = rules();
    let known = known(&rules).await;
    for rule in &rules {
        let expression = text(rule, "expr");
        assert_eq!(unknown_in(&known, expression), None, "in\n{expression}");
        let metrics = named(expression).0;
        let labels: BTreeSet<&String> =
            metrics.iter().flat_map(|metric| known[&metric.name].keys()).collect();
        let summary = rule["annotations"]["summary"].as_str().unwrap_or_default();
        for used in summary.split("$labels.").skip(1) {
            let label: String = used.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            assert!(labels.contains(&label) || ADDED.contains(&label.as_str()), "{label} in {summary}");
        }
    }
    for tried in CASES.iter().flat_map(|file| list(&yaml(file), "tests").to_vec()) {
        for series in list(&tried, "input_series") {
            let series = text(series, "series");
            assert_eq!(unknown_in(&known, series), None, "in {series}");
            let [selector] = &named(series).0[..] else { panic!("{series}") };
            let missing: Vec<&String> = known[&selector.name]
                .keys()
                .filter(|label| !selector.labels.iter().any(|(name, _)| name == *label))
                .collect();
            assert!(missing.is_empty(), "{series} would have {missing:?} too");
        }
    }
    // That it would find something.
    for wrong in [
        "pulumi_audit_pauses == 1",
        r#"pulumi_audit_paused{lane="s3"} == 1"#,
        r#"pulumi_audit_paused{reason="tired"} == 1"#,
        r#"pulumi_audit_deliveries_total{outcome=~"acknowledged|lost"}"#,
        "sum by (org, kind) (pulumi_audit_paused)",
    ] {
        assert!(unknown_in(&known, wrong).is_some(), "{wrong}");
    }
}

/// How much faster the rules run here: what takes a quarter of an hour takes three seconds.
const HURRY: u32 = 300;

/// The rules of the file, with every time in them divided by [`HURRY`] and nothing else changed.
fn hurried() -> Value {
    let mut file = yaml(RULES);
    for group in file["groups"].as_array_mut().expect("there are groups") {
        for rule in group["rules"].as_array_mut().expect("there are rules") {
            for key in ["expr", "for"] {
                if let Some(text) = rule[key].as_str() {
                    rule[key] = promql::hurried(text, HURRY).into();
                }
            }
        }
    }
    file
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_fires_when_azure_is_taken_away_resolves_when_it_is_back_and_misses_the_forwarder()
{
    const STALE: &str = "PulumiAuditDeliveryStale";
    const ABSENT: &str = "PulumiAuditForwarderAbsent";
    let world = World::with_events(60).await;
    // A certificate, as only of that it is known when it ends.
    let certificate = ClientCertificate::create();
    world.entra().trusts(TENANT, CLIENT_ID, &certificate);
    let pair = world.paths.write_secret("pair", &certificate.pem);
    let identity = format!(
        "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, certificate = {{ file = {pair:?} }} }}"
    );
    let acme = recent(&world, "acme").with_sentinel_as(&identity).with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let target = daemon.admin().expect("it is served");
    let prometheus = Prometheus::start(&world.paths.root.join("prometheus"), &target, &hurried()).await;

    let mut rules = Vec::new();
    until("every rule has been evaluated", async || {
        rules = prometheus.rules().await;
        !rules.is_empty() && rules.iter().all(|rule| rule["health"] != "unknown")
    })
    .await;
    for rule in &rules {
        assert_eq!(rule["health"], "ok", "{rule}");
    }
    let selectors: BTreeSet<String> = self::rules()
        .iter()
        .flat_map(|rule| named(text(rule, "expr")).0)
        .map(|selector| selector.text)
        .collect();
    for selector in &selectors {
        until(&format!("{selector} is there"), async || !prometheus.query(selector).await.is_empty()).await;
    }
    until("nothing is stale", async || {
        let ages = prometheus.query("pulumi_audit:delivered_until_age_seconds < 6").await;
        ages.len() == 2 && prometheus.firing(STALE).await.is_empty()
    })
    .await;

    world.azure().goes_away().await;
    world.pulumi().org("acme").add([Event::at(world.clock.now())]);
    let mut fired = Vec::new();
    until("the alert fires", async || {
        fired = prometheus.firing(STALE).await;
        !fired.is_empty()
    })
    .await;
    let [alert] = &fired[..] else { panic!("one lane is stale: {fired:?}") };
    assert_eq!(
        (&alert["labels"]["org"], &alert["labels"]["destination"]),
        (&"acme".into(), &"sentinel".into())
    );
    let summary = text(&alert["annotations"], "summary");
    assert!(summary.starts_with("acme: sentinel may lack events of the last "), "{summary}");

    world.azure().comes_back();
    until("the alert is resolved", async || prometheus.firing(STALE).await.is_empty()).await;
    complete(&world, &acme).await;

    assert!(prometheus.firing(ABSENT).await.is_empty());
    assert!(daemon.stop().await.success());
    until("the forwarder is missed", async || !prometheus.firing(ABSENT).await.is_empty()).await;
}
