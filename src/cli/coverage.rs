//! `coverage`: which time of each org has been read, how late it was last looked at, and what is missing. Reads the state directory,
//! beside a running daemon or without one, and changes nothing.
//!
//! *Why it does not ask the daemon:* the daemon answers with sums, and whoever asks here wants to know where in time they are.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::{CoverageFlags, Exit, Failure, Global, known_orgs, runtime};
use crate::clock::{Second, whole_seconds};
use crate::config::settings::{OrgSettings, Settings};
use crate::event::OrgId;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, OrgState};
use crate::report::status::{CoverageStatus, Moment};
use crate::report::words::{clean, length};

/// Lines about one org's spans, and about those of all orgs, without `--all`.
const LINES_PER_ORG: usize = 20;
const LINES: usize = 200;

pub(super) fn coverage(
    global: &Global,
    flags: &CoverageFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let settings = global.load_without_secrets()?.settings;
    let orgs = runtime()?.block_on(read(&settings, flags.org.as_deref()))?;
    if flags.json {
        let answer = serde_json::json!({ "orgs": orgs });
        writeln!(out, "{answer:#}")?;
    } else {
        out.write_all(text(&orgs, flags.all).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// What is known of an org's time. The names are a promise to scripts; those that `status` has as well mean the same.
#[derive(Clone, Debug, Serialize)]
struct OrgCoverage {
    id: OrgId,
    /// Pulumi's name; empty when the org is no longer configured.
    org: String,
    configured: bool,
    start: Option<Moment>,
    cursor: Option<Moment>,
    tip: Option<Moment>,
    /// Seconds of event time.
    coverage: CoverageStatus,
    spans: Vec<SpanShown>,
    holes: Vec<Hole>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct SpanShown {
    from: Moment,
    until: Moment,
    /// The service's time of the last look; of several that were merged the earliest.
    read_at: Moment,
    /// It was at least so many seconds old then: 0, or one of `rescan_after`.
    age: i64,
    damaged: bool,
    /// No other look is owed to any of it.
    settled: bool,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Hole {
    from: Moment,
    until: Moment,
}

async fn read(settings: &Settings, only: Option<&str>) -> Result<Vec<OrgCoverage>, Failure> {
    let journal = SqliteJournal::open_read_only(&settings.state_dir).map_err(anyhow::Error::from)?;
    let mut orgs = BTreeMap::new();
    for id in known_orgs(settings, &journal, only).await? {
        let configured = settings.orgs.iter().find(|org| org.id == id);
        let lanes = configured.map(OrgSettings::destinations).unwrap_or_default();
        let state = journal.open(&id, &lanes).await.map_err(anyhow::Error::from)?;
        orgs.insert(id.clone(), of(id, configured, &state));
    }
    Ok(orgs.into_values().collect())
}

fn of(id: OrgId, configured: Option<&OrgSettings>, state: &OrgState) -> OrgCoverage {
    // Nobody looks again at the time of an org that is no longer configured.
    let ages: Vec<i64> = configured
        .map(|org| org.source.rescan_after.iter().map(|age| whole_seconds(*age)).collect())
        .unwrap_or_default();
    let last = ages.last().copied().unwrap_or(0);
    let (coverage, floor) = (&state.coverage, state.tally_floor);
    let spans = coverage.spans().iter().map(|span| SpanShown {
        from: Moment(span.from),
        until: Moment(span.until),
        read_at: Moment(span.read_at),
        age: span.age,
        damaged: span.damaged,
        settled: span.age >= last || floor.is_some_and(|floor| span.until <= floor),
    });
    let holes = state.start.map(|start| coverage.holes(start)).unwrap_or_default();
    OrgCoverage {
        id,
        org: configured.map(|org| org.org.clone()).unwrap_or_default(),
        configured: configured.is_some(),
        start: state.start.map(Moment),
        cursor: state.start.map(|start| Moment(coverage.cursor(start))),
        tip: coverage.tip().map(Moment),
        coverage: CoverageStatus {
            holes: holes.iter().map(|hole| hole.seconds()).sum(),
            damaged: coverage.damaged_seconds(),
            unsettled: coverage.unsettled_seconds(&ages, floor),
        },
        spans: spans.collect(),
        holes: holes.iter().map(|hole| Hole { from: Moment(hole.from), until: Moment(hole.until) }).collect(),
    }
}

/// One line of an org's table.
struct Line {
    from: Second,
    until: Second,
    state: &'static str,
    /// Of a span that was read: when, and at which age.
    read: Option<(Moment, i64)>,
    /// Of no concern to anybody: the first to be left out.
    settled: bool,
}

impl OrgCoverage {
    /// Oldest first.
    fn lines(&self) -> Vec<Line> {
        let spans = self.spans.iter().map(|span| Line {
            from: span.from.0,
            until: span.until.0,
            state: match (span.damaged, span.settled) {
                (true, _) => "damaged",
                (false, true) => "settled",
                (false, false) => "due another look",
            },
            read: Some((span.read_at, span.age)),
            settled: span.settled && !span.damaged,
        });
        let holes = self.holes.iter().map(|hole| Line {
            from: hole.from.0,
            until: hole.until.0,
            state: "not read yet",
            read: None,
            settled: false,
        });
        let mut lines: Vec<Line> = spans.chain(holes).collect();
        lines.sort_by_key(|line| line.from);
        lines
    }
}

fn text(orgs: &[OrgCoverage], all: bool) -> String {
    let mut text = String::new();
    let mut left = LINES;
    for org in orgs {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&heading(org));
        let lines = org.lines();
        let count = lines.len();
        let shown = if all { lines } else { foremost(lines, LINES_PER_ORG.min(left)) };
        left = left.saturating_sub(shown.len());
        if !shown.is_empty() {
            text.push_str(&format!(
                "  {:20}  {:20}  {:>9}  {:16}  {:20}  AT AGE\n",
                "FROM", "UNTIL", "LENGTH", "STATE", "READ AT"
            ));
        }
        for line in &shown {
            text.push_str(&row(line));
        }
        if count > shown.len() {
            text.push_str(&format!(
                "  {} more of {count} spans: `coverage --org {} --all` shows all\n",
                count - shown.len(),
                org.id
            ));
        }
    }
    if text.is_empty() { "no orgs yet\n".to_owned() } else { text }
}

/// At most so many lines, in order: what somebody has to know of before what is settled, the newest before older ones.
fn foremost(lines: Vec<Line>, limit: usize) -> Vec<Line> {
    let mut lines = lines;
    lines.sort_by_key(|line| (line.settled, std::cmp::Reverse(line.from)));
    lines.truncate(limit);
    lines.sort_by_key(|line| line.from);
    lines
}

fn heading(org: &OrgCoverage) -> String {
    let name = match org.configured {
        true => clean(&org.org),
        false => "no longer configured".to_owned(),
    };
    let moment = |at: Option<Moment>| at.map_or_else(|| "not known yet".to_owned(), |at| at.to_string());
    let read: i64 = org.spans.iter().map(|span| span.until.0 - span.from.0).sum();
    let CoverageStatus { holes, damaged, unsettled } = org.coverage;
    let mut parts = vec![format!("{} read", length(read))];
    for (seconds, what) in
        [(holes, "not read yet"), (damaged, "too dense to be read whole"), (unsettled, "due another look")]
    {
        if seconds > 0 {
            parts.push(format!("{} {what}", length(seconds)));
        }
    }
    format!(
        "{} ({name})\n  start {}, cursor {}, tip {}\n  {}\n",
        org.id,
        moment(org.start),
        moment(org.cursor),
        moment(org.tip),
        parts.join(", ")
    )
}

fn row(line: &Line) -> String {
    let (read_at, age) = match line.read {
        Some((at, 0)) => (at.to_string(), "fresh".to_owned()),
        Some((at, age)) => (at.to_string(), length(age)),
        None => (String::new(), String::new()),
    };
    let row = format!(
        "  {}  {}  {:>9}  {:16}  {read_at:20}  {age}",
        line.from,
        line.until,
        length(line.until - line.from),
        line.state
    );
    format!("{}\n", row.trim_end())
}
