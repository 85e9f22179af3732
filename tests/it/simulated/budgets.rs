//! How often the source is asked.

use std::time::Duration;

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, Simulation};
use super::wire::Sent;
use crate::world::clock::rfc3339;
use crate::world::pulumi::events::Generator;

/// A head sweep every five minutes makes 288 requests a day; looks at 1 h, 6 h and 24 h, gathered by a quarter of the distance
/// between them, make some 121.
const QUIET_REQUESTS_A_DAY: usize = 420;

/// The most requests in any span of so many seconds.
fn most_within(sent: &[Sent], seconds: u64) -> usize {
    let span = Duration::from_secs(seconds);
    let until = |begin: usize| sent[begin..].partition_point(|sent_| sent_.at < sent[begin].at + span);
    (0..sent.len()).map(until).max().unwrap_or(0)
}

fn on_day(sent: &[Sent], day: i64) -> usize {
    let day = |sent: &&Sent| sent.at.as_secs() as i64 / DAY == day;
    sent.iter().filter(day).count()
}

#[tokio::test(start_paused = true)]
async fn a_quiet_org_costs_a_request_a_sweep() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    simulation.add("acme", Generator::seeded(1).lively(BEGIN, BEGIN + 2 * DAY, 4.0));
    simulation.start();
    simulation.pass(2 * DAY + HOUR).await;
    let asked = simulation.wire.asked("acme");
    for day in [0, 1] {
        let requests = on_day(&asked, day);

        assert!((288..=QUIET_REQUESTS_A_DAY).contains(&requests), "{requests} requests on day {day}");
    }
    assert!(most_within(&asked, 1) <= 2, "at most two a second");
    simulation.assert_complete("acme", BEGIN + 2 * DAY);
}

#[tokio::test(start_paused = true)]
async fn a_busy_org_costs_what_its_pages_need() {
    let mut simulation = Simulation::of(&["acme"]);
    let events = Generator::seeded(2).lively(BEGIN, BEGIN + DAY, 120.0);
    let count = events.len();
    simulation.add("acme", events);
    simulation.start();
    simulation.pass(DAY + HOUR).await;
    let asked = simulation.wire.asked("acme");
    // Every event is read by four head sweeps, and by three later looks; a page of a hundred may be half in vain.
    let pages = count * 7 / 50;

    assert!(asked.len() <= QUIET_REQUESTS_A_DAY + pages, "{} requests for {count} events", asked.len());
    assert!(most_within(&asked, 1) <= 2, "at most two a second");
    simulation.assert_complete("acme", BEGIN + DAY);
}

#[tokio::test(start_paused = true)]
async fn thirty_days_are_caught_up_with_half_the_budget_while_the_present_goes_on() {
    let mut simulation = Simulation::of(&["acme"]);
    let start = BEGIN - 30 * DAY;
    simulation.org("acme").behave(|behaviour| behaviour.page_size = 5);
    simulation.add("acme", Generator::seeded(3).background(start, BEGIN + DAY, 10.0));
    simulation.setup("acme").start = rfc3339(start);
    simulation.start();

    simulation.until("the present is read", MINUTE, || !simulation.windows("acme").is_empty()).await;
    let first = simulation.windows("acme").remove(0);
    assert_eq!(first.kind, "head");
    assert!(simulation.now() - first.window.until.0 < MINUTE, "{first:?}");

    let caught_up = || simulation.status("acme").coverage.holes == 0;
    simulation.until("the hole is filled", 6 * HOUR, caught_up).await;
    assert!(simulation.now() - BEGIN > 20 * MINUTE, "the backlog is long enough to say something");
    simulation.assert_complete("acme", simulation.now() - 6 * MINUTE);

    let heads: Vec<i64> = simulation
        .windows("acme")
        .iter()
        .filter(|window| window.kind == "head")
        .map(|window| window.read_at.0)
        .collect();
    for pair in heads.windows(2) {
        assert!(pair[1] - pair[0] <= 6 * MINUTE, "a head sweep waited for the backlog: {heads:?}");
    }
    let asked = simulation.wire.asked("acme");
    let heads_pages = 5 * heads.len();
    let background = asked.len() - heads_pages.min(asked.len());
    let seconds = (simulation.now() - BEGIN) as usize;
    assert!(background <= seconds + heads_pages, "{background} requests in {seconds} s");
    assert!(most_within(&asked, 1) <= 2, "at most two a second");
    // One a second for the backlog, and a head sweep of a few pages now and then.
    assert!(most_within(&asked, 60) <= 75, "{} requests in a minute", most_within(&asked, 60));
}
