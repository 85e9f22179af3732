//! `run`: the daemon, and `run --once`.

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use super::progress::Progress;
use super::{Exit, Failure, Global, RunFlags, no_threads, runtime};
use crate::config::Loaded;
use crate::journal::JournalError;
use crate::log;
use crate::metrics::Metrics;
use crate::reload::Reloading;
use crate::report::status::Status;
use crate::supervisor::{self, Ended, RunOptions, StartError, Watch};
use crate::systemd::ServiceManager;

/// How long the service manager may take to read what it is told.
const TOLD_DEADLINE: Duration = Duration::from_secs(1);
/// How long the last log lines may take to be written.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

pub(super) fn run(global: &Global, flags: &RunFlags) -> Result<Exit, Failure> {
    let Loaded { mut settings, file, orgs_dir, .. } = global.load()?;
    let shown = flags.once && std::io::stderr().is_terminal();
    if shown && settings.log.level == "info" {
        // The lines of the progress say the same, and are redrawn in place.
        settings.log.level = "warn".to_owned();
    }
    let revision = option_env!("PAF_REVISION").unwrap_or("unknown");
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), revision);
    let log = log::start(&settings.log, metrics.log_lines_dropped()).map_err(anyhow::Error::from)?;
    let watch = shown.then(|| {
        let mut progress = Progress::default();
        Box::new(move |status: &Status| progress.show(status)) as Watch
    });
    let again = global.clone();
    let reloading = (!flags.once).then(|| Reloading {
        load: Arc::new(move || again.load()),
        file,
        orgs_dir,
        level: Some(log.level()),
    });
    let service_manager = match flags.once {
        true => None,
        false => ServiceManager::of_this_process().map_err(no_threads)?,
    };
    let told = service_manager.clone();
    let options = RunOptions { once: flags.once.then_some(flags.timeout), watch, reloading, service_manager };
    let ended = runtime()?.block_on(log.beside(supervisor::run(settings, metrics, options)));
    if let Some(service_manager) = told {
        service_manager.finish(TOLD_DEADLINE);
    }
    log.finish(LOG_DEADLINE);
    match ended {
        Ok(Ended::Done) => Ok(Exit::Done),
        Ok(Ended::Incomplete(lines)) => {
            Err(Failure::new(Exit::Failed, anyhow!("not everything is delivered:\n  {}", lines.join("\n  "))))
        }
        Ok(Ended::Damaged(what)) => Err(Failure::new(
            Exit::Failed,
            anyhow!(
                "{}: start again: the whole journal is read then, and what can be done about it is done or said",
                JournalError::Damaged(what)
            ),
        )),
        Err(StartError::Journal(busy @ JournalError::Busy { .. })) => Err(Failure::new(Exit::Busy, busy)),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}
