//! The journal: the append-only sequence of each org's chunks, with the coverage, tally and checkpoints that belong to it.
//!
//! This file is the contract; [`sqlite`] is what runs, [`memory`] is the reference that passes the same suite (`contract.rs`).
//! Two transactions change it: **append** (a window's chunks + tally + coverage) and **acknowledge** (checkpoint + receipt +
//! quarantine). No event exists outside a transaction. A third, **decide**, is a person's word about rows in quarantine; a fourth,
//! **restore**, puts an org's state back from its archive ([`restore`]).
//!
//! *Why a revision instead of running the diff inside the transaction:* an org has one writer. It reads the tally at a revision,
//! decides, and [`Journal::append`] commits only if that revision is still the current one; diff and update are then one atomic
//! step, and hashing and compressing a large window does not hold the database. A journal in S3 can keep the same promise:
//! "create chunk n unless it exists".

#[cfg(test)]
mod contract;
pub mod decision;
pub mod handover;
pub mod measured;
pub mod memory;
pub mod restore;
pub mod sqlite;

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::chunk::{Chunk, Link};
use crate::clock::{Second, Window};
use crate::coverage::Coverage;
use crate::destination::{DestinationName, Receipt, Refusal, RowId};
use crate::event::OrgId;
use decision::Decision;
use restore::Restore;

/// What is known of an org before its first sweep in this process.
#[derive(Clone, Debug, PartialEq)]
pub struct OrgState {
    /// Grows by one with every append.
    pub revision: u64,
    /// Random name of this state directory, made once: claims carry it.
    pub instance: String,
    /// The beginning of collection, once fixed.
    pub start: Option<Second>,
    pub coverage: Coverage,
    /// The number the next chunk will get, and the link it continues.
    pub next: u64,
    pub link: Link,
    /// Covered time below this is never asked for again: its tally may be gone.
    pub tally_floor: Option<Second>,
    /// The next chunk of each configured lane.
    pub checkpoints: BTreeMap<DestinationName, u64>,
    /// Lanes that this opening added: they start at the oldest chunk kept, with its number.
    pub added: Vec<(DestinationName, u64)>,
}

/// Tally pages are compact blobs, one per minute of event time, made and read by [`crate::collect::tally`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TallyPage {
    /// Unix minute; [`TIMELESS_MINUTE`] for events without a plausible time.
    pub minute: i64,
    pub body: Vec<u8>,
}

/// The page of events without a plausible time; never pruned.
pub const TIMELESS_MINUTE: i64 = i64::MIN;

/// One committed window, kept for people (bounded: the newest [`WINDOWS_KEPT`] of an org).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WindowRecord {
    pub window: Window,
    /// `head`, `catchup`, `rescan`, `backfill`, `replay`.
    pub kind: String,
    /// The service's time when the sweep began.
    pub read_at: Second,
    pub seen: u64,
    pub new: u64,
}

/// Windows, and acknowledged receipts, kept per org and lane.
pub const WINDOWS_KEPT: u32 = 10_000;

/// Rows in quarantine per lane. An acknowledgement that would exceed it is refused with [`JournalError::Full`], so that its lane
/// pauses for a person: dropping rows would lose them.
pub const QUARANTINE_ROWS_MAX: u64 = 100_000;

/// Rows per lane that a person may have sent again at once. A lane reads so many provisional rows when it starts; of itself it
/// leaves a few, as it pauses at the third in a row.
pub const PROVISIONAL_ROWS_MAX: u32 = 1_000;

/// Longest value of a note.
pub const NOTE_BYTES_MAX: usize = 4_096;

/// Everything one append commits, or nothing of it.
#[derive(Clone, Debug)]
pub struct Append {
    /// The revision the decision was made on.
    pub revision: u64,
    /// `None` leaves it as it is.
    pub start: Option<Second>,
    /// The whole coverage afterwards.
    pub coverage: Coverage,
    /// Dense, continuing `next` and `link`; may be empty.
    pub chunks: Vec<Chunk>,
    /// Whole pages that replace those of the same minute.
    pub tally: Vec<TallyPage>,
    /// Pages of minutes wholly before this second are deleted (not the timeless one); never moves back.
    pub tally_floor: Option<Second>,
    /// `None` when only `start` or a correction is committed.
    pub window: Option<WindowRecord>,
    /// Local time, for retention.
    pub now: Second,
}

/// Everything one acknowledgement commits, or nothing of it.
#[derive(Clone, Debug)]
pub struct Acknowledge {
    pub destination: DestinationName,
    /// The chunk that is durable; it must be the lane's checkpoint, which moves to the next number.
    pub chunk: u64,
    pub receipt: Receipt,
    /// Local time.
    pub now: Second,
}

/// What a lane has still to deliver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outstanding {
    pub chunks: u64,
    pub events: u64,
    /// The earliest event time in any of them.
    pub first: Option<Second>,
    /// Rows in quarantine.
    pub quarantined: u64,
}

/// A row in quarantine, and when it came there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub refusal: Refusal,
    /// Local time of its chunk's acknowledgement; `None` once that receipt is no longer kept.
    pub since: Option<Second>,
}

/// How much an org's chunks take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub chunks: u64,
    /// Bodies and claims, compressed as stored.
    pub bytes: u64,
    /// Of those, chunks that some configured lane has still to deliver.
    pub unacknowledged_bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has it open.
    #[error(
        "state directory `{directory}` is in use by process {pid}: stop that one first, or give this one another `state_dir`"
    )]
    Busy { directory: String, pid: String },
    #[error(
        "state directory `{directory}` holds format version {found}, and this version knows {known}: run the newer version again, nothing was changed"
    )]
    Newer { directory: String, found: u32, known: u32 },
    #[error(
        "cannot use state directory `{directory}`: {cause}; create it and make it writable for this user, or set `state_dir`"
    )]
    Unusable { directory: String, cause: String },
    /// A row does not match its checksum, or the chain does not link.
    #[error("the journal is damaged: {0}")]
    Damaged(String),
    /// The caller decided on an older revision, or the lane's checkpoint is elsewhere. Nothing was changed.
    #[error("the journal has moved on: {0}")]
    Conflict(String),
    /// Full, read-only or failing: nothing of the transaction is believed, and the handle has been opened anew.
    #[error("the disk refused a commit: {0}")]
    Disk(String),
    /// What is kept for a person has reached its bound. Nothing was changed.
    #[error("{0}")]
    Full(String),
}

impl JournalError {
    /// What a person can do, who sees a source or a lane paused for it.
    pub fn remedy(&self) -> &'static str {
        match self {
            JournalError::Damaged(_) => {
                "the process ends in order; the next start reads the whole journal and says what to do. Nothing that is damaged was sent"
            }
            JournalError::Full(_) => {
                "see why the destination refuses these rows (`quarantine list`); then stop the daemon, and `quarantine drop` or \
                 `quarantine retry` them. The lane waits, and the archive keeps every one of them"
            }
            _ => {
                "free space on the state directory's disk, or repair it; the journal keeps its chunks, and later events stay at the source \
                 meanwhile"
            }
        }
    }
}

/// The append-only sequence of every org's chunks. One process holds it; within it, one collector and one task per lane write an org.
#[async_trait]
pub trait Journal: Send + Sync {
    /// Opens an org, creating it when it is new, and makes `lanes` its configured lanes: one that is new starts at the oldest
    /// chunk kept; one that is gone no longer holds chunks back (its checkpoint is kept). One that comes back continues at its
    /// checkpoint, or, where that was pruned meanwhile, like a new one.
    async fn open(&self, org: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError>;

    /// Every org the journal knows, configured or not.
    async fn orgs(&self) -> Result<Vec<OrgId>, JournalError>;

    /// The tally pages of the minutes in `from..until` that exist, in order. The timeless page has its own minute and can be asked
    /// for as `TIMELESS_MINUTE..TIMELESS_MINUTE + 1`.
    async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError>;

    /// Commits a window. Durable when this returns.
    async fn append(&self, org: &OrgId, append: Append) -> Result<(), JournalError>;

    /// A chunk, or `None` when it is not yet there or already pruned.
    async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError>;

    /// Moves a lane's checkpoint past a chunk. Durable when this returns. A receipt that confirms makes the rows final that were in
    /// quarantine before it; its own rows are kept as they say.
    async fn acknowledge(&self, org: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError>;

    async fn outstanding(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Outstanding, JournalError>;

    /// Rows in quarantine that come after `after`, oldest first, at most `limit`.
    async fn quarantine(
        &self,
        org: &OrgId,
        destination: DestinationName,
        after: Option<RowId>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, JournalError>;

    /// The provisional ones among them: those a lane has to send again. Oldest first, at most [`PROVISIONAL_ROWS_MAX`].
    async fn provisional(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Vec<Refusal>, JournalError>;

    /// Does with rows in quarantine what a person decided, and records it. Durable when this returns. Refused, with nothing changed,
    /// where one of the rows is not in quarantine; a retry also where one's chunk is no longer kept, or where more than
    /// [`PROVISIONAL_ROWS_MAX`] rows would wait. Returns how many rows in quarantine are left.
    async fn decide(&self, org: &OrgId, decision: Decision) -> Result<u64, JournalError>;

    /// What was decided, newest first, at most `limit`.
    async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError>;

    /// Takes steps of putting an org's state back from its archive, all of them or none. Durable when this returns. Refused, with
    /// nothing changed, where chunks do not continue what is kept.
    async fn restore(&self, org: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError>;

    async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError>;

    /// Deletes chunks that every configured lane has acknowledged: those appended before `before`, and, oldest first, as many more as
    /// needed to come down to `bytes_max`. Returns how many went. Never touches a chunk some lane has to deliver, nor anything while
    /// no lane is configured; what is kept stays dense, so it ends at the first chunk that has to stay.
    async fn prune(&self, org: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError>;

    /// A small value kept beside an org's state, such as when it was last refused. At most 4 KiB.
    async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError>;
    async fn set_note(&self, org: &OrgId, name: &str, value: Option<Vec<u8>>) -> Result<(), JournalError>;
}
