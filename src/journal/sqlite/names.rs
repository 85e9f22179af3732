//! The names of a state directory's files.

use std::path::{Path, PathBuf};

pub(super) fn database(directory: &Path) -> PathBuf {
    directory.join("journal.db")
}

/// What stands beside the database under its name and an ending.
pub(super) fn beside(directory: &Path, ending: &str) -> PathBuf {
    directory.join(format!("journal.db{ending}"))
}
