use super::*;
use crate::destination::QuarantineReason;

const ALL: [DestinationName; 3] = DestinationName::ALL;

fn acme() -> OrgId {
    OrgId::new("acme").unwrap()
}

/// The page without the values that the process and the machine decide.
fn masked(page: &str) -> String {
    let mut shown = String::new();
    for line in page.lines() {
        let series = line.starts_with("process_").then(|| line.rsplit_once(' ')).flatten();
        shown.push_str(series.map_or(line, |(series, _)| series));
        shown.push('\n');
    }
    shown
}

#[test]
fn the_page_of_one_org_with_three_lanes_is_pinned() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &ALL);
    org.credential_expiry("sentinel", Second(1_795_256_100));
    org.secret_expiry("sentinel", Some(Second(1_795_256_100)));
    org.lane(DestinationName::S3).heartbeats_begin();
    insta::assert_snapshot!("page", masked(&metrics.page().collect::<String>()));
}

#[test]
fn every_line_of_the_table_is_on_the_page_with_its_meaning() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &ALL);
    org.credential_expiry("sentinel", Second(1_795_256_100));
    org.secret_expiry("sentinel", Some(Second(1_795_256_100)));
    org.lane(DestinationName::S3).heartbeats_begin();
    let text = metrics.page().collect::<String>();
    for family in family::FAMILIES {
        let header = format!("# HELP pulumi_audit_{} {}\n", family.name, family.help);
        assert!(text.contains(&header), "{header}");
    }
}

#[test]
fn the_process_is_on_the_page() {
    let text = Metrics::new("0.1.0", "abc1234").page().collect::<String>();
    for name in [
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_start_time_seconds",
    ] {
        assert!(text.contains(&format!("\n{name} ")), "{name}");
    }
}

#[test]
fn an_org_that_is_removed_leaves_no_series_and_its_neighbour_stays() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let (acme, bolt) = (acme(), OrgId::new("bolt").unwrap());
    let handles = metrics.org(&acme, &ALL);
    metrics.org(&bolt, &ALL).pages.inc();
    metrics.remove_org(&acme);
    handles.pages.inc();
    let text = metrics.page().collect::<String>();
    assert!(!text.contains(r#"org="acme""#));
    assert!(text.contains("pulumi_audit_pages_total{org=\"bolt\"} 1\n"));
}

#[test]
fn a_reload_keeps_counts_and_takes_away_the_lanes_that_are_gone() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let before = metrics.org(&acme(), &ALL);
    before.pages.inc();
    before.lane(DestinationName::S3).delivery(Delivery::Acknowledged);
    let after = metrics.org(&acme(), &[DestinationName::S3]);
    after.pages.inc();
    after.lane(DestinationName::S3).delivery(Delivery::Acknowledged);
    let text = metrics.page().collect::<String>();
    assert!(text.contains("pulumi_audit_pages_total{org=\"acme\"} 2\n"));
    assert!(text.contains(
        "pulumi_audit_deliveries_total{destination=\"s3\",org=\"acme\",outcome=\"acknowledged\"} 2\n"
    ));
    assert!(
        !text.contains(r#"destination="sentinel",org="acme""#) && !text.contains(r#"credential="sentinel""#)
    );
}

#[test]
fn handles_count_where_their_names_say() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &[DestinationName::Sentinel]);
    org.request("timeout");
    org.request("418");
    org.sweep("head", "ok", 0.2);
    org.anomaly("cut_text", 3);
    org.credential_refresh("sentinel", false);
    let lane = org.lane(DestinationName::Sentinel);
    lane.end_to_end_latency(40.0, 250);
    lane.quarantined(QuarantineReason::TooLarge, 2);
    metrics.state_commit("append", true, 0.003);
    metrics.set_config(false, Second(5));
    metrics.log_lines_dropped().inc();
    let text = metrics.page().collect::<String>();
    for line in [
        r#"source_requests_total{code="timeout",org="acme"} 1"#,
        r#"source_requests_total{code="418",org="acme"} 1"#,
        r#"sweeps_total{kind="head",org="acme",outcome="ok"} 1"#,
        r#"sweep_duration_seconds_count{kind="head",org="acme"} 1"#,
        r#"schema_anomalies_total{kind="cut_text",org="acme"} 3"#,
        r#"credential_refreshes_total{credential="sentinel",org="acme",outcome="failed"} 1"#,
        r#"end_to_end_latency_seconds_bucket{destination="sentinel",org="acme",le="30"} 0"#,
        r#"end_to_end_latency_seconds_bucket{destination="sentinel",org="acme",le="60"} 250"#,
        r#"quarantined_events_total{destination="sentinel",org="acme",reason="too_large"} 2"#,
        r#"state_commits_total{kind="append",outcome="ok"} 1"#,
        "config_last_reload_successful 0",
        "log_lines_dropped_total 1",
    ] {
        assert!(text.contains(&format!("\npulumi_audit_{line}\n")), "{line}");
    }
}

/// Golden: the page that is shipped.
#[test]
fn the_shipped_reference_of_metrics_is_the_generated_one() {
    assert!(
        include_str!("../../docs/metrics.md") == reference::markdown(),
        "docs/metrics.md is not what the metrics are; renew it with: \
         cargo run --quiet -- metrics > docs/metrics.md"
    );
}

/// Whoever adds a label, a value of one, or a bucket, sees here what it costs with a thousand orgs.
#[test]
fn an_org_with_two_destinations_has_so_many_series_and_no_answer_of_a_service_adds_many() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &[DestinationName::Sentinel, DestinationName::S3]);
    let series = || {
        let page = metrics.page().collect::<String>();
        page.lines().filter(|line| line.contains("org=\"acme\"")).count()
    };
    assert_eq!(series(), 185);
    for status in 100..1_000 {
        org.request(&status.to_string());
    }
    org.request("601");
    assert_eq!(series(), 185 + 13);
    let page = metrics.page().collect::<String>();
    let counted: u64 = page
        .lines()
        .filter(|line| line.starts_with("pulumi_audit_source_requests_total{"))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(counted, 901, "none is lost");
}

#[test]
fn a_page_of_many_orgs_names_each_metric_and_each_series_once() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    for number in 0..200 {
        let org = metrics.org(&OrgId::new(&format!("org-{number}")).unwrap(), &[DestinationName::S3]);
        // Not the first of a piece, and not in every piece.
        if number == 70 {
            org.secret_expiry("s3", Some(Second(1_795_256_100)));
        }
    }
    let page = metrics.page().collect::<String>();
    let mut seen = std::collections::BTreeSet::new();
    let mut family = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            rest.split_once(' ').unwrap().0.clone_into(&mut family);
        }
        let series = if line.starts_with('#') { line } else { line.rsplit_once(' ').unwrap().0 };
        assert!(seen.insert(series), "{line} stands once");
        assert!(line.starts_with('#') || line.starts_with(&family), "{line} stands below its type");
    }
    let expiry = "pulumi_audit_credential_secret_expiry_timestamp_seconds";
    assert!(page.contains(&format!(
        "# TYPE {expiry} gauge\n{expiry}{{credential=\"s3\",org=\"org-70\"}} 1795256100\n"
    )));
    assert_eq!(page.matches("pulumi_audit_cursor_timestamp_seconds{").count(), 200);
}

#[test]
fn meanings_and_label_values_need_no_escape() {
    for family in family::FAMILIES {
        assert!(!family.help.contains(['\\', '\n']), "{}", family.name);
        assert!(family.labels.is_sorted(), "{}", family.name);
    }
    let text = Metrics::new("0.1.0", "abc1234").page().collect::<String>();
    assert!(!text.contains('\\'));
}

#[test]
fn a_secret_whose_end_is_not_known_has_no_series_of_it() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &ALL);
    let expiries = || metrics.page().collect::<String>().matches("expiry_timestamp_seconds{").count();
    org.credential_expiry("source", Second(5));
    org.secret_expiry("source", Some(Second(5)));
    assert_eq!(expiries(), 2);
    org.credential_expiry_unknown("source");
    org.secret_expiry("source", None);
    assert_eq!(expiries(), 0);
}
