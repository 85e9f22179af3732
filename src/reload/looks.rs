//! What files look like from outside: enough to tell that one may hold something else, without reading it.
//!
//! Links are followed, so a new target counts, as where Kubernetes swaps a whole directory by one rename. The time of the last
//! change of a file's own data (`ctime`) is among it: it moves when a file is put in another's place, and when its mode is corrected.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::config::org_files;
use crate::config::settings::Settings;

/// The files that settings were made of, and those that they name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Watched {
    file: PathBuf,
    orgs_dir: PathBuf,
    /// Secrets and certificate authorities.
    named: BTreeSet<PathBuf>,
}

/// All of them as they look now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Look(Vec<(PathBuf, Option<Stamp>)>);

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Watched {
    pub(super) fn of(file: &Path, orgs_dir: &Path, settings: &Settings) -> Watched {
        let mut named = BTreeSet::new();
        for org in &settings.orgs {
            named.extend(org.secret_files().into_iter().map(Path::to_owned));
            named.extend(org.certificate_files().into_iter().map(Path::to_owned));
        }
        Watched { file: file.to_owned(), orgs_dir: orgs_dir.to_owned(), named }
    }

    /// Blocks while the file system answers.
    pub(super) fn look(&self) -> Look {
        // A directory that cannot be read has no files; that is said when it is loaded.
        let orgs = org_files(&self.orgs_dir, &self.orgs_dir).unwrap_or_default();
        let paths = std::iter::once(self.file.clone()).chain(orgs).chain(self.named.iter().cloned());
        Look(paths.map(|path| (stamp(&path), path)).map(|(stamp, path)| (path, stamp)).collect())
    }
}

impl Look {
    /// The files that look different, came or went.
    pub(super) fn differs_from(&self, other: &Look) -> BTreeSet<PathBuf> {
        let one_way = |these: &Look, those: &Look| -> Vec<PathBuf> {
            let known: std::collections::HashMap<_, _> =
                those.0.iter().map(|(path, stamp)| (path, stamp)).collect();
            let differs = these.0.iter().filter(|(path, stamp)| known.get(path) != Some(&stamp));
            differs.map(|(path, _)| path.clone()).collect()
        };
        one_way(self, other).into_iter().chain(one_way(other, self)).collect()
    }
}

/// `None` for what is not there.
fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = fs::metadata(path).ok()?;
    Some(Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
