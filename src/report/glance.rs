//! The status at a glance: one sentence over all orgs, how each of them stands, and what is the matter with it, trouble first. Pure.
//!
//! The status page and `status` both show what is decided here, so that they cannot say different things.

use std::cmp::Reverse;
use std::fmt;

use super::status::{LaneStatus, Moment, OrgStatus, SourceStatus, State, Status};
use super::words::{clean, counted, cut, grouped, length};
use crate::clock::Second;

/// The reason of an org that nobody runs: the daemon is stopped.
pub const STOPPED: &str = "stopped";
/// Orgs named in the sentence.
const NAMED_MAX: usize = 3;
/// Most characters of a name in the sentence.
const NAME_CHARACTERS_MAX: usize = 40;

/// How an org stands, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// No longer configured.
    Retired,
    Fine,
    /// Nothing has been read or delivered so far.
    Starting,
    /// Something waits, and needs nobody; what is delivered is recent.
    Waiting,
    /// What is delivered is not recent; the daemon works on it by itself.
    Behind,
    /// A person must act.
    Attention,
}

impl Level {
    pub const ALL: [Level; 6] = [
        Level::Attention,
        Level::Behind,
        Level::Waiting,
        Level::Starting,
        Level::Fine,
        Level::Retired,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Level::Attention => "attention",
            Level::Behind => "behind",
            Level::Waiting => "waiting",
            Level::Starting => "starting",
            Level::Fine => "fine",
            Level::Retired => "retired",
        }
    }
}

/// One org, and how it stands.
#[derive(Clone, Debug)]
pub struct OrgGlance<'a> {
    pub org: &'a OrgStatus,
    pub level: Level,
    /// Everything before is accepted by every destination.
    pub delivered_until: Option<Second>,
    /// What is the matter, in a few words.
    pub matter: Option<String>,
}

/// All of them, trouble first, and the sentence.
#[derive(Clone, Debug)]
pub struct Glance<'a> {
    pub level: Level,
    pub headline: String,
    /// What else is to be known, in sentences.
    pub asides: Vec<String>,
    pub orgs: Vec<OrgGlance<'a>>,
}

pub fn glance(status: &Status, now: Second) -> Glance<'_> {
    let mut orgs: Vec<OrgGlance<'_>> = status.orgs.iter().map(|org| org_glance(org, now)).collect();
    // Of equals, the one that is furthest back; one that has said nothing so far comes first.
    orgs.sort_by(|a, b| {
        (Reverse(a.level), a.delivered_until, &a.org.id).cmp(&(Reverse(b.level), b.delivered_until, &b.org.id))
    });
    let count = |level| orgs.iter().filter(|org| org.level == level).count() as u64;
    let all = orgs.len() as u64 - count(Level::Retired);
    let oldest = orgs.iter().filter(|org| org.level != Level::Retired).filter_map(|org| org.delivered_until).min();
    let organizations = counted(all, "organization");
    let until = |at: Second| format!("delivered until {} ago", length(now - at));
    let (level, headline) = if all == 0 {
        (Level::Starting, "No organization has started yet".to_owned())
    } else if orgs.iter().any(|org| org.org.source.reason.as_deref() == Some(STOPPED)) {
        let stands = oldest.map(|at| format!(", {}", until(at))).unwrap_or_default();
        (Level::Attention, format!("The daemon does not run: {organizations}{stands}"))
    } else if let n @ 1.. = count(Level::Attention) {
        let verb = if n == 1 { "needs" } else { "need" };
        (Level::Attention, format!("{} of {organizations} {verb} attention: {}", grouped(n), named(&orgs, Level::Attention)))
    } else if let n @ 1.. = count(Level::Behind) {
        let verb = if n == 1 { "is" } else { "are" };
        (Level::Behind, format!("{} of {organizations} {verb} behind: {}", grouped(n), named(&orgs, Level::Behind)))
    } else if let n @ 1.. = count(Level::Starting) {
        let verb = if n == 1 { "has" } else { "have" };
        (Level::Starting, format!("Starting: {} of {organizations} {verb} said nothing so far", grouped(n)))
    } else {
        let who = if all == 1 { organizations } else { format!("All {organizations}") };
        (Level::Fine, format!("{who} {}", oldest.map_or_else(|| "not delivered yet".to_owned(), until)))
    };
    let mut asides = Vec::new();
    let refused = !status.config.ok && status.config.error.is_some();
    if refused {
        asides.push("The changed configuration was refused, and the one before stays in force.".to_owned());
    }
    let recent = count(Level::Fine) + count(Level::Waiting);
    if matches!(level, Level::Attention | Level::Behind) && recent > 0 && recent < all {
        let standing = |org: &&OrgGlance<'_>| matches!(org.level, Level::Fine | Level::Waiting);
        if let Some(at) = orgs.iter().filter(standing).filter_map(|org| org.delivered_until).min() {
            let verb = if recent == 1 { "other one is" } else { "others are" };
            asides.push(match recent {
                1 => format!("The {verb} {}.", until(at)),
                _ if recent + count(level) == all => format!("The {} {verb} {}.", grouped(recent), until(at)),
                _ => format!("{} are {}.", grouped(recent), until(at)),
            });
        }
    }
    if level == Level::Attention && count(Level::Behind) > 0 {
        asides.push(format!("{} behind.", counted(count(Level::Behind), "organization")));
    }
    if let n @ 1.. = count(Level::Waiting) {
        asides.push(format!("{} for a while, which needs nobody.", waiting(n)));
    }
    if level != Level::Starting && count(Level::Starting) > 0 {
        asides.push(format!("{} just starting.", counted(count(Level::Starting), "organization")));
    }
    if let n @ 1.. = status.orgs.iter().filter(|org| org.coverage.damaged > 0).count() as u64 {
        asides.push(format!(
            "{} {} seconds too dense to be read whole.",
            counted(n, "organization"),
            if n == 1 { "has" } else { "have" }
        ));
    }
    Glance { level: if refused { Level::Attention } else { level }, headline, asides, orgs }
}

fn waiting(n: u64) -> String {
    format!("{} {}", counted(n, "organization"), if n == 1 { "waits" } else { "wait" })
}

/// The first of them by name, with what is the matter.
fn named(orgs: &[OrgGlance<'_>], level: Level) -> String {
    let with: Vec<&OrgGlance<'_>> = orgs.iter().filter(|org| org.level == level).collect();
    let mut names: Vec<String> = with
        .iter()
        .take(NAMED_MAX)
        .map(|org| {
            let id = cut(&clean(org.org.id.as_str()), NAME_CHARACTERS_MAX);
            match &org.matter {
                Some(matter) => format!("{id} ({matter})"),
                None => id,
            }
        })
        .collect();
    if with.len() > NAMED_MAX {
        names.push(format!("and {} more", grouped((with.len() - NAMED_MAX) as u64)));
    }
    names.join(", ")
}

pub fn org_glance(org: &OrgStatus, now: Second) -> OrgGlance<'_> {
    let delivered_until = delivered_until(org);
    let level = level(org, delivered_until, now);
    OrgGlance { org, level, delivered_until, matter: matter(org, level, now) }
}

/// What every lane has delivered; none while one of them has said nothing.
fn delivered_until(org: &OrgStatus) -> Option<Second> {
    let lanes = org.lanes.iter().map(|lane| lane.delivered_until).min()?;
    lanes.map(|Moment(at)| at)
}

fn level(org: &OrgStatus, delivered_until: Option<Second>, now: Second) -> Level {
    let state = org.lanes.iter().map(|lane| lane.state).fold(org.source.state, State::max);
    let quarantined = org.lanes.iter().any(|lane| lane.quarantined > 0);
    match (org.state, delivered_until) {
        (State::Retired, _) => Level::Retired,
        _ if state == State::Paused || quarantined => Level::Attention,
        (_, Some(at)) if now - at > org.source.late_after_seconds => Level::Behind,
        _ if state == State::Waiting => Level::Waiting,
        (_, None) => Level::Starting,
        _ => Level::Fine,
    }
}

fn matter(org: &OrgStatus, level: Level, now: Second) -> Option<String> {
    let parts: Vec<String> = match level {
        Level::Attention => {
            let paused = paused(org).map(|part| format!("{} paused: {}", part.name, part.reason()));
            let rows = |lane: &LaneStatus| {
                format!("{}: {} in quarantine", lane.destination, counted(lane.quarantined, "row"))
            };
            paused.chain(org.lanes.iter().filter(|lane| lane.quarantined > 0).map(rows)).collect()
        }
        Level::Behind if org.coverage.holes > 0 => {
            vec![format!("catching up, {} not read yet", length(org.coverage.holes))]
        }
        Level::Behind => {
            let left = org.lanes.iter().filter(|lane| lane.backlog_events > 0);
            let mut left: Vec<String> = left
                .map(|lane| format!("{}: {} to deliver", lane.destination, counted(lane.backlog_events, "event")))
                .collect();
            if left.is_empty() {
                let until = org.cursor.map(|Moment(at)| format!("read until {} ago", length(now - at)));
                left.extend(until);
            }
            left
        }
        Level::Waiting => {
            let waits = parts(org).filter(|part| part.state == State::Waiting);
            waits.map(|part| format!("{} waits: {}", part.name, part.reason())).collect()
        }
        Level::Starting | Level::Fine | Level::Retired => Vec::new(),
    };
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn paused(org: &OrgStatus) -> impl Iterator<Item = Part<'_>> {
    parts(org).filter(|part| part.state == State::Paused)
}

/// A source or a lane, as far as they are alike.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    pub name: &'static str,
    pub state: State,
    pub reason: Option<&'a str>,
    pub since: Option<Moment>,
    pub remedy: Option<&'a str>,
    pub last_error: Option<&'a super::status::ErrorStatus>,
}

impl Part<'_> {
    /// In words.
    pub fn reason(&self) -> Reason<'_> {
        Reason(self.reason.unwrap_or_default())
    }
}

/// A reason in words: they come from this daemon, or from another version of it.
pub struct Reason<'a>(&'a str);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&cut(&clean(self.0), NAME_CHARACTERS_MAX).replace('_', " "))
    }
}

/// The source, then the lanes.
pub fn parts(org: &OrgStatus) -> impl Iterator<Item = Part<'_>> {
    std::iter::once(source_part(&org.source)).chain(org.lanes.iter().map(lane_part))
}

pub fn source_part(source: &SourceStatus) -> Part<'_> {
    Part {
        name: crate::metrics::SOURCE,
        state: source.state,
        reason: source.reason.as_deref(),
        since: source.since,
        remedy: source.remedy.as_deref(),
        last_error: source.last_error.as_ref(),
    }
}

pub fn lane_part(lane: &LaneStatus) -> Part<'_> {
    Part {
        name: lane.destination.as_str(),
        state: lane.state,
        reason: lane.reason.as_deref(),
        since: lane.since,
        remedy: lane.remedy.as_deref(),
        last_error: lane.last_error.as_ref(),
    }
}
