//! `run`: the daemon, and `run --once`.

use std::time::Duration;

use anyhow::anyhow;

use super::{Exit, Failure, Global, RunFlags, runtime};
use crate::journal::JournalError;
use crate::log;
use crate::metrics::Metrics;
use crate::supervisor::{self, Ended, RunOptions, StartError};

/// How long the last log lines may take to be written.
const LOG_DEADLINE: Duration = Duration::from_secs(2);

pub(super) fn run(global: &Global, flags: &RunFlags) -> Result<Exit, Failure> {
    let settings = global.load()?.settings;
    let revision = option_env!("PAF_REVISION").unwrap_or("unknown");
    let metrics = Metrics::new(env!("CARGO_PKG_VERSION"), revision);
    let log = log::start(&settings.log, metrics.log_lines_dropped()).map_err(anyhow::Error::from)?;
    let options = RunOptions { once: flags.once.then_some(flags.timeout) };
    let ended = runtime()?.block_on(supervisor::run(settings, metrics, options));
    log.finish(LOG_DEADLINE);
    match ended {
        Ok(Ended::Done) => Ok(Exit::Done),
        Ok(Ended::Incomplete(lines)) => {
            Err(Failure::new(Exit::Failed, anyhow!("not everything is delivered:\n  {}", lines.join("\n  "))))
        }
        Err(StartError::Journal(busy @ JournalError::Busy { .. })) => Err(Failure::new(Exit::Busy, busy)),
        Err(error) => Err(Failure::new(Exit::Failed, error)),
    }
}
