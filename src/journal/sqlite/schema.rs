//! The database file: how it is made, its versions, and how a connection to it is set up.
//!
//! `PRAGMA application_id` says that it is ours, `PRAGMA user_version` which version of the tables it holds. An older version is
//! brought forward in one transaction; a newer one is refused before anything is written.
//!
//! *Why a new database is made under another name and renamed:* so that an empty or half-made `journal.db` is never ours, and a
//! file that was lost and recreated empty is noticed instead of being taken for a first start.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use super::fault::Fault;
use super::names::{beside, database};
use super::rows::{Meta, stored};
use super::wal;
use crate::journal::JournalError;

/// `PAFJ`.
const APPLICATION: i32 = 0x5041_464a;

/// Version of the tables below.
pub const VERSION: u32 = 2;

/// Brings the tables from one version to the next.
type Step = fn(&Transaction<'_>) -> rusqlite::Result<()>;

/// The step at index `n` leads from version `n + 1` to `n + 2`.
const STEPS: [Step; VERSION as usize - 1] = [|t| t.execute_batch(DECISIONS)];

/// Bodies are tens of kilobytes: a larger page means shorter chains of overflow pages.
const PAGE_BYTES: u32 = 8_192;
/// Write-ahead log at which it is folded into the database: 512 pages are 4 MiB.
const WAL_PAGES: u32 = 512;
/// What is left of the log's file after a large append.
const WAL_BYTES_KEPT: u32 = 8 * 1024 * 1024;
/// Page cache. Rows are read once; what is hot are a few index pages.
const CACHE_KIB: u32 = 2_048;
/// How long another program that writes is waited for: nobody should.
const BUSY_WAIT: Duration = Duration::from_secs(1);
/// Distinct statements in this module's parent, and some.
const STATEMENTS_CACHED: usize = 64;

/// Version 1; what came later is in [`STEPS`], which a new database goes through as well.
///
/// Chunks stand apart from their bodies, so that sums and pruning never read bodies; `chunk_sizes` holds all that
/// [`crate::journal::Outstanding`] and [`crate::journal::Usage`] need. Every `sum` is a [`super::checksum::Checksum`].
const TABLES: &str = "
CREATE TABLE journal (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    instance TEXT NOT NULL,
    orgs INTEGER NOT NULL,
    sum INTEGER NOT NULL
) STRICT;
CREATE TABLE org (
    org INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    revision INTEGER NOT NULL,
    start INTEGER,
    oldest INTEGER NOT NULL,
    next INTEGER NOT NULL,
    link BLOB NOT NULL,
    tally_floor INTEGER,
    tally_digest INTEGER NOT NULL,
    coverage_sum INTEGER NOT NULL,
    lanes INTEGER NOT NULL,
    sum INTEGER NOT NULL
) STRICT;
CREATE TABLE coverage (
    org INTEGER PRIMARY KEY,
    spans TEXT NOT NULL
) STRICT;
CREATE TABLE lane (
    org INTEGER NOT NULL,
    destination TEXT NOT NULL,
    checkpoint INTEGER NOT NULL,
    configured INTEGER NOT NULL,
    quarantined INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (org, destination)
) STRICT, WITHOUT ROWID;
CREATE TABLE chunk (
    org INTEGER NOT NULL,
    number INTEGER NOT NULL,
    appended INTEGER NOT NULL,
    name TEXT NOT NULL,
    mode TEXT NOT NULL,
    date TEXT NOT NULL,
    window_from INTEGER NOT NULL,
    window_until INTEGER NOT NULL,
    count INTEGER NOT NULL,
    first INTEGER,
    last INTEGER,
    sha256 BLOB NOT NULL,
    previous BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (org, number)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX chunk_sizes ON chunk (org, number, count, first, bytes);
CREATE TABLE body (
    org INTEGER NOT NULL,
    number INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    claim BLOB NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (org, number)
) STRICT;
CREATE TABLE tally (
    org INTEGER NOT NULL,
    minute INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (org, minute)
) STRICT, WITHOUT ROWID;
CREATE TABLE sweep (
    org INTEGER NOT NULL,
    number INTEGER NOT NULL,
    window_from INTEGER NOT NULL,
    window_until INTEGER NOT NULL,
    kind TEXT NOT NULL,
    read_at INTEGER NOT NULL,
    seen INTEGER NOT NULL,
    new INTEGER NOT NULL,
    PRIMARY KEY (org, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipt (
    org INTEGER NOT NULL,
    destination TEXT NOT NULL,
    chunk INTEGER NOT NULL,
    at INTEGER NOT NULL,
    status INTEGER NOT NULL,
    reference TEXT NOT NULL,
    rows INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (org, destination, chunk)
) STRICT, WITHOUT ROWID;
CREATE TABLE quarantine (
    org INTEGER NOT NULL,
    destination TEXT NOT NULL,
    chunk INTEGER NOT NULL,
    row INTEGER NOT NULL,
    key TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    provisional INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (org, destination, chunk, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX quarantine_provisional ON quarantine (org, destination) WHERE provisional = 1;
CREATE TABLE note (
    org INTEGER NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (org, name)
) STRICT, WITHOUT ROWID;
";

/// Since version 2: what people decided about rows in quarantine.
const DECISIONS: &str = "
CREATE TABLE decision (
    org INTEGER NOT NULL,
    number INTEGER NOT NULL,
    at INTEGER NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    destination TEXT NOT NULL,
    rows TEXT NOT NULL,
    reason TEXT NOT NULL,
    sum INTEGER NOT NULL,
    PRIMARY KEY (org, number)
) STRICT, WITHOUT ROWID;
";

/// Makes the database if there is none. Whole or not at all: what a crash leaves is under another name, and made again.
pub(super) fn create_if_absent(directory: &Path) -> Result<(), Fault> {
    if database(directory).try_exists()? {
        return Ok(());
    }
    let path = directory.join("journal.db.new");
    for leftover in ["journal.db.new", "journal.db.new-journal"] {
        match std::fs::remove_file(directory.join(leftover)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    // Events are for this user alone, whatever the directory allows. SQLite gives its other files the same mode.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let mut connection = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let transaction = connection.transaction()?;
    transaction.execute_batch(TABLES)?;
    for step in STEPS {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    Meta::create(&transaction)?;
    transaction.commit()?;
    connection.close().map_err(|(_, error)| error)?;
    file.sync_all()?;
    std::fs::rename(&path, database(directory))?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

/// The version of the tables, read without writing anything, and refused if this build does not know it.
pub(super) fn check_version(directory: &Path) -> Result<(), Fault> {
    let connection = connect_read_only(directory, Others::Nobody)?;
    version(directory, &connection).map(|_| ())
}

fn version(directory: &Path, connection: &Connection) -> Result<u32, Fault> {
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION {
        return Err(Fault::damaged("`journal.db` is empty or was not made by this program".to_owned()));
    }
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match found {
        0 => Err(Fault::damaged("`journal.db` has lost its version".to_owned())),
        found if found > VERSION => Err(Fault::Journal(JournalError::Newer {
            directory: directory.display().to_string(),
            found,
            known: VERSION,
        })),
        found => Ok(found),
    }
}

/// Whether what the log holds may be believed as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Log {
    Trusted,
    /// A sync may have failed: its frames have to reach the database before they are used.
    Suspect,
}

/// A connection that reads and writes, with everything in the log made durable in the database.
///
/// The checkpoint is what makes a failed fsync harmless: the kernel may call pages clean that never reached the disk, so a later
/// fsync of the log proves nothing. Copying the log into the database writes them again.
///
/// A full disk may leave the log where it is: nothing was synced in vain, and what is there can still be read and pruned.
pub(super) fn connect(directory: &Path, log: Log) -> Result<Connection, Fault> {
    let path = database(directory);
    // A database that vanished must be noticed, not created.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    set_up(&connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if mode != "wal" {
        return Err(Fault::Journal(JournalError::Unusable {
            directory: directory.display().to_string(),
            cause: format!(
                "its file system allows journal mode `{mode}` only, and `wal` is needed; a network file system cannot hold it"
            ),
        }));
    }
    connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", WAL_BYTES_KEPT)?;
    match checkpoint(&connection) {
        Err(fault) if log == Log::Trusted && fault.is_full_disk() => {}
        result => result?,
    }
    let found = version(directory, &connection)?;
    migrate(&mut connection, found, &STEPS)?;
    Ok(connection)
}

fn checkpoint(connection: &Connection) -> Result<(), Fault> {
    // A reader, such as an operator's `sqlite3`, can hold a truncation back. What counts is that every frame was copied.
    let (frames, copied): (i64, i64) =
        connection.query_row("PRAGMA wal_checkpoint(FULL)", [], |row| Ok((row.get(1)?, row.get(2)?)))?;
    if frames != copied {
        return Err(Fault::Journal(JournalError::Disk(
            "another program reads `journal.db` and keeps its log from being folded in: end that program"
                .to_owned(),
        )));
    }
    Ok(())
}

/// Runs the steps after `found`, all in one transaction.
fn migrate(connection: &mut Connection, found: u32, steps: &[Step]) -> Result<(), Fault> {
    let done = usize::try_from(found).unwrap_or(usize::MAX).saturating_sub(1);
    let Some(rest) = steps.get(done..).filter(|rest| !rest.is_empty()) else { return Ok(()) };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for step in rest {
        step(&transaction)?;
    }
    transaction.pragma_update(None, "user_version", stored(steps.len() as u64 + 1))?;
    Ok(transaction.commit()?)
}

/// Whether another process may have the database open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// The caller holds the directory's lock.
    Nobody,
    Perhaps,
}

/// A connection that creates and changes nothing, whatever the last process left behind.
pub(super) fn connect_read_only(directory: &Path, others: Others) -> Result<Connection, Fault> {
    let path = database(directory);
    let exists = |suffix: &str, empty: u64| -> std::io::Result<bool> {
        match std::fs::metadata(beside(directory, suffix)) {
            Ok(found) => Ok(found.len() > empty),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    };
    // A log that ends with its header holds nothing yet.
    let way = match (exists("-wal", wal::HEADER)?, exists("-shm", 0)?) {
        (true, true) if others == Others::Perhaps => Way::Beside,
        (true, _) => Way::Alone,
        (false, _) => Way::WithoutLog,
    };
    match connect_by(directory, &path, way) {
        // A process that was killed before its first commit to a new log leaves an index that does not fit the log. SQLite waits for
        // somebody who makes it anew, and nobody is there who would.
        Err(Fault::Sqlite(rusqlite::Error::SqliteFailure(code, _)))
            if way == Way::Beside && code.code == ErrorCode::FileLockingProtocolFailed =>
        {
            connect_by(directory, &path, Way::Alone)
        }
        result => result,
    }
}

/// How a database is opened to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// It is open elsewhere, or was when its process was killed: the log is read by the index beside it.
    Beside,
    /// Nobody has it open: the index is built in memory, and what a process left that was killed while it made one does not matter.
    Alone,
    /// Ended well: there is no log, and SQLite must not make one.
    WithoutLog,
}

fn connect_by(directory: &Path, path: &Path, way: Way) -> Result<Connection, Fault> {
    let how = match way {
        Way::Beside => "mode=ro&readonly_shm=1",
        Way::Alone => "mode=ro&vfs=unix-none",
        Way::WithoutLog => "mode=ro&immutable=1",
    };
    let flags =
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(format!("file:{}?{how}", escaped(path)), flags)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    if way == Way::Alone {
        connection.pragma_update_and_check(None, "locking_mode", "EXCLUSIVE", |_| Ok(()))?;
    }
    set_up(&connection)?;
    version(directory, &connection)?;
    Ok(connection)
}

fn set_up(connection: &Connection) -> Result<(), Fault> {
    connection.busy_timeout(BUSY_WAIT)?;
    connection.pragma_update(None, "cache_size", -i64::from(CACHE_KIB))?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_CACHED);
    Ok(())
}

/// A path as part of a `file:` URI.
fn escaped(path: &Path) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                text.push(char::from(*byte))
            }
            other => {
                if write!(text, "%{other:02X}").is_err() {
                    // Writing into memory cannot fail.
                }
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a process leaves that was killed while it wrote its first transaction into a new log.
    fn killed_before_the_first_commit(directory: &Path) -> tempfile::TempDir {
        create_if_absent(directory).unwrap();
        let connection = connect(directory, Log::Trusted).unwrap();
        connection.pragma_update(None, "cache_size", 1).unwrap();
        // More than the cache holds, so that pages go into the log before the commit.
        connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        for number in 0..200 {
            let value = vec![number as u8; 8_000];
            connection
                .execute("INSERT INTO body VALUES (9, ?1, 0, x'', ?2)", rusqlite::params![number, value])
                .unwrap();
        }
        let left = tempfile::tempdir().unwrap();
        for name in ["journal.db", "journal.db-wal", "journal.db-shm"] {
            std::fs::copy(directory.join(name), left.path().join(name)).unwrap();
        }
        assert!(std::fs::metadata(left.path().join("journal.db-wal")).unwrap().len() > 8_000);
        left
    }

    #[test]
    fn a_log_without_a_commit_and_the_index_of_who_was_killed_writing_it_keep_nobody_out() {
        let directory = tempfile::tempdir().unwrap();
        let left = killed_before_the_first_commit(directory.path());
        // As far as its header is the least that a killed process leaves of a log.
        for length in [None, Some(32)] {
            let log = left.path().join("journal.db-wal");
            if let Some(length) = length {
                File::options().write(true).open(&log).unwrap().set_len(length).unwrap();
            }
            for others in [Others::Nobody, Others::Perhaps] {
                let connection = connect_read_only(left.path(), others).unwrap();
                let rows: u32 =
                    connection.query_row("SELECT count(*) FROM body", [], |row| row.get(0)).unwrap();
                assert_eq!(rows, 0);
            }
            assert!(check_version(left.path()).is_ok());
        }
        assert!(connect(left.path(), Log::Trusted).is_ok());
    }

    #[test]
    fn an_older_version_is_brought_forward_step_by_step_and_whole() {
        let steps: [Step; 3] = [
            |t| t.execute_batch("CREATE TABLE two (a)"),
            |t| t.execute_batch("ALTER TABLE two ADD COLUMN b"),
            |t| t.execute_batch("INSERT INTO two VALUES (1, 2)"),
        ];
        let mut connection = Connection::open_in_memory().unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        migrate(&mut connection, 1, &steps[..1]).unwrap();
        migrate(&mut connection, 2, &steps).unwrap();
        migrate(&mut connection, 4, &steps).unwrap();
        let version: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, 4);
        let rows: u32 = connection.query_row("SELECT count(b) FROM two", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 1, "a step that was done is not done again");

        let failing: [Step; 5] = [
            steps[0],
            steps[1],
            steps[2],
            |t| t.execute_batch("DROP TABLE two"),
            |t| t.execute_batch("nonsense"),
        ];
        assert!(migrate(&mut connection, 4, &failing).is_err());
        assert!(connection.query_row("SELECT a FROM two", [], |_| Ok(())).is_ok(), "nothing of it was kept");
    }
}
