//! The independent checker: compares what arrived with what the source ever held, event by event.
//!
//! It shares nothing with the forwarder but the documented formats: its own parser, its own hash, its own idea of which event is
//! which. That it notices a dropped, a doubled and an altered event is tested with it.

pub mod archive;
pub mod sends;
pub mod table;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use super::lexemes;
use super::pulumi::store::{Shown, TruthEvent};

/// What is asked of a destination.
#[derive(Debug, Clone)]
pub struct Expect {
    /// Nothing older was to be fetched.
    pub since: i64,
    /// Events that became visible later are not due yet. They may have arrived all the same.
    pub as_of: i64,
    /// Seconds that the forwarder has declared damaged: exempt, and counted.
    pub damaged: BTreeSet<i64>,
    /// The first chunk that must be there: later than 0 for a lane that was added later.
    pub first_chunk: u64,
    /// Events that became visible earlier are not due either.
    pub seen_from: i64,
    /// Nor are those that became visible so long after they happened, or longer.
    pub late_below: i64,
}

impl Expect {
    fn is_due(&self, event: &TruthEvent) -> bool {
        event.timestamp >= self.since && self.is_seen(event)
    }

    fn is_seen(&self, event: &TruthEvent) -> bool {
        (self.seen_from..=self.as_of).contains(&event.visible_at)
            && event.visible_at.saturating_sub(event.timestamp) < self.late_below
    }
}

impl Default for Expect {
    fn default() -> Self {
        Self {
            since: i64::MIN,
            as_of: i64::MAX,
            damaged: BTreeSet::new(),
            first_chunk: 0,
            seen_from: i64::MIN,
            late_below: i64::MAX,
        }
    }
}

/// How one org's events fared at one destination.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub org: String,
    pub destination: String,
    /// Events that were due.
    pub due: usize,
    /// Events that arrived, each copy counted.
    pub arrived: usize,
    /// Due, and not there.
    pub lost: Vec<String>,
    /// There more often than the source has it, and not removable by its key.
    pub doubled: Vec<String>,
    /// There, and not in the source: altered, or invented.
    pub foreign: Vec<String>,
    /// Copies that a reader can remove by the event key. Not a failure where delivery is at least once.
    pub removable: usize,
    /// Not judged: damaged seconds, and what a destination cannot take.
    pub exempt: usize,
    /// Claims without an object of their own events: empty ones, settled as void.
    pub void: usize,
    /// What is wrong with the form: chain, hashes, names, lines.
    pub problems: Vec<String>,
}

impl Report {
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty() && self.doubled.is_empty() && self.foreign.is_empty() && self.problems.is_empty()
    }

    #[track_caller]
    pub fn assert_complete(&self) {
        assert!(self.is_complete(), "{self}");
    }

    /// Nothing lost, altered or malformed; copies are tolerated.
    pub fn loses_nothing(&self) -> bool {
        self.lost.is_empty() && self.foreign.is_empty() && self.problems.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} at {}: {} due, {} arrived, {} lost, {} doubled, {} foreign, {} removable copies, {} exempt, {} void, {} problems",
            self.org,
            self.destination,
            self.due,
            self.arrived,
            self.lost.len(),
            self.doubled.len(),
            self.foreign.len(),
            self.removable,
            self.exempt,
            self.void,
            self.problems.len()
        )?;
        for (what, list) in [
            ("lost", &self.lost),
            ("doubled", &self.doubled),
            ("foreign", &self.foreign),
            ("problem", &self.problems),
        ] {
            for line in list.iter().take(10) {
                writeln!(f, "  {what}: {line}")?;
            }
        }
        Ok(())
    }
}

/// Everything the source knows of one org.
#[derive(Debug, Clone)]
pub struct Source {
    pub events: Vec<TruthEvent>,
    pub shown: Shown,
}

/// What arrived, reduced to what can be compared.
struct Arrival<'a> {
    key: &'a str,
    /// For the report.
    bytes: &'a [u8],
    time: Option<i64>,
}

/// A multiset comparison. `late` events are not due, but known.
fn compare<'a>(
    report: &mut Report,
    source: impl Iterator<Item = (&'a str, &'a TruthEvent)>,
    arrived: impl Iterator<Item = Arrival<'a>>,
    expect: &Expect,
) {
    struct Count<'a> {
        due: usize,
        known: usize,
        there: usize,
        bytes: &'a [u8],
    }
    let mut counts: HashMap<&str, Count<'_>> = HashMap::new();
    for (key, event) in source {
        if expect.damaged.contains(&event.timestamp) {
            report.exempt += 1;
            continue;
        }
        let due = expect.is_due(event);
        report.due += usize::from(due);
        let count = counts.entry(key).or_insert(Count { due: 0, known: 0, there: 0, bytes: &event.bytes });
        count.known += 1;
        count.due += usize::from(due);
    }
    for arrival in arrived {
        report.arrived += 1;
        if arrival.time.is_some_and(|time| expect.damaged.contains(&time)) {
            continue;
        }
        match counts.get_mut(arrival.key) {
            Some(count) => count.there += 1,
            None => report.foreign.push(sample(arrival.bytes)),
        }
    }
    for count in counts.into_values() {
        for _ in count.there..count.due {
            report.lost.push(sample(count.bytes));
        }
        for _ in count.known..count.there {
            report.doubled.push(sample(count.bytes));
        }
    }
}

fn sample(event: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(&lexemes::minify(event)).into_owned();
    if text.len() > 300 {
        let end = (0..=300).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
