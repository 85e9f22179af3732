//! Which event is which: twins are several, and what only looks different is one.

use std::collections::BTreeMap;
use std::slice::from_ref;

use serde_json::json;

use crate::forwarder::{assert_files_and_rows, complete, recent, start};
use crate::world::World;
use crate::world::clock::parse_rfc3339;
use crate::world::lexemes;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::setup::PREFIX;
use crate::world::truth::archive::Archive;

#[tokio::test(flavor = "multi_thread")]
async fn identical_events_of_one_second_all_arrive_and_a_twin_seen_later_is_one_more() {
    let world = World::builder().events(20).start().await;
    let twin = Event::at(world.clock.now() - 120).described("Decrypted secret value for stack \"shop/prod\"");
    world.pulumi().org("acme").add(twin.twins(3));
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert_eq!(copies(&world, &twin), 3);

    world.pulumi().org("acme").add([twin.clone()]);
    complete(&world, &acme).await;
    assert_eq!(copies(&world, &twin), 4);
    world.pulumi().org("acme").add(twin.twins(2));
    complete(&world, &acme).await;
    assert_eq!(copies(&world, &twin), 6);
    assert_eq!(world.check_sentinel("acme").removable, 0, "no row stands twice where nothing failed");
    assert!(daemon.stop().await.success());
    assert_files_and_rows(&world, &acme);
}

/// How often the archive has an event of this second and text.
fn copies(world: &World, event: &Event) -> usize {
    let lines = Archive::of_directory(&world.paths.archive_of("acme")).lines("acme", &mut Vec::new());
    let described = |line: &[u8]| {
        lexemes::member(line, "description").and_then(lexemes::text) == Some(event.description.clone())
    };
    lines.iter().filter(|line| described(&line.event)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_name_login_avatar_or_token_name_adds_no_event() {
    let world = World::start().await;
    let now = world.clock.now();
    let mut drawn = Generator::seeded(7).spread(now - 600, now - 1, 150);
    for event in drawn.iter_mut().step_by(3) {
        event.token_id = Some("0b9c".to_owned());
        event.token_name = Some("ci-main".to_owned());
    }
    let org = world.pulumi().org("acme");
    org.add(drawn);
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;

    for round in 0..3 {
        for account in org.accounts() {
            org.change_person(&account, |person| match round {
                0 => person.avatar = format!("https://avatars.example.com/new/{account}"),
                1 => person.name = format!("{} the Second", person.name),
                _ => person.login = format!("{}-renamed", person.login),
            });
        }
        assert!(org.rename_in_events("tokenName", "ci-main", &format!("ci-main-{round}")));
        if round == 2 {
            org.decorate("riskScore", json!(0));
        }
        // The sweep that brings this event has read all the others again, changed.
        org.add([Event::at(world.clock.now() - 1).described(&format!("after change {round}"))]);
        complete(&world, &acme).await;
    }
    let before = world.rows("acme").len();
    org.add([Event::at(world.clock.now() - 1).described("the last")]);
    complete(&world, &acme).await;
    assert_eq!(world.rows("acme").len(), before + 1);
    assert!(daemon.stop().await.success());
    assert_files_and_rows(&world, &acme);
    assert_eq!(world.check_sentinel("acme").removable, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_events_that_differ_only_in_an_unknown_field_both_arrive_though_the_second_is_visible_later() {
    let world = World::start().await;
    let event = Event::at(world.clock.now() - 60).described("Opened environment \"ops/prod\"");
    let (first, second) =
        (event.clone().with_unknown("version", json!(1)), event.clone().with_unknown("version", json!(2)));
    let org = world.pulumi().org("acme");
    org.add([first]);
    let acme = recent(&world, "acme").with_file().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    org.add([second]);
    complete(&world, &acme).await;
    assert_eq!(copies(&world, &event), 2);
    assert!(daemon.stop().await.success());
    assert_files_and_rows(&world, &acme);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_has_the_same_key_in_s3_in_files_and_in_sentinel() {
    let world = World::builder().with_s3().events(300).start().await;
    let org = world.pulumi().org("acme");
    org.add(Generator::seeded(3).twins(world.clock.now() - 100, 4));
    let acme = recent(&world, "acme").with_file().with_sentinel().with_s3();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());

    let bucket = Archive::of_bucket(&world.s3().bucket, PREFIX).await;
    let folder = Archive::of_directory(&world.paths.archive_of("acme"));
    assert_eq!(bucket.files, folder.files, "names and bytes are the same, claims included");

    let lines = bucket.lines("acme", &mut Vec::new());
    assert_eq!(lines.len(), 304);
    let archived: BTreeMap<String, (Option<i64>, i64)> = lines
        .into_iter()
        .map(|line| (line.key, (line.time.as_deref().and_then(parse_rfc3339), line.chunk as i64)))
        .collect();
    let rows: BTreeMap<String, (Option<i64>, i64)> = world
        .rows("acme")
        .iter()
        .map(|row| {
            let chunk = row.number("Chunk_d").expect("rows name their chunk");
            (row.text("EventKey_s").to_owned(), (row.number("Timestamp_d"), chunk))
        })
        .collect();
    assert_eq!(archived, rows);
    assert_eq!(archived.len(), 304, "every key is unique");
}
