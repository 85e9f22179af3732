//! One process follows another on the same state directory.

use std::fs::{self, File};
use std::path::Path;
use std::slice::from_ref;
use std::time::{Duration, SystemTime};

use crate::delivery::binary;
use crate::forwarder::{again, complete, recent, start};
use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::events::Generator;

/// Gives everything below a folder this time of last change.
fn set_times(folder: &Path, time: SystemTime) {
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            set_times(&path, time);
        }
        File::open(&path).and_then(|file| file.set_modified(time)).expect("its owner may set its time");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_whose_new_process_overlaps_the_old_one_loses_and_doubles_nothing() {
    let world = World::builder().with_s3().events(600).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel().with_file();
    let mut old = start(&world, from_ref(&acme));
    until("it delivers", async || world.ingestion().ledger.total() > 0).await;
    let mut generator = Generator::seeded(7);
    // As a service manager does it: the new one is started, refused, and started again until the old one has gone.
    let mut refused = 0;
    let mut new = loop {
        world.pulumi().org("acme").add(generator.burst(world.clock.now() - 1, 3));
        let log = world.paths.root.join(format!("log-{refused}"));
        let mut new = Daemon::start(binary(), &world.paths.config, &log);
        if refused == 3 {
            old.signal("TERM");
        }
        let mut ended = None;
        until("it serves, or is refused", async || {
            ended = new.has_ended();
            ended.is_some() || new.get("/livez").await.is_some()
        })
        .await;
        match ended {
            Some(status) => assert_eq!(status.code(), Some(75), "{}", new.log()),
            None => break new,
        }
        refused += 1;
        assert!(refused < 1_000, "the old one has ten seconds");
    };
    assert!(refused >= 3, "they overlapped");
    let ended = old.ended().await;
    assert!(ended.success(), "{ended}");
    complete(&world, &acme).await;
    assert!(new.stop().await.success());
    for report in [world.check_s3("acme").await, world.check_file("acme"), world.check_sentinel("acme")] {
        report.assert_complete();
        assert_eq!(report.removable, 0, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_whose_times_went_back_by_thirty_years_change_nothing() {
    let world = World::builder().with_s3().events(50).start().await;
    let acme = recent(&world, "acme").with_s3().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    for folder in [&world.paths.state, &world.paths.archive, &world.paths.secrets] {
        set_times(folder, SystemTime::UNIX_EPOCH + Duration::from_secs(800_000_000));
    }
    world.pulumi().org("acme").add(Generator::seeded(8).burst(world.clock.now() - 1, 5));
    let mut daemon = again(&world);
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success(), "{}", daemon.log());
}
