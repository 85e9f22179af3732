//! `adopt`: a person's word that another instance is gone for good, so that its chunks become this one's.
//!
//! The daemon must be stopped: the state directory has one writer. What is done is [`crate::recovery::adopt`]'s business.

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;

use super::{AdoptFlags, Exit, Failure, Global, only, runtime};
use crate::audit::who::who;
use crate::audit::{Act, Audit, Entry};
use crate::clock::Clock;
use crate::collect;
use crate::config::settings::Settings;
use crate::destination::DestinationName;
use crate::destination::s3::client::Connections;
use crate::journal::Journal;
use crate::journal::restore::MARK;
use crate::journal::sqlite::SqliteJournal;
use crate::log::{self, LogError};
use crate::metrics::Metrics;
use crate::org;
use crate::problem::{PauseReason, Problem};
use crate::recovery::Recovery;

/// How long the last log line may take to be written.
const LOG_DEADLINE: Duration = Duration::from_secs(2);
/// The note that says who adopted last, and what.
const ADOPTED: &str = "adopted";

pub(super) fn adopt(
    global: &Global,
    flags: &AdoptFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let mut settings = global.load()?.settings;
    only(&mut settings, Some(&flags.org))?;
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), "unknown");
    let log = match log::start(&settings.log, metrics.log_lines_dropped()) {
        Ok(log) => Some(log),
        // The log of this process takes the line.
        Err(LogError::Twice) => None,
        Err(error) => return Err(anyhow::Error::from(error).into()),
    };
    let adopted = runtime()?.block_on(carry_out(&settings, flags, out));
    if let Some(log) = log {
        log.finish(LOG_DEADLINE);
    }
    adopted
}

async fn carry_out(
    settings: &Settings,
    flags: &AdoptFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let Some(org) = settings.orgs.first() else { return Ok(Exit::Done) };
    let clock = Clock::system();
    // Looked at first, so that a state directory that is not there is not made.
    let known = SqliteJournal::open_read_only(&settings.state_dir).map_err(Failure::of_state)?;
    let knows = known.orgs().await.map_err(Failure::of_state)?.contains(&org.id);
    drop(known);
    if !knows {
        return Err(anyhow!(
            "the state directory knows nothing of `{}`: the daemon recovers it by itself",
            org.id
        )
        .into());
    }
    let journal = SqliteJournal::open(&settings.state_dir).map_err(Failure::of_state)?;
    let audit = Audit::open(&settings.state_dir).map_err(anyhow::Error::from)?;
    let lanes = org.destinations();
    let state = journal.open(&org.id, &lanes).await.map_err(Failure::of_state)?;
    if journal.note(&org.id, MARK).await.map_err(Failure::of_state)?.is_some() {
        return Err(anyhow!(
            "`{}` is being recovered from its archive: start the daemon, which ends that by itself",
            org.id
        )
        .into());
    }
    let connections = Connections::connected();
    let mut sources = org::archives(org, &connections, &clock).map_err(unreachable)?;
    if sources.is_empty() {
        return Err(Failure::usage(format!("`{}` has no archive: neither [s3] nor [file]", org.id)));
    }
    let policy = collect::policy(org, 0);
    let recovery = Recovery {
        org: &org.id,
        lanes: &lanes,
        journal: &journal,
        policy: &policy,
        clock: &clock,
        party: None,
    };
    let adopted = recovery
        .adopt(&state, &mut sources, org.packing(), flags.yes)
        .await
        .map_err(|failed| unreachable(failed.into()))?;
    let Some(adopted) = adopted else {
        writeln!(out, "{}: nothing to adopt: the archive holds nothing that the journal does not", org.id)?;
        return Ok(Exit::Done);
    };
    let what = format!(
        "from chunk {} on the archive has {} chunks of another instance; of this one's {} chunks with {} events, {} events are in no other",
        adopted.from, adopted.theirs, adopted.ours, adopted.our_events, adopted.remaining
    );
    if !flags.yes {
        writeln!(out, "{}: {what}", org.id)?;
        writeln!(
            out,
            "{}: with --yes they are taken over, and those events are numbered anew; make sure that the other instance is stopped for good",
            org.id
        )?;
        return Ok(Exit::Done);
    }
    let who = who();
    tracing::warn!(
        org = %org.id, chunk = adopted.from, theirs = adopted.theirs, ours = adopted.ours, remaining = adopted.remaining, who,
        "adopted the chunks of another instance"
    );
    let changed = vec![format!("chunks from {} on", adopted.from)];
    let entry = Entry { act: Act::Adopt, who: who.clone(), org: Some(org.id.clone()), changed };
    audit.record(clock.now(), entry).map_err(anyhow::Error::from)?;
    let note = serde_json::json!({
        "at": clock.now().to_string(), "who": who, "from": adopted.from, "theirs": adopted.theirs, "ours": adopted.ours,
        "remaining": adopted.remaining,
    });
    journal
        .set_note(&org.id, ADOPTED, Some(note.to_string().into_bytes()))
        .await
        .map_err(Failure::of_state)?;
    writeln!(out, "{}: adopted: {what} and have new numbers; start the daemon", org.id)?;
    if !lanes.contains(&DestinationName::Sentinel) {
        return Ok(Exit::Done);
    }
    writeln!(out, "{}: rows that both instances sent are in Sentinel twice, under one key", org.id)?;
    Ok(Exit::Done)
}

fn unreachable(problem: Problem) -> Failure {
    let exit = if problem.reason == PauseReason::Disk { Exit::Failed } else { Exit::Unreachable };
    Failure { exit, error: anyhow!("{}: {}", problem.cause, problem.remedy) }
}
