//! Probes: every source and destination is tried as `check` asks for it, and each thing tried has an outcome. No state directory is
//! needed, and nothing is written but what [`How::write_probe`] asks for.
//!
//! This file goes from org to org. What is tried of a party is that party's business, in a file of its own: [`source`] here, and
//! [`Destination::check`](crate::destination::Destination::check) of each destination, beside the rest of it
//! (`destination/sentinel/check.rs`, `destination/s3/check.rs`). So a new identity or option adds its [`Trial`] there and nothing here.
//!
//! *Why a few orgs at once and not all:* a service that does not answer must not take its deadline from every org in turn, nor a
//! thousand requests at once from the service.

mod dates;
mod source;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::dates::Dates;
use crate::clock::Clock;
use crate::config::settings::{OrgSettings, Settings};
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::memory::MemoryJournal;
use crate::metrics::Metrics;
use crate::org::{self, Shared};
use crate::problem::{PauseReason, Problem};
use crate::report::Reports;
use crate::rotation::Standing;
use crate::secret::{Freshness, Place, SecretError};
use crate::trial::{How, Outcome, Trial};

/// Orgs that are tried at the same time.
const AT_ONCE: usize = 16;
/// Longest time for all that is tried of one party; each request has its own deadline below that.
const PARTY_DEADLINE: Duration = Duration::from_secs(150);

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Probe {
    pub org: OrgId,
    /// `source` or a destination's name.
    pub party: String,
    pub trial: Trial,
}

/// Tries every source and every destination; the results come org by org, in the order of their ids. The receiver ends when all have
/// answered.
pub fn probes(settings: &Settings, write_probe: bool) -> mpsc::Receiver<Probe> {
    let (sender, receiver) = mpsc::channel(16);
    let settings = settings.clone();
    tokio::spawn(async move {
        let clock = Clock::system();
        let reports = Reports::new(Metrics::new(env!("CARGO_PKG_VERSION"), ""), clock.clone());
        let mut shared = Shared::connected(&settings, Arc::new(MemoryJournal::new()), reports, clock.clone());
        let dates = Dates::new(clock.clone());
        shared.connect = dates.watching(shared.connect);
        let (shared, how) = (Arc::new(shared), How { write_probe, clock });
        let mut orgs = settings.orgs.into_iter();
        let mut under_way: VecDeque<JoinHandle<Vec<Probe>>> = VecDeque::new();
        loop {
            while under_way.len() < AT_ONCE
                && let Some(org) = orgs.next()
            {
                let (shared, dates, how) = (shared.clone(), dates.clone(), how.clone());
                under_way.push_back(tokio::spawn(async move { of_org(&org, &shared, &dates, &how).await }));
            }
            let Some(next) = under_way.pop_front() else { return };
            for probe in next.await.unwrap_or_default() {
                if sender.send(probe).await.is_err() {
                    under_way.iter().for_each(JoinHandle::abort);
                    return;
                }
            }
        }
    });
    receiver
}

/// All parties of one org, one after the other, as they are read.
async fn of_org(org: &OrgSettings, shared: &Shared, dates: &Dates, how: &How) -> Vec<Probe> {
    let mut tried = vec![in_time("source", source::tried(org, shared, dates)).await];
    for name in org.destinations() {
        tried.push(in_time(name.as_str(), of_destination(org, name, shared, dates, how)).await);
    }
    let probe = |party: &str, trial| Probe { org: org.id.clone(), party: party.to_owned(), trial };
    tried
        .into_iter()
        .flat_map(|(party, trials)| trials.into_iter().map(move |trial| probe(party, trial)))
        .collect()
}

async fn in_time(party: &str, trials: impl Future<Output = Vec<Trial>>) -> (&str, Vec<Trial>) {
    let trials = tokio::time::timeout(PARTY_DEADLINE, trials).await.unwrap_or_else(|_| {
        let cause = format!("no whole answer within {} s", PARTY_DEADLINE.as_secs());
        vec![Trial { tried: "answer", outcome: Outcome::unreachable(cause) }]
    });
    (party, trials)
}

/// What is wrong with one of two configured secrets, where the other one works.
fn of_secrets(standing: &Standing) -> Option<Trial> {
    let key = standing.in_use?.key;
    let cause = standing.warning.as_ref().or(standing.given_up.as_ref())?;
    let outcome = Outcome::Warning {
        cause: format!("one of the two secrets is refused: {cause}"),
        remedy: format!("replace it, or remove it from the configuration; {key} is used meanwhile"),
    };
    Some(Trial::new("other secret", outcome))
}

async fn of_destination(
    org: &OrgSettings,
    name: DestinationName,
    shared: &Shared,
    dates: &Dates,
    how: &How,
) -> Vec<Trial> {
    let environments = of_environments(org, name, shared).await;
    if environments.iter().any(Trial::ends) {
        return environments;
    }
    let report = shared.reports.org(org);
    let mut trials = match org::destination(org, name, shared, &report, Vec::new()) {
        Ok(mut destination) => {
            let mut trials = destination.check(how).await;
            if !trials.iter().any(Trial::ends) {
                destination.look_at_secrets().await;
                trials.extend(destination.standing().and_then(|standing| of_secrets(&standing)));
            }
            trials
        }
        Err(problem) => vec![Trial { tried: "settings", outcome: Outcome::Failed(problem) }],
    };
    if let Some(sentinel) = &org.sentinel
        && name == DestinationName::Sentinel
    {
        trials.extend(dates.trial(&[&sentinel.authority, &sentinel.endpoint]));
    }
    environments.into_iter().chain(trials).collect()
}

/// Whether the secrets of a destination that lie in ESC environments can be had. Opens each environment once.
async fn of_environments(org: &OrgSettings, name: DestinationName, shared: &Shared) -> Vec<Trial> {
    let mut trials = Vec::new();
    for secret in org.secrets_of(name) {
        let Place::Esc(place) = &secret.place else { continue };
        let outcome = match shared.environments.read_bytes(secret, Freshness::Kept).await {
            Ok(_) => Outcome::Ok(format!("{place} can be read")),
            Err(SecretError::Unavailable { cause, wait: Some(wait), .. }) => {
                Outcome::throttled(&format!("{place}: {cause}"), Some(wait))
            }
            Err(SecretError::Unavailable { cause, .. }) => Outcome::unreachable(format!("{place}: {cause}")),
            Err(SecretError::Withheld { cause, remedy, .. }) => {
                let cause = format!("{place}: {cause}");
                Outcome::Failed(Problem { reason: PauseReason::Credentials, cause, remedy })
            }
            Err(error) => Outcome::Failed(Problem {
                reason: PauseReason::Credentials,
                cause: error.to_string(),
                remedy: "correct the value in the environment".into(),
            }),
        };
        trials.push(Trial::new("secret", outcome));
    }
    trials
}
