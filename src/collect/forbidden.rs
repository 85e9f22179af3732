//! After a 403: when the source may be asked again, kept in the state so that a crash loop does not hammer.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::{Second, whole_seconds};
use crate::event::OrgId;
use crate::journal::Journal;

/// A refused call (403) is itself recorded as an authentication failure: one try in this time.
pub(super) const FORBIDDEN_PAUSE: Duration = Duration::from_secs(15 * 60);
/// Tries beyond those (a changed secret, a new start) an hour.
const FORBIDDEN_EXTRA_MAX: usize = 4;

/// Tries after a 403, kept in the state so that a crash loop does not hammer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forbidden {
    /// Local time of the last refusal.
    last: Option<Second>,
    /// Tries beyond one in [`FORBIDDEN_PAUSE`], within the last hour.
    extra: Vec<Second>,
}

const FORBIDDEN_NOTE: &str = "forbidden";

impl Forbidden {
    pub(super) async fn load(journal: &dyn Journal, id: &OrgId) -> Forbidden {
        let note = journal.note(id, FORBIDDEN_NOTE).await.ok().flatten();
        note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Whether a try out of turn is allowed now; if not, how long until the regular one.
    pub(super) fn extra_try(&mut self, now: Second) -> Option<Duration> {
        let last = self.last?;
        let pause = whole_seconds(FORBIDDEN_PAUSE);
        if now - last >= pause || now < last {
            return None;
        }
        self.extra.retain(|at| (0..3_600).contains(&(now - *at)));
        if self.extra.len() < FORBIDDEN_EXTRA_MAX {
            self.extra.push(now);
            return None;
        }
        Some(Duration::from_secs(u64::try_from(last + pause - now).unwrap_or(0)))
    }

    pub(super) async fn refused(&mut self, now: Second, journal: &dyn Journal, id: &OrgId) {
        self.last = Some(now);
        self.save(journal, id).await;
    }

    pub(super) async fn save(&self, journal: &dyn Journal, id: &OrgId) {
        let note = serde_json::to_vec(self).ok();
        if let Err(error) = journal.set_note(id, FORBIDDEN_NOTE, note).await {
            tracing::warn!(org = %id, cause = %error, "cannot keep when the source was last refused");
        }
    }

    pub(super) async fn clear(&mut self, journal: &dyn Journal, id: &OrgId) {
        if self.last.take().is_some() {
            self.extra.clear();
            if let Err(error) = journal.set_note(id, FORBIDDEN_NOTE, None).await {
                tracing::warn!(org = %id, cause = %error, "cannot forget when the source was last refused");
            }
        }
    }
}
