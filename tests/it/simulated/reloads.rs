//! Settings change while the forwarder runs.

use std::time::Duration;

use super::simulation::{BEGIN, HOUR, MINUTE, SOON, Simulation, id};
use super::wire::AZURE;
use crate::world::chance::Chance;
use crate::world::ingestion::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::script::Times;
use crate::world::setup::rule_of;
use crate::world::truth::Expect;

fn log(simulation: &Simulation, org: &str, seed: u64, hours: i64) {
    simulation.add(org, Generator::seeded(seed).lively(BEGIN, BEGIN + hours * HOUR, 60.0));
}

/// Nothing was sent twice: no delivery was left in the middle.
#[track_caller]
fn assert_complete(simulation: &Simulation, org: &str, as_of: i64) {
    simulation.assert_complete(org, as_of);
    assert_eq!(simulation.ingested(org, &Expect { as_of, ..Expect::default() }).removable, 0);
}

#[tokio::test(start_paused = true)]
async fn a_renamed_organization_is_looked_for_once_and_goes_on_under_its_new_name_where_it_was() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    log(&simulation, "acme", 1, 8);
    simulation.start();
    simulation.pass(2 * HOUR).await;
    let before = simulation.state("acme").await;

    simulation.org("acme").rename("acme-new");
    let paused = || simulation.source("acme") == ("paused", "configuration".into());
    simulation.until("it is paused", 6 * MINUTE, paused).await;
    let probes = simulation.wire.asked("acme").len();
    simulation.pass(HOUR).await;
    let remedy = simulation.status("acme").source.remedy.expect("a pause has a remedy");
    assert!(remedy.contains("This token sees `acme-new`"), "{remedy}");
    assert!(simulation.wire.asked("acme").len() >= probes + 10, "it is still probed");
    let looked = simulation.wire.everything().iter().filter(|sent| sent.path == "/api/user").count();
    assert_eq!(looked, 1, "once in a pause");

    simulation.setup("acme").org = Some("acme-new".into());
    let changes = simulation.reload();
    assert_eq!(changes.changed, [(id("acme"), vec!["org".to_owned()])]);
    simulation.pass(SOON).await;
    assert_eq!(simulation.source("acme"), ("ok", String::new()), "at once");
    simulation.pass_until(BEGIN + 10 * HOUR).await;
    let after = simulation.state("acme").await;
    assert_eq!((after.start, &after.instance), (before.start, &before.instance));
    assert!(after.next > before.next && after.revision > before.revision);
    assert_complete(&simulation, "acme", BEGIN + 8 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn settings_that_change_all_the_time_lose_and_double_nothing() {
    let mut simulation = Simulation::of(&["acme", "beta"]).with_sentinel();
    for setup in simulation.setups.values_mut() {
        setup.s3 = true;
    }
    log(&simulation, "acme", 2, 20);
    log(&simulation, "beta", 3, 20);
    let whole = simulation.setups.clone();
    let mut chance = Chance::seeded(4);
    simulation.start();
    let mut changed = 0;
    while simulation.now() < BEGIN + 20 * HOUR {
        simulation.pass(chance.below(600) as i64).await;
        // A moment within a request, too.
        tokio::time::sleep(Duration::from_millis(chance.below(1_000))).await;
        for _ in 0..1 + chance.below(3) {
            match chance.below(6) {
                0 if simulation.setups.contains_key("beta") => drop(simulation.setups.remove("beta")),
                0 => drop(simulation.setups.insert("beta".into(), whole["beta"].clone())),
                1 => {
                    let seconds = 20 + chance.below(300);
                    simulation.setup("acme").source = format!("poll_interval = \"{seconds}s\"");
                }
                2 => simulation.setup("acme").source = "overlap = \"1m\"\nsettle = \"5s\"".into(),
                3 => simulation.setup("acme").file ^= true,
                4 => simulation.setup("acme").s3 ^= true,
                _ => {}
            }
            let changes = simulation.reload();
            changed += changes.changed.len() + changes.added.len() + changes.removed.len();
            assert!(simulation.reload().is_empty(), "what is in force is no change");
        }
    }
    assert!(changed > 100, "{changed} changes");
    simulation.setups = whole;
    simulation.reload();
    simulation.pass(4 * HOUR).await;
    for org in ["acme", "beta"] {
        assert_complete(&simulation, org, BEGIN + 20 * HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn an_org_that_is_slow_to_end_delays_no_other_and_starts_once_with_its_newest_settings() {
    let mut simulation = Simulation::of(&["acme", "beta", "calm"]).with_sentinel();
    for (org, seed) in [("acme", 5), ("beta", 6), ("calm", 7)] {
        log(&simulation, org, seed, 4);
    }
    simulation.start();
    simulation.pass(HOUR).await;
    let late = Fault::AnswerLate(Duration::from_secs(50));
    simulation.azure.fault_on(&rule_of("acme"), late, Times::Next(1));
    let uploads = |simulation: &Simulation| {
        let sent = simulation.wire.sent_to(AZURE);
        sent.iter().filter(|sent| sent.path.contains(&rule_of("acme"))).count()
    };
    let before = uploads(&simulation);
    simulation.until("an upload is under way", HOUR, || uploads(&simulation) > before).await;

    let asked = |simulation: &Simulation| ["acme", "beta"].map(|org| simulation.wire.asked(org).len());
    let [acme, beta] = asked(&simulation);
    for seconds in [400, 500, 600] {
        for org in ["acme", "beta"] {
            simulation.setup(org).source = format!("poll_interval = \"{seconds}s\"");
        }
        let changed: Vec<_> = simulation.reload().changed.into_iter().map(|(org, _)| org).collect();
        assert_eq!(changed, [id("acme"), id("beta")], "what is not changed is not touched");
    }
    simulation.pass(SOON).await;
    let [acme_soon, beta_soon] = asked(&simulation);
    assert!(beta_soon > beta, "it has started again, and looks at the present first");
    assert_eq!(acme_soon, acme, "its delivery is waited for");
    assert_eq!(simulation.lane("acme", "sentinel").state.as_str(), "ok");
    simulation.pass(MINUTE).await;
    let [acme_later, _] = asked(&simulation);
    // The service's time and the present, and perhaps a later look that is due.
    assert!((acme + 1..=acme + 5).contains(&acme_later), "it has started once: {acme} to {acme_later}");
    simulation.pass_until(BEGIN + 6 * HOUR).await;
    for org in ["acme", "beta", "calm"] {
        assert_complete(&simulation, org, BEGIN + 4 * HOUR);
    }
}

#[tokio::test(start_paused = true)]
async fn services_that_never_answer_keep_an_org_from_its_new_settings_for_two_minutes_at_most() {
    let mut simulation = Simulation::of(&["acme"]).with_sentinel();
    log(&simulation, "acme", 8, 3);
    simulation.start();
    simulation.pass(HOUR).await;
    // The source answers nothing either.
    simulation.org("acme").fault(crate::world::pulumi::behaviour::Fault::Stall, Times::UntilCleared);
    simulation.azure.fault(Fault::AnswerLate(Duration::from_secs(3_600)), Times::UntilCleared);
    simulation.pass(10 * MINUTE).await;
    simulation.org("acme").clear_faults();
    simulation.azure.clear_faults();
    simulation.setup("acme").source = "overlap = \"5m\"".into();
    let asked = simulation.wire.asked("acme").len();
    simulation.reload();
    let again = || simulation.wire.asked("acme").len() >= asked + 2;
    simulation.until("it has started again", 2 * MINUTE + SOON, again).await;
    simulation.pass_until(BEGIN + 5 * HOUR).await;
    simulation.assert_complete("acme", BEGIN + 3 * HOUR);
}

#[tokio::test(start_paused = true)]
async fn a_removed_org_delivers_what_it_has_keeps_its_state_and_goes_on_when_it_comes_back() {
    let mut simulation = Simulation::of(&["acme", "beta"]).with_sentinel();
    log(&simulation, "acme", 9, 6);
    log(&simulation, "beta", 10, 6);
    simulation.start();
    simulation.pass(2 * HOUR).await;
    let before = simulation.state("beta").await;
    let beta = simulation.setups.remove("beta").expect("it is there");
    assert_eq!(simulation.reload().removed, [id("beta")]);
    simulation.pass(SOON).await;
    assert_eq!(simulation.status("beta").state.as_str(), "retired");
    assert_eq!(simulation.status("acme").state.as_str(), "ok");
    let asked = simulation.wire.asked("beta").len();
    simulation.pass(2 * HOUR).await;
    assert_eq!(simulation.wire.asked("beta").len(), asked, "nobody asks for it");
    let (lane, status) = (simulation.lane("beta", "sentinel"), simulation.status("beta"));
    assert_eq!((lane.backlog_chunks, lane.state.as_str()), (0, "retired"), "{status:?}");

    simulation.setups.insert("beta".into(), beta);
    assert_eq!(simulation.reload().added, [id("beta")]);
    simulation.pass_until(BEGIN + 8 * HOUR).await;
    assert_eq!(simulation.status("beta").state.as_str(), "ok");
    let after = simulation.state("beta").await;
    assert_eq!((after.start, &after.instance), (before.start, &before.instance));
    for org in ["acme", "beta"] {
        assert_complete(&simulation, org, BEGIN + 6 * HOUR);
    }
}
