//! How the service's time and this machine's stood to each other when what is journaled was read, kept in the state.
//!
//! *Why:* the first date of a process is believed at once, for there is nothing to hold it against. A wrong one covers time that has
//! not been, or says that looks were late enough which were not; and the process may end before the right one is believed. The next
//! process sees no jump. It sees this.

use serde::{Deserialize, Serialize};

use crate::clock::Second;
use crate::event::OrgId;
use crate::journal::{Journal, JournalError};

const NOTE: &str = "time";
/// Two clocks drift apart, and are set right, by less than this; what is misjudged by it lies within any overlap.
const DRIFT_SECONDS: i64 = 60;
/// What was read no more than this ahead was read there because dates are rounded.
const ROUNDING_SECONDS: i64 = 5;

/// The service's time as believed, held against the local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KnownTime {
    /// How far the service was ahead, in seconds.
    ahead: i64,
    /// Windows may have been planned with a time that is wrong: it has not held for a poll interval yet.
    pub(super) doubted: bool,
}

impl KnownTime {
    pub(super) fn believed(service: Second, local: Second) -> KnownTime {
        KnownTime { ahead: service - local, doubted: false }
    }

    /// What a process begins with, held against what was known, and against the time of the last look: it outlives a lost state, in
    /// the claims.
    pub(super) fn compared(
        self,
        known: Option<KnownTime>,
        service: Second,
        last_read: Option<Second>,
    ) -> KnownTime {
        let other = known.is_some_and(|known| {
            known.doubted || known.ahead.abs_diff(self.ahead) > DRIFT_SECONDS.unsigned_abs()
        });
        let before_the_last_look = last_read.is_some_and(|at| at - service > ROUNDING_SECONDS);
        KnownTime { doubted: other || before_the_last_look, ..self }
    }

    /// Whether `known` says the same already.
    pub(super) fn is_said_by(self, known: Option<KnownTime>) -> bool {
        known
            .is_some_and(|known| known.doubted == self.doubted && (self.doubted || known.ahead == self.ahead))
    }

    pub(super) async fn load(journal: &dyn Journal, id: &OrgId) -> Result<Option<KnownTime>, JournalError> {
        let note = journal.note(id, NOTE).await?;
        Ok(note.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    pub(super) async fn save(self, journal: &dyn Journal, id: &OrgId) -> Result<(), JournalError> {
        journal.set_note(id, NOTE, serde_json::to_vec(&self).ok()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::memory::MemoryJournal;

    fn begins(known: Option<KnownTime>, service: i64, local: i64, read: Option<i64>) -> bool {
        let service = Second(service);
        let time = KnownTime::believed(service, Second(local));
        time.compared(known, service, read.map(Second)).doubted
    }

    fn known(ahead: i64) -> Option<KnownTime> {
        Some(KnownTime { ahead, doubted: false })
    }

    #[test]
    fn the_first_time_of_all_is_believed() {
        assert!(!begins(None, 1_000_000, 1_000_000, None));
        assert!(!begins(None, 9_000_000, 1_000_000, Some(9_000_000)));
    }

    #[test]
    fn a_time_before_the_last_look_is_doubted() {
        assert!(begins(None, 1_000_000, 1_000_000, Some(1_000_006)));
        assert!(!begins(None, 1_000_000, 1_000_000, Some(1_000_005)), "dates are rounded");
        assert!(begins(known(0), 1_000_000, 1_000_000, Some(9_000_000)));
    }

    #[test]
    fn a_time_that_stands_otherwise_to_the_local_one_is_doubted() {
        assert!(!begins(known(100), 1_000_160, 1_000_000, Some(999_000)), "clocks drift");
        assert!(begins(known(100), 1_000_161, 1_000_000, Some(999_000)));
        assert!(begins(known(100), 1_000_039, 1_000_000, Some(999_000)));
    }

    #[test]
    fn a_doubt_outlasts_the_process_that_had_it() {
        let doubted = Some(KnownTime { ahead: 0, doubted: true });
        assert!(begins(doubted, 1_000_000, 1_000_000, None));
    }

    #[tokio::test]
    async fn what_one_process_wrote_down_the_next_finds_and_what_does_not_read_is_as_nothing() {
        let (journal, id) = (MemoryJournal::new(), OrgId::new("acme").unwrap());
        journal.open(&id, &[]).await.unwrap();
        assert_eq!(KnownTime::load(&journal, &id).await.unwrap(), None);
        for doubted in [true, false] {
            let time = KnownTime { ahead: -7, doubted };
            time.save(&journal, &id).await.unwrap();
            assert_eq!(KnownTime::load(&journal, &id).await.unwrap(), Some(time));
        }
        journal.set_note(&id, NOTE, Some(b"{".to_vec())).await.unwrap();
        assert_eq!(KnownTime::load(&journal, &id).await.unwrap(), None);
    }

    #[test]
    fn only_what_is_new_is_written_down() {
        let time = KnownTime::believed(Second(100), Second(90));
        assert!(time.is_said_by(Some(time)));
        assert!(!time.is_said_by(None));
        assert!(!time.is_said_by(known(9)));
        let doubted = KnownTime { doubted: true, ..time };
        assert!(!doubted.is_said_by(Some(time)) && !time.is_said_by(Some(doubted)));
        assert!(doubted.is_said_by(Some(KnownTime { ahead: 7, doubted: true })));
    }
}
