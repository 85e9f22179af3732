//! Every metric, once: name, type, labels and meaning stand in one table below; nothing else names a metric.
//!
//! This module counts and shows. It decides nothing, and no label comes from outside: labels are closed sets and the ids of the
//! configured orgs. Every combination of an org exists from the start, so that a rate never misses its first step.
//!
//! *Why handles:* [`Metrics::org`] looks labels up once, when an org starts; what runs for every page and chunk then adds to a
//! number. Times that are not known yet are shown as 0.

mod family;

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::{
    Counter, CounterVec, Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, Registry,
    TextEncoder,
};

use crate::clock::Second;
use crate::destination::{DestinationName, PauseReason, QuarantineReason, WaitReason};
use crate::event::OrgId;
use family::{Family, families};

/// The label `destination` of the side that reads from Pulumi.
pub const SOURCE: &str = "source";
/// Values of the label `kind` of sweeps.
pub const SWEEP_KINDS: [&str; 5] = ["head", "catchup", "rescan", "backfill", "replay"];
/// Values of the label `outcome` of sweeps.
pub const SWEEP_OUTCOMES: [&str; 3] = ["ok", "failed", "halved"];
/// Values of the label `outcome` of deliveries.
pub const DELIVERY_OUTCOMES: [&str; 5] = ["acknowledged", "ambiguous", "throttled", "refused", "failed"];
/// Values of the label `kind` of schema anomalies.
pub const ANOMALIES: [&str; 6] =
    ["unknown_field", "unknown_event", "missing_field", "bad_type", "implausible_time", "cut_text"];
/// Values of the label `kind` of state commits.
pub const COMMIT_KINDS: [&str; 2] = ["append", "acknowledge"];
/// Values of the label `outcome` of commits and credential refreshes.
pub const OUTCOMES: [&str; 2] = ["ok", "failed"];
/// Answers whose series exist before they happen; other statuses join as they come.
const REQUEST_CODES: [&str; 12] =
    ["200", "400", "401", "403", "404", "429", "500", "502", "503", "504", "timeout", "connect"];

const REQUEST_SECONDS: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const SWEEP_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const DELIVERY_SECONDS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
const COMMIT_SECONDS: &[f64] = &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
/// From seconds (a rescan soon after) to beyond the last rescan of the default configuration.
const LATENESS_SECONDS: &[f64] =
    &[60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 43_200.0, 86_400.0, 172_800.0];
/// Around the default poll interval, and up to a week's outage.
const END_TO_END_SECONDS: &[f64] = &[
    5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 450.0, 600.0, 900.0, 1_800.0, 3_600.0, 21_600.0, 86_400.0, 604_800.0,
];

families! {
    delivered_until: GaugeVec, "delivered_until_timestamp_seconds" ["org", "destination"],
        "Every event before this Unix time is acknowledged by the destination; alert on time() minus this. Steps back while a late event is on its way.";
    cursor: GaugeVec, "cursor_timestamp_seconds" ["org"],
        "Every event before this Unix time is journaled.";
    tip: GaugeVec, "tip_timestamp_seconds" ["org"],
        "The Unix time up to which the newest window was read.";
    last_successful_sweep: GaugeVec, "last_successful_sweep_timestamp_seconds" ["org"],
        "When a sweep last ended well, in Unix time; moves even when there are no events.";
    sweeps: IntCounterVec, "sweeps_total" ["org", "kind", "outcome"],
        "Sweeps by kind (head, catchup, rescan, backfill, replay) and outcome (ok, failed, halved).";
    sweep_duration: HistogramVec, "sweep_duration_seconds" ["org", "kind"] within SWEEP_SECONDS,
        "How long a sweep took from its first request to its commit.";
    source_requests: IntCounterVec, "source_requests_total" ["org", "code"],
        "Requests to Pulumi by the status they were answered with, or timeout or connect where there was no answer.";
    source_request_duration: HistogramVec, "source_request_duration_seconds" ["org"] within REQUEST_SECONDS,
        "How long Pulumi took to answer a request.";
    source_throttled: CounterVec, "source_throttled_seconds_total" ["org"],
        "Seconds that collection waited because Pulumi asked it to slow down.";
    pages: IntCounterVec, "pages_total" ["org"],
        "Pages of the audit log that were read.";
    events_read: IntCounterVec, "events_read_total" ["org"],
        "Events on the pages read, before the tally: the same event counts at every look.";
    events_new: IntCounterVec, "events_new_total" ["org"],
        "Events that were journaled.";
    events_late: IntCounterVec, "events_late_total" ["org"],
        "Events that were journaled by a rescan: they became visible after their second had been read.";
    event_lateness: HistogramVec, "event_lateness_seconds" ["org"] within LATENESS_SECONDS,
        "How old a late event was when it was first seen.";
    schema_anomalies: IntCounterVec, "schema_anomalies_total" ["org", "kind"],
        "What in events was not as documented: unknown_field, unknown_event, missing_field, bad_type, implausible_time, cut_text. All of it is archived as received.";
    source_clock_skew: GaugeVec, "source_clock_skew_seconds" ["org"],
        "How far the service's clock is ahead of the local one.";
    journal_chunks: GaugeVec, "journal_chunks" ["org"],
        "Chunks kept in the journal.";
    journal_bytes: GaugeVec, "journal_bytes" ["org"],
        "Bytes of the chunks kept in the journal, compressed as stored.";
    journal_capacity: GaugeVec, "journal_capacity_bytes" [],
        "Bytes at which an org's journal is full and its collection waits.";
    backlog_chunks: GaugeVec, "backlog_chunks" ["org", "destination"],
        "Chunks that are journaled and not yet acknowledged by the destination.";
    backlog_events: GaugeVec, "backlog_events" ["org", "destination"],
        "Events that are journaled and not yet acknowledged by the destination.";
    deliveries: IntCounterVec, "deliveries_total" ["org", "destination", "outcome"],
        "Tries to deliver a chunk by outcome: acknowledged, ambiguous (sent again), throttled, refused (rows), failed (the lane paused).";
    delivered_events: IntCounterVec, "delivered_events_total" ["org", "destination"],
        "Events that the destination acknowledged.";
    delivered_bytes: IntCounterVec, "delivered_bytes_total" ["org", "destination"],
        "Bytes sent for acknowledged chunks, as on the wire.";
    delivery_duration: HistogramVec, "delivery_duration_seconds" ["destination"] within DELIVERY_SECONDS,
        "How long one try to deliver a chunk took.";
    end_to_end_latency: HistogramVec, "end_to_end_latency_seconds" ["org", "destination"] within END_TO_END_SECONDS,
        "From an event's time to its acknowledgement by the destination.";
    paused: GaugeVec, "paused" ["org", "destination", "reason"],
        "1 while this lane (or source, the side that reads) waits for a person: credentials, permission, configuration, fenced, disk. Nothing is lost meanwhile.";
    waiting: GaugeVec, "waiting" ["org", "destination", "reason"],
        "1 while this lane (or source) waits and needs nobody: throttled, backoff, journal_full.";
    quarantined_events: IntCounterVec, "quarantined_events_total" ["org", "destination", "reason"],
        "Events that the destination refused for good; they are kept with the reason, and are in the archive.";
    coverage_gap: GaugeVec, "coverage_gap_seconds" ["org"],
        "Seconds between start and tip that have not been read yet.";
    coverage_damaged: GaugeVec, "coverage_damaged_seconds" ["org"],
        "Seconds too dense to be read whole: events may be missing there.";
    coverage_unsettled: GaugeVec, "coverage_unsettled_seconds" ["org"],
        "Seconds that were read and that another look is due to.";
    credential_refreshes: IntCounterVec, "credential_refreshes_total" ["org", "credential", "outcome"],
        "Times a credential was fetched or read again.";
    credential_expiry: GaugeVec, "credential_expiry_timestamp_seconds" ["org", "credential"],
        "When a credential ends, in Unix time; absent where that is not known.";
    config_last_reload_successful: GaugeVec, "config_last_reload_successful" [],
        "1 when the newest configuration is in force, 0 when it was refused and the one before still is.";
    config_last_reload_success: GaugeVec, "config_last_reload_success_timestamp_seconds" [],
        "When a configuration was last put in force, in Unix time.";
    state_commits: IntCounterVec, "state_commits_total" ["kind", "outcome"],
        "Commits of the journal by kind (append, acknowledge) and outcome (ok, failed).";
    state_commit_duration: HistogramVec, "state_commit_duration_seconds" ["kind"] within COMMIT_SECONDS,
        "How long a commit of the journal took until it was durable.";
    log_lines_dropped: IntCounterVec, "log_lines_dropped_total" [],
        "Log lines that were dropped because standard error was blocked or closed.";
    build_info: GaugeVec, "build_info" ["version", "revision"],
        "1; the labels say which build this is.";
}

/// All metrics of the process. Cloning is cheap.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
}

impl Metrics {
    /// `revision` is the source revision of the build, or `unknown`.
    pub fn new(version: &str, revision: &str) -> Metrics {
        let registry = Registry::new();
        let families = Families::new(&registry);
        #[cfg(target_os = "linux")]
        family::register(&registry, Box::new(prometheus::process_collector::ProcessCollector::for_self()));
        families.build_info.with_label_values(&[version, revision]).set(1.0);
        for kind in COMMIT_KINDS {
            for outcome in OUTCOMES {
                families.state_commits.with_label_values(&[kind, outcome]);
            }
            families.state_commit_duration.with_label_values(&[kind]);
        }
        let none: [&str; 0] = [];
        families.journal_capacity.with_label_values(&none);
        families.config_last_reload_successful.with_label_values(&none);
        families.config_last_reload_success.with_label_values(&none);
        families.log_lines_dropped.with_label_values(&none);
        Metrics(Arc::new(Inner { registry, families }))
    }

    /// The page for `/metrics`, in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail, and an empty page is seen at once.
        if let Err(error) = TextEncoder::new().encode_utf8(&self.0.registry.gather(), &mut page) {
            tracing::error!(%error, "metrics cannot be encoded");
        }
        page
    }

    /// The handles of an org. Its series exist from now on, and those of lanes that are not among `destinations` are gone; a series
    /// that existed keeps its value.
    pub fn org(&self, org: &OrgId, destinations: &[DestinationName]) -> Arc<OrgMetrics> {
        let id = org.as_str();
        for gone in DestinationName::ALL.iter().filter(|name| !destinations.contains(name)) {
            self.0.families.remove(&[("org", id), ("destination", gone.as_str())]);
            self.0.families.remove(&[("org", id), ("credential", gone.as_str())]);
        }
        Arc::new(OrgMetrics::new(self.0.clone(), id, destinations))
    }

    /// All series of an org vanish.
    pub fn remove_org(&self, org: &OrgId) {
        self.0.families.remove(&[("org", org.as_str())]);
    }

    pub fn set_journal_capacity(&self, bytes: u64) {
        self.global(&self.0.families.journal_capacity).set(figure(bytes));
    }

    /// Whether the newest configuration is in force, and if so, since when.
    pub fn set_config(&self, ok: bool, now: Second) {
        self.global(&self.0.families.config_last_reload_successful).set(if ok { 1.0 } else { 0.0 });
        if ok {
            self.global(&self.0.families.config_last_reload_success).set(time(Some(now)));
        }
    }

    /// One commit of the journal: `append` or `acknowledge`, and how long it took.
    pub fn state_commit(&self, kind: &str, ok: bool, seconds: f64) {
        let outcome = if ok { "ok" } else { "failed" };
        self.0.families.state_commits.with_label_values(&[kind, outcome]).inc();
        self.0.families.state_commit_duration.with_label_values(&[kind]).observe(seconds);
    }

    /// The counter of dropped log lines, for the log's writer.
    pub fn log_lines_dropped(&self) -> IntCounter {
        let none: [&str; 0] = [];
        self.0.families.log_lines_dropped.with_label_values(&none)
    }

    fn global(&self, family: &GaugeVec) -> Gauge {
        let none: [&str; 0] = [];
        family.with_label_values(&none)
    }
}

/// Handles of one org.
pub struct OrgMetrics {
    inner: Arc<Inner>,
    id: String,
    pub pages: IntCounter,
    pub events_read: IntCounter,
    pub events_new: IntCounter,
    pub events_late: IntCounter,
    /// Seconds between a late event's time and the look that found it.
    pub lateness: Histogram,
    pub request_duration: Histogram,
    pub throttled_seconds: Counter,
    /// Seconds that the service's clock is ahead.
    pub clock_skew: Gauge,
    pub cursor: Gauge,
    pub tip: Gauge,
    pub last_successful_sweep: Gauge,
    pub journal_chunks: Gauge,
    pub journal_bytes: Gauge,
    pub gap_seconds: Gauge,
    pub damaged_seconds: Gauge,
    pub unsettled_seconds: Gauge,
    lanes: BTreeMap<DestinationName, LaneMetrics>,
}

impl OrgMetrics {
    fn new(inner: Arc<Inner>, id: &str, destinations: &[DestinationName]) -> OrgMetrics {
        let all = &inner.families;
        for kind in SWEEP_KINDS {
            for outcome in SWEEP_OUTCOMES {
                all.sweeps.with_label_values(&[id, kind, outcome]);
            }
            all.sweep_duration.with_label_values(&[id, kind]);
        }
        for code in REQUEST_CODES {
            all.source_requests.with_label_values(&[id, code]);
        }
        for kind in ANOMALIES {
            all.schema_anomalies.with_label_values(&[id, kind]);
        }
        let with_credentials =
            destinations.iter().filter(|name| **name != DestinationName::File).map(|name| name.as_str());
        for credential in std::iter::once(SOURCE).chain(with_credentials) {
            for outcome in OUTCOMES {
                all.credential_refreshes.with_label_values(&[id, credential, outcome]);
            }
        }
        for party in std::iter::once(SOURCE).chain(destinations.iter().map(|name| name.as_str())) {
            for reason in PauseReason::ALL {
                all.paused.with_label_values(&[id, party, reason.as_str()]);
            }
            for reason in WaitReason::ALL {
                all.waiting.with_label_values(&[id, party, reason.as_str()]);
            }
        }
        let label = [id];
        OrgMetrics {
            pages: all.pages.with_label_values(&label),
            events_read: all.events_read.with_label_values(&label),
            events_new: all.events_new.with_label_values(&label),
            events_late: all.events_late.with_label_values(&label),
            lateness: all.event_lateness.with_label_values(&label),
            request_duration: all.source_request_duration.with_label_values(&label),
            throttled_seconds: all.source_throttled.with_label_values(&label),
            clock_skew: all.source_clock_skew.with_label_values(&label),
            cursor: all.cursor.with_label_values(&label),
            tip: all.tip.with_label_values(&label),
            last_successful_sweep: all.last_successful_sweep.with_label_values(&label),
            journal_chunks: all.journal_chunks.with_label_values(&label),
            journal_bytes: all.journal_bytes.with_label_values(&label),
            gap_seconds: all.coverage_gap.with_label_values(&label),
            damaged_seconds: all.coverage_damaged.with_label_values(&label),
            unsettled_seconds: all.coverage_unsettled.with_label_values(&label),
            lanes: destinations.iter().map(|name| (*name, LaneMetrics::new(all, id, *name))).collect(),
            id: id.to_owned(),
            inner,
        }
    }

    /// Handles of a lane; the org was made with its destination.
    #[expect(
        clippy::expect_used,
        reason = "a lane asks for its own handles, and lanes are made from the same list"
    )]
    pub fn lane(&self, destination: DestinationName) -> &LaneMetrics {
        self.lanes.get(&destination).expect("the destination is among the org's")
    }

    /// A request to the source and what came of it: a status as text, `timeout` or `connect`.
    pub fn request(&self, code: &str) {
        self.inner.families.source_requests.with_label_values(&[&self.id, code]).inc();
    }

    /// A sweep's end: one of [`SWEEP_KINDS`], one of [`SWEEP_OUTCOMES`].
    pub fn sweep(&self, kind: &str, outcome: &str, seconds: f64) {
        self.inner.families.sweeps.with_label_values(&[&self.id, kind, outcome]).inc();
        self.inner.families.sweep_duration.with_label_values(&[&self.id, kind]).observe(seconds);
    }

    /// `count` anomalies of one of the [`ANOMALIES`].
    pub fn anomaly(&self, kind: &str, count: u64) {
        if count > 0 {
            self.inner.families.schema_anomalies.with_label_values(&[&self.id, kind]).inc_by(count);
        }
    }

    /// A credential (`source`, `sentinel`, `s3`) was fetched or read again.
    pub fn credential_refresh(&self, credential: &str, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.inner.families.credential_refreshes.with_label_values(&[&self.id, credential, outcome]).inc();
    }

    /// When a credential ends; its series exists from the first call on.
    pub fn credential_expiry(&self, credential: &str, at: Second) {
        self.inner.families.credential_expiry.with_label_values(&[&self.id, credential]).set(time(Some(at)));
    }

    /// The 0/1 gauge of a pause; `party` is [`SOURCE`] or a destination's name.
    pub fn paused(&self, party: &str, reason: PauseReason) -> Gauge {
        self.inner.families.paused.with_label_values(&[&self.id, party, reason.as_str()])
    }

    /// The 0/1 gauge of a wait.
    pub fn waiting(&self, party: &str, reason: WaitReason) -> Gauge {
        self.inner.families.waiting.with_label_values(&[&self.id, party, reason.as_str()])
    }
}

/// Handles of one lane.
pub struct LaneMetrics {
    pub delivered_until: Gauge,
    pub backlog_chunks: Gauge,
    pub backlog_events: Gauge,
    pub delivered_events: IntCounter,
    pub delivered_bytes: IntCounter,
    /// Of one try; shared by all orgs.
    pub delivery_duration: Histogram,
    end_to_end_latency: Histogram,
    deliveries: [(Delivery, IntCounter); 5],
    quarantined: [(QuarantineReason, IntCounter); 3],
}

/// What came of one try to deliver a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    Acknowledged,
    /// Perhaps stored: sent again.
    Ambiguous,
    Throttled,
    /// Rows were refused.
    Refused,
    /// The lane paused.
    Failed,
}

impl Delivery {
    pub const ALL: [Delivery; 5] = [
        Delivery::Acknowledged,
        Delivery::Ambiguous,
        Delivery::Throttled,
        Delivery::Refused,
        Delivery::Failed,
    ];

    pub fn as_str(self) -> &'static str {
        DELIVERY_OUTCOMES[self as usize]
    }
}

impl LaneMetrics {
    fn new(all: &Families, id: &str, destination: DestinationName) -> LaneMetrics {
        let label = [id, destination.as_str()];
        LaneMetrics {
            delivered_until: all.delivered_until.with_label_values(&label),
            backlog_chunks: all.backlog_chunks.with_label_values(&label),
            backlog_events: all.backlog_events.with_label_values(&label),
            delivered_events: all.delivered_events.with_label_values(&label),
            delivered_bytes: all.delivered_bytes.with_label_values(&label),
            delivery_duration: all.delivery_duration.with_label_values(&[destination.as_str()]),
            end_to_end_latency: all.end_to_end_latency.with_label_values(&label),
            deliveries: Delivery::ALL.map(|outcome| {
                (outcome, all.deliveries.with_label_values(&[id, destination.as_str(), outcome.as_str()]))
            }),
            quarantined: QuarantineReason::ALL.map(|reason| {
                let label = [id, destination.as_str(), reason.as_str()];
                (reason, all.quarantined_events.with_label_values(&label))
            }),
        }
    }

    /// One try to deliver a chunk.
    pub fn delivery(&self, outcome: Delivery) {
        for (_, counter) in self.deliveries.iter().filter(|(known, _)| *known == outcome) {
            counter.inc();
        }
    }

    /// `events` were acknowledged `seconds` after they happened.
    pub fn end_to_end_latency(&self, seconds: f64, events: u64) {
        let local = self.end_to_end_latency.local();
        for _ in 0..events {
            local.observe(seconds);
        }
        local.flush();
    }

    /// Rows that went into quarantine.
    pub fn quarantined(&self, reason: QuarantineReason, count: u64) {
        for (_, counter) in self.quarantined.iter().filter(|(known, _)| *known == reason) {
            counter.inc_by(count);
        }
    }
}

/// A time as a gauge's value; 0 while it is not known.
pub fn time(at: Option<Second>) -> f64 {
    at.map_or(0.0, |at| at.0 as f64)
}

/// A count as a gauge's value: exact up to 2^53.
pub fn figure(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests;
