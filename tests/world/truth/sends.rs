//! Whether rows were sent again without need. An upload whose success the sender has heard of is over, unless the sender died
//! before it could have written that down.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};

use super::super::ingestion::rows::Row;

/// Uploads that were repeated, each told once: their success was `heard`, and no process ended between the two.
pub fn needless<R: Borrow<Row>>(rows: &[R], heard: &BTreeSet<u64>, deaths: &[i64]) -> Vec<String> {
    let mut last: BTreeMap<&str, (u64, i64)> = BTreeMap::new();
    let mut told = BTreeSet::new();
    let mut found = Vec::new();
    for row in rows.iter().map(Borrow::borrow) {
        let key = row.text("EventKey_s");
        if key.is_empty() {
            continue;
        }
        let Some((request, at)) = last.insert(key, (row.request, row.received)) else { continue };
        if request == row.request {
            found.push(format!("upload {request} has a row twice: {key}"));
        } else if heard.contains(&request)
            && !deaths.iter().any(|death| (at..=row.received).contains(death))
            && told.insert((request, row.request))
        {
            found.push(format!(
                "upload {request} of {at} succeeded, and upload {} of {} repeats it without need",
                row.request, row.received
            ));
        }
    }
    found
}
