use tokio::time::Instant;

use super::graph::hours;
use super::problem::PROBLEMS_MAX;
use super::*;
use crate::clock::{Clock, Window};
use crate::coverage::Coverage;
use crate::destination::DestinationName;
use crate::journal::Outstanding;
use crate::metrics::Metrics;
use crate::problem::{PauseReason, Problem, WaitReason};
use crate::report::activity::Activity;
use crate::report::spans::spans;
use crate::report::tests::settings;
use crate::report::{CoverageFigures, Reports};

const NOW: Second = Second(1_795_256_100);

/// So many orgs in which nothing is wrong, with a day of events and two lanes each.
fn many(count: usize) -> Reports {
    let reports = Reports::new(Metrics::new("0", "test"), Clock::simulated(NOW));
    reports.set_config(true, None);
    for number in 0..count {
        let lanes = [DestinationName::Sentinel, DestinationName::S3];
        let org = reports.org(&settings(&format!("org-{number:04}"), &format!("corp-{number}"), &lanes));
        let mut coverage = Coverage::default();
        coverage.cover(Window::new(NOW - 90 * 86_400, NOW - 40), NOW, &[3_600, 86_400], &[]);
        org.coverage(CoverageFigures {
            start: Some(NOW - 90 * 86_400),
            cursor: Some(NOW - 40),
            tip: Some(NOW - 40),
            ..CoverageFigures::default()
        });
        org.spans(spans(&coverage, Some(NOW - 90 * 86_400), 86_400, None));
        let mut activity = Activity::default();
        (0..48).for_each(|step| activity.add(NOW - step * 1_800, 17 + step.unsigned_abs() * 13 % 101, NOW));
        org.activity(activity);
        for lane in lanes {
            org.lane(lane).progress(9, &Outstanding::default(), Some(NOW - 40));
        }
    }
    reports
}

fn asked(pairs: &[(&str, &str)]) -> Asked {
    let pairs: serde_json::Map<String, serde_json::Value> =
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    serde_json::from_value(pairs.into()).unwrap()
}

fn shown(reports: &Reports, pairs: &[(&str, &str)]) -> String {
    orgs(&reports.status(), NOW, asked(pairs)).html.unwrap()
}

fn rows(html: &str) -> usize {
    html.matches("<th scope=\"row\">").count()
}

fn problem() -> Problem {
    Problem { reason: PauseReason::Permission, cause: "403".into(), remedy: "grant the role".into() }
}

#[tokio::test]
async fn a_thousand_orgs_are_shown_a_hundred_at_a_time_within_a_bound() {
    let reports = many(1_000);
    let begun = Instant::now();
    let status = reports.status();
    let told = begun.elapsed();
    let first = orgs(&status, NOW, asked(&[])).html.unwrap();
    let made = begun.elapsed() - told;
    let json = serde_json::to_string(&status).unwrap();
    eprintln!(
        "status in {told:?}, {} bytes as JSON; the page in {made:?}, {} bytes",
        json.len(),
        first.len()
    );
    assert_eq!(rows(&first), 100);
    assert!(first.len() < 200_000, "{}", first.len());
    assert!(json.len() < 2_000_000, "{}", json.len());
    assert!(first.contains("1 to 100 of 1,000 organizations, trouble first"));
    assert!(first.contains("href=\"/?page=2\">Next") && !first.contains("Previous"), "{first}");
    let last = shown(&reports, &[("page", "10"), ("q", "org")]);
    assert_eq!(rows(&last), 100);
    assert!(last.contains("901 to 1,000 of 1,000 organizations out of 1,000"));
    assert!(last.contains("href=\"/?q=org&#38;page=9\">Previous") && !last.contains(">Next"));
    let beyond = shown(&reports, &[("page", "18446744073709551615")]);
    assert!(beyond.contains("901 to 1,000"), "there is no page beyond the last");
    assert_eq!(rows(&shown(&reports, &[("page", "nonsense"), ("q", "CORP-77")])), 11, "77 and 770 to 779");
}

#[tokio::test]
async fn orgs_with_the_same_problem_are_one_problem_and_the_rest_is_counted() {
    let reports = many(40);
    let status = reports.status();
    for (number, org) in status.orgs.iter().enumerate() {
        let party = reports.org(&settings(org.id.as_str(), &org.org, &[DestinationName::S3]));
        let remedy = if number < 20 { "grant the role".to_owned() } else { format!("do {number}") };
        party.lane(DestinationName::S3).paused(&Problem { remedy, ..problem() });
    }
    let page = shown(&reports, &[]);
    assert_eq!(page.matches("<h3>").count(), PROBLEMS_MAX);
    assert!(page.contains("and 8 more"), "{page}");
    assert!(page.contains("<a href=\"/?show=attention\">13 more problems</a>"), "{page}");
    let found = shown(&reports, &[("q", "org-0039")]);
    assert_eq!(found.matches("<h3>").count(), 1, "only what was looked for");
    assert!(found.contains("do 39") && rows(&found) == 1, "{found}");
}

#[tokio::test]
async fn a_page_can_be_asked_for_by_how_orgs_stand_and_links_keep_what_was_asked() {
    let reports = many(5);
    let one = |number: usize| settings(&format!("org-{number:04}"), "corp", &[DestinationName::S3]);
    reports.org(&one(3)).source().waiting(WaitReason::Throttled, None, "429");
    reports.org(&one(4)).lane(DestinationName::S3).paused(&problem());
    let page = shown(&reports, &[("show", "waiting"), ("refresh", "off")]);
    assert_eq!(rows(&page), 1);
    assert!(
        page.contains("/org/org-0003") && page.contains("<option value=\"waiting\" selected>waits (1)"),
        "{page}"
    );
    assert!(page.contains("<a href=\"/?show=waiting\">Refresh by itself</a>"), "{page}");
    assert!(page.contains("<input type=\"hidden\" name=\"refresh\" value=\"off\">"), "{page}");
    let page = shown(&reports, &[("show", "attention"), ("q", "a&b \"c\"")]);
    assert!(
        page.contains("<a href=\"/?q=a%26b%20%22c%22&#38;show=attention&#38;refresh=off\">Pause</a>"),
        "{page}"
    );
    assert!(page.contains("No organization matches."), "{page}");
    assert_eq!(rows(&shown(&reports, &[("show", "nonsense")])), 5);
}

#[tokio::test]
async fn a_part_that_is_late_does_not_look_well_though_nothing_is_wrong_with_it() {
    let reports = many(1);
    let org = reports.org(&settings("org-0000", "corp", &[DestinationName::S3]));
    org.lane(DestinationName::S3).progress(9, &Outstanding::default(), Some(NOW - 7_200));
    let page = shown(&reports, &[]);
    assert!(page.contains("<span class=\"state behind\"><span class=\"unseen\">behind, </span>"), "{page}");
    assert!(
        page.contains("<span class=\"state ok\"><span class=\"unseen\">ok, </span>"),
        "the source: {page}"
    );
    assert!(page.contains("1 of 1 organization is behind"), "{page}");
}

#[tokio::test]
async fn rows_in_quarantine_come_with_the_command_that_shows_them() {
    let reports = many(1);
    let org = reports.org(&settings("org-0000", "corp", &[DestinationName::Sentinel]));
    let left = Outstanding { quarantined: 3, ..Outstanding::default() };
    org.lane(DestinationName::Sentinel).progress(9, &left, Some(NOW));
    let page = shown(&reports, &[]);
    assert!(page.contains("sentinel refused rows for good"), "{page}");
    assert!(page.contains("pulumi-audit-forwarder quarantine list --org org-0000"), "{page}");
}

#[test]
fn the_six_hours_are_where_they_belong() {
    // 10:15 now, so the day begins with the half hour at 10:30 the day before.
    let hours = hours(NOW);
    let named: Vec<&str> = hours.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(named, ["12:00", "18:00", "00:00", "06:00"]);
    assert_eq!(hours[0].0, "12.0", "an hour and a half of 24 hours, in 192 units");
}

#[test]
fn the_policy_knows_the_one_style_sheet() {
    let page = orgs(
        &Status { version: "0".into(), orgs: Vec::new(), config: Default::default() },
        NOW,
        Asked::default(),
    );
    let html = page.html.unwrap();
    let style = html.split("<style>").nth(1).and_then(|rest| rest.split("</style>").next()).unwrap();
    let hash = STANDARD.encode(Sha256::digest(style.as_bytes()));
    assert!(content_security_policy().contains(&format!("style-src 'sha256-{hash}'")), "{style}");
}

#[tokio::test]
async fn a_credential_that_ends_soon_stands_out_and_one_that_a_machine_renews_does_not() {
    use crate::report::status::CredentialStatus;

    let reports = many(1);
    let says = |since: i64, or_longer: bool, ends: i64| {
        let mut status = reports.status();
        status.orgs[0].source.token = Some(CredentialStatus {
            slot: "next_token".into(),
            since: Moment(NOW - since),
            or_longer,
            expires: Some(Moment(NOW + ends)),
            warning: None,
        });
        orgs(&status, NOW, asked(&[])).html.unwrap()
    };
    let (day, stands_out) = (86_400, "<span class=\"note warning\">next token ");
    let page = says(30 * day, false, 13 * day);
    assert!(page.contains(&format!("{stands_out}30d 0h old, ends in 13d 0h")), "{page}");
    assert!(says(60, true, 3_000).contains(&format!("{stands_out}≥ 1m 0s old, ends in 50m 0s")));
    assert!(says(3_700, false, -100).contains(&format!("{stands_out}1h 1m old, ended 1m 40s ago")));
    for calm in [says(30 * day, false, 15 * day), says(600, false, 3_000)] {
        assert!(!calm.contains(stands_out) && calm.contains("next token "), "{calm}");
    }
}

#[tokio::test]
async fn what_a_part_waits_for_is_said_where_it_waits_and_errors_of_the_past_are_on_the_orgs_page() {
    let reports = many(1);
    let lane =
        reports.org(&settings("org-0000", "corp", &[DestinationName::S3])).lane(DestinationName::S3).clone();
    lane.waiting(WaitReason::Backoff, None, "no answer within 30 s");
    assert!(shown(&reports, &[]).contains("waiting 0s: backoff"), "{}", shown(&reports, &[]));
    assert!(shown(&reports, &[]).contains("no answer within 30 s"));
    lane.ok();
    assert!(!shown(&reports, &[]).contains("no answer within 30 s"));
    let page = org(&reports.status(), NOW, "org-0000", asked(&[])).html.unwrap();
    assert!(page.contains("0s</time> ago: no answer within 30 s"), "{page}");
}
