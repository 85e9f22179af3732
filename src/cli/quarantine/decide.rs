//! `quarantine retry` and `quarantine drop`: a person's decision, carried out and recorded in one transaction, and logged.
//!
//! The daemon must be stopped: the state directory has one writer.

use std::io::Write;
use std::time::Duration;

use anyhow::anyhow;

use super::{Pages, looked_at, not_in_quarantine, rows};
use crate::audit::who::who;
use crate::audit::{Act, Audit, Entry};
use crate::cli::{Exit, Failure, SelectionFlags, known_orgs, runtime};
use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::destination::{DestinationName, QuarantineReason, Refusal, RowId};
use crate::event::OrgId;
use crate::journal::decision::{Action, DECISION_ROWS_MAX, DECISION_WORDS_BYTES_MAX, Decision};
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, PROVISIONAL_ROWS_MAX};
use crate::log::{self, LogError};
use crate::metrics::Metrics;

/// How long the last log line may take to be written.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

pub(super) fn decide(
    settings: &Settings,
    action: Action,
    flags: &SelectionFlags,
    reason: &str,
    clock: &Clock,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let reason = reason.trim();
    if action == Action::Drop && reason.is_empty() {
        return Err(Failure::usage(
            "say why with --reason: it is all that is left of the decision".to_owned(),
        ));
    }
    if reason.len() > DECISION_WORDS_BYTES_MAX {
        return Err(Failure::usage(format!("--reason takes at most {DECISION_WORDS_BYTES_MAX} bytes")));
    }
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), "unknown");
    let log = match log::start(&settings.log, metrics.log_lines_dropped()) {
        Ok(log) => Some(log),
        // The log of this process takes the line.
        Err(LogError::Twice) => None,
        Err(error) => return Err(anyhow::Error::from(error).into()),
    };
    let decided = runtime()?.block_on(carry_out(settings, action, flags, reason, clock, out));
    if let Some(log) = log {
        log.finish(LOG_DEADLINE);
    }
    decided
}

async fn carry_out(
    settings: &Settings,
    action: Action,
    flags: &SelectionFlags,
    reason: &str,
    clock: &Clock,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let destination = flags.destination;
    // Looked at first, so that a state directory that is not there is not made.
    let orgs = known_orgs(settings, &looked_at(settings)?, Some(&flags.org)).await?;
    let journal = SqliteJournal::open(&settings.state_dir).map_err(Failure::of_state)?;
    let audit = Audit::open(&settings.state_dir).map_err(anyhow::Error::from)?;
    for org in orgs {
        let runs =
            settings.orgs.iter().any(|known| known.id == org && known.destinations().contains(&destination));
        if action == Action::Retry && !runs {
            return Err(anyhow!(
                "{destination} is not configured for `{org}`, so nobody would send the rows again: configure it, or drop them"
            )
            .into());
        }
        let selected = select(&journal, &org, flags).await?;
        let selected = match action {
            Action::Retry => sendable(&journal, &org, flags, selected, out).await?,
            Action::Drop => selected.into_iter().map(|refusal| refusal.at).collect(),
        };
        let mut left = None;
        for some in selected.chunks(DECISION_ROWS_MAX) {
            let decision = Decision {
                action,
                destination,
                rows: some.to_vec(),
                who: who(),
                reason: reason.to_owned(),
                at: clock.now(),
            };
            left = Some(journal.decide(&org, decision.clone()).await.map_err(anyhow::Error::from)?);
            record(&org, &decision);
            audit.record(decision.at, entry(&org, &decision)).map_err(anyhow::Error::from)?;
        }
        let count = rows(selected.len() as u64);
        match (action, left) {
            (_, None) => writeln!(out, "{org}: nothing to {} for {destination}", action.as_str())?,
            (Action::Drop, Some(left)) => writeln!(
                out,
                "{org}: {count} dropped from the quarantine for {destination}, {left} left; the archive keeps what was dropped"
            )?,
            (Action::Retry, Some(_)) => writeln!(
                out,
                "{org}: {count} will be sent to {destination} again, with the next chunk after the daemon has started"
            )?,
        }
    }
    Ok(Exit::Done)
}

/// The audit record has who, and about how many rows; the journal's own has which, and why.
fn entry(org: &OrgId, decision: &Decision) -> Entry {
    let act = match decision.action {
        Action::Retry => Act::QuarantineRetry,
        Action::Drop => Act::QuarantineDrop,
    };
    let about = format!("{}: {}", decision.destination, rows(decision.rows.len() as u64));
    Entry { act, who: decision.who.clone(), org: Some(org.clone()), changed: vec![about] }
}

/// The log has what the journal's record has.
fn record(org: &OrgId, decision: &Decision) {
    const SHOWN: usize = 20;
    let mut which: Vec<String> =
        decision.rows.iter().take(SHOWN).map(|at| format!("{}:{}", at.chunk, at.row)).collect();
    if decision.rows.len() > SHOWN {
        which.push(format!("and {} more", decision.rows.len() - SHOWN));
    }
    tracing::warn!(
        org = %org, destination = %decision.destination, act = decision.action.as_str(), rows = decision.rows.len(),
        which = which.join(" "), who = decision.who, reason = decision.reason, "decided about rows in quarantine"
    );
}

/// The rows the command line means. One that it names must be there.
async fn select(journal: &dyn Journal, org: &OrgId, flags: &SelectionFlags) -> Result<Vec<Refusal>, Failure> {
    let mut selected = Vec::new();
    let mut pages = Pages::new(journal, org, flags.destination);
    while let Some(page) = pages.next().await? {
        let meant = page.into_iter().map(|row| row.refusal).filter(|refusal| {
            flags.all
                || (flags.chunk == Some(refusal.at.chunk)
                    && (flags.row.is_empty() || flags.row.contains(&refusal.at.row)))
        });
        selected.extend(meant);
    }
    if let Some(chunk) = flags.chunk {
        let is_there = |row: u32| selected.iter().any(|refusal: &Refusal| refusal.at.row == row);
        if let Some(row) = flags.row.iter().copied().find(|row| !is_there(*row)) {
            return Err(not_in_quarantine(org, flags.destination, RowId { chunk, row }));
        }
        if selected.is_empty() {
            return Err(anyhow!(
                "no row of chunk {chunk} of `{org}` is in quarantine for {}: `quarantine list --org {org}` lists those that are",
                flags.destination
            )
            .into());
        }
    }
    Ok(selected)
}

/// Those of them that can be sent at all, as many as may wait at once; the others are told of.
async fn sendable(
    journal: &dyn Journal,
    org: &OrgId,
    flags: &SelectionFlags,
    selected: Vec<Refusal>,
    out: &mut (dyn Write + Send),
) -> Result<Vec<RowId>, Failure> {
    let (mut timeless, mut gone, mut already) = (0, 0, 0);
    let mut kept: Option<(u64, bool)> = None;
    let mut sendable = Vec::new();
    for refusal in selected {
        let chunk = refusal.at.chunk;
        // They come in order, so each chunk is asked for once.
        let is_kept = match kept {
            Some((known, is_kept)) if known == chunk => is_kept,
            _ => journal.chunk(org, chunk).await.map_err(anyhow::Error::from)?.is_some(),
        };
        kept = Some((chunk, is_kept));
        if refusal.reason == QuarantineReason::ImplausibleTime {
            timeless += 1;
        } else if !is_kept {
            gone += 1;
        } else if refusal.provisional {
            already += 1;
        } else {
            sendable.push(refusal.at);
        }
    }
    let waiting = journal.provisional(org, flags.destination).await.map_err(anyhow::Error::from)?.len();
    let room = (PROVISIONAL_ROWS_MAX as usize).saturating_sub(waiting);
    let later = sendable.len().saturating_sub(room);
    sendable.truncate(room);
    for (count, what) in [
        (timeless, "cannot be sent: without a plausible time an event can never be a row"),
        (gone, "cannot be sent: the journal no longer has the chunk; the archive does"),
        (already, "will be sent again anyway"),
        (later, "have to wait: start the daemon, and ask again when it has sent the others"),
    ] {
        if count > 0 {
            writeln!(out, "{org}: {} {what}", rows(count as u64))?;
        }
    }
    if sendable.is_empty() && !flags.row.is_empty() && already == 0 {
        return Err(anyhow!(
            "no row that was named can be sent to {} again",
            DestinationName::as_str(flags.destination)
        )
        .into());
    }
    Ok(sendable)
}
