//! The list of orgs.

use askama::Template;

use super::cell::{Cell, lane_cell, source_cell};
use super::filter::{Asked, Filter};
use super::graph::{self, Graph};
use super::problem::{Problem, problems};
use super::{Frame, NAME_CHARACTERS_MAX, Page, shown, text, word};
use crate::clock::Second;
use crate::destination::DestinationName;
use crate::report::glance::{Glance, Level, OrgGlance, glance};
use crate::report::status::Status;
use crate::report::words::{counted, grouped};

/// Orgs on one page.
const ORGS_MAX: usize = 100;

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

/// The list of orgs.
pub(in crate::admin) fn orgs(status: &Status, now: Second, asked: Asked) -> Page {
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
        graph: (glance.level != Level::Retired).then(|| graph::day(org, now)).flatten(),
    }
}
