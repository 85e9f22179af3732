//! Destinations: places where a chunk becomes durable.
//!
//! The trait is one promise; what follows from each [`Answer`] is the lane's business ([`crate::lane`]), so a destination neither
//! waits, nor retries, nor logs a pause. Only [`sentinel`] knows Azure's names, only [`s3`] knows the AWS SDK.

pub mod archive;
pub mod file;
pub mod s3;
pub mod sentinel;

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::chunk::Chunk;
use crate::clock::Second;
use crate::problem::Problem;
use crate::rotation::Standing;
use crate::trial::{How, Outcome, Trial};

/// The closed set of destinations. Its text names lanes in configuration, metrics, status and state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DestinationName {
    Sentinel,
    S3,
    File,
}

impl DestinationName {
    pub const ALL: [DestinationName; 3] =
        [DestinationName::Sentinel, DestinationName::S3, DestinationName::File];

    pub fn as_str(self) -> &'static str {
        match self {
            DestinationName::Sentinel => "sentinel",
            DestinationName::S3 => "s3",
            DestinationName::File => "file",
        }
    }

    /// Whether whoever writes there has to say who it is.
    pub fn has_credential(self) -> bool {
        match self {
            DestinationName::Sentinel | DestinationName::S3 => true,
            DestinationName::File => false,
        }
    }

    pub fn parse(text: &str) -> Option<DestinationName> {
        DestinationName::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where [heartbeats](crate::heartbeat) go.
#[async_trait]
pub trait Pulse: Send {
    /// Sends one beat: `row` is a JSON object, made in the interval that began at `interval`.
    ///
    /// # Errors
    /// The reason, in words fit to print.
    async fn send(&mut self, interval: Second, row: Vec<u8>) -> Result<(), String>;
}

/// A place where a chunk becomes durable.
///
/// Delivering the same chunk twice must be harmless, because after a crash we will. Safe to drop at any await: until the lane has
/// acknowledged, a restart begins with the same chunk again.
#[async_trait]
pub trait Destination: Send {
    fn name(&self) -> DestinationName;

    /// Tries once to make `chunk` durable. The lane calls again with the same chunk, after the wait the answer asks for, until it
    /// is [`Answer::Durable`]; an implementation may keep what it achieved for that chunk between calls.
    async fn deliver(&mut self, chunk: &Chunk, backlog: &dyn Backlog) -> Answer;

    /// Whether a secret this destination uses has changed since it was last read: ends a wait for credentials early.
    async fn secret_changed(&mut self) -> bool;

    /// Somebody said that a secret may have changed. What has, is tried with the cheapest question there is, and replaces what is in
    /// use only if it is accepted.
    async fn look_at_secrets(&mut self) {}

    /// Which of two configured secrets is in use; `None` where nothing can be said of it, or not now.
    fn standing(&self) -> Option<Standing> {
        None
    }

    /// Tries each credential and permission that deliveries need, as far as that is harmless. Writes nothing but what `how` asks for.
    async fn check(&mut self, how: &How) -> Vec<Trial>;
}

/// What a destination may look at beyond its chunk: needed to tell a bad row from a bad configuration.
#[async_trait]
pub trait Backlog: Send + Sync {
    /// The chunk after `number`, if it is journaled already.
    async fn after(&self, number: u64) -> Option<Chunk>;
    /// A chunk that is still in the journal, acknowledged or not.
    async fn chunk(&self, number: u64) -> Option<Chunk>;
}

/// What a destination answered, and with it what comes next.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Durable: the checkpoint may pass this chunk.
    Durable(Receipt),
    /// Perhaps stored, perhaps not: send the same again after a backoff.
    Ambiguous(String),
    /// Asked to slow down. `None` leaves the wait to the backoff.
    Throttled { wait: Option<Duration>, cause: String },
    /// A person has to act.
    Paused(Problem),
}

/// As `check` shows it; for an answer that is not [`Answer::Durable`].
impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Outcome {
        match answer {
            Answer::Durable(receipt) => Outcome::Ok(format!("accepted with {}", receipt.status)),
            Answer::Ambiguous(cause) => Outcome::unreachable(cause),
            Answer::Throttled { wait, cause } => Outcome::throttled(&cause, wait),
            Answer::Paused(problem) => Outcome::Failed(problem),
        }
    }
}

/// What a destination answered for a chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// Last HTTP status; 0 where there is none (`file`).
    pub status: u16,
    /// Request id or ETag.
    pub reference: String,
    /// Rows or events accepted.
    pub rows: u32,
    /// Bytes sent, as on the wire.
    pub bytes: u64,
    /// Rows refused for good, to be kept in quarantine with the acknowledgement.
    pub quarantined: Vec<Refusal>,
    /// Whether an accepted row has shown that the refusals before it are the rows' own fault: all provisional quarantine of this
    /// lane becomes final with this acknowledgement.
    pub confirms: bool,
    /// Rows taken out of quarantine because they were accepted after all.
    pub released: Vec<RowId>,
}

/// A row of a chunk: its chunk's number and its place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    pub chunk: u64,
    /// Zero-based line in the chunk.
    pub row: u32,
}

/// A row that a destination refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub at: RowId,
    pub key: String,
    pub reason: QuarantineReason,
    /// The destination's words, cut.
    pub detail: String,
    /// No row has been accepted since, so perhaps it is the configuration that is wrong; or a person asked for another try. Either way
    /// its lane sends it again.
    pub provisional: bool,
}

/// Why a row is in quarantine; a closed set, as it is a metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QuarantineReason {
    /// The destination refused the row when it stood alone.
    Refused,
    /// The event has no plausible time.
    ImplausibleTime,
    /// The row cannot be made small enough.
    TooLarge,
}

impl QuarantineReason {
    pub const ALL: [QuarantineReason; 3] =
        [QuarantineReason::Refused, QuarantineReason::ImplausibleTime, QuarantineReason::TooLarge];

    pub fn as_str(self) -> &'static str {
        match self {
            QuarantineReason::Refused => "refused",
            QuarantineReason::ImplausibleTime => "implausible_time",
            QuarantineReason::TooLarge => "too_large",
        }
    }

    pub fn parse(text: &str) -> Option<QuarantineReason> {
        QuarantineReason::ALL.into_iter().find(|reason| reason.as_str() == text)
    }
}
