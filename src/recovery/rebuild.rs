//! Putting state back: one pass over all claims, in the order of their numbers, and over the objects of those that matter.
//!
//! An object matters where a lane has still to deliver it, where its events may be read again (from the tally's floor on), and where
//! its events have no time. Whatever is read is proven as `verify` proves it. A few claims and objects are in memory at a time.
//!
//! *Why a pass may be repeated:* a number that turns out to be empty takes its window out of coverage, and so may lower the floor below
//! objects that were passed over.

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use super::pieces::Settled;
use super::{Base, Extent, Failed, Mark, Recovery, Source, damaged};
use crate::chunk::{CHUNK_EVENTS_MAX, CHUNK_LINES_BYTES_MAX, Chunk, Line, Link, claim_key};
use crate::clock::{Second, Window};
use crate::collect::tally::{Tally, minute};
use crate::coverage::Coverage;
use crate::destination::DestinationName;
use crate::destination::archive::Obstacle;
use crate::event::{Event, OrgId, hex};
use crate::journal::restore::{Begin, Part, Restore, Restored};
use crate::journal::{Journal, JournalError, TIMELESS_MINUTE, TallyPage};
use crate::problem::WaitReason;
use crate::pulumi::wire::read_event;
use crate::verify::claim::{self, Read};
use crate::verify::{CLAIM_BYTES_MAX, Findings, object};

/// How often it is said how far the recovery is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// A claim with its bytes.
struct Claimed {
    number: u64,
    bytes: Bytes,
    read: Read,
}

/// What a pass rests on.
struct Pass<'a> {
    extent: Extent,
    /// The first chunk to be put back whole.
    low: u64,
    floor: Option<Second>,
    journal: &'a dyn Journal,
}

impl Recovery<'_> {
    /// Puts chunks and tally back into `journal`, and returns what remains to be committed for that to count.
    pub(super) async fn rebuild(
        &self,
        sources: &mut [Source],
        index: usize,
        extent: Extent,
        base: &Base,
        journal: &dyn Journal,
    ) -> Result<Restored, Failed> {
        let head = self.claimed(&mut sources[index], extent.next - 1).await?;
        let summary = &head.read.claim.summary;
        let whole = Coverage::from_spans(summary.coverage.clone())
            .map_err(|_| self.unbelievable(&sources[index], head.number, "its coverage is out of order"))?;
        let archive = sources[index].name;
        let mut checkpoints = std::collections::BTreeMap::new();
        for (name, checkpoint) in &summary.checkpoints {
            if let Some(name) = DestinationName::parse(name) {
                // An archive that begins later was configured when every lane had passed what came before.
                checkpoints.insert(name, (*checkpoint).clamp(extent.first, extent.next));
            }
        }
        checkpoints.insert(archive, extent.next);
        let low = match base.keeps {
            Some((next, _)) => next,
            None => {
                let lanes = self.lanes.iter().filter_map(|lane| checkpoints.get(lane).copied());
                lanes.min().unwrap_or(extent.next)
            }
        };
        let link = match base.keeps {
            Some((_, link)) => link,
            None if low == extent.next => Link::of_claim(&head.bytes),
            None => self.claimed(&mut sources[index], low).await?.previous()?,
        };

        let mut uncover = base.uncover.clone();
        let (coverage, floor) = loop {
            let mut coverage = whole.clone();
            uncover.iter().for_each(|window| coverage.uncover(*window));
            let start = summary.start.unwrap_or_default();
            let floor = self.policy.tally_floor(&coverage, None, start, self.clock.now());
            let mark = serde_json::to_vec(&Mark::of(base)).unwrap_or_default();
            journal.restore(self.org, vec![Restore::Begin(Begin { next: low, link, mark })]).await?;
            let voids = self.pass(sources, index, &Pass { extent, low, floor, journal }).await?;
            let known = uncover.len();
            uncover.extend(voids.into_iter().filter(|window| !base.uncover.contains(window)));
            uncover.sort_unstable_by_key(|window| (window.from, window.until));
            uncover.dedup();
            let mut after = whole.clone();
            uncover.iter().for_each(|window| after.uncover(*window));
            let lower = self.policy.tally_floor(&after, None, start, self.clock.now());
            // The clock goes on, so a later floor is only ever higher; it is the one that was used that counts.
            if uncover.len() == known || floor.is_none() || lower.is_some_and(|lower| Some(lower) >= floor) {
                break (after, floor);
            }
        };

        if base.keeps.is_none() {
            checkpoints.values_mut().for_each(|checkpoint| *checkpoint = (*checkpoint).max(low));
        }
        Ok(Restored { start: summary.start, coverage, next: extent.next, tally_floor: floor, checkpoints })
    }

    /// Goes over all claims once. Returns the windows of numbers that are empty.
    async fn pass(
        &self,
        sources: &mut [Source],
        index: usize,
        pass: &Pass<'_>,
    ) -> Result<Vec<Window>, Failed> {
        let Extent { first, next } = pass.extent;
        let at_once = sources[index].readers.len().max(1) as u64;
        let (mut voids, mut previous, mut said) = (Vec::new(), None, Instant::now());
        let mut from = first;
        while from < next {
            let until = next.min(from.saturating_add(at_once));
            let claims = self.claims(&mut sources[index], from, until, &mut previous).await?;
            let matters: Vec<Claimed> = claims.into_iter().filter(|claimed| pass.matters(claimed)).collect();
            let keys: Vec<String> = matters
                .iter()
                .map(|claimed| claimed.read.object_key(self.org, claimed.number))
                .map(Option::unwrap_or_default)
                .collect();
            let bytes_max = usize::try_from(CHUNK_LINES_BYTES_MAX).unwrap_or(usize::MAX);
            let bodies = self.read_all(&mut sources[index], &keys, bytes_max).await?;
            for (claimed, body) in matters.into_iter().zip(bodies) {
                let chunk = claimed.chunk(self.org)?;
                let body = match body {
                    Some(body) => Settled::Whole(body),
                    None => self.settle(sources, index, chunk.clone(), claimed.number + 1 == next).await?,
                };
                let window = chunk.window;
                let chunk = match body {
                    Settled::Whole(body) => {
                        self.proven(&sources[index], &claimed, Chunk { body, ..chunk })?
                    }
                    Settled::Void => chunk.void(),
                };
                if chunk.is_void() {
                    voids.push(window);
                }
                self.keep(chunk, pass).await?;
            }
            from = until;
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                tracing::info!(org = %self.org, claims = from - first, of = next - first, "recovering from the archive");
            }
            if let Some(party) = self.party {
                let text = format!("{} of {} claims", from - first, next - first);
                party.waiting(WaitReason::Recovering, None, &text);
            }
        }
        Ok(voids)
    }

    /// Some claims, each proven, and linked to the one before.
    async fn claims(
        &self,
        source: &mut Source,
        from: u64,
        until: u64,
        previous: &mut Option<Link>,
    ) -> Result<Vec<Claimed>, Failed> {
        let keys: Vec<String> = (from..until).map(|number| claim_key(self.org, number)).collect();
        let found = self.read_all(source, &keys, CLAIM_BYTES_MAX + 1).await?;
        let mut claims = Vec::with_capacity(found.len());
        for (number, bytes) in (from..until).zip(found) {
            let claimed = self.believed(source, number, bytes)?;
            if previous.is_some_and(|link| claimed.read.claim.previous != hex(&link.0)) {
                return Err(self
                    .unbelievable(source, number, "it does not continue the claim before it")
                    .into());
            }
            *previous = Some(Link::of_claim(&claimed.bytes));
            claims.push(claimed);
        }
        Ok(claims)
    }

    async fn claimed(&self, source: &mut Source, number: u64) -> Result<Claimed, Failed> {
        let bytes = self.read(source, &claim_key(self.org, number), CLAIM_BYTES_MAX + 1).await?;
        self.believed(source, number, bytes)
    }

    fn believed(&self, source: &Source, number: u64, bytes: Option<Bytes>) -> Result<Claimed, Failed> {
        let Some(bytes) = bytes else {
            return Err(self.unbelievable(source, number, "it is missing between others").into());
        };
        if bytes.len() > CLAIM_BYTES_MAX {
            return Err(self.unbelievable(source, number, "it is too long for a claim").into());
        }
        let mut wrong = Findings::default();
        let read = claim::check(&bytes, self.org, number, &mut wrong);
        match (read, &wrong.first) {
            (Some(read), None) => Ok(Claimed { number, bytes, read }),
            (_, Some(wrong)) => Err(self.unbelievable(source, number, &wrong.to_string()).into()),
            (None, None) => Err(self.unbelievable(source, number, "it is not a claim").into()),
        }
    }

    fn unbelievable(&self, source: &Source, number: u64, what: &str) -> Obstacle {
        let located = source.readers[0].locate(&claim_key(self.org, number));
        damaged(
            format!("the archive cannot be recovered from: {located}: {what}"),
            "put back a former version or a copy of this claim (`verify` names all that is wrong), or, to begin anew, give the archive \
             another `prefix` or `path`",
        )
    }

    /// A chunk whose lines are what its claim says.
    fn proven(&self, source: &Source, claimed: &Claimed, chunk: Chunk) -> Result<Chunk, Failed> {
        let (number, key) = (claimed.number, chunk.object_key());
        let before = number.saturating_add(1).saturating_mul(CHUNK_EVENTS_MAX as u64);
        let object = object::check(&claimed.read, self.org, number, &key, &chunk.body, before);
        if object.is_void {
            return Ok(chunk.void());
        }
        match object.wrong.first {
            None => Ok(chunk),
            Some(wrong) => Err(damaged(
                format!("the archive cannot be recovered from: {}: {wrong}", source.readers[0].locate(&key)),
                "put back a former version or a copy of this object, or remove it: its window is then read again",
            )
            .into()),
        }
    }

    /// Puts one chunk's events into the tally, and the chunk itself where a lane needs it.
    async fn keep(&self, chunk: Chunk, pass: &Pass<'_>) -> Result<(), Failed> {
        let mut events = events(&chunk, self.org)?;
        events.retain(|event| pass.is_tallied(event));
        let tally = counted(pass.journal, self.org, &events).await?;
        let chunks = if chunk.number >= pass.low { vec![chunk] } else { Vec::new() };
        if !chunks.is_empty() || !tally.is_empty() {
            let part = Part { chunks, tally, now: self.clock.now() };
            pass.journal.restore(self.org, vec![Restore::Part(part)]).await?;
        }
        Ok(())
    }
}

/// The pages on which `events` are counted too.
async fn counted(
    journal: &dyn Journal,
    org: &OrgId,
    events: &[Event],
) -> Result<Vec<TallyPage>, JournalError> {
    let minutes = || events.iter().map(minute).filter(|minute| *minute != TIMELESS_MINUTE);
    let mut pages = Vec::new();
    if let (Some(first), Some(last)) = (minutes().min(), minutes().max()) {
        pages = journal.tally(org, first, last + 1).await?;
    }
    if events.iter().any(|event| event.at.is_none()) {
        pages.extend(journal.tally(org, TIMELESS_MINUTE, TIMELESS_MINUTE + 1).await?);
    }
    let mut tally = Tally::read(&pages).map_err(|damaged| JournalError::Damaged(damaged.to_string()))?;
    events.iter().for_each(|event| tally.put_back(event));
    Ok(tally.changed())
}

/// The events of a chunk, with the time they were journaled with.
pub(super) fn events(chunk: &Chunk, org: &OrgId) -> Result<Vec<Event>, JournalError> {
    use base64::Engine;
    let damaged = || JournalError::Damaged(format!("a line of chunk {} does not read", chunk.number));
    let lines = chunk.lines().map_err(|damaged| JournalError::Damaged(damaged.to_string()))?;
    let mut events = Vec::with_capacity(chunk.count as usize);
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|_| damaged())?;
        let raw = match (line.event, line.event_base64) {
            (Some(event), _) => Bytes::copy_from_slice(event.get().as_bytes()),
            (None, Some(text)) => {
                Bytes::from(base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| damaged())?)
            }
            (None, None) => return Err(damaged()),
        };
        // Whether a time was plausible was decided when it was read.
        let at = line.time.map(|time| Second::parse_rfc3339(time).ok_or_else(damaged)).transpose()?;
        events.push(Event { at, ..read_event(raw, org, Second(i64::MAX)) });
    }
    Ok(events)
}

impl Pass<'_> {
    fn matters(&self, claimed: &Claimed) -> bool {
        let has_no_time = claimed.read.first.is_none();
        let may_be_read_again = claimed.read.last.is_none_or(|last| self.is_above_floor(last));
        claimed.number >= self.low || has_no_time || may_be_read_again
    }

    fn is_tallied(&self, event: &Event) -> bool {
        event.at.is_none_or(|at| self.is_above_floor(at))
    }

    /// Whether the minute of this second is kept.
    fn is_above_floor(&self, at: Second) -> bool {
        self.floor.is_none_or(|floor| (at.0.div_euclid(60) + 1) * 60 > floor.0)
    }
}

impl Claimed {
    /// The link of the claim before this one.
    fn previous(&self) -> Result<Link, Failed> {
        unhex(&self.read.claim.previous).map(Link).ok_or_else(|| {
            damaged(format!("claim {} names no claim before it", self.number), "put back a copy of it").into()
        })
    }

    /// The chunk that was claimed, without its body.
    fn chunk(&self, org: &OrgId) -> Result<Chunk, Failed> {
        let Read { claim, window, first, last, day } = &self.read;
        let unreadable =
            || damaged(format!("claim {} does not say what it claims", self.number), "put back a copy of it");
        Ok(Chunk {
            number: self.number,
            id: org.clone(),
            org: claim.org.clone(),
            mode: claim.mode,
            date: day.ok_or_else(unreadable)?.date(),
            window: window.ok_or_else(unreadable)?,
            count: claim.count,
            first: *first,
            last: *last,
            sha256: unhex(&claim.sha256).ok_or_else(unreadable)?,
            previous: self.previous()?,
            body: Bytes::new(),
            claim: self.bytes.clone(),
        })
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}
