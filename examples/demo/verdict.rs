//! The count: source against table, bucket and folder, event by event, by the world's checker, which shares no code with the
//! forwarder. It decides; nothing that the forwarder says of itself counts here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::cast::{BLITZ, DENSE, DESTINATIONS, History, ORGS};
use crate::forwarder::Status;
use crate::screen::{Screen, grouped};
use crate::world::World;
use crate::world::setup::rule_of;
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, Report};

/// Events in a page of the simulated log: a second with fewer can be read whole.
const PAGE: usize = 100;
/// A chunk, and so a request to Azure, has at most so many.
const ROWS_OF_A_REQUEST_MAX: u64 = 1_000;

/// How the story ended.
pub(crate) struct Ended {
    /// The forwarder's, before it was asked to end.
    pub(crate) last_status: Status,
    pub(crate) caught_up_after: Duration,
    pub(crate) took: Duration,
    pub(crate) peak_mib: f64,
    /// Events that showed themselves late.
    pub(crate) stragglers: usize,
}

/// Counts, tells, and answers whether all is in order.
pub(crate) async fn give(
    world: &World,
    history: &History,
    ended: &Ended,
    screen: &mut Screen,
) -> anyhow::Result<bool> {
    screen.line("")?;
    screen.say("Now everything is counted, by a checker that shares no code with the forwarder: source against table, bucket and folder.")?;
    let bucket = world.archive().await;
    let mut wrong = Vec::new();
    let mut rows = Vec::new();
    for org in ORGS {
        let folder = Archive::of_directory(&world.paths.archive_of(org));
        let source = world.source(org);
        let damaged = declared_damaged(&bucket, org);
        wrong.extend(unjustified(
            &damaged,
            &source.events.iter().map(|event| event.timestamp).collect::<Vec<_>>(),
            org,
        ));
        if org == BLITZ && !damaged.contains(&history.dense_second) {
            wrong.push(format!("{BLITZ}: the second of {DENSE} events was not declared damaged"));
        }
        let said = ended.last_status.org(org).map_or(0, |org| org.coverage.damaged);
        if usize::try_from(said) != Ok(damaged.len()) {
            wrong
                .push(format!("{org}: its status says {said} damaged seconds, its claims {}", damaged.len()));
        }
        let expect = Expect { as_of: world.clock.now(), damaged, ..Expect::default() };
        for destination in DESTINATIONS {
            let (report, archive) = match destination {
                "sentinel" => (world.check_sentinel_with(org, &expect), None),
                "s3" => (bucket.check("s3", org, &source, &expect), Some(&bucket)),
                _ => (folder.check("file", org, &source, &expect), Some(&folder)),
            };
            let bound = extras_bound(world, org);
            if !report.is_complete() {
                wrong.push(report.to_string());
            }
            if report.removable as u64 > bound {
                wrong.push(format!(
                    "{org}: {} extra rows in Azure, at most {bound} are explained",
                    report.removable
                ));
            }
            rows.push(Row { claims: archive.map(|archive| claims(archive, org)), bound, report });
        }
    }
    table(&rows, screen)?;
    footnotes(&rows, &bucket, history, ended, screen)?;
    requests(world, screen)?;
    screen.line(&format!(
        "Memory        the forwarder had at most {:.1} MiB resident (VmHWM)",
        ended.peak_mib
    ))?;
    screen.line(&format!(
        "Time          {:.1} s; acme's 30 days were journaled after {:.1} s, the paused token and the kill included",
        ended.took.as_secs_f64(),
        ended.caught_up_after.as_secs_f64()
    ))?;
    screen.line("Left behind   .demo/archive (the folder's files; zcat shows them), .demo/config, .demo/state, .demo/forwarder-*.log")?;
    screen.line("")?;
    last_line(&rows, &wrong, screen)?;
    Ok(wrong.is_empty())
}

struct Row {
    report: Report,
    /// Of an archive.
    claims: Option<usize>,
    bound: u64,
}

impl Row {
    fn is_archive(&self) -> bool {
        self.claims.is_some()
    }

    fn doubled(&self) -> usize {
        self.report.doubled.len() + self.report.foreign.len()
    }
}

fn table(rows: &[Row], screen: &mut Screen) -> anyhow::Result<()> {
    screen.line("")?;
    screen.line(
        "                 events in     exempt                                 extra rows        hash chain",
    )?;
    screen.line(
        "org    where    the source  (damaged)    arrived     lost   doubled   (Azure only)      of claims",
    )?;
    let mut org = "";
    for row in rows {
        let report = &row.report;
        let shown = if report.org == org { "" } else { report.org.as_str() };
        org = &report.org;
        let extras = match row.is_archive() {
            true => "–".to_owned(),
            false => format!("{} of ≤ {}", report.removable, grouped(row.bound)),
        };
        let chain = match row.claims {
            None => "–".to_owned(),
            Some(claims) if report.problems.is_empty() => format!("{claims} verified"),
            Some(_) => "BROKEN".to_owned(),
        };
        screen.line(&format!(
            "{shown:<6} {:<8} {:>10} {:>10} {:>10} {:>8} {:>9}   {extras:<15} {chain:>11}",
            report.destination,
            grouped((report.due + report.exempt) as u64),
            grouped(report.exempt as u64),
            grouped(report.arrived as u64),
            grouped(report.lost.len() as u64),
            grouped(row.doubled() as u64),
        ))?;
    }
    screen.line("")?;
    Ok(())
}

fn footnotes(
    rows: &[Row],
    bucket: &Archive,
    history: &History,
    ended: &Ended,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let mut unread = Vec::new();
    let lines = bucket.lines(BLITZ, &mut unread);
    let dense = crate::world::clock::rfc3339(history.dense_second);
    let kept = lines.iter().filter(|line| line.time.as_deref() == Some(&dense)).count();
    let late =
        ORGS.iter().flat_map(|org| bucket.lines(org, &mut unread)).filter(|line| line.mode == "late").count();
    screen.line(&format!(
        "Exempt        the one second of {DENSE} events that was declared damaged; {kept} of them could be read and are archived"
    ))?;
    let extras: usize = rows.iter().map(|row| row.report.removable).sum();
    screen.line(&format!(
        "Extra rows    {extras} in Azure, each with the EventKey_s of a row that is there: readers remove them by it. Bound: requests that"
    ))?;
    screen.line("              Azure may have stored without the forwarder noting the answer (those whose answer was lost; one for")?;
    screen.line("              the outage and one for the kill) × 1,000 rows")?;
    screen.line(&format!(
        "Late          {} events showed themselves 13 to 17 s after they happened; the later look found {late}",
        ended.stragglers
    ))?;
    Ok(())
}

fn requests(world: &World, screen: &mut Screen) -> anyhow::Result<()> {
    let asked: u64 = ORGS.iter().map(|org| world.pulumi().ledger.requests(org)).sum();
    let refused: u64 = ORGS.iter().map(|org| world.pulumi().ledger.answered(org, 401)).sum();
    let uploads: u64 = ORGS.iter().map(|org| world.ingestion().ledger.requests(&rule_of(org))).sum();
    let puts = world.s3().proxy.puts();
    let present = puts.iter().filter(|(_, _, status)| *status == Some(412)).count();
    screen.line(&format!(
        "Requests      Pulumi {} ({refused} answered 401) · Azure {} · S3 {} puts, {present} of them answered “is there already”",
        grouped(asked),
        grouped(uploads),
        grouped(puts.len() as u64),
    ))?;
    Ok(())
}

fn last_line(rows: &[Row], wrong: &[String], screen: &mut Screen) -> anyhow::Result<()> {
    if wrong.is_empty() {
        let of =
            |destination: &'static str| rows.iter().filter(move |row| row.report.destination == destination);
        let events: usize = of("s3").map(|row| row.report.due).sum();
        let extras: usize = of("sentinel").map(|row| row.report.removable).sum();
        screen.say(&format!(
            "PASSED: nothing was lost. Each of {} events is in S3 and in the folder exactly once, and in Azure at least once \
             ({extras} rows twice, removable by key).",
            grouped(events as u64)
        ))?;
    } else {
        for text in wrong {
            for line in text.lines() {
                screen.line(line)?;
            }
        }
        let lost: usize = rows.iter().map(|row| row.report.lost.len()).sum();
        let doubled: usize = rows.iter().map(Row::doubled).sum();
        screen.line("")?;
        screen.say(&format!(
            "FAILED: {lost} events lost, {doubled} doubled or unknown, {} findings; they stand above.",
            wrong.len()
        ))?;
    }
    Ok(())
}

/// The seconds that the org's claims declare damaged.
fn declared_damaged(archive: &Archive, org: &str) -> BTreeSet<i64> {
    let folder = format!("_chain/org={org}/");
    let claims = archive.files.iter().filter(|(name, _)| name.starts_with(&folder));
    let mut damaged = BTreeSet::new();
    for claim in claims.filter_map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).ok()) {
        for span in claim["coverage"].as_array().into_iter().flatten().filter(|span| span["damaged"] == true)
        {
            let (from, until) = (span["from"].as_i64().unwrap_or(0), span["until"].as_i64().unwrap_or(0));
            damaged.extend(from..until);
        }
    }
    damaged
}

/// Exempt may be only what really fills a page.
fn unjustified(damaged: &BTreeSet<i64>, seconds: &[i64], org: &str) -> Vec<String> {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for second in seconds {
        *counts.entry(*second).or_default() += 1;
    }
    let count = |second: &i64| counts.get(second).copied().unwrap_or(0);
    damaged
        .iter()
        .filter(|second| count(second) < PAGE)
        .map(|second| {
            format!("{org}: second {second} was declared damaged and holds only {} events", count(second))
        })
        .collect()
}

/// Rows that may be in Azure twice: of requests it stored whose answer was lost on the way, and of those that the kill and the outage
/// may have cut off before their answer was noted (one each).
fn extras_bound(world: &World, org: &str) -> u64 {
    let rule = rule_of(org);
    let entries = world.ingestion().ledger.entries();
    let lost =
        entries.iter().filter(|entry| entry.about == rule && entry.done && entry.status.is_none()).count();
    (lost as u64 + 2) * ROWS_OF_A_REQUEST_MAX
}

fn claims(archive: &Archive, org: &str) -> usize {
    let folder = format!("_chain/org={org}/");
    archive.files.keys().filter(|name| name.starts_with(&folder)).count()
}
