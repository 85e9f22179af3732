//! A damaged state directory: every kind of damage is noticed before anything wrong is sent, and then healed or said in one sentence.
//!
//! The state is that of [`crate::versions`]: two orgs with chunks that the folder has and Azure has not.

use std::path::Path;

use pulumi_audit_forwarder::journal::sqlite::FORMAT_VERSION;

use crate::forwarder::{command, err};
use crate::versions::{ORGS, below, database, later, put};
use crate::world::World;
use crate::world::setup::OrgSetup;

const PAGE: usize = 8_192;

/// Nothing that arrived is wrong: not altered, not invented, no event twice under two keys, no broken chain.
#[track_caller]
fn assert_nothing_wrong(world: &World, what: &str) {
    for org in ORGS {
        for report in [world.check_file(org), world.check_sentinel(org)] {
            assert!(
                report.doubled.is_empty() && report.foreign.is_empty() && report.problems.is_empty(),
                "{what}: {report}"
            );
        }
    }
}

/// Healed: the folder has everything once, and the table everything but the rows that it refuses.
#[track_caller]
fn assert_healed(world: &World, what: &str) {
    for org in ORGS {
        let (folder, table) = (world.check_file(org), world.check_sentinel(org));
        assert!(folder.is_complete(), "{what}: {folder}");
        let refused = |lost: &String| lost.contains("a poisoned row");
        assert!(table.lost.iter().all(refused), "{what}: {table}");
    }
}

/// Names in the state directory that begin so.
fn named(world: &World, begin: &str) -> Vec<String> {
    below(&world.paths.state)
        .into_keys()
        .map(|name| name.display().to_string())
        .filter(|name| name.starts_with(begin))
        .collect()
}

async fn once(world: &World) -> String {
    let ended = command(world, &["--log-level", "info", "run", "--once", "--timeout", "30s"]).await;
    assert!(matches!(ended.status.code(), Some(0 | 1)), "{:?}: {}", ended.status, err(&ended));
    assert!(!err(&ended).contains("panicked"), "{}", err(&ended));
    err(&ended)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_flipped_bit_in_any_page_never_sends_anything_wrong() {
    let world = later(FORMAT_VERSION).await;
    let whole = database(FORMAT_VERSION);
    let (mut at_start, mut running, mut unnoticed) = (0, 0, 0);
    for page in 0..whole.len() / PAGE {
        put(&world, FORMAT_VERSION);
        let mut flipped = whole.clone();
        // A place where something is written, if the page has any.
        let written: Vec<usize> =
            (page * PAGE..(page + 1) * PAGE).filter(|place| whole[*place] != 0).collect();
        let Some(place) = written.get(page.wrapping_mul(977) % written.len().max(1)) else { continue };
        flipped[*place] ^= 1 << (page % 8);
        std::fs::write(world.paths.state.join("journal.db"), &flipped).expect("it can be written");
        let what = format!("page {page}, byte {place}");

        let said = once(&world).await;
        assert_nothing_wrong(&world, &what);
        if !named(&world, "journal.db.damaged-").is_empty() {
            at_start += 1;
            assert_healed(&world, &what);
        } else if said.contains("the journal is damaged") {
            // Met while it ran: the next start finds it again, and moves it aside.
            running += 1;
            assert!(!named(&world, "journal.db.suspect").is_empty(), "{what}: {said}");
            let said = once(&world).await;
            assert!(said.contains("was moved aside"), "{what}: {said}");
            assert_nothing_wrong(&world, &what);
            assert_healed(&world, &what);
        } else {
            unnoticed += 1;
            assert_healed(&world, &what);
        }
    }
    println!("{at_start} flips met at the start, {running} while running, {unnoticed} without effect");
    assert!(at_start > 5 && running > 0, "{at_start} {running} {unnoticed}");
}

type Damage = fn(&Path);

fn write(state: &Path, name: &str, content: &[u8]) {
    std::fs::write(state.join(name), content).expect("it can be written");
}

/// What can become of the files, and a word of what is said.
const KINDS: [(&str, Damage, &str); 8] = [
    ("emptied", |state| write(state, "journal.db", b""), "is empty or was not made"),
    ("zeroed", |state| write(state, "journal.db", &vec![0; 200_000]), "not a database"),
    (
        "another program's",
        |state| write(state, "journal.db", &b"not a database ".repeat(1_000)),
        "not a database",
    ),
    (
        "cut short",
        |state| {
            let whole = std::fs::read(state.join("journal.db")).expect("it is there");
            write(state, "journal.db", &whole[..whole.len() / 2]);
        },
        "malformed",
    ),
    (
        "its second half zeroed",
        |state| {
            let mut whole = std::fs::read(state.join("journal.db")).expect("it is there");
            let half = whole.len() / 2;
            whole[half..].fill(0);
            write(state, "journal.db", &whole);
        },
        "",
    ),
    (
        "a directory in its place",
        |state| {
            std::fs::remove_file(state.join("journal.db")).expect("it can be removed");
            std::fs::create_dir(state.join("journal.db")).expect("it can be made");
        },
        "is not a file",
    ),
    (
        "gone, with its log left",
        |state| {
            std::fs::remove_file(state.join("journal.db")).expect("it can be removed");
            write(state, "journal.db-wal", b"the log");
        },
        "is gone",
    ),
    (
        "other tables",
        |state| {
            let connection = rusqlite::Connection::open(state.join("journal.db")).expect("a database");
            connection.execute_batch("DROP TABLE lane").expect("SQL");
        },
        "no such table",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_is_moved_aside_where_every_org_has_an_archive() {
    let world = later(FORMAT_VERSION).await;
    for (what, damage, _) in KINDS {
        put(&world, FORMAT_VERSION);
        damage(&world.paths.state);
        let said = once(&world).await;
        assert!(said.contains("the journal is damaged and was moved aside"), "{what}: {said}");
        assert!(world.paths.state.join("journal.db").is_file(), "{what}: a new one was made");
        let kept = std::fs::read_dir(&world.paths.state).expect("it can be read").flatten();
        let kept =
            kept.filter(|entry| entry.file_name().to_string_lossy().starts_with("journal.db.damaged-"));
        assert!(kept.count() >= 1, "{what}: the damaged one is kept");
        assert_nothing_wrong(&world, what);
        assert_healed(&world, what);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_database_stops_the_daemon_where_an_org_has_no_archive() {
    let world = later(FORMAT_VERSION).await;
    let without = OrgSetup::new("umbrella").since("2026-11-21T00:00:00Z").with_sentinel();
    world.write_config(&[without], "");
    let asked = world.pulumi().ledger.total();
    for (what, damage, word) in KINDS {
        put(&world, FORMAT_VERSION);
        damage(&world.paths.state);
        let before = below(&world.paths.state);
        for arguments in [&["run"][..], &["run", "--once"]] {
            let ended = command(&world, arguments).await;
            assert_eq!(ended.status.code(), Some(1), "{what}: {}", err(&ended));
            for part in
                ["is damaged (", word, "`umbrella` cannot start again", "put a backup", "nothing was sent"]
            {
                assert!(err(&ended).contains(part), "{what}: `{part}` is in: {}", err(&ended));
            }
            assert!(!err(&ended).contains("`acme`"), "{what}: acme has a folder: {}", err(&ended));
        }
        let after = below(&world.paths.state);
        let kept = |name: &str| after.get(Path::new(name)) == before.get(Path::new(name));
        assert!(kept("journal.db") && kept("journal.db-wal"), "{what}: nothing was moved or changed");
    }
    assert_eq!(world.pulumi().ledger.total(), asked, "nobody was asked anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_directory_that_is_a_file_or_cannot_be_written_is_named() {
    let world = later(FORMAT_VERSION).await;
    std::fs::remove_dir_all(&world.paths.state).expect("it can be removed");
    std::fs::write(&world.paths.state, b"a file").expect("it can be written");
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    assert!(err(&ended).contains("cannot use state directory"), "{}", err(&ended));
    assert_eq!(std::fs::read(&world.paths.state).expect("it is there"), b"a file");
}
