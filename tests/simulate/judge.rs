//! What must hold of every history, decided from the services' ledgers and the archives alone, by code that shares nothing with
//! the forwarder ([`crate::world::truth`]). Only what it says of itself is taken from it, to be held against what was.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pulumi_audit_forwarder::destination::DestinationName;
use pulumi_audit_forwarder::journal::Journal;
use pulumi_audit_forwarder::journal::memory::MemoryJournal;
use pulumi_audit_forwarder::report::status::{OrgStatus, State};

use crate::play::{Play, Tally};
use crate::simulation::{BEGIN, HOUR};
use crate::wire::{AZURE, PULUMI, S3};
use crate::world::setup::rule_of;
use crate::world::truth::{Expect, Report, Source, archive, sends, table};

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

/// What was read of each org before, so that who looks again reads only what is new: everything is compared every time.
#[derive(Default)]
pub(crate) struct Read(BTreeMap<String, OrgRead>);

#[derive(Default)]
struct OrgRead {
    /// As the log was after so many changes.
    source: Option<(u64, Arc<Source>)>,
    bucket: archive::Known,
    folder: archive::Known,
    table: table::Known,
}

/// An org's events.
fn source(play: &mut Play, org: &str) -> Arc<Source> {
    let read = play.read.0.entry(org.to_owned()).or_default();
    let changes = play.simulation.org(org).changes();
    match &read.source {
        Some((known, source)) if *known == changes => source.clone(),
        _ => {
            let source = Arc::new(play.simulation.truth(org));
            read.source = Some((changes, source.clone()));
            source
        }
    }
}

/// An org at each of its destinations.
fn reports(play: &mut Play, org: &str, source: &Arc<Source>, expect: &Expect) -> Vec<Report> {
    let now = play.now();
    let setup = &play.simulation.setups[org];
    let read = play.read.0.entry(org.to_owned()).or_default();
    let mut reports = Vec::new();
    if setup.s3 {
        reports.push(read.bucket.check(&play.simulation.bucket_of(org), "s3", org, source, expect));
    }
    if setup.file {
        let files = play.simulation.files(org).files.into_iter();
        let files = files.map(|(name, body)| (name, Bytes::from(body))).collect();
        reports.push(read.folder.check(&files, "file", org, source, expect));
    }
    if setup.sentinel {
        let rows = play.simulation.azure.shared_rows_of_rule(&rule_of(org));
        reports.push(read.table.check(&rows, org, source, now, expect));
    }
    reports
}

fn damaged(play: &Play, org: &str) -> BTreeSet<i64> {
    play.simulation.damaged_now(org)
}

/// What is missing at a moment of what was visible when it happened, which any head sweep finds, per org and destination.
fn behind(play: &mut Play, as_of: i64) -> BTreeMap<(String, String), Vec<String>> {
    let mut behind = BTreeMap::new();
    for org in play.orgs() {
        let source = source(play, &org);
        let expect = Expect {
            as_of,
            late_below: 1,
            since: play.since[&org],
            damaged: damaged(play, &org),
            ..Expect::default()
        };
        for report in reports(play, &org, &source, &expect) {
            behind.insert((org.clone(), report.destination.clone()), report.lost);
        }
    }
    behind
}

/// Who has everything that was visible two poll intervals ago. Time must have passed since the last fault.
pub(crate) fn up_to_date(play: &mut Play) -> BTreeSet<(String, String)> {
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
        let missing = play.simulation.org(&org).first_moment(first, cursor - 1, |at, visible_at| {
            visible_at <= at && !minutes.contains(&at.div_euclid(60))
        });
        if let Some(at) = missing {
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
        let source = source(play, &org);
        let expect = Expect {
            since: play.since[&org],
            seen_from: from,
            as_of: until - 1,
            late_below: late_most + 1,
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

/// The event keys of what is known to be in Azure, per org, though the state is lost. From an archive: what the newest claim says is
/// delivered. From a copy that is put back: what it says itself.
pub(crate) async fn known_as_delivered(
    play: &Play,
    copy: Option<&MemoryJournal>,
) -> BTreeMap<String, HashSet<String>> {
    let mut known = BTreeMap::new();
    for org in play.orgs() {
        let setup = &play.simulation.setups[&org];
        let keys = |lines: Vec<archive::Line>| lines.into_iter().map(|line| line.key);
        let mut delivered = HashSet::new();
        match copy {
            Some(copy) => {
                let id = crate::simulation::id(&org);
                // On a copy of the copy: to look at it opens it.
                let copy = copy.clone();
                let state = copy.open(&id, &setup.destinations()).await.expect("memory does not fail");
                for number in 0..state.checkpoints.get(&DestinationName::Sentinel).copied().unwrap_or(0) {
                    let chunk = copy.chunk(&id, number).await.expect("memory does not fail");
                    delivered.extend(chunk.iter().flat_map(|chunk| keys(archive::lines_of(&chunk.body))));
                }
            }
            None => {
                let archives =
                    [(setup.s3, play.simulation.bucket()), (setup.file, play.simulation.files(&org))];
                let configured = archives.into_iter().filter(|(configured, _)| *configured);
                let newest =
                    configured.map(|(_, archive)| archive).max_by_key(|archive| archive.claims(&org));
                if let Some(archive) = newest {
                    let before = archive.checkpoint(&org, "sentinel").unwrap_or(0);
                    let mut lines = archive.lines(&org, &mut Vec::new());
                    lines.retain(|line| line.chunk < before);
                    delivered.extend(keys(lines));
                }
            }
        }
        known.insert(org, delivered);
    }
    known
}

/// After a loss of the state, and before the next, what was known to be delivered all the same is not sent again.
pub(crate) fn resent(play: &Play, org: &str) -> Vec<String> {
    let rows = play.simulation.azure.shared_rows_of_rule(&rule_of(org));
    let mut objections = Vec::new();
    for (place, loss) in play.losses.iter().enumerate() {
        let until = play.losses.get(place + 1).map_or(u64::MAX, |next| next.uploads);
        let Some(delivered) = loss.delivered.get(org) else { continue };
        let again = rows.iter().filter(|row| row.request > loss.uploads && row.request <= until);
        let needless: Vec<&str> =
            again.map(|row| row.text("EventKey_s")).filter(|key| delivered.contains(*key)).collect();
        if let Some(first) = needless.first() {
            objections.push(format!(
                "I3: {} rows of {org} were sent again after its state was lost, though they were known to be delivered: {first}",
                needless.len()
            ));
        }
    }
    objections
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
        let source = source(play, &org);
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
        let rows = play.simulation.azure.shared_rows_of_rule(&rule_of(&org));
        objections.extend(
            sends::needless(&rows, &play.simulation.wire.heard(), &ends)
                .into_iter()
                .map(|text| format!("I3: {org}: {text}")),
        );
        objections.extend(resent(play, &org));
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
    tally.losses = play.losses.len() as u64;
    tally.seconds_instances = u64::from(play.had_second);
    tally.objections = objections;
    tally
}

/// Whether somebody who was told to slow down, or that nobody is there, has tried again and again at once.
pub(crate) fn haste(play: &Play, org: &str) -> Option<String> {
    let parts = [
        (PULUMI, format!("/orgs/{org}/")),
        (AZURE, rule_of(org)),
        (S3, format!("_chain/org={org}/")),
        (S3, format!("/org={org}/")),
    ];
    parts.into_iter().find_map(|(host, part)| {
        let refused = |status: Option<u16>| matches!(status, Some(429 | 503));
        let mut row: Vec<Duration> = Vec::new();
        for (at, status) in play.simulation.wire.answers(host, &part) {
            if !refused(status) {
                row.clear();
                continue;
            }
            row.push(at);
            let hasty = row.len() >= HASTE && at - row[row.len() - HASTE] < HASTE_SECONDS;
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
