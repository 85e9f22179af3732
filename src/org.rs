//! One org: a collector that journals, and a lane for each destination that delivers. Reads as the picture in the crate's docs does.
//!
//! Nothing of one org waits for another. A part that panics is started again from what is stored, and the others go on.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Second, whole_seconds};
use crate::collect::{self, Collector, Until};
use crate::config::settings::{HeartbeatStream, OrgSettings, Settings};
use crate::destination::file::reading::FolderReader;
use crate::destination::s3::client::Connections;
use crate::destination::s3::reading::BucketReader;
use crate::destination::sentinel::credential::Credentials;
use crate::destination::sentinel::{Beats, Sentinel};
use crate::destination::{Destination, DestinationName, Pulse, file, s3};
use crate::heartbeat::Heartbeat;
use crate::http::{ClientError, Clients, Route, Transport};
use crate::journal::handover::{Checkpoints, Journaled};
use crate::journal::{Journal, JournalError, OrgState};
use crate::lane::{self, Lane};
use crate::problem::{PauseReason, Problem};
use crate::pulumi::budget::HostBudgets;
use crate::pulumi::client::Client;
use crate::pulumi::environment::Environments;
use crate::recovery::{Outcome, Place, Recovery, Source};
use crate::report::{OrgReport, Reports};
use crate::retry;
use crate::stop::Stop;

/// Makes the transport for a route. Simulated services hand in their own.
pub type Connect = Arc<dyn Fn(&Route) -> Result<Arc<dyn Transport>, ClientError> + Send + Sync>;

/// What all orgs share.
pub struct Shared {
    pub journal: Arc<dyn Journal>,
    /// `max_bytes_per_org` as it is in force.
    pub journal_bytes_max: Arc<AtomicU64>,
    pub reports: Reports,
    pub clock: Clock,
    pub connect: Connect,
    pub hosts: HostBudgets,
    pub environments: Environments,
    pub credentials: Credentials,
    pub s3: Connections,
    /// Moves on when a secret's file may have changed: whoever waits looks at its secrets again.
    pub secrets_changed: watch::Sender<u64>,
}

impl Shared {
    /// Over real connections.
    pub fn connected(
        settings: &Settings,
        journal: Arc<dyn Journal>,
        reports: Reports,
        clock: Clock,
    ) -> Shared {
        let clients = Arc::new(Clients::default());
        let environments = Environments::connected(&clients);
        let s3 = Connections::new(clients.clone(), environments.clone());
        Shared {
            journal,
            journal_bytes_max: Arc::new(settings.journal.max_bytes_per_org.into()),
            reports,
            clock,
            connect: Arc::new(move |route| clients.transport(route)),
            hosts: HostBudgets::default(),
            environments,
            credentials: Credentials::default(),
            s3,
            secrets_changed: watch::Sender::default(),
        }
    }
}

/// How often a part that cannot be set up (an unreadable `ca_file`, a disk that fails) is tried again.
const SET_UP_PAUSE: Duration = Duration::from_secs(30);

/// How often a recovery that a person has to help is tried again.
const RECOVERY_PAUSE: Duration = Duration::from_secs(30);
/// Pieces of an archive that a recovery reads at once: hides the way to the store.
const READ_AT_ONCE: usize = 8;

/// One org and what it shares.
#[derive(Clone)]
pub struct Org {
    settings: Arc<OrgSettings>,
    /// Where in the poll interval its turn is, in seconds.
    phase: i64,
    shared: Arc<Shared>,
    report: OrgReport,
    stop: Stop,
}

impl Org {
    pub fn new(settings: Arc<OrgSettings>, phase: i64, shared: Arc<Shared>, stop: Stop) -> Org {
        let report = shared.reports.org(&settings);
        Org { settings, phase, shared, report, stop }
    }

    /// Collects and delivers until stopped, or until nothing is due and everything is delivered or paused.
    /// A panic on the way there, as while the archive is looked at, starts it again from what is stored.
    pub async fn run(self, until: Until) {
        kept_alive(self.clone(), move || self.clone().begin(until)).await;
    }

    async fn begin(self, until: Until) {
        let Some(state) = self.open().await else { return };
        let Some(state) = self.recovered(state, until).await else { return };
        for (destination, first) in &state.added {
            if *first > 0 {
                tracing::warn!(
                    org = %self.settings.id, destination = %destination, chunk = first,
                    "a new lane starts at the oldest chunk kept; earlier events are not delivered there"
                );
            }
        }
        let checkpoints = Arc::new(Checkpoints::new(&state.checkpoints));
        let first =
            Journaled { next: state.next, cursor: state.start.map(|start| state.coverage.cursor(start)) };
        let (journaled, _) = watch::channel(first);
        // Cancelled when nothing more will be journaled.
        let drained = CancellationToken::new();

        let mut parts = JoinSet::new();
        for destination in self.settings.destinations() {
            let (org, checkpoints) = (self.clone(), checkpoints.clone());
            let (journaled, drained) = (journaled.clone(), drained.clone());
            parts.spawn(kept_alive(self.clone(), move || {
                let (org, checkpoints) = (org.clone(), checkpoints.clone());
                let (journaled, drained) = (journaled.subscribe(), drained.clone());
                async move { org.deliver(destination, checkpoints, journaled, drained).await }
            }));
        }
        if until == Until::Stopped {
            for destination in self.settings.destinations() {
                let (org, drained) = (self.clone(), drained.clone());
                parts.spawn(kept_alive(self.clone(), move || {
                    let (org, drained) = (org.clone(), drained.clone());
                    async move { org.beat(destination, drained).await }
                }));
            }
        }
        let (org, ended) = (self.clone(), drained.clone());
        parts.spawn(async move {
            kept_alive(org.clone(), move || {
                let (org, checkpoints, journaled) = (org.clone(), checkpoints.clone(), journaled.clone());
                async move { org.collect(checkpoints, journaled, until).await }
            })
            .await;
            ended.cancel();
        });
        while parts.join_next().await.is_some() {}
    }

    /// The org's state; a disk that fails is a pause, not an end.
    async fn open(&self) -> Option<OrgState> {
        loop {
            match self.shared.journal.open(&self.settings.id, &self.settings.destinations()).await {
                Ok(state) => return Some(state),
                Err(error) => {
                    self.report.source().paused(&disk(&error));
                    self.report.first_sweep_ended();
                    self.pause(SET_UP_PAUSE).await?;
                }
            }
        }
    }

    /// The org's state, put back from its archive where the journal is empty or older. `None` when it ends here: stopped, or, where
    /// only what is due is wanted, a person has to act first.
    async fn recovered(&self, state: OrgState, until: Until) -> Option<OrgState> {
        let source = self.report.source();
        let lanes = self.settings.destinations();
        let policy = collect::policy(&self.settings, self.phase);
        let recovery = Recovery {
            org: &self.settings.id,
            lanes: &lanes,
            journal: &*self.shared.journal,
            policy: &policy,
            clock: &self.shared.clock,
            party: Some(source),
        };
        let mut state = state;
        loop {
            let outcome = match archives(&self.settings, &self.shared.s3, &self.shared.clock) {
                Ok(mut sources) => tokio::select! {
                    () = self.stop.collecting().cancelled() => return None,
                    outcome = recovery.run(&state, &mut sources) => outcome.map_err(Problem::from),
                },
                // A journal that is whole goes on; its lane says what is wrong.
                Err(_) if state.start.is_some() => return Some(state),
                Err(problem) => Err(problem),
            };
            match outcome {
                Ok(Outcome::Nothing) => return Some(state),
                Ok(Outcome::Recovered) => {
                    source.ok();
                    return self.open().await;
                }
                Err(problem) => {
                    source.paused(&problem);
                    self.report.first_sweep_ended();
                    if until == Until::NothingDue {
                        return None;
                    }
                    self.pause(RECOVERY_PAUSE).await?;
                    state = self.open().await?;
                }
            }
        }
    }

    async fn collect(
        &self,
        checkpoints: Arc<Checkpoints>,
        journaled: watch::Sender<Journaled>,
        until: Until,
    ) {
        let Some(state) = self.open().await else { return };
        let transport = loop {
            match (self.shared.connect)(&self.settings.source.route) {
                Ok(transport) => break transport,
                Err(error) => {
                    self.report.source().paused(&unusable(&error));
                    self.report.first_sweep_ended();
                    if until == Until::NothingDue || self.pause(SET_UP_PAUSE).await.is_none() {
                        return;
                    }
                }
            }
        };
        let metrics = self.report.metrics();
        let mut client = Client::new(
            &self.settings,
            transport,
            &self.shared.hosts,
            self.shared.environments.exchanges(),
            self.shared.clock.clone(),
            metrics.clone(),
        );
        client.reports_to(self.report.source().clone());
        let collector = Collector::new(collect::Parts {
            settings: self.settings.clone(),
            phase: self.phase,
            client,
            journal: self.shared.journal.clone(),
            journal_bytes_max: self.shared.journal_bytes_max.clone(),
            state,
            checkpoints,
            journaled,
            report: self.report.clone(),
            metrics,
            clock: self.shared.clock.clone(),
            secrets_changed: self.shared.secrets_changed.subscribe(),
        });
        collector.run(until, self.stop.clone()).await;
    }

    async fn deliver(
        &self,
        name: DestinationName,
        checkpoints: Arc<Checkpoints>,
        journaled: watch::Receiver<Journaled>,
        drained: CancellationToken,
    ) {
        let destination = loop {
            match self.destination(name).await {
                Ok(destination) => break destination,
                Err(problem) => {
                    self.report.lane(name).paused(&problem);
                    if drained.is_cancelled() || self.pause(SET_UP_PAUSE).await.is_none() {
                        return;
                    }
                }
            }
        };
        let Some(state) = self.open().await else { return };
        let checkpoint = state.checkpoints.get(&name).copied().unwrap_or(state.next);
        checkpoints.set(name, checkpoint);
        let lane = Lane::new(lane::Parts {
            org: self.settings.id.clone(),
            destination,
            journal: self.shared.journal.clone(),
            journaled,
            checkpoint,
            checkpoints,
            party: self.report.lane(name).clone(),
            metrics: self.report.metrics(),
            clock: self.shared.clock.clone(),
            secrets_changed: self.shared.secrets_changed.subscribe(),
            stop: self.stop.delivering().clone(),
        });
        lane.run(drained).await;
    }

    /// Sends heartbeats, where they are configured, until told to end.
    async fn beat(&self, name: DestinationName, drained: CancellationToken) {
        let heartbeat = loop {
            match self.heartbeat(name) {
                Ok(None) => return,
                Ok(Some(found)) => break found,
                // The lane needs the same file, and says what is wrong with it.
                Err(_) => {
                    if self.pause(SET_UP_PAUSE).await.is_none() {
                        return;
                    }
                }
            }
        };
        tokio::select! {
            () = heartbeat.run() => {}
            () = self.stop.delivering().cancelled() => {}
            () = drained.cancelled() => {}
        }
    }

    fn heartbeat(&self, name: DestinationName) -> Result<Option<Heartbeat>, Problem> {
        let Shared { connect, credentials, environments, s3, clock, .. } = &*self.shared;
        let (every, pulse): (_, Box<dyn Pulse>) = match (name, &self.settings.sentinel, &self.settings.s3) {
            (DestinationName::Sentinel, Some(sentinel), _) => {
                let Some(HeartbeatStream { stream, interval }) = &sentinel.heartbeat else { return Ok(None) };
                let transport = connect(&sentinel.route).map_err(|error| unusable(&error))?;
                let credential = credentials.get(sentinel, transport.clone(), environments, clock);
                let beats = Beats::new(sentinel, stream, transport, credential, clock.clone());
                (*interval, Box::new(beats))
            }
            (DestinationName::S3, _, Some(bucket)) => {
                let Some(every) = bucket.heartbeat_interval else { return Ok(None) };
                (every, s3::heartbeats(bucket, &self.settings.id, s3, clock)?)
            }
            _ => return Ok(None),
        };
        let (report, clock) = (self.report.clone(), clock.clone());
        Ok(Some(Heartbeat { report, destination: name, pulse, every, phase: self.phase, clock }))
    }

    /// The destination of a lane, as configured.
    async fn destination(&self, name: DestinationName) -> Result<Box<dyn Destination>, Problem> {
        let id = &self.settings.id;
        let provisional = self.shared.journal.provisional(id, name).await.map_err(|error| disk(&error))?;
        destination(&self.settings, name, &self.shared, &self.report, provisional)
    }

    /// `None` when told to end meanwhile: what cannot be set up has nothing to finish.
    async fn pause(&self, wait: Duration) -> Option<()> {
        tokio::select! {
            () = self.stop.collecting().cancelled() => None,
            () = sleep(wait) => Some(()),
        }
    }
}

/// Makes the destination `name` of an org. It must be configured.
///
/// # Errors
/// When its settings name a file that cannot be used.
pub fn destination(
    settings: &OrgSettings,
    name: DestinationName,
    shared: &Shared,
    report: &OrgReport,
    provisional: Vec<crate::destination::Refusal>,
) -> Result<Box<dyn Destination>, Problem> {
    let missing = || Problem {
        reason: PauseReason::Configuration,
        cause: format!("destination {name} is not configured"),
        remedy: format!("add a section [{name}] to the org's file"),
    };
    match name {
        DestinationName::Sentinel => {
            let sentinel = settings.sentinel.as_ref().ok_or_else(missing)?;
            let transport = (shared.connect)(&sentinel.route).map_err(|error| unusable(&error))?;
            let credential =
                shared.credentials.get(sentinel, transport.clone(), &shared.environments, &shared.clock);
            let who = credential.clone();
            report.lane(name).acts_as(move || who.identity());
            let (clock, metrics) = (shared.clock.clone(), report.metrics());
            Ok(Box::new(Sentinel::new(sentinel, transport, credential, clock, metrics, provisional)))
        }
        DestinationName::S3 => {
            let bucket = settings.s3.as_ref().ok_or_else(missing)?;
            Ok(Box::new(s3::destination(bucket, &settings.id, &shared.s3, &shared.clock)?))
        }
        DestinationName::File => {
            let folder = settings.file.as_ref().ok_or_else(missing)?;
            Ok(Box::new(file::destination(folder, &settings.id)))
        }
    }
}

/// The archives of an org, to recover from.
///
/// # Errors
/// When the settings name a file that cannot be used.
pub fn archives(
    settings: &OrgSettings,
    connections: &Connections,
    clock: &Clock,
) -> Result<Vec<Source>, Problem> {
    let mut sources = Vec::new();
    // Where both hold the same, the one that is near and answers at once is read.
    if let Some(folder) = &settings.file {
        let reader = || Box::new(FolderReader::new(&folder.path, &settings.id)) as Box<dyn Place>;
        let readers = (0..READ_AT_ONCE).map(|_| reader()).collect();
        sources.push(Source { name: DestinationName::File, readers });
    }
    if let Some(bucket) = &settings.s3 {
        let reader = || BucketReader::new(bucket, &settings.id, connections, clock);
        let readers: Result<Vec<_>, _> = (0..READ_AT_ONCE).map(|_| reader()).collect();
        let readers = readers?.into_iter().map(|reader| Box::new(reader) as Box<dyn Place>).collect();
        sources.push(Source { name: DestinationName::S3, readers });
    }
    Ok(sources)
}

fn disk(error: &JournalError) -> Problem {
    Problem { reason: PauseReason::Disk, cause: error.to_string(), remedy: error.remedy().into() }
}

fn unusable(error: &ClientError) -> Problem {
    Problem {
        reason: PauseReason::Configuration,
        cause: error.to_string(),
        remedy: format!("correct `{}`; it is read again by itself", error.key()),
    }
}

/// Runs a part again from what is stored whenever it panics.
async fn kept_alive<F: Future<Output = ()> + Send + 'static>(org: Org, mut part: impl FnMut() -> F) {
    let mut panics = 0;
    loop {
        let mut task = JoinSet::new();
        task.spawn(part());
        match task.join_next().await {
            Some(Err(error)) if error.is_panic() => {
                panics += 1;
                tracing::error!(org = %org.settings.id, panics, "a part of the org panicked and is started again; this is a bug, please report it");
                if org.pause(retry::backoff(panics + 3, 1.0)).await.is_none() {
                    return;
                }
            }
            _ => return,
        }
    }
}

/// Spreads `count` orgs over the poll interval: the phase of the one at `index`, in seconds.
pub fn phase(index: usize, count: usize, poll_interval: Duration) -> i64 {
    let interval = poll_interval.as_secs().max(1);
    let count = u64::try_from(count).unwrap_or(1).max(1);
    let index = u64::try_from(index).unwrap_or(0);
    i64::try_from(interval * (index % count) / count).unwrap_or(0)
}

/// When, after the process started, the org at `index` begins: close together, but not at once.
pub fn stagger(index: usize, count: usize, poll_interval: Duration) -> Duration {
    let apart = poll_interval / u32::try_from(count.max(1)).unwrap_or(u32::MAX);
    apart.min(Duration::from_millis(200)) * u32::try_from(index).unwrap_or(u32::MAX)
}

/// Oldest local time whose acknowledged chunks are kept.
pub fn retained_since(now: Second, retain: Duration) -> Second {
    now.saturating_add(-whole_seconds(retain))
}
