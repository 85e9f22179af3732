//! `verify`: whether archives are whole and unchanged. It finds the archives, shows how far it is, and prints what was found; what is
//! checked is [`crate::verify`]'s business. It writes nothing anywhere.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::time::Instant;

use super::{Exit, Failure, Global, VerifyFlags, only, runtime};
use crate::clock::{Clock, Second, Window};
use crate::config::settings::{OrgSettings, Settings};
use crate::destination::DestinationName;
use crate::destination::archive::Obstacle;
use crate::destination::file::reading::{FolderReader, orgs};
use crate::destination::s3::client::Connections;
use crate::destination::s3::reading::BucketReader;
use crate::event::{OrgId, hex};
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, JournalError};
use crate::retry::backoff;
use crate::verify::{Asked, Known, Reader, Report, walk};

/// Chunks read at once: hides the way to the store.
const AT_ONCE: usize = 8;
/// Tries of one request before it is said that the archive cannot be reached.
const TRIES_MAX: u32 = 6;
/// How often a line is printed where nobody watches.
const LINE_PAUSE: Duration = Duration::from_secs(10);

/// One archive of one org, and what was found in it.
struct Verified {
    org: OrgId,
    source: String,
    outcome: Result<Report, String>,
}

pub(super) fn verify(
    global: &Global,
    flags: &VerifyFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    if let (Some(from), Some(until)) = (flags.from, flags.until)
        && until <= from
    {
        return Err(Failure::usage("--until is not after --from".to_owned()));
    }
    let verified = match flags.source.as_deref() {
        Some(path) if DestinationName::ALL.iter().all(|name| Path::new(name.as_str()) != path) => {
            of_folder(path, flags)?
        }
        Some(path) if path == Path::new(DestinationName::Sentinel.as_str()) => {
            return Err(Failure::usage(
                "sentinel keeps no claims: --source takes s3, file or a folder".to_owned(),
            ));
        }
        source => of_configured(global, flags, source.and_then(Path::to_str))?,
    };
    if flags.json {
        writeln!(out, "{:#}", answer(&verified))?;
    } else {
        for one in &verified {
            print(one, out)?;
        }
    }
    let is_wrong = |one: &Verified| one.outcome.as_ref().is_ok_and(|report| !report.wrong.is_empty());
    Ok(if verified.iter().any(is_wrong) {
        Exit::Failed
    } else if verified.iter().any(|one| one.outcome.is_err()) {
        Exit::Unreachable
    } else {
        Exit::Done
    })
}

fn asked(org: &OrgId, lane: Option<DestinationName>, flags: &VerifyFlags) -> Asked {
    let within = (flags.from.is_some() || flags.until.is_some()).then(|| {
        Window::new(flags.from.unwrap_or(Second(i64::MIN)), flags.until.unwrap_or(Second(i64::MAX)))
    });
    Asked { org: org.clone(), lane, within, head: flags.head.clone() }
}

/// A copy somewhere, of whatever orgs are in it.
fn of_folder(root: &Path, flags: &VerifyFlags) -> Result<Vec<Verified>, Failure> {
    let mut found = orgs(root).map_err(|error| {
        let error = anyhow::Error::new(error).context(format!("cannot list {}", root.display()));
        Failure { exit: Exit::Unreachable, error }
    })?;
    if let Some(id) = &flags.org {
        found.retain(|org| org.as_str() == id);
    }
    if found.is_empty() {
        let which = flags.org.as_ref().map_or_else(|| "an org".to_owned(), |id| format!("org `{id}`"));
        let text =
            format!("{} holds no archive of {which}: give the folder that `_chain` is in", root.display());
        return Err(Failure::usage(text));
    }
    let runtime = runtime()?;
    let mut verified = Vec::new();
    for org in found {
        let readers = (0..AT_ONCE).map(|_| Patient(FolderReader::new(root, &org))).collect();
        let source = root.display().to_string();
        let walked = runtime.block_on(walked(readers, &asked(&org, None, flags), &source));
        verified.push(Verified { org, source, outcome: walked.map_err(said) });
    }
    Ok(verified)
}

/// The archives of the configuration, compared with its state directory where that can be read.
fn of_configured(
    global: &Global,
    flags: &VerifyFlags,
    source: Option<&str>,
) -> Result<Vec<Verified>, Failure> {
    let mut settings: Settings = global.load_without_secrets()?.settings;
    only(&mut settings, flags.org.as_deref())?;
    let is_asked = |name: &DestinationName| {
        *name != DestinationName::Sentinel && source.is_none_or(|source| source == name.as_str())
    };
    let archives: Vec<(&OrgSettings, DestinationName)> = settings
        .orgs
        .iter()
        .flat_map(|org| org.destinations().into_iter().filter(is_asked).map(move |name| (org, name)))
        .collect();
    if archives.is_empty() {
        let which = source.map_or_else(|| "[s3] or [file]".to_owned(), |source| format!("[{source}]"));
        return Err(Failure::usage(format!("no org that was asked for has {which} in its file")));
    }
    let runtime = runtime()?;
    let connections = Connections::connected();
    let clock = Clock::system();
    let mut verified = Vec::new();
    for (org, name) in archives {
        let asked = asked(&org.id, Some(name), flags);
        let source = name.as_str();
        // What was acknowledged before the walk must be met on it; what is acknowledged meanwhile need not.
        let before = runtime.block_on(checkpoint(&settings, org, name)).unwrap_or_default();
        let outcome = match (&org.s3, &org.file, name) {
            (Some(s3), _, DestinationName::S3) => {
                let readers: Result<Vec<_>, _> = (0..AT_ONCE)
                    .map(|_| BucketReader::new(s3, &org.id, &connections, &clock).map(Patient))
                    .collect();
                match readers {
                    Ok(readers) => runtime.block_on(walked(readers, &asked, source)).map_err(said),
                    Err(problem) => Err(said(Obstacle::Paused(problem))),
                }
            }
            (_, Some(file), DestinationName::File) => {
                let readers = (0..AT_ONCE).map(|_| Patient(FolderReader::new(&file.path, &org.id))).collect();
                runtime.block_on(walked(readers, &asked, source)).map_err(said)
            }
            _ => continue,
        };
        let outcome = outcome.map(|mut report| {
            match runtime.block_on(known(&settings, org, before, &report)) {
                Ok(Some(known)) => report.compare(&org.id, &known),
                Ok(None) => report
                    .notes
                    .push("not compared with the state directory, which does not know this org".into()),
                Err(error) => report.notes.push(format!("not compared with the state directory: {error}")),
            }
            report
        });
        verified.push(Verified { org: org.id.clone(), source: source.to_owned(), outcome });
    }
    Ok(verified)
}

/// The next chunk that the lane has still to bring here.
async fn checkpoint(
    settings: &Settings,
    org: &OrgSettings,
    name: DestinationName,
) -> Result<u64, JournalError> {
    let journal = SqliteJournal::open_read_only(&settings.state_dir)?;
    let state = journal.open(&org.id, &org.destinations()).await?;
    // A lane that has yet to begin stands at the oldest chunk kept, and has brought nothing.
    let is_new = state.added.iter().any(|(lane, _)| *lane == name);
    Ok(if is_new { 0 } else { state.checkpoints.get(&name).copied().unwrap_or_default() })
}

/// What the state directory knows, asked after the walk: a daemon at work only ever knows more than the archive has.
async fn known(
    settings: &Settings,
    org: &OrgSettings,
    checkpoint: u64,
    report: &Report,
) -> Result<Option<Known>, JournalError> {
    let journal = SqliteJournal::open_read_only(&settings.state_dir)?;
    if !journal.orgs().await?.contains(&org.id) {
        return Ok(None);
    }
    let state = journal.open(&org.id, &org.destinations()).await?;
    let next = report.head.map_or(0, |(number, _)| number + 1);
    let link = if next == state.next {
        Some(state.link)
    } else {
        journal.chunk(&org.id, next).await?.map(|chunk| chunk.previous)
    };
    Ok(Some(Known { next: state.next, checkpoint, link }))
}

fn said(obstacle: Obstacle) -> String {
    match obstacle {
        Obstacle::Ambiguous(cause) | Obstacle::Throttled { cause, .. } => cause,
        Obstacle::Paused(problem) => format!("{}: {}", problem.cause, problem.remedy),
    }
}

/// Walks, and says on standard error how far it is.
async fn walked<R: Reader>(readers: Vec<R>, asked: &Asked, source: &str) -> Result<Report, Obstacle> {
    let bar = std::io::stderr().is_terminal().then(ProgressBar::new_spinner);
    let mut printed = Instant::now();
    let mut progress = |report: &Report| {
        let line = format!("{} {source}: {} chunks, {} events", asked.org, report.chunks, report.events);
        match &bar {
            Some(bar) => {
                bar.set_message(line);
                bar.tick();
            }
            None if printed.elapsed() >= LINE_PAUSE => {
                printed = Instant::now();
                // Nobody is told where standard error is closed.
                drop(writeln!(std::io::stderr(), "{line}"));
            }
            None => {}
        }
    };
    let report = walk(readers, asked, &mut progress).await;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    report
}

/// A reader that tries again what may go better the next time.
struct Patient<R>(R);

async fn pause(failures: &mut u32, obstacle: Obstacle) -> Result<(), Obstacle> {
    *failures += 1;
    if *failures >= TRIES_MAX || matches!(obstacle, Obstacle::Paused(_)) {
        return Err(obstacle);
    }
    tokio::time::sleep(backoff(*failures, fastrand::f64())).await;
    Ok(())
}

#[async_trait]
impl<R: Reader> Reader for Patient<R> {
    fn locate(&self, key: &str) -> String {
        self.0.locate(key)
    }

    fn list(&mut self, below: &str) {
        self.0.list(below);
    }

    async fn more(&mut self) -> Result<Vec<String>, Obstacle> {
        let mut failures = 0;
        loop {
            match self.0.more().await {
                Err(obstacle) => pause(&mut failures, obstacle).await?,
                keys => return keys,
            }
        }
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        let mut failures = 0;
        loop {
            match self.0.read(key, bytes_max).await {
                Err(obstacle) => pause(&mut failures, obstacle).await?,
                read => return read,
            }
        }
    }
}

fn moment(at: Option<Second>) -> String {
    at.map_or_else(|| "-".to_owned(), |at| at.to_string())
}

fn print(one: &Verified, out: &mut dyn Write) -> Result<(), Failure> {
    let Verified { org, source, outcome } = one;
    let report = match outcome {
        Ok(report) => report,
        Err(cause) => {
            writeln!(out, "{org}  {source}  UNREACHABLE  {cause}")?;
            return Ok(());
        }
    };
    let word = if report.wrong.is_empty() { "ok" } else { "WRONG" };
    let Report { chunks, objects, events, bytes, .. } = report;
    let (first, last) = (moment(report.first), moment(report.last));
    writeln!(
        out,
        "{org}  {source}  {word}  {chunks} chunks, {objects} objects read, {events} events, {bytes} bytes, {first} to {last}"
    )?;
    if let Some((number, link)) = report.head {
        writeln!(out, "  head (chunk {number}): {}", hex(&link.0))?;
    }
    if let Some(first) = &report.wrong.first {
        writeln!(out, "  first: {first}")?;
        let counts: Vec<String> =
            report.wrong.counts.iter().map(|(kind, count)| format!("{count} × {}", kind.as_str())).collect();
        writeln!(out, "  {} wrong in all: {}", report.wrong.total(), counts.join(", "))?;
    }
    for note in &report.notes {
        writeln!(out, "  note: {note}")?;
    }
    Ok(())
}

fn answer(verified: &[Verified]) -> serde_json::Value {
    let archive = |one: &Verified| match &one.outcome {
        Err(cause) => {
            json!({ "org": one.org.as_str(), "source": one.source, "ok": false, "unreachable": cause })
        }
        Ok(report) => json!({
            "org": one.org.as_str(),
            "source": one.source,
            "ok": report.wrong.is_empty(),
            "chunks": report.chunks,
            "objects": report.objects,
            "events": report.events,
            "bytes": report.bytes,
            "first_time": report.first.map(|at| at.to_string()),
            "last_time": report.last.map(|at| at.to_string()),
            "head": report.head.map(|(_, link)| hex(&link.0)),
            "head_chunk": report.head.map(|(number, _)| number),
            "voids": report.voids,
            "first_wrong": report.wrong.first,
            "wrong": report.wrong.total(),
            "counts": report.wrong.counts,
            "notes": report.notes,
        }),
    };
    let archives: Vec<_> = verified.iter().map(archive).collect();
    json!({ "ok": archives.iter().all(|archive| archive["ok"] == true), "archives": archives })
}
