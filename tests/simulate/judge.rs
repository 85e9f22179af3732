//! What must hold of every history, decided from the services' ledgers and the archives alone, by code that shares nothing with
//! the forwarder ([`crate::world::truth`]). Only what it says of itself is taken from it, to be held against what was.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pulumi_audit_forwarder::report::status::{OrgStatus, State};

use pulumi_audit_forwarder::journal::Journal;

use crate::play::{Play, Tally};
use crate::simulation::{BEGIN, HOUR};
use crate::wire::{AZURE, PULUMI, S3};
use crate::world::ingestion::rows::Row;
use crate::world::setup::rule_of;
use crate::world::truth::{Expect, Report, Source, sends, table};

/// Requests a second that an org may make by default.
const REQUESTS_PER_SECOND: u64 = 2;

/// So many refusals of one kind in a row, within this time, are no backoff: eight of those that double take minutes.
const HASTE: usize = 8;
const HASTE_SECONDS: Duration = Duration::from_secs(5);
/// How far before the cursor it is looked whether all is journaled.
const JOURNALED_SECONDS: i64 = 3 * HOUR;

/// Who is ill on purpose; without a name, all of that kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ill {
    Source(String),
    Azure(Option<String>),
    Store(Option<String>),
}

impl Ill {
    fn is(&self, org: &str, destination: &str) -> bool {
        let named = |ill: &Option<String>| ill.as_deref().is_none_or(|ill| ill == org);
        match self {
            Ill::Source(ill) => ill == org,
            Ill::Azure(ill) => destination == "sentinel" && named(ill),
            Ill::Store(ill) => destination == "s3" && named(ill),
        }
    }
}

/// An org's events, and the org at each of its destinations.
fn reports(play: &Play, org: &str, source: &Source, expect: &Expect) -> Vec<Report> {
    let setup = &play.simulation.setups[org];
    let mut reports = Vec::new();
    if setup.s3 {
        reports.push(play.simulation.bucket().check("s3", org, source, expect));
    }
    if setup.file {
        reports.push(play.simulation.files(org).check("file", org, source, expect));
    }
    if setup.sentinel {
        let rows = play.simulation.azure.rows_of_rule(&rule_of(org));
        reports.push(table::check(&rows, org, source, play.now(), expect));
    }
    reports
}

/// Those that became visible when they happened: any head sweep finds them.
fn in_time(mut source: Source) -> Source {
    let late = |event: &crate::world::pulumi::store::TruthEvent| event.visible_at > event.timestamp;
    source.events.iter_mut().filter(|event| late(event)).for_each(|event| event.visible_at = i64::MAX);
    source
}

fn damaged(play: &Play, org: &str) -> BTreeSet<i64> {
    play.simulation.damaged_now(org)
}

/// What is missing of what was visible in time at a moment, per org and destination.
fn behind(play: &Play, as_of: i64) -> BTreeMap<(String, String), Vec<String>> {
    let mut behind = BTreeMap::new();
    for org in play.orgs() {
        let source = in_time(play.simulation.truth(&org));
        let expect =
            Expect { as_of, since: play.since[&org], damaged: damaged(play, &org), ..Expect::default() };
        for report in reports(play, &org, &source, &expect) {
            behind.insert((org.clone(), report.destination.clone()), report.lost);
        }
    }
    behind
}

/// Who has everything that was visible two poll intervals ago. Time must have passed since the last fault.
pub(crate) fn up_to_date(play: &Play) -> BTreeSet<(String, String)> {
    let as_of = play.now() - 2 * play.history.poll;
    behind(play, as_of).into_iter().filter(|(_, lost)| lost.is_empty()).map(|(who, _)| who).collect()
}

/// While one is ill, everybody else who was well is at most two poll intervals behind; and who is ill says so.
pub(crate) fn outage(play: &mut Play, ill: &Ill, well: &BTreeSet<(String, String)>, began: Duration) {
    let settle = play.history.settle;
    let as_of = play.now() - 2 * play.history.poll - settle - 60;
    let mut objections = Vec::new();
    for ((org, destination), lost) in behind(play, as_of) {
        if !lost.is_empty()
            && well.contains(&(org.clone(), destination.clone()))
            && !ill.is(&org, &destination)
        {
            objections.push(format!(
                "I4: {org} at {destination} is more than two poll intervals behind while {ill:?} is ill: {}",
                lost[0]
            ));
        }
    }
    let poll = Duration::from_secs(play.history.poll as u64);
    let until = play.simulation.elapsed().saturating_sub(poll + Duration::from_secs(60));
    let tried = play.simulation.wire.sent_between(began, until);
    for status in play.simulation.statuses() {
        let org = status.id.as_str().to_owned();
        let about =
            |host: &str, part: &str| tried.iter().any(|sent| sent.host == host && sent.path.contains(part));
        let is_ill = matches!(ill, Ill::Source(ill) if *ill == org);
        if is_ill && about(PULUMI, &format!("/orgs/{org}/")) && status.source.state == State::Ok {
            objections
                .push(format!("I8: the source of {org} has been ill since {began:?} and is said to be well"));
        }
        for lane in &status.lanes {
            let destination = lane.destination.to_string();
            let (host, part) = match destination.as_str() {
                "sentinel" => (AZURE, rule_of(&org)),
                "s3" => (S3, format!("org={org}/")),
                _ => continue,
            };
            let is_ill = !matches!(ill, Ill::Source(_)) && ill.is(&org, &destination);
            if is_ill && about(host, &part) && lane.state == State::Ok {
                objections.push(format!(
                    "I8: {org} at {destination} has been ill since {began:?} and is said to be well"
                ));
            }
        }
    }
    play.objections.append(&mut objections);
}

/// What another forwarder over the same archives came to: nowhere.
pub(crate) fn second(play: &mut Play, statuses: &[OrgStatus]) {
    for status in statuses {
        for lane in &status.lanes {
            if lane.checkpoint.is_some_and(|checkpoint| checkpoint > 0) {
                play.objections.push(format!(
                    "M2: a second forwarder went past chunk 0 of {} at {}, where a claim of the first stands: {lane:?}",
                    status.id, lane.destination
                ));
            }
            let fenced = lane.state == State::Paused && lane.reason.as_deref() == Some("fenced");
            if lane.backlog_chunks > 0 && !fenced && lane.state == State::Ok {
                play.objections
                    .push(format!("M2: a second forwarder met a foreign claim and says nothing: {lane:?}"));
            }
        }
    }
}

/// At every moment: all that had happened before the cursor when it was read is in the journal. A minute that has an event has a page.
pub(crate) async fn journaled(play: &mut Play) {
    // Time that was covered before it was is read by later looks.
    if play.times_were_wrong {
        return;
    }
    for org in play.orgs() {
        let state = play.simulation.state(&org).await;
        let Some(start) = state.start else { continue };
        let cursor = state.coverage.cursor(start).0;
        let first = start.0.max(play.since[&org]).max(cursor - JOURNALED_SECONDS);
        let first = state.tally_floor.map_or(first, |floor| first.max(floor.0 + 60));
        let (from, until) = (first.div_euclid(60), cursor.div_euclid(60) + 1);
        let id = crate::simulation::id(&org);
        let pages = play.simulation.journal.tally(&id, from, until).await.expect("memory does not fail");
        let minutes: BTreeSet<i64> = pages.iter().map(|page| page.minute).collect();
        let missing = play.simulation.org(&org).moments().into_iter().find(|(at, visible_at)| {
            (first..cursor).contains(at) && visible_at <= at && !minutes.contains(&at.div_euclid(60))
        });
        if let Some((at, _)) = missing {
            play.objections.push(format!(
                "M1: the cursor of {org} is {cursor}, and what happened at {at} is not in its journal"
            ));
        }
    }
}

/// While all is well, what becomes visible within the overlap is where it belongs after two poll intervals: nobody waits for a later
/// look. All has been well for `well` seconds, and for a while before.
pub(crate) fn prompt(play: &mut Play, well: i64) {
    let history = &play.history;
    let (from, until) = (play.now() - well, play.now() - 2 * history.poll - history.settle - 60);
    let late_most = (history.overlap - history.settle - 60).max(0);
    for org in play.orgs() {
        let mut source = play.simulation.truth(&org);
        source.events.retain(|event| {
            (from..until).contains(&event.visible_at)
                && (0..=late_most).contains(&(event.visible_at - event.timestamp))
        });
        let expect = Expect {
            since: play.since[&org],
            as_of: until,
            damaged: damaged(play, &org),
            ..Expect::default()
        };
        for report in reports(play, &org, &source, &expect) {
            if let Some(first) = report.lost.first() {
                play.objections.push(format!(
                    "I1: {} events of {org} became visible within the overlap, and are not at {} two poll intervals later: {first}",
                    report.lost.len(),
                    report.destination
                ));
            }
        }
    }
}

/// After the faults: all that was visible in time is where it belongs.
pub(crate) fn drained(play: &mut Play, since_the_last_fault: i64) {
    let as_of = play.now() - since_the_last_fault;
    for ((org, destination), lost) in behind(play, as_of) {
        if let Some(first) = lost.first() {
            play.objections.push(format!(
                "I7: {} events of {org} are not at {destination} {since_the_last_fault} s after the last fault: {first}",
                lost.len()
            ));
        }
    }
}

pub(crate) async fn end(play: &mut Play) -> Tally {
    let mut objections = std::mem::take(&mut play.objections);
    let mut tally = Tally {
        simulated: play.simulation.elapsed(),
        deaths: play.deaths.len() as u64,
        faults: play.faults(),
        sent: play.simulation.wire.everything(),
        ..Tally::default()
    };
    // A part that panics has forgotten as much as a process that ends.
    let panics = play.simulation.wire.panicked();
    let ends: Vec<i64> =
        play.deaths.iter().copied().chain(panics.iter().map(|at| BEGIN + at.as_secs() as i64)).collect();
    for org in play.orgs() {
        let source = play.simulation.truth(&org);
        let damaged = damaged(play, &org);
        tally.events += source.events.len() as u64;
        tally.damaged += damaged.len() as u64;
        for second in &damaged {
            let there = source.events.iter().filter(|event| event.timestamp == *second).count();
            if there < play.history.behaviour.page_size {
                objections.push(format!(
                    "I1: second {second} of {org} is declared damaged, and its {there} events fit on a page of {}",
                    play.history.behaviour.page_size
                ));
            }
        }
        let expect = Expect { since: play.since[&org], damaged, ..Expect::default() };
        for report in reports(play, &org, &source, &expect) {
            tally.extras += report.removable as u64;
            if !report.is_complete() {
                objections.push(format!("I1, I2, I9: {report}"));
            }
        }
        let rows: Vec<Row> = play.simulation.azure.rows_of_rule(&rule_of(&org));
        objections.extend(
            sends::needless(&rows, &play.simulation.wire.heard(), &ends)
                .into_iter()
                .map(|text| format!("I3: {org}: {text}")),
        );
        let status = play.simulation.status(&org);
        if status.coverage.holes > 0 {
            objections.push(format!("I7: {} seconds of {org} are not read", status.coverage.holes));
        }
        if status.state != State::Ok {
            objections.push(format!("I7: {org} is not well at the end: {status:?}"));
        }
        objections.extend(pressure(play, &org));
        objections.extend(haste(play, &org));
    }
    objections.extend(play.simulation.wire.violations().into_iter().map(|text| format!("I10: {text}")));
    let careless = play.simulation.store.careless();
    if !careless.is_empty() {
        objections.push(format!("M2: written without \"only if absent\": {careless:?}"));
    }
    let unclaimed = play.simulation.store.unclaimed();
    if !unclaimed.is_empty() {
        objections.push(format!("M2: written before its number was claimed: {unclaimed:?}"));
    }
    tally.seconds_instances = u64::from(play.had_second);
    tally.objections = objections;
    tally
}

/// Whether somebody who was told to slow down, or that nobody is there, has tried again and again at once.
pub(crate) fn haste(play: &Play, org: &str) -> Option<String> {
    let all = play.simulation.wire.sent_between(Duration::ZERO, Duration::MAX);
    let parts = [
        (PULUMI, format!("/orgs/{org}/")),
        (AZURE, rule_of(org)),
        (S3, format!("_chain/org={org}/")),
        (S3, format!("/org={org}/")),
    ];
    parts.into_iter().find_map(|(host, part)| {
        let refused = |status: Option<u16>| matches!(status, Some(429 | 503));
        let mut row: Vec<Duration> = Vec::new();
        for sent in all.iter().filter(|sent| sent.host == host && sent.path.contains(&part)) {
            if !refused(sent.status) {
                row.clear();
                continue;
            }
            row.push(sent.at);
            let hasty = row.len() >= HASTE && sent.at - row[row.len() - HASTE] < HASTE_SECONDS;
            // A start begins with no memory of a backoff.
            let began = BEGIN + row[row.len().saturating_sub(HASTE)].as_secs() as i64;
            if hasty && !play.deaths.iter().any(|death| (began - 1..=began + 10).contains(death)) {
                return Some(format!(
                    "{org} tried {HASTE} times within {HASTE_SECONDS:?} what {host} refused"
                ));
            }
        }
        None
    })
}

/// Whether an org has asked more often than it may.
pub(crate) fn pressure(play: &Play, org: &str) -> Vec<String> {
    let mut objections = Vec::new();
    let (mut minutes, mut refused): (BTreeMap<u64, u64>, BTreeMap<u64, u64>) = Default::default();
    for sent in play.simulation.wire.asked(org) {
        *minutes.entry(sent.at.as_secs() / 60).or_default() += 1;
        if sent.status == Some(403) {
            *refused.entry(sent.at.as_secs() / HOUR as u64).or_default() += 1;
        }
    }
    let starts = |from: u64, until: u64| {
        let second = |death: &i64| u64::try_from(*death - BEGIN).unwrap_or_default();
        play.deaths.iter().filter(|death| (from..until + 60).contains(&second(death))).count() as u64
    };
    for (minute, asked) in minutes {
        let two = 1 + u64::from(play.had_second);
        let most = two
            * (60 * REQUESTS_PER_SECOND + 2 + 2 * starts(minute.saturating_sub(1) * 60, minute * 60 + 60));
        if asked > most {
            objections.push(format!("{org} asked {asked} times in minute {minute}, {most} are allowed"));
        }
    }
    for (hour, count) in refused {
        // Once in a quarter of an hour, four tries out of turn, and the one that found out; each may try the other token.
        let most = 2 * (1 + u64::from(play.had_second)) * (4 + 4 + 1);
        if count > most {
            objections
                .push(format!("{org} was refused {count} times with 403 in hour {hour}, {most} are allowed"));
        }
    }
    objections
}
