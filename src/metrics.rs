//! Every metric, once: those of orgs stand in the table of [`family`], those of the process here; nothing else names a metric.
//!
//! This module counts and shows. It decides nothing, and no label comes from outside: labels are closed sets and the ids of the
//! configured orgs. The library registers and writes the process's metrics; those of orgs are written by [`page`], a piece at a time,
//! because the page of a thousand orgs has more than ten megabytes.

mod family;
mod number;
mod org;
mod page;
pub mod reference;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
use prometheus::{Gauge, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};

use crate::clock::Second;
use crate::destination::DestinationName;
use crate::event::OrgId;
pub use number::{Count, Level, Spread};
pub use org::{Delivery, LaneMetrics, OrgMetrics};

/// Stands before every name.
const NAMESPACE: &str = "pulumi_audit";
/// The label `destination` of the side that reads from Pulumi.
pub const SOURCE: &str = "source";
/// Values of the label `kind` of sweeps.
pub const SWEEP_KINDS: [&str; 3] = ["head", "catchup", "rescan"];
/// Values of the label `outcome` of sweeps.
pub const SWEEP_OUTCOMES: [&str; 3] = ["ok", "failed", "halved"];
/// Values of the label `kind` of schema anomalies.
pub const ANOMALIES: [&str; 6] =
    ["unknown_field", "unknown_event", "missing_field", "bad_type", "implausible_time", "cut_text"];
/// Values of the label `kind` of state commits.
pub const COMMIT_KINDS: [&str; 2] = ["append", "acknowledge"];
/// Values of the label `outcome` of commits and credential refreshes.
pub const OUTCOMES: [&str; 2] = ["ok", "failed"];

const DELIVERY_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const COMMIT_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// All metrics of the process. Cloning is cheap.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    process: Registry,
    journal_capacity: Gauge,
    damaged_journals: Gauge,
    delivery_duration: HistogramVec,
    config_last_reload_successful: Gauge,
    config_last_reload_success: Gauge,
    state_commits: IntCounterVec,
    state_commit_duration: HistogramVec,
    log_lines_dropped: IntCounter,
    orgs: Mutex<BTreeMap<OrgId, Arc<OrgMetrics>>>,
}

impl Metrics {
    /// `revision` is the source revision of the build, or `unknown`.
    pub fn new(version: &str, revision: &str) -> Metrics {
        let process = Registry::new();
        #[cfg(target_os = "linux")]
        register(&process, Box::new(prometheus::process_collector::ProcessCollector::for_self()));
        let inner = Inner {
            journal_capacity: registered(
                &process,
                Gauge::with_opts(options(
                    "journal_capacity_bytes",
                    "Bytes at which an org's journal is full and its collection waits.",
                )),
            ),
            damaged_journals: registered(
                &process,
                Gauge::with_opts(options(
                    "state_damaged_journals",
                    "Damaged journals that were moved aside and lie in the state directory: look at the disk, then delete them.",
                )),
            ),
            delivery_duration: registered(
                &process,
                HistogramVec::new(
                    HistogramOpts::from(options(
                        "delivery_duration_seconds",
                        "How long one try to deliver a chunk took.",
                    ))
                    .buckets(DELIVERY_SECONDS.to_vec()),
                    &["destination"],
                ),
            ),
            config_last_reload_successful: registered(
                &process,
                Gauge::with_opts(options(
                    "config_last_reload_successful",
                    "1 when the newest configuration is in force, 0 when it was refused and the one before still is.",
                )),
            ),
            config_last_reload_success: registered(
                &process,
                Gauge::with_opts(options(
                    "config_last_reload_success_timestamp_seconds",
                    "When a configuration was last put in force, in Unix time.",
                )),
            ),
            state_commits: registered(
                &process,
                IntCounterVec::new(
                    options(
                        "state_commits_total",
                        "Commits of the journal by kind (append, acknowledge) and outcome (ok, failed).",
                    ),
                    &["kind", "outcome"],
                ),
            ),
            state_commit_duration: registered(
                &process,
                HistogramVec::new(
                    HistogramOpts::from(options(
                        "state_commit_duration_seconds",
                        "How long a commit of the journal took until it was durable.",
                    ))
                    .buckets(COMMIT_SECONDS.to_vec()),
                    &["kind"],
                ),
            ),
            log_lines_dropped: registered(
                &process,
                IntCounter::with_opts(options(
                    "log_lines_dropped_total",
                    "Log lines that were dropped because standard error was blocked or closed.",
                )),
            ),
            orgs: Mutex::default(),
            process,
        };
        let build = options("build_info", "1; the labels say which build this is.")
            .const_label("version", version)
            .const_label("revision", revision);
        registered(&inner.process, Gauge::with_opts(build)).set(1.0);
        for kind in COMMIT_KINDS {
            for outcome in OUTCOMES {
                inner.state_commits.with_label_values(&[kind, outcome]);
            }
            inner.state_commit_duration.with_label_values(&[kind]);
        }
        Metrics(Arc::new(inner))
    }

    /// The page for `/metrics` in Prometheus' text format, piece by piece.
    pub fn page(&self) -> impl Iterator<Item = String> + Send + use<> {
        page::pieces(self.0.process.gather(), self.orgs().values().cloned().collect())
    }

    /// The numbers of an org. Its series exist from now on, and those of lanes that are not among `destinations` are gone; a series
    /// that existed keeps its value.
    pub fn org(&self, org: &OrgId, destinations: &[DestinationName]) -> Arc<OrgMetrics> {
        let new = || Arc::new(OrgMetrics::new(org.clone(), self.0.delivery_duration.clone()));
        let numbers = Arc::clone(self.orgs().entry(org.clone()).or_insert_with(new));
        numbers.set_lanes(destinations);
        numbers
    }

    /// All series of an org vanish.
    pub fn remove_org(&self, org: &OrgId) {
        self.orgs().remove(org);
    }

    pub fn set_journal_capacity(&self, bytes: u64) {
        self.0.journal_capacity.set(figure(bytes));
    }

    pub fn set_damaged_journals(&self, count: usize) {
        self.0.damaged_journals.set(figure(count as u64));
    }

    /// Whether the newest configuration is in force, and if so, since when.
    pub fn set_config(&self, ok: bool, now: Second) {
        self.0.config_last_reload_successful.set(if ok { 1.0 } else { 0.0 });
        if ok {
            self.0.config_last_reload_success.set(time(Some(now)));
        }
    }

    /// One commit of the journal: `append` or `acknowledge`, and how long it took.
    pub fn state_commit(&self, kind: &str, ok: bool, seconds: f64) {
        let outcome = if ok { "ok" } else { "failed" };
        self.0.state_commits.with_label_values(&[kind, outcome]).inc();
        self.0.state_commit_duration.with_label_values(&[kind]).observe(seconds);
    }

    /// The counter of dropped log lines, for the log's writer.
    pub fn log_lines_dropped(&self) -> IntCounter {
        self.0.log_lines_dropped.clone()
    }

    fn orgs(&self) -> MutexGuard<'_, BTreeMap<OrgId, Arc<OrgMetrics>>> {
        self.0.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn registered<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = in_order(metric);
    register(registry, Box::new(metric.clone()));
    metric
}

fn register(registry: &Registry, collector: Box<dyn Collector>) {
    in_order(registry.register(collector));
}

/// # Panics
/// When a name is malformed or registered twice: a mistake that no run of the program, and no test, gets past.
#[expect(
    clippy::expect_used,
    reason = "names are constant, and every test that makes metrics registers them"
)]
fn in_order<T>(made: prometheus::Result<T>) -> T {
    made.expect("names and labels are well formed, and registered once")
}

/// A time as a number; 0 while it is not known.
pub fn time(at: Option<Second>) -> f64 {
    at.map_or(0.0, |at| at.0 as f64)
}

/// A count as a number: exact up to 2^53.
pub fn figure(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
