//! The status as the state directory tells it when no daemon runs.
//!
//! Whether something is paused is not stored, so nothing is said of it: a configured org waits, because nobody runs it.

use std::collections::BTreeMap;

use crate::clock::Second;
use crate::config::settings::{OrgSettings, Settings};
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::{Journal, JournalError, OrgState, Outstanding};
use crate::report::glance::STOPPED;
use crate::report::late_after;
use crate::report::spans::{SpanStatus, spans};
use crate::report::status::{
    ConfigStatus, CoverageStatus, LaneStatus, Moment, OrgStatus, SourceStatus, State, Status,
};

const REMEDY: &str = "start the daemon: pulumi-audit-forwarder run";

/// What the journal holds of one org.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) state: OrgState,
    pub(super) outstanding: BTreeMap<DestinationName, Outstanding>,
}

/// Looks at every org that the journal knows. `journal` is open for reading only: opening an org then changes nothing.
pub(super) async fn read(
    journal: &dyn Journal,
    settings: &Settings,
) -> Result<BTreeMap<OrgId, Stored>, JournalError> {
    let mut stored = BTreeMap::new();
    for id in journal.orgs().await? {
        let configured = settings.orgs.iter().find(|org| org.id == id);
        let lanes = configured.map(OrgSettings::destinations).unwrap_or_default();
        let state = journal.open(&id, &lanes).await?;
        let mut outstanding = BTreeMap::new();
        for lane in lanes {
            outstanding.insert(lane, journal.outstanding(&id, lane).await?);
        }
        stored.insert(id, Stored { state, outstanding });
    }
    Ok(stored)
}

/// The status of every org that is configured or stored.
pub(super) fn status(settings: &Settings, stored: &BTreeMap<OrgId, Stored>) -> Status {
    let configured = settings.orgs.iter().map(|org| configured_org(org, stored.get(&org.id)));
    let retired = stored
        .iter()
        .filter(|(id, _)| settings.orgs.iter().all(|org| org.id != **id))
        .map(|(id, stored)| retired_org(id, stored));
    let mut orgs: Vec<OrgStatus> = configured.chain(retired).collect();
    orgs.sort_by(|a, b| a.id.cmp(&b.id));
    Status {
        version: env!("CARGO_PKG_VERSION").into(),
        orgs,
        config: ConfigStatus { ok: true, since: None, error: None, needs_restart: Vec::new() },
    }
}

fn configured_org(settings: &OrgSettings, stored: Option<&Stored>) -> OrgStatus {
    let ages: Vec<i64> = settings.source.rescan_after.iter().map(|age| age.as_secs().cast_signed()).collect();
    let figures = Figures::of(stored.map(|stored| &stored.state), &ages);
    let lanes = settings.destinations().into_iter().map(|destination| {
        let outstanding = stored.and_then(|stored| stored.outstanding.get(&destination)).copied();
        let outstanding = outstanding.unwrap_or_default();
        LaneStatus {
            destination,
            identity: None,
            credential: None,
            state: State::Waiting,
            reason: Some(STOPPED.into()),
            since: None,
            remedy: Some(REMEDY.into()),
            last_error: None,
            checkpoint: stored.and_then(|stored| stored.state.checkpoints.get(&destination)).copied(),
            delivered_until: figures
                .cursor
                .map(|cursor| Moment(outstanding.first.map_or(cursor, |first| first.min(cursor)))),
            backlog_chunks: outstanding.chunks,
            backlog_events: outstanding.events,
            quarantined: outstanding.quarantined,
        }
    });
    OrgStatus {
        id: settings.id.clone(),
        org: settings.org.clone(),
        state: State::Waiting,
        source: SourceStatus {
            state: State::Waiting,
            reason: Some(STOPPED.into()),
            since: None,
            remedy: Some(REMEDY.into()),
            token: None,
            last_sweep: None,
            last_error: None,
            late_after_seconds: late_after(settings),
        },
        lanes: lanes.collect(),
        start: figures.start.map(Moment),
        cursor: figures.cursor.map(Moment),
        tip: figures.tip.map(Moment),
        coverage: figures.coverage,
        spans: figures.spans,
        spans_left_out: figures.spans_left_out,
        activity: None,
    }
}

fn retired_org(id: &OrgId, stored: &Stored) -> OrgStatus {
    let figures = Figures::of(Some(&stored.state), &[]);
    OrgStatus {
        id: id.clone(),
        // Only its configuration knew Pulumi's name.
        org: String::new(),
        state: State::Retired,
        source: SourceStatus::retired(None),
        lanes: Vec::new(),
        start: figures.start.map(Moment),
        cursor: figures.cursor.map(Moment),
        tip: figures.tip.map(Moment),
        coverage: figures.coverage,
        spans: figures.spans,
        spans_left_out: figures.spans_left_out,
        activity: None,
    }
}

#[derive(Default)]
struct Figures {
    start: Option<Second>,
    cursor: Option<Second>,
    tip: Option<Second>,
    coverage: CoverageStatus,
    spans: Vec<SpanStatus>,
    spans_left_out: u64,
}

impl Figures {
    fn of(state: Option<&OrgState>, ages: &[i64]) -> Figures {
        let Some(state) = state else { return Figures::default() };
        let (start, coverage) = (state.start, &state.coverage);
        let last = ages.last().copied().unwrap_or(0);
        let (spans, spans_left_out) = spans(coverage, start, last, state.tally_floor);
        Figures {
            spans,
            spans_left_out,
            start,
            cursor: start.map(|start| coverage.cursor(start)),
            tip: coverage.tip(),
            coverage: CoverageStatus {
                holes: start.map_or(0, |start| coverage.holes(start).iter().map(|hole| hole.seconds()).sum()),
                damaged: coverage.damaged_seconds(),
                unsettled: coverage.unsettled_seconds(ages, state.tally_floor),
            },
        }
    }
}
