//! The store: the one handle to the database, and what becomes of it when the disk fails.
//!
//! Transactions run here. When SQLite reports a fault of the disk, nothing of the transaction is believed, the handle is closed and
//! a fresh one is opened; until that succeeds, every call tries again and is answered with the fault.
//!
//! *Why a fresh handle:* after a failed fsync neither SQLite nor the kernel knows what is on the disk. Opening anew reads back what
//! is there and makes it durable ([`schema::connect`]), and the caller reads its revision or checkpoint back by opening its org.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::fault::Fault;
use super::lock::Lock;
use super::schema::{Log, Others};
use super::{damage, names, rows, schema, wal};
use crate::journal::JournalError;

pub(super) struct Store {
    directory: PathBuf,
    /// Absent after a fault, until a new one can be opened.
    connection: Option<Connection>,
    log: Log,
    /// Which file the connection has open. `None`: not connected, or read-only.
    file: Option<(u64, u64)>,
    /// Damage was met, and remembered.
    suspected: bool,
    /// Let go after the connection, as fields are dropped in this order. `None`: read-only.
    lock: Option<Lock>,
}

impl Store {
    pub(super) fn open(directory: &Path) -> Result<Store, JournalError> {
        let unusable = |error: std::io::Error| JournalError::Unusable {
            directory: directory.display().to_string(),
            cause: error.to_string(),
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(unusable)?;
        let mut lock = Lock::take(directory)?;
        let mut store = Store::closed(directory);
        damage::check_files(directory)
            .and_then(|()| schema::create_if_absent(directory))
            .and_then(|()| match (schema::check_version(directory), wal::check(directory)) {
                // Told before anything else: the files of a newer version may have another meaning.
                (Err(newer @ Fault::Journal(JournalError::Newer { .. })), _) => Err(newer),
                (version, log) => log.and(version),
            })
            .map_err(|fault| store.first(fault))?;
        lock.sign().map_err(unusable)?;
        store.lock = Some(lock);
        store.begin().map_err(|fault| store.first(fault))?;
        Ok(store)
    }

    pub(super) fn open_read_only(directory: &Path) -> Result<Store, JournalError> {
        let mut store = Store::closed(directory);
        damage::check_files(directory).map_err(|fault| store.first(fault))?;
        store.connection = Some(store.connect().map_err(|fault| store.first(fault))?);
        Ok(store)
    }

    fn closed(directory: &Path) -> Store {
        Store {
            directory: directory.to_owned(),
            connection: None,
            log: Log::Trusted,
            file: None,
            suspected: false,
            lock: None,
        }
    }

    /// Connects, and checks what a start checks: everything, if damage was met the last time.
    fn begin(&mut self) -> Result<(), Fault> {
        let connection = self.connect()?;
        match damage::marked(&self.directory)? {
            None => damage::heads(&connection)?,
            Some(what) => {
                tracing::warn!(
                    cause = what,
                    "the journal seemed damaged when it was last used; all of it is read now"
                );
                damage::whole(&connection)?;
                tracing::warn!(
                    "no damage was found in the journal; its disk or this machine's memory may fail"
                );
                damage::clear_mark(&self.directory)?;
            }
        }
        self.file = self.file_there()?;
        self.connection = Some(connection);
        Ok(())
    }

    /// Remembers damage for the next start. If that fails as well, the next start checks what every start checks.
    pub(super) fn suspect(&mut self, what: &str) {
        if self.read_only() || self.suspected {
            return;
        }
        self.suspected = true;
        if let Err(error) = damage::mark(&self.directory, what) {
            tracing::error!(cause = %error, "cannot note in the state directory that its journal is damaged");
        }
    }

    /// Which file stands under the database's name.
    fn file_there(&self) -> Result<Option<(u64, u64)>, Fault> {
        match std::fs::metadata(names::database(&self.directory)) {
            Ok(found) => Ok(Some((found.dev(), found.ino()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// That a commit goes where the next start looks: a file that was deleted takes commits as ever, and keeps none.
    fn check_in_place(&self) -> Result<(), Fault> {
        let there = self.file_there()?;
        match (there, self.file) {
            (Some(_), Some(_)) if there != self.file => Err(Fault::damaged(
                "`journal.db` was replaced by another file while it was in use".to_owned(),
            )),
            (None, Some(_)) => Err(Fault::Journal(JournalError::Disk(format!(
                "`{}` is gone: put it back",
                names::database(&self.directory).display()
            )))),
            _ => Ok(()),
        }
    }

    fn connect(&self) -> Result<Connection, Fault> {
        let connection = match self.lock {
            Some(_) => schema::connect(&self.directory, self.log)?,
            None if !names::database(&self.directory).try_exists()? => {
                return Err(Fault::Journal(JournalError::Unusable {
                    directory: self.directory.display().to_string(),
                    cause: "there is no journal in it yet".to_owned(),
                }));
            }
            None => schema::connect_read_only(&self.directory, Others::Perhaps)?,
        };
        rows::verify(&connection)?;
        Ok(connection)
    }

    fn reconnect(&mut self) -> Result<Connection, Fault> {
        let connection = self.connect()?;
        self.log = Log::Trusted;
        Ok(connection)
    }

    pub(super) fn read_only(&self) -> bool {
        self.lock.is_none()
    }

    /// The database is not where it was. One that is gone may come back, and is opened again then. Beside another one nothing may be
    /// tidied up: its log has the name of ours.
    fn let_go(&mut self, fault: &Fault) {
        match (&self.connection, fault) {
            (Some(connection), Fault::Journal(JournalError::Damaged(_))) => {
                if connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).is_err() {
                    // Only a closed connection refuses that.
                }
            }
            _ => self.connection = None,
        }
    }

    /// Several reads of one state.
    pub(super) fn read<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, JournalError> {
        self.with(|connection| work(&connection.transaction()?))
    }

    /// One transaction: durable when this returns, or nothing of it.
    pub(super) fn write<T>(
        &mut self,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>,
    ) -> Result<T, JournalError> {
        if self.read_only() {
            return Err(JournalError::Disk(format!(
                "`{}` was opened to be looked at only",
                self.directory.display()
            )));
        }
        if let Err(fault) = self.check_in_place() {
            self.let_go(&fault);
            return Err(self.say(fault));
        }
        self.with(|connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let result = work(&transaction)?;
            transaction.commit()?;
            Ok(result)
        })
    }

    /// Gives pages that pruning freed back to the file system, a bounded number at a time.
    pub(super) fn shrink(&mut self) -> Result<(), JournalError> {
        /// Kept for what is appended next: 64 MiB.
        const FREE_PAGES_KEPT: i64 = 8_192;
        const PAGES_AT_ONCE: i64 = 1_024;
        self.with(|connection| {
            let free: i64 = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
            let back = (free - FREE_PAGES_KEPT).clamp(0, PAGES_AT_ONCE);
            if back > 0 {
                let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({back})"))?;
                let mut pages = statement.query([])?;
                while pages.next()?.is_some() {}
            }
            Ok(())
        })
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Connection) -> Result<T, Fault>) -> Result<T, JournalError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.reconnect().map_err(|fault| self.say(fault))?,
        };
        match work(&mut connection) {
            Ok(result) => {
                self.connection = Some(connection);
                Ok(result)
            }
            Err(Fault::Journal(error)) => {
                self.connection = Some(connection);
                Err(error)
            }
            Err(fault) => {
                if !fault.is_full_disk() {
                    self.log = Log::Suspect;
                }
                let error = self.say(fault);
                drop(connection);
                // If this fails as well, the next call tries again.
                self.connection = self.reconnect().ok();
                Err(error)
            }
        }
    }

    /// Drops a handle whose state is unknown, as after a panic in the middle of a transaction.
    pub(super) fn distrust(&mut self) {
        self.connection = None;
        self.log = Log::Suspect;
    }

    /// What a caller is told: damage, or a fault of the disk with what to do.
    fn say(&self, fault: Fault) -> JournalError {
        let path = names::database(&self.directory);
        let path = path.display();
        let error = match fault {
            Fault::Journal(error) => return error,
            Fault::File(error) => {
                return JournalError::Disk(format!("`{path}`: {error}: see that this user can write there"));
            }
            Fault::Sqlite(error) => error,
        };
        let rusqlite::Error::SqliteFailure(code, _) = &error else {
            // A value of another type or size than was written.
            return JournalError::Damaged(format!("`{path}`: {error}"));
        };
        // Our statements are constant, so one that SQLite cannot read finds other tables than were made.
        const SQLITE_ERROR: i32 = 1;
        let remedy = match code.code {
            ErrorCode::Unknown if code.extended_code == SQLITE_ERROR => {
                return JournalError::Damaged(format!("`{path}`: {error}"));
            }
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::ConstraintViolation => {
                return JournalError::Damaged(format!("`{path}`: {error}"));
            }
            ErrorCode::DiskFull => "free space, or give the directory a larger disk",
            ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen => {
                "see that the directory is there and this user can write to it"
            }
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => "end the other program that writes to it",
            _ => "look for the disk's errors in the system's log",
        };
        JournalError::Disk(format!("`{path}`: {error} ({}): {remedy}", code.extended_code))
    }

    /// As [`Store::say`], for the first opening: what the disk refuses then is a reason not to start.
    fn first(&self, fault: Fault) -> JournalError {
        match self.say(fault) {
            JournalError::Disk(cause) => {
                JournalError::Unusable { directory: self.directory.display().to_string(), cause }
            }
            error => error,
        }
    }
}
