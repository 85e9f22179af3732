//! S3 misbehaves: each event is stored once all the same.

use std::slice::from_ref;

use crate::forwarder::{complete, paused, recent, start, works};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::events::Generator;
use crate::world::s3::proxy::{Fault, Scope};
use crate::world::script::Times;
use crate::world::setup::{OrgSetup, PREFIX};
use crate::world::verdict::Cut;

/// Several chunks' worth of events, and the daemon already at work on them when `trouble` has been made.
async fn delivering(trouble: impl FnOnce(&World)) -> (World, OrgSetup, Daemon) {
    let world = World::builder().with_s3().events(2_300).start().await;
    trouble(&world);
    let acme = recent(&world, "acme").with_s3();
    let daemon = start(&world, from_ref(&acme));
    (world, acme, daemon)
}

async fn ends_well(world: &World, acme: &OrgSetup, daemon: &mut Daemon) {
    complete(world, acme).await;
    assert!(daemon.stop().await.success());
    let report = world.check_s3(&acme.org).await;
    report.assert_complete();
    let keys = world.s3().bucket.keys(PREFIX).await;
    let (claims, objects): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.contains("/_chain/"));
    assert_eq!(claims.len(), objects.len(), "one object for each claim: {keys:?}");
    for (target, only_if_absent, _) in world.s3().proxy.puts() {
        assert!(only_if_absent, "{target} could have overwritten something");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_lost_after_storing_adds_no_object() {
    // The first claim and the first object, and some later ones.
    let (world, acme, mut daemon) = delivering(|world| {
        world.s3().loses_replies(2);
        world.s3().fault(Scope::puts("date="), Fault::ReplyLost(Cut::Reset), Times::After(1, 2));
    })
    .await;
    ends_well(&world, &acme, &mut daemon).await;
    let puts = world.s3().proxy.puts();
    let lost = puts.iter().filter(|(_, _, status)| status.is_none()).count();
    assert!(lost >= 3, "replies were lost: {puts:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_decides_nothing_and_is_tried_again() {
    let (world, acme, mut daemon) = delivering(|world| world.s3().conflicts(3)).await;
    ends_well(&world, &acme, &mut daemon).await;
    assert_eq!(world.s3().proxy.puts().iter().filter(|(_, _, status)| *status == Some(409)).count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_down_errors_and_errors_inside_a_success_are_waited_out() {
    let (world, acme, mut daemon) = delivering(|world| {
        let s3 = world.s3();
        s3.fault(Scope::puts("_chain/"), Fault::slow_down(), Times::Next(1));
        s3.fault(Scope::puts("date="), Fault::internal_error(), Times::Next(1));
        s3.fault(Scope::puts("date="), Fault::ErrorInSuccess("InternalError"), Times::After(1, 1));
    })
    .await;
    ends_well(&world, &acme, &mut daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for_while_collection_goes_on() {
    let world = World::builder().with_s3().events(5).start().await;
    let acme = recent(&world, "acme").with_s3().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    until("the org has begun", async || world.check_s3("acme").await.is_complete()).await;
    world.s3().goes_away().await;
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(8).spread(now - 600, now - 1, 500));
    until("the other destination has everything", async || world.check_file("acme").is_complete()).await;
    world.pulumi().org("acme").add(Generator::seeded(9).burst(world.clock.now() - 1, 5));
    until("it still gets what is new", async || world.check_file("acme").is_complete()).await;
    until("the lane says that it waits", async || {
        let lane = crate::forwarder::party(&mut daemon, "acme", "s3").await;
        lane.is_some_and(|lane| lane["state"] == "waiting" && lane["backlog_events"].as_u64() >= Some(500))
    })
    .await;
    world.s3().comes_back();
    ends_well(&world, &acme, &mut daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_bucket_pauses_the_lane_with_a_remedy_and_a_restart_after_the_repair_drains_it() {
    let (world, acme, mut daemon) = delivering(|world| {
        // It may be looked at: an org that may not see whether it has an archive does not begin.
        world.s3().fault(Scope::puts(""), Fault::access_denied(), Times::UntilCleared);
    })
    .await;
    let remedy = paused(&mut daemon, "acme", "s3", "permission").await;
    assert!(remedy.contains("PutObject"), "the remedy names the permission: {remedy}");
    works(&mut daemon, "acme", "source").await;
    assert!(daemon.stop().await.success());
    world.s3().recovers();
    let mut daemon = crate::forwarder::again(&world);
    ends_well(&world, &acme, &mut daemon).await;
}
