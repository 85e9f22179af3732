//! What people decide about rows in quarantine, and the record of it.
//!
//! A decision and its line in the record are one transaction ([`crate::journal::Journal::decide`]): there is no row that went without
//! a name beside it. The record holds numbers of rows, never what is in them.
//!
//! *Why a retry only makes a row provisional again:* a lane sends provisional rows once more as it is, alone and beside an accepted
//! one, and releases those that are accepted. A second way to send them would be a second way to be wrong.

use crate::clock::Second;
use crate::destination::{DestinationName, RowId};

/// Rows of one decision; more take several.
pub const DECISION_ROWS_MAX: usize = 1_000;
/// Decisions kept per org; the oldest go first. The log has each of them too.
pub const DECISIONS_KEPT: u32 = 1_000;
/// Longest name of a person, and longest reason.
pub const DECISION_WORDS_BYTES_MAX: usize = 1_000;

/// A decision, as it is asked for and as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub action: Action,
    pub destination: DestinationName,
    /// All of them must be in quarantine. At most [`DECISION_ROWS_MAX`].
    pub rows: Vec<RowId>,
    /// The person, as the system knows them.
    pub who: String,
    /// Their own words; may be empty.
    pub reason: String,
    /// Local time.
    pub at: Second,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// They are provisional again: their lane sends them with its next chunk after it was started anew.
    Retry,
    /// They leave the quarantine for good; the archive keeps them.
    Drop,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Retry => "retry",
            Action::Drop => "drop",
        }
    }

    pub fn parse(text: &str) -> Option<Action> {
        [Action::Retry, Action::Drop].into_iter().find(|action| action.as_str() == text)
    }
}

impl Decision {
    /// Why it cannot be recorded, whatever is in quarantine.
    pub(super) fn objection(&self) -> Option<String> {
        let count = self.rows.len();
        if !(1..=DECISION_ROWS_MAX).contains(&count) {
            return Some(format!(
                "a decision is about 1 to {DECISION_ROWS_MAX} rows, and this one about {count}"
            ));
        }
        let longest = self.who.len().max(self.reason.len());
        (longest > DECISION_WORDS_BYTES_MAX).then(|| {
            format!("a name or reason has {longest} bytes, and at most {DECISION_WORDS_BYTES_MAX} are kept")
        })
    }

    /// The rows as they are stored: `12:0,12:7`.
    pub(super) fn rows_as_text(&self) -> String {
        let rows: Vec<String> = self.rows.iter().map(|at| format!("{}:{}", at.chunk, at.row)).collect();
        rows.join(",")
    }

    /// The reverse of [`Decision::rows_as_text`].
    pub(super) fn rows_of_text(text: &str) -> Option<Vec<RowId>> {
        text.split(',')
            .map(|row| {
                let (chunk, row) = row.split_once(':')?;
                Some(RowId { chunk: chunk.parse().ok()?, row: row.parse().ok()? })
            })
            .collect()
    }
}
