//! Compares the table with the source, after removing copies by `EventKey_s` as the documented query does. Rows of a table without
//! that column (`official`, `connector`) are compared as the multiset they are, so there a copy is an event too many.
//!
//! Rows show an event through columns, so this compares what the columns carry: time, type, text, address, token, actor, flags.
//! Long texts count by their first thousand characters, because the forwarder cuts them; the archive has them whole.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use super::super::ingestion::rows::Row;
use super::super::lexemes;
use super::super::pulumi::events::kinds;
use super::super::pulumi::store::TruthEvent;
use super::{Arrival, Expect, Report, Source, compare, sample};

const COMPARED: usize = 1_000;
const EARLIEST: i64 = 1_420_070_400;

pub fn check(rows: &[Row], org: &str, source: &Source, now: i64, expect: &Expect) -> Report {
    let rows: Vec<Arc<Row>> = rows.iter().cloned().map(Arc::new).collect();
    Known::default().check(&rows, org, &Arc::new(source.clone()), now, expect)
}

/// What rows and events were found to say, so that who looks again need not read again what is the same.
#[derive(Default)]
pub struct Known {
    rows: Vec<(Arc<Row>, String)>,
    source: Option<(Arc<Source>, Vec<Key>)>,
}

impl Known {
    /// The same as [`check`].
    pub fn check(
        &mut self,
        rows: &[Arc<Row>],
        org: &str,
        source: &Arc<Source>,
        now: i64,
        expect: &Expect,
    ) -> Report {
        let mut report =
            Report { org: org.to_owned(), destination: "sentinel".to_owned(), ..Report::default() };
        let (arrived, keys) = self.read(rows, source);
        let arrived = distinct(arrived, &mut report);
        let mut events = Vec::new();
        let mut loose: HashMap<&str, usize> = HashMap::new();
        for (event, key) in source.events.iter().zip(keys) {
            // No time that the table could take: quarantined by design.
            let plausible =
                key.time.is_some_and(|time| (EARLIEST..=now.saturating_add(86_400)).contains(&time));
            match key.exact {
                true if plausible => events.push((key.text.as_str(), event)),
                // A known field of an unexpected type: which text its row shows is the forwarder's choice.
                false if plausible && expect.is_seen(event) => *loose.entry(&key.text).or_default() += 1,
                _ => report.exempt += 1,
            }
        }
        let mut judged = Vec::new();
        if loose.is_empty() {
            judged = arrived;
        } else {
            let known: HashSet<&str> = events.iter().map(|(key, _)| *key).collect();
            for arrival in arrived {
                let beginning = arrival.key.split('\u{1}').take(2).collect::<Vec<_>>().join("\u{1}");
                match loose
                    .get_mut(beginning.as_str())
                    .filter(|left| **left > 0 && !known.contains(arrival.key))
                {
                    Some(left) => {
                        *left -= 1;
                        report.arrived += 1;
                        report.due += 1;
                    }
                    None => judged.push(arrival),
                }
            }
        }
        for (key, left) in loose {
            report.due += left;
            report.lost.extend(std::iter::repeat_n(key.to_owned(), left));
        }
        compare(&mut report, events.into_iter(), judged.into_iter(), expect);
        report
    }

    /// What every row and every event says.
    fn read(&mut self, rows: &[Arc<Row>], source: &Arc<Source>) -> (&[(Arc<Row>, String)], &[Key]) {
        let same = self.rows.iter().zip(rows).take_while(|((known, _), row)| Arc::ptr_eq(known, row)).count();
        self.rows.truncate(same);
        self.rows.extend(rows[same..].iter().map(|row| (row.clone(), row_key(row))));
        if !self.source.as_ref().is_some_and(|(known, _)| Arc::ptr_eq(known, source)) {
            self.source = Some((source.clone(), source.events.iter().map(source_key).collect()));
        }
        (&self.rows, self.source.as_ref().map_or(&[], |(_, keys)| keys))
    }
}

/// Without copies, which are counted: what the documented query shows.
fn distinct<'a>(rows: &'a [(Arc<Row>, String)], report: &mut Report) -> Vec<Arrival<'a>> {
    let mut seen: HashMap<&str, &str> = HashMap::new();
    let mut arrived = Vec::new();
    for (row, key) in rows {
        if row.cells.contains_key("EventKey_s") {
            let event_key = row.text("EventKey_s");
            if event_key.is_empty() {
                report.problems.push(format!("a row has no event key: {key}"));
            } else if let Some(first) = seen.get(event_key) {
                report.removable += 1;
                if first != key {
                    report.problems.push(format!("two rows share the event key {event_key} and differ"));
                }
                continue;
            } else {
                seen.insert(event_key, key);
            }
        }
        arrived.push(Arrival { key, bytes: key.as_bytes(), time: row.number("Timestamp_d") });
    }
    arrived
}

/// What the row of an event says.
struct Key {
    time: Option<i64>,
    text: String,
    /// Otherwise it is only how the text begins.
    exact: bool,
}

fn source_key(event: &TruthEvent) -> Key {
    let members: HashMap<&[u8], &[u8]> =
        lexemes::members(&event.bytes).unwrap_or_default().into_iter().collect();
    let field = |name: &str| members.get(name.as_bytes()).copied();
    let number = field("timestamp")
        .and_then(|raw| std::str::from_utf8(raw).ok())
        .and_then(|raw| raw.parse::<i64>().ok());
    let Some(time) = number else {
        return Key { time: None, text: String::new(), exact: true };
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
    let text = if odd { format!("{time}\u{1}{id}") } else { key(time, &id, &texts, flags) };
    Key { time: Some(time), text, exact: !odd }
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
    type Ids = (HashSet<&'static str>, HashMap<String, &'static str>);
    static IDS: OnceLock<Ids> = OnceLock::new();
    let (ids, by_display_name) = IDS.get_or_init(|| {
        let mut by_display_name = HashMap::new();
        for kind in kinds() {
            by_display_name.entry(kind.display_name.to_ascii_lowercase()).or_insert(kind.id.as_str());
        }
        (kinds().iter().map(|kind| kind.id.as_str()).collect(), by_display_name)
    });
    match ids.contains(name) {
        true => name.to_owned(),
        false => (*by_display_name.get(&name.to_ascii_lowercase()).unwrap_or(&name)).to_owned(),
    }
}

/// For reports of tests that look at single rows.
pub fn show(row: &Row) -> String {
    sample(serde_json::to_string(&row.cells).unwrap_or_default().as_bytes())
}
