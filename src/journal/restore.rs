//! Putting an org's state back from its archive: the steps of [`crate::journal::Journal::restore`].
//!
//! Begin, any number of parts, done. Until the last is committed the org carries a mark ([`MARK`]): whoever finds it begins again, and
//! nothing that was put back before counts.
//!
//! *Why steps and not one transaction:* an archive can hold more than memory does. *Why a mark and not tables beside the real ones:*
//! what is put back is then checked, kept and pruned by the same code as everything else.

use std::collections::BTreeMap;

use crate::chunk::{Chunk, Link};
use crate::clock::Second;
use crate::coverage::Coverage;
use crate::destination::DestinationName;
use crate::journal::TallyPage;

/// The note that an org carries while its state is being put back.
pub const MARK: &str = "recovery";

#[derive(Clone, Debug)]
pub enum Restore {
    Begin(Begin),
    Part(Part),
    Done(Restored),
}

/// Forgets start, coverage, tally, and every chunk from `next` on, with what lanes said of those; sets the mark.
#[derive(Clone, Debug)]
pub struct Begin {
    /// Number and link of the first chunk to be put back. Chunks before it stay if they lead up to it.
    pub next: u64,
    pub link: Link,
    /// Kept as the note [`MARK`].
    pub mark: Vec<u8>,
}

/// Some of what is put back.
#[derive(Clone, Debug)]
pub struct Part {
    /// Dense, continuing what is there.
    pub chunks: Vec<Chunk>,
    /// Whole pages that replace those of the same minute.
    pub tally: Vec<TallyPage>,
    /// Local time, for retention.
    pub now: Second,
}

/// The rest, and that it is all.
#[derive(Clone, Debug, PartialEq)]
pub struct Restored {
    pub start: Option<Second>,
    pub coverage: Coverage,
    /// As a check: the number that follows the last chunk put back.
    pub next: u64,
    pub tally_floor: Option<Second>,
    /// Of the lanes that the archive knows; other lanes stay where they are. One before the oldest chunk kept begins there.
    pub checkpoints: BTreeMap<DestinationName, u64>,
}
