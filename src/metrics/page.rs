//! The page for `/metrics`, a piece at a time: no more of it is in memory than one metric of a few orgs.

use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::NAMESPACE;
use super::family::{FAMILIES, Family};
use super::number::Shown;
use super::org::OrgMetrics;

/// Orgs in one piece: half a megabyte of the widest metric.
const ORGS_AT_ONCE: usize = 64;

/// What the process says of itself, then each metric of all orgs.
pub(super) fn pieces(
    process: Vec<MetricFamily>,
    orgs: Vec<Arc<OrgMetrics>>,
) -> impl Iterator<Item = String> + Send {
    let mut headed = None;
    let batches = FAMILIES.iter().flat_map(move |family| {
        let batches: Vec<Vec<Arc<OrgMetrics>>> = orgs.chunks(ORGS_AT_ONCE).map(<[_]>::to_vec).collect();
        batches.into_iter().map(move |orgs| (family, orgs))
    });
    std::iter::once_with(move || text(&process)).chain(batches.filter_map(move |(family, orgs)| {
        let shown = shown(family, &orgs)?;
        let text = text(&[shown]);
        if headed.replace(family.name) == Some(family.name) {
            Some(without_header(&text))
        } else {
            Some(text)
        }
    }))
}

fn text(families: &[MetricFamily]) -> String {
    let mut page = String::new();
    // Writing to a string does not fail, and nothing here is empty or unnamed; if it were, the rest would still be shown.
    if let Err(error) = TextEncoder::new().encode_utf8(families, &mut page) {
        tracing::error!(cause = %error, "metrics cannot be encoded");
    }
    page
}

/// Name, meaning and type stand before the first piece of a metric only.
fn without_header(text: &str) -> String {
    text.split_inclusive('\n').skip_while(|line| line.starts_with('#')).collect()
}

/// A metric of some orgs; nothing when none of them has a series of it.
fn shown(family: &Family, orgs: &[Arc<OrgMetrics>]) -> Option<MetricFamily> {
    let mut series = Vec::new();
    for org in orgs {
        (family.series)(org, &mut |values, number| {
            let mut labels: Vec<LabelPair> =
                family.labels.iter().zip(values).map(|(name, value)| label(name, value)).collect();
            labels.push(label("org", org.id.as_str()));
            labels.sort_by(|one, other| one.name().cmp(other.name()));
            let mut metric = Metric::from_label(labels);
            match number {
                Shown::Spread(spread) => metric.set_histogram(spread.histogram()),
                Shown::Value(value) if family.kind == MetricType::COUNTER => {
                    let mut counter = Counter::default();
                    counter.set_value(value);
                    metric.set_counter(counter);
                }
                Shown::Value(value) => {
                    let mut gauge = Gauge::default();
                    gauge.set_value(value);
                    metric.set_gauge(gauge);
                }
            }
            series.push(metric);
        });
    }
    if series.is_empty() {
        return None;
    }
    let mut shown = MetricFamily::default();
    shown.set_name(format!("{NAMESPACE}_{}", family.name));
    shown.set_help(family.help.to_owned());
    shown.set_field_type(family.kind);
    shown.set_metric(series);
    Some(shown)
}

fn label(name: &str, value: &str) -> LabelPair {
    let mut pair = LabelPair::default();
    pair.set_name(name.to_owned());
    pair.set_value(value.to_owned());
    pair
}
