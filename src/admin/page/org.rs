//! One org: its parts, its day, and its coverage since the start.

use askama::Template;

use super::cell::{Cell, cell, credential_in_full};
use super::filter::{Asked, Filter};
use super::graph::{self, Graph, Range};
use super::problem::{Problem, problems};
use super::{
    Absent, Age, ErrorShown, Frame, NAME_CHARACTERS_MAX, Page, TEXT_CHARACTERS_MAX, age, error_shown, shown,
    text, word,
};
use crate::clock::Second;
use crate::report::glance::{Level, OrgGlance, lane_part, org_glance, source_part};
use crate::report::spans::{SpanState, SpanStatus};
use crate::report::status::{Moment, OrgStatus, Status};
use crate::report::words::{counted, grouped, length};

/// Holes and damaged seconds listed on an org's page.
const SPANS_LISTED_MAX: usize = 20;

#[derive(Template)]
#[template(path = "org.html", whitespace = "minimize")]
struct Org {
    frame: Frame,
    id: String,
    name: String,
    level: &'static str,
    word: &'static str,
    headline: String,
    all: String,
    problems: Vec<Problem>,
    rows: Vec<PartRow>,
    graph: Option<Graph>,
    hours: Vec<(String, String)>,
    /// From `start` on.
    whole: Option<Whole>,
    facts: Vec<(&'static str, String)>,
    coverage_command: String,
}

struct Whole {
    label: String,
    line: graph::Line,
    from: Moment,
    listed: Vec<Listed>,
    /// How many more there are.
    more: Option<String>,
}

struct Listed {
    what: &'static str,
    from: Moment,
    until: Moment,
    length: String,
}

struct PartRow {
    cell: Cell,
    since: Option<Age>,
    identity: Option<String>,
    backlog: Option<(String, String)>,
    quarantined: Option<String>,
    credential: Option<String>,
    error: Option<ErrorShown>,
}

/// One org. `id` is what was asked for.
pub(in crate::admin) fn org(status: &Status, now: Second, id: &str, asked: Asked) -> Page {
    let refreshes = Filter::from(asked).refreshes;
    let Some(org) = status.orgs.iter().find(|org| org.id.as_str() == id) else {
        let id = shown(id, NAME_CHARACTERS_MAX);
        let frame =
            Frame::new(status, &format!("{id} is not known"), Level::Fine, now, false, "/".to_owned());
        return Page { html: Absent { frame, id }.render(), refreshes: false, found: false };
    };
    let glance = org_glance(org, now);
    let id = org.id.as_str().to_owned();
    let headline = org_headline(&glance, now);
    let address = format!("/org/{id}{}", if refreshes { "?refresh=off" } else { "" });
    let template = Org {
        frame: Frame::new(status, &format!("{id}: {headline}"), glance.level, now, refreshes, address),
        name: shown(&org.org, TEXT_CHARACTERS_MAX),
        level: glance.level.as_str(),
        word: word(glance.level),
        headline,
        all: if refreshes { "/".to_owned() } else { "/?refresh=off".to_owned() },
        problems: problems(std::iter::once(&glance), now).0,
        rows: part_rows(org, now),
        graph: graph::day(org, now),
        hours: graph::hours(now),
        whole: whole(org, now),
        facts: facts(org, now),
        coverage_command: format!("pulumi-audit-forwarder coverage --org {id}"),
        id,
    };
    Page { html: template.render(), refreshes, found: true }
}

/// How an org stands, in one sentence.
fn org_headline(glance: &OrgGlance<'_>, now: Second) -> String {
    let until = glance.delivered_until.map(|at| format!("delivered until {} ago", length(now - at)));
    match (&glance.matter, until, glance.level) {
        (_, _, Level::Retired) => "no longer configured; its journal is kept".to_owned(),
        (Some(matter), Some(until), _) => format!("{matter}; {until}"),
        (Some(matter), None, _) => matter.clone(),
        (None, Some(until), _) => until,
        (None, None, _) => "nothing delivered so far".to_owned(),
    }
}

fn part_rows(org: &OrgStatus, now: Second) -> Vec<PartRow> {
    let source = PartRow {
        cell: cell(org, &source_part(&org.source), org.cursor, None, now),
        since: org.source.since.map(|at| age(at, now)),
        identity: None,
        backlog: None,
        quarantined: None,
        credential: org.source.token.as_ref().map(|token| credential_in_full(token, now)),
        error: org.source.last_error.as_ref().map(|error| error_shown(error, now)),
    };
    let lanes = org.lanes.iter().map(|lane| PartRow {
        cell: cell(org, &lane_part(lane), lane.delivered_until, None, now),
        since: lane.since.map(|at| age(at, now)),
        identity: lane.identity.as_deref().map(text),
        backlog: Some((grouped(lane.backlog_chunks), grouped(lane.backlog_events))),
        quarantined: Some(grouped(lane.quarantined)),
        credential: lane.credential.as_ref().map(|credential| credential_in_full(credential, now)),
        error: lane.last_error.as_ref().map(|error| error_shown(error, now)),
    });
    std::iter::once(source).chain(lanes).collect()
}

fn whole(org: &OrgStatus, now: Second) -> Option<Whole> {
    let Moment(start) = org.start?;
    let until = org.tip.map_or(now, |Moment(tip)| tip.max(start + 1));
    let range = Range { from: start, until };
    let missing: Vec<&SpanStatus> =
        org.spans.iter().filter(|span| matches!(span.state, SpanState::Hole | SpanState::Damaged)).collect();
    let more = missing.len().saturating_sub(SPANS_LISTED_MAX) as u64 + org.spans_left_out;
    let listed = missing.iter().rev().take(SPANS_LISTED_MAX).map(|span| Listed {
        what: if span.state == SpanState::Hole { "not read yet" } else { "too dense to be read whole" },
        from: span.from,
        until: span.until,
        length: length(span.seconds()),
    });
    Some(Whole {
        label: graph::line_in_words(&org.spans, range),
        line: graph::line(&org.spans, range, 2.0, 0.7),
        from: Moment(start),
        listed: listed.collect(),
        more: (more > 0).then(|| counted(more, "more span")),
    })
}

fn facts(org: &OrgStatus, now: Second) -> Vec<(&'static str, String)> {
    let known = |at: Option<Moment>| {
        at.map_or_else(|| "not known yet".to_owned(), |at| format!("{at} ({} ago)", length(now - at.0)))
    };
    let mut facts = vec![
        ("Collection started at", known(org.start)),
        ("Everything journaled before (cursor)", known(org.cursor)),
        ("Newest time read (tip)", known(org.tip)),
        ("Last window read", known(org.source.last_sweep)),
    ];
    let lengths =
        [("Not read yet", org.coverage.holes), ("Too dense to be read whole", org.coverage.damaged)];
    facts.extend(
        lengths.map(|(what, seconds)| (what, if seconds == 0 { "none".to_owned() } else { length(seconds) })),
    );
    facts.push(("Read, and due another look", length(org.coverage.unsettled)));
    facts
}
