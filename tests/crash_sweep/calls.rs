//! What `shim.c` has written down of a run, and whether it saw everything: strace is asked as well.

use std::collections::BTreeMap;
use std::path::Path;

use crate::point::Place;
use crate::stage::Addresses;

/// A line of the log.
#[derive(Debug, Clone)]
pub struct Call {
    pub kind: Kind,
    pub place: String,
    pub name: String,
    /// Offset of what is written; flags of what is opened; result of what is done.
    pub value: i64,
    pub length: u64,
    pub path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// About to be made.
    Begun,
    /// The same, and this one goes wrong.
    Hit,
    Done,
}

pub fn read(log: &Path) -> Vec<Call> {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("the shim wrote {line:?}"))).collect()
}

fn parse(line: &str) -> Option<Call> {
    let mut parts = line.splitn(7, ' ');
    let kind = match parts.next()? {
        "call" => Kind::Begun,
        "HIT" => Kind::Hit,
        "done" => Kind::Done,
        _ => return None,
    };
    let place = parts.next()?.to_owned();
    // Which one of its place it is: for people who read the log.
    parts.next()?;
    let name = parts.next()?.to_owned();
    let value = parts.next()?.parse().ok()?;
    // A call's length may be any number of bytes, and is never negative where it counts.
    let length = parts.next()?.parse().unwrap_or_default();
    Some(Call { kind, place, name, value, length, path: parts.next()?.to_owned() })
}

/// The first call that went wrong.
pub fn hit(calls: &[Call]) -> Option<&Call> {
    calls.iter().find(|call| call.kind == Kind::Hit)
}

/// How many calls of a place count, if these names do; none: all.
pub fn count(calls: &[Call], place: Place, names: &str) -> u64 {
    let fits = |call: &&Call| {
        call.kind != Kind::Done
            && call.place == place.name()
            && (names.is_empty() || names.split(',').any(|name| name == call.name))
    };
    calls.iter().filter(fits).count() as u64
}

/// What strace is told to write down: everything that changes a file or sends.
pub const TRACED: &str = "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sync,syncfs,\
    sync_file_range,ftruncate,truncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,link,linkat,\
    symlink,symlinkat,sendto,sendmsg,sendmmsg,sendfile,copy_file_range,splice,io_uring_setup";

/// Compares the shim's record of a run with strace's of the same one.
///
/// # Errors
/// With the calls that only one of them has.
pub fn compare(calls: &[Call], traced: &str, places: &Addresses) -> Result<usize, String> {
    let mut counts: BTreeMap<(String, String), [usize; 2]> = BTreeMap::new();
    for call in calls.iter().filter(|call| call.kind != Kind::Done) {
        counts.entry((call.name.clone(), call.path.clone())).or_default()[0] += 1;
    }
    for line in traced.lines() {
        let Some((name, path)) = traced_call(line, places) else { continue };
        counts.entry((name, path)).or_default()[1] += 1;
    }
    let total = counts.values().map(|[_, traced]| traced).sum();
    let differing: Vec<String> = counts
        .into_iter()
        .filter(|(_, [shim, traced])| shim != traced)
        .map(|((name, path), [shim, traced])| format!("{name} {path}: shim {shim}, strace {traced}"))
        .collect();
    match differing.is_empty() {
        true => Ok(total),
        false => Err(format!("shim.c and strace disagree:\n  {}", differing.join("\n  "))),
    }
}

/// Name and place of a call in a line such as `4711 pwrite64(9</state/journal.db-wal>, "…", 24, 0) = 24`; nothing where it is none
/// of ours.
fn traced_call(line: &str, places: &Addresses) -> Option<(String, String)> {
    let call = line.trim_start().split_once(' ')?.1.trim_start();
    let (name, arguments) = call.split_once('(')?;
    if name.contains(' ') || name.starts_with('<') {
        return None;
    }
    if name == "io_uring_setup" {
        return Some((name.to_owned(), arguments.to_owned()));
    }
    let socket = arguments.split_once("->").filter(|_| arguments.contains("<TCP:["));
    if let Some((_, peer)) = socket {
        let port = peer.split(']').next()?.rsplit(':').next()?.to_owned();
        let known = places.ports.iter().any(|(_, known)| known.to_string() == port);
        let name = if name.starts_with("send") { "send" } else { name };
        return known.then(|| (name.to_owned(), port));
    }
    // The last path of a link or a rename is the one that is changed.
    let quoted = || arguments.split('"').skip(1).step_by(2).filter(|text| text.starts_with('/'));
    let by_fd = arguments.split_once('<').and_then(|(fd, rest)| {
        (fd.bytes().all(|byte| byte.is_ascii_digit())).then(|| rest.split('>').next())?
    });
    let path = match by_fd {
        Some(path) => path,
        None => quoted().last()?,
    };
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let ours = places.directories.iter().any(|(_, directory)| Path::new(path).starts_with(directory));
    let name = match name {
        "openat" => "open",
        "unlinkat" => "unlink",
        "mkdirat" => "mkdir",
        "linkat" => "link",
        "renameat" | "renameat2" => "rename",
        "pwrite64" => "pwrite",
        other => other,
    };
    ours.then(|| (name.to_owned(), path.to_owned()))
}
