//! State that was lost, or is older than the archive: the daemon goes on from claims and objects, loses nothing, and archives
//! nothing twice.

use std::fs;
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, Instant};

use crate::forwarder::{again, command, drained, err, is_complete, out, paused, recent, start};
use crate::world::World;
use crate::world::daemon::{Daemon, PATIENCE, until};
use crate::world::pulumi::events::Generator;
use crate::world::s3::proxy::{Fault, Scope};
use crate::world::script::Times;
use crate::world::setup::OrgSetup;

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

async fn new_events(world: &World, seed: u64, count: usize) {
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(seed).spread(now - 1_200, now - 1, count));
}

async fn verified(world: &World) -> String {
    let output = command(world, &["verify"]).await;
    assert!(output.status.success(), "{}{}", out(&output), err(&output));
    out(&output)
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

    for round in 0..3 {
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
    assert!(extra <= 3 * 1_000, "{extra} rows more than the chunks that no claim says are delivered");
    verified(&world).await;
}
