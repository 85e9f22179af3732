use super::*;
use crate::destination::QuarantineReason;

const ALL: [DestinationName; 3] = DestinationName::ALL;

fn acme() -> OrgId {
    OrgId::new("acme").unwrap()
}

/// The page with every value replaced, and without what the process and the machine decide.
fn masked(page: &str) -> String {
    let mut shown = String::new();
    for line in page.lines().filter(|line| !line.contains("process_")) {
        let series = if line.starts_with('#') {
            line
        } else {
            line.rsplit_once(' ').map_or(line, |(series, _)| series)
        };
        // Buckets are pinned by their first and last.
        if !line.contains("_bucket{") || line.contains("le=\"+Inf\"") {
            shown.push_str(series);
            shown.push('\n');
        }
    }
    shown
}

#[test]
fn the_page_of_one_org_with_three_lanes_is_pinned() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &ALL);
    org.credential_expiry("sentinel", Second(1_795_256_100));
    insta::assert_snapshot!("page", masked(&metrics.page().collect::<String>()));
}

#[test]
fn every_line_of_the_table_is_on_the_page_with_its_meaning() {
    let metrics = Metrics::new("0.1.0", "abc1234");
    let org = metrics.org(&acme(), &ALL);
    org.credential_expiry("sentinel", Second(1_795_256_100));
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
