//! The archive on a disk: the same names and bytes as in S3, each file created whole and once.
//!
//! A piece is written under a name of its own in `_partial/`, synced, and then linked to its key: a link fails where there is a
//! file already, so it is "create if absent", whole or not at all. What another try finds under a key is synced before it is
//! believed, for the try that wrote it may have died before it could.
//!
//! *Why a link and not a rename:* a rename replaces what is there. *Why a directory for what is being written:* what a crash left
//! behind is then found by listing one directory, and readers of the archive never meet half a file.

pub mod reading;

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use crate::config::settings::FileSettings;
use crate::destination::archive::{Archive, Creation, Entry, Lines, Obstacle, Piece, Store, lines_of};
use crate::destination::{Answer, DestinationName};
use crate::problem::{PauseReason, Problem};

use crate::event::OrgId;
use crate::trial::{How, Outcome, Trial};

/// Files and directories are for this user alone: events name people and addresses.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// Most directories remembered as durable; an org adds one a day.
const DIRECTORIES_KEPT: usize = 1_000;

/// Most files of an earlier crash removed at a start: a process leaves at most one per delivery that it could not finish.
const LEFTOVERS_MAX: usize = 10_000;

/// Makes the names of this process's partial files differ.
static PARTIAL: AtomicU64 = AtomicU64::new(0);

/// The `file` destination of one org. Touches nothing before it is used.
pub fn destination(settings: &FileSettings, org: &OrgId) -> Archive<Folder> {
    Archive::new(org.clone(), Folder::new(settings.path.clone(), org.clone()))
}

/// A directory as a [`Store`].
pub struct Folder(Arc<Inner>);

struct Inner {
    root: PathBuf,
    org: OrgId,
    /// What is known to be durable, with all that lies above it; and whether leftovers have been removed.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    directories: HashSet<PathBuf>,
    swept: bool,
}

impl Folder {
    fn new(root: PathBuf, org: OrgId) -> Folder {
        Folder(Arc::new(Inner { root, org, known: Mutex::default() }))
    }

    /// Runs `work` where it may block, and turns its error into what it means.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Obstacle> {
        let inner = Arc::clone(&self.0);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result.map_err(Obstacle::from),
            Err(_) => Err(Obstacle::Ambiguous("the work on the file was cut off".into())),
        }
    }
}

#[async_trait]
impl Store for Folder {
    fn name(&self) -> DestinationName {
        DestinationName::File
    }

    fn locate(&self, key: &str) -> String {
        self.0.root.join(key).display().to_string()
    }

    async fn create(&mut self, key: &str, body: &Bytes, _: Piece<'_>) -> Result<Creation, Obstacle> {
        let (key, body) = (key.to_owned(), body.clone());
        self.run(move |inner| inner.create(&key, &body)).await
    }

    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle> {
        let key = key.to_owned();
        self.run(move |inner| inner.read(&key, bytes_max)).await
    }

    async fn lines(&mut self, key: &str) -> Result<Option<(Lines, Entry)>, Obstacle> {
        let key = key.to_owned();
        self.run(move |inner| inner.lines(&key)).await
    }

    async fn secret_changed(&mut self) -> bool {
        false
    }

    async fn check(&mut self, _: &How) -> Vec<Trial> {
        let outcome = match self.run(Inner::check).await {
            Ok(found) => Outcome::Ok(found),
            Err(obstacle) => Answer::from(obstacle).into(),
        };
        vec![Trial::new("directory", outcome)]
    }
}

impl Inner {
    fn create(&self, key: &str, body: &[u8]) -> Result<Creation, Fault> {
        self.sweep()?;
        self.create_once(key, body).inspect_err(|fault| {
            // Somebody removed a directory that was known: the next try creates it again.
            if fault.error.kind() == ErrorKind::NotFound {
                self.known().directories.clear();
            }
        })
    }

    fn create_once(&self, key: &str, body: &[u8]) -> Result<Creation, Fault> {
        let target = self.root.join(key);
        let directory = parent(&target);
        self.durable_directory(directory)?;
        if self.sync_existing(&target)? {
            return Ok(Creation::Exists);
        }

        let partial = self.partial(key);
        self.durable_directory(parent(&partial))?;
        let written = write_whole(&partial, body).map_err(|error| Fault::new("write", &partial, error));
        let linked = written.and_then(|()| match fs::hard_link(&partial, &target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(Fault::new("link", &target, error)),
        });
        // The link holds the bytes now, or nothing does; a name that stays behind goes with the next start.
        let removed = fs::remove_file(&partial);
        if let Err(error) = removed
            && error.kind() != ErrorKind::NotFound
        {
            tracing::debug!(org = %self.org, destination = "file", cause = %error, "cannot remove a partial file");
        }
        if linked? {
            sync_directory(directory)?;
            return Ok(Creation::New(Entry { status: 0, reference: key.to_owned() }));
        }
        self.sync_existing(&target)?;
        Ok(Creation::Exists)
    }

    /// Makes a file that is there already durable; `false` when there is none.
    fn sync_existing(&self, target: &Path) -> Result<bool, Fault> {
        match File::open(target).and_then(|file| file.sync_all()) {
            Ok(()) => sync_directory(parent(target)).map(|()| true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Fault::new("sync", target, error)),
        }
    }

    fn read(&self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Fault> {
        let path = self.root.join(key);
        let Some(file) = open_existing(&path)? else { return Ok(None) };
        let mut body = Vec::new();
        file.take(bytes_max as u64)
            .read_to_end(&mut body)
            .map_err(|error| Fault::new("read", &path, error))?;
        Ok(Some(Bytes::from(body)))
    }

    fn lines(&self, key: &str) -> Result<Option<(Lines, Entry)>, Fault> {
        let Some(file) = open_existing(&self.root.join(key))? else { return Ok(None) };
        let entry = Entry { status: 0, reference: key.to_owned() };
        Ok(Some((lines_of(io::BufReader::new(file)), entry)))
    }

    /// The key's name in `_partial/`, with what makes it ours alone.
    fn partial(&self, key: &str) -> PathBuf {
        let name = key.rsplit('/').next().unwrap_or(key);
        let serial = PARTIAL.fetch_add(1, Ordering::Relaxed);
        self.partials().join(format!("{name}.{}.{serial}", std::process::id()))
    }

    fn partials(&self) -> PathBuf {
        self.root.join("_partial").join(format!("org={}", self.org))
    }

    /// Removes what a crash left behind, once. Another process at work here loses a partial file at worst, and writes it again.
    fn sweep(&self) -> Result<(), Fault> {
        if self.known().swept {
            return Ok(());
        }
        let directory = self.partials();
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.known().swept = true;
                return Ok(());
            }
            Err(error) => return Err(Fault::new("list", &directory, error)),
        };
        for entry in entries.take(LEFTOVERS_MAX) {
            let path = entry.map_err(|error| Fault::new("list", &directory, error))?.path();
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Fault::new("remove", &path, error));
                }
                _ => {}
            }
        }
        self.known().swept = true;
        Ok(())
    }

    /// Creates a directory and those above it where they are absent, and syncs the names of all of them from the archive's root on,
    /// once per process: an earlier one may have died between the two.
    fn durable_directory(&self, directory: &Path) -> Result<(), Fault> {
        if self.known().directories.contains(directory) {
            return Ok(());
        }
        let created = match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) if error.kind() == ErrorKind::NotFound && directory.parent().is_some() => {
                self.durable_directory(parent(directory))?;
                match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                    Ok(()) => true,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                    Err(error) => return Err(Fault::new("create", directory, error)),
                }
            }
            Err(error) => return Err(Fault::new("create", directory, error)),
        };
        let inside = directory != self.root && directory.starts_with(&self.root);
        if inside {
            self.durable_directory(parent(directory))?;
        }
        if created || inside {
            sync_directory(parent(directory))?;
        }
        let mut known = self.known();
        if known.directories.len() >= DIRECTORIES_KEPT {
            known.directories.clear();
        }
        known.directories.insert(directory.to_owned());
        Ok(())
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the directory, or at the nearest one above it that exists. Writes nothing.
    fn check(&self) -> Result<String, Fault> {
        let nearest = self.root.ancestors().find(|path| path.exists()).unwrap_or(&self.root);
        let metadata = fs::metadata(nearest).map_err(|error| Fault::new("look at", nearest, error))?;
        if !metadata.is_dir() {
            return Err(Fault::new("use", nearest, ErrorKind::NotADirectory.into()));
        }
        if metadata.permissions().readonly() {
            return Err(Fault::new("write in", nearest, ErrorKind::PermissionDenied.into()));
        }
        if nearest == self.root {
            fs::read_dir(nearest).map_err(|error| Fault::new("list", nearest, error))?;
            Ok(format!("{} is a directory", self.root.display()))
        } else {
            Ok(format!("{} will be created in {}", self.root.display(), nearest.display()))
        }
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().unwrap_or(path)
}

fn open_existing(path: &Path) -> Result<Option<File>, Fault> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Fault::new("open", path, error)),
    }
}

fn write_whole(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(path)?;
    file.write_all(body)?;
    file.sync_all()
}

fn sync_directory(directory: &Path) -> Result<(), Fault> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|error| Fault::new("sync", directory, error))
}

/// What could not be done with which path.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}: {error}", path.display())]
struct Fault {
    verb: &'static str,
    path: PathBuf,
    error: io::Error,
}

impl Fault {
    fn new(verb: &'static str, path: &Path, error: io::Error) -> Fault {
        Fault { verb, path: path.to_owned(), error }
    }
}

impl From<Fault> for Obstacle {
    fn from(fault: Fault) -> Obstacle {
        let cause = fault.to_string();
        let path = fault.path.display();
        let (reason, remedy) = match fault.error.kind() {
            // Another process at work in the same place, a busy machine: the next try may do better.
            ErrorKind::NotFound
            | ErrorKind::AlreadyExists
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::ResourceBusy
            | ErrorKind::OutOfMemory
            | ErrorKind::StaleNetworkFileHandle => return Obstacle::Ambiguous(cause),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                (PauseReason::Disk, format!("free space, or raise the quota or limit, for {path}"))
            }
            ErrorKind::ReadOnlyFilesystem => (
                PauseReason::Disk,
                format!("mount the file system of {path} for writing, and look for disk errors"),
            ),
            // Some file systems refuse links with EPERM, which says "permission" and means "never".
            ErrorKind::PermissionDenied
                if fault.verb == "link" && fault.error.raw_os_error() == Some(EPERM) =>
            {
                (PauseReason::Configuration, LINKS.to_owned())
            }
            ErrorKind::PermissionDenied => (
                PauseReason::Permission,
                format!("let this user read, write and list {path} (the owner's mode is 0700)"),
            ),
            ErrorKind::Unsupported | ErrorKind::CrossesDevices if fault.verb == "link" => {
                (PauseReason::Configuration, LINKS.to_owned())
            }
            ErrorKind::NotADirectory | ErrorKind::IsADirectory | ErrorKind::InvalidFilename => (
                PauseReason::Configuration,
                "set `path` of [file] to a directory that holds nothing but this archive".to_owned(),
            ),
            _ => (PauseReason::Disk, format!("look for errors of the disk or file system that holds {path}")),
        };
        Obstacle::Paused(Problem { reason, cause, remedy: format!("{remedy}; nothing is lost meanwhile") })
    }
}

/// "Operation not permitted", on every Unix.
const EPERM: i32 = 1;
const LINKS: &str = "set `path` of [file] to one file system that knows hard links";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::destination::Destination;
    use crate::destination::archive::contract::{self, Place, chunk, deliver, org};

    struct Disk(tempfile::TempDir);

    impl Disk {
        fn new() -> Disk {
            Disk(tempfile::tempdir().unwrap())
        }

        fn root(&self) -> PathBuf {
            self.0.path().join("new/archive")
        }

        /// Every file below the root, relative to it.
        fn files(&self) -> Vec<String> {
            let mut files = Vec::new();
            let mut directories = vec![self.root()];
            while let Some(directory) = directories.pop() {
                for entry in fs::read_dir(directory).unwrap() {
                    let path = entry.unwrap().path();
                    if path.is_dir() {
                        directories.push(path);
                    } else {
                        files.push(path.strip_prefix(self.root()).unwrap().display().to_string());
                    }
                }
            }
            files.sort();
            files
        }
    }

    impl Place for Disk {
        type Store = Folder;

        fn store(&self) -> Folder {
            Folder::new(self.root(), org())
        }
    }

    contract::holds!(async { Disk::new() });

    #[tokio::test]
    async fn nothing_but_the_two_files_is_left_and_they_are_private() {
        let disk = Disk::new();
        assert!(matches!(deliver(&disk, &chunk(12, "one", 3)).await, Answer::Durable(_)));
        assert_eq!(
            disk.files(),
            [
                "_chain/org=acme/00000000000000000012.json",
                "org=acme/date=2026-11-21/00000000000000000012.jsonl.gz"
            ]
        );
        for name in disk.files() {
            let path = disk.root().join(name);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(parent(&path)).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }

    #[tokio::test]
    async fn what_a_crash_left_half_written_is_removed_at_the_next_start() {
        let disk = Disk::new();
        assert!(matches!(deliver(&disk, &chunk(0, "one", 1)).await, Answer::Durable(_)));
        let partials = disk.root().join("_partial/org=acme");
        let others = disk.root().join("_partial/org=other");
        fs::create_dir(&others).unwrap();
        fs::write(partials.join("00000000000000000001.json.77.0"), b"{\"vers").unwrap();
        fs::write(others.join("00000000000000000001.json.77.1"), b"{").unwrap();
        assert!(matches!(deliver(&disk, &chunk(1, "one", 1)).await, Answer::Durable(_)));
        assert_eq!(fs::read_dir(partials).unwrap().count(), 0);
        assert_eq!(fs::read_dir(others).unwrap().count(), 1, "another org's are its own business");
    }

    #[tokio::test]
    async fn a_directory_removed_while_running_is_created_again() {
        let disk = Disk::new();
        let mut archive = contract::archive(&disk);
        assert!(matches!(archive.deliver(&chunk(0, "one", 1), &contract::Alone).await, Answer::Durable(_)));
        fs::remove_dir_all(disk.root()).unwrap();
        let next = chunk(1, "one", 1);
        assert!(matches!(archive.deliver(&next, &contract::Alone).await, Answer::Ambiguous(_)));
        assert!(matches!(archive.deliver(&next, &contract::Alone).await, Answer::Durable(_)));
    }

    fn how() -> How {
        How { write_probe: true, clock: crate::clock::Clock::system() }
    }

    #[tokio::test]
    async fn a_path_that_is_a_file_is_a_mistake_in_the_configuration() {
        let disk = Disk::new();
        fs::create_dir(disk.0.path().join("new")).unwrap();
        fs::write(disk.root(), b"").unwrap();
        let mut archive = contract::archive(&disk);
        let Answer::Paused(problem) = deliver(&disk, &chunk(0, "one", 1)).await else { panic!() };
        assert_eq!(problem.reason, PauseReason::Configuration);
        let trials = archive.check(&how()).await;
        let Outcome::Failed(problem) = &trials[0].outcome else { panic!("{trials:?}") };
        assert_eq!((problem.reason, trials.len()), (PauseReason::Configuration, 1), "and nothing is written");
    }

    #[tokio::test]
    async fn check_creates_nothing() {
        let disk = Disk::new();
        let how = How { write_probe: false, ..how() };
        let trials = contract::archive(&disk).check(&how).await;
        let Outcome::Ok(said) = &trials[0].outcome else { panic!("{trials:?}") };
        assert!(said.contains("will be created"), "{said}");
        assert!(!disk.root().exists());
    }

    #[test]
    fn what_a_disk_answers_says_who_has_to_act() {
        let meaning = |verb, kind: ErrorKind| Obstacle::from(Fault::new(verb, Path::new("/a"), kind.into()));
        let reason = |verb, kind| match meaning(verb, kind) {
            Obstacle::Paused(problem) => Some(problem.reason),
            _ => None,
        };
        assert_eq!(reason("write", ErrorKind::StorageFull), Some(PauseReason::Disk));
        assert_eq!(reason("write", ErrorKind::FileTooLarge), Some(PauseReason::Disk));
        assert_eq!(reason("write", ErrorKind::QuotaExceeded), Some(PauseReason::Disk));
        assert_eq!(reason("create", ErrorKind::ReadOnlyFilesystem), Some(PauseReason::Disk));
        assert_eq!(reason("sync", ErrorKind::Other), Some(PauseReason::Disk));
        assert_eq!(reason("create", ErrorKind::PermissionDenied), Some(PauseReason::Permission));
        assert_eq!(reason("link", ErrorKind::CrossesDevices), Some(PauseReason::Configuration));
        assert_eq!(reason("link", ErrorKind::NotFound), None);
        let no_links = Fault::new("link", Path::new("/a"), io::Error::from_raw_os_error(EPERM));
        let Obstacle::Paused(problem) = no_links.into() else { panic!() };
        assert!(problem.remedy.contains("hard links"), "{}", problem.remedy);
    }
}
