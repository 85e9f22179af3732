//! Heartbeats: a sign of life of each org at its destinations themselves, for whoever sees nothing but these.
//!
//! A beat says that the daemon lives, and how far the org is there: an alarm on `DeliveredUntil_t` fires when the daemon is gone, and
//! also when it lives and something stands still. A beat is no event: it is not journaled, one that cannot be sent is left out, and
//! none holds up a delivery.
//!
//! *Why not the rows of events:* an organization in which nothing happens is silent as well. *Why no beat at the start:* a daemon
//! that ends and is started again all the time would look alive.

use std::time::Duration;

use serde_json::{Map, Value};
use tokio::time::{sleep, timeout};

use crate::clock::{Clock, Second};
use crate::destination::sentinel::columns::ColumnKind;
use crate::destination::{DestinationName, Pulse};
use crate::report::OrgReport;
use crate::report::status::{LaneStatus, Moment, OrgStatus, State};

/// Longest that one beat takes; with shorter intervals it is that.
const DEADLINE: Duration = Duration::from_secs(60);

/// A column of the heartbeats' stream; a field of the object in S3.
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnKind,
    pub holds: &'static str,
    cell: fn(&Facts<'_>) -> Value,
}

/// What a beat is made of.
struct Facts<'a> {
    at: Second,
    org: &'a OrgStatus,
    lane: &'a LaneStatus,
}

pub static COLUMNS: [Column; 13] = {
    use ColumnKind::{DateTime, Long, String};
    [
        column("TimeGenerated", DateTime, "when it was made", |facts| time(Some(Moment(facts.at)))),
        column("OrgId_s", String, "the org's id", |facts| facts.org.id.as_str().into()),
        column("OrgName_s", String, "Pulumi's name of the organization", |facts| {
            facts.org.org.as_str().into()
        }),
        column("Version_s", String, "the daemon's version", |_| env!("CARGO_PKG_VERSION").into()),
        column(
            "State_s",
            String,
            "`ok`, `waiting` or `paused`: the worse of the source's and this destination's",
            |facts| facts.state().0.as_str().into(),
        ),
        column("Reason_s", String, "why it waits or is paused; empty otherwise", |facts| {
            facts.state().1.unwrap_or_default().into()
        }),
        column(
            "CollectedUntil_t",
            DateTime,
            "every event before it is journaled, null while that is unknown",
            |facts| time(facts.org.cursor),
        ),
        column(
            "DeliveredUntil_t",
            DateTime,
            "every event before it is at this destination, null while that is unknown",
            |facts| time(facts.lane.delivered_until),
        ),
        column("BacklogEvents_d", Long, "events still to be delivered here", |facts| {
            facts.lane.backlog_events.into()
        }),
        column("Quarantined_d", Long, "rows that this destination refused", |facts| {
            facts.lane.quarantined.into()
        }),
        column("HolesSeconds_d", Long, "seconds of event time not read yet", |facts| {
            facts.org.coverage.holes.into()
        }),
        column("DamagedSeconds_d", Long, "seconds too dense to be read whole", |facts| {
            facts.org.coverage.damaged.into()
        }),
        column("UnsettledSeconds_d", Long, "seconds that are looked at once more", |facts| {
            facts.org.coverage.unsettled.into()
        }),
    ]
};

const fn column(
    name: &'static str,
    kind: ColumnKind,
    holds: &'static str,
    cell: fn(&Facts<'_>) -> Value,
) -> Column {
    Column { name, kind, holds, cell }
}

fn time(moment: Option<Moment>) -> Value {
    moment.map_or(Value::Null, |moment| moment.to_string().into())
}

impl Facts<'_> {
    fn state(&self) -> (State, Option<&str>) {
        let source = (self.org.source.state, self.org.source.reason.as_deref());
        let lane = (self.lane.state, self.lane.reason.as_deref());
        if lane.0 > source.0 { lane } else { source }
    }

    fn row(&self) -> Vec<u8> {
        let row: Map<String, Value> =
            COLUMNS.iter().map(|column| (column.name.to_owned(), (column.cell)(self))).collect();
        Value::Object(row).to_string().into_bytes()
    }
}

/// The beats of one lane.
pub struct Heartbeat {
    pub report: OrgReport,
    pub destination: DestinationName,
    pub pulse: Box<dyn Pulse>,
    pub every: Duration,
    /// Where in each interval it is sent, in seconds: not those of all orgs at once.
    pub phase: i64,
    pub clock: Clock,
}

impl Heartbeat {
    /// Sends a beat in every interval, for as long as it is polled.
    pub async fn run(mut self) {
        let mut missed = 0_u64;
        let metrics = self.report.metrics();
        let lane = metrics.lane(self.destination);
        lane.heartbeats_begin();
        loop {
            let every = crate::clock::whole_seconds(self.every).max(1);
            let interval = next(self.clock.now(), every, self.phase);
            let due = interval + self.phase % every;
            sleep(Duration::from_secs(u64::try_from(due - self.clock.now()).unwrap_or_default())).await;
            let sent = match self.row() {
                Some(row) => timeout(DEADLINE.min(self.every), self.pulse.send(interval, row))
                    .await
                    .unwrap_or_else(|_| Err("no answer in time".into())),
                None => continue,
            };
            lane.heartbeat(sent.is_ok());
            let (org, destination) = (self.report.id().as_str(), self.destination.as_str());
            match sent {
                Ok(()) if missed == 0 => {}
                Ok(()) => {
                    tracing::info!(org, destination, missed, "heartbeats are sent again");
                    missed = 0;
                }
                Err(cause) => {
                    if missed == 0 {
                        tracing::warn!(
                            org,
                            destination,
                            cause,
                            "a heartbeat was not sent; events are delivered all the same"
                        );
                    }
                    missed += 1;
                }
            }
        }
    }

    fn row(&self) -> Option<Vec<u8>> {
        let org = self.report.status();
        let lane = org.lanes.iter().find(|lane| lane.destination == self.destination)?;
        Some(Facts { at: self.clock.now(), org: &org, lane }.row())
    }
}

/// The beginning of the interval whose beat is next.
fn next(now: Second, every: i64, phase: i64) -> Second {
    let begun = now - now.0.rem_euclid(every);
    if begun + phase % every > now { begun } else { begun + every }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;
    use crate::metrics::Metrics;
    use crate::problem::{PauseReason, Problem};
    use crate::report::Reports;
    use crate::report::tests::settings;

    #[derive(Clone, Default)]
    struct Heart(Arc<Mutex<Seen>>);

    #[derive(Default)]
    struct Seen {
        beats: Vec<(i64, Value)>,
        down: bool,
        hangs: bool,
    }

    #[async_trait]
    impl Pulse for Heart {
        async fn send(&mut self, interval: Second, row: Vec<u8>) -> Result<(), String> {
            let (down, hangs) = {
                let mut seen = self.0.lock().unwrap();
                if !seen.down && !seen.hangs {
                    seen.beats.push((interval.0, serde_json::from_slice(&row).unwrap()));
                }
                (seen.down, seen.hangs)
            };
            if hangs {
                std::future::pending::<()>().await;
            }
            if down { Err("down".into()) } else { Ok(()) }
        }
    }

    fn bench() -> (Heart, OrgReport, tokio::task::JoinHandle<()>) {
        // 15 seconds into an interval of five minutes.
        let clock = Clock::simulated(Second(1_795_256_115));
        let reports = Reports::new(Metrics::new("0.0.0", "unknown"), clock.clone());
        let report = reports.org(&settings("acme", "acme-corp", &[DestinationName::Sentinel]));
        let heart = Heart::default();
        let heartbeat = Heartbeat {
            report: report.clone(),
            destination: DestinationName::Sentinel,
            pulse: Box::new(heart.clone()),
            every: Duration::from_secs(300),
            phase: 20,
            clock,
        };
        (heart, report, tokio::spawn(heartbeat.run()))
    }

    #[tokio::test(start_paused = true)]
    async fn each_interval_has_one_beat_at_its_phase_and_one_that_fails_or_hangs_is_left_out() {
        let (heart, _, task) = bench();
        let beats = || heart.0.lock().unwrap().beats.iter().map(|(at, _)| *at).collect::<Vec<_>>();
        sleep(Duration::from_secs(4)).await;
        assert!(beats().is_empty());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(beats(), [1_795_256_100]);
        heart.0.lock().unwrap().down = true;
        sleep(Duration::from_secs(300)).await;
        heart.0.lock().unwrap().down = false;
        heart.0.lock().unwrap().hangs = true;
        sleep(Duration::from_secs(300)).await;
        heart.0.lock().unwrap().hangs = false;
        sleep(Duration::from_secs(300)).await;
        assert_eq!(beats(), [1_795_256_100, 1_795_257_000]);
        task.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_beat_tells_how_far_the_org_is_and_what_is_wrong() {
        let (heart, report, task) = bench();
        report.lane(DestinationName::Sentinel).progress(
            3,
            &crate::journal::Outstanding::default(),
            Some(Second(1_795_256_000)),
        );
        report.source().paused(&Problem {
            reason: PauseReason::Credentials,
            cause: "401".into(),
            remedy: "a new token".into(),
        });
        sleep(Duration::from_secs(6)).await;
        let row = heart.0.lock().unwrap().beats[0].1.clone();
        let names: Vec<_> = row.as_object().unwrap().keys().cloned().collect();
        assert_eq!(names.len(), COLUMNS.len());
        assert_eq!(row["OrgId_s"], "acme");
        assert_eq!(row["OrgName_s"], "acme-corp");
        assert_eq!((&row["State_s"], &row["Reason_s"]), (&"paused".into(), &"credentials".into()));
        assert_eq!(row["DeliveredUntil_t"], Second(1_795_256_000).to_string());
        assert_eq!(row["CollectedUntil_t"], Value::Null);
        assert_eq!(row["TimeGenerated"], Second(1_795_256_120).to_string());
        task.abort();
    }

    #[test]
    fn the_documentation_lists_these_columns() {
        let mut table = String::from("| Column | Type | Holds |\n|---|---|---|\n");
        for Column { name, kind, holds, .. } in &COLUMNS {
            table.push_str(&format!("| `{name}` | {} | {holds} |\n", kind.as_str()));
        }
        let page = include_str!("../docs/formats.md");
        assert!(page.contains(&format!("\n\n{table}\n")), "docs/formats.md must have this table:\n{table}");
    }

    #[test]
    fn the_columns_for_other_programs_are_these_columns() {
        let lines: Vec<String> = COLUMNS
            .iter()
            .map(|Column { name, kind, .. }| {
                format!("{{\"name\":\"{name}\",\"type\":\"{}\"}}", kind.as_str())
            })
            .collect();
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        let file = include_str!("../data/heartbeat-columns.json");
        assert!(file == text, "data/heartbeat-columns.json must be:\n{text}");
    }
}
