//! State that was lost, or is older than the archive: the daemon goes on from claims and objects, loses nothing, and archives
//! nothing twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::slice::from_ref;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::delivery::binary;
use crate::forwarder::{again, bare, drained, err, is_complete, out, party, paused, recent, start};
use crate::world::World;
use crate::world::daemon::{Daemon, PATIENCE, until};
use crate::world::pulumi::events::Generator;
use crate::world::s3::proxy::{Fault, Scope};
use crate::world::script::Times;
use crate::world::setup::OrgSetup;
use crate::world::truth::archive::Archive;

/// As after `rm -rf`, or a new disk.
fn lose_state(world: &World) {
    fs::remove_dir_all(&world.paths.state).expect("the state directory can be removed");
    fs::create_dir_all(&world.paths.state).expect("and made anew");
}

fn copy(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    fs::create_dir_all(to).expect("a directory can be made");
    for entry in fs::read_dir(from).expect("it can be listed") {
        let path = entry.expect("it can be listed").path();
        let name = path.file_name().expect("an entry has a name");
        fs::copy(&path, to.join(name)).expect("a file can be copied");
    }
}

/// Events in chunks of which the newest claim does not say that Sentinel has them.
fn not_known_to_be_delivered(world: &World) -> usize {
    let files = Archive::of_directory(&world.paths.archive_of("acme")).files;
    let claims: Vec<Value> = files
        .iter()
        .filter(|(name, _)| name.starts_with("_chain/"))
        .map(|(_, bytes)| serde_json::from_slice(bytes).expect("a claim is JSON"))
        .collect();
    let newest = claims.last().expect("there are claims");
    let delivered = newest["checkpoints"]["sentinel"].as_u64().expect("it names the lane");
    let left = claims.iter().skip(usize::try_from(delivered).expect("a number of chunks"));
    left.map(|claim| claim["count"].as_u64().expect("it has a count")).sum::<u64>() as usize
}

async fn new_events(world: &World, seed: u64, count: usize) {
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(seed).spread(now - 800, now - 1, count));
}

async fn verified(config: &Path) {
    let output = bare(&["--config", &config.to_string_lossy(), "verify"]).await;
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
}

/// Waits until everything that is due stands everywhere, and says what is missing and what was logged where that takes too long.
async fn arrived(world: &World, setup: &OrgSetup, daemon: &Daemon) {
    let begun = Instant::now();
    while !is_complete(world, setup).await {
        if begun.elapsed() > PATIENCE {
            let mut said = String::new();
            if setup.file {
                said += &world.check_file("acme").to_string();
            }
            if setup.s3 {
                said += &world.check_s3("acme").await.to_string();
            }
            if setup.sentinel {
                said += &world.check_sentinel("acme").to_string();
            }
            panic!("not everything arrived: {said}{}", daemon.log());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Ends a daemon without warning.
async fn kill(daemon: Daemon) {
    let mut daemon = daemon;
    daemon.kill();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_directory_comes_back_from_a_folder_and_nothing_is_archived_twice() {
    let world = World::with_events(2_500).await;
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let daemon = start(&world, from_ref(&acme));
    arrived(&world, &acme, &daemon).await;
    kill(daemon).await;
    let rows = world.rows("acme").len();

    let mut bound = 0;
    for round in 0..3 {
        bound += not_known_to_be_delivered(&world);
        lose_state(&world);
        new_events(&world, 10 + round, 40).await;
        let mut daemon = again(&world);
        arrived(&world, &acme, &daemon).await;
        drained(&mut daemon, "acme", world.clock.now() - 2).await;
        assert!(daemon.log().contains("the org goes on from its archive"), "{}", daemon.log());
        assert!(daemon.stop().await.success());
    }
    let folder = world.check_file("acme");
    folder.assert_complete();
    assert_eq!(folder.void, 0);
    world.check_sentinel("acme").assert_complete();
    let extra = world.rows("acme").len() - rows - 3 * 40;
    assert!(extra <= bound, "{extra} rows more, and of {bound} no claim said that they were delivered");
    verified(&world.paths.config).await;
}

/// Everything stands in S3 once, and the chain verifies; answers how many numbers are empty.
async fn assert_archived(world: &World, void: usize) {
    let bucket = world.check_s3("acme").await;
    bucket.assert_complete();
    assert_eq!(bucket.void, void, "{bucket}");
    verified(&world.paths.config).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_that_azure_had_not_taken_come_back_from_the_bucket() {
    let world = World::builder().with_s3().events(300).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    world.azure().goes_away().await;
    let daemon = start(&world, from_ref(&acme));
    until("the bucket has everything", async || world.check_s3("acme").await.is_complete()).await;
    kill(daemon).await;
    lose_state(&world);
    world.azure().comes_back();
    let daemon = again(&world);
    arrived(&world, &acme, &daemon).await;
    assert_archived(&world, 0).await;
    assert_eq!(world.check_sentinel("acme").removable, 0, "Azure had none of them");
    kill(daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_lost_while_listings_are_stale() {
    let world = World::builder().with_s3().events(100).start().await;
    let acme = recent(&world, "acme").with_s3();
    world.s3().proxy.listings_go_stale();
    let mut daemon = start(&world, from_ref(&acme));
    for round in 0..3 {
        arrived(&world, &acme, &daemon).await;
        kill(daemon).await;
        lose_state(&world);
        new_events(&world, 20 + round, 20).await;
        daemon = again(&world);
    }
    arrived(&world, &acme, &daemon).await;
    kill(daemon).await;
    world.s3().proxy.listings_catch_up();
    assert_archived(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_object_never_came_stays_empty_and_its_late_writer_is_fenced() {
    let world = World::builder().with_s3().events(50).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    // Objects do not get through, claims do.
    world.s3().fault(Scope::puts("org=acme/date="), Fault::internal_error(), Times::UntilCleared);
    let mut late = start(&world, from_ref(&acme));
    until("chunk 0 is claimed", async || !world.s3().bucket.keys("pulumi/_chain/").await.is_empty()).await;
    until("Azure has the events", async || world.check_sentinel("acme").is_complete()).await;
    late.signal("STOP");

    world.s3().recovers();
    let second = second_instance(&world);
    let daemon = Daemon::start(binary(), &second, &world.paths.root.join("log-2"));
    arrived(&world, &acme, &daemon).await;
    assert_eq!(world.check_s3("acme").await.void, 1);
    assert!(daemon.log().contains("its number stays empty"), "{}", daemon.log());

    late.signal("CONT");
    paused(&mut late, "acme", "s3", "fenced").await;
    kill(late).await;
    kill(daemon).await;
    let bucket = world.check_s3("acme").await;
    bucket.assert_complete();
    assert_eq!(bucket.void, 1);
    verified(&second).await;
    world.check_sentinel("acme").assert_complete();
}

/// The same configuration with a state directory of its own.
fn second_instance(world: &World) -> PathBuf {
    let text = fs::read_to_string(&world.paths.config).expect("the configuration is there");
    let state = world.paths.root.join("state-2");
    let text = text.replace(&format!("{:?}", world.paths.state), &format!("{state:?}"));
    let path = world.paths.config.with_file_name("second.toml");
    fs::write(&path, text).expect("it can be written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_somebody_deleted_is_reported_and_its_events_are_archived_again() {
    let world = World::builder().with_s3().events(200).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    arrived(&world, &acme, &daemon).await;
    for round in 0..3 {
        new_events(&world, 30 + round, 10).await;
        arrived(&world, &acme, &daemon).await;
    }
    kill(daemon).await;
    let objects = world.s3().bucket.keys("pulumi/org=acme/").await;
    world.s3().bucket.delete(&objects[objects.len() / 2]).await;
    assert!(!world.check_s3("acme").await.is_complete());
    lose_state(&world);
    daemon = again(&world);
    arrived(&world, &acme, &daemon).await;
    assert!(daemon.log().contains("somebody removed it"), "{}", daemon.log());
    kill(daemon).await;
    assert_archived(&world, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn yesterdays_backup_goes_on_from_the_archive() {
    let world = World::builder().with_s3().events(100).start().await;
    let acme = recent(&world, "acme").with_s3().with_file().with_sentinel();
    let backup = world.paths.root.join("backup");
    let mut daemon = start(&world, from_ref(&acme));
    arrived(&world, &acme, &daemon).await;
    assert!(daemon.stop().await.success());
    copy(&world.paths.state, &backup);
    for round in 0..3 {
        new_events(&world, 40 + round, 15).await;
        daemon = again(&world);
        arrived(&world, &acme, &daemon).await;
        assert!(daemon.stop().await.success());
    }
    let rows = world.rows("acme").len();

    lose_state(&world);
    copy(&backup, &world.paths.state);
    new_events(&world, 50, 15).await;
    daemon = again(&world);
    arrived(&world, &acme, &daemon).await;
    assert!(daemon.log().contains("older than the archive"), "{}", daemon.log());
    kill(daemon).await;
    assert_archived(&world, 0).await;
    world.check_file("acme").assert_complete();
    let extra = world.rows("acme").len() - rows - 15;
    assert!(extra <= 45, "{extra} rows more than were sent after the backup");

    // Nothing is put back where nothing is missing.
    let daemon = again(&world);
    new_events(&world, 51, 5).await;
    arrived(&world, &acme, &daemon).await;
    assert!(!daemon.log().contains("going on from the archive"), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_killed_five_times_in_the_middle_ends_all_the_same() {
    let world = World::builder().with_s3().events(100).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    world.azure().goes_away().await;
    let mut daemon = start(&world, from_ref(&acme));
    for round in 0..6 {
        new_events(&world, 60 + round, 10).await;
        until("the bucket has everything", async || world.check_s3("acme").await.is_complete()).await;
    }
    kill(daemon).await;
    lose_state(&world);
    world.azure().comes_back();
    // Slow enough to be met: every piece takes a moment.
    let slowly = Fault::Late(Duration::from_millis(40));
    world.s3().fault(
        Scope { method: Some(http::Method::GET), path: "org=acme".into() },
        slowly,
        Times::UntilCleared,
    );
    for kills in 1..=5 {
        let before = world.s3().proxy.ledger.total();
        daemon = again(&world);
        until("the recovery is under way", async || world.s3().proxy.ledger.total() >= before + 2 * kills)
            .await;
        assert!(!daemon.log().contains("the org goes on from its archive"), "too late: {}", daemon.log());
        kill(daemon).await;
    }
    world.s3().recovers();
    daemon = again(&world);
    arrived(&world, &acme, &daemon).await;
    kill(daemon).await;
    assert_archived(&world, 0).await;
    assert_eq!(world.check_sentinel("acme").removable, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_may_not_be_read_keeps_an_empty_org_waiting() {
    let world = World::builder().with_s3().events(60).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    arrived(&world, &acme, &daemon).await;
    kill(daemon).await;
    lose_state(&world);
    new_events(&world, 70, 10).await;

    world.s3().fault(Scope::any(), Fault::access_denied(), Times::UntilCleared);
    let asked = world.pulumi().ledger.requests("acme");
    daemon = again(&world);
    let remedy = paused(&mut daemon, "acme", "source", "permission").await;
    assert!(!remedy.is_empty());
    assert_eq!(world.pulumi().ledger.requests("acme"), asked, "nothing is begun anew");
    kill(daemon).await;

    world.s3().recovers();
    world.s3().fault(Scope::any(), Fault::slow_down(), Times::Next(5));
    daemon = again(&world);
    arrived(&world, &acme, &daemon).await;
    assert!(daemon.log().contains("the org goes on from its archive"), "{}", daemon.log());
    kill(daemon).await;
    assert_archived(&world, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_one_is_fenced_and_adopts_what_the_other_archived() {
    let world = World::builder().with_s3().events(40).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    let mut first = start(&world, from_ref(&acme));
    arrived(&world, &acme, &first).await;
    let second_config = second_instance(&world);
    let mut second = Daemon::start(binary(), &second_config, &world.paths.root.join("log-2"));
    until("the second has recovered", async || second.log().contains("the org goes on from its archive"))
        .await;

    let mut fenced = None;
    for round in 0..40 {
        new_events(&world, 80 + round, 5).await;
        arrived(&world, &acme, &first).await;
        for (index, daemon) in [&mut first, &mut second].into_iter().enumerate() {
            let lane = party(daemon, "acme", "s3").await.expect("it answers");
            if lane["reason"] == "fenced" {
                fenced = Some(index);
            }
        }
        if fenced.is_some() && round > 5 {
            break;
        }
    }
    let fenced = fenced.expect("one of the two meets the other's claim");
    for round in 0..4 {
        new_events(&world, 200 + round, 5).await;
        arrived(&world, &acme, &first).await;
    }
    let config = [&world.paths.config, &second_config][fenced];
    let adopt: &[&str] = &["--config", &config.to_string_lossy(), "adopt", "--org", "acme"];
    assert_eq!(bare(adopt).await.status.code(), Some(75), "the daemon holds the state");
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());

    let looked = bare(adopt).await;
    assert!(
        looked.status.success() && out(&looked).contains("with --yes"),
        "{}{}",
        out(&looked),
        err(&looked)
    );
    let adopted = bare(&[adopt, &["--yes"]].concat()).await;
    println!("{}{}", out(&adopted), err(&adopted));
    assert!(adopted.status.success(), "{}{}", out(&adopted), err(&adopted));
    assert!(err(&adopted).contains("adopted the chunks of another instance"), "{}", err(&adopted));
    let again = bare(&[adopt, &["--yes"]].concat()).await;
    assert!(out(&again).contains("nothing to adopt"), "{}{}", out(&again), err(&again));

    new_events(&world, 300, 5).await;
    let mut daemon = Daemon::start(binary(), config, &world.paths.root.join("log-3"));
    arrived(&world, &acme, &daemon).await;
    drained(&mut daemon, "acme", world.clock.now() - 2).await;
    assert!(daemon.stop().await.success());
    world.check_s3("acme").await.assert_complete();
    verified(config).await;
    let table = world.check_sentinel("acme");
    table.assert_complete();
    assert!(table.removable <= table.due, "at most each row twice: {table}");
}
