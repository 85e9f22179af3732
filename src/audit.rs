//! The record of what people and signals did to this forwarder: `audit.jsonl` in the state directory.
//!
//! One JSON object a line, appended and synced, never changed: each holds the SHA-256 of the line before it. The newest line's hash
//! goes into every claim ([`crate::chunk::Summary`]), so an archive that nobody can rewrite vouches for the record: whoever changes a
//! line after the fact would have to change every claim since. It holds names of what was done and by whom, never a value that
//! may be secret. Only who holds the state directory writes it, so there is one writer.
//!
//! *Why its own file and not the journal:* it has to outlive the journal, which is made anew when it is damaged, and anyone can read it
//! with `cat`.

pub mod who;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::event::{OrgId, hex};

/// The record's name in the state directory.
pub const FILE: &str = "audit.jsonl";
/// What the first line has before it.
const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Longest line, cut in its `changed` before.
const LINE_BYTES_MAX: usize = 64 * 1024;
/// Most names in one line.
const CHANGED_MAX: usize = 100;
/// Longest of them.
const NAME_BYTES_MAX: usize = 100;
/// A record that has grown beyond this goes on in a new file; a line is some 300 bytes.
const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    Start,
    Stop,
    Reload,
    /// A reload was asked for, and refused.
    ReloadRefused,
    /// Another token, secret or key is in use.
    CredentialSwitch,
    Adopt,
    QuarantineRetry,
    QuarantineDrop,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// 0, 1, 2 …
    pub n: u64,
    /// Local time, RFC 3339.
    pub time: String,
    pub act: Act,
    /// A user as the system knows them, a signal, or a file.
    pub who: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Names of what changed, never values.
    pub changed: Vec<String>,
    /// SHA-256 of the line before it, without its end of line; 64 zeros for the first.
    pub previous: String,
}

/// What is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub act: Act,
    pub who: String,
    pub org: Option<OrgId>,
    /// Names of what changed, never values.
    pub changed: Vec<String>,
}

/// The newest line: how many there are, and its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub lines: u64,
    /// Hexadecimal.
    pub sha256: String,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what} the audit record {path}: {cause}; make the state directory and what is in it writable for this user, and make room on its disk"
)]
pub struct AuditError {
    what: &'static str,
    path: String,
    cause: io::Error,
}

/// The record. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    head: Mutex<Head>,
    /// Held by whoever writes, so that the head can be read meanwhile.
    writing: Mutex<()>,
}

impl Audit {
    /// Opens the record of a state directory, or begins it. The caller holds the directory.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(state_dir: &Path) -> Result<Audit, AuditError> {
        let path = state_dir.join(FILE);
        let failed = |what, cause| AuditError { what, path: path.display().to_string(), cause };
        let mut file = appended(&path).map_err(|cause| failed("open", cause))?;
        let head = match head(&mut file).map_err(|cause| failed("read", cause))? {
            Some(head) => head,
            None => continued(state_dir).map_err(|cause| failed("read", cause))?,
        };
        Ok(Audit(Arc::new(Inner { path, head: Mutex::new(head), writing: Mutex::default() })))
    }

    /// Appends a line and syncs it. May take as long as the disk does.
    ///
    /// # Errors
    /// When it is not certain that the line is there; it stays part of the chain if it is.
    pub fn record(&self, at: Second, entry: Entry) -> Result<Head, AuditError> {
        let _turn = lock(&self.0.writing);
        let mut head = self.head();
        let path = &self.0.path;
        let failed = |what, cause| AuditError { what, path: path.display().to_string(), cause };
        let mut file = appended(path).map_err(|cause| failed("open", cause))?;
        // Whatever stands there is what the next line follows: also what a crash has cut off, or a disk has half written.
        if let Some(found) = self::head(&mut file).map_err(|cause| failed("read", cause))? {
            head = found;
        }
        if file.metadata().map_err(|cause| failed("read", cause))?.len() > FILE_BYTES_MAX {
            file = self.rotate(&head).map_err(|cause| failed("set aside", cause))?;
        }
        let line = line(&head, at, entry);
        let mut bytes = line.clone().into_bytes();
        bytes.push(b'\n');
        file.write_all(&bytes).and_then(|()| file.sync_data()).map_err(|cause| failed("write", cause))?;
        let head = Head { lines: head.lines + 1, sha256: sha256(line.as_bytes()) };
        *lock(&self.0.head) = head.clone();
        Ok(head)
    }

    /// The newest line.
    pub fn head(&self) -> Head {
        lock(&self.0.head).clone()
    }

    /// The full file keeps its lines under the number of the first that is not in it; the chain goes on in a new one.
    fn rotate(&self, head: &Head) -> io::Result<File> {
        let aside = self.0.path.with_file_name(format!("audit-{:020}.jsonl", head.lines));
        std::fs::rename(&self.0.path, aside)?;
        appended(&self.0.path)
    }
}

/// The file, read and appended to. One that ends within a line is ended first.
fn appended(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    if file.seek(SeekFrom::End(0))? == 0 {
        // Its name has to outlive a power cut as its lines do.
        path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())?;
    } else {
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            file.write_all(b"\n")?;
        }
    }
    Ok(file)
}

/// The head of a file; `None` of an empty one. Reads its end only: a line that is none (cut off by a crash) is counted as one.
fn head(file: &mut File) -> io::Result<Option<Head>> {
    let length = file.seek(SeekFrom::End(0))?;
    let begin = length.saturating_sub(4 * LINE_BYTES_MAX as u64);
    file.seek(SeekFrom::Start(begin))?;
    let mut end = Vec::new();
    Read::by_ref(file).take(length - begin).read_to_end(&mut end)?;
    let lines: Vec<&[u8]> = end.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    let Some(last) = lines.last() else { return Ok(None) };
    let after = lines.iter().rev().position(|line| parsed(line).is_some());
    let lines = match after {
        Some(after) => {
            let known = parsed(lines[lines.len() - 1 - after]).map_or(0, |line| line.n);
            known.saturating_add(1 + after as u64)
        }
        None => lines.len() as u64,
    };
    Ok(Some(Head { lines, sha256: sha256(last) }))
}

/// Where an empty file goes on: at the end of the newest that was set aside.
fn continued(state_dir: &Path) -> io::Result<Head> {
    let mut newest: Option<PathBuf> = None;
    for entry in std::fs::read_dir(state_dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("audit-")
            && name.ends_with(".jsonl")
            && newest.as_ref().is_none_or(|known| *known < path)
        {
            newest = Some(path);
        }
    }
    let found = newest.map(|path| head(&mut File::open(path)?)).transpose()?.flatten();
    Ok(found.unwrap_or(Head { lines: 0, sha256: NOTHING.to_owned() }))
}

fn line(head: &Head, at: Second, entry: Entry) -> String {
    let mut changed: Vec<String> = entry.changed.iter().take(CHANGED_MAX).map(|name| cut(name)).collect();
    if entry.changed.len() > CHANGED_MAX {
        changed.push(format!("and {} more", entry.changed.len() - CHANGED_MAX));
    }
    let line = Line {
        n: head.lines,
        time: at.to_string(),
        act: entry.act,
        who: cut(&entry.who),
        org: entry.org.map(|org| org.to_string()),
        changed,
        previous: head.sha256.clone(),
    };
    serde_json::to_string(&line).unwrap_or_default()
}

fn cut(name: &str) -> String {
    match name.char_indices().map(|(at, _)| at).find(|at| *at >= NAME_BYTES_MAX) {
        Some(at) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

fn parsed(line: &[u8]) -> Option<Line> {
    serde_json::from_slice(line).ok()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a check of a record came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    pub head: Head,
    /// The first line that does not follow the one before it: its number in the file, from 1, and what is wrong.
    pub wrong: Option<(u64, String)>,
    /// Lines that a crash has cut off. They are part of the chain, and say nothing.
    pub cut_off: u64,
}

/// Follows the chain of one file from its first line, and shows each line.
///
/// # Errors
/// When it cannot be read.
pub fn check(path: &Path, mut show: impl FnMut(&Line)) -> io::Result<Checked> {
    let mut lines = BufReader::new(File::open(path)?);
    let mut checked =
        Checked { head: Head { lines: 0, sha256: NOTHING.to_owned() }, wrong: None, cut_off: 0 };
    let mut at = 0;
    loop {
        let mut bytes = Vec::new();
        let read = Read::by_ref(&mut lines).take(LINE_BYTES_MAX as u64 + 2).read_until(b'\n', &mut bytes)?;
        if read == 0 {
            return Ok(checked);
        }
        at += 1;
        let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let known = checked.head.clone();
        checked.head = Head { lines: known.lines + 1, sha256: sha256(text) };
        match parsed(text) {
            None => checked.cut_off += 1,
            Some(line) => {
                // The first file of a record may have been set aside: a file begins where its first line says.
                let begins = at == 1 && line.n > 0;
                if !begins && line.n != known.lines {
                    let what = format!(
                        "it is number {} where {} was due: a line is missing or too many",
                        line.n, known.lines
                    );
                    checked.wrong.get_or_insert((at, what));
                } else if !begins && line.previous != known.sha256 {
                    checked.wrong.get_or_insert((at, "the line before it was changed".to_owned()));
                }
                checked.head.lines = line.n + 1;
                show(&line);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Second = Second(1_795_256_100);

    fn entry(act: Act) -> Entry {
        Entry { act, who: "ada (uid 1000)".into(), org: None, changed: vec!["source.token".into()] }
    }

    fn record(directory: &Path, count: u64) -> Audit {
        let audit = Audit::open(directory).unwrap();
        for _ in 0..count {
            audit.record(AT, entry(Act::Reload)).unwrap();
        }
        audit
    }

    #[test]
    fn each_line_holds_the_hash_of_the_one_before_over_restarts_too() {
        let directory = tempfile::tempdir().unwrap();
        record(directory.path(), 2);
        let audit = record(directory.path(), 2);
        let checked = check(&directory.path().join(FILE), |_| ()).unwrap();
        assert_eq!(checked, Checked { head: audit.head(), wrong: None, cut_off: 0 });
        assert_eq!(audit.head().lines, 4);
    }

    #[test]
    fn a_line_that_is_changed_deleted_inserted_or_exchanged_is_found() {
        let directory = tempfile::tempdir().unwrap();
        record(directory.path(), 5);
        let path = directory.path().join(FILE);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let spoiled = |lines: Vec<&str>, wrong: u64| {
            std::fs::write(&path, lines.join("\n") + "\n").unwrap();
            let checked = check(&path, |_| ()).unwrap();
            assert_eq!(checked.wrong.map(|(line, _)| line), Some(wrong));
        };
        let changed = lines[1].replace("ada", "eve");
        spoiled(vec![lines[0], &changed, lines[2], lines[3], lines[4]], 3);
        spoiled(vec![lines[0], lines[1], lines[3], lines[4]], 3);
        spoiled(vec![lines[0], lines[1], lines[1], lines[2], lines[3], lines[4]], 3);
        spoiled(vec![lines[0], lines[2], lines[1], lines[3], lines[4]], 2);
    }

    #[test]
    fn a_line_that_a_crash_has_cut_off_stays_part_of_the_chain() {
        let directory = tempfile::tempdir().unwrap();
        record(directory.path(), 2);
        let path = directory.path().join(FILE);
        let text = std::fs::read(&path).unwrap();
        for length in (text.len() / 2 + 1)..text.len() {
            std::fs::write(&path, &text[..length]).unwrap();
            let audit = record(directory.path(), 2);
            let checked = check(&path, |_| ()).unwrap();
            assert_eq!(checked.wrong, None, "cut at {length}");
            assert_eq!(checked.head, audit.head());
            assert_eq!(checked.head.lines, 4, "cut at {length}");
        }
    }

    #[test]
    fn names_are_bounded_and_a_full_file_goes_on_in_another() {
        let directory = tempfile::tempdir().unwrap();
        let audit = record(directory.path(), 1);
        let long = Entry { changed: vec!["ä".repeat(NAME_BYTES_MAX); 2 * CHANGED_MAX], ..entry(Act::Start) };
        audit.record(AT, long).unwrap();
        let path = directory.path().join(FILE);
        let mut lines = Vec::new();
        check(&path, |line| lines.push(line.clone())).unwrap();
        assert_eq!(lines[1].changed.len(), CHANGED_MAX + 1);
        assert!(std::fs::metadata(&path).unwrap().len() < LINE_BYTES_MAX as u64);

        let filler = OpenOptions::new().append(true).open(&path).unwrap();
        let begun = filler.metadata().unwrap().len();
        drop(filler);
        let room = FILE_BYTES_MAX + 1 - begun;
        let spaces = vec![b' '; LINE_BYTES_MAX - 1];
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        let mut written = 0;
        while written < room {
            file.write_all(&spaces).unwrap();
            file.write_all(b"\n").unwrap();
            written += LINE_BYTES_MAX as u64;
        }
        let before = Audit::open(directory.path()).unwrap().head();
        let head = audit.record(AT, entry(Act::Stop)).unwrap();
        assert_eq!(head.lines, before.lines + 1);
        let mut only = Vec::new();
        let checked = check(&path, |line| only.push(line.clone())).unwrap();
        assert_eq!((only.len(), only[0].previous.as_str()), (1, before.sha256.as_str()));
        assert_eq!(checked.head, head);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Audit::open(directory.path()).unwrap().head(), before, "an empty file goes on there");
    }

    #[test]
    fn a_record_that_cannot_be_written_says_so() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(FILE)).unwrap();
        let error = Audit::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("audit.jsonl") && error.contains("state directory"), "{error}");
    }
}
