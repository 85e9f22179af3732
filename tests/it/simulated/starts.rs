//! Where collection begins, and how close to the present it goes.

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, Simulation};
use crate::world::clock::rfc3339;
use crate::world::pulumi::events::Generator;
use crate::world::pulumi::store::TruthEvent;
use crate::world::truth::{Expect, Report};

/// What arrived is exactly what is due since then.
fn assert_begins_at(simulation: &Simulation, start: i64, as_of: i64) -> Report {
    let report = simulation.archived("acme", &Expect { since: start, as_of, ..Expect::default() });
    report.assert_complete();
    assert!(report.due > 0, "{report}");
    let since = |event: &&TruthEvent| event.timestamp >= start && event.visible_at <= simulation.now();
    let most = simulation.org("acme").truth().iter().filter(since).count();
    assert!(report.arrived <= most, "nothing before the start: {report}");
    report
}

#[tokio::test(start_paused = true)]
async fn a_start_of_now_journals_nothing_before_it() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.add("acme", Generator::seeded(1).background(BEGIN - 2 * HOUR, BEGIN + 4 * HOUR, 600.0));
    simulation.setup("acme").start = "now".into();
    simulation.start();
    simulation.pass(HOUR).await;
    // A restart, later, moves nothing.
    simulation.kill().await;
    simulation.pass(HOUR).await;
    simulation.start();
    simulation.pass(4 * HOUR).await;
    let start = simulation.state("acme").await.start.expect("it is fixed").0;
    assert!((BEGIN..BEGIN + 5).contains(&start), "{start}");
    assert_begins_at(&simulation, start, i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_start_of_now_is_fixed_by_a_refusal_too() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.add("acme", Generator::seeded(2).background(BEGIN - HOUR, BEGIN + 4 * HOUR, 600.0));
    simulation.setup("acme").start = "now".into();
    let token = simulation.org("acme").rotate_token();
    simulation.write_token("acme", "pul-not-yet-valid");
    simulation.start();
    simulation.pass(2 * HOUR).await;
    simulation.write_token("acme", &token);
    simulation.pass(3 * HOUR).await;
    let start = simulation.state("acme").await.start.expect("it is fixed").0;
    assert!((BEGIN..BEGIN + 5).contains(&start), "{start}");
    assert_begins_at(&simulation, start, i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_start_that_is_moved_earlier_opens_a_hole_that_is_filled() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let events = Generator::seeded(3).background(BEGIN - 10 * DAY, BEGIN + 4 * DAY, 6.0);
    simulation.add("acme", events);
    simulation.start();
    simulation.pass(3 * DAY).await;
    assert_begins_at(&simulation, BEGIN, simulation.now() - 6 * MINUTE);
    simulation.stop().await;

    let earlier = BEGIN - 9 * DAY;
    simulation.setup("acme").start = rfc3339(earlier);
    simulation.start();
    simulation.pass(HOUR).await;
    assert_begins_at(&simulation, earlier, simulation.now() - 6 * MINUTE);
    simulation.stop().await;

    simulation.setup("acme").start = rfc3339(BEGIN + 2 * DAY);
    simulation.start();
    simulation.pass_until(BEGIN + 6 * DAY).await;
    assert_eq!(simulation.state("acme").await.start.map(|start| start.0), Some(earlier), "later is ignored");
    assert_begins_at(&simulation, earlier, i64::MAX);
    simulation.assert_complete_but("acme", &Expect { since: earlier, ..Expect::default() });
}

#[tokio::test(start_paused = true)]
async fn nothing_younger_than_settle_is_journaled() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.add("acme", Generator::seeded(4).lively(BEGIN, BEGIN + 6 * HOUR, 120.0));
    simulation.setup("acme").source = "settle = \"10m\"".into();
    simulation.start();
    simulation.pass(7 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 6 * HOUR);
    let windows = simulation.windows("acme");
    assert!(windows.iter().all(|read| read.window.until.0 <= read.read_at.0 - 600), "{windows:?}");
    assert!(windows.iter().filter(|read| read.kind == "head").count() > 80, "it polls all the same");
}

#[tokio::test(start_paused = true)]
async fn a_crash_loop_costs_two_requests_a_start() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.add("acme", Generator::seeded(5).background(BEGIN, BEGIN + HOUR, 30.0));
    for _ in 0..100 {
        simulation.start();
        simulation.pass(2).await;
        simulation.kill().await;
    }
    let asked = simulation.wire.asked("acme").len();
    assert!(asked <= 2 * 100, "the service's time and the present, no more: {asked}");
    simulation.start();
    simulation.pass(2 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + HOUR);
}
