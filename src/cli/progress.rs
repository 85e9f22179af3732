//! What `run --once` shows while it works, on a terminal: one line an org. In a pipe the log's plain lines say it.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::event::OrgId;
use crate::report::status::{OrgStatus, State, Status};

const TICK: Duration = Duration::from_millis(120);

/// Lines on standard error, redrawn in place, gone at the end.
#[derive(Default)]
pub(super) struct Progress {
    bars: MultiProgress,
    orgs: BTreeMap<OrgId, ProgressBar>,
}

impl Progress {
    /// Brings the lines up to date.
    pub(super) fn show(&mut self, status: &Status) {
        for org in &status.orgs {
            let bars = &self.bars;
            let bar = self.orgs.entry(org.id.clone()).or_insert_with(|| {
                let style = ProgressStyle::with_template("{spinner} {prefix:<16} {wide_msg}");
                let bar = bars.add(ProgressBar::new_spinner()).with_prefix(org.id.to_string());
                bar.enable_steady_tick(TICK);
                match style {
                    Ok(style) => bar.with_style(style),
                    Err(_) => bar,
                }
            });
            bar.set_message(line(org));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for bar in self.orgs.values() {
            bar.finish_and_clear();
        }
    }
}

/// `fetched until 2026-11-21T10:15:00Z, 3600 s to fetch; sentinel 120 events to deliver; s3 delivered`.
fn line(org: &OrgStatus) -> String {
    let mut parts = vec![match (org.source.state, org.cursor) {
        (State::Paused, _) => {
            format!("source paused ({})", org.source.reason.as_deref().unwrap_or("unknown"))
        }
        (_, None) => "not started".to_owned(),
        (_, Some(cursor)) if org.coverage.holes > 0 => {
            format!("fetched until {cursor}, {} s to fetch", org.coverage.holes)
        }
        (_, Some(cursor)) => format!("fetched until {cursor}"),
    }];
    for lane in &org.lanes {
        let name = lane.destination;
        parts.push(match (lane.state, lane.backlog_events) {
            (State::Paused, _) => format!("{name} paused ({})", lane.reason.as_deref().unwrap_or("unknown")),
            (_, 0) => format!("{name} delivered"),
            (_, events) => format!("{name} {events} events to deliver"),
        });
    }
    parts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::DestinationName;
    use crate::report::status::{CoverageStatus, LaneStatus, SourceStatus};

    #[test]
    fn a_line_says_what_is_left() {
        let lane = |destination, state, backlog_events| LaneStatus {
            destination,
            identity: None,
            credential: None,
            state,
            reason: (state == State::Paused).then(|| "permission".to_owned()),
            since: None,
            remedy: None,
            last_error: None,
            checkpoint: Some(0),
            delivered_until: None,
            backlog_chunks: 0,
            backlog_events,
            quarantined: 0,
        };
        let org = OrgStatus {
            id: OrgId::new("acme").unwrap(),
            org: "acme-corp".into(),
            state: State::Ok,
            start: None,
            cursor: None,
            tip: None,
            coverage: CoverageStatus::default(),
            spans: Vec::new(),
            spans_left_out: 0,
            activity: None,
            source: SourceStatus { state: State::Ok, ..SourceStatus::retired(None) },
            lanes: vec![
                lane(DestinationName::Sentinel, State::Paused, 7),
                lane(DestinationName::S3, State::Ok, 120),
                lane(DestinationName::File, State::Ok, 0),
            ],
        };
        assert_eq!(
            line(&org),
            "not started; sentinel paused (permission); s3 120 events to deliver; file delivered"
        );
    }
}
