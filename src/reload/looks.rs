//! What files look like from outside: enough to tell that one may hold something else, without reading it.
//!
//! Links are followed, so a new target counts, as where Kubernetes swaps a whole directory by one rename. The time of the last
//! change of a file's own data (`ctime`) is among it: it moves when a file is put in another's place, and when its mode is corrected.

use std::collections::{BTreeSet, HashMap};
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
    /// The same files, as they looked at an earlier look where that has seen them.
    pub(super) fn or_as_in(self, earlier: &Look) -> Look {
        let seen: HashMap<_, _> = earlier.0.iter().map(|(path, stamp)| (path.as_path(), *stamp)).collect();
        let as_seen = |(path, stamp): (PathBuf, Option<Stamp>)| {
            let stamp = seen.get(path.as_path()).copied().unwrap_or(stamp);
            (path, stamp)
        };
        Look(self.0.into_iter().map(as_seen).collect())
    }

    /// The files that look different, came or went.
    pub(super) fn differs_from(&self, other: &Look) -> BTreeSet<PathBuf> {
        let one_way = |these: &Look, those: &Look| -> Vec<PathBuf> {
            let known: HashMap<_, _> = those.0.iter().map(|(path, stamp)| (path, stamp)).collect();
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn whatever_changes_what_a_file_holds_is_seen_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("orgs")).unwrap();
        fs::create_dir(path("one")).unwrap();
        fs::create_dir(path("two")).unwrap();
        symlink("one", path("..data")).unwrap();
        for name in ["forwarder.toml", "orgs/acme.toml", "one/secret", "two/secret", "authority"] {
            fs::write(path(name), "same").unwrap();
        }
        let watched = Watched {
            file: path("forwarder.toml"),
            orgs_dir: path("orgs"),
            named: [path("..data/secret"), path("authority"), path("absent")].into(),
        };
        let mut last = watched.look();
        let mut differs = |act: &dyn Fn()| -> Vec<PathBuf> {
            act();
            let look = watched.look();
            let differs = look.differs_from(&last).into_iter().collect();
            last = look;
            differs
        };
        assert_eq!(differs(&|| {}), Vec::<PathBuf>::new());
        for name in [".acme.toml.swp", "acme.toml~", "4913", "acme.toml.tmp"] {
            assert!(differs(&|| fs::write(path("orgs").join(name), "x").unwrap()).is_empty(), "{name}");
        }
        // Another file of the same length and the same time in its place.
        let replaced = || {
            let modified = fs::metadata(path("forwarder.toml")).unwrap().modified().unwrap();
            fs::write(path("new"), "SAME").unwrap();
            fs::File::open(path("new")).unwrap().set_modified(modified).unwrap();
            fs::rename(path("new"), path("forwarder.toml")).unwrap();
        };
        assert_eq!(differs(&replaced), [path("forwarder.toml")]);
        let swapped = || {
            symlink("two", path("..data_tmp")).unwrap();
            fs::rename(path("..data_tmp"), path("..data")).unwrap();
        };
        assert_eq!(differs(&swapped), [path("..data/secret")]);
        let mode = || fs::set_permissions(path("authority"), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(differs(&mode), [path("authority")]);
        assert_eq!(differs(&|| fs::write(path("absent"), "here").unwrap()), [path("absent")]);
        assert_eq!(differs(&|| fs::write(path("orgs/beta.toml"), "x").unwrap()), [path("orgs/beta.toml")]);
        let vanishes = || fs::remove_dir_all(path("orgs")).unwrap();
        assert_eq!(differs(&vanishes), [path("orgs/acme.toml"), path("orgs/beta.toml")]);
    }
}
