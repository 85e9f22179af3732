//! One org's or one destination's trouble delays no other.

use std::slice::from_ref;

use crate::forwarder::{complete, org, party, paused, recent, start, works};
use crate::world::World;
use crate::world::clock::parse_rfc3339;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Event;
use crate::world::script::Times;
use crate::world::setup::OrgSetup;

/// What an untroubled lane may be behind: two poll intervals, and the seconds that a busy test machine adds.
const BEHIND_MAX: i64 = 2 + 4;

async fn behind(world: &World, daemon: &mut Daemon, id: &str, destination: &str) -> Option<i64> {
    let lane = party(daemon, id, destination).await?;
    Some(world.clock.now() - parse_rfc3339(lane["delivered_until"].as_str()?)?)
}

/// Events happen; each is seen to arrive in files, with the lane never far behind.
async fn goes_on(world: &World, daemon: &mut Daemon, id: &str, rounds: usize) {
    for round in 0..rounds {
        let event = Event::at(world.clock.now() - 1).described(&format!("round {round}"));
        world.pulumi().org(id).add([event]);
        until(&format!("{id} goes on"), async || world.check_file(id).is_complete()).await;
        until(&format!("files of {id} are not behind"), async || {
            behind(world, daemon, id, "file").await.is_some_and(|seconds| seconds <= BEHIND_MAX)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn azure_being_away_leaves_the_other_destinations_up_to_date_and_drains_by_itself() {
    let world = World::builder().with_s3().events(200).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    world.azure().goes_away().await;
    let gone = world.clock.now();
    goes_on(&world, &mut daemon, "acme", 4).await;
    until("S3 has it all", async || world.check_s3("acme").await.is_complete()).await;
    for name in ["s3", "file"] {
        let seconds = behind(&world, &mut daemon, "acme", name).await;
        assert!(seconds.is_some_and(|seconds| seconds <= BEHIND_MAX), "{name} is {seconds:?} s behind");
        works(&mut daemon, "acme", name).await;
    }
    works(&mut daemon, "acme", "source").await;
    let lane = party(&mut daemon, "acme", "sentinel").await.expect("the lane is in the status");
    assert_eq!((lane["state"].as_str(), lane["reason"].as_str()), (Some("waiting"), Some("backoff")));
    let until_then = lane["delivered_until"].as_str().and_then(parse_rfc3339);
    assert!(until_then.is_some_and(|until| until <= gone + 1), "it says how far it is: {lane}");
    world.azure().comes_back();
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "sentinel").await;
    assert!(daemon.stop().await.success());
    assert_eq!(world.check_sentinel("acme").removable, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn orgs_in_all_kinds_of_trouble_delay_no_other() {
    let names = ["healthy", "revoked", "forbidden", "stalled", "broken", "throttled", "denied"];
    let world = World::builder().orgs(&names).events(50).start().await;
    let setups: Vec<OrgSetup> =
        names.iter().map(|name| recent(&world, name).with_sentinel().with_file()).collect();
    world.write_config(&setups, "");
    let pulumi = world.pulumi();
    pulumi.org("revoked").rotate_token();
    pulumi.fault("forbidden", Fault::Role, Times::UntilCleared);
    pulumi.fault("stalled", Fault::Stall, Times::UntilCleared);
    pulumi.fault("broken", Fault::html(502), Times::UntilCleared);
    pulumi.fault("throttled", Fault::throttled(), Times::UntilCleared);
    let rule = crate::world::setup::rule_of("denied");
    world.ingestion().fault_on(&rule, crate::world::ingestion::Fault::status(403), Times::UntilCleared);
    let mut daemon = crate::forwarder::again(&world);
    goes_on(&world, &mut daemon, "healthy", 4).await;
    complete(&world, &setups[0]).await;
    goes_on(&world, &mut daemon, "denied", 1).await;
    paused(&mut daemon, "revoked", "source", "credentials").await;
    paused(&mut daemon, "forbidden", "source", "permission").await;
    paused(&mut daemon, "denied", "sentinel", "permission").await;
    for (name, state) in [
        ("healthy", "ok"),
        ("revoked", "paused"),
        ("forbidden", "paused"),
        ("broken", "waiting"),
        ("throttled", "waiting"),
    ] {
        until(&format!("the source of {name} is {state}"), async || {
            party(&mut daemon, name, "source").await.is_some_and(|source| source["state"] == state)
        })
        .await;
    }
    for name in ["revoked", "forbidden", "stalled", "broken", "throttled"] {
        let seen = org(&mut daemon, name).await.expect("it is in the status");
        assert_eq!(seen["lanes"][0]["backlog_events"], 0, "{name}");
    }
    works(&mut daemon, "healthy", "sentinel").await;
    assert!(daemon.stop().await.success());
}
