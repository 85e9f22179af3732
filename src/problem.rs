//! What keeps a source or a lane from working: a pause, which needs a person, or a wait, which needs nobody.
//!
//! Only the words; who pauses, for how long, and who is told of it is decided where it happens.

use serde::{Deserialize, Serialize};

/// Something only a person can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub reason: PauseReason,
    /// What was refused, by whom, with which status. No secrets, no event contents.
    pub cause: String,
    /// What to do about it.
    pub remedy: String,
}

/// Why a source or a lane waits for a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PauseReason {
    Credentials,
    Permission,
    Configuration,
    Fenced,
    Disk,
}

impl PauseReason {
    pub const ALL: [PauseReason; 5] = [
        PauseReason::Credentials,
        PauseReason::Permission,
        PauseReason::Configuration,
        PauseReason::Fenced,
        PauseReason::Disk,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            PauseReason::Credentials => "credentials",
            PauseReason::Permission => "permission",
            PauseReason::Configuration => "configuration",
            PauseReason::Fenced => "fenced",
            PauseReason::Disk => "disk",
        }
    }
}

/// Why a source or a lane waits for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitReason {
    Throttled,
    Backoff,
    JournalFull,
    /// Its state is being put back from the archive.
    Recovering,
}

impl WaitReason {
    pub const ALL: [WaitReason; 4] =
        [WaitReason::Throttled, WaitReason::Backoff, WaitReason::JournalFull, WaitReason::Recovering];

    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::Throttled => "throttled",
            WaitReason::Backoff => "backoff",
            WaitReason::JournalFull => "journal_full",
            WaitReason::Recovering => "recovering",
        }
    }
}
