//! State directories of every format version: each is opened by this program, brought forward, and gone on with; one of a later version
//! is refused and left alone.
//!
//! `tests/fixtures/state-vN` was written by the program of version N: [`make`] runs a binary against the world and keeps what it left.
//! To keep that of a new version, or to see how an old one was made:
//!
//! ```text
//! STATE_FIXTURE=tests/fixtures/state-vN [STATE_FIXTURE_BINARY=…] cargo test --test it versions::what_this_program_writes
//! ```

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use pulumi_audit_forwarder::chunk::gzip;
use pulumi_audit_forwarder::journal::sqlite::FORMAT_VERSION;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::delivery::binary;
use crate::forwarder::{again, command, drained, err, out, party};
use crate::world::World;
use crate::world::clock::{WorldClock, rfc3339};
use crate::world::daemon::{Daemon, until};
use crate::world::ingestion::TABLE_STREAM;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::s3::reader::gunzip;
use crate::world::setup::{OrgSetup, rule_of};

/// 2026-11-21T12:00:00Z: when the fixtures' story begins.
const BEGIN: i64 = 1_795_262_400;
/// When it has gone on for long enough that none of it is ahead.
const LATER: i64 = BEGIN + 900;
pub(crate) const ORGS: [&str; 2] = ["acme", "umbrella"];

/// A clock that starts at a second and goes on as the system's does.
fn clock(from: i64) -> WorldClock {
    let begun = Instant::now();
    WorldClock::by(move || from + begun.elapsed().as_secs() as i64)
}

/// What an org's log holds at the beginning: two rows that Azure refuses among others.
fn first(seed: u64) -> Vec<Event> {
    let mut events = Generator::seeded(seed).spread(BEGIN - 3_600, BEGIN - 600, 40);
    events.extend((0..2).flat_map(|row| {
        let at = BEGIN - 500 + 100 * row;
        [Event::at(at).described("a poisoned row"), Event::at(at + 1)]
    }));
    events
}

/// What is added when Azure takes nothing any more.
fn second(seed: u64) -> Vec<Event> {
    Generator::seeded(seed + 100).spread(BEGIN - 60, BEGIN - 1, 12)
}

fn setups() -> Vec<OrgSetup> {
    ORGS.map(|org| OrgSetup::new(org).since(&rfc3339(BEGIN - 7_200)).with_sentinel().with_file()).to_vec()
}

fn directory(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/state-v{version}"))
}

/// Lets a program collect, deliver, meet refused rows, and end with chunks that the folder has and Azure has not.
async fn make(program: &Path) -> World {
    let world = World::builder().orgs(&ORGS).clock(clock(BEGIN)).start().await;
    for (seed, org) in (1..).zip(ORGS) {
        world.pulumi().org(org).add(first(seed));
    }
    world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
    let config = world.write_config(&setups(), "");
    let mut daemon = Daemon::start(program, &config, &world.paths.root.join("log"));
    for org in ORGS {
        until(&format!("{org} is delivered but for its refused rows"), async || {
            let lane = party(&mut daemon, org, "sentinel").await.unwrap_or_default();
            lane["quarantined"] == 2 && lane["backlog_chunks"] == 0 && world.check_file(org).is_complete()
        })
        .await;
    }
    world.ingestion().denies_the_role();
    for (seed, org) in (1..).zip(ORGS) {
        world.pulumi().org(org).add(second(seed));
    }
    for org in ORGS {
        until(&format!("{org} has chunks that Azure has not"), async || {
            let lane = party(&mut daemon, org, "sentinel").await.unwrap_or_default();
            lane["backlog_events"] == 12 && lane["state"] == "paused" && world.check_file(org).is_complete()
        })
        .await;
    }
    assert!(daemon.stop().await.success());
    world
}

/// Keeps what was made: the database, the folders, and what Azure has.
fn keep(world: &World, into: &Path) {
    std::fs::create_dir_all(into).expect("a directory for it");
    let database = std::fs::read(world.paths.state.join("journal.db")).expect("a database");
    std::fs::write(into.join("journal.db.gz"), gzip(&database, 9)).expect("it can be written");
    let mut azure = BTreeMap::new();
    for org in ORGS {
        for (name, body) in below(&world.paths.archive_of(org)) {
            let path = into.join("archive").join(org).join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
            std::fs::write(path, body).expect("it can be written");
        }
        let rows = world.ingestion().rows_of_rule(&rule_of(org));
        azure.insert(org, rows.into_iter().map(|row| json!(row.cells)).collect::<Vec<_>>());
    }
    let text = serde_json::to_string_pretty(&azure).expect("JSON");
    std::fs::write(into.join("azure.json"), text).expect("it can be written");
}

/// Every file below a directory, by its name relative to it.
pub(crate) fn below(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(next).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(directory).expect("it is below").to_path_buf();
                found.insert(name, std::fs::read(&path).expect("it can be read"));
            }
        }
    }
    found
}

/// The database of a version, as it was written.
pub(crate) fn database(version: u32) -> Vec<u8> {
    let path = directory(version).join("journal.db.gz");
    let packed = std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "format version {version} has no fixture `{}` ({error}): see the head of this file",
            path.display()
        )
    });
    gunzip(&packed).expect("a gzip file")
}

/// Puts state and folders as the program of that version left them.
pub(crate) fn put(world: &World, version: u32) {
    for part in [&world.paths.state, &world.paths.archive] {
        std::fs::remove_dir_all(part).expect("it can be removed");
        std::fs::create_dir_all(part).expect("it can be made");
    }
    std::fs::write(world.paths.state.join("journal.db"), database(version)).expect("it can be written");
    for (name, body) in below(&directory(version).join("archive")) {
        let path = world.paths.archive.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("it can be made");
        std::fs::write(path, body).expect("it can be written");
    }
}

/// The world of that story, later: the source has all of it, Azure what it had taken, and the state stands as it was left.
pub(crate) async fn later(version: u32) -> World {
    let world = World::builder().orgs(&ORGS).clock(clock(LATER)).start().await;
    let azure = std::fs::read(directory(version).join("azure.json")).expect("what Azure had");
    let azure: BTreeMap<String, Value> = serde_json::from_slice(&azure).expect("JSON");
    for (seed, org) in (1..).zip(ORGS) {
        world.pulumi().org(org).add(first(seed));
        world.pulumi().org(org).add(second(seed));
        let rule = rule_of(org);
        let request = Request::post(format!(
            "/dataCollectionRules/{rule}/streams/{TABLE_STREAM}?api-version=2023-01-01"
        ))
        .header("authorization", format!("Bearer {}", world.entra().token_for("https://monitor.azure.com")))
        .header("content-type", "application/json")
        .body(Bytes::from(azure[org].to_string()))
        .expect("a request");
        assert_eq!(world.ingestion().answer(request).status(), Some(204));
    }
    world.ingestion().refuse_rows(|row| row.contains("a poisoned row"));
    world.write_config(&setups(), "");
    put(&world, version);
    world
}

/// The definitions of tables and indexes.
fn tables(database: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("journal.db");
    std::fs::write(&path, database).expect("it can be written");
    let connection = rusqlite::Connection::open(&path).expect("a database");
    let mut statement =
        connection.prepare("SELECT coalesce(sql, name) FROM sqlite_master ORDER BY name").expect("SQL");
    let found = statement.query_map([], |row| row.get(0)).expect("rows");
    found.collect::<Result<_, _>>().expect("texts")
}

fn version_of(database: &[u8]) -> u32 {
    // <https://www.sqlite.org/fileformat.html>: the user version stands at offset 60.
    u32::from_be_bytes(database[60..64].try_into().expect("four bytes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_this_program_writes_is_what_the_fixture_of_its_version_holds() {
    let program = std::env::var_os("STATE_FIXTURE_BINARY").map_or_else(|| binary().to_owned(), PathBuf::from);
    let world = make(&program).await;
    if let Some(into) = std::env::var_os("STATE_FIXTURE") {
        keep(&world, Path::new(&into));
        return;
    }
    let made = std::fs::read(world.paths.state.join("journal.db")).expect("a database");
    assert_eq!(version_of(&made), FORMAT_VERSION);
    assert_eq!(tables(&made), tables(&database(FORMAT_VERSION)), "other tables are another version");
}

#[test]
fn every_format_version_has_a_fixture_that_its_own_program_wrote() {
    for version in 1..=FORMAT_VERSION {
        let fixture = database(version);
        assert_eq!(version_of(&fixture), version);
        let has_decisions = tables(&fixture).iter().any(|table| table.starts_with("CREATE TABLE decision"));
        assert_eq!(has_decisions, version >= 2, "what came with version 2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_every_version_is_brought_forward_and_gone_on_with() {
    for version in 1..=FORMAT_VERSION {
        let world = later(version).await;
        let before = below(&world.paths.archive);
        let status = command(&world, &["status", "--json"]).await;
        assert_eq!(status.status.code(), Some(0), "{}", err(&status));
        let status: Value = serde_json::from_str(&out(&status)).expect("JSON");
        for org in status["orgs"].as_array().expect("orgs") {
            let lane = &org["lanes"][0];
            assert_eq!((&lane["backlog_events"], &lane["quarantined"]), (&12.into(), &2.into()), "{org}");
        }
        assert_eq!(
            std::fs::read(world.paths.state.join("journal.db")).expect("it is there"),
            database(version),
            "looking changes nothing"
        );

        for org in ORGS {
            world.pulumi().org(org).add(Generator::seeded(9).spread(BEGIN + 1, LATER - 1, 10));
        }
        let mut daemon = again(&world);
        for org in ORGS {
            drained(&mut daemon, org, LATER).await;
        }
        assert!(daemon.stop().await.success());
        for org in ORGS {
            let folder = world.check_file(org);
            folder.assert_complete();
            let table = world.check_sentinel(org);
            assert_eq!(table.lost.len(), 2, "the refused ones: {table}");
            assert!(table.lost.iter().all(|lost| lost.contains("a poisoned row")), "{table}");
            assert_eq!((table.doubled.len(), table.foreign.len(), table.removable), (0, 0, 0), "{table}");
            assert!(table.problems.is_empty(), "{table}");
        }
        let after = below(&world.paths.archive);
        assert!(before.iter().all(|(name, body)| after.get(name) == Some(body)), "nothing is written anew");
        let list = command(&world, &["quarantine", "list", "--json"]).await;
        let list: Value = serde_json::from_str(&out(&list)).expect("JSON");
        assert_eq!(list["rows"].as_array().map(Vec::len), Some(4), "{list}");
        let database = std::fs::read(world.paths.state.join("journal.db")).expect("a database");
        assert_eq!(version_of(&database), FORMAT_VERSION);
        let verified = command(&world, &["verify"]).await;
        assert_eq!(verified.status.code(), Some(0), "{}", out(&verified));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_a_later_version_is_refused_by_every_command_and_left_as_it_is() {
    let world = later(FORMAT_VERSION).await;
    let mut newer = database(FORMAT_VERSION);
    newer[60..64].copy_from_slice(&(FORMAT_VERSION + 1).to_be_bytes());
    std::fs::write(world.paths.state.join("journal.db"), newer).expect("it can be written");
    // As a killed process of that version leaves it.
    std::fs::write(world.paths.state.join("lock"), "4194304").expect("it can be written");
    let before = below(&world.paths.root.join("state"));
    let archive = below(&world.paths.archive);
    let asked = world.pulumi().ledger.total();
    let lane = ["--org", "acme", "--destination", "sentinel", "--all", "--reason", "no"];
    for arguments in [
        &["run"][..],
        &["run", "--once"],
        &["status"],
        &["coverage"],
        &["quarantine", "list"],
        &[&["quarantine", "drop"], &lane[..]].concat(),
        &[&["quarantine", "retry"], &lane[..]].concat(),
    ] {
        let ended = command(&world, arguments).await;
        assert_eq!(ended.status.code(), Some(1), "{arguments:?}: {}{}", out(&ended), err(&ended));
        let said = err(&ended);
        let sentence =
            format!("holds format version {}, and this version knows {FORMAT_VERSION}", FORMAT_VERSION + 1);
        assert_eq!(said.matches(&sentence).count(), 1, "{arguments:?}: {said}");
        assert!(said.contains("run the newer version again, nothing was changed"), "{said}");
        assert_eq!(below(&world.paths.root.join("state")), before, "{arguments:?}");
    }
    // The archive can be proven all the same; that it was not compared with the state is said.
    let ended = command(&world, &["verify", "--source", "file"]).await;
    assert!(out(&ended).contains("holds format version"), "{}{}", out(&ended), err(&ended));
    assert_eq!(below(&world.paths.root.join("state")), before);
    assert_eq!(
        (below(&world.paths.archive), world.pulumi().ledger.total()),
        (archive, asked),
        "nothing was asked or sent"
    );
}
