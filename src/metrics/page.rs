//! The page for `/metrics`, a piece at a time: no more of it is in memory than one metric of a few orgs.
//!
//! *Why the series of orgs are written here, and not by the library:* it wants an object for each label of each series first, which
//! cost two thirds of the time that a page of a thousand orgs took. No label needs to be escaped: ids and closed sets hold no
//! quotes, and no meaning has a line break.

use std::fmt::Write;
use std::sync::Arc;

use prometheus::TextEncoder;
use prometheus::proto::MetricFamily;

use super::NAMESPACE;
use super::family::{FAMILIES, Family};
use super::number::{Shown, Spread};
use super::org::OrgMetrics;

/// Orgs in one piece: a quarter of a megabyte of the widest metric. Smaller ones wake whoever sends them more often than they are worth.
const ORGS_AT_ONCE: usize = 128;
/// A whole number up to here is exact, and quicker to write as one.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// What the process says of itself, then each metric of all orgs.
pub(super) fn pieces(
    process: Vec<MetricFamily>,
    orgs: Vec<Arc<OrgMetrics>>,
) -> impl Iterator<Item = String> + Send {
    let mut headed = None;
    let mut length = 0;
    let batches = FAMILIES.iter().flat_map(move |family| {
        let batches: Vec<Vec<Arc<OrgMetrics>>> = orgs.chunks(ORGS_AT_ONCE).map(<[_]>::to_vec).collect();
        batches.into_iter().map(move |orgs| (family, orgs))
    });
    std::iter::once_with(move || text(&process)).chain(batches.filter_map(move |(family, orgs)| {
        let mut piece = String::with_capacity(length);
        // Name, meaning and type stand before the first series of a metric only.
        if headed != Some(family.name) {
            piece.push_str(&header(family));
        }
        let piece = series(piece, family, &orgs)?;
        headed = Some(family.name);
        // Most pieces are followed by one of the same metric.
        length = piece.len();
        Some(piece)
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

fn header(family: &Family) -> String {
    let Family { name, kind, help, .. } = family;
    let kind = kind.as_str();
    format!("# HELP {NAMESPACE}_{name} {help}\n# TYPE {NAMESPACE}_{name} {kind}\n")
}

/// `page` and a metric of some orgs; nothing when none of them has a series of it.
fn series(mut page: String, family: &Family, orgs: &[Arc<OrgMetrics>]) -> Option<String> {
    let before = page.len();
    let mut labels = String::new();
    let mut bounds = Vec::new();
    for org in orgs {
        (family.series)(org, &mut |values, number| {
            write_labels(&mut labels, family, org, values);
            match number {
                Shown::Spread(spread) => write_spread(&mut page, family.name, &labels, spread, &mut bounds),
                Shown::Value(value) => write_sample(&mut page, family.name, "", &labels, value),
            }
        });
    }
    (page.len() > before).then_some(page)
}

/// In the order of their names.
fn write_labels(labels: &mut String, family: &Family, org: &OrgMetrics, values: &[&str]) {
    const ORG: &str = "org";
    let mut others = family.labels.iter().zip(values).peekable();
    labels.clear();
    while let Some((name, value)) = others.next_if(|(name, _)| **name < ORG) {
        write!(labels, "{name}=\"{value}\",").ok();
    }
    write!(labels, "{ORG}=\"{}\"", org.id.as_str()).ok();
    for (name, value) in others {
        write!(labels, ",{name}=\"{value}\"").ok();
    }
}

fn write_spread(page: &mut String, name: &str, labels: &str, spread: &Spread, bounds: &mut Vec<String>) {
    if bounds.is_empty() {
        // All series of a metric have the same ones.
        bounds.extend(spread.bounds().iter().map(f64::to_string).chain(["+Inf".to_owned()]));
    }
    let bucket = [NAMESPACE, "_", name, "_bucket{", labels, ",le=\""].concat();
    let mut count = 0;
    for (bound, cumulative) in bounds.iter().zip(spread.cumulative()) {
        count = cumulative;
        page.push_str(&bucket);
        page.push_str(bound);
        page.push_str("\"} ");
        write_whole(page, cumulative);
        page.push('\n');
    }
    write_sample(page, name, "_sum", labels, spread.sum());
    write_sample(page, name, "_count", labels, count as f64);
}

fn write_sample(page: &mut String, name: &str, suffix: &str, labels: &str, value: f64) {
    for part in [NAMESPACE, "_", name, suffix, "{", labels, "} "] {
        page.push_str(part);
    }
    if value.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(&value) {
        write_whole(page, value as u64);
    } else {
        write!(page, "{value}").ok();
    }
    page.push('\n');
}

/// Most numbers on a page are 0.
fn write_whole(page: &mut String, value: u64) {
    match u8::try_from(value) {
        Ok(digit @ 0..=9) => page.push(char::from(b'0' + digit)),
        _ => {
            write!(page, "{value}").ok();
        }
    }
}
