//! The status at a glance: one sentence over all orgs, how each of them stands, and what is the matter with it, trouble first. Pure.
//!
//! The status page and `status` both show what is decided here, so that they cannot say different things.

use std::cmp::Reverse;
use std::collections::BTreeMap;
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
    pub const ALL: [Level; 6] =
        [Level::Attention, Level::Behind, Level::Waiting, Level::Starting, Level::Fine, Level::Retired];

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
    // Of those in trouble, the one that is furthest back comes first. The others keep their places from look to look.
    orgs.sort_by(|a, b| {
        let back = |org: &OrgGlance<'_>| (org.level >= Level::Behind).then_some(org.delivered_until);
        (Reverse(a.level), back(a), &a.org.id).cmp(&(Reverse(b.level), back(b), &b.org.id))
    });
    let count = |level| orgs.iter().filter(|org| org.level == level).count() as u64;
    let all = orgs.len() as u64 - count(Level::Retired);
    let oldest =
        orgs.iter().filter(|org| org.level != Level::Retired).filter_map(|org| org.delivered_until).min();
    let organizations = counted(all, "organization");
    let until = |at: Second| format!("delivered until {} ago", length(now - at));
    let (level, headline) = if all == 0 {
        (Level::Starting, "No organization has started yet".to_owned())
    } else if orgs.iter().any(|org| org.org.source.reason.as_deref() == Some(STOPPED)) {
        let stands = oldest.map(|at| format!(", {}", until(at))).unwrap_or_default();
        (Level::Attention, format!("The daemon does not run: {organizations}{stands}"))
    } else if let n @ 1.. = count(Level::Attention) {
        let verb = if n == 1 { "needs" } else { "need" };
        (
            Level::Attention,
            format!("{} of {organizations} {verb} attention: {}", grouped(n), named(&orgs, Level::Attention)),
        )
    } else if let n @ 1.. = count(Level::Behind) {
        let verb = if n == 1 { "is" } else { "are" };
        (
            Level::Behind,
            format!("{} of {organizations} {verb} behind: {}", grouped(n), named(&orgs, Level::Behind)),
        )
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
            let others = recent + count(level) == all;
            asides.push(match (recent, others) {
                (1, true) => format!("The other one is {}.", until(at)),
                (1, false) => format!("One is {}.", until(at)),
                (_, true) => format!("The other {} are {}.", grouped(recent), until(at)),
                (_, false) => format!("{} are {}.", grouped(recent), until(at)),
            });
        }
    }
    if level == Level::Attention && count(Level::Behind) > 0 {
        asides.push(format!("{} behind.", are(count(Level::Behind))));
    }
    if let n @ 1.. = count(Level::Waiting) {
        asides.push(format!("{} for a while, which needs nobody.", waiting(n)));
    }
    if level != Level::Starting && count(Level::Starting) > 0 {
        asides.push(format!("{} just starting.", are(count(Level::Starting))));
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

fn are(n: u64) -> String {
    format!("{} {}", counted(n, "organization"), if n == 1 { "is" } else { "are" })
}

fn waiting(n: u64) -> String {
    format!("{} {}", counted(n, "organization"), if n == 1 { "waits" } else { "wait" })
}

/// A few by name, with what is the matter; of more than a few, what is the matter with how many.
fn named(orgs: &[OrgGlance<'_>], level: Level) -> String {
    let with: Vec<&OrgGlance<'_>> = orgs.iter().filter(|org| org.level == level).collect();
    let name = |org: &OrgGlance<'_>| cut(&clean(org.org.id.as_str()), NAME_CHARACTERS_MAX);
    if with.len() <= NAMED_MAX {
        let named = with.iter().map(|org| match &org.matter {
            Some(matter) => format!("{} ({matter})", name(org)),
            None => name(org),
        });
        return named.collect::<Vec<_>>().join(", ");
    }
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for kind in with.iter().flat_map(|org| troubles(org.org)) {
        *kinds.entry(kind).or_default() += 1;
    }
    let mut kinds: Vec<(String, u64)> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, count)| Reverse(*count));
    let (shown, more) = if kinds.is_empty() {
        (with.iter().map(|org| name(org)).collect::<Vec<_>>(), "and")
    } else {
        (kinds.iter().map(|(kind, count)| format!("{kind} ({})", grouped(*count))).collect(), "and")
    };
    let mut text = shown.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join(", ");
    if shown.len() > NAMED_MAX {
        text.push_str(&format!(", {more} {} more", grouped((shown.len() - NAMED_MAX) as u64)));
    }
    text
}

/// What of an org needs a person, without the figures that differ from org to org.
fn troubles(org: &OrgStatus) -> impl Iterator<Item = String> {
    let quarantine = org.lanes.iter().filter(|lane| lane.quarantined > 0);
    let quarantine = quarantine.map(|lane| format!("{}: rows in quarantine", lane.destination));
    paused(org).map(|part| format!("{} paused: {}", part.name, part.reason())).chain(quarantine)
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
        (_, until) if is_late(org, until, now) => Level::Behind,
        _ if state == State::Waiting => Level::Waiting,
        (_, None) => Level::Starting,
        _ => Level::Fine,
    }
}

/// Whether what is read or delivered until then is not recent.
pub fn is_late(org: &OrgStatus, until: Option<Second>, now: Second) -> bool {
    until.is_some_and(|at| now - at > org.source.late_after_seconds)
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
                .map(|lane| {
                    format!("{}: {} to deliver", lane.destination, counted(lane.backlog_events, "event"))
                })
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: Second = Second(1_795_256_100);

    fn moment(ago: i64) -> String {
        (NOW - ago).to_string()
    }

    fn lane(destination: &str, state: &str, until: Option<i64>) -> Value {
        json!({
            "destination": destination, "state": state, "reason": (state != "ok").then_some("journal_full"),
            "since": moment(600), "remedy": null, "checkpoint": 1, "delivered_until": until.map(moment),
            "backlog_chunks": 0, "backlog_events": 0, "quarantined": 0
        })
    }

    fn org(id: &str, source: &str, lanes: &[Value]) -> Value {
        json!({
            "id": id, "org": id, "state": "ok", "start": null, "cursor": moment(30), "tip": null,
            "coverage": {"holes": 0, "damaged": 0, "unsettled": 0},
            "source": {"state": source, "reason": (source != "ok").then_some("throttled"), "since": moment(60), "remedy": null},
            "lanes": lanes
        })
    }

    fn with(mut org: Value, pointer: &str, value: Value) -> Value {
        *org.pointer_mut(pointer).expect("it is there") = value;
        org
    }

    fn status(orgs: &[Value]) -> Status {
        let config = json!({"ok": true, "since": null, "error": null});
        serde_json::from_value(json!({"version": "0", "orgs": orgs, "config": config})).unwrap()
    }

    fn said(orgs: &[Value]) -> (Level, String, String) {
        let status = status(orgs);
        let glance = glance(&status, NOW);
        (glance.level, glance.headline, glance.asides.join(" "))
    }

    fn sentence(orgs: &[Value]) -> String {
        said(orgs).1
    }

    #[test]
    fn when_nothing_is_wrong_the_sentence_says_how_old_the_oldest_is() {
        let orgs = [
            org("a", "ok", &[lane("sentinel", "ok", Some(130)), lane("s3", "ok", Some(40))]),
            org("b", "ok", &[lane("s3", "ok", Some(30))]),
        ];
        assert_eq!(
            said(&orgs),
            (Level::Fine, "All 2 organizations delivered until 2m 10s ago".into(), String::new())
        );
        assert_eq!(sentence(&orgs[1..]), "1 organization delivered until 30s ago");
        assert_eq!(sentence(&[]), "No organization has started yet");
    }

    #[test]
    fn a_pause_or_quarantine_needs_a_person_and_comes_before_everything_else() {
        let paused = org("p", "ok", &[lane("s3", "paused", Some(90_000))]);
        let rows =
            with(org("q", "ok", &[lane("sentinel", "ok", Some(10))]), "/lanes/0/quarantined", json!(3));
        let behind = org("r", "ok", &[lane("s3", "ok", Some(7_200))]);
        let fine = org("s", "ok", &[lane("s3", "ok", Some(20))]);
        let (level, headline, asides) = said(&[fine.clone(), behind, rows, paused.clone()]);
        assert_eq!(level, Level::Attention);
        assert_eq!(
            headline,
            "2 of 4 organizations need attention: p (s3 paused: journal full), q (sentinel: 3 rows in quarantine)"
        );
        assert_eq!(asides, "One is delivered until 20s ago. 1 organization is behind.");
        assert_eq!(said(&[fine, paused]).2, "The other one is delivered until 20s ago.");
    }

    #[test]
    fn what_is_late_without_a_pause_is_behind_and_says_why() {
        let late = org("late", "ok", &[lane("s3", "ok", Some(1_801))]);
        assert_eq!(
            sentence(&[org("x", "ok", &[lane("s3", "ok", Some(1_800))])]),
            "1 organization delivered until 30m 0s ago"
        );
        assert_eq!(
            sentence(std::slice::from_ref(&late)),
            "1 of 1 organization is behind: late (read until 30s ago)"
        );
        let backlog = with(late.clone(), "/lanes/0/backlog_events", json!(98_304));
        assert_eq!(
            sentence(&[backlog]),
            "1 of 1 organization is behind: late (s3: 98,304 events to deliver)"
        );
        let hole = with(late.clone(), "/coverage/holes", json!(7_200));
        assert_eq!(
            sentence(&[hole]),
            "1 of 1 organization is behind: late (catching up, 2h 0m not read yet)"
        );
        let hourly = with(
            late,
            "/source",
            json!({
                "state": "ok", "reason": null, "since": null, "remedy": null, "late_after_seconds": 10_800
            }),
        );
        assert_eq!(said(&[hourly]).0, Level::Fine, "it is read every hour");
    }

    #[test]
    fn a_wait_needs_nobody_and_what_has_said_nothing_is_starting() {
        let waits = org("w", "waiting", &[lane("s3", "ok", Some(100))]);
        let starting = org("n", "ok", &[lane("s3", "ok", None)]);
        assert_eq!(
            said(std::slice::from_ref(&waits)),
            (
                Level::Fine,
                "1 organization delivered until 1m 40s ago".into(),
                "1 organization waits for a while, which needs nobody.".into()
            )
        );
        assert_eq!(said(&[waits, starting]).1, "Starting: 1 of 2 organizations has said nothing so far");
    }

    #[test]
    fn retired_orgs_are_last_and_not_counted_and_damaged_seconds_are_always_said() {
        let retired = with(org("aa", "ok", &[lane("s3", "ok", Some(900_000))]), "/state", json!("retired"));
        let damaged = with(org("b", "ok", &[lane("s3", "ok", Some(50))]), "/coverage/damaged", json!(2));
        let status = status(&[retired, damaged]);
        let glance = glance(&status, NOW);
        assert_eq!(glance.headline, "1 organization delivered until 50s ago");
        assert_eq!(glance.asides, ["1 organization has seconds too dense to be read whole."]);
        let order: Vec<&str> = glance.orgs.iter().map(|org| org.org.id.as_str()).collect();
        assert_eq!(order, ["b", "aa"]);
    }

    #[test]
    fn a_refused_configuration_and_a_daemon_that_does_not_run_are_said() {
        let mut refused = status(&[org("a", "ok", &[lane("s3", "ok", Some(50))])]);
        (refused.config.ok, refused.config.error) = (false, Some("orgs/a.toml:1".into()));
        let seen = glance(&refused, NOW);
        assert_eq!(
            (seen.level, seen.headline.as_str()),
            (Level::Attention, "1 organization delivered until 50s ago")
        );
        assert_eq!(
            seen.asides,
            ["The changed configuration was refused, and the one before stays in force."]
        );

        let stopped =
            with(org("a", "waiting", &[lane("s3", "waiting", Some(50))]), "/source/reason", json!(STOPPED));
        assert_eq!(sentence(&[stopped]), "The daemon does not run: 1 organization, delivered until 50s ago");
    }

    #[test]
    fn of_many_it_is_said_what_is_the_matter_with_how_many() {
        let many: Vec<Value> = (0..1_000)
            .map(|number| org(&format!("org-{number}"), "paused", &[lane("s3", "ok", Some(number))]))
            .collect();
        assert_eq!(
            sentence(&many),
            "1,000 of 1,000 organizations need attention: source paused: throttled (1,000)"
        );
        let behind: Vec<Value> = (0..5)
            .map(|number| org(&format!("org-{number}"), "ok", &[lane("s3", "ok", Some(9_000 - number))]))
            .collect();
        assert_eq!(sentence(&behind), "5 of 5 organizations are behind: org-0, org-1, org-2, and 2 more");
    }
}
