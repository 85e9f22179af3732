//! What every org and lane says of itself: the one place that turns a change of state into status, metrics and one log line.
//!
//! Collectors and lanes tell their [`Party`] what happened; `/api/status`, `/readyz` and the status page read it here. Nothing here
//! decides what an org does, and nothing here is stored: after a restart everything is said again.
//!
//! *Why one place:* a pause that is logged and not shown, or shown and not counted, is a silent one for somebody.

pub mod activity;
pub mod glance;
mod party;
pub mod spans;
pub mod status;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::audit::{Act, Audit, Entry, Head};
use crate::clock::{Clock, Second, whole_seconds};
use crate::config::settings::OrgSettings;
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::Usage;
use crate::liveness::Liveness;
use crate::metrics::{self, Metrics, OrgMetrics};

use activity::Activity;
pub use party::{Party, Running};
use spans::SpanStatus;
use status::{ConfigStatus, CoverageStatus, LATE_AFTER, Moment, OrgStatus, SourceStatus, State, Status};

/// The reports of all orgs. Cloning is cheap.
#[derive(Clone)]
pub struct Reports(Arc<Inner>);

struct Inner {
    metrics: Metrics,
    clock: Clock,
    version: String,
    liveness: Liveness,
    state_open: AtomicBool,
    config: Mutex<Option<ConfigStatus>>,
    orgs: Mutex<BTreeMap<OrgId, Known>>,
    /// Without a state directory there is none.
    audit: OnceLock<Audit>,
}

enum Known {
    Reporting(OrgReport),
    /// No longer configured: its last status, marked so.
    Retired(Box<OrgStatus>),
}

impl Reports {
    pub fn new(metrics: Metrics, clock: Clock) -> Reports {
        Reports(Arc::new(Inner {
            metrics,
            clock,
            version: env!("CARGO_PKG_VERSION").into(),
            liveness: Liveness::new(),
            state_open: AtomicBool::new(false),
            config: Mutex::default(),
            orgs: Mutex::default(),
            audit: OnceLock::new(),
        }))
    }

    /// The report of an org that starts, or starts again after its settings changed: what it and its remaining lanes last said of
    /// themselves stays, so that a pause that outlives a reload keeps its age and is not logged twice. The org's tasks of before have
    /// ended.
    pub fn org(&self, settings: &OrgSettings) -> OrgReport {
        let destinations = settings.destinations();
        let metrics = self.0.metrics.org(&settings.id, &destinations);
        let mut orgs = lock(&self.0.orgs);
        let before = match orgs.get(&settings.id) {
            Some(Known::Reporting(report)) => Some(report),
            _ => None,
        };
        let party = |destination: Option<DestinationName>| {
            let known = before.and_then(|report| match destination {
                None => Some(report.source().clone()),
                Some(name) => report.0.lanes.get(&name).cloned(),
            });
            known.unwrap_or_else(|| {
                Party::new(
                    &settings.id,
                    destination,
                    self.0.clock.clone(),
                    Arc::clone(&metrics),
                    self.0.audit.get().cloned(),
                    self.0.liveness.quiet_pulse(&match destination {
                        None => format!("collecting of {}", settings.id),
                        Some(name) => format!("{name} of {}", settings.id),
                    }),
                )
            })
        };
        let report = OrgReport(Arc::new(Org {
            id: settings.id.clone(),
            org: settings.org.clone(),
            source: party(None),
            lanes: destinations.iter().map(|name| (*name, party(Some(*name)))).collect(),
            figures: Mutex::new(before.map(|report| *lock(&report.0.figures)).unwrap_or_default()),
            spans: Mutex::new(before.map(|report| lock(&report.0.spans).clone()).unwrap_or_default()),
            activity: Mutex::new(before.and_then(|report| lock(&report.0.activity).clone())),
            last_sweep: Mutex::new(before.and_then(|report| *lock(&report.0.last_sweep))),
            late_after: late_after(settings),
            clock: self.0.clock.clone(),
            swept: AtomicBool::new(before.is_some_and(|report| report.0.swept.load(Ordering::Acquire))),
            metrics,
            audit: self.0.audit.get().cloned(),
        }));
        orgs.insert(settings.id.clone(), Known::Reporting(report.clone()));
        report
    }

    /// An org is no longer configured: its series vanish, its status stays as it was, marked `retired`. Also for an org that only
    /// the journal knows.
    pub fn retire(&self, id: &OrgId) {
        let mut orgs = lock(&self.0.orgs);
        let mut last = match orgs.get(id) {
            Some(Known::Reporting(report)) => report.status(),
            Some(Known::Retired(_)) => return,
            None => OrgStatus {
                id: id.clone(),
                org: String::new(),
                state: State::Retired,
                start: None,
                cursor: None,
                tip: None,
                coverage: CoverageStatus::default(),
                spans: Vec::new(),
                spans_left_out: 0,
                activity: None,
                source: SourceStatus::retired(None),
                lanes: Vec::new(),
            },
        };
        let since = Some(Moment(self.0.clock.now()));
        last.state = State::Retired;
        last.source = SourceStatus::retired(since);
        last.activity = None;
        for lane in &mut last.lanes {
            (lane.state, lane.reason, lane.since, lane.remedy) = (State::Retired, None, since, None);
            (lane.credential, lane.last_error) = (None, None);
        }
        orgs.insert(id.clone(), Known::Retired(Box::new(last)));
        self.0.metrics.remove_org(id);
    }

    /// A configuration was put in force (`ok`), or refused for `error` while the one before stays. One that is refused for something
    /// else than before has been refused since then.
    pub fn set_config(&self, ok: bool, error: Option<String>) {
        let now = self.0.clock.now();
        self.0.metrics.set_config(ok, now);
        let mut config = lock(&self.0.config);
        let before = config.take();
        let refused = before.as_ref().filter(|before| !ok && !before.ok).and_then(|before| before.since);
        let needs_restart = before.map(|before| before.needs_restart).unwrap_or_default();
        *config = Some(ConfigStatus { ok, since: refused.or(Some(Moment(now))), error, needs_restart });
    }

    /// Keys whose new values count only from the next start of the process on.
    pub fn set_config_restart(&self, keys: &[String]) {
        if let Some(config) = lock(&self.0.config).as_mut() {
            config.needs_restart = keys.to_vec();
        }
    }

    /// Where it is recorded what people and signals do; known before the first org starts.
    pub fn set_audit(&self, audit: Audit) {
        // A second one would be of the same directory.
        drop(self.0.audit.set(audit));
    }

    /// Puts a line into the audit record, if there is one.
    pub fn record(&self, act: Act, who: &str, changed: Vec<String>) {
        let entry = Entry { act, who: who.to_owned(), org: None, changed };
        if let Some(audit) = self.0.audit.get() {
            record(audit, self.0.clock.now(), entry);
        }
    }

    /// The state directory is open.
    pub fn set_state_open(&self) {
        self.0.state_open.store(true, Ordering::Release);
    }

    /// What the daemon still lacks to be ready; empty when it is. Configuration loaded, state open, every org's first sweep ended,
    /// paused included. A configuration that was refused later does not count: the one before is in force.
    pub fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if lock(&self.0.config).is_none() {
            missing.push("configuration not loaded".to_owned());
        }
        if !self.0.state_open.load(Ordering::Acquire) {
            missing.push("state not open".to_owned());
        }
        let orgs = lock(&self.0.orgs);
        // A configuration has at least one: none means that none has come so far.
        if orgs.is_empty() {
            missing.push("no org has started".to_owned());
        }
        for entry in orgs.values() {
            if let Known::Reporting(report) = entry
                && !report.first_sweep_has_ended()
            {
                missing.push(format!("first sweep of {} has not ended", report.id()));
            }
        }
        missing
    }

    pub fn status(&self) -> Status {
        let orgs = lock(&self.0.orgs)
            .values()
            .map(|entry| match entry {
                Known::Reporting(report) => report.status(),
                Known::Retired(last) => last.as_ref().clone(),
            })
            .collect();
        let config = lock(&self.0.config).clone();
        Status { version: self.0.version.clone(), orgs, config: config.unwrap_or_default() }
    }

    /// How every org that is configured stands, and whether the newest configuration is in force.
    pub fn standings(&self) -> (Vec<Standing>, bool) {
        let orgs = lock(&self.0.orgs);
        let standings = orgs.values().filter_map(|entry| match entry {
            Known::Reporting(report) => Some(report.standing()),
            Known::Retired(_) => None,
        });
        let standings = standings.collect();
        drop(orgs);
        (standings, lock(&self.0.config).as_ref().is_none_or(|config| config.ok))
    }

    /// Which parts make progress: those of the orgs, and whoever else has a pulse.
    pub fn liveness(&self) -> &Liveness {
        &self.0.liveness
    }

    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }
}

/// What one org says of itself. Cloning is cheap.
#[derive(Clone)]
pub struct OrgReport(Arc<Org>);

struct Org {
    id: OrgId,
    org: String,
    metrics: Arc<OrgMetrics>,
    source: Party,
    lanes: BTreeMap<DestinationName, Party>,
    figures: Mutex<CoverageFigures>,
    /// And how many were left out.
    spans: Mutex<(Vec<SpanStatus>, u64)>,
    /// None before it was counted.
    activity: Mutex<Option<Activity>>,
    last_sweep: Mutex<Option<Second>>,
    late_after: i64,
    clock: Clock,
    swept: AtomicBool,
    audit: Option<Audit>,
}

/// How an org stands, in words that are ours: nothing of it comes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The worst of its parts.
    pub state: State,
    /// Of the parts in that state.
    pub reasons: BTreeSet<&'static str>,
    /// Its first sweep of this process has not ended.
    pub starting: bool,
    /// Every event before it is accepted by every destination; none while one of them has said nothing.
    pub delivered_until: Option<Second>,
}

/// How far collection is, as of the last commit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoverageFigures {
    pub start: Option<Second>,
    pub cursor: Option<Second>,
    pub tip: Option<Second>,
    pub holes_seconds: i64,
    pub damaged_seconds: i64,
    pub unsettled_seconds: i64,
}

impl OrgReport {
    pub fn id(&self) -> &OrgId {
        &self.0.id
    }

    /// Pulumi's name of the organization.
    pub fn org(&self) -> &str {
        &self.0.org
    }

    pub fn metrics(&self) -> Arc<OrgMetrics> {
        self.0.metrics.clone()
    }

    /// The side that reads from Pulumi.
    pub fn source(&self) -> &Party {
        &self.0.source
    }

    /// The side that delivers to a destination; the org's settings have it.
    #[expect(
        clippy::expect_used,
        reason = "a lane asks for itself, and lanes are made from the same settings"
    )]
    pub fn lane(&self, destination: DestinationName) -> &Party {
        self.0.lanes.get(&destination).expect("the destination is among the org's")
    }

    pub fn coverage(&self, figures: CoverageFigures) {
        *lock(&self.0.figures) = figures;
        let gauges = &self.0.metrics;
        gauges.cursor.set(metrics::time(figures.cursor));
        gauges.tip.set(metrics::time(figures.tip));
        gauges.gap_seconds.set(figures.holes_seconds as f64);
        gauges.damaged_seconds.set(figures.damaged_seconds as f64);
        gauges.unsettled_seconds.set(figures.unsettled_seconds as f64);
    }

    /// The same, piece by piece, and how many pieces were left out.
    pub fn spans(&self, spans: (Vec<SpanStatus>, u64)) {
        *lock(&self.0.spans) = spans;
    }

    /// What the journal holds of the last day.
    pub fn activity(&self, counted: Activity) {
        *lock(&self.0.activity) = Some(counted);
    }

    /// Counts new events; before those of the last day were counted, it does nothing, as they will be among them.
    pub fn new_events(&self, happened: impl Iterator<Item = Second>) {
        if let Some(activity) = lock(&self.0.activity).as_mut() {
            let now = self.0.clock.now();
            happened.for_each(|at| activity.add(at, 1, now));
        }
    }

    /// Whether the events of the last day were counted.
    pub fn has_activity(&self) -> bool {
        lock(&self.0.activity).is_some()
    }

    /// A window was read and journaled.
    pub fn swept(&self) {
        let now = self.0.clock.now();
        *lock(&self.0.last_sweep) = Some(now);
        self.0.metrics.last_successful_sweep.set(metrics::time(Some(now)));
    }

    pub fn journal(&self, usage: Usage) {
        self.0.metrics.journal_chunks.set(metrics::figure(usage.chunks));
        self.0.metrics.journal_bytes.set(metrics::figure(usage.bytes));
        self.0.metrics.journal_unacknowledged_bytes.set(metrics::figure(usage.unacknowledged_bytes));
    }

    /// The newest line of the audit record.
    pub fn audit(&self) -> Option<Head> {
        self.0.audit.as_ref().map(Audit::head)
    }

    /// The first sweep of this process has ended, well or not.
    pub fn first_sweep_ended(&self) {
        self.0.swept.store(true, Ordering::Release);
    }

    fn first_sweep_has_ended(&self) -> bool {
        self.0.swept.load(Ordering::Acquire) || self.0.source.is_paused()
    }

    fn standing(&self) -> Standing {
        let lanes: Vec<_> = self.0.lanes.values().map(Party::standing).collect();
        let parts = lanes.iter().copied().chain([self.0.source.standing()]);
        let state = parts.clone().map(|(state, ..)| state).max().unwrap_or(State::Ok);
        Standing {
            state,
            reasons: parts.filter(|part| part.0 == state).filter_map(|(_, reason, _)| reason).collect(),
            starting: !self.first_sweep_has_ended(),
            delivered_until: lanes.iter().map(|(.., until)| *until).min().flatten(),
        }
    }

    pub fn status(&self) -> OrgStatus {
        let figures = *lock(&self.0.figures);
        let lanes: Vec<_> = self.0.lanes.iter().map(|(name, party)| party.lane_status(*name)).collect();
        let shown = self.0.source.shown();
        let source = SourceStatus {
            state: shown.state,
            reason: shown.reason,
            since: shown.since,
            remedy: shown.remedy,
            token: shown.credential,
            last_sweep: lock(&self.0.last_sweep).map(Moment),
            last_error: shown.last_error,
            late_after_seconds: self.0.late_after,
        };
        let (spans, spans_left_out) = lock(&self.0.spans).clone();
        let activity = lock(&self.0.activity).as_ref().map(|known| known.shown(self.0.clock.now()));
        let state = lanes.iter().map(|lane| lane.state).fold(source.state, State::max);
        OrgStatus {
            id: self.0.id.clone(),
            org: self.0.org.clone(),
            state,
            start: figures.start.map(Moment),
            cursor: figures.cursor.map(Moment),
            tip: figures.tip.map(Moment),
            coverage: CoverageStatus {
                holes: figures.holes_seconds,
                damaged: figures.damaged_seconds,
                unsettled: figures.unsettled_seconds,
            },
            spans,
            spans_left_out,
            activity,
            source,
            lanes,
        }
    }
}

/// From when on an org that is read so often is behind: polls may fail now and then.
pub fn late_after(settings: &OrgSettings) -> i64 {
    let source = &settings.source;
    let polls = whole_seconds(source.poll_interval).saturating_mul(3);
    LATE_AFTER.max(polls).saturating_add(whole_seconds(source.settle))
}

/// A line that the disk refuses is in the log instead, and nothing waits for it: what it tells of has happened.
fn record(audit: &Audit, at: Second, entry: Entry) {
    if let Err(error) = audit.record(at, entry.clone()) {
        let Entry { act, who, org, changed } = entry;
        tracing::error!(cause = %error, ?act, who, org = org.map(|org| org.to_string()), ?changed, "not in the audit record");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
pub(crate) mod tests;
