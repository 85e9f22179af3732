//! The status as people read it: trouble first, one line a part, and what to do about it below.

use crate::clock::Second;
use crate::report::glance::{Part, glance, lane_part, source_part};
use crate::report::status::{
    CoverageStatus, CredentialStatus, LaneStatus, Moment, OrgStatus, SourceStatus, State, Status,
};
use crate::report::words::{clean, counted as number_of, length};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colours {
    On,
    Off,
}

/// `from` says in words where the status comes from.
pub(super) fn table(status: &Status, from: &str, now: Second, colours: Colours) -> String {
    let mut text = format!("pulumi-audit-forwarder {} at {now}: {}\n", clean(&status.version), clean(from));
    if !status.config.ok {
        let error = status.config.error.as_deref().unwrap_or("not loaded");
        let since =
            status.config.since.map(|Moment(at)| format!(" for {}", length(now - at))).unwrap_or_default();
        text.push_str(&format!(
            "configuration refused{since}, the one before stays in force: {}\n",
            clean(error)
        ));
    }
    if !status.config.needs_restart.is_empty() {
        let keys = clean(&status.config.needs_restart.join(", "));
        text.push_str(&format!("changed, and in force from the next start of the daemon on: {keys}\n"));
    }
    let glance = glance(status, now);
    text.push_str(&format!("{}\n", glance.headline));
    if !glance.asides.is_empty() {
        text.push_str(&format!("{}\n", glance.asides.join(" ")));
    }
    text.push_str(&format!("{}\n\n", counted(status)));

    let mut lines = vec![Line::Row(HEADINGS.map(str::to_owned), None)];
    for org in &glance.orgs {
        add_org(&mut lines, org.org, now);
    }
    add_lines(&mut text, &lines, colours);
    text
}

const HEADINGS: [&str; 7] = ["ORG", "STATE", "UNTIL", "LAG", "CHUNKS", "EVENTS", "QUARANTINED"];
/// Numbers are read from the right.
const FIRST_NUMBER: usize = 4;

enum Line {
    /// Cells of the columns; the state decides the colour of the second one.
    Row([String; 7], Option<State>),
    /// Across the columns.
    Note(String),
}

fn add_org(lines: &mut Vec<Line>, org: &OrgStatus, now: Second) {
    let name = if org.org.is_empty() { String::new() } else { clean(&org.org) };
    let state = org.state;
    lines.push(Line::Row(
        [
            clean(org.id.as_str()),
            state.as_str().into(),
            name,
            String::new(),
            String::new(),
            String::new(),
            String::new(),
        ],
        Some(state),
    ));
    add_source(lines, org, &org.source, now);
    for lane in &org.lanes {
        add_lane(lines, lane, now);
    }
}

fn add_source(lines: &mut Vec<Line>, org: &OrgStatus, source: &SourceStatus, now: Second) {
    lines.push(Line::Row(
        [
            "  source".into(),
            source.state.as_str().into(),
            moment(org.cursor),
            lag(org.cursor, now),
            String::new(),
            String::new(),
            String::new(),
        ],
        Some(source.state),
    ));
    if org.tip != org.cursor {
        lines.push(Line::Note(format!("the newest window was read up to {}", moment(org.tip))));
    }
    lines.extend(coverage(&org.coverage).map(Line::Note));
    if let Some(activity) = &org.activity {
        let events = number_of(activity.total(), "new event");
        lines.push(Line::Note(format!("{events} in the last 24 hours")));
    }
    add_credential(lines, source.token.as_ref(), now);
    why(lines, &source_part(source), now);
}

fn add_lane(lines: &mut Vec<Line>, lane: &LaneStatus, now: Second) {
    lines.push(Line::Row(
        [
            format!("  {}", lane.destination),
            lane.state.as_str().into(),
            moment(lane.delivered_until),
            lag(lane.delivered_until, now),
            lane.backlog_chunks.to_string(),
            lane.backlog_events.to_string(),
            lane.quarantined.to_string(),
        ],
        Some(lane.state),
    ));
    if let Some(identity) = &lane.identity {
        lines.push(Line::Note(format!("as {}", clean(identity))));
    }
    add_credential(lines, lane.credential.as_ref(), now);
    why(lines, &lane_part(lane), now);
}

/// Which of two configured secrets is in use.
fn add_credential(lines: &mut Vec<Line>, credential: Option<&CredentialStatus>, now: Second) {
    let Some(CredentialStatus { slot, since: Moment(since), or_longer, expires, warning }) = credential
    else {
        return;
    };
    let longer = if *or_longer { " or longer" } else { "" };
    let mut text = format!("{} in use for {}{longer}", clean(slot), length(now - *since));
    if let Some(Moment(end)) = expires {
        text.push_str(&match end.0 - now.0 {
            left @ 1.. => format!(", ends in {}", length(left)),
            past => format!(", ended {} ago", length(-past)),
        });
    }
    lines.push(Line::Note(text));
    lines.extend(warning.as_deref().map(|warning| Line::Note(clean(warning))));
}

/// What of the time collected so far is not as it should be in the end.
fn coverage(coverage: &CoverageStatus) -> Option<String> {
    let parts: Vec<String> = [
        (coverage.holes, "not read yet"),
        (coverage.damaged, "too dense to be read whole"),
        (coverage.unsettled, "due another look"),
    ]
    .into_iter()
    .filter(|(seconds, _)| *seconds > 0)
    .map(|(seconds, what)| format!("{} {what}", length(seconds)))
    .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Why a part waits or is paused, for how long, what went wrong, and what to do about it.
fn why(lines: &mut Vec<Line>, part: &Part<'_>, now: Second) {
    let stands = matches!(part.state, State::Ok | State::Retired);
    if !stands {
        let mut text = clean(part.reason.unwrap_or_default());
        if let Some(Moment(since)) = part.since {
            text.push_str(&format!(" for {}", length(now - since)));
        }
        if let Some(remedy) = part.remedy {
            text.push_str(&format!(": {}", clean(remedy)));
        }
        lines.push(Line::Note(text));
    }
    if let Some(error) = part.last_error {
        let Moment(at) = error.at;
        lines.push(Line::Note(format!("last error {} ago: {}", length(now - at), clean(&error.text))));
    }
}

fn add_lines(text: &mut String, lines: &[Line], colours: Colours) {
    let mut widths = [0; 7];
    for line in lines {
        if let Line::Row(cells, _) = line {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    for line in lines {
        match line {
            Line::Row(cells, state) => {
                // An org stands apart from the one before.
                if state.is_some() && !cells[0].starts_with(' ') {
                    text.push('\n');
                }
                text.push_str(&row(cells, *state, &widths, colours));
            }
            Line::Note(note) => text.push_str(&format!("    {note}")),
        }
        text.push('\n');
    }
}

fn row(cells: &[String; 7], state: Option<State>, widths: &[usize; 7], colours: Colours) -> String {
    let mut line = String::new();
    for (index, (cell, width)) in cells.iter().zip(widths).enumerate() {
        let padding = " ".repeat(width - cell.chars().count().min(*width));
        let cell = match (index, state, colours) {
            (1, Some(state), Colours::On) => coloured(cell, state),
            _ => cell.clone(),
        };
        let gap = if index == 0 { "" } else { "  " };
        line.push_str(gap);
        line.push_str(&if index < FIRST_NUMBER { cell + &padding } else { padding + &cell });
    }
    line.truncate(line.trim_end().len());
    line
}

fn coloured(text: &str, state: State) -> String {
    let colour = match state {
        State::Ok => 32,
        State::Waiting => 33,
        State::Paused => 31,
        State::Retired => 2,
    };
    format!("\u{1b}[{colour}m{text}\u{1b}[0m")
}

/// How many orgs are in which state, the worst first.
fn counted(status: &Status) -> String {
    let parts: Vec<String> = [State::Paused, State::Waiting, State::Ok, State::Retired]
        .into_iter()
        .map(|state| (state, status.orgs.iter().filter(|org| org.state == state).count()))
        .filter(|(_, count)| *count > 0)
        .map(|(state, count)| format!("{count} {}", state.as_str()))
        .collect();
    if parts.is_empty() { "no orgs yet".into() } else { format!("orgs: {}", parts.join(", ")) }
}

fn moment(at: Option<Moment>) -> String {
    at.map_or_else(|| "not known yet".into(), |at| at.to_string())
}

fn lag(at: Option<Moment>, now: Second) -> String {
    at.map(|Moment(at)| length(now - at)).unwrap_or_default()
}
