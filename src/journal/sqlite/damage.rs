//! A damaged database: how it is looked for, what is remembered of it, and how it is moved out of the way.
//!
//! At every start what decisions begin with is checked ([`heads`]), and the log ([`super::wal`]): that costs the same for a journal of
//! any size, near enough. Bodies are checked when they are read, before anything is sent. Damage that shows while the daemon runs leaves
//! a mark, and the next start then reads everything ([`whole`]): it either finds the damage or says that it found none.
//!
//! *Why a mark and a new start, and not a repair while running:* what a lane or the collector holds in memory came from the database
//! that can no longer be believed. A new start begins from what was checked, with the code that every start takes.
//!
//! *Why not read everything at every start:* a journal of hundreds of megabytes takes a minute on a busy machine, every org waits for it, and a row that
//! nobody reads can do no harm.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::fault::Fault;
use super::names::{beside, database};
use super::rows::{self, LaneRow, OrgRow};
use crate::chunk::Link;
use crate::clock::Second;
use crate::journal::decision::DECISIONS_KEPT;

/// Damaged databases kept in the state directory; when there are more, the oldest is deleted.
pub const DAMAGED_KEPT: usize = 3;

/// Between `journal.db` and the time in a damaged database's name.
const DAMAGED: &str = ".damaged-";
/// What belongs to a database besides the file itself.
const COMPANIONS: [&str; 2] = ["-wal", "-shm"];
/// Longest text of the mark.
const MARK_BYTES_MAX: u64 = 4_096;
/// Rows of the quarantine read at once.
const ROWS_AT_ONCE: u32 = 1_000;

/// Where damage is remembered that showed while the daemon ran.
fn mark_in(directory: &Path) -> PathBuf {
    beside(directory, ".suspect")
}

/// Remembers damage, durably. What was remembered before stays.
pub(super) fn mark(directory: &Path, what: &str) -> std::io::Result<()> {
    let path = mark_in(directory);
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            file.write_all(what.as_bytes())?;
            file.sync_all()?;
            File::open(directory)?.sync_all()
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// What was remembered.
pub(super) fn marked(directory: &Path) -> std::io::Result<Option<String>> {
    match File::open(mark_in(directory)) {
        Ok(file) => {
            let mut text = Vec::new();
            file.take(MARK_BYTES_MAX).read_to_end(&mut text)?;
            Ok(Some(String::from_utf8_lossy(&text).into_owned()))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn clear_mark(directory: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(mark_in(directory)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// That what stands under the database's name can be one. Done before SQLite, which would take a log without a database for leftovers,
/// and apply it to the next one that is made.
pub(super) fn check_files(directory: &Path) -> Result<(), Fault> {
    match std::fs::metadata(database(directory)) {
        Ok(found) if found.is_file() => Ok(()),
        Ok(_) => Err(Fault::damaged("`journal.db` is not a file".to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let log = std::fs::metadata(beside(directory, "-wal"));
            match log.is_ok_and(|log| log.len() > 0) {
                true => Err(Fault::damaged(
                    "`journal.db` is gone, and its log `journal.db-wal` is there".to_owned(),
                )),
                false => Ok(()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// What every decision begins with: the orgs, their coverage, lanes, and the lists of their chunks and tally pages.
pub(super) fn heads(connection: &Connection) -> Result<(), Fault> {
    rows::verify(connection)?;
    for org in OrgRow::all(connection)? {
        rows::verify_tally(connection, &org)?;
        rows::verify_chunks(connection, &org)?;
        LaneRow::all(connection, &org)?;
        org.coverage(connection)?;
    }
    Ok(())
}

/// Everything: SQLite's own structure, and every row that has a checksum.
pub(super) fn whole(connection: &Connection) -> Result<(), Fault> {
    let found: String = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(Fault::damaged(found.replace('\n', " ")));
    }
    heads(connection)?;
    for table in ["chunk", "body", "quarantine"] {
        let stray: i64 = connection.query_row(
            &format!("SELECT count(*) FROM {table} WHERE org NOT IN (SELECT org FROM org)"),
            [],
            |row| row.get(0),
        )?;
        if stray > 0 {
            return Err(Fault::damaged(format!("{stray} rows of `{table}` belong to no org")));
        }
    }
    for org in OrgRow::all(connection)? {
        chunks(connection, &org)?;
        rows::verify_pages(connection, &org)?;
        quarantine(connection, &org)?;
        rows::decisions(connection, &org, DECISIONS_KEPT)?;
        rows::verify_notes(connection, &org)?;
        rows::after_newest(connection, "sweep", &org)?;
        rows::after_newest(connection, "decision", &org)?;
    }
    Ok(())
}

fn chunks(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    let bodies: i64 =
        connection.query_row("SELECT count(*) FROM body WHERE org = ?1", [org.org], |row| row.get(0))?;
    if rows::number(bodies)? != org.next.saturating_sub(org.oldest) {
        return Err(Fault::damaged(format!("`{}` has {bodies} bodies of chunks", org.id)));
    }
    let mut link: Option<Link> = None;
    for number in org.oldest..org.next {
        let chunk = rows::read_chunk(connection, org, number)?;
        if link.is_some_and(|link| link != chunk.previous) {
            return Err(Fault::damaged(format!(
                "chunk {number} of `{}` does not continue the chain",
                org.id
            )));
        }
        link = Some(Link::of_claim(&chunk.claim));
    }
    Ok(())
}

fn quarantine(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    for (destination, lane) in LaneRow::all(connection, org)? {
        let (mut count, mut after) = (0, None);
        loop {
            let page = rows::quarantined(connection, org, destination, after, ROWS_AT_ONCE)?;
            let Some(last) = page.last() else { break };
            count += page.len() as u64;
            after = Some(last.refusal.at);
        }
        if count != lane.quarantined {
            return Err(Fault::damaged(format!(
                "`{}` should have {} rows in quarantine for `{destination}`, and {count} are there",
                org.id, lane.quarantined
            )));
        }
    }
    Ok(())
}

/// What [`set_aside`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where the damaged database is now.
    pub path: PathBuf,
    /// Older ones that were deleted, because no more than [`DAMAGED_KEPT`] are kept.
    pub deleted: Vec<PathBuf>,
}

/// Moves the database out of the way, with its log. The caller holds the lock.
///
/// The database goes first: a log without one is noticed ([`check_files`]), a database without its log would be an older state. So a
/// crash anywhere in here leaves damage, and the next start does the rest.
pub(super) fn set_aside(directory: &Path, now: Second) -> std::io::Result<SetAside> {
    let mut at = now;
    let mut path = damaged_at(directory, at);
    // Two within a second: none is replaced.
    while path.try_exists()? {
        at = at.saturating_add(1);
        path = damaged_at(directory, at);
    }
    for part in ["", COMPANIONS[0], COMPANIONS[1]] {
        let from = beside(directory, part);
        let mut to = path.clone().into_os_string();
        to.push(part);
        match std::fs::rename(from, to) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    clear_mark(directory)?;
    let mut deleted = Vec::new();
    let kept = damaged(directory)?;
    for old in kept.iter().take(kept.len().saturating_sub(DAMAGED_KEPT)) {
        delete(old)?;
        deleted.push(old.clone());
    }
    File::open(directory)?.sync_all()?;
    Ok(SetAside { path, deleted })
}

fn damaged_at(directory: &Path, at: Second) -> PathBuf {
    beside(directory, &format!("{DAMAGED}{}", at.to_string().replace(['-', ':'], "")))
}

/// The damaged databases in a state directory, oldest first.
pub(super) fn damaged(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(directory)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(&format!("journal.db{DAMAGED}")))
        else {
            continue;
        };
        let whose = COMPANIONS.iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name);
        found.insert(directory.join(whose));
    }
    Ok(found.into_iter().collect())
}

fn delete(old: &Path) -> std::io::Result<()> {
    for part in ["", COMPANIONS[0], COMPANIONS[1]] {
        let mut path = old.as_os_str().to_owned();
        path.push(part);
        let path = PathBuf::from(path);
        let gone = match path.is_dir() {
            true => std::fs::remove_dir_all(&path),
            false => std::fs::remove_file(&path),
        };
        match gone {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
