//! Adopting: a fenced org takes what another instance has archived for its own, and numbers anew what only it has.
//!
//! Up to some number both chains are one. From there on the archive's chunks come into the journal in place of ours; the events of ours
//! are compared with theirs, equal payloads first, and what remains is cut into new chunks behind theirs, under our own name. All of it
//! is one transaction: until it is committed nothing has changed, and the command can be given again.
//!
//! A lane sends nothing again that it had acknowledged under an old number: chunks of which every event was, are passed ([`Passed`]).
//!
//! *Why what both have in common is left out of the comparison:* it is counted on both sides.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::rebuild::events;
use super::{Base, Failed, Recovery, Source, damaged, further};
use crate::chunk::{Chunk, Cut, Link, NewEvent, Packing, Summary};
use crate::collect::tally::Tally;
use crate::destination::{DestinationName, RowId};
use crate::event::Event;
use crate::journal::memory::MemoryJournal;
use crate::journal::restore::{Begin, Part, Restore};
use crate::journal::{Journal, OrgState};

/// The note of a lane's [`Passed`] begins with this; its name follows.
const PASSED: &str = "passed:";
/// Runs of chunks that a lane passes. What does not fit is sent again.
const PASSED_MAX: usize = 64;
/// Rows in quarantine read at once.
const QUARANTINE_PAGE: u32 = 1_000;

/// What was found, and what is to be done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Adopted {
    /// The first number that is not ours in the archive.
    pub from: u64,
    /// Chunks of the other instance.
    pub theirs: u64,
    /// Our chunks that gave way, and the events in them.
    pub ours: u64,
    pub our_events: u64,
    /// Events of them that only we had: they have new numbers.
    pub remaining: u64,
}

/// Chunks that a lane acknowledges without sending them: it has acknowledged their events before, under other numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed(Vec<(u64, u64)>);

impl Passed {
    pub async fn load(journal: &dyn Journal, org: &crate::event::OrgId, lane: DestinationName) -> Passed {
        let note = journal.note(org, &format!("{PASSED}{lane}")).await.ok().flatten();
        note.and_then(|note| serde_json::from_slice(&note).ok()).unwrap_or_default()
    }

    pub fn contains(&self, chunk: u64) -> bool {
        self.0.iter().any(|(from, until)| (*from..*until).contains(&chunk))
    }

    fn add(&mut self, chunk: u64) {
        let is_full = self.0.len() >= PASSED_MAX;
        match self.0.last_mut() {
            Some(last) if last.1 == chunk => last.1 += 1,
            _ if is_full => {}
            _ => self.0.push((chunk, chunk + 1)),
        }
    }
}

/// Events by what they are and how they read, with how many there are.
#[derive(Clone, Debug, Default)]
struct Bag(HashMap<([u8; 32], [u8; 32]), u32>);

impl Bag {
    fn add(&mut self, event: &Event) {
        *self.0.entry((event.identity.0, event.payload.0)).or_default() += 1;
    }

    fn take(&mut self, event: &Event) -> bool {
        match self.0.get_mut(&(event.identity.0, event.payload.0)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    /// Takes all of them, or none.
    fn take_all(&mut self, events: &[Event]) -> bool {
        let mut left = self.clone();
        let has_all = events.iter().all(|event| left.take(event));
        if has_all {
            *self = left;
        }
        has_all
    }
}

/// One of our chunks that gives way, and its events.
struct Ours {
    chunk: Chunk,
    events: Vec<Event>,
}

impl Recovery<'_> {
    /// What adopting would do; `None` where the archive holds nothing that the journal does not.
    ///
    /// # Errors
    /// When the archive cannot be read, or holds what cannot be believed.
    pub async fn adopt(
        &self,
        state: &OrgState,
        sources: &mut [Source],
        packing: Packing,
        commits: bool,
    ) -> Result<Option<Adopted>, Failed> {
        let mut found = None;
        let mut ends = Vec::new();
        for (index, source) in sources.iter_mut().enumerate() {
            let (number, link, theirs) = self.common(state, source).await?;
            let Some(extent) = self.extent(source).await? else { continue };
            ends.push((index, number, theirs.clone()));
            if theirs.is_some()
                && found.is_none_or(|(_, _, _, known): (_, _, _, super::Extent)| known.next < extent.next)
            {
                found = Some((index, number, link, extent));
            }
        }
        let Some((index, from, link, extent)) = found else { return Ok(None) };
        // Two archives of which one has our chunks and the other theirs under the same numbers can never be one chain.
        let theirs = ends.iter().find(|end| end.0 == index).and_then(|end| end.2.clone());
        let other = sources.iter().enumerate().find(|(other, source)| {
            let passed = state.checkpoints.get(&source.name).copied().unwrap_or_default();
            let end = ends.iter().find(|end| end.0 == *other);
            *other != index && passed > from && end.is_none_or(|end| end.1 > from || end.2 != theirs)
        });
        if let Some((_, other)) = other {
            let (other, archive) = (other.name, sources[index].name);
            return Err(damaged(
                format!("{other} already holds this instance's own chunk {from}, and {archive} the other instance's"),
                &format!("keep the archive of {other} as it is and give it a new place in the configuration, then adopt"),
            )
            .into());
        }

        // Put back beside the journal first.
        let staged = MemoryJournal::new();
        staged.open(self.org, self.lanes).await?;
        // They are read again, and all that is compared with them is counted.
        let uncover = self.windows(from, state.next).await?;
        let base = Base { keeps: Some((from, link)), uncover };
        let mut restored = self.rebuild(sources, index, extent, &base, &staged).await?;
        let mut theirs = Vec::new();
        for number in from..extent.next {
            theirs.extend(staged.chunk(self.org, number).await?);
        }
        let mut ours = Vec::new();
        for number in from..state.next {
            if let Some(chunk) = self.journal.chunk(self.org, number).await? {
                let events = events(&chunk, self.org)?;
                ours.push(Ours { chunk, events });
            }
        }

        let own: BTreeMap<DestinationName, u64> =
            state.checkpoints.iter().map(|(name, next)| (*name, (*next).min(from))).collect();
        further(&mut restored.checkpoints, &own);

        // What only we have.
        let mut compared = Tally::default();
        for chunk in &theirs {
            events(chunk, self.org)?.iter().for_each(|event| compared.put_back(event));
        }
        let all = ours.iter().flat_map(|ours| ours.events.iter().cloned()).collect();
        let mut only_ours = Bag::default();
        compared.take(all).iter().for_each(|new| only_ours.add(&new.event));
        let adopted = Adopted {
            from,
            theirs: theirs.len() as u64,
            ours: ours.len() as u64,
            our_events: ours.iter().map(|ours| ours.events.len() as u64).sum(),
            remaining: only_ours.0.values().map(|count| u64::from(*count)).sum(),
        };
        if !commits {
            return Ok(Some(adopted));
        }

        let sentinel = DestinationName::Sentinel;
        let delivered = state.checkpoints.get(&sentinel).copied().unwrap_or(0);
        let mut acknowledged = self.acknowledged(&ours, sentinel, delivered).await?;
        let mut passed = Passed::default();
        for chunk in &theirs {
            if acknowledged.take_all(&events(chunk, self.org)?) && !chunk.is_void() {
                passed.add(chunk.number);
            }
        }

        let all_pages = staged.tally(self.org, i64::MIN, i64::MAX).await?;
        let mut tally = Tally::read(&all_pages)
            .map_err(|damaged| crate::journal::JournalError::Damaged(damaged.to_string()))?;
        let mut next = extent.next;
        let mut chain = theirs.last().map_or(link, |chunk| Link::of_claim(&chunk.claim));
        let mut anew: Vec<Chunk> = Vec::new();
        // The latest copies of what is there several times are the ones that remain: they were sent last.
        let mut remaining: Vec<Vec<Event>> = Vec::new();
        for ours in ours.iter().rev() {
            remaining.push(ours.events.iter().filter(|event| only_ours.take(event)).cloned().collect());
        }
        for (ours, remaining) in ours.iter().zip(remaining.into_iter().rev()) {
            if remaining.is_empty() {
                continue;
            }
            let was_acknowledged = ours.chunk.number < delivered && acknowledged.take_all(&remaining);
            let new =
                remaining.into_iter().map(|event| NewEvent { key: tally.one_more(&event), event }).collect();
            let summary = Summary {
                start: restored.start,
                coverage: restored.coverage.spans().to_vec(),
                checkpoints: restored
                    .checkpoints
                    .iter()
                    .map(|(name, next)| (name.to_string(), *next))
                    .collect(),
                instance: state.instance.clone(),
                forwarder: env!("CARGO_PKG_VERSION").to_owned(),
                audit: None,
            };
            let cut = Cut {
                id: self.org,
                org: &ours.chunk.org,
                mode: ours.chunk.mode,
                window: ours.chunk.window,
                packing,
                next,
                link: chain,
                before: summary.clone(),
                after: summary,
            };
            for chunk in cut.chunks(new) {
                (next, chain) = (chunk.number + 1, Link::of_claim(&chunk.claim));
                if was_acknowledged {
                    passed.add(chunk.number);
                }
                anew.push(chunk);
            }
        }
        restored.next = next;

        let now = self.clock.now();
        let mut pages: BTreeMap<i64, _> = all_pages.into_iter().map(|page| (page.minute, page)).collect();
        pages.extend(tally.changed().into_iter().map(|page| (page.minute, page)));
        let chunks = theirs.into_iter().chain(anew).collect();
        let part = Part { chunks, tally: pages.into_values().collect(), now };
        let begin = Begin { next: from, link, mark: Vec::new() };
        self.journal
            .restore(self.org, vec![Restore::Begin(begin), Restore::Part(part), Restore::Done(restored)])
            .await?;
        // Were this lost, rows would be sent once more.
        let note = serde_json::to_vec(&passed).ok().filter(|_| !passed.0.is_empty());
        self.journal.set_note(self.org, &format!("{PASSED}{sentinel}"), note).await?;
        Ok(Some(adopted))
    }

    /// Our events that a lane has acknowledged and that are not in its quarantine.
    async fn acknowledged(
        &self,
        ours: &[Ours],
        lane: DestinationName,
        delivered: u64,
    ) -> Result<Bag, Failed> {
        let mut bag = Bag::default();
        let Some(first) = ours.first().map(|ours| ours.chunk.number) else { return Ok(bag) };
        let mut refused = std::collections::BTreeSet::new();
        let mut after = first.checked_sub(1).map(|chunk| RowId { chunk, row: u32::MAX });
        loop {
            let rows = self.journal.quarantine(self.org, lane, after, QUARANTINE_PAGE).await?;
            let Some(last) = rows.last() else { break };
            after = Some(last.refusal.at);
            refused.extend(rows.iter().map(|row| row.refusal.at));
        }
        for ours in ours.iter().filter(|ours| ours.chunk.number < delivered) {
            for (row, event) in (0..).zip(&ours.events) {
                if !refused.contains(&RowId { chunk: ours.chunk.number, row }) {
                    bag.add(event);
                }
            }
        }
        Ok(bag)
    }
}
