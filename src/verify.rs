//! Proves an archive: walks the claims and objects of one org and says whether they are what was written, and what is wrong first.
//!
//! Checked: every claim, the chain from one to the next, numbers without a gap, each object's lines against its claim, each line's
//! bytes against its values, each event against its key, objects that nobody claimed, and, where somebody noted it, the head.
//! It writes nothing, decides nothing about delivery, and prints nothing: it reads through a [`Reader`] and gives a [`Report`].
//!
//! It holds a few objects at a time, one line of each, and 24 bytes for every chunk: never an archive.
//!
//! *Why a head:* a chain shows what was changed inside it, not that its end was cut off together with what belongs to it. That shows
//! only against something kept elsewhere: a hash that a person noted, or the journal.
//!
//! *Why an empty object is accepted under any claim:* a number whose object never came is settled in that way after a lost state
//! directory. It is named, not passed over.

pub(crate) mod claim;
mod finding;
pub(crate) mod object;
#[cfg(test)]
mod tests;

use std::collections::{HashSet, VecDeque};

use async_trait::async_trait;
use bytes::Bytes;

use self::claim::Read;
use self::finding::shown;
pub use self::finding::{Findings, Kind, Wrong};
use self::object::Object;
#[cfg(any(test, fuzzing))]
pub(crate) use self::{claim::property as claim_property, object::property as object_property};
use crate::chunk::{CHUNK_EVENTS_MAX, CHUNK_LINES_BYTES_MAX, Link, claim_key, object_key};
use crate::clock::{Second, Window};
use crate::destination::DestinationName;
use crate::destination::archive::Obstacle;
use crate::event::{OrgId, hex};

/// Longest claim: its coverage has a span for each damaged second.
pub(crate) const CLAIM_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Event keys remembered, the newest of them, to find an event that is archived twice.
const KEYS_MAX: usize = 300_000;
/// Notes kept.
const NOTES_MAX: usize = 20;

/// An archive as far as it is looked at here.
#[async_trait]
pub trait Reader: Send + 'static {
    /// A key as a person would look it up.
    fn locate(&self, key: &str) -> String;

    /// Begins to list what lies below a key that ends in `/`.
    fn list(&mut self, below: &str);

    /// The next keys, in their order where they lie side by side; none at the end. After an obstacle it goes on where it stood.
    async fn more(&mut self) -> Result<Vec<String>, Obstacle>;

    /// The first `bytes_max` bytes under a key; `None` when there are none.
    async fn read(&mut self, key: &str, bytes_max: usize) -> Result<Option<Bytes>, Obstacle>;
}

/// What to look at.
#[derive(Clone, Debug)]
pub struct Asked {
    pub org: OrgId,
    /// Whose archive it is; `None` where that is not known.
    pub lane: Option<DestinationName>,
    /// Only objects with events in it are read. Claims are all read: a part of a chain proves nothing.
    pub within: Option<Window>,
    /// The SHA-256 of a claim that somebody noted, hexadecimal.
    pub head: Option<String>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Claims.
    pub chunks: u64,
    /// Objects that were unpacked.
    pub objects: u64,
    /// Of those.
    pub events: u64,
    /// Of their lines.
    pub bytes: u64,
    /// Of all claims.
    pub first: Option<Second>,
    pub last: Option<Second>,
    /// The newest claim, its number and the SHA-256 of its bytes.
    pub head: Option<(u64, Link)>,
    /// The newest claim has no object: a daemon is at work on it, or it was removed.
    pub lacks_newest_object: bool,
    /// Numbers settled without events.
    pub voids: u64,
    pub wrong: Findings,
    /// What is not wrong and worth knowing: at most twenty.
    pub notes: Vec<String>,
}

impl Report {
    fn note(&mut self, text: String) {
        if self.notes.len() < NOTES_MAX {
            self.notes.push(text);
        }
    }

    fn next(&self) -> u64 {
        self.head.map_or(0, |(number, _)| number + 1)
    }
}

/// What the journal knows of an org, asked after the archive was walked.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The number the next chunk will get.
    pub next: u64,
    /// The lane's: chunks below it are in the archive.
    pub checkpoint: u64,
    /// The link of the archive's newest claim, where the journal still has it.
    pub link: Option<Link>,
}

impl Report {
    /// Compares the archive's end with what the journal knows: whoever removes the newest chunks with their claims breaks no link.
    pub fn compare(&mut self, org: &OrgId, known: &Known) {
        let next = self.next();
        let newest = next.saturating_sub(1);
        let wrong =
            |kind| Wrong::new(kind, newest, &claim_key(org, newest), "the number of the newest claim");
        let found = self.head.map_or_else(|| "none".to_owned(), |(number, _)| number.to_string());
        if self.lacks_newest_object && newest < known.checkpoint {
            let wrong =
                Wrong::new(Kind::ObjectMissing, newest, &claim_key(org, newest), "the object of this claim");
            self.wrong.push(wrong.differs("there, as the journal says", "not there"));
        }
        if next < known.checkpoint {
            let expected = format!("{} or more, as the journal says", known.checkpoint - 1);
            self.wrong.push(wrong(Kind::Tail).differs(expected, found));
        } else if next > known.next {
            let expected = match known.next.checked_sub(1) {
                Some(newest) => format!("{newest} or less, as the journal says"),
                None => "none, as the journal says".to_owned(),
            };
            self.wrong.push(wrong(Kind::Ahead).differs(expected, found));
        } else if let (Some((number, head)), Some(link)) = (self.head, known.link)
            && head != link
        {
            let wrong =
                Wrong::new(Kind::Chain, number, &claim_key(org, number), "the SHA-256 of the newest claim");
            let expected = format!("{} as the journal says", hex(&link.0));
            self.wrong.push(wrong.differs(expected, hex(&head.0)));
        }
    }
}

/// Goes over an org's archive with as many readers at once as are given, which must be at least one.
///
/// # Errors
/// What kept a reader from reading; nothing is known then.
pub async fn walk<R: Reader>(
    readers: Vec<R>,
    asked: &Asked,
    progress: &mut (dyn FnMut(&Report) + Send),
) -> Result<Report, Obstacle> {
    let mut walk = Walk {
        asked,
        readers,
        report: Report::default(),
        claimed: Vec::new(),
        missing: 0,
        events: 0,
        keys: Keys::default(),
        head_seen: false,
    };
    walk.claims(progress).await?;
    walk.objects(progress).await?;
    walk.end();
    let mut report = walk.report;
    // The keys were relative to the prefix until here.
    if let (Some(wrong), Some(reader)) = (report.wrong.first.as_mut(), walk.readers.first()) {
        wrong.place = shown(&reader.locate(&wrong.place));
    }
    progress(&report);
    Ok(report)
}

struct Walk<'a, R> {
    asked: &'a Asked,
    readers: Vec<R>,
    report: Report,
    claimed: Vec<Claimed>,
    /// Numbers without a claim between those with one.
    missing: u64,
    /// Claimed so far.
    events: u64,
    keys: Keys,
    head_seen: bool,
}

/// A number that has a claim.
struct Claimed {
    number: u64,
    /// The date its object lies under; `None` where the claim does not say.
    day: Option<Second>,
    object: Presence,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    NotLookedFor,
    There,
    Absent,
}

impl<R: Reader> Walk<'_, R> {
    /// All claims in the order of their numbers, and the objects of those that are asked for.
    async fn claims(&mut self, progress: &mut (dyn FnMut(&Report) + Send)) -> Result<(), Obstacle> {
        let below = format!("_chain/org={}/", self.asked.org);
        self.readers[0].list(&below);
        loop {
            let keys = self.readers[0].more().await?;
            if keys.is_empty() {
                return Ok(());
            }
            let mut numbers = Vec::with_capacity(keys.len());
            for key in keys {
                let name = key.strip_prefix(&below).and_then(|name| name.strip_suffix(".json"));
                match name.and_then(number) {
                    Some(number) => numbers.push(number),
                    None => self.stray(&key, u64::MAX, "a claim, named by its number"),
                }
            }
            for numbers in numbers.chunks(self.readers.len()) {
                self.some(numbers).await?;
                progress(&self.report);
            }
        }
    }

    /// A few claims and their objects, fetched and unpacked at once, judged one after the other.
    async fn some(&mut self, numbers: &[u64]) -> Result<(), Obstacle> {
        let asked: Vec<(String, usize)> =
            numbers.iter().map(|number| (claim_key(&self.asked.org, *number), CLAIM_BYTES_MAX + 1)).collect();
        let fetched = self.at_once(asked, |body| body).await?;
        let mut wanted = Vec::new();
        for (number, bytes) in numbers.iter().zip(fetched) {
            // Between the listing and the reading only a person can have removed it.
            let Some(bytes) = bytes else { continue };
            let Some(read) = self.claim(*number, &bytes) else { continue };
            // With those of this one: a bound only.
            let before = self.events.saturating_add(self.missing.saturating_mul(CHUNK_EVENTS_MAX as u64));
            if self.is_asked_for(&read)
                && let Some(key) = read.object_key(&self.asked.org, *number)
            {
                wanted.push((*number, key, read, before));
            }
        }
        let bytes_max = usize::try_from(CHUNK_LINES_BYTES_MAX).unwrap_or(usize::MAX);
        let work = wanted.into_iter().map(|(number, key, read, before)| {
            let org = self.asked.org.clone();
            let asked = (key.clone(), bytes_max);
            let check = move |body: Option<Bytes>| {
                body.map(|body| object::check(&read, &org, number, &key, &body, before))
            };
            (number, asked, check)
        });
        let (mut order, mut asked, mut checks) = (Vec::new(), Vec::new(), VecDeque::new());
        for (number, ask, check) in work {
            order.push(number);
            asked.push(ask);
            checks.push_back(check);
        }
        let objects = self.each(asked, checks).await?;
        for (number, object) in order.into_iter().zip(objects) {
            self.object(number, object);
        }
        Ok(())
    }

    /// The bytes under a few keys, each by a reader of its own.
    async fn at_once(
        &mut self,
        asked: Vec<(String, usize)>,
        keep: fn(Option<Bytes>) -> Option<Bytes>,
    ) -> Result<Vec<Option<Bytes>>, Obstacle> {
        let keeps = asked.iter().map(|_| keep).collect();
        self.each(asked, keeps).await
    }

    /// Reads, and works on what was read, on a task of its own for each key. There are no more keys than readers.
    async fn each<T: Send + 'static>(
        &mut self,
        asked: Vec<(String, usize)>,
        mut work: VecDeque<impl FnOnce(Option<Bytes>) -> T + Send + 'static>,
    ) -> Result<Vec<T>, Obstacle> {
        let mut tasks = Vec::with_capacity(asked.len());
        for (key, bytes_max) in asked {
            let (Some(mut reader), Some(work)) = (self.readers.pop(), work.pop_front()) else { break };
            tasks.push(tokio::spawn(async move {
                let read = reader.read(&key, bytes_max).await;
                (reader, read.map(work))
            }));
        }
        let mut results = Vec::with_capacity(tasks.len());
        // Taken from the end, so put back from the end: the first reader keeps its listing.
        let mut readers = Vec::with_capacity(tasks.len());
        for task in tasks {
            let (reader, result) =
                task.await.map_err(|_| Obstacle::Ambiguous("the work on a chunk was cut off".into()))?;
            readers.push(reader);
            results.push(result);
        }
        self.readers.extend(readers.into_iter().rev());
        results.into_iter().collect()
    }

    /// One claim, and the link from the one before.
    fn claim(&mut self, number: u64, bytes: &[u8]) -> Option<Read> {
        let org = &self.asked.org;
        let link = Link::of_claim(bytes);
        let read = if bytes.len() > CLAIM_BYTES_MAX {
            let wrong = Wrong::new(Kind::ClaimUnreadable, number, &claim_key(org, number), "its length");
            self.report.wrong.push(wrong.differs(format!("at most {CLAIM_BYTES_MAX} bytes"), "more"));
            None
        } else {
            claim::check(bytes, org, number, &mut self.report.wrong)
        };
        let expected = self.report.next();
        let starts_late = self.report.head.is_none() && number > 0;
        if starts_late && read.as_ref().is_some_and(|read| self.may_start_at(read)) {
            self.missing = number;
            self.report.note(format!(
                "the archive starts at chunk {number}: it was configured when older chunks were no longer kept"
            ));
        } else if number > expected {
            self.missing = self.missing.saturating_add(number - expected);
            let missing = if expected + 1 == number {
                expected.to_string()
            } else {
                format!("{expected} to {}", number - 1)
            };
            let wrong =
                Wrong::new(Kind::ClaimMissing, expected, &claim_key(org, expected), "what follows there");
            self.report.wrong.push(wrong.differs(format!("the claims {missing}"), format!("claim {number}")));
        } else if let Some(read) = &read {
            let previous = self.report.head.map_or(Link::FIRST, |(_, link)| link);
            if read.claim.previous != hex(&previous.0) {
                let wrong = Wrong::new(Kind::Chain, number, &claim_key(org, number), "`previous`");
                self.report.wrong.push(wrong.differs(hex(&previous.0), &read.claim.previous));
            }
        }
        self.head_seen |= self.asked.head.as_ref().is_some_and(|head| *head == hex(&link.0));
        self.report.head = Some((number, link));
        self.report.chunks += 1;
        let day = read.as_ref().and_then(|read| read.day);
        self.claimed.push(Claimed { number, day, object: Presence::NotLookedFor });
        if let Some(read) = &read {
            // A count that was changed must not make the search for keys longer.
            self.events += u64::from(read.claim.count).min(CHUNK_EVENTS_MAX as u64);
            let report = &mut self.report;
            report.first = report.first.into_iter().chain(read.first).min();
            report.last = report.last.into_iter().chain(read.last).max();
        }
        read
    }

    /// A lane that was added later starts at the oldest chunk kept, whose claim was made when nobody knew of the lane.
    fn may_start_at(&self, read: &Read) -> bool {
        let archives = [DestinationName::S3, DestinationName::File];
        let mut lanes = archives.iter().filter(|name| self.asked.lane.is_none_or(|lane| lane == **name));
        lanes.all(|name| !read.claim.summary.checkpoints.contains_key(name.as_str()))
    }

    fn is_asked_for(&self, read: &Read) -> bool {
        let Some(within) = self.asked.within else { return true };
        match (read.first, read.last) {
            (Some(first), Some(last)) => first < within.until && last >= within.from,
            _ => read.window.is_none_or(|window| window.from < within.until && window.until > within.from),
        }
    }

    fn object(&mut self, number: u64, object: Option<Object>) {
        let presence = if object.is_some() { Presence::There } else { Presence::Absent };
        let mut day = None;
        if let Ok(index) = self.claimed.binary_search_by_key(&number, |claimed| claimed.number) {
            self.claimed[index].object = presence;
            day = self.claimed[index].day;
        }
        let Some(object) = object else { return };
        let report = &mut self.report;
        report.objects += 1;
        report.events += object.events;
        report.bytes += object.bytes;
        if object.is_void {
            report.voids += 1;
            report.note(format!("chunk {number} is settled without events: its object is empty"));
        }
        for (line, key) in object.keys {
            if !self.keys.is_new(key) {
                let place = object_key(&self.asked.org, &day.unwrap_or_default().date(), number);
                let wrong = Wrong::new(Kind::Repeated, number, &place, "its key").on(line);
                report
                    .wrong
                    .push(wrong.differs("one that stands once in the archive", "that of an earlier line"));
            }
        }
        report.wrong.take(object.wrong);
    }

    /// All objects by their names: each belongs to a claim.
    async fn objects(&mut self, progress: &mut (dyn FnMut(&Report) + Send)) -> Result<(), Obstacle> {
        let below = format!("org={}/", self.asked.org);
        self.readers[0].list(&below);
        loop {
            let keys = self.readers[0].more().await?;
            if keys.is_empty() {
                return Ok(());
            }
            for key in keys {
                let Some((day, number)) = key.strip_prefix(&below).and_then(object_name) else {
                    self.stray(&key, u64::MAX, "an object, named by its date and number");
                    continue;
                };
                match self.claimed.binary_search_by_key(&number, |claimed| claimed.number) {
                    Ok(index) if self.claimed[index].day.is_none_or(|claimed| claimed == day) => {
                        let object = &mut self.claimed[index].object;
                        if *object == Presence::NotLookedFor {
                            *object = Presence::There;
                        }
                    }
                    Ok(_) => self.stray(&key, number, "an object under the date that its claim names"),
                    Err(_) => {
                        let claim = claim_key(&self.asked.org, number);
                        // Written since the claims were listed, if there is one.
                        let is_newer = number >= self.report.next();
                        if !(is_newer && self.readers[0].read(&claim, 1).await?.is_some()) {
                            self.stray(&key, number, "an object with a claim");
                        }
                    }
                }
            }
            progress(&self.report);
        }
    }

    fn stray(&mut self, key: &str, chunk: u64, expected: &str) {
        self.report.wrong.push(Wrong::new(Kind::Stray, chunk, key, "it").differs(expected, "not that"));
    }

    /// What can be said only when everything has been seen.
    fn end(&mut self) {
        let newest = self.report.head.map(|(number, _)| number);
        let org = &self.asked.org;
        for claimed in self.claimed.iter().filter(|claimed| claimed.object != Presence::There) {
            // Where the claim does not say where its object lies, it is what is wrong.
            let Some(day) = claimed.day else { continue };
            let number = claimed.number;
            if Some(number) == newest {
                self.report.lacks_newest_object = true;
                self.report.note(format!(
                    "chunk {number}, the newest, has a claim and no object yet: right while a daemon is at work on it"
                ));
                continue;
            }
            let place = object_key(org, &day.date(), number);
            let wrong = Wrong::new(Kind::ObjectMissing, number, &place, "it");
            self.report.wrong.push(wrong.differs("the object of the claim with this number", "not there"));
        }
        if let (Some(head), false) = (&self.asked.head, self.head_seen) {
            let next = self.report.next();
            let newest = next.saturating_sub(1);
            let wrong = Wrong::new(Kind::Head, newest, &claim_key(org, newest), "the chain up to here");
            self.report.wrong.push(wrong.differs(format!("one with the claim {head} in it"), "one without"));
        }
    }
}

/// `00000000000000000012`, and in no other form.
pub(crate) fn number(text: &str) -> Option<u64> {
    let is_number = text.len() == 20 && text.bytes().all(|byte| byte.is_ascii_digit());
    // One below the largest, so that there is always a next.
    text.parse().ok().filter(|number| is_number && *number < u64::MAX)
}

/// `date=2026-11-21/00000000000000000012.jsonl.gz`.
fn object_name(name: &str) -> Option<(Second, u64)> {
    let (date, file) = name.strip_prefix("date=")?.split_once('/')?;
    let day = claim::second(&format!("{date}T00:00:00Z"))?;
    Some((day, number(file.strip_suffix(".jsonl.gz")?)?))
}

/// The newest event keys.
#[derive(Default)]
struct Keys {
    set: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Keys {
    fn is_new(&mut self, key: u128) -> bool {
        if !self.set.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > KEYS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}
