//! `status`: every org and lane, from the running daemon, else from the state directory. It changes nothing anywhere.
//!
//! *Why the state directory too:* when the daemon does not run is just when somebody wants to know how far it came.

mod ask;
mod stored;
mod table;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context;

use super::{Exit, Failure, Global, StatusFlags, runtime};
use crate::clock::Clock;
use crate::config::settings::Settings;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, JournalError};
use crate::report::status::Status;
use table::Colours;

pub(super) fn status(
    global: &Global,
    flags: &StatusFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    if flags.healthcheck {
        return Ok(if healthy(global)? { Exit::Done } else { Exit::Failed });
    }
    let settings = global.load_without_secrets()?.settings;
    let now = Clock::system().now();
    let (status, from) = runtime()?.block_on(find(&settings))?;
    if flags.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&status).map_err(anyhow::Error::from)?)?;
    } else {
        let coloured =
            io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        let colours = if coloured { Colours::On } else { Colours::Off };
        out.write_all(table::table(&status, &from, now, colours).as_bytes())?;
    }
    Ok(Exit::Done)
}

/// The status, and in words where it comes from.
async fn find(settings: &Settings) -> anyhow::Result<(Status, String)> {
    let unanswered = match settings.admin {
        Some(listen) => match ask::status(listen).await {
            Ok(status) => return Ok((status, format!("running, asked at {}", ask::reachable(listen)))),
            Err(error) => format!("no daemon answers at {}: {error}", ask::reachable(listen)),
        },
        None => "a daemon cannot be asked, as [admin] listen is \"off\"".to_owned(),
    };
    let directory = settings.state_dir.display();
    let status = read(settings).await.with_context(|| unanswered.clone())?;
    Ok((status, format!("{unanswered}; this is what {directory} holds")))
}

async fn read(settings: &Settings) -> Result<Status, JournalError> {
    let journal = open_journal(&settings.state_dir)?;
    let stored = stored::read(journal.as_ref(), settings).await?;
    Ok(stored::status(settings, &stored))
}

/// The journal as it stands on disk, to be looked at only.
fn open_journal(directory: &Path) -> Result<Box<dyn Journal>, JournalError> {
    SqliteJournal::open_read_only(directory).map(|journal| Box::new(journal) as Box<dyn Journal>)
}

/// Whether `/livez` says yes. A daemon goes on with the configuration it has when the files become invalid, so its probe must not
/// fail because of them: then only the address is read from them.
fn healthy(global: &Global) -> Result<bool, Failure> {
    let listen: Option<SocketAddr> = match global.load_without_secrets() {
        Ok(loaded) => loaded.settings.admin,
        Err(_) => crate::config::admin_listen(global.config.as_deref()),
    };
    match listen {
        Some(listen) => Ok(runtime()?.block_on(ask::alive(listen))),
        None => Ok(false),
    }
}
