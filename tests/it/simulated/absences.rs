//! The forwarder is away for longer than anything is allowed to matter.

use super::simulation::{BEGIN, DAY, HOUR, Simulation};
use crate::world::chance::Chance;
use crate::world::pulumi::events::{Event, Generator};

/// A third of the events become visible within the quarter of an hour that every head sweep reads again, a third within six hours,
/// and a third at any time up to a day after they happened.
fn late(events: Vec<Event>, seed: u64) -> Vec<Event> {
    let mut chance = Chance::seeded(seed);
    let delay = |chance: &mut Chance| {
        let most = *chance.pick(&[900, 21_600, 86_000]);
        chance.below(most) as i64
    };
    events.into_iter().map(|event| event.late_by(delay(&mut chance))).collect()
}

/// A day and a quarter of presence, the absence, and presence again until everything has had its last look.
async fn away_for(absence: i64, in_order: bool) {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    let stopped = BEGIN + 30 * HOUR;
    let back = stopped + absence;
    let end = back + 6 * HOUR;
    let events = Generator::seeded(7).lively(BEGIN, end, 8.0);
    simulation.add("acme", late(events, 8));
    simulation.start();
    simulation.pass_until(stopped).await;
    if in_order {
        simulation.stop().await;
    } else {
        simulation.kill().await;
    }
    simulation.pass_until(back).await;
    simulation.start();
    // Everything that was visible at the return is fetched at once, not at its next turn.
    simulation.pass(20 * 60).await;
    simulation.assert_complete("acme", back);
    // The last look at the youngest event may be late by its batch, a quarter of the 18 hours since the one before.
    simulation.pass_until(end + DAY + 5 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
}

#[tokio::test(start_paused = true)]
async fn twenty_five_hours_away_lose_nothing_that_became_visible_meanwhile() {
    away_for(25 * HOUR, true).await;
}

#[tokio::test(start_paused = true)]
async fn three_days_away_lose_nothing_that_became_visible_meanwhile() {
    away_for(3 * DAY, false).await;
}

#[tokio::test(start_paused = true)]
async fn later_looks_that_are_asked_for_afterwards_are_taken() {
    let mut simulation = Simulation::of(&["acme"]);
    let changed = BEGIN + 4 * DAY;
    simulation.setup("acme").source = "rescan_after = [\"1h\"]".into();
    simulation.add("acme", Generator::seeded(9).background(BEGIN, changed, 2.0));
    simulation.start();
    simulation.pass_until(changed).await;
    simulation.stop().await;
    simulation.setup("acme").source.clear();
    let events = Generator::seeded(10).background(changed, changed + 6 * HOUR, 8.0);
    simulation.add("acme", late(events, 11));
    simulation.start();
    simulation.pass_until(changed + 6 * HOUR + DAY + 5 * HOUR).await;
    simulation.assert_complete("acme", i64::MAX);
    let unsettled = simulation.status("acme").coverage.unsettled;
    assert!(unsettled <= 30 * HOUR, "{unsettled} s are still owed a look");
}
