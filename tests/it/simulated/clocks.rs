//! Clocks that are wrong: the service's `Date`, and this machine's own.

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, Simulation};
use crate::world::chance::Chance;
use crate::world::pulumi::behaviour::DateHeader;
use crate::world::pulumi::events::{Event, Generator};

/// Some of them late by up to five hours.
fn events(seed: u64, from: i64, until: i64) -> Vec<Event> {
    let mut chance = Chance::seeded(seed);
    let late =
        |event: Event| if chance.one_in(3) { event.late_by(chance.below(18_000) as i64) } else { event };
    Generator::seeded(seed).background(from, until, 12.0).into_iter().map(late).collect()
}

async fn assert_tip_is_not_ahead(simulation: &Simulation) {
    let tip = simulation.coverage("acme").await.tip().expect("something was read").0;
    let now = simulation.now();
    assert!((now - 16 * MINUTE..=now + 1).contains(&tip), "the tip is {} s ahead", tip - now);
    let (cursor, holes) = (simulation.status("acme").cursor, simulation.status("acme").coverage.holes);
    assert_eq!(holes, 0, "the cursor is {cursor:?}");
}

/// Days of truth, then a date that is wrong for a while, then the truth again.
async fn wrong_for(seconds: i64, date: DateHeader) {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.setup("acme").source = "poll_interval = \"15m\"".into();
    simulation.add("acme", events(1, BEGIN, BEGIN + 3 * DAY + HOUR));
    simulation.start();
    simulation.pass_until(BEGIN + 60 * HOUR).await;
    simulation.org("acme").behave(|behaviour| behaviour.date = date.clone());
    simulation.pass(seconds).await;
    simulation.org("acme").behave(|behaviour| behaviour.date = DateHeader::Present);
    // A jump is believed after a poll interval, and a service that is not asked otherwise is asked after two.
    simulation.pass(50 * MINUTE).await;
    assert_tip_is_not_ahead(&simulation).await;
    simulation.pass_until(BEGIN + 4 * DAY + 6 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn one_absurd_date_changes_nothing() {
    for ahead in [DAY, -DAY, 3650 * DAY] {
        let mut simulation = Simulation::of(&["acme"]);
        simulation.add("acme", events(2, BEGIN, BEGIN + 6 * HOUR));
        simulation.start();
        simulation.pass(HOUR).await;
        simulation.org("acme").behave(|behaviour| behaviour.date = DateHeader::Shifted(ahead));
        let before = simulation.wire.asked("acme").len();
        simulation.until("one is sent", 6 * MINUTE, || simulation.wire.asked("acme").len() > before).await;
        simulation.pass(1).await;
        simulation.org("acme").behave(|behaviour| behaviour.date = DateHeader::Present);
        for _ in 0..10 {
            simulation.pass(MINUTE).await;
            assert_tip_is_not_ahead(&simulation).await;
        }
        simulation.pass_until(BEGIN + 12 * HOUR).await;
        simulation.assert_complete("acme", BEGIN + 6 * HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn a_date_a_day_ahead_for_six_hours_loses_and_doubles_nothing() {
    wrong_for(6 * HOUR, DateHeader::Shifted(DAY)).await;
}

#[tokio::test(start_paused = true)]
async fn a_date_forty_days_ahead_for_six_hours_loses_and_doubles_nothing() {
    wrong_for(6 * HOUR, DateHeader::Shifted(40 * DAY)).await;
}

#[tokio::test(start_paused = true)]
async fn a_date_a_day_behind_for_six_hours_loses_and_doubles_nothing() {
    wrong_for(6 * HOUR, DateHeader::Shifted(-DAY)).await;
}

#[tokio::test(start_paused = true)]
async fn a_date_that_lies_before_everything_compared_loses_and_doubles_nothing() {
    wrong_for(6 * HOUR, DateHeader::Shifted(-60 * HOUR)).await;
}

#[tokio::test(start_paused = true)]
async fn a_date_that_lies_before_the_start_is_not_believed_for_ever() {
    wrong_for(6 * HOUR, DateHeader::Shifted(-3650 * DAY)).await;
}

/// A process that begins with a wrong date and dies before another could be believed, then one that begins with the truth.
async fn begun_with(date: DateHeader, lives: i64, absent: i64, overlap: &str) {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.setup("acme").source = format!("poll_interval = \"5m\"\noverlap = {overlap:?}");
    simulation.add("acme", events(6, BEGIN, BEGIN + 5 * DAY));
    simulation.start();
    simulation.pass_until(BEGIN + 60 * HOUR).await;
    simulation.kill().await;
    simulation.org("acme").behave(|behaviour| behaviour.date = date.clone());
    simulation.start();
    simulation.pass(lives).await;
    simulation.kill().await;
    simulation.org("acme").behave(|behaviour| behaviour.date = DateHeader::Present);
    simulation.pass(absent).await;
    simulation.start();
    simulation.pass(40 * MINUTE).await;
    assert_tip_is_not_ahead(&simulation).await;
    simulation.pass_until(BEGIN + 7 * DAY).await;
    simulation.assert_complete("acme", i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_begins_with_a_date_ahead_and_dies_loses_and_doubles_nothing() {
    for ahead in [HOUR, DAY, 40 * DAY] {
        begun_with(DateHeader::Shifted(ahead), 200, 1, "15m").await;
    }
    begun_with(DateHeader::Shifted(40 * DAY), 200, 1, "0s").await;
}

#[tokio::test(start_paused = true)]
async fn nor_when_the_truth_has_passed_the_wrong_tip_before_the_next_begins() {
    begun_with(DateHeader::Shifted(HOUR), 200, 3 * HOUR, "15m").await;
    begun_with(DateHeader::Shifted(DAY), 200, 26 * HOUR, "15m").await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_begins_with_a_date_behind_loses_and_doubles_nothing() {
    for lives in [200, HOUR] {
        begun_with(DateHeader::Shifted(-DAY), lives, 1, "15m").await;
        begun_with(DateHeader::Shifted(-60 * HOUR), lives, 1, "15m").await;
    }
}

#[tokio::test(start_paused = true)]
async fn missing_and_garbled_dates_are_no_dates() {
    wrong_for(6 * HOUR, DateHeader::Absent).await;
    wrong_for(6 * HOUR, DateHeader::Raw("yesterday".into())).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_moves_a_day_ahead_for_good_is_followed() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let moved = BEGIN + 2 * DAY;
    simulation.add("acme", Generator::seeded(3).background(BEGIN, moved, 12.0));
    // From then on the service's events carry its new time.
    let later = Generator::seeded(4).background(moved + DAY, moved + 2 * DAY, 12.0);
    simulation
        .org("acme")
        .add(later.into_iter().map(|event| Event { visible_at: event.timestamp - DAY, ..event }));
    simulation.start();
    simulation.pass_until(moved).await;
    simulation.org("acme").behave(|behaviour| behaviour.date = DateHeader::Shifted(DAY));
    simulation.pass(HOUR).await;
    let tip = simulation.coverage("acme").await.tip().expect("something was read").0;
    assert!(tip > simulation.now() + DAY - 6 * MINUTE, "it is followed");
    assert_eq!(simulation.status("acme").coverage.holes, 0);
    simulation.pass_until(moved + 30 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
}

/// This machine is wrong by so much, at the first start and at a later one.
async fn local_clock_wrong_by(seconds: i64) {
    let mut simulation = Simulation::of(&["acme"]);
    simulation.local_clock_ahead = seconds;
    simulation.add("acme", events(5, BEGIN, BEGIN + 30 * HOUR));
    simulation.start();
    for _ in 0..3 {
        simulation.pass(MINUTE).await;
        assert_tip_is_not_ahead(&simulation).await;
    }
    simulation.pass_until(BEGIN + DAY).await;
    simulation.kill().await;
    simulation.pass(2 * HOUR).await;
    simulation.start();
    simulation.pass(30 * MINUTE).await;
    assert_tip_is_not_ahead(&simulation).await;
    simulation.pass_until(BEGIN + 50 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn a_machine_ten_years_ahead_loses_nothing() {
    local_clock_wrong_by(3650 * DAY).await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_ten_years_behind_loses_nothing() {
    local_clock_wrong_by(-3650 * DAY).await;
}
