use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::config::settings::{
    AzureIdentity, Columns, FileSettings, S3Checksums, S3Credentials, S3Settings, SentinelSettings,
    SourceCredentials, SourceSettings, Start,
};
use crate::http::Route;
use crate::journal::Outstanding;
use crate::problem::{PauseReason, Problem, WaitReason};
use crate::secret::{Place, SecretSource};

const START: Second = Second(1_795_256_100);

/// Settings of an org with these lanes.
pub(crate) fn settings(id: &str, org: &str, destinations: &[DestinationName]) -> OrgSettings {
    let secret = || SecretSource { place: Place::Env("NOWHERE".into()), group_may_read: false };
    let has = |name| destinations.contains(&name);
    OrgSettings {
        id: OrgId::new(id).unwrap(),
        org: org.into(),
        start: Start::Now,
        source: SourceSettings {
            api_url: "http://127.0.0.1:1".into(),
            poll_interval: Duration::from_secs(300),
            overlap: Duration::from_secs(900),
            settle: Duration::ZERO,
            rescan_after: vec![Duration::from_secs(3_600)],
            requests_per_second: 2.0,
            host_requests_per_second: 10.0,
            route: Route::default(),
            credentials: SourceCredentials::Stored { token: secret(), next_token: None },
        },
        sentinel: has(DestinationName::Sentinel).then(|| SentinelSettings {
            endpoint: "https://127.0.0.1:1".into(),
            rule_id: "dcr-0".into(),
            stream: "Custom-PulumiAuditLogs_CL".into(),
            columns: Columns::Extended,
            raw_event: false,
            heartbeat: None,
            authority: "https://127.0.0.1:1".into(),
            scope: "scope".into(),
            identity: AzureIdentity::ClientSecret {
                tenant_id: "tenant".into(),
                client_id: "client".into(),
                secret: secret(),
                next_secret: None,
            },
            route: Route::default(),
        }),
        s3: has(DestinationName::S3).then(|| S3Settings {
            bucket: "bucket".into(),
            prefix: String::new(),
            region: None,
            endpoint_url: None,
            force_path_style: false,
            credentials: S3Credentials::Default,
            fips: false,
            dual_stack: false,
            role: None,
            encryption: None,
            object_lock: None,
            storage_class: None,
            expected_bucket_owner: None,
            heartbeat_interval: None,
            checksums: S3Checksums::WhenSupported,
            route: Route::default(),
        }),
        file: has(DestinationName::File).then(|| FileSettings { path: PathBuf::from("/nowhere") }),
    }
}

pub(crate) fn problem() -> Problem {
    Problem {
        reason: PauseReason::Permission,
        cause: "Azure answered 403".into(),
        remedy: "grant the role Monitoring Metrics Publisher on rule dcr-0".into(),
    }
}

fn reports() -> Reports {
    Reports::new(Metrics::new("0.0.0", "test"), Clock::simulated(START))
}

/// The log lines that `say` leads to, at debug, without their times.
fn logged(say: impl FnOnce()) -> Vec<String> {
    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);
    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl<'a> MakeWriter<'a> for Captured {
        type Writer = Captured;
        fn make_writer(&'a self) -> Captured {
            self.clone()
        }
    }
    let captured = Captured::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_target(false)
        .without_time()
        .with_writer(captured.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, say);
    let text = String::from_utf8(lock(&captured.0).clone()).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn gauge(reports: &Reports, series: &str) -> f64 {
    let text = reports.metrics().page().collect::<String>();
    let line = text.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("no {series}"));
    line.rsplit(' ').next().and_then(|value| value.parse().ok()).expect("a value")
}

const PAUSED: &str = r#"pulumi_audit_paused{destination="sentinel",org="acme",reason="permission"}"#;

#[tokio::test(start_paused = true)]
async fn a_pause_is_logged_once_when_it_begins_and_once_with_its_length_when_it_ends() {
    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::Sentinel]));
    let lane = org.lane(DestinationName::Sentinel).clone();
    let begins = logged(|| {
        for _ in 0..3 {
            lane.paused(&problem());
        }
    });
    assert_eq!(
        begins,
        [
            r#"ERROR paused org="acme" destination="sentinel" reason="permission" cause="Azure answered 403" remedy="grant the role Monitoring Metrics Publisher on rule dcr-0""#
        ]
    );
    assert!(lane.is_paused());
    assert_eq!(gauge(&reports, PAUSED), 1.0);

    tokio::time::advance(Duration::from_secs(600)).await;
    let probed = logged(|| lane.waiting(WaitReason::Backoff, None, "no whole answer within 30s"));
    assert!(lane.is_paused(), "a probe that times out does not end the pause: {probed:?}");
    assert_eq!(reports.status().orgs[0].lanes[0].since.unwrap().0, START, "nor does it change its age");

    let ends = logged(|| {
        lane.ok();
        lane.ok();
    });
    assert_eq!(
        ends,
        [r#"INFO pause ended org="acme" destination="sentinel" reason="permission" seconds=600"#]
    );
    assert_eq!(gauge(&reports, PAUSED), 0.0);
    assert_eq!(reports.status().orgs[0].state, State::Ok);
}

#[tokio::test(start_paused = true)]
async fn another_reason_is_said_and_the_pause_keeps_its_age() {
    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    org.source().paused(&problem());
    tokio::time::advance(Duration::from_secs(60)).await;
    let lines = logged(|| {
        org.source().paused(&Problem { reason: PauseReason::Credentials, ..problem() });
        org.source().paused(&Problem {
            reason: PauseReason::Credentials,
            cause: "again".into(),
            ..problem()
        });
    });
    assert_eq!(lines.iter().map(|line| &line[..5]).collect::<Vec<_>>(), ["ERROR", "DEBUG"]);
    let source = &reports.status().orgs[0].source;
    assert_eq!((source.reason.as_deref(), source.since), (Some("credentials"), Some(Moment(START))));
    let series =
        |reason: &str| format!(r#"pulumi_audit_paused{{destination="source",org="acme",reason="{reason}"}}"#);
    assert_eq!(gauge(&reports, &series("permission")), 0.0);
    assert_eq!(gauge(&reports, &series("credentials")), 1.0);
}

#[tokio::test(start_paused = true)]
async fn a_wait_warns_once_a_spell() {
    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    let source = org.source();
    let lines = logged(|| {
        source.waiting(WaitReason::Throttled, Some(START + 60), "429");
        source.waiting(WaitReason::Throttled, Some(START + 120), "429");
        source.waiting(WaitReason::Backoff, None, "503");
    });
    assert_eq!(
        lines.iter().map(|line| &line[..5]).collect::<Vec<_>>(),
        ["WARN ", "DEBUG", "DEBUG"],
        "{lines:?}"
    );
    assert!(lines[0].contains(r#"until="2026-11-21T10:16:00Z""#), "{lines:?}");
    assert_eq!(reports.status().orgs[0].source.reason.as_deref(), Some("backoff"));
    assert_eq!(
        gauge(&reports, r#"pulumi_audit_waiting{destination="source",org="acme",reason="throttled"}"#),
        0.0
    );
    assert_eq!(
        gauge(&reports, r#"pulumi_audit_waiting{destination="source",org="acme",reason="backoff"}"#),
        1.0
    );
    tokio::time::advance(Duration::from_secs(61)).await;
    let lines = logged(|| source.ok());
    assert_eq!(lines, [r#"INFO wait ended org="acme" destination="source" reason="backoff" seconds=61"#]);
}

#[tokio::test(start_paused = true)]
async fn a_request_to_slow_down_is_worth_a_line_from_a_minute_on_and_its_end_then_too() {
    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    let source = org.source();
    let levels = |lines: &[String]| lines.iter().map(|line| line[..5].to_owned()).collect::<Vec<_>>();
    let short = logged(|| {
        source.waiting(WaitReason::Throttled, Some(START + 59), "429");
        source.waiting(WaitReason::Throttled, Some(START + 59), "429");
        source.ok();
    });
    assert_eq!(levels(&short), ["DEBUG", "DEBUG", "DEBUG"], "{short:?}");
    let long = logged(|| source.waiting(WaitReason::Throttled, Some(START + 60), "429"));
    assert_eq!(levels(&long), ["WARN "], "{long:?}");
    assert_eq!(levels(&logged(|| source.ok())), ["INFO "]);
    // Many short ones without a success between them are a long one.
    logged(|| source.waiting(WaitReason::Throttled, Some(START + 30), "429"));
    tokio::time::advance(Duration::from_secs(35)).await;
    let grown = logged(|| {
        source.waiting(WaitReason::Throttled, Some(START + 65), "429");
        source.waiting(WaitReason::Throttled, Some(START + 95), "429");
        source.ok();
    });
    assert_eq!(levels(&grown), ["WARN ", "DEBUG", "INFO "], "{grown:?}");
    let fault = logged(|| {
        source.waiting(WaitReason::Backoff, Some(START + 36), "503");
        source.ok();
    });
    assert_eq!(levels(&fault), ["WARN ", "INFO "], "what is not asked for is said at once: {fault:?}");
}

#[tokio::test(start_paused = true)]
async fn the_status_has_the_promised_shape() {
    let reports = reports();
    reports.set_config(true, None);
    let org =
        reports.org(&settings("acme", "acme-corp", &[DestinationName::Sentinel, DestinationName::File]));
    org.coverage(CoverageFigures {
        start: Some(START - 86_400),
        cursor: Some(START - 600),
        tip: Some(START),
        holes_seconds: 60,
        damaged_seconds: 1,
        unsettled_seconds: 3_600,
    });
    let outstanding = Outstanding { chunks: 2, events: 1_200, first: Some(START - 700), quarantined: 3 };
    org.lane(DestinationName::Sentinel).progress(41, &outstanding, Some(START - 700));
    org.lane(DestinationName::Sentinel).paused(&problem());
    org.lane(DestinationName::File).waiting(WaitReason::Backoff, None, "slow");
    assert_eq!(
        serde_json::to_value(reports.status()).unwrap(),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "orgs": [{
                "id": "acme", "org": "acme-corp", "state": "paused",
                "start": "2026-11-20T10:15:00Z", "cursor": "2026-11-21T10:05:00Z", "tip": "2026-11-21T10:15:00Z",
                "coverage": {"holes": 60, "damaged": 1, "unsettled": 3600},
                "source": {
                    "state": "ok", "reason": null, "since": "2026-11-21T10:15:00Z", "remedy": null,
                    "late_after_seconds": 1800
                },
                "lanes": [
                    {
                        "destination": "sentinel", "state": "paused", "reason": "permission",
                        "since": "2026-11-21T10:15:00Z",
                        "remedy": "grant the role Monitoring Metrics Publisher on rule dcr-0",
                        "last_error": {"at": "2026-11-21T10:15:00Z", "text": "Azure answered 403"},
                        "checkpoint": 41, "delivered_until": "2026-11-21T10:03:20Z",
                        "backlog_chunks": 2, "backlog_events": 1200, "quarantined": 3
                    },
                    {
                        "destination": "file", "state": "waiting", "reason": "backoff",
                        "since": "2026-11-21T10:15:00Z", "remedy": null,
                        "last_error": {"at": "2026-11-21T10:15:00Z", "text": "slow"},
                        "checkpoint": null, "delivered_until": null,
                        "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
                    }
                ]
            }],
            "config": {"ok": true, "since": "2026-11-21T10:15:00Z", "error": null}
        })
    );
    let lane = r#"{destination="sentinel",org="acme"}"#;
    assert_eq!(gauge(&reports, &format!("pulumi_audit_backlog_events{lane}")), 1_200.0);
    assert_eq!(
        gauge(&reports, &format!("pulumi_audit_delivered_until_timestamp_seconds{lane}")),
        (START - 700).0 as f64
    );
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_outlives_a_reload_keeps_its_age_and_a_removed_lane_is_gone() {
    let reports = reports();
    let both = [DestinationName::Sentinel, DestinationName::S3];
    let org = reports.org(&settings("acme", "acme-corp", &both));
    org.lane(DestinationName::Sentinel).paused(&problem());
    org.lane(DestinationName::S3).paused(&problem());
    tokio::time::advance(Duration::from_secs(60)).await;

    let again = reports.org(&settings("acme", "acme-new", &both[..1]));
    assert!(logged(|| again.lane(DestinationName::Sentinel).paused(&problem())).is_empty());
    let status = &reports.status().orgs[0];
    assert_eq!((status.org.as_str(), status.lanes.len()), ("acme-new", 1));
    assert_eq!(status.lanes[0].since, Some(Moment(START)));
    assert_eq!(gauge(&reports, PAUSED), 1.0);
    assert!(!reports.metrics().page().collect::<String>().contains(r#"destination="s3",org="acme""#));

    reports.retire(&OrgId::new("acme").unwrap());
    let status = &reports.status().orgs[0];
    assert_eq!((status.state, status.lanes[0].state), (State::Retired, State::Retired));
    assert!(!reports.metrics().page().collect::<String>().contains(r#"org="acme""#));
}

#[tokio::test(start_paused = true)]
async fn readiness_names_what_is_missing_and_a_paused_org_does_not_hold_it_up() {
    let reports = reports();
    assert!(reports.missing().contains(&"no org has started".to_owned()));
    let acme = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    let bolt = reports.org(&settings("bolt", "bolt-corp", &[DestinationName::S3]));
    assert_eq!(
        reports.missing(),
        [
            "configuration not loaded",
            "state not open",
            "first sweep of acme has not ended",
            "first sweep of bolt has not ended"
        ]
    );
    reports.set_config(true, None);
    reports.set_state_open();
    acme.first_sweep_ended();
    bolt.source().paused(&problem());
    assert_eq!(reports.missing(), Vec::<String>::new());
    reports.set_config(false, Some("orgs/acme.toml:3: unknown key".into()));
    assert_eq!(reports.missing(), Vec::<String>::new(), "the configuration of before is in force");
    assert!(!reports.status().config.ok);
}

#[tokio::test(start_paused = true)]
async fn what_went_wrong_last_is_known_after_it_was_mended_and_is_cut_where_it_is_long() {
    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    let lane = org.lane(DestinationName::S3);
    let error = || reports.status().orgs[0].lanes[0].last_error.clone();
    lane.waiting(WaitReason::Recovering, None, "putting state back");
    assert_eq!(error(), None, "that is no error");
    lane.paused(&problem());
    tokio::time::advance(Duration::from_secs(60)).await;
    lane.paused(&problem());
    let known = error().expect("it went wrong");
    assert_eq!((known.at, known.text.as_str()), (Moment(START + 60), "Azure answered 403"), "again, later");
    lane.ok();
    assert_eq!(error().as_ref(), Some(&known));
    lane.waiting(WaitReason::Backoff, None, &"ä".repeat(100_000));
    assert_eq!(error().expect("it went wrong").text.chars().count(), 1_001);
}

#[tokio::test(start_paused = true)]
async fn new_events_are_counted_once_those_of_the_last_day_are_known_and_outlive_a_reload() {
    let reports = reports();
    let settings = settings("acme", "acme-corp", &[DestinationName::S3]);
    let org = reports.org(&settings);
    let total = || reports.status().orgs[0].activity.as_ref().map(activity::ActivityStatus::total);
    org.new_events([START].into_iter());
    assert_eq!((total(), org.has_activity()), (None, false), "it will be among those of the last day");
    let mut day = Activity::default();
    day.add(START - 3_600, 40, START);
    org.activity(day);
    org.new_events([START, START - 86_400 * 3, START - 60].into_iter());
    assert_eq!(total(), Some(42));
    org.swept();
    let again = reports.org(&settings);
    assert_eq!((total(), again.has_activity()), (Some(42), true));
    assert_eq!(reports.status().orgs[0].source.last_sweep, Some(Moment(START)));
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert_eq!(total(), Some(0), "a day later none of them is shown");
}

#[tokio::test(start_paused = true)]
async fn a_credential_of_the_start_may_be_older_and_an_exchanged_one_is_not() {
    use crate::rotation::{InUse, Slot, Standing};
    use crate::secret::Secret;

    let reports = reports();
    let org = reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    let uses = |value: &str, expires| {
        let fingerprint = Secret::new(value.to_owned()).fingerprint();
        let in_use = Some(InUse { slot: Slot::First, key: "token", fingerprint, expires });
        org.source().uses(&Standing { in_use, ..Standing::default() });
        reports.status().orgs[0].source.token.clone().expect("one is in use")
    };
    let first = uses("one", Some(START + 9));
    assert_eq!((first.since, first.or_longer, first.expires), (Moment(START), true, Some(Moment(START + 9))));
    tokio::time::advance(Duration::from_secs(60)).await;
    let second = uses("two", None);
    assert_eq!((second.since, second.or_longer, second.expires), (Moment(START + 60), false, None));
}

#[test]
fn what_is_late_follows_from_how_often_an_org_is_read() {
    let mut settings = settings("acme", "acme-corp", &[DestinationName::S3]);
    assert_eq!(late_after(&settings), 1_800);
    settings.source.poll_interval = Duration::from_secs(3_600);
    settings.source.settle = Duration::from_secs(60);
    assert_eq!(late_after(&settings), 3 * 3_600 + 60);
}
