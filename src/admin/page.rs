//! The status page: what `/api/status` says, as HTML for people. Trouble comes first; the templates in `templates/` are filled here.
//!
//! The page runs no scripts and loads nothing but its own icon, so that it works in any browser, also over a tunnel at night, and so
//! that its policy can forbid everything. It refreshes itself by a header and keeps what was asked for in its address. However many
//! orgs there are, one page shows a hundred of them.
//!
//! *Why templates that are compiled:* a template that escapes by itself and does not build with a missing value leaves nothing to
//! forget. *Why a header and not an element:* the browser then repeats the very address, and who pauses it just leaves it out.

mod filter;
mod graph;
#[cfg(test)]
mod tests;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::destination::DestinationName;
use crate::report::activity;
use crate::report::glance::{
    Glance, Level, OrgGlance, Part, glance, is_late, lane_part, org_glance, parts, source_part,
};
use crate::report::spans::SpanState;
use crate::report::status::{CredentialStatus, ErrorStatus, LaneStatus, Moment, OrgStatus, State, Status};
use crate::report::words::{clean, counted, cut, grouped, length};

pub(super) use filter::Asked;
use filter::Filter;
use graph::Range;

const STYLE: &str = include_str!("page/style.css");
/// How often the page refreshes itself.
pub(super) const REFRESH_SECONDS: u32 = 30;
/// Orgs on one page.
const ORGS_MAX: usize = 100;
/// Problems above the list, and orgs named in each.
const PROBLEMS_MAX: usize = 8;
const NAMED_MAX: usize = 12;
/// Most characters of a name, and of a text of another service.
const NAME_CHARACTERS_MAX: usize = 80;
const TEXT_CHARACTERS_MAX: usize = 600;
/// Holes and damaged seconds listed on an org's page.
const SPANS_LISTED_MAX: usize = 20;
/// A credential that ends this soon is worth a look.
const ENDS_SOON_SECONDS: i64 = 14 * 86_400;

/// Nothing may be loaded or run but the icon; the one style sheet is known by its hash.
pub(super) fn content_security_policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
}

/// The icon of a page that shows this.
pub(super) fn icon(level: &str) -> Option<&'static str> {
    Some(match level {
        "attention.svg" => include_str!("page/attention.svg"),
        "behind.svg" => include_str!("page/behind.svg"),
        "fine.svg" => include_str!("page/fine.svg"),
        _ => return None,
    })
}

/// A page, and whether it is to refresh itself.
pub(super) struct Page {
    pub(super) html: Result<String, askama::Error>,
    pub(super) refreshes: bool,
    /// What it is about is there.
    pub(super) found: bool,
}

/// What every page has.
struct Frame {
    title: String,
    icon: &'static str,
    style: &'static str,
    version: String,
    now: Moment,
    refresh_seconds: Option<u32>,
    /// The address of the same page that refreshes itself, or no longer does.
    refresh_address: String,
}

impl Frame {
    fn new(
        status: &Status,
        title: &str,
        level: Level,
        now: Second,
        refreshes: bool,
        address: String,
    ) -> Frame {
        Frame {
            title: cut(title, 2 * NAME_CHARACTERS_MAX),
            icon: match level {
                Level::Attention => "attention",
                Level::Behind => "behind",
                Level::Waiting | Level::Starting | Level::Fine | Level::Retired => "fine",
            },
            style: STYLE,
            version: shown(&status.version, NAME_CHARACTERS_MAX),
            now: Moment(now),
            refresh_seconds: refreshes.then_some(REFRESH_SECONDS),
            refresh_address: address,
        }
    }
}

#[derive(Template)]
#[template(path = "orgs.html", whitespace = "minimize")]
struct Orgs {
    frame: Frame,
    level: &'static str,
    headline: String,
    asides: Vec<String>,
    config_error: Option<String>,
    needs_restart: Option<String>,
    problems: Vec<Problem>,
    /// Problems beyond those, and the address that lists the orgs that have them.
    more_problems: Option<(String, String)>,
    search: String,
    choices: Vec<Choice>,
    refreshes: bool,
    is_filtered: bool,
    everything: String,
    caption: String,
    destinations: Vec<&'static str>,
    rows: Vec<Row>,
    previous: Option<String>,
    next: Option<String>,
}

/// The same thing wrong with some orgs.
struct Problem {
    what: String,
    /// The org that has had it for the longest.
    since: Option<Age>,
    orgs: Vec<String>,
    more_orgs: Option<String>,
    error: Option<ErrorShown>,
    remedy: Option<String>,
    command: Option<String>,
}

struct Choice {
    value: &'static str,
    text: String,
    chosen: bool,
}

struct Row {
    id: String,
    name: String,
    level: &'static str,
    word: &'static str,
    source: Cell,
    /// As many as there are columns.
    lanes: Vec<Option<Cell>>,
    graph: Option<Graph>,
}

struct Cell {
    column: &'static str,
    state: &'static str,
    is_ok: bool,
    until: Option<Age>,
    /// Why it waits or is paused.
    why: Option<String>,
    notes: Vec<String>,
    /// Notes that somebody has to see.
    warnings: Vec<String>,
}

/// How long ago something was, and when.
struct Age {
    at: Moment,
    text: String,
}

struct ErrorShown {
    age: Age,
    text: String,
}

struct Graph {
    label: String,
    total: String,
    bars: String,
    line: graph::Line,
}

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

#[derive(Template)]
#[template(path = "absent.html", whitespace = "minimize")]
struct Absent {
    frame: Frame,
    id: String,
}

/// The list of orgs.
pub(super) fn orgs(status: &Status, now: Second, asked: Asked) -> Page {
    let filter = Filter::from(asked);
    let glance = glance(status, now);
    let taken: Vec<&OrgGlance<'_>> = glance.orgs.iter().filter(|org| filter.takes(org)).collect();
    let pages = taken.len().div_ceil(ORGS_MAX).max(1);
    let page = filter.page.min(pages);
    let first = (page - 1) * ORGS_MAX;
    let on_page = &taken[first..taken.len().min(first + ORGS_MAX)];
    let destinations: Vec<DestinationName> = DestinationName::ALL
        .into_iter()
        .filter(|name| status.orgs.iter().any(|org| org.lanes.iter().any(|lane| lane.destination == *name)))
        .collect();
    let (problems, more) = problems(glance.orgs.iter().filter(|org| filter.finds(org)), now);
    let template = Orgs {
        frame: Frame::new(
            status,
            &glance.headline,
            glance.level,
            now,
            filter.refreshes,
            filter.on_page(page).refreshing(!filter.refreshes).address(),
        ),
        level: glance.level.as_str(),
        headline: glance.headline.clone(),
        asides: glance.asides.clone(),
        config_error: status.config.error.as_deref().filter(|_| !status.config.ok).map(text),
        needs_restart: (!status.config.needs_restart.is_empty())
            .then(|| text(&status.config.needs_restart.join(", "))),
        problems,
        more_problems: (more > 0)
            .then(|| (counted(more as u64, "more problem"), filter.showing(Level::Attention).address())),
        search: filter.search.clone(),
        choices: choices(&glance, &filter),
        refreshes: filter.refreshes,
        is_filtered: filter.is_set(),
        everything: Filter { search: String::new(), level: None, page: 1, ..filter.clone() }.address(),
        caption: caption(&filter, taken.len(), first, on_page.len(), glance.orgs.len()),
        destinations: destinations.iter().map(|name| name.as_str()).collect(),
        rows: on_page.iter().map(|org| row(org, &destinations, now)).collect(),
        previous: (page > 1).then(|| filter.on_page(page - 1).address()),
        next: (page < pages).then(|| filter.on_page(page + 1).address()),
    };
    Page { html: template.render(), refreshes: filter.refreshes, found: true }
}

/// One org. `id` is what was asked for.
pub(super) fn org(status: &Status, now: Second, id: &str, asked: Asked) -> Page {
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
        graph: day(org, now),
        hours: hours(now),
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

fn choices(glance: &Glance<'_>, filter: &Filter) -> Vec<Choice> {
    let found: Vec<Level> = glance.orgs.iter().filter(|org| filter.finds(org)).map(|org| org.level).collect();
    let all = Choice {
        value: "",
        text: format!("all ({})", grouped(found.len() as u64)),
        chosen: filter.level.is_none(),
    };
    let levels = Level::ALL.into_iter().map(|level| {
        let count = found.iter().filter(|found| **found == level).count();
        Choice {
            value: level.as_str(),
            text: format!("{} ({})", word(level), grouped(count as u64)),
            chosen: filter.level == Some(level),
        }
    });
    std::iter::once(all).chain(levels).collect()
}

fn caption(filter: &Filter, taken: usize, first: usize, shown: usize, all: usize) -> String {
    let which = if shown < taken {
        format!("{} to {} of ", grouped(first as u64 + 1), grouped((first + shown) as u64))
    } else {
        String::new()
    };
    let of = if filter.is_set() { format!(" out of {}", grouped(all as u64)) } else { String::new() };
    format!("{which}{}{of}, trouble first", counted(taken as u64, "organization"))
}

fn word(level: Level) -> &'static str {
    match level {
        Level::Attention => "needs attention",
        Level::Behind => "behind",
        Level::Waiting => "waits",
        Level::Starting => "starting",
        Level::Fine => "fine",
        Level::Retired => "not configured",
    }
}

/// What a person has to do, the same for several orgs told once, and how many problems were left out.
fn problems<'a>(orgs: impl Iterator<Item = &'a OrgGlance<'a>>, now: Second) -> (Vec<Problem>, usize) {
    let mut groups: Vec<(Trouble<'a>, Vec<&'a OrgStatus>)> = Vec::new();
    for org in orgs.filter(|org| org.level == Level::Attention) {
        for trouble in troubles(org.org) {
            match groups.iter_mut().find(|(known, _)| known.is_like(&trouble)) {
                Some((known, orgs)) => {
                    orgs.push(org.org);
                    known.since = known.since.min(trouble.since);
                }
                None => groups.push((trouble, vec![org.org])),
            }
        }
    }
    let more = groups.len().saturating_sub(PROBLEMS_MAX);
    groups.truncate(PROBLEMS_MAX);
    let problem = |(trouble, orgs): (Trouble<'a>, Vec<&'a OrgStatus>)| Problem {
        what: trouble.what,
        since: trouble.since.map(|at| age(at, now)),
        orgs: orgs.iter().take(NAMED_MAX).map(|org| org.id.as_str().to_owned()).collect(),
        more_orgs: (orgs.len() > NAMED_MAX).then(|| grouped((orgs.len() - NAMED_MAX) as u64)),
        error: trouble.error.map(|error| error_shown(error, now)),
        remedy: trouble.remedy.map(text),
        command: trouble.is_quarantine.then(|| match orgs.as_slice() {
            [only] => format!("pulumi-audit-forwarder quarantine list --org {}", only.id),
            _ => "pulumi-audit-forwarder quarantine list".to_owned(),
        }),
    };
    (groups.into_iter().map(problem).collect(), more)
}

struct Trouble<'a> {
    what: String,
    since: Option<Moment>,
    error: Option<&'a ErrorStatus>,
    remedy: Option<&'a str>,
    is_quarantine: bool,
}

impl Trouble<'_> {
    fn is_like(&self, other: &Trouble<'_>) -> bool {
        (&self.what, self.remedy) == (&other.what, other.remedy)
    }
}

fn troubles(org: &OrgStatus) -> Vec<Trouble<'_>> {
    let paused = parts(org).filter(|part| part.state == State::Paused).map(|part: Part<'_>| Trouble {
        what: format!("{} paused: {}", part.name, part.reason()),
        since: part.since,
        error: part.last_error,
        remedy: part.remedy,
        is_quarantine: false,
    });
    let rows = org.lanes.iter().filter(|lane| lane.quarantined > 0).map(|lane| Trouble {
        what: format!("{} refused rows for good: they are in quarantine", lane.destination),
        since: None,
        error: None,
        remedy: Some(
            "the archive has them whole; see why they were refused, then send them again or drop them",
        ),
        is_quarantine: true,
    });
    paused.chain(rows).collect()
}

fn row(glance: &OrgGlance<'_>, destinations: &[DestinationName], now: Second) -> Row {
    let org = glance.org;
    let lane = |name: &DestinationName| org.lanes.iter().find(|lane| lane.destination == *name);
    Row {
        id: org.id.as_str().to_owned(),
        name: shown(&org.org, NAME_CHARACTERS_MAX),
        level: glance.level.as_str(),
        word: word(glance.level),
        source: source_cell(org, now),
        lanes: destinations.iter().map(|name| lane(name).map(|lane| lane_cell(org, lane, now))).collect(),
        graph: (glance.level != Level::Retired).then(|| day(org, now)).flatten(),
    }
}

fn source_cell(org: &OrgStatus, now: Second) -> Cell {
    let mut cell = cell(org, &source_part(&org.source), org.cursor, org.source.token.as_ref(), now);
    if org.coverage.holes > 0 {
        cell.notes.insert(0, format!("{} not read yet", length(org.coverage.holes)));
    }
    if org.coverage.damaged > 0 {
        cell.warnings.push(format!("{} too dense", length(org.coverage.damaged)));
    }
    cell
}

fn lane_cell(org: &OrgStatus, lane: &LaneStatus, now: Second) -> Cell {
    let mut cell = cell(org, &lane_part(lane), lane.delivered_until, lane.credential.as_ref(), now);
    if lane.backlog_events > 0 {
        cell.notes.insert(0, format!("{} to deliver", counted(lane.backlog_events, "event")));
    }
    if lane.quarantined > 0 {
        cell.warnings.push(format!("{} in quarantine", counted(lane.quarantined, "row")));
    }
    cell
}

fn cell(
    org: &OrgStatus,
    part: &Part<'_>,
    until: Option<Moment>,
    credential: Option<&CredentialStatus>,
    now: Second,
) -> Cell {
    let is_ok = matches!(part.state, State::Ok | State::Retired);
    let late = part.state == State::Ok && is_late(org, until.map(|Moment(at)| at), now);
    let mut cell = Cell {
        column: part.name,
        state: if late { Level::Behind.as_str() } else { part.state.as_str() },
        is_ok,
        until: until.map(|at| age(at, now)),
        why: (!is_ok).then(|| {
            let since = part.since.map(|Moment(at)| format!(" {}", length(now - at))).unwrap_or_default();
            format!("{}{since}: {}", part.state.as_str(), part.reason())
        }),
        notes: Vec::new(),
        warnings: Vec::new(),
    };
    if let Some(credential) = credential {
        let ends = credential.expires.filter(|Moment(end)| *end - now < ENDS_SOON_SECONDS);
        let text = in_use(credential, now);
        if ends.is_some() {
            cell.warnings.push(text)
        } else {
            cell.notes.push(text)
        }
        cell.warnings
            .extend(credential.warning.as_deref().map(|_| "a changed secret cannot be used".to_owned()));
    }
    cell
}

/// Which secret is in use, for how long, and how long it lasts.
fn in_use(credential: &CredentialStatus, now: Second) -> String {
    let CredentialStatus { slot, since: Moment(since), or_longer, expires, warning: _ } = credential;
    let at_least = if *or_longer { "≥ " } else { "" };
    let slot = shown(slot, NAME_CHARACTERS_MAX).replace('_', " ");
    let mut text = format!("{slot} {at_least}{} old", length(now - *since));
    if let Some(Moment(end)) = expires {
        text.push_str(&match *end - now {
            left @ 1.. => format!(", ends in {}", length(left)),
            past => format!(", ended {} ago", length(-past)),
        });
    }
    text
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

fn credential_in_full(credential: &CredentialStatus, now: Second) -> String {
    match &credential.warning {
        Some(warning) => format!("{}; {}", in_use(credential, now), text(warning)),
        None => in_use(credential, now),
    }
}

/// The last day: bars, and coverage below them.
fn day(org: &OrgStatus, now: Second) -> Option<Graph> {
    if org.activity.is_none() && org.spans.is_empty() {
        return None;
    }
    let from = activity::since(now);
    let range = Range { from, until: from + activity::STEPS * activity::STEP_SECONDS };
    let coverage = graph::line_in_words(&org.spans, range);
    let events = org.activity.as_ref().map(graph::bars_in_words);
    Some(Graph {
        label: match &events {
            Some(events) => format!("{events}; of that time {coverage}"),
            None => format!("events not counted yet; of the last 24 hours {coverage}"),
        },
        total: org.activity.as_ref().map(|known| grouped(known.total())).unwrap_or_default(),
        bars: org.activity.as_ref().map(graph::bars).unwrap_or_default(),
        line: graph::line(&org.spans, range, 42.0, 2.0),
    })
}

/// Where the full six hours lie in the graph of the day, in its units, and what they are called.
fn hours(now: Second) -> Vec<(String, String)> {
    let from = activity::since(now);
    let first = (from.0.div_euclid(21_600) + 1) * 21_600;
    let day = activity::STEPS * activity::STEP_SECONDS;
    (0..4)
        .map(|index| Second(first + index * 21_600))
        .filter(|at| *at - from < day)
        .map(|at| {
            let x = (at - from) as f64 / day as f64 * graph::WIDTH;
            (format!("{x:.1}"), at.to_string().get(11..16).unwrap_or_default().to_owned())
        })
        .collect()
}

fn whole(org: &OrgStatus, now: Second) -> Option<Whole> {
    let Moment(start) = org.start?;
    let until = org.tip.map_or(now, |Moment(tip)| tip.max(start + 1));
    let range = Range { from: start, until };
    let missing: Vec<&crate::report::spans::SpanStatus> =
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

fn age(at: Moment, now: Second) -> Age {
    Age { at, text: length(now - at.0) }
}

fn error_shown(error: &ErrorStatus, now: Second) -> ErrorShown {
    ErrorShown { age: age(error.at, now), text: text(&error.text) }
}

/// What a service or a person wrote, made harmless to the eye: the template escapes it.
fn text(text: &str) -> String {
    shown(text, TEXT_CHARACTERS_MAX)
}

fn shown(text: &str, characters: usize) -> String {
    cut(&clean(&cut(text, characters)), characters)
}
