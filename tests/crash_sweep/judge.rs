//! Decides whether a story ended well. It compares what arrived with what the source holds, with the world's own checker.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use crate::calls::{self, Call};
use crate::durable::{self, Kept};
use crate::point::Fault;
use crate::stage::{Ended, Play};
use crate::world::ingestion::rows::Row;
use crate::world::setup::{PREFIX, rule_of};
use crate::world::truth::archive::Archive;
use crate::world::truth::{Expect, table};

/// What stood at the destinations when the faulty run had ended.
pub struct Arrived {
    rows: Vec<Row>,
    s3: Archive,
    file: Archive,
}

/// Everything that is at a destination must be in the journal, as far as it was durable.
///
/// # Errors
/// With the first thing that is not.
pub async fn after_the_fault(play: &Play<'_>, log: Option<&Path>) -> Result<Arrived, String> {
    // In this order: while it runs, what arrives later may be journaled later.
    let arrived = arrived(play).await;
    let calls = log.map(calls::read).unwrap_or_default();
    let scratch = play.paths().root.join("scratch");
    let kept = durable::kept(&calls, &play.paths().state, &scratch)?;
    all_is_kept(&arrived, &kept)?;
    Ok(arrived)
}

/// The same with a journal that was read already.
///
/// # Errors
/// With the first thing that it does not have.
pub fn all_is_kept(arrived: &Arrived, kept: &Kept) -> Result<(), String> {
    for (destination, archive) in [("s3", &arrived.s3), ("file", &arrived.file)] {
        claims_are_kept(destination, archive, kept)?;
    }
    for row in &arrived.rows {
        let (chunk, key) = (row.number("Chunk_d").unwrap_or(-1), row.text("EventKey_s"));
        if !kept.keys.get(&chunk.unsigned_abs()).is_some_and(|keys| keys.contains(key)) {
            return Err(format!(
                "sentinel has a row of chunk {chunk} that the journal does not have for sure: {key}"
            ));
        }
    }
    Ok(())
}

pub async fn arrived(play: &Play<'_>) -> Arrived {
    let world = &play.stage.world;
    let rows = world.ingestion().rows_of_rule(&rule_of(&play.id));
    let s3 = Archive::of_bucket(&world.s3().bucket, PREFIX).await;
    Arrived { rows, s3, file: Archive::of_directory(&play.paths().archive_of(&play.id)) }
}

fn claims_are_kept(destination: &str, archive: &Archive, kept: &Kept) -> Result<(), String> {
    for (name, body) in archive.files.iter().filter(|(name, _)| !name.starts_with("_partial/")) {
        let number = name.rsplit('/').next().and_then(|last| last.split('.').next()?.parse().ok());
        let known = number.and_then(|number: u64| kept.claims.get(&number));
        let Some(claim) = known else {
            return Err(format!(
                "{destination} has {name}, and the journal does not have its chunk for sure"
            ));
        };
        if name.starts_with("_chain/") && claim != body {
            return Err(format!("{destination} has another {name} than the journal"));
        }
    }
    Ok(())
}

/// How the process may end that met a fault.
///
/// # Errors
/// When it ended in another way.
pub fn of_the_end(fault: Fault, hit: bool, ended: &Ended) -> Result<(), String> {
    let status = ended.status;
    let complaint = |what: &str| Err(format!("{what}: {status}; it said:\n{}", tail(&ended.said)));
    if ended.said.contains("panicked") {
        return complaint("a part of it panicked");
    }
    match (hit, status.code()) {
        (false, Some(0)) => Ok(()),
        (false, _) => complaint("nothing happened to it, and it failed"),
        (true, None) if fault.kills() && status.signal() == Some(9) => Ok(()),
        (true, Some(_)) if fault.kills() => complaint("it was not killed"),
        (true, Some(0)) => Ok(()),
        (true, Some(1)) => match ended.said.lines().last() {
            Some(line) if line.contains("not everything is delivered") || explains(&ended.said) => Ok(()),
            _ => complaint("it failed without saying why"),
        },
        _ => complaint("it ended strangely"),
    }
}

/// The last lines of standard error say what is wrong and what to do.
fn explains(said: &str) -> bool {
    let plain: Vec<&str> = said.lines().filter(|line| !line.starts_with('{')).collect();
    let text = plain.join("\n");
    text.contains("not everything is delivered") || text.contains("state directory")
}

pub fn tail(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// After the recovery: nothing lost, nothing doubled, at most `sends` requests of Azure's twice, and nothing rewritten.
///
/// # Errors
/// With a report.
pub async fn of_the_recovery(
    play: &Play<'_>,
    recovered: &Ended,
    before: &Arrived,
    sends: usize,
) -> Result<(), String> {
    if recovered.status.code() != Some(0) {
        return Err(format!("the recovery ended with {}:\n{}", recovered.status, tail(&recovered.said)));
    }
    of_the_archive(play, before, sends, play.stage.world.clock.now()).await
}

/// The same where nobody was started again, for what was visible at a time.
///
/// # Errors
/// With a report.
pub async fn of_the_archive(
    play: &Play<'_>,
    before: &Arrived,
    sends: usize,
    as_of: i64,
) -> Result<(), String> {
    let (world, id) = (&play.stage.world, play.id.as_str());
    let source = world.source(id);
    let now = world.clock.now();
    let expect = Expect { as_of, ..Expect::default() };
    let after = arrived(play).await;
    let rows = &after.rows;
    let s3 = after.s3.check("s3", id, &source, &expect);
    let file = after.file.check("file", id, &source, &expect);
    let table = table::check(rows, id, &source, now, &expect);
    for report in [&s3, &file, &table] {
        if !report.is_complete() || report.void > 0 {
            return Err(report.to_string());
        }
    }
    let mut requests: BTreeMap<u64, usize> = BTreeMap::new();
    for row in rows {
        *requests.entry(row.request).or_default() += 1;
    }
    let largest = requests.values().max().copied().unwrap_or_default();
    if table.removable > sends * largest {
        let extra = table.removable;
        return Err(format!("{extra} rows are there twice, more than {sends} requests of {largest}"));
    }
    for (destination, before, after) in [("s3", &before.s3, &after.s3), ("file", &before.file, &after.file)] {
        let stable = before.files.iter().filter(|(name, _)| !name.starts_with("_partial/"));
        for (name, body) in stable {
            if after.files.get(name) != Some(body) {
                return Err(format!("{destination}: {name} is not what it was before the recovery"));
            }
        }
    }
    Ok(())
}

/// What a process that was killed had begun to write is cleared away by the next.
///
/// # Errors
/// When something of it is still there.
pub fn of_the_leftovers(play: &Play<'_>) -> Result<(), String> {
    let archive = Archive::of_directory(&play.paths().archive_of(&play.id));
    match archive.files.keys().find(|name| name.starts_with("_partial/")) {
        Some(name) => Err(format!("file: {name} was left behind")),
        None => Ok(()),
    }
}

/// Nothing went wrong: the story is what it is meant to be.
///
/// # Errors
/// When one of the ways to read the source did not occur.
pub async fn of_the_script(play: &Play<'_>) -> Result<(), String> {
    let archive = arrived(play).await.file;
    let mut problems = Vec::new();
    let lines = archive.lines(&play.id, &mut problems);
    for mode in ["live", "catchup", "late"] {
        if !lines.iter().any(|line| line.mode == mode) {
            return Err(format!("the script has no event of mode {mode}"));
        }
    }
    Ok(())
}

/// How the call is called that went wrong, for the count by kind.
pub fn name_of_hit(calls: &[Call]) -> Option<String> {
    calls::hit(calls).map(|call| format!("{} {}", call.place, call.name))
}
