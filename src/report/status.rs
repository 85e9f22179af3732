//! The status as it is shown: the shape of `/api/status` and of `status --json`, the same bytes from both.
//!
//! These names are a promise to scripts. Nothing here decides anything; [`crate::report`] fills it in.

use serde::{Deserialize, Serialize};

use super::activity::ActivityStatus;
use super::spans::SpanStatus;
use crate::destination::DestinationName;
use crate::event::OrgId;

pub use moment::Moment;

/// Everything the daemon says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of the daemon.
    pub version: String,
    /// In the order of their ids.
    pub orgs: Vec<OrgStatus>,
    pub config: ConfigStatus,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrgStatus {
    pub id: OrgId,
    /// Pulumi's current name of the organization.
    pub org: String,
    /// The worst of its parts; `retired` when it is no longer configured.
    pub state: State,
    pub start: Option<Moment>,
    pub cursor: Option<Moment>,
    pub tip: Option<Moment>,
    pub coverage: CoverageStatus,
    /// The time since `start`, piece by piece, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub spans: Vec<SpanStatus>,
    /// Pieces that are not among them: too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spans_left_out: u64,
    /// New events of the last day; none before they were counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<ActivityStatus>,
    pub source: SourceStatus,
    pub lanes: Vec<LaneStatus>,
}

/// In seconds of event time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoverageStatus {
    /// Between start and tip, and not read yet.
    pub holes: i64,
    /// Too dense to be read whole.
    pub damaged: i64,
    /// Read, and another look is due.
    pub unsettled: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    pub state: State,
    pub reason: Option<String>,
    /// When this state began.
    pub since: Option<Moment>,
    /// What a person can do about it.
    pub remedy: Option<String>,
    /// Which access token is in use; none before the first was accepted, and while all are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<CredentialStatus>,
    /// When a window was last read and journaled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_sweep: Option<Moment>,
    /// What went wrong last, in this state or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorStatus>,
    /// Something is behind when it is further back than this: it follows from how often the source is asked.
    #[serde(default = "late_after")]
    pub late_after_seconds: i64,
}

impl SourceStatus {
    /// Of an org that is no longer configured.
    pub fn retired(since: Option<Moment>) -> SourceStatus {
        SourceStatus {
            state: State::Retired,
            reason: None,
            since,
            remedy: None,
            token: None,
            last_sweep: None,
            last_error: None,
            late_after_seconds: LATE_AFTER,
        }
    }
}

/// What went wrong, in the words that the log has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorStatus {
    pub at: Moment,
    /// Cut where it is very long.
    pub text: String,
}

/// Which of two configured secrets is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialStatus {
    /// Its key in the configuration: `token` or `next_token`, `secret` or `next_secret`, and so on.
    pub slot: String,
    /// Since when this value is in use; with `or_longer` it was when the daemon started.
    pub since: Moment,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub or_longer: bool,
    /// When it ends, where it says so itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// What is wrong with a value that was to replace it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub destination: DestinationName,
    /// Who the daemon is for the destination, where it can be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Which secret is in use, where one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialStatus>,
    pub state: State,
    pub reason: Option<String>,
    /// When this state began.
    pub since: Option<Moment>,
    /// What a person can do about it.
    pub remedy: Option<String>,
    /// What went wrong last, in this state or an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<ErrorStatus>,
    /// The number of the next chunk to deliver.
    pub checkpoint: Option<u64>,
    pub delivered_until: Option<Moment>,
    pub backlog_chunks: u64,
    pub backlog_events: u64,
    pub quarantined: u64,
}

/// By default: not loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// Whether the newest configuration is in force.
    pub ok: bool,
    /// Since when it is in force, or was refused.
    pub since: Option<Moment>,
    /// Why it was refused.
    pub error: Option<String>,
    /// Keys whose new values count only from the next start of the process on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs_restart: Vec<String>,
}

/// Ordered by how bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No longer configured; its state is kept.
    Retired,
    Ok,
    /// Needs nobody.
    Waiting,
    /// Needs a person.
    Paused,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Retired => "retired",
            State::Ok => "ok",
            State::Waiting => "waiting",
            State::Paused => "paused",
        }
    }
}

/// Half an hour: polls are five minutes apart by default.
pub(super) const LATE_AFTER: i64 = 1_800;

fn late_after() -> i64 {
    LATE_AFTER
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

mod moment {
    use std::fmt;

    use serde::{Deserialize, Serialize};

    use crate::clock::Second;

    /// A time that is written as RFC 3339, unlike a bare [`Second`], which is a number.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
    #[serde(try_from = "String", into = "String")]
    pub struct Moment(pub Second);

    #[derive(Debug, thiserror::Error)]
    #[error("`{0}` is not an RFC 3339 time")]
    pub struct NotATime(String);

    impl TryFrom<String> for Moment {
        type Error = NotATime;
        fn try_from(text: String) -> Result<Moment, NotATime> {
            Second::parse_rfc3339(&text).map(Moment).ok_or(NotATime(text))
        }
    }

    impl From<Moment> for String {
        fn from(moment: Moment) -> String {
            moment.to_string()
        }
    }

    impl fmt::Display for Moment {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }
}
