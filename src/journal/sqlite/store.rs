//! The store: the one handle to the database, and what becomes of it when the disk fails.
//!
//! Transactions run here. When SQLite reports a fault of the disk, nothing of the transaction is believed, the handle is closed and
//! a fresh one is opened; until that succeeds, every call tries again and is answered with the fault.
//!
//! *Why a fresh handle:* after a failed fsync neither SQLite nor the kernel knows what is on the disk. Opening anew reads back what
//! is there and makes it durable ([`schema::connect`]), and the caller reads its revision or checkpoint back by opening its org.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

use super::fault::Fault;
use super::lock::Lock;
use super::schema::Log;
use super::{rows, schema};
use crate::journal::JournalError;

pub(super) struct Store {
    directory: PathBuf,
    /// Absent after a fault, until a new one can be opened.
    connection: Option<Connection>,
    log: Log,
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
        let mut store =
            Store { directory: directory.to_owned(), connection: None, log: Log::Trusted, lock: None };
        schema::create_if_absent(directory)
            .and_then(|()| schema::check_version(directory))
            .map_err(|fault| store.first(fault))?;
        lock.sign().map_err(unusable)?;
        store.lock = Some(lock);
        store.connection = Some(store.connect().map_err(|fault| store.first(fault))?);
        Ok(store)
    }

    pub(super) fn open_read_only(directory: &Path) -> Result<Store, JournalError> {
        let mut store =
            Store { directory: directory.to_owned(), connection: None, log: Log::Trusted, lock: None };
        store.connection = Some(store.connect().map_err(|fault| store.first(fault))?);
        Ok(store)
    }

    fn connect(&self) -> Result<Connection, Fault> {
        let connection = match self.lock {
            Some(_) => schema::connect(&self.directory, self.log)?,
            None if !schema::database(&self.directory).try_exists()? => {
                return Err(Fault::Journal(JournalError::Unusable {
                    directory: self.directory.display().to_string(),
                    cause: "there is no journal in it yet".to_owned(),
                }));
            }
            None => schema::connect_read_only(&self.directory)?,
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
        let path = schema::database(&self.directory);
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
        let remedy = match code.code {
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
