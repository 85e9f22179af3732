//! The reference of every metric, as Markdown, generated from a page: what a scrape shows cannot be missing here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::{Metrics, NAMESPACE, SOURCE};
use crate::clock::Second;
use crate::destination::DestinationName;
use crate::event::OrgId;

const INTRODUCTION: &str = "\
# Metrics

<!-- Generated from src/metrics by `pulumi-audit-forwarder metrics`. Change it there, not on this page. -->

What `/metrics` on `[admin] listen` shows, in Prometheus' text format. Every series is there from the start, at 0: a rate never misses its first step, and a time
that is not known yet is 0. The exceptions are ends of credentials that nobody knows, and statuses of Pulumi beside the usual ones. `org` is the org's `id`; an org
that is no longer configured has no series. The rules and alerts in `deploy/prometheus` are made of these.
";

/// One metric, as its page has it.
#[derive(Default)]
struct Shown {
    kind: String,
    help: String,
    /// Values by label.
    labels: BTreeMap<String, BTreeSet<String>>,
    series: usize,
}

/// The whole page.
///
/// # Panics
/// Never: the names that it makes up are allowed ones.
#[expect(clippy::expect_used, reason = "the made-up id is constant")]
pub fn markdown() -> String {
    let id = || OrgId::new("any").expect("a word of lower-case letters is an id");
    let whole = |destinations: &[DestinationName]| {
        let metrics = Metrics::new("any", "any");
        let org = metrics.org(&id(), destinations);
        let names = destinations.iter().filter(|name| name.has_credential()).map(|name| name.as_str());
        for name in names.chain([SOURCE]) {
            org.credential_expiry(name, Second(0));
            org.secret_expiry(name, Some(Second(0)));
        }
        read(&metrics.page().collect::<String>())
    };
    let all = whole(&DestinationName::ALL);
    let mut text = INTRODUCTION.to_owned();
    let both = series_of_org(&whole(&[DestinationName::Sentinel, DestinationName::S3]));
    let process = read(&Metrics::new("any", "any").page().collect::<String>());
    let process: usize = process.values().map(|metric| metric.series).sum();
    write!(
        text,
        "\nAn org with Sentinel and S3 has {both} series at most, and {} with all three destinations; {} more where Pulumi answers with other statuses than usual. \
         The process has {process}, and some more for each destination.\n",
        series_of_org(&all),
        super::org::OTHER_CODES_MAX + 1,
    )
    .ok();
    section(&mut text, "Of an org", all.iter().filter(|(_, metric)| metric.labels.contains_key("org")));
    let others = || all.iter().filter(|(_, metric)| !metric.labels.contains_key("org"));
    section(&mut text, "Of the forwarder", others().filter(|(name, _)| name.starts_with(NAMESPACE)));
    section(
        &mut text,
        "Of the process, as every well-kept one has them (on Linux)",
        others().filter(|(name, _)| !name.starts_with(NAMESPACE)),
    );
    text
}

fn series_of_org(page: &BTreeMap<String, Shown>) -> usize {
    page.values().filter(|metric| metric.labels.contains_key("org")).map(|metric| metric.series).sum()
}

fn section<'a>(text: &mut String, title: &str, metrics: impl Iterator<Item = (&'a String, &'a Shown)>) {
    write!(text, "\n## {title}\n\n| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n").ok();
    for (name, Shown { kind, help, labels, .. }) in metrics {
        let labels: Vec<String> = labels.iter().map(|(label, values)| explained(label, values)).collect();
        let labels = labels.join("; ");
        let help = help.replace('|', "\\|");
        writeln!(text, "| `{name}` | {kind} | {labels} | {help} |").ok();
    }
}

/// A label with its values, where those are a closed set.
fn explained(label: &str, values: &BTreeSet<String>) -> String {
    if matches!(label, "org" | "version" | "revision") {
        return format!("`{label}`");
    }
    let values: Vec<String> = values.iter().map(|value| format!("`{value}`")).collect();
    format!("`{label}`: {}", values.join(" "))
}

/// Takes a page of ours apart: one metric after the other, no value of a label holds a quote or a comma.
fn read(page: &str) -> BTreeMap<String, Shown> {
    let mut metrics = BTreeMap::<String, Shown>::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut current);
            help.clone_into(&mut metrics.entry(current.clone()).or_default().help);
        } else if let Some((_, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            kind.clone_into(&mut metrics.entry(current.clone()).or_default().kind);
        } else {
            let metric = metrics.entry(current.clone()).or_default();
            metric.series += 1;
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            for (label, value) in
                labels.map_or("", |(labels, _)| labels).split(',').filter_map(|pair| pair.split_once('='))
            {
                // Buckets are of the type, not of the metric.
                if label != "le" {
                    let values = metric.labels.entry(label.to_owned()).or_default();
                    values.insert(value.trim_matches('"').to_owned());
                }
            }
        }
    }
    metrics
}
