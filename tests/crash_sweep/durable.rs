//! What a disk holds that has lost everything since the last sync.
//!
//! Known from the order of calls in the shim's log: bytes written to the write-ahead log since its last sync, files without their
//! content, names whose directory was not synced. This is the harshest file system that keeps its promise.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::calls::{Call, Kind};
use crate::world::chance::Chance;
use crate::world::s3::reader::gunzip;

/// What a journal holds: per chunk its claim and the keys of its events.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub claims: BTreeMap<u64, Vec<u8>>,
    pub keys: BTreeMap<u64, BTreeSet<String>>,
}

pub fn wal(state: &Path) -> PathBuf {
    state.join("journal.db-wal")
}

/// What of the write-ahead log was written after its last sync: offset and length.
pub fn unsynced(calls: &[Call], state: &Path) -> Vec<(u64, u64)> {
    let wal = wal(state).display().to_string();
    let mut open = Vec::new();
    for call in calls.iter().filter(|call| call.path == wal) {
        match (call.kind, call.name.as_str()) {
            (Kind::Done, "fsync" | "fdatasync") if call.value == 0 => open.clear(),
            // Removed: everything was copied and synced before.
            (Kind::Done, "unlink") => open.clear(),
            (Kind::Begun | Kind::Hit, "pwrite") => open.push((call.value.unsigned_abs(), call.length)),
            _ => {}
        }
    }
    open
}

/// A copy of the state directory below `to`, without the index, which is made anew.
pub fn copy(state: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).expect("a directory can be removed");
    }
    fs::create_dir_all(to).expect("a directory can be made");
    for name in ["journal.db", "journal.db-wal"] {
        if state.join(name).exists() {
            fs::copy(state.join(name), to.join(name)).expect("a file can be copied");
        }
    }
}

/// The index is memory that processes share, and does not survive them all.
pub fn forget_index(state: &Path) {
    let index = state.join("journal.db-shm");
    if index.exists() {
        fs::remove_file(index).expect("a file can be removed");
    }
}

/// Overwrites with zeros what was not synced of the write-ahead log.
pub fn forget_unsynced(calls: &[Call], state: &Path, in_copy: &Path) {
    let path = wal(in_copy);
    let Ok(mut file) = OpenOptions::new().write(true).open(&path) else { return };
    let size = file.metadata().expect("a file has a size").len();
    for (offset, length) in unsynced(calls, state) {
        let zeros = vec![0; usize::try_from(size.saturating_sub(offset).min(length)).unwrap_or_default()];
        file.seek(SeekFrom::Start(offset)).expect("a file can be positioned in");
        file.write_all(&zeros).expect("a file can be written");
    }
}

/// Reads the journal in a directory, of which it may change the files: hand it a copy.
///
/// # Errors
/// When SQLite finds fault with it.
pub fn read(directory: &Path) -> Result<Kept, String> {
    let path = directory.join("journal.db");
    if !path.exists() {
        return Ok(Kept::default());
    }
    let said = |error: rusqlite::Error| format!("the journal cannot be read: {error}");
    let connection = Connection::open(path).map_err(said)?;
    let mut statement =
        connection.prepare("SELECT number, claim, body FROM body ORDER BY number").map_err(said)?;
    let rows = statement
        .query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .map_err(said)?;
    let mut kept = Kept::default();
    for row in rows {
        let (number, claim, body) = row.map_err(said)?;
        let number = number.unsigned_abs();
        let lines = gunzip(&body).ok_or(format!("the body of chunk {number} is not a gzip file"))?;
        let keys = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
            let line: serde_json::Value = serde_json::from_slice(line).unwrap_or_default();
            line["key"].as_str().unwrap_or_default().to_owned()
        });
        kept.keys.insert(number, keys.collect());
        kept.claims.insert(number, claim);
    }
    Ok(kept)
}

/// The journal as it is after a loss of power. `scratch` is a directory to work in.
///
/// # Errors
/// When SQLite finds fault with it.
pub fn kept(calls: &[Call], state: &Path, scratch: &Path) -> Result<Kept, String> {
    copy(state, scratch);
    forget_unsynced(calls, state, scratch);
    read(scratch)
}

/// The power fails: nothing of what was not synced is left, or, where chance says so, some of it. Answers what went.
pub fn lose_power(calls: &[Call], directories: [&Path; 2], chance: &mut Chance) -> Vec<String> {
    let all = chance.one_in(2);
    let mut gone = Vec::new();
    let [state, _] = directories;
    forget_unsynced(calls, state, state);
    forget_index(state);
    for loss in losses(calls) {
        if !all && chance.one_in(2) {
            continue;
        }
        let (path, what) = match &loss {
            Loss::Name(path) => (path, "name"),
            Loss::Content(path) => (path, "content"),
            Loss::Rename(path) => (path, "rename"),
        };
        if !path.exists() {
            continue;
        }
        gone.push(format!("{what} of {}", path.display()));
        match loss {
            Loss::Name(path) if path.is_dir() => fs::remove_dir_all(path).expect("it can be removed"),
            Loss::Name(path) => fs::remove_file(path).expect("it can be removed"),
            Loss::Content(path) => {
                let length = fs::metadata(&path).expect("it is there").len();
                let left = if chance.one_in(2) { 0 } else { chance.below(length) };
                let file = OpenOptions::new().write(true).open(path).expect("it can be opened");
                file.set_len(left).expect("it can be cut");
            }
            Loss::Rename(path) => {
                let mut old = path.clone().into_os_string();
                old.push(".new");
                fs::rename(path, old).expect("it can be renamed back");
            }
        }
    }
    gone
}

enum Loss {
    /// Of a file or directory that was made or linked.
    Name(PathBuf),
    Content(PathBuf),
    Rename(PathBuf),
}

fn losses(calls: &[Call]) -> Vec<Loss> {
    let mut names: Vec<(PathBuf, bool)> = Vec::new();
    let mut contents: BTreeSet<PathBuf> = BTreeSet::new();
    for call in calls {
        let path = PathBuf::from(&call.path);
        // The write-ahead log and its index are answered for above.
        if call.path.ends_with("-wal") || call.path.ends_with("-shm") {
            continue;
        }
        match (call.kind, call.name.as_str()) {
            (Kind::Done, "fsync" | "fdatasync") if call.value == 0 => {
                contents.remove(&path);
                names.retain(|(name, _)| name.parent() != Some(&path));
            }
            (Kind::Done, "mkdir" | "link") if call.value == 0 => names.push((path, false)),
            (Kind::Done, "rename") if call.value == 0 => names.push((path, true)),
            // Partial files only: those of the database are rewritten in place, and its log knows what of them counts.
            (Kind::Begun, "write") if call.path.contains("/_partial/") => {
                contents.insert(path);
            }
            _ => {}
        }
    }
    let names =
        names.into_iter().map(|(path, renamed)| if renamed { Loss::Rename(path) } else { Loss::Name(path) });
    contents.into_iter().map(Loss::Content).chain(names).collect()
}
