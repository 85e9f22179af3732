//! A damaged database: found at the start or when it is met, remembered, and moved out of the way.

use std::path::PathBuf;

use super::sqlite_on_disk::{PARTS, files, filled, open, read_all, stranger};
use super::*;
use crate::journal::sqlite::damage::DAMAGED_KEPT;

/// What the next start says.
fn start(directory: &Path) -> Result<SqliteJournal, JournalError> {
    SqliteJournal::open(directory)
}

#[track_caller]
fn assert_damaged<T: std::fmt::Debug>(result: Result<T, JournalError>, what: &str) {
    match result {
        Err(JournalError::Damaged(text)) => assert!(text.contains(what), "{text}"),
        other => panic!("{what}: {other:?}"),
    }
}

fn copy(directory: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    for name in PARTS {
        std::fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    copy
}

/// The files as a killed process leaves them, after three chunks in three commits.
async fn killed() -> TempDir {
    let directory = TempDir::new().unwrap();
    filled(directory.path()).await;
    let journal = open(directory.path());
    let mut collector = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
    for at in 3..6 {
        collector.chunks(&[DAY + at]).await;
    }
    copy(directory.path())
}

#[tokio::test]
async fn a_log_as_a_killed_process_leaves_it_is_believed() {
    let directory = killed().await;
    let journal = start(directory.path()).unwrap();
    assert_eq!(read_all(&journal).await.unwrap().next, 6);
}

#[tokio::test]
async fn a_log_that_lost_commits_is_noticed_instead_of_turning_the_journal_back() {
    let original = killed().await;
    let whole = std::fs::read(original.path().join("journal.db-wal")).unwrap();
    let frame = 24 + 8_192;
    let frames = (whole.len() - 32) / frame;
    assert!(frames > 6, "{frames}");
    // Cut anywhere, at a frame's edge and within; emptied; zeroed; one bit anywhere.
    let mut logs: Vec<(String, Vec<u8>)> =
        vec![("empty".into(), Vec::new()), ("zeros".into(), vec![0; whole.len()])];
    for number in (0..frames).step_by(4) {
        for (inside, what) in [(0, "edge"), (100, "within")] {
            let end = 32 + number * frame + inside;
            logs.push((format!("cut at the {what} of frame {number}"), whole[..end].to_vec()));
        }
        for place in [6, 17, 4_000 + number] {
            let mut flipped = whole.clone();
            flipped[32 + number * frame + place] ^= 1 << (number % 8);
            logs.push((format!("byte {place} of frame {number}"), flipped));
        }
    }
    for place in [0, 11, 19, 25, 31] {
        let mut flipped = whole.clone();
        flipped[place] ^= 16;
        logs.push((format!("byte {place} of the header"), flipped));
    }
    for (what, log) in logs {
        let directory = copy(original.path());
        std::fs::write(directory.path().join("journal.db-wal"), &log).unwrap();
        match start(directory.path()) {
            Err(JournalError::Damaged(text)) => assert!(text.contains("lost commits"), "{what}: {text}"),
            other => panic!("{what}: {other:?}"),
        }
    }
    // The same log without its database's index, as a copy has it: two commits behind the bad frame tell.
    let directory = copy(original.path());
    std::fs::remove_file(directory.path().join("journal.db-shm")).unwrap();
    let mut flipped = whole.clone();
    flipped[32 + 24 + 70] ^= 1;
    std::fs::write(directory.path().join("journal.db-wal"), &flipped).unwrap();
    assert_damaged(start(directory.path()), "lost commits");
    // And one cut short may be what a power cut left.
    std::fs::write(directory.path().join("journal.db-wal"), &whole[..whole.len() - 50]).unwrap();
    assert_eq!(read_all(&start(directory.path()).unwrap()).await.unwrap().next, 5);
}

/// Killed between the header of a fresh log and its first frame.
#[tokio::test]
async fn a_log_that_was_only_begun_holds_nothing_and_stops_nobody() {
    let original = killed().await;
    let header = std::fs::read(original.path().join("journal.db-wal")).unwrap();
    let directory = TempDir::new().unwrap();
    let (state, _) = filled(directory.path()).await;
    let journal = open(directory.path());
    let begun = copy(directory.path());
    drop(journal);
    for bytes in [1, 31, 32] {
        let directory = copy(begun.path());
        std::fs::write(directory.path().join("journal.db-wal"), &header[..bytes]).unwrap();
        let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
        assert_eq!(read_all(&looked).await.unwrap(), state);
        drop(looked);
        assert_eq!(read_all(&start(directory.path()).unwrap()).await.unwrap(), state, "{bytes} bytes");
    }
}

#[tokio::test]
async fn a_damaged_index_of_the_log_is_made_anew() {
    for content in [Vec::new(), vec![0; 32_768], vec![0xff; 32_768], b"odd".to_vec()] {
        let directory = killed().await;
        std::fs::write(directory.path().join("journal.db-shm"), &content).unwrap();
        let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
        assert_eq!(read_all(&looked).await.unwrap().next, 6);
        drop(looked);
        assert_eq!(read_all(&start(directory.path()).unwrap()).await.unwrap().next, 6);
    }
}

#[tokio::test]
async fn what_cannot_be_a_database_is_damage_and_not_a_first_start() {
    let directory = killed().await;
    std::fs::remove_file(directory.path().join("journal.db")).unwrap();
    assert_damaged(start(directory.path()), "is gone, and its log");
    std::fs::create_dir(directory.path().join("journal.db")).unwrap();
    assert_damaged(start(directory.path()), "is not a file");
    assert_damaged(SqliteJournal::open_read_only(directory.path()), "is not a file");

    let moved = SqliteJournal::set_aside(directory.path(), Second(DAY)).unwrap();
    assert!(moved.path.is_dir());
    assert_eq!(start(directory.path()).unwrap().orgs().await.unwrap(), []);
}

#[tokio::test]
async fn an_odd_lock_file_is_named_and_nothing_panics() {
    let directory = TempDir::new().unwrap();
    std::fs::create_dir(directory.path().join("lock")).unwrap();
    let error = start(directory.path()).unwrap_err();
    assert!(matches!(&error, JournalError::Unusable { cause, .. } if cause.contains("`lock`")), "{error}");
    std::fs::remove_dir(directory.path().join("lock")).unwrap();
    std::fs::write(directory.path().join("lock"), [0xff; 300]).unwrap();
    let held = start(directory.path()).unwrap();
    std::fs::write(directory.path().join("lock"), [0xff; 300]).unwrap();
    let error = start(directory.path()).unwrap_err();
    assert!(matches!(&error, JournalError::Busy { pid, .. } if pid == "(not known yet)"), "{error}");
    drop(held);
}

#[tokio::test]
async fn an_org_whose_lists_do_not_add_up_is_found_at_the_start() {
    for sql in [
        "UPDATE tally SET minute = minute - 1 WHERE minute = (SELECT min(minute) FROM tally)",
        "DELETE FROM chunk WHERE number = 1",
        "UPDATE lane SET checkpoint = checkpoint + 1 WHERE destination = 's3'",
        "UPDATE coverage SET spans = '[]'",
        "UPDATE body SET claim = x'00' WHERE number = 2",
    ] {
        let directory = TempDir::new().unwrap();
        filled(directory.path()).await;
        assert_eq!(stranger(directory.path()).execute(sql, []).unwrap(), 1, "{sql}");
        assert_damaged(start(directory.path()), "acme");
    }
}

/// What the start's bounded check passes by, each met by another call.
const HIDDEN: [&str; 6] = [
    "UPDATE body SET body = x'00' WHERE number = 0",
    "UPDATE tally SET body = x'00' WHERE minute = (SELECT max(minute) FROM tally)",
    "UPDATE quarantine SET detail = detail || '!'",
    "UPDATE note SET value = x'00'",
    "UPDATE decision SET who = 'eve'",
    "UPDATE sweep SET number = 9223372036854775807",
];

#[tokio::test]
async fn damage_met_while_running_is_told_at_once_and_found_again_by_the_next_start() {
    for sql in HIDDEN {
        let directory = TempDir::new().unwrap();
        filled(directory.path()).await;
        assert_eq!(stranger(directory.path()).execute(sql, []).unwrap(), 1, "{sql}");
        let journal = start(directory.path()).unwrap();
        assert_eq!(journal.damage(), None);
        let met = match read_all(&journal).await {
            Err(error) => Err(error),
            Ok(_) => {
                let collector = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
                let record = WindowRecord {
                    window: window(),
                    kind: "head".to_owned(),
                    read_at: Second(DAY),
                    seen: 1,
                    new: 1,
                };
                let append = Append { window: Some(record), ..collector.append(Vec::new()) };
                journal.append(&acme(), append).await
            }
        };
        assert_damaged(met, "acme");
        assert!(journal.damaged().await.contains("acme"), "{sql}");
        drop(journal);
        for _ in 0..2 {
            assert_damaged(start(directory.path()), "acme");
        }
        assert!(directory.path().join("journal.db.suspect").exists());

        let moved = SqliteJournal::set_aside(directory.path(), Second(DAY)).unwrap();
        assert_eq!(moved.path, directory.path().join("journal.db.damaged-20261121T000000Z"));
        assert!(moved.path.exists() && moved.deleted.is_empty());
        assert!(!directory.path().join("journal.db.suspect").exists());
        assert_eq!(start(directory.path()).unwrap().orgs().await.unwrap(), [], "{sql}");
        assert_eq!(SqliteJournal::damaged_kept(directory.path()), 1);
    }
}

#[tokio::test]
async fn a_suspicion_that_finds_nothing_is_dropped() {
    let directory = TempDir::new().unwrap();
    let (state, _) = filled(directory.path()).await;
    std::fs::write(directory.path().join("journal.db.suspect"), [0xff; 9_000]).unwrap();
    let journal = start(directory.path()).unwrap();
    assert_eq!(read_all(&journal).await.unwrap(), state);
    assert!(!directory.path().join("journal.db.suspect").exists());
}

#[tokio::test]
async fn looking_at_damage_leaves_no_mark() {
    let directory = TempDir::new().unwrap();
    filled(directory.path()).await;
    stranger(directory.path()).execute(HIDDEN[0], []).unwrap();
    let before = files(directory.path());
    let looked = SqliteJournal::open_read_only(directory.path()).unwrap();
    assert_damaged(read_all(&looked).await, "chunk 0");
    drop(looked);
    assert_eq!(files(directory.path()), before);
}

#[tokio::test]
async fn a_database_that_is_replaced_while_running_takes_no_commit_and_keeps_its_log() {
    let directory = TempDir::new().unwrap();
    filled(directory.path()).await;
    let backup = killed().await;
    let journal = open(directory.path());
    let mut collector = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
    collector.chunks(&[DAY + 3]).await;
    for name in ["journal.db", "journal.db-wal"] {
        let beside = directory.path().join("beside");
        std::fs::copy(backup.path().join(name), &beside).unwrap();
        std::fs::rename(&beside, directory.path().join(name)).unwrap();
    }
    let refused = collector.commit(collector.append(collector.cut(&[DAY + 4]))).await;
    assert_damaged(refused, "was replaced");
    drop(journal);
    std::fs::remove_file(directory.path().join("journal.db-shm")).unwrap();
    let journal = start(directory.path()).unwrap();
    assert_eq!(read_all(&journal).await.unwrap().next, 6, "the backup with all that its log holds");
}

#[tokio::test]
async fn a_bounded_number_of_damaged_databases_is_kept_and_the_deleted_ones_are_named() {
    let directory = TempDir::new().unwrap();
    let mut made: Vec<PathBuf> = Vec::new();
    for round in 0..DAMAGED_KEPT + 2 {
        // The last two within one second.
        let now = Second(DAY + round.min(DAMAGED_KEPT) as i64);
        drop(open(directory.path()));
        std::fs::write(directory.path().join("journal.db-wal"), b"log").unwrap();
        let moved = SqliteJournal::set_aside(directory.path(), now).unwrap();
        assert!(!made.contains(&moved.path));
        made.push(moved.path.clone());
        let gone = made.len().saturating_sub(DAMAGED_KEPT);
        assert_eq!(moved.deleted, made[gone.saturating_sub(1)..gone]);
        for (number, path) in made.iter().enumerate() {
            for part in ["", "-wal"] {
                let path = PathBuf::from(format!("{}{part}", path.display()));
                assert_eq!(path.exists(), number >= gone, "{}", path.display());
            }
        }
        assert!(!directory.path().join("journal.db-wal").exists());
    }
    assert_eq!(SqliteJournal::damaged_kept(directory.path()), DAMAGED_KEPT);
}

#[tokio::test]
async fn a_move_that_was_cut_short_is_noticed_and_finished() {
    let directory = killed().await;
    // The crash came when only the database had been moved.
    let first = directory.path().join("journal.db.damaged-20261121T000000Z");
    std::fs::rename(directory.path().join("journal.db"), &first).unwrap();
    assert_damaged(start(directory.path()), "is gone, and its log");
    SqliteJournal::set_aside(directory.path(), Second(DAY)).unwrap();
    assert_eq!(start(directory.path()).unwrap().orgs().await.unwrap(), []);
    assert!(first.exists());
}

/// The newer files of a killed process lie over an older database, as when only `journal.db` is restored.
#[tokio::test]
async fn an_older_database_under_a_newer_log_is_noticed() {
    let directory = TempDir::new().unwrap();
    filled(directory.path()).await;
    let backup = std::fs::read(directory.path().join("journal.db")).unwrap();
    for commits in [3, 300] {
        let journal = open(directory.path());
        let mut collector = Collector::open(&journal, acme(), &[S3, SENTINEL]).await;
        for _ in 0..commits {
            let at = DAY + 3 + i64::try_from(collector.next).unwrap();
            collector.chunks(&[at]).await;
        }
        let next = collector.next;
        let copy = copy(directory.path());
        std::fs::write(copy.path().join("journal.db"), &backup).unwrap();
        drop(journal);
        match start(copy.path()) {
            Err(JournalError::Damaged(_)) => {}
            Err(other) => panic!("{other}"),
            Ok(journal) => match read_all(&journal).await {
                Err(JournalError::Damaged(_)) => {}
                // The log held everything since: nothing is older than it was.
                found => assert_eq!(found.unwrap().next, next),
            },
        }
    }
}

/// Otherwise a daemon would end at the same damage after every start, and nothing would become of it.
#[tokio::test]
async fn whatever_is_met_while_running_is_found_when_everything_is_read() {
    let directory = TempDir::new().unwrap();
    filled(directory.path()).await;
    let whole = std::fs::read(directory.path().join("journal.db")).unwrap();
    let (mut met, mut found) = (0, 0);
    for place in (13..whole.len()).step_by(311).filter(|place| whole[*place] != 0) {
        let mut flipped = whole.clone();
        flipped[place] ^= 1 << (place % 8);
        let copy = TempDir::new().unwrap();
        std::fs::write(copy.path().join("journal.db"), &flipped).unwrap();
        let Ok(journal) = start(copy.path()) else { continue };
        let running = read_all(&journal).await;
        drop(journal);
        met += usize::from(running.is_err());
        std::fs::write(copy.path().join("journal.db.suspect"), b"to be sure").unwrap();
        match (start(copy.path()), running) {
            (Err(JournalError::Damaged(_)), _) => found += 1,
            (Err(other), _) => panic!("byte {place}: {other}"),
            (Ok(_), Err(error)) => panic!("byte {place} is only met while running: {error}"),
            (Ok(_), Ok(_)) => {}
        }
    }
    assert!(met > 5 && found >= met, "{met} met, {found} found");
}
