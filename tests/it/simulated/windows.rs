//! What happens to a window while it is read: requests that fail at every place, events that vanish, and seconds that burst it.

use std::time::Duration;

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, Simulation};
use crate::forwarder::sample;
use crate::world::clock::rfc3339;
use crate::world::pulumi::behaviour::{Behaviour, Cursor, Fault, Gzip, Order, TokenStyle};
use crate::world::pulumi::events::{Event, Generator};
use crate::world::script::Times;
use crate::world::truth::Expect;
use crate::world::verdict::{Cut, RetryAfter};

/// The requests of the first half hour: the present, several windows of catching up, each of several pages, and the first looks.
const REQUESTS: u32 = 24;

/// `fault` strikes one request after the other, each in a life of its own.
async fn fails_at_every_request(fault: &Fault) {
    let behaviour = Behaviour { page_size: 10, gzip: Gzip::Never, ..Behaviour::mysql() };
    for request in 0..REQUESTS {
        let mut simulation = Simulation::seeded(&["acme"], 41, &behaviour);
        simulation.setup("acme").start = rfc3339(BEGIN - 2 * HOUR);
        simulation.setup("acme").source = "rescan_after = [\"20m\"]".into();
        let mut generator = Generator::seeded(41);
        let mut events = generator.lively(BEGIN - 2 * HOUR, BEGIN, 50.0);
        events.extend(generator.burst(BEGIN - HOUR, 6));
        simulation.add("acme", events);
        simulation.pulumi.fault("acme", fault.clone(), Times::After(request, 1));
        simulation.start();
        simulation.pass(30 * MINUTE).await;
        let asked = simulation.wire.asked("acme").len();
        assert!(asked > REQUESTS as usize, "every fault strikes: {asked}");
        simulation.pass(30 * MINUTE).await;
        simulation.assert_complete("acme", i64::MAX);
        assert_eq!(simulation.source("acme").0, "ok", "request {request}");
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_request_of_a_sweep_is_answered_with_500_the_window_is_read_again() {
    fails_at_every_request(&Fault::status(500)).await;
}

#[tokio::test(start_paused = true)]
async fn whichever_request_of_a_sweep_is_refused_with_400_the_window_is_read_in_parts() {
    fails_at_every_request(&Fault::status(400)).await;
}

#[tokio::test(start_paused = true)]
async fn whichever_answer_of_a_sweep_is_cut_the_window_is_read_again() {
    fails_at_every_request(&Fault::Lost(Cut::BodyAfter(200))).await;
}

#[tokio::test(start_paused = true)]
async fn a_hundred_429s_without_a_wait_are_outlasted_within_the_budget() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.add("acme", Generator::seeded(42).background(BEGIN, BEGIN + DAY, 20.0));
    simulation.pulumi.fault("acme", Fault::Throttled(RetryAfter::None), Times::Next(100));
    simulation.start();
    simulation.pass_until(BEGIN + HOUR).await;
    assert_eq!(simulation.source("acme"), ("waiting", "throttled".into()));
    // A minute, then growing to five: a hundred of them take eight hours at the most.
    simulation.pass_until(BEGIN + DAY).await;
    simulation.assert_complete("acme", BEGIN + DAY - 10 * MINUTE);
    let first_hours =
        simulation.wire.asked("acme").iter().filter(|sent| sent.at < Duration::from_secs(3 * 3_600)).count();
    assert!(first_hours <= 60, "it does not hammer: {first_hours}");
}

#[tokio::test(start_paused = true)]
async fn events_that_leave_the_list_while_they_are_caught_up_with_cost_only_themselves() {
    let mut simulation = Simulation::of(&["acme"]);
    let start = BEGIN - 20 * DAY;
    simulation.setup("acme").start = rfc3339(start);
    simulation.setup("acme").source = "requests_per_second = 0.05".into();
    simulation.add("acme", Generator::seeded(43).spread(start, BEGIN, 6_000));
    simulation.start();
    // Oldest first: retention takes what has been read, and some of what has not.
    simulation.pass(2 * MINUTE).await;
    let kept_from = BEGIN - 12 * DAY;
    simulation.org("acme").forget_before(kept_from);
    simulation.pass(12 * HOUR).await;
    let lost = Expect { since: kept_from, ..Expect::default() };
    simulation.assert_complete_but("acme", &lost);
    let coverage = simulation.status("acme").coverage;
    assert_eq!(coverage.holes, 0, "the time was asked for, and when is kept: {coverage:?}");
}

#[tokio::test(start_paused = true)]
async fn a_second_of_more_events_than_a_chunk_holds_stops_nothing() {
    let behaviour = Behaviour {
        gzip: Gzip::Never,
        token: TokenStyle::Keyset,
        order: Order::Stable,
        cursor: Cursor::Before,
        ..Behaviour::mysql()
    };
    let mut simulation = Simulation::seeded(&["acme"], 44, &behaviour);
    let mut generator = Generator::seeded(44);
    let dense = BEGIN + HOUR;
    let mut events = generator.background(BEGIN, BEGIN + 6 * HOUR, 20.0);
    events.extend(generator.burst(dense, 2_500));
    simulation.add("acme", events);
    simulation.start();
    simulation.pass_until(BEGIN + 7 * HOUR).await;
    let damaged = simulation.damaged("acme").await;
    assert!(damaged.iter().all(|second| *second == dense), "no other second suffers: {damaged:?}");
    simulation.assert_complete_but("acme", &Expect { damaged, ..Expect::default() });
    assert_eq!(simulation.source("acme").0, "ok");
}

#[tokio::test(start_paused = true)]
async fn lateness_is_measured_before_it_passes_the_overlap_and_an_outage_adds_none() {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.start();
    simulation.pass(HOUR).await;
    let count = |simulation: &Simulation, name: &str| sample(&simulation.metrics(), name, &[("org", "acme")]);
    let late = "event_lateness_seconds_count";
    // Not visible to the head sweep after it, and to the one after that: within the overlap of 15 minutes.
    simulation.add("acme", [Event::at(simulation.now()).late_by(400), Event::at(simulation.now())]);
    simulation.pass(20 * MINUTE).await;
    assert_eq!((count(&simulation, late), count(&simulation, "events_late_total")), (Some(1.0), Some(0.0)));
    let seconds = count(&simulation, "event_lateness_seconds_sum").expect("it is there");
    assert!((400.0..=400.0 + 300.0).contains(&seconds), "{seconds}");

    // One sweep has missed it, and then Pulumi is away for some minutes: part of its age is not its own.
    simulation.pass(MINUTE).await;
    simulation.add("acme", [Event::at(simulation.now()).late_by(5 * MINUTE + 10)]);
    simulation.pass(5 * MINUTE).await;
    simulation.pulumi.fault("acme", Fault::status(503), Times::UntilCleared);
    simulation.pass(8 * MINUTE).await;
    simulation.org("acme").clear_faults();
    simulation.pass(20 * MINUTE).await;
    assert_eq!(count(&simulation, "events_new_total"), Some(3.0));
    assert_eq!(count(&simulation, late), Some(1.0));

    // Beyond the overlap: a later look finds it.
    simulation.add("acme", [Event::at(simulation.now()).late_by(40 * MINUTE)]);
    simulation.pass(2 * HOUR).await;
    assert_eq!((count(&simulation, late), count(&simulation, "events_late_total")), (Some(2.0), Some(1.0)));
}
