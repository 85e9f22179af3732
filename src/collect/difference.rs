//! The work between reading a window and committing it: what of it is new, and the chunks of that. Pure, and long enough to leave the
//! runtime's threads alone: it runs on one for blocking work.

use crate::chunk::{Chunk, Cut, Link, Packing, Summary};
use crate::clock::{Second, Window};
use crate::collect::plan::Kind;
use crate::collect::tally::Tally;
use crate::event::{Event, Odd, OrgId};
use crate::journal::{JournalError, TIMELESS_MINUTE, TallyPage};

/// The work between reading and committing.
pub(super) struct Difference {
    pub(super) id: OrgId,
    pub(super) org: String,
    pub(super) packing: Packing,
    pub(super) kind: Kind,
    pub(super) window: Window,
    pub(super) next: u64,
    pub(super) link: Link,
    pub(super) before: Summary,
    pub(super) after: Summary,
    pub(super) pages: Vec<TallyPage>,
    pub(super) floor: Option<Second>,
}

#[derive(Default)]
pub(super) struct Changed {
    pub(super) chunks: Vec<Chunk>,
    pub(super) tally: Vec<TallyPage>,
    pub(super) odd: Vec<New>,
    pub(super) overflowed: bool,
}

/// What is counted of a new event.
pub(super) struct New {
    pub(super) at: Option<Second>,
    pub(super) odd: Odd,
}

impl Difference {
    pub(super) fn run(self, seen: Vec<Event>) -> Result<Changed, JournalError> {
        let mut tally =
            Tally::read(&self.pages).map_err(|damaged| JournalError::Damaged(damaged.to_string()))?;
        let new = tally.take(seen);
        let odd = new.iter().map(|new| New { at: new.event.at, odd: new.event.odd }).collect();
        let cut = Cut {
            id: &self.id,
            org: &self.org,
            mode: self.kind.mode(),
            window: self.window,
            packing: self.packing,
            next: self.next,
            link: self.link,
            before: self.before,
            after: self.after,
        };
        let chunks = cut.chunks(new);
        // What lies wholly below the floor would be deleted again by the same transaction.
        let kept = |minute: i64| {
            minute == TIMELESS_MINUTE || self.floor.is_none_or(|floor| (minute + 1) * 60 > floor.0)
        };
        let pages = tally.changed().into_iter().filter(|page| kept(page.minute)).collect();
        Ok(Changed { chunks, tally: pages, odd, overflowed: tally.overflowed() })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chunk::Mode;
    use crate::event::{Identity, Payload};

    fn event(at: Option<i64>, identity: u8) -> Event {
        Event {
            raw: Bytes::from_static(b"{}"),
            at: at.map(Second),
            identity: Identity([identity; 32]),
            payload: Payload([identity; 32]),
            kind: "login".into(),
            odd: Odd { unknown_field: identity == 2, ..Odd::default() },
        }
    }

    fn summary(instance: &str) -> Summary {
        Summary {
            start: Some(Second(0)),
            coverage: Vec::new(),
            checkpoints: Default::default(),
            instance: instance.into(),
            forwarder: "test".into(),
            audit: None,
        }
    }

    fn difference(pages: &[TallyPage], floor: Option<i64>) -> Difference {
        Difference {
            id: OrgId::new("acme").unwrap(),
            org: "acme-corp".into(),
            packing: Packing::Stored,
            kind: Kind::Rescan,
            window: Window::new(Second(600), Second(800)),
            next: 7,
            link: Link([9; 32]),
            before: summary("before"),
            after: summary("after"),
            pages: pages.to_vec(),
            floor: floor.map(Second),
        }
    }

    #[test]
    fn what_is_new_becomes_chunks_that_continue_the_orgs_sequence_and_what_is_known_becomes_nothing() {
        let seen = || vec![event(Some(600), 1), event(Some(720), 2), event(None, 3)];
        let changed = difference(&[], None).run(seen()).unwrap();
        let [timeless, timed] = changed.chunks.as_slice() else { panic!("{:?}", changed.chunks) };
        assert_eq!((timeless.number, timeless.count, timeless.previous), (7, 1, Link([9; 32])));
        assert_eq!((timed.number, timed.count, timed.previous), (8, 2, Link::of_claim(&timeless.claim)));
        assert_eq!((timed.id.as_str(), timed.org.as_str(), timed.mode), ("acme", "acme-corp", Mode::Late));
        let mut odd: Vec<_> = changed.odd.iter().map(|new| (new.at, new.odd.unknown_field)).collect();
        odd.sort_unstable();
        assert_eq!(odd, [(None, false), (Some(Second(600)), false), (Some(Second(720)), true)]);
        assert!(!changed.overflowed);

        let again = difference(&changed.tally, None).run(seen()).unwrap();
        assert_eq!((again.chunks, again.tally, again.odd.len()), (vec![], vec![], 0));
    }

    #[test]
    fn a_minute_is_tallied_unless_it_lies_wholly_below_the_floor_and_the_timeless_page_always() {
        let minutes = |floor| {
            let seen = vec![event(Some(600), 1), event(Some(659), 2), event(Some(720), 3), event(None, 4)];
            let changed = difference(&[], floor).run(seen).unwrap();
            assert_eq!(changed.odd.len(), 4, "all of it is journaled");
            changed.tally.iter().map(|page| page.minute).collect::<Vec<_>>()
        };
        assert_eq!(minutes(None), [TIMELESS_MINUTE, 10, 12]);
        assert_eq!(minutes(Some(659)), [TIMELESS_MINUTE, 10, 12], "its last second lies above");
        assert_eq!(minutes(Some(660)), [TIMELESS_MINUTE, 12]);
        assert_eq!(minutes(Some(900)), [TIMELESS_MINUTE]);
    }

    #[test]
    fn a_page_that_does_not_read_means_a_damaged_journal() {
        let page = TallyPage { minute: 10, body: b"?".to_vec() };
        let result = difference(&[page], None).run(vec![event(Some(600), 1)]);
        assert!(matches!(result, Err(JournalError::Damaged(cause)) if cause.contains("minute 10")));
    }
}
