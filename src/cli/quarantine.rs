//! `quarantine`: the rows a destination refused for good, and what a person decides about them.
//!
//! `list` and [`show`] look, beside a running daemon or without one. `retry` and `drop` ([`decide`]) change the state, so they need
//! the state directory for themselves. Nothing here sends anything: a lane does, when it is started again.

mod decide;
mod show;
#[cfg(test)]
mod tests;

use std::io::Write;

use serde::Serialize;
use serde_json::json;

use super::{Exit, Failure, Global, QuarantineCommand, QuarantineListFlags, known_orgs, runtime};
use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::destination::{DestinationName, RowId};
use crate::event::OrgId;
use crate::journal::decision::{Action, Decision};
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, JournalError, Quarantined};
use crate::report::status::Moment;
use crate::report::words::clean;

/// Rows read at once.
const PAGE: u32 = 500;
/// Rows of one lane, and decisions of one org, that are listed without `--all`.
const ROWS_LISTED: usize = 50;
const DECISIONS_LISTED: u32 = 10;

pub(super) fn quarantine(
    global: &Global,
    command: &QuarantineCommand,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let settings = global.load_without_secrets()?.settings;
    match command {
        QuarantineCommand::List(flags) => runtime()?.block_on(list(&settings, flags, out)),
        QuarantineCommand::Show(flags) => runtime()?.block_on(show::show(&settings, flags, out)),
        QuarantineCommand::Retry { rows, reason } => {
            let reason = reason.as_deref().unwrap_or_default();
            decide::decide(&settings, Action::Retry, rows, reason, &Clock::system(), out)
        }
        QuarantineCommand::Drop { rows, reason } => {
            decide::decide(&settings, Action::Drop, rows, reason, &Clock::system(), out)
        }
    }
}

/// A row as it is listed. The names are a promise to scripts.
#[derive(Serialize)]
struct Row<'a> {
    org: &'a OrgId,
    destination: DestinationName,
    chunk: u64,
    /// Zero-based line in the chunk.
    row: u32,
    key: &'a str,
    reason: &'static str,
    detail: &'a str,
    since: Option<Moment>,
    /// Its lane sends it again; otherwise it is final.
    provisional: bool,
}

impl<'a> Row<'a> {
    fn of(org: &'a OrgId, destination: DestinationName, row: &'a Quarantined) -> Row<'a> {
        let Quarantined { refusal, since } = row;
        Row {
            org,
            destination,
            chunk: refusal.at.chunk,
            row: refusal.at.row,
            key: &refusal.key,
            reason: refusal.reason.as_str(),
            detail: &refusal.detail,
            since: since.map(Moment),
            provisional: refusal.provisional,
        }
    }
}

async fn list(
    settings: &Settings,
    flags: &QuarantineListFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let journal = looked_at(settings)?;
    let orgs = known_orgs(settings, &journal, flags.org.as_deref()).await?;
    if flags.json {
        list_as_json(&journal, &orgs, flags.destination, out).await?;
    } else {
        list_as_text(&journal, &orgs, flags, out).await?;
    }
    Ok(Exit::Done)
}

fn lanes(only: Option<DestinationName>) -> impl Iterator<Item = DestinationName> {
    DestinationName::ALL.into_iter().filter(move |name| only.is_none_or(|only| only == *name))
}

/// Written row by row: there may be a hundred thousand of each lane.
async fn list_as_json(
    journal: &dyn Journal,
    orgs: &[OrgId],
    only: Option<DestinationName>,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    write!(out, "{{\"rows\":[")?;
    let mut separator = "\n";
    for org in orgs {
        for destination in lanes(only) {
            let mut pages = Pages::new(journal, org, destination);
            while let Some(page) = pages.next().await? {
                for row in &page {
                    let row = serde_json::to_string(&Row::of(org, destination, row));
                    write!(out, "{separator}{}", row.map_err(anyhow::Error::from)?)?;
                    separator = ",\n";
                }
            }
        }
    }
    write!(out, "\n],\"decisions\":[")?;
    separator = "\n";
    for org in orgs {
        for decision in journal.decisions(org, u32::MAX).await.map_err(anyhow::Error::from)? {
            if only.is_some_and(|only| only != decision.destination) {
                continue;
            }
            let rows: Vec<_> =
                decision.rows.iter().map(|at| json!({ "chunk": at.chunk, "row": at.row })).collect();
            let line = json!({
                "at": Moment(decision.at), "org": org, "destination": decision.destination,
                "action": decision.action.as_str(), "who": decision.who, "reason": decision.reason, "rows": rows,
            });
            write!(out, "{separator}{line}")?;
            separator = ",\n";
        }
    }
    writeln!(out, "\n]}}")?;
    Ok(())
}

async fn list_as_text(
    journal: &dyn Journal,
    orgs: &[OrgId],
    flags: &QuarantineListFlags,
    out: &mut (dyn Write + Send),
) -> Result<(), Failure> {
    let mut total = 0;
    for org in orgs {
        for destination in lanes(flags.destination) {
            let outstanding = journal.outstanding(org, destination).await.map_err(anyhow::Error::from)?;
            let count = outstanding.quarantined;
            total += count;
            if count == 0 {
                continue;
            }
            writeln!(out, "{org}: {} in quarantine for {destination}", rows(count))?;
            writeln!(
                out,
                "  {:>10}  {:>5}  {:20}  {:12}  {:16}  KEY",
                "CHUNK", "ROW", "SINCE", "STATE", "REASON"
            )?;
            let mut listed = 0;
            let mut pages = Pages::new(journal, org, destination);
            'pages: while let Some(page) = pages.next().await? {
                for row in &page {
                    if !flags.all && listed == ROWS_LISTED {
                        break 'pages;
                    }
                    listed += 1;
                    list_row(row, out)?;
                }
            }
            if count > listed as u64 {
                writeln!(out, "  {} more: --all lists them", rows(count - listed as u64))?;
            }
            writeln!(out)?;
        }
    }
    if total == 0 {
        writeln!(out, "no rows in quarantine")?;
    }
    for org in orgs {
        // One more than is listed tells that there are more.
        let limit = if flags.all { u32::MAX } else { DECISIONS_LISTED + 1 };
        let mut decisions = journal.decisions(org, limit).await.map_err(anyhow::Error::from)?;
        let more = !flags.all && decisions.len() > DECISIONS_LISTED as usize;
        decisions.truncate(if flags.all { usize::MAX } else { DECISIONS_LISTED as usize });
        decisions.retain(|decision| flags.destination.is_none_or(|only| only == decision.destination));
        if decisions.is_empty() {
            continue;
        }
        writeln!(out, "{org}: decided, newest first")?;
        for decision in &decisions {
            list_decision(decision, out)?;
        }
        if more {
            writeln!(out, "  and more: --all lists them")?;
        }
    }
    Ok(())
}

fn list_row(row: &Quarantined, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let Quarantined { refusal, since } = row;
    let since = since.map_or_else(|| "not known any more".to_owned(), |at| at.to_string());
    let state = if refusal.provisional { "provisional" } else { "final" };
    writeln!(
        out,
        "  {:>10}  {:>5}  {since:20}  {state:12}  {:16}  {}",
        refusal.at.chunk,
        refusal.at.row,
        refusal.reason.as_str(),
        clean(&refusal.key)
    )?;
    if !refusal.detail.is_empty() {
        writeln!(out, "  {:>10}  {:>5}  {}", "", "", clean(&refusal.detail))?;
    }
    Ok(())
}

fn list_decision(decision: &Decision, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let Decision { at, who, action, destination, rows: about, reason } = decision;
    let which = match about.as_slice() {
        [RowId { chunk, row }] => format!("row {row} of chunk {chunk}"),
        about => rows(about.len() as u64),
    };
    let reason = if reason.is_empty() { String::new() } else { format!(": {}", clean(reason)) };
    writeln!(out, "  {at}  {} {which} for {destination}, {}{reason}", action.as_str(), clean(who))?;
    Ok(())
}

fn rows(count: u64) -> String {
    if count == 1 { "1 row".to_owned() } else { format!("{count} rows") }
}

/// The state directory as it stands, to be looked at only.
fn looked_at(settings: &Settings) -> Result<SqliteJournal, Failure> {
    SqliteJournal::open_read_only(&settings.state_dir).map_err(|error| anyhow::Error::from(error).into())
}

/// A lane's quarantine, a bounded number of rows at a time.
struct Pages<'a> {
    journal: &'a dyn Journal,
    org: &'a OrgId,
    destination: DestinationName,
    after: Option<RowId>,
}

impl<'a> Pages<'a> {
    fn new(journal: &'a dyn Journal, org: &'a OrgId, destination: DestinationName) -> Pages<'a> {
        Pages { journal, org, destination, after: None }
    }

    /// `None` after the last.
    async fn next(&mut self) -> Result<Option<Vec<Quarantined>>, Failure> {
        let page = self.journal.quarantine(self.org, self.destination, self.after, PAGE).await;
        let page = page.map_err(anyhow::Error::from)?;
        self.after = page.last().map(|row| row.refusal.at);
        Ok(self.after.is_some().then_some(page))
    }
}

/// One row, if it is in quarantine.
async fn row_of(
    journal: &dyn Journal,
    org: &OrgId,
    destination: DestinationName,
    at: RowId,
) -> Result<Option<Quarantined>, JournalError> {
    // The place before it, wherever a row may be there.
    let before = match (at.row.checked_sub(1), at.chunk.checked_sub(1)) {
        (Some(row), _) => Some(RowId { chunk: at.chunk, row }),
        (None, Some(chunk)) => Some(RowId { chunk, row: u32::MAX }),
        (None, None) => None,
    };
    let found = journal.quarantine(org, destination, before, 1).await?;
    Ok(found.into_iter().find(|row| row.refusal.at == at))
}

fn not_in_quarantine(org: &OrgId, destination: DestinationName, at: RowId) -> Failure {
    let RowId { chunk, row } = at;
    anyhow::anyhow!(
        "row {row} of chunk {chunk} of `{org}` is not in quarantine for {destination}: `quarantine list --org {org}` lists those that are"
    )
    .into()
}
