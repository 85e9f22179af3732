//! What `docs/operate.md` tells people to do: copy the state of a running forwarder, put it back, move it elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::slice::from_ref;

use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::events::Generator;
use crate::world::setup::OrgSetup;

/// An org without an archive: its state is all there is.
fn acme(world: &World) -> OrgSetup {
    OrgSetup::new("acme").with_sentinel().since(&rfc3339(world.clock.now() - 7_200))
}

fn start(world: &World, config: &Path) -> Daemon {
    Daemon::start(
        Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder")),
        config,
        &world.paths.root.join("log"),
    )
}

async fn everything_has_arrived(world: &World) {
    until("everything has arrived", async || world.check_sentinel("acme").is_complete()).await;
}

/// Fails when it does not end well.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}: make tools"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

fn events(world: &World, seed: u64, count: usize) {
    let now = world.clock.now();
    world.pulumi().org("acme").add(Generator::seeded(seed).spread(now - 800, now - 1, count));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_sqlite_makes_of_a_running_forwarders_state_goes_on_without_a_gap() {
    let world = World::builder().orgs(&["acme"]).events(200).start().await;
    let config = world.write_config(from_ref(&acme(&world)), "");
    let mut daemon = start(&world, &config);
    everything_has_arrived(&world).await;
    let copy = world.paths.root.join("copy.db");
    let journal = world.paths.state.join("journal.db");
    run("sqlite3", &[&journal.to_string_lossy(), &format!(".backup '{}'", copy.display())]);
    let before = world.rows("acme").len();
    events(&world, 7, 40);
    everything_has_arrived(&world).await;

    daemon.kill();
    std::fs::remove_dir_all(&world.paths.state).expect("the state goes");
    std::fs::create_dir(&world.paths.state).expect("an empty directory");
    std::fs::copy(&copy, &journal).expect("the copy is put back");
    let mut daemon = start(&world, &config);
    events(&world, 8, 40);
    everything_has_arrived(&world).await;
    assert!(daemon.stop().await.success());
    // What came after the copy went out twice, with its keys; what came before it did not.
    let removable = world.check_sentinel("acme").removable;
    assert_eq!((world.rows("acme").len(), removable), (before + 40 + 40 + 40, 40));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_moved_with_its_configuration_goes_on_with_the_same_numbers_and_nothing_is_sent_twice()
 {
    let world = World::builder().orgs(&["acme"]).events(200).start().await;
    let setup = acme(&world).with_file();
    let config = world.write_config(from_ref(&setup), "");
    let mut daemon = start(&world, &config);
    everything_has_arrived(&world).await;
    // It moves in the middle of something: a destination is away, and its chunks travel undelivered.
    world.azure().goes_away().await;
    events(&world, 7, 40);
    until("the folder has everything", async || world.check_file("acme").is_complete()).await;
    assert!(daemon.stop().await.success());

    let elsewhere = world.paths.root.join("elsewhere");
    let from = world.paths.state.to_string_lossy().into_owned();
    run("cp", &["-a", &from, &elsewhere.to_string_lossy()]);
    std::fs::remove_dir_all(&world.paths.state).expect("the old host is gone");
    let text = std::fs::read_to_string(&config).expect("a configuration");
    let moved = text.replace(&from, &elsewhere.to_string_lossy());
    assert_ne!(text, moved, "the configuration names its state directory");
    std::fs::write(&config, moved).expect("the configuration moves too");
    world.azure().comes_back();
    let mut daemon = start(&world, &config);
    everything_has_arrived(&world).await;
    assert!(daemon.stop().await.success());
    assert_eq!(world.check_sentinel("acme").removable, 0);
    world.check_file("acme").assert_complete();
    let marks: Vec<PathBuf> = [elsewhere.join("journal.db"), elsewhere.join("audit.jsonl")].into();
    assert!(marks.iter().all(|mark| mark.is_file()), "{marks:?}");
}
