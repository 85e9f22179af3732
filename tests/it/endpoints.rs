//! What the admin endpoints show: metrics, probes, and nothing that changes anything.

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;
use std::time::Duration;

use crate::forwarder::{complete, paused, recent, sample, start};
use crate::world::World;
use crate::world::daemon::until;
use crate::world::pulumi::behaviour::Fault;
use crate::world::script::Times;

/// The promised metrics: name without prefix, type, labels.
const PROMISED: [(&str, &str, &[&str]); 44] = [
    ("delivered_until_timestamp_seconds", "gauge", &["org", "destination"]),
    ("cursor_timestamp_seconds", "gauge", &["org"]),
    ("tip_timestamp_seconds", "gauge", &["org"]),
    ("last_successful_sweep_timestamp_seconds", "gauge", &["org"]),
    ("sweeps_total", "counter", &["org", "kind", "outcome"]),
    ("sweep_duration_seconds", "histogram", &["org", "kind"]),
    ("source_requests_total", "counter", &["org", "code"]),
    ("source_request_duration_seconds", "histogram", &["org"]),
    ("source_throttled_seconds_total", "counter", &["org"]),
    ("pages_total", "counter", &["org"]),
    ("events_read_total", "counter", &["org"]),
    ("events_new_total", "counter", &["org"]),
    ("events_late_total", "counter", &["org"]),
    ("event_lateness_seconds", "histogram", &["org"]),
    ("schema_anomalies_total", "counter", &["org", "kind"]),
    ("source_clock_skew_seconds", "gauge", &["org"]),
    ("journal_chunks", "gauge", &["org"]),
    ("journal_bytes", "gauge", &["org"]),
    ("journal_unacknowledged_bytes", "gauge", &["org"]),
    ("journal_capacity_bytes", "gauge", &[]),
    ("backlog_chunks", "gauge", &["org", "destination"]),
    ("backlog_events", "gauge", &["org", "destination"]),
    ("deliveries_total", "counter", &["org", "destination", "outcome"]),
    ("delivered_events_total", "counter", &["org", "destination"]),
    ("delivered_bytes_total", "counter", &["org", "destination"]),
    ("delivery_duration_seconds", "histogram", &["destination"]),
    ("end_to_end_latency_seconds", "histogram", &["org", "destination"]),
    ("paused", "gauge", &["org", "destination", "reason"]),
    ("waiting", "gauge", &["org", "destination", "reason"]),
    ("quarantined_events_total", "counter", &["org", "destination", "reason"]),
    ("coverage_gap_seconds", "gauge", &["org"]),
    ("coverage_damaged_seconds", "gauge", &["org"]),
    ("coverage_unsettled_seconds", "gauge", &["org"]),
    ("credential_refreshes_total", "counter", &["org", "credential", "outcome"]),
    ("credential_in_use", "gauge", &["org", "credential", "slot"]),
    ("credential_expiry_timestamp_seconds", "gauge", &["org", "credential"]),
    ("config_last_reload_successful", "gauge", &[]),
    ("config_last_reload_success_timestamp_seconds", "gauge", &[]),
    ("state_commits_total", "counter", &["kind", "outcome"]),
    ("state_commit_duration_seconds", "histogram", &["kind"]),
    ("log_lines_dropped_total", "counter", &[]),
    ("state_damaged_journals", "gauge", &[]),
    ("build_info", "gauge", &["version", "revision"]),
    ("process_start_time_seconds", "gauge", &[]),
];

/// A page of metrics, taken apart.
#[derive(Default)]
struct Page {
    types: BTreeMap<String, String>,
    helped: BTreeSet<String>,
    /// Name and labels of every sample.
    samples: Vec<(String, BTreeMap<String, String>)>,
}

impl Page {
    /// Panics where the text is not as Prometheus' text format has it.
    fn read(text: &str) -> Page {
        let mut page = Page::default();
        let mut seen = BTreeSet::new();
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a metric is explained");
                assert!(page.helped.insert(name.to_owned()), "{name} is explained once");
                assert!(!help.is_empty());
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a metric has a type");
                assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert!(page.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} has one type");
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
                assert!(value.parse::<f64>().is_ok(), "{line}");
                assert!(seen.insert(series.to_owned()), "{series} stands once");
                page.samples.push(parts(series));
            }
        }
        page
    }

    fn labels_of(&self, name: &str) -> Option<BTreeSet<&str>> {
        let kind = self.types.get(name)?;
        let wanted = if kind == "histogram" { format!("{name}_count") } else { name.to_owned() };
        let (_, labels) = self.samples.iter().find(|(sample, _)| *sample == wanted)?;
        Some(labels.keys().map(String::as_str).collect())
    }
}

fn parts(series: &str) -> (String, BTreeMap<String, String>) {
    let Some((name, labels)) = series.split_once('{') else { return (series.to_owned(), BTreeMap::new()) };
    let labels = labels.strip_suffix("\"}").expect("labels end");
    let pairs = labels.split("\",").map(|pair| pair.split_once("=\"").expect("a label has a value"));
    (name.to_owned(), pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_promised_metric_is_there_with_its_type_and_labels() {
    let world = World::builder().orgs(&["acme", "other"]).events(60).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let other = recent(&world, "other").with_file();
    let mut daemon = start(&world, &[acme.clone(), other.clone()]);
    complete(&world, &acme).await;
    complete(&world, &other).await;
    let (status, text) = daemon.get("/metrics").await.expect("metrics are served");
    assert_eq!(status, 200);
    let page = Page::read(&text);
    for (name, kind, labels) in PROMISED {
        let full =
            if name.starts_with("process_") { name.to_owned() } else { format!("pulumi_audit_{name}") };
        assert_eq!(page.types.get(&full).map(String::as_str), Some(kind), "{full}");
        assert!(page.helped.contains(&full), "{full} is explained");
        let labels: BTreeSet<&str> = labels.iter().copied().collect();
        assert_eq!(page.labels_of(&full), Some(labels), "{full}");
    }
    for name in page.types.keys() {
        let known = PROMISED.iter().any(|(known, ..)| name.strip_prefix("pulumi_audit_") == Some(known));
        assert!(known || name.starts_with("process_"), "{name} is not in the list of metrics");
    }
    // Every combination is there from the start, at zero.
    for reason in ["credentials", "permission", "configuration", "fenced", "disk"] {
        for (org, destination) in
            [("acme", "source"), ("acme", "sentinel"), ("acme", "file"), ("other", "file")]
        {
            let labels = [("org", org), ("destination", destination), ("reason", reason)];
            assert_eq!(sample(&text, "paused", &labels), Some(0.0), "{labels:?}");
        }
    }
    let delivered = |destination| {
        sample(&text, "delivered_events_total", &[("org", "acme"), ("destination", destination)])
    };
    assert_eq!((delivered("sentinel"), delivered("file")), (Some(60.0), Some(60.0)));
    assert_eq!(sample(&text, "events_new_total", &[("org", "acme")]), Some(60.0));
    assert!(sample(&text, "events_read_total", &[("org", "acme")]) >= Some(60.0));
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_alive_at_once_and_ready_when_every_first_sweep_has_ended_paused_or_not() {
    let world = World::builder().orgs(&["acme", "revoked"]).events(10).start().await;
    world.pulumi().fault("acme", Fault::Late(Duration::from_secs(4)), Times::Next(1));
    let acme = recent(&world, "acme").with_file();
    world.write_config(&[acme.clone(), recent(&world, "revoked").with_file()], "");
    world.pulumi().org("revoked").rotate_token();
    let mut daemon = crate::forwarder::again(&world);
    let mut early = None;
    until("the probes are served", async || {
        early = daemon.get("/readyz").await;
        early.is_some()
    })
    .await;
    let (status, said) = early.expect("it was asked");
    assert_eq!(status, 503, "{said}");
    assert!(said.contains("acme"), "it says what is missing: {said}");
    until("it is alive", async || daemon.get("/livez").await.is_some_and(|(status, _)| status == 200)).await;
    paused(&mut daemon, "revoked", "source", "credentials").await;
    until("it is ready", async || daemon.get("/readyz").await.is_some_and(|(status, _)| status == 200)).await;
    complete(&world, &acme).await;

    // What is remote has no say in whether the process is alive or ready.
    world.pulumi_goes_away().await;
    let before = world.clock.now();
    until("some seconds have passed", async || {
        assert_eq!(daemon.get("/livez").await.map(|(status, _)| status), Some(200));
        assert_eq!(daemon.get("/readyz").await.map(|(status, _)| status), Some(200));
        world.clock.now() > before + 2
    })
    .await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_only_answer_questions() {
    let world = World::builder().events(10).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let address = daemon.admin().expect("it is served");
    let client = reqwest::Client::builder().no_proxy().build().expect("a client can be made");
    for path in ["/", "/metrics", "/livez", "/readyz", "/api/status"] {
        for method in [reqwest::Method::POST, reqwest::Method::PUT, reqwest::Method::DELETE] {
            let answer = client.request(method.clone(), format!("http://{address}{path}")).send().await;
            assert_eq!(answer.expect("it answers").status(), 405, "{method} {path}");
        }
        assert_eq!(daemon.get(path).await.map(|(status, _)| status), Some(200), "{path}");
    }
    assert_eq!(daemon.get("/nothing").await.map(|(status, _)| status), Some(404));
    let (_, page) = daemon.get("/").await.expect("it is served");
    assert!(page.contains("acme") && !page.contains("<script"), "the page is for people, and runs nothing");
    assert!(daemon.stop().await.success());
}
