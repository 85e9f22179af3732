//! The numbers of one org and of its lanes.
//!
//! All of them exist from the start, so that a rate never misses its first step. Times that are not known yet are shown as 0.

use std::collections::BTreeMap;
use std::iter::zip;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use prometheus::{Histogram, HistogramVec};

use super::number::{Count, Level, Shown, Spread};
use super::{ANOMALIES, OUTCOMES, SOURCE, SWEEP_KINDS, SWEEP_OUTCOMES, time};
use crate::clock::Second;
use crate::destination::{DestinationName, QuarantineReason};
use crate::event::OrgId;
use crate::problem::{PauseReason, WaitReason};
use crate::rotation::Slot;

/// Answers whose series exist before they happen; other statuses join as they come.
const REQUEST_CODES: [&str; 12] =
    ["200", "400", "401", "403", "404", "429", "500", "502", "503", "504", "timeout", "connect"];

/// Statuses besides those that get series of their own; whatever comes after them is [`OTHER_CODE`]. A service that answers with all of
/// the 900 there are does not make a series of each.
pub(super) const OTHER_CODES_MAX: usize = 12;
const OTHER_CODE: &str = "other";

// Each bound is a series of every org, so there are no more than decisions are made of.
const REQUEST_SECONDS: &[f64] = &[0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const SWEEP_SECONDS: &[f64] = &[0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0];
/// Up to the default overlap, then one for each of the default rescans.
const LATENESS_SECONDS: &[f64] = &[60.0, 300.0, 600.0, 900.0, 3_600.0, 10_800.0, 43_200.0, 172_800.0];
/// Around the default poll interval, and up to a day's outage.
const END_TO_END_SECONDS: &[f64] =
    &[30.0, 60.0, 120.0, 300.0, 450.0, 600.0, 900.0, 3_600.0, 21_600.0, 86_400.0];

/// The numbers of one org; the same ones for as long as it is configured.
pub struct OrgMetrics {
    pub(super) id: OrgId,
    pub pages: Count,
    pub events_read: Count,
    pub events_new: Count,
    pub events_late: Count,
    /// Seconds between a late event's time and the look that found it.
    pub lateness: Spread,
    pub request_duration: Spread,
    pub throttled_seconds: Level,
    /// Seconds that the service's clock is ahead.
    pub clock_skew: Level,
    pub cursor: Level,
    pub tip: Level,
    pub last_successful_sweep: Level,
    pub journal_chunks: Level,
    pub journal_bytes: Level,
    pub journal_unacknowledged_bytes: Level,
    pub gap_seconds: Level,
    pub damaged_seconds: Level,
    pub unsettled_seconds: Level,
    pub(super) sweeps: [[Count; SWEEP_OUTCOMES.len()]; SWEEP_KINDS.len()],
    pub(super) sweep_duration: [Spread; SWEEP_KINDS.len()],
    pub(super) requests: Requests,
    pub(super) anomalies: [Count; ANOMALIES.len()],
    source: PartyMetrics,
    /// Of all orgs.
    delivery_duration: HistogramVec,
    lanes: Mutex<BTreeMap<DestinationName, Arc<LaneMetrics>>>,
}

impl OrgMetrics {
    pub(super) fn new(id: OrgId, delivery_duration: HistogramVec) -> OrgMetrics {
        OrgMetrics {
            id,
            pages: Count::default(),
            events_read: Count::default(),
            events_new: Count::default(),
            events_late: Count::default(),
            lateness: Spread::within(LATENESS_SECONDS),
            request_duration: Spread::within(REQUEST_SECONDS),
            throttled_seconds: Level::default(),
            clock_skew: Level::default(),
            cursor: Level::default(),
            tip: Level::default(),
            last_successful_sweep: Level::default(),
            journal_chunks: Level::default(),
            journal_bytes: Level::default(),
            journal_unacknowledged_bytes: Level::default(),
            gap_seconds: Level::default(),
            damaged_seconds: Level::default(),
            unsettled_seconds: Level::default(),
            sweeps: Default::default(),
            sweep_duration: SWEEP_KINDS.map(|_| Spread::within(SWEEP_SECONDS)),
            requests: Requests::default(),
            anomalies: Default::default(),
            source: PartyMetrics::default(),
            delivery_duration,
            lanes: Mutex::default(),
        }
    }

    /// Lanes to these destinations and no others; one that stays keeps its numbers.
    pub(super) fn set_lanes(&self, destinations: &[DestinationName]) {
        lock(&self.lanes).retain(|name, _| destinations.contains(name));
        for name in destinations {
            self.lane(*name);
        }
    }

    /// The numbers of a lane.
    pub fn lane(&self, destination: DestinationName) -> Arc<LaneMetrics> {
        let new = || {
            let duration = self.delivery_duration.with_label_values(&[destination.as_str()]);
            Arc::new(LaneMetrics::new(duration))
        };
        Arc::clone(lock(&self.lanes).entry(destination).or_insert_with(new))
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = (&'static str, Arc<LaneMetrics>)> {
        let lanes: Vec<_> =
            lock(&self.lanes).iter().map(|(name, lane)| (name.as_str(), Arc::clone(lane))).collect();
        lanes.into_iter()
    }

    /// Calls for the source, then for each lane.
    pub(super) fn parties(&self, mut each: impl FnMut(&'static str, &PartyMetrics)) {
        each(SOURCE, &self.source);
        self.lanes().for_each(|(name, lane)| each(name, &lane.party));
    }

    /// The same for those that have a credential.
    pub(super) fn credentials(&self, mut each: impl FnMut(&'static str, &PartyMetrics)) {
        self.parties(|name, party| {
            if DestinationName::parse(name).is_none_or(DestinationName::has_credential) {
                each(name, party);
            }
        });
    }

    fn party(&self, name: &str, act: impl Fn(&PartyMetrics)) {
        self.parties(|known, party| {
            if known == name {
                act(party);
            }
        });
    }

    /// A request to the source and what came of it: a status as text, `timeout` or `connect`.
    pub fn request(&self, code: &str) {
        self.requests.count(code);
    }

    /// A sweep's end: one of [`SWEEP_KINDS`], one of [`SWEEP_OUTCOMES`].
    pub fn sweep(&self, kind: &str, outcome: &str, seconds: f64) {
        let Some(kind) = SWEEP_KINDS.iter().position(|known| *known == kind) else { return };
        for (_, count) in zip(SWEEP_OUTCOMES, &self.sweeps[kind]).filter(|(known, _)| *known == outcome) {
            count.inc();
        }
        self.sweep_duration[kind].observe(seconds);
    }

    /// `count` anomalies of one of the [`ANOMALIES`].
    pub fn anomaly(&self, kind: &str, count: u64) {
        for (_, counter) in zip(ANOMALIES, &self.anomalies).filter(|(known, _)| *known == kind) {
            counter.inc_by(count);
        }
    }

    /// A credential (`source`, `sentinel`, `s3`) was fetched or read again.
    pub fn credential_refresh(&self, credential: &str, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.party(credential, |party| {
            for (_, count) in zip(OUTCOMES, &party.refreshes).filter(|(known, _)| *known == outcome) {
                count.inc();
            }
        });
    }

    /// Which of two configured secrets is in use; neither where none is accepted, or where the platform vouches for the daemon.
    pub fn credential_in_use(&self, credential: &str, slot: Option<Slot>) {
        self.party(credential, |party| {
            for (known, level) in zip(Slot::ALL, &party.in_use) {
                level.set(f64::from(u8::from(slot == Some(known))));
            }
        });
    }

    /// When what is shown to the service ends; its series exists from the first call on.
    pub fn credential_expiry(&self, credential: &str, at: Second) {
        self.party(credential, |party| party.expiry.set(Some(at)));
    }

    /// What is shown to the service now does not say when it ends.
    pub fn credential_expiry_unknown(&self, credential: &str) {
        self.party(credential, |party| party.expiry.set(None));
    }

    /// When the configured secret in use ends, where that is known.
    pub fn secret_expiry(&self, credential: &str, at: Option<Second>) {
        self.party(credential, |party| party.secret_expiry.set(at));
    }

    /// What keeps a party ([`SOURCE`] or a destination's name) from working: a pause, a wait, or nothing.
    pub fn condition(&self, party: &str, paused: Option<PauseReason>, waiting: Option<WaitReason>) {
        self.party(party, |party| {
            for (reason, level) in zip(PauseReason::ALL, &party.paused) {
                level.set(f64::from(u8::from(paused == Some(reason))));
            }
            for (reason, level) in zip(WaitReason::ALL, &party.waiting) {
                level.set(f64::from(u8::from(waiting == Some(reason))));
            }
        });
    }
}

/// The numbers that a source and a lane have in common.
#[derive(Debug, Default)]
pub(super) struct PartyMetrics {
    pub paused: [Level; PauseReason::ALL.len()],
    pub waiting: [Level; WaitReason::ALL.len()],
    pub refreshes: [Count; OUTCOMES.len()],
    pub in_use: [Level; Slot::ALL.len()],
    pub expiry: Expiry,
    pub secret_expiry: Expiry,
}

/// A time that may be unknown: then it has no series.
#[derive(Debug, Default)]
pub(super) struct Expiry(Mutex<Option<f64>>);

impl Expiry {
    fn set(&self, at: Option<Second>) {
        *lock(&self.0) = at.map(|at| time(Some(at)));
    }

    pub(super) fn known(&self) -> Option<Shown<'static>> {
        lock(&self.0).map(Shown::Value)
    }
}

/// Requests by what they were answered with.
#[derive(Debug, Default)]
pub(super) struct Requests {
    expected: [Count; REQUEST_CODES.len()],
    /// At most [`OTHER_CODES_MAX`] and [`OTHER_CODE`].
    others: Mutex<BTreeMap<String, u64>>,
}

impl Requests {
    fn count(&self, code: &str) {
        match REQUEST_CODES.iter().position(|known| *known == code) {
            Some(at) => self.expected[at].inc(),
            None => {
                let mut others = lock(&self.others);
                let new = others.len() >= OTHER_CODES_MAX && !others.contains_key(code);
                *others.entry(if new { OTHER_CODE } else { code }.to_owned()).or_default() += 1;
            }
        }
    }

    pub(super) fn each(&self, mut show: impl FnMut(&str, Shown<'_>)) {
        zip(REQUEST_CODES, &self.expected).for_each(|(code, count)| show(code, count.shown()));
        for (code, count) in &*lock(&self.others) {
            show(code, Shown::Value(*count as f64));
        }
    }
}

/// The numbers of one lane.
pub struct LaneMetrics {
    pub delivered_until: Level,
    pub backlog_chunks: Level,
    pub backlog_events: Level,
    pub delivered_events: Count,
    pub delivered_bytes: Count,
    /// Of one try; shared by all orgs.
    pub delivery_duration: Histogram,
    pub(super) end_to_end_latency: Spread,
    pub(super) deliveries: [Count; Delivery::ALL.len()],
    pub(super) quarantined: [Count; QuarantineReason::ALL.len()],
    /// Where they are configured.
    pub(super) heartbeats: OnceLock<[Count; OUTCOMES.len()]>,
    party: PartyMetrics,
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
        match self {
            Delivery::Acknowledged => "acknowledged",
            Delivery::Ambiguous => "ambiguous",
            Delivery::Throttled => "throttled",
            Delivery::Refused => "refused",
            Delivery::Failed => "failed",
        }
    }
}

impl LaneMetrics {
    fn new(delivery_duration: Histogram) -> LaneMetrics {
        LaneMetrics {
            delivered_until: Level::default(),
            backlog_chunks: Level::default(),
            backlog_events: Level::default(),
            delivered_events: Count::default(),
            delivered_bytes: Count::default(),
            delivery_duration,
            end_to_end_latency: Spread::within(END_TO_END_SECONDS),
            deliveries: Default::default(),
            quarantined: Default::default(),
            heartbeats: OnceLock::new(),
            party: PartyMetrics::default(),
        }
    }

    /// One try to deliver a chunk.
    pub fn delivery(&self, outcome: Delivery) {
        for (_, count) in zip(Delivery::ALL, &self.deliveries).filter(|(known, _)| *known == outcome) {
            count.inc();
        }
    }

    /// `events` were acknowledged `seconds` after they happened.
    pub fn end_to_end_latency(&self, seconds: f64, events: u64) {
        self.end_to_end_latency.observe_all(seconds, events);
    }

    /// Heartbeats are sent from now on.
    pub fn heartbeats_begin(&self) {
        self.heartbeats.get_or_init(Default::default);
    }

    /// One heartbeat was sent, or was not.
    pub fn heartbeat(&self, ok: bool) {
        let [sent, failed] = self.heartbeats.get_or_init(Default::default);
        if ok { sent.inc() } else { failed.inc() }
    }

    /// Rows that went into quarantine.
    pub fn quarantined(&self, reason: QuarantineReason, count: u64) {
        for (_, counter) in
            zip(QuarantineReason::ALL, &self.quarantined).filter(|(known, _)| *known == reason)
        {
            counter.inc_by(count);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
