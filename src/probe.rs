//! Probes: every source and destination asked once, as `check` does. Nothing is written, and no state directory is needed.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::clock::Clock;
use crate::config::settings::{OrgSettings, Settings};
use crate::destination::{PauseReason, Problem};
use crate::event::OrgId;
use crate::journal::memory::MemoryJournal;
use crate::metrics::Metrics;
use crate::org::{self, Shared};
use crate::pulumi::client::{Client, SourceError};
use crate::report::Reports;

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Probe {
    pub org: OrgId,
    /// `source` or a destination's name.
    pub what: String,
    /// What was found to be in order, or what to do.
    pub result: Result<String, Problem>,
}

/// Asks every source and every destination once; nothing is written. The receiver ends when all have answered.
pub fn probes(settings: &Settings) -> mpsc::Receiver<Probe> {
    let (sender, receiver) = mpsc::channel(16);
    let settings = settings.clone();
    tokio::spawn(async move {
        let reports = Reports::new(Metrics::new(env!("CARGO_PKG_VERSION"), ""), Clock::system());
        let shared = Shared::connected(&settings, Arc::new(MemoryJournal::new()), reports, Clock::system());
        for org in &settings.orgs {
            let report = shared.reports.org(org);
            let what = "source".to_owned();
            let result = probe_source(org, &shared).await;
            if sender.send(Probe { org: org.id.clone(), what, result }).await.is_err() {
                return;
            }
            for name in org.destinations() {
                let result = match org::destination(org, name, &shared, &report, Vec::new()) {
                    Ok(mut destination) => destination.check().await,
                    Err(problem) => Err(problem),
                };
                let probe = Probe { org: org.id.clone(), what: name.to_string(), result };
                if sender.send(probe).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Whether the token is accepted and the log can be read: the newest second is asked for.
async fn probe_source(org: &OrgSettings, shared: &Shared) -> Result<String, Problem> {
    let problem = |reason, cause: String, remedy: String| Problem { reason, cause, remedy };
    let transport = (shared.connect)(org.source.ca_file.as_deref()).map_err(|error| {
        problem(PauseReason::Configuration, error.to_string(), "correct `ca_file`".into())
    })?;
    let metrics = shared.reports.metrics().org(&org.id, &org.destinations());
    let mut client = Client::new(org, transport, &shared.hosts, shared.clock.clone(), metrics);
    match client.check().await {
        Ok(()) => Ok(format!("the audit log of `{}` can be read", org.org)),
        Err(SourceError::Credentials { cause, remedy }) => {
            Err(problem(PauseReason::Credentials, cause, remedy))
        }
        Err(SourceError::Permission { cause, remedy }) => {
            Err(problem(PauseReason::Permission, cause, remedy))
        }
        Err(SourceError::Configuration { cause, remedy } | SourceError::BadRequest { cause, remedy }) => {
            Err(problem(PauseReason::Configuration, cause, remedy))
        }
        Err(error) => Err(problem(
            PauseReason::Configuration,
            error.to_string(),
            format!("check that {} can be reached from here, then try again", org.source.api_url),
        )),
    }
}
