//! The write-ahead log as the last process left it, looked at before SQLite does.
//!
//! SQLite takes a log up to its first bad frame and says nothing of the rest, because a power cut may leave half a commit there of which
//! nobody was told. So a log that was damaged or cut turns the journal back to an earlier state in silence: checkpoints, and chunks
//! that were delivered, would be gone. Two things tell such a log from half a commit:
//!
//! - A commit is synced before the next one begins. Two commits after the bad frame mean that the first was durable once.
//! - The index (`journal.db-shm`) counts frames once they are synced. It outlives a killed process; after a power cut it may be old, and
//!   then counts fewer.
//!
//! The formats are SQLite's: <https://www.sqlite.org/walformat.html>, read 2026-11-21.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::Path;

use super::fault::Fault;
use super::names::beside;

/// Bytes before a log's first frame.
pub(super) const HEADER: u64 = 32;
const FRAME_HEADER: usize = 24;
/// Both copies of the index's header, and the count of frames that are in the database.
const INDEX_HEADER: usize = 48;
const INDEX_BYTES: usize = 2 * INDEX_HEADER + 4;

/// That no commit which was durable is missing.
pub(super) fn check(directory: &Path) -> Result<(), Fault> {
    let found = match File::open(beside(directory, "-wal")) {
        Ok(file) => read(BufReader::with_capacity(1 << 20, file))?,
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let index = index(directory)?;
    let lost = match (&found, &index) {
        (Some(log), _) if log.commits_after > 1 => true,
        (Some(log), Some(index)) => log.salt == index.salt && index.frames > log.committed,
        (None, Some(index)) => index.frames > index.copied,
        (_, None) => false,
    };
    if lost {
        return Err(Fault::damaged("its log `journal.db-wal` has lost commits".to_owned()));
    }
    Ok(())
}

struct Log {
    salt: [u8; 8],
    /// Frames up to the last commit before the first bad frame.
    committed: u32,
    /// Commits from the first bad frame on.
    commits_after: u32,
}

/// `None`: it has no valid header, so SQLite takes nothing from it.
fn read(mut from: impl Read) -> Result<Option<Log>, Fault> {
    let mut header = [0; HEADER as usize];
    if !filled(&mut from, &mut header)? {
        return Ok(None);
    }
    let order = match word(&header, 0, Order::Big) {
        0x377f_0682 => Order::Little,
        0x377f_0683 => Order::Big,
        _ => return Ok(None),
    };
    let page = word(&header, 8, Order::Big) as usize;
    let mut sum = Sum::default().add(&header[..24], order);
    if sum != Sum::stored(&header, 24) || !page.is_power_of_two() || !(512..=65_536).contains(&page) {
        return Ok(None);
    }
    let mut salt = [0; 8];
    salt.copy_from_slice(&header[16..24]);
    let mut log = Log { salt, committed: 0, commits_after: 0 };
    let mut frame = vec![0; FRAME_HEADER + page];
    let (mut number, mut is_whole) = (0, true);
    while filled(&mut from, &mut frame)? {
        number += 1;
        let (head, body) = frame.split_at(FRAME_HEADER);
        // Each frame's sum continues that of the frame before, so one behind a bad frame can still be told from chance.
        let expected = sum.add(&head[..8], order).add(body, order);
        sum = Sum::stored(head, 16);
        let is_of_this_log = head[8..16] == salt;
        let is_good = is_of_this_log && word(head, 0, Order::Big) != 0 && sum == expected;
        let commits = word(head, 4, Order::Big) != 0;
        let is_first_bad = is_whole && !is_good;
        is_whole = is_whole && is_good;
        if is_whole && commits {
            log.committed = number;
        } else if is_of_this_log && commits && (is_good || is_first_bad) {
            log.commits_after += 1;
        }
    }
    Ok(Some(log))
}

struct Index {
    salt: [u8; 8],
    frames: u32,
    copied: u32,
}

/// `None` where there is none, or none that says anything.
fn index(directory: &Path) -> Result<Option<Index>, Fault> {
    let mut bytes = [0; INDEX_BYTES];
    match File::open(beside(directory, "-shm")) {
        Ok(mut file) => {
            if !filled(&mut file, &mut bytes)? {
                return Ok(None);
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let (first, rest) = bytes.split_at(INDEX_HEADER);
    let native = if cfg!(target_endian = "big") { Order::Big } else { Order::Little };
    let sum = Sum::default().add(&first[..40], native);
    let is_whole = first == &rest[..INDEX_HEADER]
        && first[12] == 1
        && sum == Sum(word(first, 40, native), word(first, 44, native));
    if !is_whole {
        return Ok(None);
    }
    let mut salt = [0; 8];
    salt.copy_from_slice(&first[32..40]);
    Ok(Some(Index { salt, frames: word(first, 16, native), copied: word(rest, INDEX_HEADER, native) }))
}

#[derive(Clone, Copy)]
enum Order {
    Big,
    Little,
}

/// The running checksum of header and frames.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Sum(u32, u32);

impl Sum {
    /// `bytes` is a multiple of 8 long.
    fn add(self, bytes: &[u8], order: Order) -> Sum {
        let Sum(mut a, mut b) = self;
        for pair in bytes.chunks_exact(8) {
            a = a.wrapping_add(word(pair, 0, order)).wrapping_add(b);
            b = b.wrapping_add(word(pair, 4, order)).wrapping_add(a);
        }
        Sum(a, b)
    }

    fn stored(bytes: &[u8], at: usize) -> Sum {
        Sum(word(bytes, at, Order::Big), word(bytes, at + 4, Order::Big))
    }
}

fn word(bytes: &[u8], at: usize, order: Order) -> u32 {
    let word = [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]];
    match order {
        Order::Big => u32::from_be_bytes(word),
        Order::Little => u32::from_le_bytes(word),
    }
}

/// Whether there was enough to fill it.
fn filled(from: &mut impl Read, into: &mut [u8]) -> Result<bool, Fault> {
    match from.read_exact(into) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error.into()),
    }
}
