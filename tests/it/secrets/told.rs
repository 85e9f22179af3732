//! What was said, written and sent, by the place where it was met: whatever is packed in there, unpacked as well.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};

/// Where something is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    StandardOutput,
    Log,
    Metrics,
    Status,
    Page,
    Livez,
    Readyz,
    State,
    AuditRecord,
    Folder,
    Bucket,
    TemporaryFiles,
    Configuration,
    CommandLine,
    Environment,
    EnvironmentOfChild,
    CommandLineOfChild,
    OpenFiles,
    Commands,
    Pulumi,
    Entra,
    Azure,
    Store,
    Proxy,
    /// A service that the daemon must not trust.
    Stranger,
}

#[derive(Default)]
pub(super) struct Told(Vec<(Place, String, Vec<u8>)>);

impl Told {
    pub(super) fn add(&mut self, place: Place, what: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        let (what, bytes) = (what.into(), bytes.into());
        if bytes.starts_with(&[0x1f, 0x8b]) {
            self.0.push((place, format!("{what}, unpacked"), unpacked(&bytes)));
        }
        self.0.push((place, what, bytes));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (Place, &str, &[u8])> {
        self.0.iter().map(|(place, what, bytes)| (*place, what.as_str(), bytes.as_slice()))
    }

    /// What was met so far, in bytes.
    pub(super) fn sizes(&self) -> BTreeMap<Place, usize> {
        let mut sizes = BTreeMap::new();
        for (place, _, bytes) in &self.0 {
            *sizes.entry(*place).or_default() += bytes.len();
        }
        sizes
    }

    /// Every file below a directory, what a database holds cell by cell.
    pub(super) fn add_files(&mut self, place: Place, directory: &Path) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let (path, what) = (entry.path(), entry.path().display().to_string());
            if path.is_dir() {
                self.add_files(place, &path);
                continue;
            }
            let Ok(bytes) = std::fs::read(&path) else { continue };
            let place = if path.ends_with("audit.jsonl") { Place::AuditRecord } else { place };
            if bytes.starts_with(b"SQLite format 3\0") {
                self.add_cells(place, &path);
            }
            self.add(place, what, bytes);
        }
    }

    /// A damaged database is searched as it lies there only.
    fn add_cells(&mut self, place: Place, path: &Path) {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let read = || -> rusqlite::Result<Vec<Vec<u8>>> {
            let database = Connection::open_with_flags(path, flags)?;
            let mut tables = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'")?;
            let names: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
            let mut cells = Vec::new();
            for name in names {
                let mut rows = database.prepare(&format!("SELECT * FROM {name:?}"))?;
                let count = rows.column_count();
                let mut rows = rows.query([])?;
                while let Some(row) = rows.next()? {
                    for column in 0..count {
                        if let ValueRef::Text(bytes) | ValueRef::Blob(bytes) = row.get_ref(column)? {
                            cells.push(bytes.to_vec());
                        }
                    }
                }
            }
            Ok(cells)
        };
        for cell in read().unwrap_or_default() {
            self.add(place, format!("a cell of {}", path.display()), cell);
        }
    }

    /// What Linux says of a process to whoever may ask. A process that cannot be dumped says little of itself to anybody but root.
    pub(super) fn add_process(&mut self, pid: u32) {
        let proc = format!("/proc/{pid}");
        for (place, file) in [(Place::CommandLine, "cmdline"), (Place::Environment, "environ")] {
            if let Ok(bytes) = std::fs::read(format!("{proc}/{file}")) {
                self.add(place, file, bytes);
            }
        }
        // What is open has been read from the start by whoever can follow these links.
        for open in std::fs::read_dir(format!("{proc}/fd")).into_iter().flatten().flatten() {
            let target = std::fs::read_link(open.path()).unwrap_or_default();
            if open.path().is_file() {
                let bytes = std::fs::read(open.path()).unwrap_or_default();
                self.add(Place::OpenFiles, target.display().to_string(), bytes);
            }
        }
    }
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    // What comes before a damage counts.
    let _damaged = MultiGzDecoder::new(bytes).read_to_end(&mut plain);
    plain
}
