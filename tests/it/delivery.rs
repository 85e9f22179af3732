//! Events travel from the source to every destination.

use std::path::Path;

use crate::world::World;
use crate::world::daemon::{Daemon, until};
use crate::world::setup::OrgSetup;

pub(crate) fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_reaches_every_destination() {
    let world = World::builder().orgs(&["acme"]).with_s3().events(500).start().await;
    let setup = OrgSetup::new("acme").with_sentinel().with_s3().with_file().since("2020-01-01T00:00:00Z");
    let config = world.write_config(&[setup], "");
    let log = world.paths.root.join("log");
    let mut daemon = Daemon::start(binary(), &config, &log);
    until("everything has arrived", async || {
        world.check_sentinel("acme").is_complete()
            && world.check_file("acme").is_complete()
            && world.check_s3("acme").await.is_complete()
    })
    .await;
    assert!(daemon.stop().await.success());
}
