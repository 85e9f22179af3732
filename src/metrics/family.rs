//! The metrics of an org, each once: name, type, labels, meaning, and where its numbers stand.

use std::iter::zip;

use prometheus::proto::MetricType;

use super::number::Shown;
use super::org::{Delivery, OrgMetrics};
use super::{ANOMALIES, OUTCOMES, SWEEP_KINDS, SWEEP_OUTCOMES};
use crate::destination::QuarantineReason;
use crate::problem::{PauseReason, WaitReason};
use crate::rotation::Slot;

/// Takes a series: the values of its labels, and its number.
pub(super) type Show<'a> = &'a mut dyn FnMut(&[&str], Shown<'_>);

/// One metric of every org.
pub(super) struct Family {
    /// Without the prefix that all have.
    pub name: &'static str,
    pub kind: MetricType,
    /// Those after `org`.
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Shows every series of an org.
    pub series: fn(&OrgMetrics, Show<'_>),
}

pub(super) const FAMILIES: &[Family] = &[
    Family {
        name: "delivered_until_timestamp_seconds",
        kind: MetricType::GAUGE,
        labels: &["destination"],
        help: "Every event before this Unix time is acknowledged by the destination; alert on time() minus this. Steps back while a late event is on its way.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_until.shown())),
    },
    Family {
        name: "cursor_timestamp_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Every event before this Unix time is journaled.",
        series: |org, show| show(&[], org.cursor.shown()),
    },
    Family {
        name: "tip_timestamp_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "The Unix time up to which the newest window was read.",
        series: |org, show| show(&[], org.tip.shown()),
    },
    Family {
        name: "last_successful_sweep_timestamp_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "When a sweep last ended well, in Unix time; moves even when there are no events.",
        series: |org, show| show(&[], org.last_successful_sweep.shown()),
    },
    Family {
        name: "sweeps_total",
        kind: MetricType::COUNTER,
        labels: &["kind", "outcome"],
        help: "Sweeps by kind (head, catchup, rescan, backfill, replay) and outcome (ok, failed, halved).",
        series: |org, show| {
            for (kind, outcomes) in zip(SWEEP_KINDS, &org.sweeps) {
                zip(SWEEP_OUTCOMES, outcomes)
                    .for_each(|(outcome, count)| show(&[kind, outcome], count.shown()));
            }
        },
    },
    Family {
        name: "sweep_duration_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &["kind"],
        help: "How long a sweep took from its first request to its commit.",
        series: |org, show| {
            zip(SWEEP_KINDS, &org.sweep_duration).for_each(|(kind, spread)| show(&[kind], spread.shown()))
        },
    },
    Family {
        name: "source_requests_total",
        kind: MetricType::COUNTER,
        labels: &["code"],
        help: "Requests to Pulumi by the status they were answered with, or timeout or connect where there was no answer.",
        series: |org, show| org.requests.each(|code, count| show(&[code], count)),
    },
    Family {
        name: "source_request_duration_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &[],
        help: "How long Pulumi took to answer a request.",
        series: |org, show| show(&[], org.request_duration.shown()),
    },
    Family {
        name: "source_throttled_seconds_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Seconds that collection waited because Pulumi asked it to slow down.",
        series: |org, show| show(&[], org.throttled_seconds.shown()),
    },
    Family {
        name: "pages_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Pages of the audit log that were read.",
        series: |org, show| show(&[], org.pages.shown()),
    },
    Family {
        name: "events_read_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Events on the pages read, before the tally: the same event counts at every look.",
        series: |org, show| show(&[], org.events_read.shown()),
    },
    Family {
        name: "events_new_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Events that were journaled.",
        series: |org, show| show(&[], org.events_new.shown()),
    },
    Family {
        name: "events_late_total",
        kind: MetricType::COUNTER,
        labels: &[],
        help: "Events that were journaled by a rescan: they became visible after their second had been read.",
        series: |org, show| show(&[], org.events_late.shown()),
    },
    Family {
        name: "event_lateness_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &[],
        help: "How old a late event was when it was first seen.",
        series: |org, show| show(&[], org.lateness.shown()),
    },
    Family {
        name: "schema_anomalies_total",
        kind: MetricType::COUNTER,
        labels: &["kind"],
        help: "What in events was not as documented: unknown_field, unknown_event, missing_field, bad_type, implausible_time, cut_text. All of it is archived as received.",
        series: |org, show| {
            zip(ANOMALIES, &org.anomalies).for_each(|(kind, count)| show(&[kind], count.shown()))
        },
    },
    Family {
        name: "source_clock_skew_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "How far the service's clock is ahead of the local one.",
        series: |org, show| show(&[], org.clock_skew.shown()),
    },
    Family {
        name: "journal_chunks",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Chunks kept in the journal.",
        series: |org, show| show(&[], org.journal_chunks.shown()),
    },
    Family {
        name: "journal_bytes",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Bytes of the chunks kept in the journal, compressed as stored.",
        series: |org, show| show(&[], org.journal_bytes.shown()),
    },
    Family {
        name: "backlog_chunks",
        kind: MetricType::GAUGE,
        labels: &["destination"],
        help: "Chunks that are journaled and not yet acknowledged by the destination.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.backlog_chunks.shown())),
    },
    Family {
        name: "backlog_events",
        kind: MetricType::GAUGE,
        labels: &["destination"],
        help: "Events that are journaled and not yet acknowledged by the destination.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.backlog_events.shown())),
    },
    Family {
        name: "deliveries_total",
        kind: MetricType::COUNTER,
        labels: &["destination", "outcome"],
        help: "Tries to deliver a chunk by outcome: acknowledged, ambiguous (sent again), throttled, refused (rows), failed (the lane paused).",
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
        kind: MetricType::COUNTER,
        labels: &["destination"],
        help: "Events that the destination acknowledged.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_events.shown())),
    },
    Family {
        name: "delivered_bytes_total",
        kind: MetricType::COUNTER,
        labels: &["destination"],
        help: "Bytes sent for acknowledged chunks, as on the wire.",
        series: |org, show| org.lanes().for_each(|(name, lane)| show(&[name], lane.delivered_bytes.shown())),
    },
    Family {
        name: "end_to_end_latency_seconds",
        kind: MetricType::HISTOGRAM,
        labels: &["destination"],
        help: "From an event's time to its acknowledgement by the destination.",
        series: |org, show| {
            org.lanes().for_each(|(name, lane)| show(&[name], lane.end_to_end_latency.shown()))
        },
    },
    Family {
        name: "paused",
        kind: MetricType::GAUGE,
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
        kind: MetricType::GAUGE,
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
        kind: MetricType::COUNTER,
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
        name: "coverage_gap_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Seconds between start and tip that have not been read yet.",
        series: |org, show| show(&[], org.gap_seconds.shown()),
    },
    Family {
        name: "coverage_damaged_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Seconds too dense to be read whole: events may be missing there.",
        series: |org, show| show(&[], org.damaged_seconds.shown()),
    },
    Family {
        name: "coverage_unsettled_seconds",
        kind: MetricType::GAUGE,
        labels: &[],
        help: "Seconds that were read and that another look is due to.",
        series: |org, show| show(&[], org.unsettled_seconds.shown()),
    },
    Family {
        name: "credential_refreshes_total",
        kind: MetricType::COUNTER,
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
        kind: MetricType::GAUGE,
        labels: &["credential", "slot"],
        help: "1 for the configured secret that was accepted last: first (token, secret, certificate, access_key_id) or next (next_token and so on). 0 for both while none is accepted, or where the platform vouches for the daemon.",
        series: |org, show| {
            org.credentials(|name, party| {
                zip(Slot::ALL, &party.in_use)
                    .for_each(|(slot, level)| show(&[name, slot.as_str()], level.shown()));
            });
        },
    },
    Family {
        name: "credential_expiry_timestamp_seconds",
        kind: MetricType::GAUGE,
        labels: &["credential"],
        help: "When a credential ends, in Unix time; absent where that is not known.",
        series: |org, show| {
            org.credentials(|name, party| {
                party.expiry.known().into_iter().for_each(|expiry| show(&[name], expiry));
            });
        },
    },
];
