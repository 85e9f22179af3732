//! What an operator reads in the log of the real binary while something fails for long: its beginning, how often it came, its end.

use std::slice::from_ref;

use serde_json::Value;

use crate::forwarder::{complete, start};
use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until};
use crate::world::ingestion::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::{OrgSetup, rule_of};

const DAY: i64 = 86_400;
/// So many lines are written before the rest is counted.
const AT_ONCE: usize = 10;

fn lines(daemon: &Daemon) -> Vec<Value> {
    daemon.log().lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
}

/// How many lines were written with this message, and how many are counted as left out of it.
fn told(lines: &[Value], message: &str) -> (usize, u64) {
    let written = lines.iter().filter(|line| line["message"] == message);
    let counts = lines.iter().filter(|line| line["text"] == message);
    let left_out = counts.map(|line| {
        assert_eq!((&line["org"], &line["destination"]), (&"acme".into(), &"sentinel".into()), "{line}");
        line["left_out"].as_u64().expect("a number")
    });
    (written.count(), left_out.sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_fails_again_and_again_is_written_ten_times_and_counted_to_the_last() {
    const FAILURES: u32 = 25;
    let world = World::builder().events(0).start().await;
    let now = world.clock.now();
    // A chunk never spans midnight, so there is one for each day at least.
    let since = now - 40 * DAY;
    world.pulumi().org("acme").add(Generator::seeded(1).spread(since, now - DAY, 400));
    let acme = OrgSetup::new("acme").since(&rfc3339(since)).with_sentinel();
    // Every other upload fails, and the one after it succeeds.
    for failure in 1..=FAILURES {
        world.ingestion().fault(Fault::status(503), Times::After(failure, 1));
    }
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());

    let answered = world.ingestion().ledger.answered(&rule_of("acme"), 503);
    assert_eq!(answered, u64::from(FAILURES), "it did fail so often");
    let lines = lines(&daemon);
    assert_eq!(told(&lines, "waiting"), (AT_ONCE, answered - AT_ONCE as u64), "{}", daemon.log());
    assert_eq!(told(&lines, "wait ended"), (AT_ONCE, answered - AT_ONCE as u64), "{}", daemon.log());
    let first = lines.iter().find(|line| line["message"] == "waiting").expect("it was counted");
    assert_eq!((&first["level"], &first["reason"]), (&"WARN".into(), &"backoff".into()));
    assert!(first["cause"].as_str().is_some_and(|cause| cause.contains("503")), "{first}");
    assert_eq!(told(&lines, "stopped"), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_refused_one_after_another_are_written_ten_times_and_counted_at_the_end() {
    const EVENTS: usize = 300;
    const REFUSED: usize = EVENTS / 5;
    let world = World::builder().events(0).start().await;
    let now = world.clock.now();
    let events = Generator::seeded(2).spread(now - 3_600, now - 60, EVENTS);
    let each_fifth = events
        .into_iter()
        .enumerate()
        .map(|(at, event)| if at % 5 == 0 { event.described("a poisoned row") } else { event });
    world.pulumi().org("acme").add(each_fifth);
    world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
    let acme = OrgSetup::new("acme").since(&rfc3339(now - 7_200)).with_sentinel().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    until("the good rows have arrived", async || {
        world.rows("acme").len() == EVENTS - REFUSED && world.check_file("acme").is_complete()
    })
    .await;
    assert!(daemon.stop().await.success());
    const MESSAGE: &str = "row put into quarantine; the archive has it whole";
    let (written, left_out) = told(&lines(&daemon), MESSAGE);
    assert_eq!((written, written as u64 + left_out), (AT_ONCE, REFUSED as u64), "{}", daemon.log());
    assert!(!daemon.log().contains("poisoned"), "the log tells nobody what a row held");
}
