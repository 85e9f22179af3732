//! Tells that a file may have changed, without reading it.

use std::path::Path;
use std::time::SystemTime;

/// What changes when a file is written anew, replaced, or reached through another symbolic link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    written: Option<SystemTime>,
    file: u64,
}

impl Stamp {
    /// `None` while there is no such file.
    pub(super) fn of(path: &Path) -> Option<Stamp> {
        let metadata = std::fs::metadata(path).ok()?;
        #[cfg(unix)]
        let file = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let file = 0;
        Some(Stamp { bytes: metadata.len(), written: metadata.modified().ok(), file })
    }
}
