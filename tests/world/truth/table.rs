//! Compares the table with the source, after removing copies by `EventKey_s` as the documented query does. Rows of a table without
//! that column (`official`, `connector`) are compared as the multiset they are, so there a copy is an event too many.
//!
//! Rows show an event through columns, so this compares what the columns carry: time, type, text, address, token, actor, flags.
//! Long texts count by their first thousand characters, because the forwarder cuts them; the archive has them whole.

use std::collections::{HashMap, HashSet};

use super::super::ingestion::rows::Row;
use super::super::lexemes;
use super::super::pulumi::events::kinds;
use super::super::pulumi::store::TruthEvent;
use super::{Arrival, Expect, Report, Source, compare, sample};

const COMPARED: usize = 1_000;
const EARLIEST: i64 = 1_420_070_400;

pub fn check(rows: &[Row], org: &str, source: &Source, now: i64, expect: &Expect) -> Report {
    let mut report = Report { org: org.to_owned(), destination: "sentinel".to_owned(), ..Report::default() };
    let mut seen: HashMap<&str, String> = HashMap::new();
    let mut arrived = Vec::new();
    for row in rows {
        let key = row_key(row);
        if row.cells.contains_key("EventKey_s") {
            let event_key = row.text("EventKey_s");
            if event_key.is_empty() {
                report.problems.push(format!("a row has no event key: {key}"));
            } else if let Some(first) = seen.get(event_key) {
                report.removable += 1;
                if *first != key {
                    report.problems.push(format!("two rows share the event key {event_key} and differ"));
                }
                continue;
            } else {
                seen.insert(event_key, key.clone());
            }
        }
        let time = row.number("Timestamp_d");
        arrived.push(Arrival { sample: key.clone(), key, time });
    }
    let mut events = Vec::new();
    let mut loose: HashMap<String, usize> = HashMap::new();
    for event in &source.events {
        match source_key(event, now) {
            Key::Exact(key) => events.push((key, event.clone())),
            // A known field of an unexpected type: which text its row shows is the forwarder's choice.
            Key::Loose(key) if event.visible_at <= expect.as_of => *loose.entry(key).or_default() += 1,
            Key::Loose(_) | Key::Implausible => report.exempt += 1,
        }
    }
    let known: HashSet<&String> = events.iter().map(|(key, _)| key).collect();
    let mut judged = Vec::new();
    for arrival in arrived {
        let beginning = arrival.key.split('\u{1}').take(2).collect::<Vec<_>>().join("\u{1}");
        match loose.get_mut(&beginning).filter(|left| **left > 0 && !known.contains(&arrival.key)) {
            Some(left) => {
                *left -= 1;
                report.arrived += 1;
                report.due += 1;
            }
            None => judged.push(arrival),
        }
    }
    for (key, left) in loose {
        report.due += left;
        report.lost.extend(std::iter::repeat_n(key, left));
    }
    compare(&mut report, events, judged, expect);
    report
}

enum Key {
    Exact(String),
    Loose(String),
    /// No time that the table could take: quarantined by design.
    Implausible,
}

fn source_key(event: &TruthEvent, now: i64) -> Key {
    let members: HashMap<&[u8], &[u8]> =
        lexemes::members(&event.bytes).unwrap_or_default().into_iter().collect();
    let field = |name: &str| members.get(name.as_bytes()).copied();
    let number = field("timestamp")
        .and_then(|raw| std::str::from_utf8(raw).ok())
        .and_then(|raw| raw.parse::<i64>().ok());
    let Some(time) = number.filter(|time| (EARLIEST..=now.saturating_add(86_400)).contains(time)) else {
        return Key::Implausible;
    };
    let mut odd = false;
    let mut text = |name: &str| match field(name) {
        None | Some(b"null") => String::new(),
        Some(raw) => lexemes::text(raw).unwrap_or_else(|| {
            odd = true;
            String::new()
        }),
    };
    let id = event_id(&text("event"));
    let texts = ["description", "sourceIP", "tokenID", "actorUrn"].map(&mut text);
    let flags = ["reqOrgAdmin", "reqStackAdmin", "authFailure"].map(|name| field(name) == Some(b"true"));
    match odd {
        true => Key::Loose(format!("{time}\u{1}{id}")),
        false => Key::Exact(key(time, &id, &texts, flags)),
    }
}

fn row_key(row: &Row) -> String {
    let time = row.number("Timestamp_d").unwrap_or_default();
    let texts =
        ["Description_s", "SourceIP_s", "TokenID_s", "ActorUrn_s"].map(|name| row.text(name).to_owned());
    let flags = ["RequireOrgAdmin_b", "RequireStackAdmin_b", "AuthFailure_b"].map(|name| row.flag(name));
    key(time, &event_id(row.text("Event_s")), &texts, flags)
}

fn key(time: i64, id: &str, texts: &[String; 4], flags: [bool; 3]) -> String {
    let texts = texts.each_ref().map(|text| comparable(text));
    format!("{time}\u{1}{id}\u{1}{}\u{1}{flags:?}", texts.join("\u{1}"))
}

/// The same for a whole text and its cut form, and wherever the reader replaced what no text can hold.
fn comparable(text: &str) -> String {
    text.chars().filter(|char| *char != '\u{fffd}').take(COMPARED).collect()
}

/// Display names become ids, as documented.
fn event_id(name: &str) -> String {
    let by_display_name = || kinds().iter().find(|kind| kind.display_name.eq_ignore_ascii_case(name));
    match kinds().iter().any(|kind| kind.id == name) {
        true => name.to_owned(),
        false => by_display_name().map_or_else(|| name.to_owned(), |kind| kind.id.clone()),
    }
}

/// For reports of tests that look at single rows.
pub fn show(row: &Row) -> String {
    sample(serde_json::to_string(&row.cells).unwrap_or_default().as_bytes())
}
