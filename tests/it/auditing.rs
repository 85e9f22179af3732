//! The audit record: who did what to the forwarder, each line tied to the one before, the newest named by every claim.

use std::fs;
use std::path::PathBuf;
use std::slice::from_ref;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::forwarder::{again, command, complete, err, out, recent, start};
use crate::world::World;

fn record(world: &World) -> PathBuf {
    world.paths.state.join("audit.jsonl")
}

fn lines(world: &World) -> Vec<Value> {
    let text = fs::read_to_string(record(world)).expect("the record is there");
    text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect()
}

fn hash(line: &str) -> String {
    Sha256::digest(line.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_stops_are_recorded_in_a_chain_that_every_claim_vouches_for() {
    let world = World::builder().events(50).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let mut daemon = again(&world);
    until_started(&world, 3).await;
    daemon.kill();
    daemon.ended().await;

    let recorded = lines(&world);
    let acts: Vec<&str> = recorded.iter().filter_map(|line| line["act"].as_str()).collect();
    assert_eq!(acts, ["start", "stop", "start"], "a kill leaves no line");
    assert!(recorded[0]["who"].as_str().is_some_and(|who| who.contains("uid ")), "{}", recorded[0]);
    assert_eq!(recorded[1]["who"], "SIGTERM");

    let claims = world.paths.archive_of("acme").join("_chain/org=acme");
    let claim = fs::read_to_string(claims.join(format!("{:020}.json", 0))).expect("the first claim is there");
    let claim: Value = serde_json::from_str(&claim).expect("a claim is JSON");
    let text = fs::read_to_string(record(&world)).expect("the record is there");
    let first = text.lines().next().expect("it has a line");
    assert_eq!(claim["audit"]["lines"], 1);
    assert_eq!(claim["audit"]["sha256"], hash(first).as_str());

    let shown = command(&world, &["audit"]).await;
    assert_eq!(shown.status.code(), Some(0), "{}", err(&shown));
    assert!(out(&shown).contains("3 lines, each follows the one before it"), "{}", out(&shown));
    fs::write(record(&world), text.replacen("SIGTERM", "SIGINT", 1)).expect("it can be changed");
    let shown = command(&world, &["audit"]).await;
    assert_eq!(shown.status.code(), Some(1), "{}", out(&shown));
    assert!(err(&shown).contains("line 3") && err(&shown).contains("was changed"), "{}", err(&shown));
}

async fn until_started(world: &World, count: usize) {
    crate::world::daemon::until("the start is recorded", async || lines(world).len() == count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_for_the_record_nothing_starts() {
    let world = World::builder().events(5).start().await;
    let acme = recent(&world, "acme").with_file();
    world.write_config(from_ref(&acme), "");
    fs::create_dir_all(record(&world)).expect("a directory can be in its place");
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    assert!(
        err(&ended).contains("audit.jsonl") && err(&ended).contains("state directory"),
        "{}",
        err(&ended)
    );
    assert_eq!(world.pulumi().ledger.requests("acme"), 0, "nothing was asked");
}
