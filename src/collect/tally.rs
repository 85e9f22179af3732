//! The tally: for every identity, which payloads have been journaled, and how often. Pure: it decides which of the events seen are
//! new, and says which of its pages changed.
//!
//! Per identity: what was seen is matched with what was journaled, equal payloads first; of what is left, as many are new as there
//! are more seen than journaled, and the rest is explained by a journaled one that reads differently now (a rename), which is
//! remembered as its *rendition* and matched first next time. So five identical reads of a secret in one second are five events, a
//! changed avatar is none, and two events that differ only in a field the identity leaves out are two. Counting too few heals at the
//! next look; counting too many would not.
//!
//! *Why pages of a minute:* one row per event would make the database the slowest part, and a late event should not rewrite an
//! hour. *Why 128 bits of each hash:* a chance collision needs some 2⁶⁴ events of one minute; half the space.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::chunk::NewEvent;
use crate::event::{Event, EventKey, Identity, Payload};
use crate::journal::{TIMELESS_MINUTE, TallyPage};
use crate::mutant::{self, Mutant};

/// Version of a page's bytes.
const PAGE_VERSION: u8 = 1;
/// Renditions remembered of one payload: the latest.
const RENDITIONS_MAX: usize = 4;
/// Identities kept of events without a plausible time. Beyond it they are journaled at every look: doubled, alarmed, never lost.
pub const TIMELESS_IDENTITIES_MAX: usize = 50_000;

type Short = [u8; 16];

/// Some occurrences of one identity that were journaled with the same payload.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Journaled {
    payload: Short,
    count: u32,
    /// Payloads that were explained by this one since, oldest first.
    renditions: Vec<Short>,
}

/// The pages of the minutes that a reading touches.
#[derive(Debug, Default)]
pub struct Tally {
    pages: BTreeMap<i64, HashMap<Short, Vec<Journaled>>>,
    changed: BTreeSet<i64>,
    overflowed: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the tally page of minute {minute} does not read")]
pub struct DamagedPage {
    pub minute: i64,
}

/// The page an event is tallied on.
pub fn minute(event: &Event) -> i64 {
    event.at.map_or(TIMELESS_MINUTE, |at| at.0.div_euclid(60))
}

/// Events that a page tallies; none where it does not read, which is for [`Tally::read`] to say. Nothing is put together for it: a
/// day may have millions.
pub fn occurrences(page: &TallyPage) -> u64 {
    let counted = || {
        let (version, mut rest) = page.body.split_first()?;
        let mut events = 0;
        while *version == PAGE_VERSION && !rest.is_empty() {
            take_short(&mut rest)?;
            for _ in 0..take_number(&mut rest)? {
                take_short(&mut rest)?;
                events += u64::from(take_number(&mut rest)?);
                for _ in 0..take_number(&mut rest)? {
                    take_short(&mut rest)?;
                }
            }
        }
        Some(events)
    };
    counted().unwrap_or(0)
}

impl Tally {
    /// # Errors
    /// When a page's bytes are not what [`Tally::changed`] writes.
    pub fn read(pages: &[TallyPage]) -> Result<Tally, DamagedPage> {
        let mut tally = Tally::default();
        for page in pages {
            let entries = decode(&page.body).ok_or(DamagedPage { minute: page.minute })?;
            tally.pages.insert(page.minute, entries);
        }
        Ok(tally)
    }

    /// Takes everything that one reading saw, and returns what of it is new, with the keys of the new occurrences. The pages of all
    /// minutes seen must have been read.
    pub fn take(&mut self, seen: Vec<Event>) -> Vec<NewEvent> {
        let mut order: Vec<(i64, Identity)> = Vec::new();
        let mut groups: HashMap<(i64, Identity), Vec<Event>> = HashMap::with_capacity(seen.len());
        for event in seen {
            let place = (minute(&event), event.identity);
            let group = groups.entry(place).or_default();
            if group.is_empty() {
                order.push(place);
            }
            if mutant::is(Mutant::Set) && group.iter().any(|twin| twin.payload == event.payload) {
                continue;
            }
            group.push(event);
        }
        let mut new = Vec::new();
        for (minute, identity) in order {
            let events = groups.remove(&(minute, identity)).unwrap_or_default();
            let page = self.pages.entry(minute).or_default();
            let full = minute == TIMELESS_MINUTE && page.len() >= TIMELESS_IDENTITIES_MAX;
            if full && !page.contains_key(&short(&identity.0)) {
                self.overflowed = true;
                new.extend(keyed(events, &identity, 0));
                continue;
            }
            let journaled = page.entry(short(&identity.0)).or_default();
            let before: u64 = journaled.iter().map(|entry| u64::from(entry.count)).sum();
            let (fresh, changed) = difference(journaled, events);
            if changed {
                self.changed.insert(minute);
            }
            new.extend(keyed(fresh, &identity, before));
        }
        new
    }

    /// Counts an event that is journaled already, as when the pages were lost. The page of its minute must have been read.
    pub fn put_back(&mut self, event: &Event) {
        let (minute, identity) = (minute(event), short(&event.identity.0));
        let page = self.pages.entry(minute).or_default();
        if minute == TIMELESS_MINUTE && page.len() >= TIMELESS_IDENTITIES_MAX && !page.contains_key(&identity)
        {
            self.overflowed = true;
            return;
        }
        let payload = short_payload(&event.payload);
        let journaled = page.entry(identity).or_default();
        match journaled.iter_mut().find(|entry| entry.payload == payload && entry.renditions.is_empty()) {
            Some(entry) => entry.count += 1,
            None => journaled.push(Journaled { payload, count: 1, renditions: Vec::new() }),
        }
        self.changed.insert(minute);
    }

    /// Counts an event as one more occurrence, and returns that occurrence's key. The page of its minute must have been read.
    pub fn one_more(&mut self, event: &Event) -> EventKey {
        let page = self.pages.get(&minute(event));
        let journaled = page.and_then(|page| page.get(&short(&event.identity.0)));
        let before = journaled.into_iter().flatten().map(|entry| u64::from(entry.count)).sum();
        self.put_back(event);
        EventKey::new(&event.identity, before)
    }

    /// Whether events without a plausible time no longer fit.
    pub fn overflowed(&self) -> bool {
        self.overflowed
    }

    /// The pages that differ from those read.
    pub fn changed(&self) -> Vec<TallyPage> {
        self.changed
            .iter()
            .filter_map(|minute| Some(TallyPage { minute: *minute, body: encode(self.pages.get(minute)?) }))
            .collect()
    }
}

fn keyed(events: Vec<Event>, identity: &Identity, first: u64) -> impl Iterator<Item = NewEvent> {
    events
        .into_iter()
        .zip(first..)
        .map(|(event, ordinal)| NewEvent { key: EventKey::new(identity, ordinal), event })
}

/// One identity: returns the new events and whether `journaled` changed.
fn difference(journaled: &mut Vec<Journaled>, events: Vec<Event>) -> (Vec<Event>, bool) {
    // Nearly every event of a window that is read for the first time: nothing to match it with.
    if let ([event], true) = (events.as_slice(), journaled.is_empty()) {
        journaled.push(Journaled {
            payload: short_payload(&event.payload),
            count: 1,
            renditions: Vec::new(),
        });
        return (events, true);
    }
    let mut free: Vec<u32> = journaled.iter().map(|entry| entry.count).collect();
    let mut unmatched: Vec<Event> = Vec::new();
    for event in events {
        let payload = short_payload(&event.payload);
        match (0..free.len()).find(|i| free[*i] > 0 && journaled[*i].payload == payload) {
            Some(i) => free[i] -= 1,
            None => unmatched.push(event),
        }
    }
    unmatched.retain(|event| {
        let payload = short_payload(&event.payload);
        let known = (0..free.len()).find(|i| free[*i] > 0 && journaled[*i].renditions.contains(&payload));
        if let Some(i) = known {
            free[i] -= 1;
        }
        known.is_none()
    });
    if unmatched.is_empty() {
        return (Vec::new(), false);
    }
    // Which of several unexplained payloads is the rename cannot be known; the order of their hashes decides, always alike.
    unmatched.sort_by_key(|event| event.payload);
    let explained: u32 = free.iter().sum();
    let explained = usize::try_from(explained).unwrap_or(usize::MAX).min(unmatched.len());
    let new = unmatched.split_off(explained);
    for event in unmatched {
        if let Some(i) = (0..free.len()).find(|i| free[*i] > 0) {
            free[i] -= 1;
            remember_rendition(journaled, i, short_payload(&event.payload));
        }
    }
    for event in &new {
        let payload = short_payload(&event.payload);
        match journaled.iter_mut().find(|entry| entry.payload == payload && entry.renditions.is_empty()) {
            Some(entry) => entry.count += 1,
            None => journaled.push(Journaled { payload, count: 1, renditions: Vec::new() }),
        }
    }
    (new, true)
}

/// One occurrence of the entry reads differently now; if the entry stands for several, that one is set apart.
fn remember_rendition(journaled: &mut Vec<Journaled>, index: usize, rendition: Short) {
    let mut one = Journaled { count: 1, ..journaled[index].clone() };
    one.renditions.push(rendition);
    if one.renditions.len() > RENDITIONS_MAX {
        one.renditions.remove(0);
    }
    match journaled
        .iter_mut()
        .find(|entry| entry.payload == one.payload && entry.renditions == one.renditions)
    {
        Some(same) => same.count += 1,
        None => journaled.push(one),
    }
    journaled[index].count -= 1;
    // Emptied entries stay until the page is written, so that indices hold.
}

fn short(hash: &[u8; 32]) -> Short {
    let mut short = [0; 16];
    short.copy_from_slice(&hash[..16]);
    short
}

fn short_payload(payload: &Payload) -> Short {
    if mutant::is(Mutant::CountWithoutPayload) {
        return Short::default();
    }
    short(&payload.0)
}

/// A version byte; then, by identity: identity, number of entries, and per entry payload, count, number of renditions, renditions.
/// Numbers are 4 bytes, little-endian.
fn encode(page: &HashMap<Short, Vec<Journaled>>) -> Vec<u8> {
    let mut identities: Vec<&Short> = page.keys().collect();
    identities.sort_unstable();
    let mut bytes = Vec::with_capacity(1 + page.len() * 44);
    bytes.push(PAGE_VERSION);
    let number =
        |bytes: &mut Vec<u8>, n: usize| bytes.extend(u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes());
    for identity in identities {
        let entries: Vec<&Journaled> = page[identity].iter().filter(|entry| entry.count > 0).collect();
        bytes.extend(identity);
        number(&mut bytes, entries.len());
        for entry in entries {
            bytes.extend(entry.payload);
            bytes.extend(entry.count.to_le_bytes());
            number(&mut bytes, entry.renditions.len());
            entry.renditions.iter().for_each(|rendition| bytes.extend(rendition));
        }
    }
    bytes
}

/// The bytes of a page as it stands.
#[cfg(any(test, fuzzing))]
pub(crate) fn body_of(tally: &Tally, minute: i64) -> Option<Vec<u8>> {
    tally.pages.get(&minute).map(encode)
}

fn decode(bytes: &[u8]) -> Option<HashMap<Short, Vec<Journaled>>> {
    let (version, mut rest) = bytes.split_first()?;
    if *version != PAGE_VERSION {
        return None;
    }
    let mut page = HashMap::with_capacity(rest.len() / 44);
    while !rest.is_empty() {
        let identity = take_short(&mut rest)?;
        let entries = take_number(&mut rest)?;
        let mut journaled = Vec::new();
        for _ in 0..entries {
            let payload = take_short(&mut rest)?;
            let count = take_number(&mut rest)?;
            let length = usize::try_from(take_number(&mut rest)?).ok().filter(|n| *n <= RENDITIONS_MAX)?;
            let renditions = (0..length).map(|_| take_short(&mut rest)).collect::<Option<Vec<Short>>>()?;
            journaled.push(Journaled { payload, count, renditions });
        }
        page.insert(identity, journaled);
    }
    Some(page)
}

fn take_short(rest: &mut &[u8]) -> Option<Short> {
    let (short, after) = rest.split_first_chunk::<16>()?;
    *rest = after;
    Some(*short)
}

fn take_number(rest: &mut &[u8]) -> Option<u32> {
    let (number, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*number))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Second;
    use crate::event::Odd;

    fn event(identity: u8, payload: u8) -> Event {
        Event {
            raw: Bytes::new(),
            at: Some(Second(600 + i64::from(identity) * 40)),
            identity: Identity([identity; 32]),
            payload: Payload([payload; 32]),
            kind: Arc::from(""),
            odd: Odd::default(),
        }
    }

    fn timeless(number: u32) -> Event {
        let mut identity = [7; 32];
        identity[..4].copy_from_slice(&number.to_be_bytes());
        Event { at: None, identity: Identity(identity), ..event(1, 1) }
    }

    fn look(tally: &mut Tally, seen: &[(u8, u8)]) -> Vec<(u8, u8)> {
        let new = tally.take(seen.iter().map(|(identity, payload)| event(*identity, *payload)).collect());
        let mut new: Vec<(u8, u8)> =
            new.iter().map(|new| (new.event.identity.0[0], new.event.payload.0[0])).collect();
        new.sort_unstable();
        new
    }

    #[test]
    fn a_page_tells_how_many_events_it_tallies_and_a_damaged_one_none() {
        let mut tally = Tally::default();
        assert_eq!(look(&mut tally, &[(1, 1), (1, 1), (1, 2), (2, 5)]).len(), 4);
        assert_eq!(look(&mut tally, &[(1, 7), (1, 1), (1, 2), (2, 5)]), [], "renamed, not new");
        let pages = tally.changed();
        assert_eq!(pages.iter().map(occurrences).sum::<u64>(), 4);
        let page = |body: &[u8]| TallyPage { minute: 1, body: body.to_vec() };
        for damaged in [&b""[..], b"?", &pages[0].body[..pages[0].body.len() - 1], &[9; 45]] {
            assert_eq!(occurrences(&page(damaged)), 0, "{damaged:?}");
        }
    }

    #[test]
    fn five_identical_events_are_five() {
        let mut tally = Tally::default();
        assert_eq!(look(&mut tally, &[(1, 1); 3]).len(), 3);
        assert_eq!(look(&mut tally, &[(1, 1); 5]).len(), 2, "two more became visible");
        assert_eq!(look(&mut tally, &[(1, 1); 5]).len(), 0);
    }

    #[test]
    fn each_occurrence_has_its_own_key_and_keeps_it() {
        let mut tally = Tally::default();
        let first = tally.take(vec![event(1, 1), event(1, 1)]);
        let later = tally.take(vec![event(1, 1), event(1, 1), event(1, 1)]);
        let keys: Vec<&EventKey> = first.iter().chain(&later).map(|new| &new.key).collect();
        let expected: Vec<EventKey> = (0..3).map(|n| EventKey::new(&Identity([1; 32]), n)).collect();
        assert_eq!(keys, expected.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_rename_adds_nothing_however_often_it_happens() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1), (1, 1)]);
        for payload in 2..20 {
            assert_eq!(look(&mut tally, &[(1, payload), (1, payload)]), []);
        }
    }

    #[test]
    fn a_twin_that_differs_only_outside_the_identity_is_new_even_after_a_rename() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1)]);
        assert_eq!(look(&mut tally, &[(1, 2)]), [], "a rename");
        assert_eq!(look(&mut tally, &[(1, 2), (1, 3)]), [(1, 3)], "the renamed one is matched first");
    }

    #[test]
    fn an_event_is_tallied_on_the_page_of_its_minute() {
        let at = |at: Option<i64>| minute(&Event { at: at.map(Second), ..event(1, 1) });
        assert_eq!(at(Some(1_795_256_159)), 29_920_935);
        assert_eq!(at(Some(1_795_256_160)), 29_920_936);
        assert_eq!(at(Some(-1)), -1);
        assert_eq!(at(None), TIMELESS_MINUTE);
    }

    #[test]
    fn four_renames_are_remembered_and_the_oldest_gives_way() {
        let renamed = |times: u8| {
            let mut tally = Tally::default();
            look(&mut tally, &[(1, 1)]);
            for payload in 0..times {
                assert_eq!(look(&mut tally, &[(1, 100 + payload)]), []);
            }
            Tally::read(&tally.changed()).unwrap()
        };
        assert_eq!(look(&mut renamed(4), &[(1, 100), (1, 50)]), [(1, 50)], "the first of four is known");
        assert_eq!(look(&mut renamed(5), &[(1, 101), (1, 50)]), [(1, 50)]);
        assert_eq!(look(&mut renamed(5), &[(1, 100), (1, 50)]), [(1, 100)], "the first of five is not");
    }

    #[test]
    fn twins_that_are_renamed_together_take_no_more_room() {
        let length = |tally: &Tally| tally.changed()[0].body.len();
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1); 50]);
        let entry = 16 + 4 + 4;
        assert_eq!(length(&tally), 1 + 16 + 4 + entry);
        assert_eq!(look(&mut tally, &[(1, 2); 50]), []);
        assert_eq!(length(&tally), 1 + 16 + 4 + entry + 16);
        let mut half = [(1, 2); 50];
        half[..25].fill((1, 3));
        assert_eq!(look(&mut tally, &half), []);
        assert_eq!(length(&tally), 1 + 16 + 4 + 2 * entry + 3 * 16);
    }

    #[test]
    fn of_an_event_and_its_renamed_twin_each_is_counted_once() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1)]);
        assert_eq!(look(&mut tally, &[(1, 9)]), [], "renamed");
        assert_eq!(look(&mut tally, &[(1, 9), (1, 1)]).len(), 1, "a twin that still has the old name");
        assert_eq!(look(&mut tally, &[(1, 9), (1, 1)]), []);
        assert_eq!(look(&mut tally, &[(1, 9), (1, 1), (1, 9)]), [(1, 9)], "one more with the new name");
        assert_eq!(look(&mut tally, &[(1, 9), (1, 1), (1, 9)]), []);
    }

    #[test]
    fn events_without_a_time_beyond_what_fits_are_journaled_at_every_look() {
        let most = u32::try_from(TIMELESS_IDENTITIES_MAX).unwrap();
        let mut tally = Tally::default();
        assert_eq!(tally.take((1..most).map(timeless).collect()).len(), TIMELESS_IDENTITIES_MAX - 1);
        assert_eq!(tally.take(vec![timeless(most)]).len(), 1);
        assert_eq!(tally.take(vec![timeless(most)]).len(), 0, "the last that fits");
        assert!(!tally.overflowed());
        for _ in 0..2 {
            assert_eq!(tally.take(vec![timeless(0), timeless(1)]).len(), 1, "the one that does not fit");
            assert!(tally.overflowed());
        }
        let timed = |number| Event { at: Some(Second(600)), ..timeless(number) };
        let mut tally = Tally::default();
        assert_eq!(tally.take((0..=most).map(timed).collect()).len(), TIMELESS_IDENTITIES_MAX + 1);
        assert_eq!(tally.take(vec![timed(0), timed(most)]).len(), 0, "those with a time always fit");
        assert!(!tally.overflowed());
    }

    #[test]
    fn what_is_put_back_has_none_of_its_twins_renames() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1)]);
        assert_eq!(look(&mut tally, &[(1, 9)]), [], "renamed");
        tally.put_back(&event(1, 1));
        // Were the second occurrence known as 9, too, 3 would be the new one.
        assert_eq!(look(&mut tally, &[(1, 9), (1, 9), (1, 3)]), [(1, 9)]);
    }

    #[test]
    fn events_without_a_time_are_put_back_as_far_as_they_fit() {
        let most = u32::try_from(TIMELESS_IDENTITIES_MAX).unwrap();
        let mut tally = Tally::default();
        (0..most).for_each(|number| tally.put_back(&timeless(number)));
        tally.put_back(&timeless(0));
        assert!(!tally.overflowed(), "a twin takes no more room");
        assert_eq!(tally.take((0..most).chain([0]).map(timeless).collect()).len(), 0, "all are known");
        tally.put_back(&timeless(most));
        assert!(tally.overflowed());
        assert_eq!(tally.take(vec![timeless(most)]).len(), 1, "the one that does not fit");
        let timed = |number| Event { at: Some(Second(600)), ..timeless(number) };
        let mut tally = Tally::default();
        (0..=most).for_each(|number| tally.put_back(&timed(number)));
        assert_eq!(tally.take(vec![timed(most)]).len(), 0, "those with a time always fit");
        assert!(!tally.overflowed());
    }

    #[test]
    fn one_more_has_the_key_of_the_occurrence_that_it_is() {
        let mut tally = Tally::default();
        let key = |ordinal| EventKey::new(&Identity([1; 32]), ordinal);
        assert_eq!(tally.one_more(&event(1, 1)), key(0));
        look(&mut tally, &[(1, 1), (1, 2), (2, 1)]);
        assert_eq!(tally.one_more(&event(1, 1)), key(2), "whatever the others' payloads are");
        assert_eq!(tally.one_more(&event(1, 3)), key(3));
        assert_eq!(look(&mut tally, &[(1, 1), (1, 1), (1, 2), (1, 3), (2, 1)]), [], "and it is counted");
        let new = tally.take(vec![event(1, 1); 5]);
        assert_eq!(new.into_iter().map(|new| new.key).collect::<Vec<_>>(), [key(4)]);
    }

    #[test]
    fn a_page_of_another_version_is_refused() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1)]);
        let mut page = tally.changed().remove(0);
        page.body[0] += 1;
        assert_eq!(Tally::read(&[page]).unwrap_err(), DamagedPage { minute: 10 });
    }

    #[test]
    fn a_page_that_was_cut_is_noticed() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1), (2, 2)]);
        let page = tally.changed().remove(0);
        for length in [0, 1, 5, page.body.len() - 1] {
            let cut = TallyPage { minute: page.minute, body: page.body[..length].to_vec() };
            let read = Tally::read(&[cut]);
            assert!(read.is_err() || length == 1, "{length}");
        }
    }

    #[test]
    fn nothing_changes_when_nothing_is_new() {
        let mut tally = Tally::default();
        look(&mut tally, &[(1, 1)]);
        let pages = tally.changed();
        let mut again = Tally::read(&pages).unwrap();
        look(&mut again, &[(1, 1)]);
        assert_eq!(again.changed(), []);
    }

    proptest! {
        /// The slow model counts: of an identity, as many are journaled as were ever seen at once.
        #[test]
        fn the_journaled_count_is_the_largest_seen(
            looks in prop::collection::vec(prop::collection::vec((0u8..3, 0u8..4), 0..10), 1..8)
        ) {
            let mut pages: Vec<TallyPage> = Vec::new();
            let mut journaled: HashMap<u8, usize> = HashMap::new();
            let mut largest: HashMap<u8, usize> = HashMap::new();
            let mut keys = BTreeSet::new();
            for seen in looks {
                // Through its stored form at every look, as in life.
                let mut tally = Tally::read(&pages).unwrap();
                let new = tally.take(seen.iter().map(|(i, p)| event(*i, *p)).collect());
                for new in &new {
                    *journaled.entry(new.event.identity.0[0]).or_default() += 1;
                    prop_assert!(keys.insert(new.key.clone()), "no key is given twice");
                }
                for identity in 0..3 {
                    let count = seen.iter().filter(|(i, _)| *i == identity).count();
                    let known = largest.entry(identity).or_default();
                    *known = (*known).max(count);
                }
                for page in tally.changed() {
                    pages.retain(|known| known.minute != page.minute);
                    pages.push(page);
                }
                for identity in 0..3 {
                    prop_assert_eq!(journaled.get(&identity).copied().unwrap_or(0), largest[&identity]);
                }
            }
        }

        /// What is put back is what a look would have counted, to the byte.
        #[test]
        fn what_is_put_back_is_as_if_it_had_been_found(
            mut events in prop::collection::vec((0u8..4, 0u8..4), 0..14)
        ) {
            let mut found = Tally::default();
            look(&mut found, &events);
            // A look counts those of one identity in the order of their payloads.
            events.sort_unstable();
            let mut put_back = Tally::default();
            events.iter().for_each(|(identity, payload)| put_back.put_back(&event(*identity, *payload)));
            prop_assert_eq!(put_back.changed(), found.changed());
        }

        /// Without renames, what is journaled is exactly the multiset that was there.
        #[test]
        fn late_twins_of_any_payload_all_arrive(
            truth in prop::collection::vec((0u8..3, 0u8..4), 0..14),
            orders in prop::collection::vec(prop::collection::vec(any::<bool>(), 14), 1..5)
        ) {
            let mut tally = Tally::default();
            let mut arrived = Vec::new();
            let mut visible = vec![false; truth.len()];
            for order in orders {
                for (index, shows) in order.iter().enumerate().take(truth.len()) {
                    visible[index] |= shows;
                }
                let seen: Vec<(u8, u8)> =
                    truth.iter().zip(&visible).filter(|(_, shows)| **shows).map(|(event, _)| *event).collect();
                arrived.extend(look(&mut tally, &seen));
            }
            arrived.extend(look(&mut tally, &truth));
            arrived.sort_unstable();
            let mut truth = truth.clone();
            truth.sort_unstable();
            prop_assert_eq!(arrived, truth);
        }
    }
}
