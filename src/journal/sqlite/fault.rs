//! Why a transaction failed: what is known of it, before the store decides whether its handle is still good.

use rusqlite::ErrorCode;

use crate::journal::JournalError;

/// Why a transaction failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// Known; the handle is as good as before.
    Journal(JournalError),
    Sqlite(rusqlite::Error),
    File(std::io::Error),
}

impl Fault {
    pub(super) fn is_full_disk(&self) -> bool {
        matches!(self, Fault::Sqlite(rusqlite::Error::SqliteFailure(code, _)) if code.code == ErrorCode::DiskFull)
    }

    pub(super) fn damaged(what: String) -> Fault {
        Fault::Journal(JournalError::Damaged(what))
    }

    pub(super) fn conflict(what: String) -> Fault {
        Fault::Journal(JournalError::Conflict(what))
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Fault {
        Fault::Sqlite(error)
    }
}

impl From<std::io::Error> for Fault {
    fn from(error: std::io::Error) -> Fault {
        Fault::File(error)
    }
}
