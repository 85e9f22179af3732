//! The lock: one process per state directory.
//!
//! The kernel's lock on the file `lock` decides; the pid inside is only for people. A killed process leaves its pid behind and
//! holds nothing.
//!
//! *Why not SQLite's own exclusive mode:* it would keep an operator's `sqlite3` out as well, and it cannot say who holds it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::journal::JournalError;

/// Holds the state directory for as long as it lives.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Whether it holds our pid. One that another process left is not ours to wipe before we know that we can use the directory.
    signed: bool,
}

/// More is not a pid.
const PID_BYTES_MAX: u64 = 20;

impl Lock {
    /// Takes the lock; nothing is written yet.
    pub(super) fn take(directory: &Path) -> Result<Lock, JournalError> {
        let path = directory.join("lock");
        let unusable = |error: std::io::Error| JournalError::Unusable {
            directory: directory.display().to_string(),
            cause: format!("its file `lock`: {error}"),
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(unusable)?;
        match file.try_lock() {
            Ok(()) => Ok(Lock { file, signed: false }),
            Err(TryLockError::WouldBlock) => {
                Err(JournalError::Busy { directory: directory.display().to_string(), pid: pid_in(&mut file) })
            }
            Err(TryLockError::Error(error)) => Err(unusable(error)),
        }
    }

    /// Writes this process's pid, for whoever is refused.
    pub(super) fn sign(&mut self) -> std::io::Result<()> {
        self.signed = true;
        self.file.set_len(0)?;
        self.file.rewind()?;
        write!(self.file, "{}", std::process::id())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.signed && self.file.set_len(0).is_err() {
            // A pid that stays behind misleads nobody while nobody holds the lock.
        }
    }
}

fn pid_in(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(PID_BYTES_MAX).read_to_string(&mut text);
    match text.trim() {
        pid if read.is_ok() && !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => pid.to_owned(),
        // It has the lock, but has not signed yet.
        _ => "(not known yet)".to_owned(),
    }
}
