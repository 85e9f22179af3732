//! Many orgs in one process.

use super::simulation::{BEGIN, DAY, MINUTE, Simulation};
use crate::world::clock::rfc3339;
use crate::world::ingestion::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::rule_of;

/// Polled every minute, they ask as much of the host's budget as a thousand do by default.
const ORGS: usize = 200;
const HOT: &str = "org-000";
const DEAD: &str = "org-001";
/// Every org begins, spread over a poll interval, and is swept once more.
const SETTLED: i64 = 3 * MINUTE;

/// How far any org but those two falls behind within two minutes, in seconds: at most, and on average.
async fn lag(trouble: bool) -> (i64, i64) {
    let names: Vec<String> = (0..ORGS).map(|number| format!("org-{number:03}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut simulation = Simulation::of(&names).with_sentinel();
    for (seed, org) in names.iter().enumerate() {
        let setup = simulation.setup(org);
        setup.file = false;
        setup.source = "poll_interval = \"1m\"\nrescan_after = [\"2m\"]".into();
        simulation.add(org, Generator::seeded(seed as u64).background(BEGIN, BEGIN + 6 * MINUTE, 60.0));
    }
    if trouble {
        let start = BEGIN - 30 * DAY;
        simulation.add(HOT, Generator::seeded(7).spread(start, BEGIN - DAY, 200_000));
        simulation.setup(HOT).start = rfc3339(start);
        simulation.azure.fault_on(&rule_of(DEAD), Fault::unavailable(), Times::UntilCleared);
    }
    simulation.start();
    simulation.pass(SETTLED).await;
    let (mut most, mut sum, mut count) = (0, 0, 0);
    for _ in 0..20 {
        simulation.pass(MINUTE / 10).await;
        for org in simulation.statuses() {
            if ![HOT, DEAD].contains(&org.id.as_str()) {
                let delivered = org.lanes[0].delivered_until.expect("every org has been swept").0;
                let behind = simulation.now() - delivered.0;
                (most, sum, count) = (most.max(behind), sum + behind, count + 1);
            }
        }
    }
    if trouble {
        assert!(simulation.status(HOT).coverage.holes > 0, "it is still catching up");
        assert_eq!(simulation.lane(DEAD, "sentinel").state.as_str(), "waiting");
    }
    (most, sum / count)
}

#[tokio::test(start_paused = true)]
async fn an_org_that_catches_up_and_a_destination_that_is_dead_delay_none_of_two_hundred_others() {
    let (most_before, mean_before) = lag(false).await;
    assert!(most_before <= MINUTE + 15, "a poll interval, and the time to deliver: {most_before} s");
    let (most, mean) = lag(true).await;
    assert!(
        most <= most_before + 5 && mean <= mean_before + 2,
        "{most} s, on average {mean}; without trouble {most_before} and {mean_before}"
    );
}
