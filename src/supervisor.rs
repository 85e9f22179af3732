//! The supervisor: holds the state directory, has every org run ([`Fleet`]) and settings reloaded ([`Reloader`]), serves the admin endpoints, and ends in order.
//!
//! It decides nothing about events. A first signal stops collecting and lets deliveries under way finish; a second one aborts.
//! State is correct after `kill -9` all the same.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::{self, AdminError};
use crate::audit::who::who;
use crate::audit::{Act, Audit, AuditError};
use crate::clock::{Clock, Second};
use crate::collect::Until;
use crate::config::settings::Settings;
use crate::fleet::{Fleet, InForce};
use crate::journal::measured::Measured;
use crate::journal::sqlite::SqliteJournal;
use crate::journal::{Journal, JournalError};
use crate::liveness::{Liveness, Pulse};
use crate::metrics::Metrics;
use crate::org::{self, Shared};
use crate::reload::{Reloader, Reloading};
use crate::report::Reports;
use crate::report::status::{State, Status};
use crate::systemd::{self, ServiceManager};

/// Deliveries under way get this long after a signal.
pub(crate) const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// How often chunks past their retention are deleted.
const PRUNE_EVERY: Duration = Duration::from_secs(60);
/// How often a watcher is shown the status.
const SHOW_EVERY: Duration = Duration::from_millis(500);
/// How often it is looked at how the orgs stand, for whoever is told in one line.
const STANDING_EVERY: Duration = Duration::from_secs(1);

/// How to run.
pub struct RunOptions {
    /// Until nothing is due and everything is delivered, at most this long; `None`: until a signal.
    pub once: Option<Duration>,
    /// Shown the status from time to time.
    pub watch: Option<Watch>,
    /// Without it settings stay as they are, and SIGHUP ends the process at once, as it does where it is not listened to.
    pub reloading: Option<Reloading>,
    /// Told when everything runs, reloads and ends, and that it makes progress.
    pub service_manager: Option<ServiceManager>,
}

/// Somebody who watches.
pub type Watch = Box<dyn FnMut(&Status) + Send>;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    Done,
    /// `--once` with something undelivered: a line for each.
    Incomplete(Vec<String>),
    /// The journal turned out to be damaged; the next start decides what becomes of it.
    Damaged(String),
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Nobody but a person can say that what these orgs had may be given up.
    #[error(
        "the journal in `{directory}` is damaged ({what}), and {orgs} cannot start again from an archive, having neither [s3] nor [file]: put a \
         backup of the directory back, or move `journal.db`, `journal.db-wal` and `journal.db-shm` out of it to let these orgs begin again at \
         their `start`, which sends to Sentinel again what came since then (with the same event keys), and leaves out what came before it \
         and was not delivered yet; nothing was sent"
    )]
    Irreplaceable { directory: String, what: String, orgs: String },
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Admin(#[from] AdminError),
    #[error("cannot listen for signals: {0}")]
    Signals(#[from] std::io::Error),
}

/// Runs every configured org until a signal, or, with `once`, until nothing is due.
///
/// # Errors
/// When the state directory cannot be used, or the admin address is taken. Nothing was read or sent then.
pub async fn run(settings: Settings, metrics: Metrics, options: RunOptions) -> Result<Ended, StartError> {
    // First of all: from here on a signal ends the process in order, even while a large journal is opened.
    let signals = Signals::listen()?;
    let hangup = options.reloading.is_some().then(|| signal(SignalKind::hangup())).transpose()?;
    let clock = Clock::system();
    let service_manager = options.service_manager;
    if let Some(service_manager) = &service_manager {
        service_manager.status("opening the journal".to_owned());
    }
    let opened = Arc::new(open(&settings, clock.now())?);
    metrics.set_damaged_journals(SqliteJournal::damaged_kept(&settings.state_dir));
    let journal: Arc<dyn Journal> = opened.clone();
    let reports = Reports::new(metrics.clone(), clock.clone());
    reports.set_audit(Audit::open(&settings.state_dir)?);
    reports.set_state_open();
    for known in journal.orgs().await? {
        if !settings.orgs.iter().any(|org| org.id == known) {
            tracing::info!(org = %known, "no longer configured; its state is kept");
            reports.retire(&known);
        }
    }
    reports.set_config(true, None);
    for warning in &settings.warnings {
        tracing::warn!(cause = warning, "the configuration is in force, with a warning");
    }

    let stop = CancellationToken::new();
    let measured = Arc::new(Measured::new(journal.clone(), metrics.clone()));
    let shared = Arc::new(Shared::connected(&settings, measured, reports.clone(), clock));
    let until = if options.once.is_some() { Until::NothingDue } else { Until::Stopped };
    let fleet = Arc::new(Fleet::new(shared, until, stop.clone()));
    let mut services = JoinSet::new();
    let liveness = reports.liveness().clone();
    if let Some(service_manager) = &service_manager {
        service_manager.watches(&liveness);
    }
    services.spawn(runtime_turns(liveness.clone(), liveness.pulse("runtime")));
    services.spawn(journal_turns(liveness.clone(), liveness.pulse("journal"), opened.clone()));
    if let Some(listen) = settings.admin {
        let admin = admin::serve(listen, reports.clone(), metrics, liveness.clone(), stop.clone()).await?;
        tracing::info!(address = %admin.address, "admin endpoints are served");
        services.spawn(admin::answers(
            liveness.clone(),
            liveness.quiet_pulse("admin endpoints"),
            admin.address,
        ));
    }
    services.spawn(prune(fleet.in_force(), fleet.shared().clone(), stop.clone()));

    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        orgs = settings.orgs.len(),
        state_dir = %settings.state_dir.display(),
        "started"
    );
    let what = if options.once.is_some() { "run --once" } else { "run" };
    let version = format!("version {}", env!("CARGO_PKG_VERSION"));
    reports.record(
        Act::Start,
        &who(),
        vec![what.to_owned(), version, format!("{} orgs", settings.orgs.len())],
    );
    let reloader = options
        .reloading
        .map(|reloading| Reloader::new(reloading, settings.clone(), fleet.clone(), service_manager.clone()));
    fleet.apply(&settings, &BTreeSet::new());
    if let (Some(reloader), Some(hangup)) = (reloader, hangup) {
        services.spawn(reloader.run(hangup));
    }
    if let Some(watch) = options.watch {
        services.spawn(show(reports.clone(), watch));
    }
    if let Some(service_manager) = &service_manager {
        // Not only when every org has read something: one whose service is away, or whose archive is read first, would keep a start
        // waiting that has succeeded. `/readyz` is for whoever wants to know that.
        service_manager.ready(systemd::line(&reports, fleet.configured()));
    }
    let supervising = supervise(&fleet, signals, options.once, &opened, &stop, service_manager.as_ref());
    let (all_done, by) = tokio::select! {
        ended = supervising => ended,
        never = turns(&fleet, &reports, liveness.pulse("supervisor"), service_manager.as_ref()) => match never {},
    };
    // Nothing more is put in force once orgs end.
    stop.cancel();
    services.shutdown().await;
    fleet.shut_down().await;
    reports.record(Act::Stop, by, Vec::new());
    tracing::info!("stopped");
    Ok(match (opened.damage(), options.once) {
        (Some(what), _) => Ended::Damaged(what),
        (None, None) => Ended::Done,
        (None, Some(_)) => incomplete(&reports.status(), all_done),
    })
}

/// Opens the journal. A damaged one is moved out of the way if every org can start again from its archive; an org with an empty
/// journal looks there before its first sweep.
///
/// *Why all orgs or none:* they share the database, and nothing in a damaged one says for sure which orgs are not concerned.
fn open(settings: &Settings, now: Second) -> Result<SqliteJournal, StartError> {
    let directory = &settings.state_dir;
    let what = match SqliteJournal::open(directory) {
        Err(JournalError::Damaged(what)) => what,
        opened => return Ok(opened?),
    };
    let bare: Vec<&str> = settings
        .orgs
        .iter()
        .filter(|org| org.s3.is_none() && org.file.is_none())
        .map(|org| org.id.as_str())
        .collect();
    if !bare.is_empty() {
        return Err(StartError::Irreplaceable {
            directory: directory.display().to_string(),
            what,
            orgs: named(&bare),
        });
    }
    let moved = SqliteJournal::set_aside(directory, now)?;
    tracing::error!(
        cause = what, path = %moved.path.display(),
        "the journal is damaged and was moved aside; every org starts again from its archive. Look at the disk, then delete the file"
    );
    for path in moved.deleted {
        tracing::warn!(path = %path.display(), "an older damaged journal was deleted to make room");
    }
    Ok(SqliteJournal::open(directory)?)
}

/// A few names, and how many more there are.
fn named(orgs: &[&str]) -> String {
    const SHOWN: usize = 10;
    let mut names = orgs.iter().take(SHOWN).map(|id| format!("`{id}`")).collect::<Vec<_>>().join(", ");
    if orgs.len() > SHOWN {
        names.push_str(&format!(" and {} more", orgs.len() - SHOWN));
    }
    names
}

/// Waits for the orgs to end, for a signal, for damage in the journal, or for the time limit of `--once`. Answers whether the orgs ended
/// by themselves, and what ended them.
async fn supervise(
    fleet: &Fleet,
    mut signals: Signals,
    once: Option<Duration>,
    journal: &SqliteJournal,
    stop: &CancellationToken,
    service_manager: Option<&ServiceManager>,
) -> (bool, &'static str) {
    let by = tokio::select! {
        () = fleet.ended() => return (true, "nothing was due any more"),
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; deliveries under way are finished first");
            name
        }
        what = journal.damaged() => {
            tracing::error!(cause = what, "the journal is damaged; stopping, so that the next start reads all of it");
            "damage in the journal"
        }
        () = sleep(once.unwrap_or(Duration::MAX)) => {
            tracing::warn!("the time limit of --once is reached");
            "the time limit"
        }
    };
    if let Some(service_manager) = service_manager {
        service_manager.stopping();
    }
    stop.cancel();
    tokio::select! {
        ended = timeout(DRAIN_DEADLINE, fleet.ended()) => {
            if ended.is_err() {
                tracing::warn!("not everything under way ended in time; it is sent again at the next start");
            }
        }
        name = signals.next() => tracing::warn!(signal = name, "aborted; what was under way is sent again at the next start"),
    }
    (false, by)
}

async fn show(reports: Reports, mut watch: Watch) {
    loop {
        watch(&reports.status());
        sleep(SHOW_EVERY).await;
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    /// Never waited for: while somebody listens, a write beyond the limit of a file's size is answered with an error, which pauses
    /// a lane or the collecting; otherwise it kills the process.
    _file_size: tokio::signal::unix::Signal,
}

/// SIGXFSZ, which has this number on x86, Arm, RISC-V and Power.
const FILE_SIZE: i32 = 25;

impl Signals {
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _file_size: signal(SignalKind::from_raw(FILE_SIZE))?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Deletes what is past its retention, of the orgs in force: what an org that was removed has journaled stays until it comes back.
async fn prune(in_force: watch::Receiver<Arc<InForce>>, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(PRUNE_EVERY) => {}
        }
        let in_force = in_force.borrow().clone();
        let InForce { journal, orgs } = &*in_force;
        let before = org::retained_since(shared.clock.now(), journal.retain);
        for org in orgs {
            match shared.journal.prune(org, before, journal.max_bytes_per_org).await {
                Ok(0) => {}
                Ok(chunks) => tracing::debug!(org = %org, chunks, "acknowledged chunks pruned"),
                Err(error) => tracing::warn!(org = %org, cause = %error, "cannot prune"),
            }
        }
    }
}

/// The supervisor's own progress: nobody holds a lock for ever on the fleet or on what an org says of itself.
async fn turns(
    fleet: &Fleet,
    reports: &Reports,
    pulse: Pulse,
    service_manager: Option<&ServiceManager>,
) -> Infallible {
    let liveness = reports.liveness();
    loop {
        fleet.turns();
        let line = systemd::line(reports, fleet.configured());
        pulse.beat();
        if let Some(service_manager) = service_manager {
            service_manager.status(line);
        }
        let listened_to = service_manager.map_or(Duration::MAX, |_| STANDING_EVERY);
        sleep(listened_to.min(liveness.period())).await;
    }
}

/// The runtime runs what is spawned.
async fn runtime_turns(liveness: Liveness, pulse: Pulse) {
    loop {
        pulse.beat();
        sleep(liveness.period()).await;
    }
}

/// The journal's thread does what it is asked. One whose disk refuses everything does: that is a pause.
async fn journal_turns(liveness: Liveness, pulse: Pulse, journal: Arc<SqliteJournal>) {
    loop {
        // Asked once and then waited for, so that a thread that hangs is not left a heap of questions.
        if !journal.turns().await {
            return std::future::pending().await;
        }
        pulse.beat();
        sleep(liveness.period()).await;
    }
}

/// What keeps a finished `--once` from being complete. One that was cut short never is: what its parts say of themselves may be as
/// old as the last thing they finished.
fn incomplete(status: &Status, all_done: bool) -> Ended {
    let mut lines = Vec::new();
    if !all_done {
        lines.push("ended by a signal or the time limit before everything was done".to_owned());
    }
    for org in &status.orgs {
        if org.source.state != State::Ok {
            let what =
                org.source.remedy.as_deref().or(org.source.reason.as_deref()).unwrap_or("not finished");
            lines.push(format!("{}: source {}: {what}", org.id, org.source.state.as_str()));
        }
        if org.coverage.holes > 0 {
            lines.push(format!("{}: {} seconds are not fetched yet", org.id, org.coverage.holes));
        }
        for lane in &org.lanes {
            if lane.state != State::Ok {
                let what = lane.remedy.as_deref().or(lane.reason.as_deref()).unwrap_or("not finished");
                lines.push(format!("{}: {} {}: {what}", org.id, lane.destination, lane.state.as_str()));
            }
            if lane.backlog_events > 0 {
                lines.push(format!(
                    "{}: {} events are not delivered to {}",
                    org.id, lane.backlog_events, lane.destination
                ));
            }
            if lane.quarantined > 0 {
                lines.push(format!(
                    "{}: {} rows are in quarantine for {}",
                    org.id, lane.quarantined, lane.destination
                ));
            }
        }
    }
    if lines.is_empty() { Ended::Done } else { Ended::Incomplete(lines) }
}
