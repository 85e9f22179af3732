//! An archive on a disk as [`verify`](crate::verify) reads it, ours or a copy that somebody made. It changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fault, Folder};
use crate::destination::archive::{Obstacle, Store};
use crate::event::OrgId;
use crate::recovery::Place;
use crate::verify::Reader;

/// Most keys given at once.
const KEYS_AT_ONCE: usize = 1_000;
/// Directories inside one another; an archive has two below an org.
const DEPTH_MAX: usize = 8;

/// A directory, to be read; recovery alone asks for its store.
pub struct FolderReader {
    folder: Folder,
    root: PathBuf,
    /// What is still to be given, the last first: keys, and directories to be opened.
    left: Vec<Left>,
}

enum Left {
    Directory { key: String, depth: usize },
    File(String),
}

impl FolderReader {
    pub fn new(root: &Path, org: &OrgId) -> FolderReader {
        FolderReader {
            folder: Folder::new(root.to_owned(), org.clone()),
            root: root.to_owned(),
            left: Vec::new(),
        }
    }

    /// Opens directories until there are keys to give, or nothing is left.
    fn step(root: &Path, left: &mut Vec<Left>) -> Result<Vec<String>, Fault> {
        let mut keys = Vec::new();
        while keys.len() < KEYS_AT_ONCE {
            match left.pop() {
                None => break,
                Some(Left::File(key)) => keys.push(key),
                Some(Left::Directory { key, depth }) => match entries(root, &key, depth) {
                    Ok(entries) => left.extend(entries),
                    Err(fault) => {
                        // What was taken goes back, so that the next try goes on here.
                        left.push(Left::Directory { key, depth });
                        left.extend(keys.into_iter().rev().map(Left::File));
                        return Err(fault);
                    }
                },
            }
        }
        Ok(keys)
    }
}

/// What is in a directory, the last in order first. One that is not there is empty.
fn entries(root: &Path, below: &str, depth: usize) -> Result<Vec<Left>, Fault> {
    let directory = root.join(below);
    let fault = |error| Fault::new("list", &directory, error);
    let listed = match fs::read_dir(&directory) {
        Ok(listed) => listed,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fault(error)),
    };
    let mut names = Vec::new();
    for entry in listed {
        let entry = entry.map_err(fault)?;
        // A copy may have links where the archive has directories.
        let is_directory = fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir());
        names.push((entry.file_name().to_string_lossy().into_owned(), is_directory));
    }
    names.sort_unstable_by(|one, other| other.cmp(one));
    let left = |(name, is_directory): (String, bool)| match is_directory {
        true if depth < DEPTH_MAX => Left::Directory { key: format!("{below}{name}/"), depth: depth + 1 },
        _ => Left::File(format!("{below}{name}")),
    };
    Ok(names.into_iter().map(left).collect())
}

#[async_trait]
impl Reader for FolderReader {
    fn locate(&self, key: &str) -> String {
        self.folder.locate(key)
    }

    fn list(&mut self, below: &str) {
        self.left = vec![Left::Directory { key: below.to_owned(), depth: 0 }];
    }

    async fn more(&mut self) -> Result<Vec<String>, Obstacle> {
        let (root, mut left) = (self.root.clone(), std::mem::take(&mut self.left));
        let worked = tokio::task::spawn_blocking(move || {
            let keys = FolderReader::step(&root, &mut left);
            (keys, left)
        });
        let (keys, left) =
            worked.await.map_err(|_| Obstacle::Ambiguous("the work on the directory was cut off".into()))?;
        self.left = left;
        keys.map_err(Obstacle::from)
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        Store::read(&mut self.folder, key, bytes_max).await
    }
}

impl Place for FolderReader {
    fn store(&mut self) -> &mut dyn Store {
        &mut self.folder
    }
}

/// The orgs that a directory holds an archive of.
///
/// # Errors
/// When it cannot be listed.
pub fn orgs(root: &Path) -> Result<Vec<OrgId>, std::io::Error> {
    let mut orgs = Vec::new();
    for directory in [root.to_owned(), root.join("_chain")] {
        let listed = match fs::read_dir(&directory) {
            Ok(listed) => listed,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && directory != root => continue,
            Err(error) => return Err(error),
        };
        for entry in listed {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix("org="));
            orgs.extend(id.and_then(|id| OrgId::new(id).ok()));
        }
    }
    orgs.sort_unstable();
    orgs.dedup();
    Ok(orgs)
}
