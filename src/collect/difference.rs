//! The work between reading a window and committing it: what of it is new, and the chunks of that. Pure, and long enough to leave the
//! runtime's threads alone: it runs on one for blocking work.

use std::sync::Arc;

use crate::chunk::{Chunk, Cut, Link, Summary};
use crate::clock::{Second, Window};
use crate::collect::plan::Kind;
use crate::collect::tally::Tally;
use crate::config::settings::OrgSettings;
use crate::event::{Event, Odd};
use crate::journal::{JournalError, TIMELESS_MINUTE, TallyPage};

/// The work between reading and committing.
pub(super) struct Difference {
    pub(super) settings: Arc<OrgSettings>,
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
            id: &self.settings.id,
            org: &self.settings.org,
            mode: self.kind.mode(),
            window: self.window,
            packing: self.settings.packing(),
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
