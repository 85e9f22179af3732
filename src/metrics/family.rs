//! The metrics of an org, each once: name, type, labels, meaning, and where its numbers stand.

use std::iter::zip;

use super::number::Shown;
use super::org::{Delivery, OrgMetrics};
use super::{ANOMALIES, OUTCOMES, SWEEP_KINDS, SWEEP_OUTCOMES};
use crate::destination::QuarantineReason;
use crate::problem::{PauseReason, WaitReason};
use crate::rotation::Slot;

/// Takes a series: the values of its labels, and its number.
pub(super) type Show<'a> = &'a mut dyn FnMut(&[&str], Shown<'_>);

/// What a metric's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Gauge,
    Counter,
    Histogram,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
            Kind::Histogram => "histogram",
        }
    }
}

/// One metric of every org.
pub(super) struct Family {
    /// Without the prefix that all have.
    pub name: &'static str,
    pub kind: Kind,
    /// Those after `org`.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Shows every series of an org.
    pub series: fn(&OrgMetrics, Show<'_>),
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "delivered_until_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["destination"],
        help: "Every event before this Unix time is acknowledged by the destination; alert on time() minus this. Steps back while a late event is on its way.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_until.shown())),
    },
    Family {
        name: "cursor_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Every event before this Unix time is journaled.",
        series: |org, show| show(&[], org.cursor.shown()),
    },
    Family {
        name: "tip_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "The Unix time up to which the newest window was read.",
        series: |org, show| show(&[], org.tip.shown()),
    },
    Family {
        name: "last_successful_sweep_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "When a sweep last ended well, in Unix time; moves even when there are no events.",
        series: |org, show| show(&[], org.last_successful_sweep.shown()),
    },
    Family {
        name: "sweeps_total",
        kind: Kind::Counter,
        labels: &["kind", "outcome"],
        help: "Sweeps by kind (head, catchup, rescan) and outcome (ok, failed, halved).",
        series: |org, show| {
            for (kind, outcomes) in zip(SWEEP_KINDS, &org.sweeps) {
                zip(SWEEP_OUTCOMES, outcomes)
                    .for_each(|(outcome, count)| show(&[kind, outcome], count.shown()));
            }
        },
    },
    Family {
        name: "sweep_duration_seconds",
        kind: Kind::Histogram,
        labels: &["kind"],
        help: "How long a sweep took from its first request to its commit.",
        series: |org, show| {
            zip(SWEEP_KINDS, &org.sweep_duration).for_each(|(kind, spread)| show(&[kind], spread.shown()))
        },
    },
    Family {
        name: "source_requests_total",
        kind: Kind::Counter,
        labels: &["code"],
        help: "Requests to Pulumi by the status they were answered with, or timeout or connect where there was no answer; statuses beyond a dozen odd ones are other.",
        series: |org, show| org.requests.each(|code, count| show(&[code], count)),
    },
    Family {
        name: "source_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How long Pulumi took to answer a request.",
        series: |org, show| show(&[], org.request_duration.shown()),
    },
    Family {
        name: "source_throttled_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Seconds that collection waited because Pulumi asked it to slow down.",
        series: |org, show| show(&[], org.throttled_seconds.shown()),
    },
    Family {
        name: "pages_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Pages of the audit log that were read.",
        series: |org, show| show(&[], org.pages.shown()),
    },
    Family {
        name: "events_read_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Events on the pages read, before the tally: the same event counts at every look.",
        series: |org, show| show(&[], org.events_read.shown()),
    },
    Family {
        name: "events_new_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Events that were journaled.",
        series: |org, show| show(&[], org.events_new.shown()),
    },
    Family {
        name: "events_late_total",
        kind: Kind::Counter,
        labels: &[],
        help: "Events that were journaled by a rescan: they became visible after their second had been read.",
        series: |org, show| show(&[], org.events_late.shown()),
    },
    Family {
        name: "event_lateness_seconds",
        kind: Kind::Histogram,
        labels: &[],
        help: "How old an event was when it was first seen, of those that became visible after their second had been read; at most a poll interval more than it took.",
        series: |org, show| show(&[], org.lateness.shown()),
    },
    Family {
        name: "schema_anomalies_total",
        kind: Kind::Counter,
        labels: &["kind"],
        help: "What in events was not as documented: unknown_field, unknown_event, missing_field, bad_type, implausible_time, cut_text. All of it is archived as received.",
        series: |org, show| {
            zip(ANOMALIES, &org.anomalies).for_each(|(kind, count)| show(&[kind], count.shown()))
        },
    },
    Family {
        name: "source_clock_skew_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "How far the service's clock is ahead of the local one.",
        series: |org, show| show(&[], org.clock_skew.shown()),
    },
    Family {
        name: "journal_chunks",
        kind: Kind::Gauge,
        labels: &[],
        help: "Chunks kept in the journal.",
        series: |org, show| show(&[], org.journal_chunks.shown()),
    },
    Family {
        name: "journal_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of the chunks kept in the journal, compressed as stored.",
        series: |org, show| show(&[], org.journal_bytes.shown()),
    },
    Family {
        name: "journal_unacknowledged_bytes",
        kind: Kind::Gauge,
        labels: &[],
        help: "Bytes of the chunks that some lane has not had acknowledged: these cannot be pruned, and at journal_capacity_bytes of them collection waits.",
        series: |org, show| show(&[], org.journal_unacknowledged_bytes.shown()),
    },
    Family {
        name: "backlog_chunks",
        kind: Kind::Gauge,
        labels: &["destination"],
        help: "Chunks that are journaled and not yet acknowledged by the destination.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.backlog_chunks.shown())),
    },
    Family {
        name: "backlog_events",
        kind: Kind::Gauge,
        labels: &["destination"],
        help: "Events that are journaled and not yet acknowledged by the destination.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.backlog_events.shown())),
    },
    Family {
        name: "deliveries_total",
        kind: Kind::Counter,
        labels: &["destination", "outcome"],
        help: "Tries to deliver a chunk by outcome: acknowledged, ambiguous (sent again), throttled, refused (rows of it, for good; the rest is acknowledged), failed (the lane paused).",
        series: |org, show| {
            for (name, lane) in org.lanes() {
                for (outcome, count) in zip(Delivery::ALL, &lane.deliveries) {
                    show(&[name, outcome.as_str()], count.shown());
                }
            }
        },
    },
    Family {
        name: "delivered_events_total",
        kind: Kind::Counter,
        labels: &["destination"],
        help: "Events that the destination acknowledged.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_events.shown())),
    },
    Family {
        name: "delivered_bytes_total",
        kind: Kind::Counter,
        labels: &["destination"],
        help: "Bytes sent for acknowledged chunks, as on the wire.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_bytes.shown())),
    },
    Family {
        name: "end_to_end_latency_seconds",
        kind: Kind::Histogram,
        labels: &["destination"],
        help: "From an event's time to its acknowledgement by the destination.",
        series: |org, show| {
            org.lanes().for_each(|(name, lane)| show(&[name], lane.end_to_end_latency.shown()))
        },
    },
    Family {
        name: "paused",
        kind: Kind::Gauge,
        labels: &["destination", "reason"],
        help: "1 while this lane (or source, the side that reads) waits for a person: credentials, permission, configuration, fenced, disk. Nothing is lost meanwhile.",
        series: |org, show| {
            org.parties(|name, party| {
                for (reason, level) in zip(PauseReason::ALL, &party.paused) {
                    show(&[name, reason.as_str()], level.shown());
                }
            });
        },
    },
    Family {
        name: "waiting",
        kind: Kind::Gauge,
        labels: &["destination", "reason"],
        help: "1 while this lane (or source) waits and needs nobody: throttled, backoff, journal_full, recovering.",
        series: |org, show| {
            org.parties(|name, party| {
                for (reason, level) in zip(WaitReason::ALL, &party.waiting) {
                    show(&[name, reason.as_str()], level.shown());
                }
            });
        },
    },
    Family {
        name: "quarantined_events_total",
        kind: Kind::Counter,
        labels: &["destination", "reason"],
        help: "Events that the destination refused for good; they are kept with the reason, and are in the archive.",
        series: |org, show| {
            for (name, lane) in org.lanes() {
                for (reason, count) in zip(QuarantineReason::ALL, &lane.quarantined) {
                    show(&[name, reason.as_str()], count.shown());
                }
            }
        },
    },
    Family {
        name: "heartbeats_total",
        kind: Kind::Counter,
        labels: &["destination", "outcome"],
        help: "Heartbeats that were sent (ok), and those that were left out (failed). Absent where none are configured.",
        series: |org, show| {
            for (name, lane) in org.lanes() {
                for (outcome, count) in
                    lane.heartbeats.get().into_iter().flat_map(|counts| zip(OUTCOMES, counts))
                {
                    show(&[name, outcome], count.shown());
                }
            }
        },
    },
    Family {
        name: "coverage_gap_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds between start and tip that have not been read yet.",
        series: |org, show| show(&[], org.gap_seconds.shown()),
    },
    Family {
        name: "coverage_damaged_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds too dense to be read whole: events may be missing there.",
        series: |org, show| show(&[], org.damaged_seconds.shown()),
    },
    Family {
        name: "coverage_unsettled_seconds",
        kind: Kind::Gauge,
        labels: &[],
        help: "Seconds that were read and that another look is due to.",
        series: |org, show| show(&[], org.unsettled_seconds.shown()),
    },
    Family {
        name: "credential_refreshes_total",
        kind: Kind::Counter,
        labels: &["credential", "outcome"],
        help: "Times a credential was fetched, or another value of it taken over (ok), and times one was not given or was refused (failed).",
        series: |org, show| {
            org.credentials(|name, party| {
                zip(OUTCOMES, &party.refreshes)
                    .for_each(|(outcome, count)| show(&[name, outcome], count.shown()));
            });
        },
    },
    Family {
        name: "credential_in_use",
        kind: Kind::Gauge,
        labels: &["credential", "slot"],
        help: "1 for the configured secret that was accepted last: first (token or oidc, secret, certificate, access_key_id) or next (next_token and so on). 0 for both while none is accepted, or where the platform vouches for the daemon.",
        series: |org, show| {
            org.credentials(|name, party| {
                zip(Slot::ALL, &party.in_use)
                    .for_each(|(slot, level)| show(&[name, slot.as_str()], level.shown()));
            });
        },
    },
    Family {
        name: "credential_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["credential"],
        help: "When what is shown to the service ends, in Unix time: the access token, which is renewed by itself, or the configured token. Absent where that is not known.",
        series: |org, show| {
            org.credentials(|name, party| {
                party.expiry.known().into_iter().for_each(|expiry| show(&[name], expiry));
            });
        },
    },
    Family {
        name: "credential_secret_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["credential"],
        help: "When the configured secret in use (a certificate, or a token that says so itself) ends, in Unix time: a person has to replace it before. Absent where that is not known.",
        series: |org, show| {
            org.credentials(|name, party| {
                party.secret_expiry.known().into_iter().for_each(|expiry| show(&[name], expiry));
            });
        },
    },
];
