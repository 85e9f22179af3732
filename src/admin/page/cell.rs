//! One part of an org in a few lines: how far it is, what is not as usual, and how old its secret is.

use super::{Age, NAME_CHARACTERS_MAX, age, shown, text};
use crate::clock::Second;
use crate::report::glance::{Level, Part, is_late, lane_part, source_part};
use crate::report::status::{CredentialStatus, LaneStatus, Moment, OrgStatus, State};
use crate::report::words::{counted, length};

/// A credential that ends this soon is worth a look.
const ENDS_SOON_SECONDS: i64 = 14 * 86_400;

/// Most characters of an error in a cell.
const NOTE_CHARACTERS_MAX: usize = 120;

pub(super) struct Cell {
    pub(super) column: &'static str,
    pub(super) state: &'static str,
    pub(super) is_ok: bool,
    pub(super) until: Option<Age>,
    /// Why it waits or is paused.
    pub(super) why: Option<String>,
    pub(super) notes: Vec<String>,
    /// Notes that somebody has to see.
    pub(super) warnings: Vec<String>,
}

pub(super) fn source_cell(org: &OrgStatus, now: Second) -> Cell {
    let mut cell = cell(org, &source_part(&org.source), org.cursor, org.source.token.as_ref(), now);
    if org.coverage.holes > 0 {
        cell.notes.insert(0, format!("{} not read yet", length(org.coverage.holes)));
    }
    if org.coverage.damaged > 0 {
        cell.warnings.push(format!("{} too dense", length(org.coverage.damaged)));
    }
    cell
}

pub(super) fn lane_cell(org: &OrgStatus, lane: &LaneStatus, now: Second) -> Cell {
    let mut cell = cell(org, &lane_part(lane), lane.delivered_until, lane.credential.as_ref(), now);
    if lane.backlog_events > 0 {
        cell.notes.insert(0, format!("{} to deliver", counted(lane.backlog_events, "event")));
    }
    if lane.quarantined > 0 {
        cell.warnings.push(format!("{} in quarantine", counted(lane.quarantined, "row")));
    }
    cell
}

pub(super) fn cell(
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
    // What a pause is about stands above the list.
    if let Some(error) = part.last_error.filter(|_| part.state == State::Waiting) {
        cell.notes.push(shown(&error.text, NOTE_CHARACTERS_MAX));
    }
    if let Some(credential) = credential {
        let text = in_use(credential, now);
        if ends_soon(credential, now) {
            cell.warnings.push(text)
        } else {
            cell.notes.push(text)
        }
        cell.warnings
            .extend(credential.warning.as_deref().map(|_| "a changed secret cannot be used".to_owned()));
    }
    cell
}

/// One that was exchanged and lives less than that anyway is exchanged by a machine.
pub(super) fn ends_soon(credential: &CredentialStatus, now: Second) -> bool {
    let Some(Moment(end)) = credential.expires else { return false };
    let lives_long = credential.or_longer || end - credential.since.0 >= ENDS_SOON_SECONDS;
    end <= now || (lives_long && end - now < ENDS_SOON_SECONDS)
}

/// Which secret is in use, for how long, and how long it lasts.
pub(super) fn in_use(credential: &CredentialStatus, now: Second) -> String {
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

pub(super) fn credential_in_full(credential: &CredentialStatus, now: Second) -> String {
    match &credential.warning {
        Some(warning) => format!("{}; {}", in_use(credential, now), text(warning)),
        None => in_use(credential, now),
    }
}
