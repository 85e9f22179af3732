//! `verify`: an archive as it was written is proven, and one that was changed is told from it.

use std::path::Path;

use crate::forwarder::{command, err, out, recent};
use crate::world::World;
use crate::world::s3::reader::gunzip;
use crate::world::setup::PREFIX;

/// A world whose events are archived in a bucket and in a folder.
async fn archived() -> World {
    let world = World::builder().with_s3().events(1_500).start().await;
    world.write_config(&[recent(&world, "acme").with_s3().with_file()], "");
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world
}

fn objects(directory: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.join("org=acme")];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory of the archive").flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_as_it_was_written_is_proven_in_place_and_as_a_copy() {
    let world = archived().await;
    let ended = command(&world, &["verify"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    for part in ["acme  s3  ok", "acme  file  ok", "1500 events", "head (chunk "] {
        assert!(out(&ended).contains(part), "`{part}` is in: {}", out(&ended));
    }
    assert!(!out(&ended).contains("note:"), "{}", out(&ended));

    let copy = world.paths.archive_of("acme");
    std::fs::remove_file(&world.paths.config).expect("the configuration can be removed");
    let ended = command(&world, &["verify", "--json", "--source", copy.to_str().expect("a path")]).await;
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    let answer: serde_json::Value = serde_json::from_str(&out(&ended)).expect("one JSON object");
    assert_eq!((&answer["ok"], &answer["archives"][0]["events"]), (&true.into(), &1_500.into()));
    let head = answer["archives"][0]["head"].as_str().expect("a head").to_owned();
    let other = "0".repeat(64);
    for (head, code) in [(&head, 0), (&other, 1)] {
        let arguments =
            ["verify", "--org", "acme", "--head", head, "--source", copy.to_str().expect("a path")];
        assert_eq!(command(&world, &arguments).await.status.code(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_object_that_was_altered_is_named() {
    let world = archived().await;
    let altered = |body: &[u8]| {
        let lines = String::from_utf8(gunzip(body).expect("a gzip file")).expect("text");
        let at = lines.find("\"sourceIP\":\"").expect("an address") + 12;
        // A gzip file of one stored block would do; the product's own packing is as good.
        pulumi_audit_forwarder::chunk::gzip(format!("{}9{}", &lines[..at], &lines[at..]).as_bytes(), 6)
    };
    let object = objects(&world.paths.archive_of("acme")).pop().expect("an object");
    let body = std::fs::read(&object).expect("it can be read");
    std::fs::write(&object, altered(&body)).expect("it can be written");
    let bucket = &world.s3().bucket;
    let keys = bucket.keys(PREFIX).await;
    let key = keys.iter().find(|key| key.contains("date=")).expect("an object");
    bucket.put(key, altered(&bucket.get(key).await.expect("a body")).to_vec()).await;

    let ended = command(&world, &["verify"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}{}", out(&ended), err(&ended));
    for part in
        ["acme  s3  WRONG", "acme  file  WRONG", key, &format!("{}, line 1: `key` is ", object.display())]
    {
        assert!(out(&ended).contains(part), "`{part}` is in: {}", out(&ended));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_tail_shows_against_the_state_directory() {
    let world = archived().await;
    let directory = world.paths.archive_of("acme");
    let object =
        objects(&directory).into_iter().max_by_key(|path| path.file_name().map(std::ffi::OsStr::to_owned));
    let object = object.expect("an object");
    let number = object.file_name().and_then(|name| name.to_str()).expect("a name").replace(".jsonl.gz", "");
    std::fs::remove_file(&object).expect("it can be removed");
    std::fs::remove_file(directory.join(format!("_chain/org=acme/{number}.json")))
        .expect("it can be removed");
    let ended = command(&world, &["verify", "--source", "file"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}{}", out(&ended), err(&ended));
    assert!(out(&ended).contains("the newest chunks were removed"), "{}", out(&ended));
    let ended = command(&world, &["verify", "--source", directory.to_str().expect("a path")]).await;
    assert_eq!(ended.status.code(), Some(0), "nothing inside shows it: {}", out(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_or_was_not_meant_ends_with_its_own_code() {
    let world = World::builder().events(5).start().await;
    world.write_config(&[recent(&world, "acme").with_file()], "");
    let codes = [
        (&["verify", "--source", "/nowhere/at/all"][..], 69),
        (&["verify", "--source", "s3"], 2),
        (&["verify", "--source", "sentinel"], 2),
        (&["verify", "--org", "beta"], 2),
        (&["verify", "--head", "12", "--org", "acme"], 2),
        (&["verify", "--from", "2026-01-02T00:00:00Z", "--until", "2026-01-01T00:00:00Z"], 2),
    ];
    for (arguments, code) in codes {
        let ended = command(&world, arguments).await;
        assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {}{}", out(&ended), err(&ended));
    }
    std::fs::write(&world.paths.config, "nonsense = 1\n").expect("it can be written");
    assert_eq!(command(&world, &["verify"]).await.status.code(), Some(78));
}
