//! The journal in memory: the reference that says, in the fewest words, what [`Journal`] promises, but for surviving the process.
//!
//! It serves tests on a paused clock, where waiting for another thread would let time run away.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::chunk::{Chunk, Link};
use crate::clock::Second;
use crate::coverage::Coverage;
use crate::destination::{DestinationName, Receipt, Refusal, RowId};
use crate::event::OrgId;
use crate::journal::decision::{Action, DECISIONS_KEPT, Decision};
use crate::journal::restore::{Begin, MARK, Part, Restore, Restored};
use crate::journal::{
    Acknowledge, Append, Journal, JournalError, NOTE_BYTES_MAX, OrgState, Outstanding, PROVISIONAL_ROWS_MAX,
    QUARANTINE_ROWS_MAX, Quarantined, TIMELESS_MINUTE, TallyPage, Usage, WINDOWS_KEPT, WindowRecord,
};

#[derive(Debug)]
pub struct MemoryJournal {
    instance: String,
    orgs: Mutex<BTreeMap<OrgId, Org>>,
}

#[derive(Clone, Debug, Default)]
struct Org {
    revision: u64,
    start: Option<Second>,
    coverage: Coverage,
    /// Those kept, by number, with the time they were appended at.
    chunks: BTreeMap<u64, (Chunk, Second)>,
    next: u64,
    link: Option<Link>,
    tally: BTreeMap<i64, Vec<u8>>,
    tally_floor: Option<Second>,
    windows: Vec<WindowRecord>,
    lanes: BTreeMap<DestinationName, Lane>,
    notes: BTreeMap<String, Vec<u8>>,
    decisions: Vec<Decision>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    checkpoint: u64,
    configured: bool,
    /// With the time of each.
    receipts: BTreeMap<u64, (Receipt, Second)>,
    quarantine: BTreeMap<RowId, Refusal>,
}

impl Default for MemoryJournal {
    fn default() -> MemoryJournal {
        // A hasher's keys are the only randomness the standard library has, and enough for a name.
        let random = std::hash::RandomState::new().build_hasher().finish();
        MemoryJournal { instance: format!("{random:016x}"), orgs: Mutex::default() }
    }
}

/// A copy of it as it is now, as of a state directory.
impl Clone for MemoryJournal {
    fn clone(&self) -> MemoryJournal {
        MemoryJournal { instance: self.instance.clone(), orgs: Mutex::new(self.orgs().clone()) }
    }
}

impl MemoryJournal {
    pub fn new() -> MemoryJournal {
        MemoryJournal::default()
    }

    /// With this for the name that claims carry, in place of a random one.
    pub fn named(instance: &str) -> MemoryJournal {
        MemoryJournal { instance: instance.to_owned(), orgs: Mutex::default() }
    }

    /// The windows committed for an org, oldest first.
    pub fn windows(&self, org: &OrgId) -> Vec<WindowRecord> {
        self.orgs().get(org).map(|org| org.windows.clone()).unwrap_or_default()
    }

    /// What has been read of an org.
    pub fn coverage(&self, org: &OrgId) -> Coverage {
        self.orgs().get(org).map(|org| org.coverage.clone()).unwrap_or_default()
    }

    /// What a lane's destination answered, by chunk.
    pub fn receipts(&self, org: &OrgId, destination: DestinationName) -> BTreeMap<u64, Receipt> {
        let orgs = self.orgs();
        let lane = orgs.get(org).and_then(|org| org.lanes.get(&destination));
        let receipts = lane.map(|lane| lane.receipts.clone()).unwrap_or_default();
        receipts.into_iter().map(|(chunk, (receipt, _))| (chunk, receipt)).collect()
    }

    /// A panic elsewhere leaves the maps whole: every change below happens after its last check.
    fn orgs(&self) -> MutexGuard<'_, BTreeMap<OrgId, Org>> {
        self.orgs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(
        &self,
        id: &OrgId,
        change: impl FnOnce(&mut Org) -> Result<T, JournalError>,
    ) -> Result<T, JournalError> {
        match self.orgs().get_mut(id) {
            Some(org) => change(org),
            None => Err(JournalError::Conflict(format!("`{id}` has not been opened"))),
        }
    }
}

impl Org {
    fn oldest(&self) -> u64 {
        self.chunks.first_key_value().map_or(self.next, |(number, _)| *number)
    }

    fn held_from(&self) -> Option<u64> {
        self.lanes.values().filter(|lane| lane.configured).map(|lane| lane.checkpoint).min()
    }

    fn bytes_from(&self, from: u64) -> u64 {
        self.chunks.range(from..).map(|(_, (chunk, _))| (chunk.body.len() + chunk.claim.len()) as u64).sum()
    }
}

/// Steps of putting back what an archive holds.
impl Org {
    fn begin(&mut self, begin: Begin) -> Result<(), JournalError> {
        let Begin { next, link, mark } = begin;
        if !(self.oldest() < next && next <= self.next) {
            self.chunks.clear();
        }
        self.chunks.split_off(&next);
        if self.chunks.last_key_value().is_some_and(|(_, (chunk, _))| Link::of_claim(&chunk.claim) != link) {
            return Err(JournalError::Conflict(format!("chunk {next} does not continue what is kept")));
        }
        self.revision += 1;
        (self.start, self.tally_floor) = (None, None);
        self.coverage = Coverage::default();
        self.tally.clear();
        (self.next, self.link) = (next, Some(link));
        for lane in self.lanes.values_mut() {
            lane.checkpoint = lane.checkpoint.min(next);
            lane.receipts.split_off(&next);
            lane.quarantine.split_off(&RowId { chunk: next, row: 0 });
        }
        self.notes.insert(MARK.to_owned(), mark);
        Ok(())
    }

    fn part(&mut self, id: &OrgId, part: Part) -> Result<(), JournalError> {
        self.marked()?;
        for chunk in part.chunks {
            let link = self.link.unwrap_or(Link::FIRST);
            if chunk.id != *id || chunk.number != self.next || chunk.previous != link {
                return Err(JournalError::Conflict(format!("chunk {} is not the next", chunk.number)));
            }
            (self.next, self.link) = (chunk.number + 1, Some(Link::of_claim(&chunk.claim)));
            self.chunks.insert(chunk.number, (chunk, part.now));
        }
        self.tally.extend(part.tally.into_iter().map(|page| (page.minute, page.body)));
        Ok(())
    }

    fn done(&mut self, restored: Restored) -> Result<(), JournalError> {
        self.marked()?;
        let oldest = self.oldest();
        if restored.next != self.next || restored.checkpoints.values().any(|next| *next > self.next) {
            return Err(JournalError::Conflict(format!(
                "not all is put back before chunk {}",
                restored.next
            )));
        }
        self.revision += 1;
        self.start = restored.start;
        self.coverage = restored.coverage;
        self.tally_floor = restored.tally_floor;
        for (name, checkpoint) in restored.checkpoints {
            self.lanes.entry(name).or_default().checkpoint = checkpoint.max(oldest);
        }
        self.notes.remove(MARK);
        Ok(())
    }

    fn marked(&self) -> Result<(), JournalError> {
        match self.notes.contains_key(MARK) {
            true => Ok(()),
            false => Err(JournalError::Conflict("nothing is being put back".to_owned())),
        }
    }
}

#[async_trait]
impl Journal for MemoryJournal {
    async fn open(&self, id: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, JournalError> {
        let mut orgs = self.orgs();
        let org = orgs.entry(id.clone()).or_default();
        let oldest = org.oldest();
        let wanted: BTreeSet<DestinationName> = lanes.iter().copied().collect();
        let mut added = Vec::new();
        for name in &wanted {
            let known = org.lanes.contains_key(name);
            let lane = org.lanes.entry(*name).or_default();
            if !known || lane.checkpoint < oldest {
                lane.checkpoint = oldest;
                added.push((*name, oldest));
            }
        }
        for (name, lane) in &mut org.lanes {
            lane.configured = wanted.contains(name);
        }
        Ok(OrgState {
            revision: org.revision,
            instance: self.instance.clone(),
            start: org.start,
            coverage: org.coverage.clone(),
            next: org.next,
            link: org.link.unwrap_or(Link::FIRST),
            tally_floor: org.tally_floor,
            checkpoints: wanted.iter().map(|name| (*name, org.lanes[name].checkpoint)).collect(),
            added,
        })
    }

    async fn orgs(&self) -> Result<Vec<OrgId>, JournalError> {
        Ok(self.orgs().keys().cloned().collect())
    }

    async fn tally(&self, org: &OrgId, from: i64, until: i64) -> Result<Vec<TallyPage>, JournalError> {
        let orgs = self.orgs();
        let Some(org) = orgs.get(org).filter(|_| from < until) else { return Ok(Vec::new()) };
        let pages = org.tally.range(from..until);
        Ok(pages.map(|(minute, body)| TallyPage { minute: *minute, body: body.clone() }).collect())
    }

    async fn append(&self, id: &OrgId, append: Append) -> Result<(), JournalError> {
        self.change(id, |org| {
            if append.revision != org.revision {
                return Err(JournalError::Conflict(format!("`{id}` is at revision {}", org.revision)));
            }
            let (mut next, mut link) = (org.next, org.link.unwrap_or(Link::FIRST));
            for chunk in &append.chunks {
                if chunk.id != *id || chunk.number != next || chunk.previous != link {
                    return Err(JournalError::Conflict(format!("chunk {} is not the next", chunk.number)));
                }
                next += 1;
                link = Link::of_claim(&chunk.claim);
            }

            org.revision += 1;
            org.start = append.start.or(org.start);
            org.coverage = append.coverage;
            (org.next, org.link) = (next, Some(link));
            org.chunks.extend(append.chunks.into_iter().map(|chunk| (chunk.number, (chunk, append.now))));
            org.tally.extend(append.tally.into_iter().map(|page| (page.minute, page.body)));
            org.tally_floor = org.tally_floor.max(append.tally_floor);
            if let Some(floor) = org.tally_floor {
                org.tally.retain(|minute, _| {
                    *minute == TIMELESS_MINUTE || minute.saturating_add(1).saturating_mul(60) > floor.0
                });
            }
            org.windows.extend(append.window);
            let surplus = org.windows.len().saturating_sub(WINDOWS_KEPT as usize);
            org.windows.drain(..surplus);
            Ok(())
        })
    }

    async fn chunk(&self, org: &OrgId, number: u64) -> Result<Option<Chunk>, JournalError> {
        let orgs = self.orgs();
        Ok(orgs.get(org).and_then(|org| org.chunks.get(&number)).map(|(chunk, _)| chunk.clone()))
    }

    async fn acknowledge(&self, id: &OrgId, acknowledge: Acknowledge) -> Result<(), JournalError> {
        let Acknowledge { destination, chunk, receipt, now } = acknowledge;
        self.change(id, |org| {
            let next = org.next;
            let lane =
                org.lanes.get_mut(&destination).filter(|lane| lane.checkpoint == chunk && chunk < next);
            let Some(lane) = lane else {
                return Err(JournalError::Conflict(format!(
                    "lane `{destination}` of `{id}` is not at {chunk}"
                )));
            };
            let mut quarantine = lane.quarantine.clone();
            if receipt.confirms {
                quarantine.values_mut().for_each(|refusal| refusal.provisional = false);
            }
            for at in &receipt.released {
                quarantine.remove(at);
            }
            quarantine.extend(receipt.quarantined.iter().map(|refusal| (refusal.at, refusal.clone())));
            if quarantine.len() as u64 > QUARANTINE_ROWS_MAX {
                return Err(JournalError::Full(format!(
                    "the quarantine of lane `{destination}` of `{id}` has {QUARANTINE_ROWS_MAX} rows, and no room for those of chunk {}",
                    acknowledge.chunk
                )));
            }
            lane.quarantine = quarantine;
            lane.receipts.insert(chunk, (receipt, now));
            while lane.receipts.len() > WINDOWS_KEPT as usize {
                lane.receipts.pop_first();
            }
            lane.checkpoint += 1;
            Ok(())
        })
    }

    async fn outstanding(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Outstanding, JournalError> {
        let orgs = self.orgs();
        let Some(org) = orgs.get(org) else { return Ok(Outstanding::default()) };
        let lane = org.lanes.get(&destination);
        let left = || org.chunks.range(lane.map_or(0, |lane| lane.checkpoint)..).map(|(_, (chunk, _))| chunk);
        Ok(Outstanding {
            chunks: left().count() as u64,
            events: left().map(|chunk| u64::from(chunk.count)).sum(),
            first: left().filter_map(|chunk| chunk.first).min(),
            quarantined: lane.map_or(0, |lane| lane.quarantine.len() as u64),
        })
    }

    async fn quarantine(
        &self,
        org: &OrgId,
        destination: DestinationName,
        after: Option<RowId>,
        limit: u32,
    ) -> Result<Vec<Quarantined>, JournalError> {
        let orgs = self.orgs();
        let Some(lane) = orgs.get(org).and_then(|org| org.lanes.get(&destination)) else {
            return Ok(Vec::new());
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = lane.quarantine.range((from, Bound::Unbounded)).take(limit as usize);
        Ok(rows
            .map(|(at, refusal)| Quarantined {
                refusal: refusal.clone(),
                since: lane.receipts.get(&at.chunk).map(|(_, at)| *at),
            })
            .collect())
    }

    async fn provisional(
        &self,
        org: &OrgId,
        destination: DestinationName,
    ) -> Result<Vec<Refusal>, JournalError> {
        let orgs = self.orgs();
        let Some(lane) = orgs.get(org).and_then(|org| org.lanes.get(&destination)) else {
            return Ok(Vec::new());
        };
        let provisional = lane.quarantine.values().filter(|refusal| refusal.provisional);
        Ok(provisional.take(PROVISIONAL_ROWS_MAX as usize).cloned().collect())
    }

    async fn decide(&self, id: &OrgId, decision: Decision) -> Result<u64, JournalError> {
        if let Some(objection) = decision.objection() {
            return Err(JournalError::Conflict(objection));
        }
        self.change(id, |org| {
            let oldest = org.oldest();
            let destination = decision.destination;
            let lane = org.lanes.get_mut(&destination);
            let lane =
                lane.ok_or_else(|| JournalError::Conflict(format!("`{id}` has no lane `{destination}`")))?;
            let mut quarantine = lane.quarantine.clone();
            for at in &decision.rows {
                let RowId { chunk, row } = at;
                if decision.action == Action::Retry && *chunk < oldest {
                    return Err(JournalError::Conflict(format!("chunk {chunk} of `{id}` is no longer kept")));
                }
                let found = match decision.action {
                    Action::Retry => quarantine.get_mut(at).map(|refusal| refusal.provisional = true),
                    Action::Drop => quarantine.remove(at).map(|_| ()),
                };
                found.ok_or_else(|| {
                    JournalError::Conflict(format!(
                        "row {row} of chunk {chunk} of `{id}` is not in quarantine"
                    ))
                })?;
            }
            let provisional = quarantine.values().filter(|refusal| refusal.provisional).count();
            if decision.action == Action::Retry && provisional > PROVISIONAL_ROWS_MAX as usize {
                return Err(JournalError::Conflict(format!("{provisional} rows of `{id}` would wait")));
            }
            lane.quarantine = quarantine;
            let left = lane.quarantine.len() as u64;
            org.decisions.push(decision);
            let surplus = org.decisions.len().saturating_sub(DECISIONS_KEPT as usize);
            org.decisions.drain(..surplus);
            Ok(left)
        })
    }

    async fn decisions(&self, org: &OrgId, limit: u32) -> Result<Vec<Decision>, JournalError> {
        let orgs = self.orgs();
        let decisions = orgs.get(org).map(|org| org.decisions.iter().rev().take(limit as usize).cloned());
        Ok(decisions.map(Iterator::collect).unwrap_or_default())
    }

    async fn restore(&self, id: &OrgId, steps: Vec<Restore>) -> Result<(), JournalError> {
        self.change(id, |org| {
            let mut changed = org.clone();
            for step in steps {
                match step {
                    Restore::Begin(begin) => changed.begin(begin),
                    Restore::Part(part) => changed.part(id, part),
                    Restore::Done(restored) => changed.done(restored),
                }?;
            }
            *org = changed;
            Ok(())
        })
    }

    async fn usage(&self, org: &OrgId) -> Result<Usage, JournalError> {
        let orgs = self.orgs();
        let Some(org) = orgs.get(org) else { return Ok(Usage::default()) };
        Ok(Usage {
            chunks: org.chunks.len() as u64,
            bytes: org.bytes_from(0),
            unacknowledged_bytes: org.held_from().map_or(0, |from| org.bytes_from(from)),
        })
    }

    async fn prune(&self, id: &OrgId, before: Second, bytes_max: u64) -> Result<u64, JournalError> {
        self.change(id, |org| {
            let held = org.held_from().unwrap_or(0);
            let mut bytes = org.bytes_from(0);
            let mut pruned = 0;
            while let Some(oldest) = org.chunks.first_entry() {
                let (chunk, appended) = oldest.get();
                if *oldest.key() >= held || (*appended >= before && bytes <= bytes_max) {
                    break;
                }
                bytes -= (chunk.body.len() + chunk.claim.len()) as u64;
                oldest.remove();
                pruned += 1;
            }
            Ok(pruned)
        })
    }

    async fn note(&self, org: &OrgId, name: &str) -> Result<Option<Vec<u8>>, JournalError> {
        Ok(self.orgs().get(org).and_then(|org| org.notes.get(name)).cloned())
    }

    async fn set_note(&self, id: &OrgId, name: &str, value: Option<Vec<u8>>) -> Result<(), JournalError> {
        if value.as_ref().is_some_and(|value| value.len() > NOTE_BYTES_MAX) {
            return Err(JournalError::Conflict(format!(
                "note `{name}` is longer than {NOTE_BYTES_MAX} bytes"
            )));
        }
        self.change(id, |org| {
            match value {
                Some(value) => org.notes.insert(name.to_owned(), value),
                None => org.notes.remove(name),
            };
            Ok(())
        })
    }
}
