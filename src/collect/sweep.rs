//! A sweep: one window read to its end, from its newest second down. Pure: it says what to ask next, and takes the answers in.
//!
//! *Why by time and not by token:* a continuation token that is a whole second loses or repeats events where a page breaks inside a
//! second. So the upper bound moves instead: on a page that is not the last, the oldest second may be cut, so it is left for the
//! next page, which is asked for with the bound just above it. Every second is counted from **one** page that holds it whole. Bounds
//! are asked one second wider than wanted, so inclusive and exclusive servers give the same answer; a token only says that there is
//! more.
//!
//! A second that fills a page alone cannot be read like that: see [`Dense`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use crate::clock::{Second, Window};
use crate::event::{Event, Identity};
use crate::mutant::{self, Mutant};
use crate::pulumi::wire::{Page, PageToken, Query};

/// More bytes of events than this, and a window is halved, or a dense second is declared damaged: a page is bounded by itself, and
/// two hundred of the largest would not fit into any memory. Usual events fill a twentieth of it before there are too many.
const HELD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Bounds of one sweep.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// More events than this, and the window is halved.
    pub events_max: usize,
    /// More requests than this, and the window is halved.
    pub requests_max: u32,
    /// Pages in a row without an event that still promise more.
    pub empty_pages_max: u32,
    /// Pages of one dense second that are followed, and event types that are asked for in it.
    pub dense_pages_max: usize,
    pub dense_kinds_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            events_max: 20_000,
            requests_max: 1_000,
            empty_pages_max: 10,
            dense_pages_max: 200,
            dense_kinds_max: 400,
        }
    }
}

/// A window being read. Nothing of it counts until all of it is here.
#[derive(Debug)]
pub struct Sweep {
    window: Window,
    limits: Limits,
    /// Everything in the window at or after this is counted.
    upper: Second,
    state: State,
    token: Option<PageToken>,
    empty_pages: u32,
    events: Vec<Event>,
    timeless: Believed,
    damaged: Vec<Second>,
    requests: u32,
    read: u64,
}

#[derive(Debug)]
enum State {
    /// The upper bound is asked one second wider than wanted.
    Wide,
    /// The second below `upper` shared its page with seconds that are already counted: the bound itself is asked. What the wide
    /// page showed of it is kept, and the larger count believed.
    Tight { shown: Vec<Event> },
    /// The second below `upper` fills a page alone.
    Dense(Box<Dense>),
}

/// What follows from an answer.
#[derive(Debug)]
pub enum Step {
    Ask(Query),
    /// Every second is here.
    Complete(Reading),
    /// Too much for one window: read the older half first.
    Halve,
    Stuck(Stuck),
}

/// A window read whole, except for its damaged seconds.
#[derive(Debug, Default)]
pub struct Reading {
    /// With a plausible time inside the window; in no particular order.
    pub events: Vec<Event>,
    /// Without a plausible time.
    pub timeless: Vec<Event>,
    /// Seconds too dense to be proven whole, ascending. What was read of them is among the events.
    pub damaged: Vec<Second>,
    pub requests: u32,
    /// Events on all pages, repeats included.
    pub read: u64,
}

/// The service does not behave like a list that is newest first: nothing of the window is believed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Stuck {
    #[error("an event of {at} came in answer to the bounds {after} to {before}")]
    OutOfBounds { at: Second, after: Second, before: Second },
    #[error("a page with more to come is not newest first")]
    NotNewestFirst,
    #[error("{0} pages in a row held no event and promised more")]
    EmptyPages(u32),
    #[error("the same continuation token came again")]
    SameToken,
}

impl Sweep {
    /// A sweep and its first question. The window must not be empty.
    pub fn new(window: Window, limits: Limits) -> (Sweep, Query) {
        let sweep = Sweep {
            window,
            limits,
            upper: window.until,
            state: State::Wide,
            token: None,
            empty_pages: 0,
            events: Vec::new(),
            timeless: Believed::default(),
            damaged: Vec::new(),
            requests: 1,
            read: 0,
        };
        let query = sweep.query();
        (sweep, query)
    }

    /// Takes an answer in.
    pub fn answer(&mut self, page: Page) -> Step {
        self.read += page.events.len() as u64;
        let (timed, timeless): (Vec<Event>, Vec<Event>) =
            page.events.into_iter().partition(|event| event.at.is_some());
        self.timeless.believe_page(&timeless);
        let next = page.next;
        let decision = if let State::Dense(dense) = &mut self.state {
            match dense.answer(timed, next, &self.limits) {
                DenseStep::Ask => Ok(None),
                DenseStep::Done { events, whole } => {
                    let at = dense.at;
                    self.events.extend(events);
                    if !whole {
                        self.damaged.push(at);
                    }
                    self.state = State::Wide;
                    Ok(Some(at))
                }
            }
        } else {
            self.take(timed, next)
        };
        match decision {
            Err(stuck) => Step::Stuck(stuck),
            Ok(Some(upper)) if upper <= self.window.from => Step::Complete(self.reading()),
            Ok(upper) => {
                if let Some(upper) = upper {
                    self.upper = upper;
                }
                let too_much = self.events.len() > self.limits.events_max
                    || self.requests >= self.limits.requests_max
                    || held(&self.events) > HELD_BYTES_MAX;
                if too_much && self.window.seconds() > 1 {
                    return Step::Halve;
                }
                self.requests += 1;
                Step::Ask(self.query())
            }
        }
    }

    fn query(&self) -> Query {
        match &self.state {
            State::Dense(dense) => dense.query(),
            State::Wide => self.bounds(self.upper),
            State::Tight { .. } => self.bounds(self.upper - 1),
        }
    }

    fn bounds(&self, before: Second) -> Query {
        Query { after: self.window.from - 1, before, token: self.token.clone(), kind: None }
    }

    /// A page outside a dense second. `Ok(Some(upper))` moves the upper bound (to the window's beginning when it is complete);
    /// `Ok(None)` asks again as the state now says.
    fn take(&mut self, timed: Vec<Event>, next: Option<PageToken>) -> Result<Option<Second>, Stuck> {
        let asked = self.query();
        in_bounds(&timed, &asked)?;
        let below = self.upper - 1;
        let tight = matches!(self.state, State::Tight { .. });
        let from = self.window.from;
        let wanted = |at: Second| at >= from;
        let Some(next) = next else {
            // The last page: every second on it is whole.
            self.count(timed, wanted);
            return Ok(Some(from));
        };
        let Some(oldest) = timed.iter().filter_map(|event| event.at).min() else {
            self.empty_pages += 1;
            if self.empty_pages > self.limits.empty_pages_max {
                return Err(Stuck::EmptyPages(self.empty_pages));
            }
            if self.token.as_ref() == Some(&next) {
                return Err(Stuck::SameToken);
            }
            self.token = Some(next);
            return Ok(None);
        };
        newest_first(&timed)?;
        self.empty_pages = 0;
        if mutant::is(Mutant::FollowTokens) {
            self.count(timed, wanted);
            self.token = Some(next);
            return Ok(None);
        }
        self.token = None;
        if oldest < from {
            self.count(timed, wanted);
            return Ok(Some(from));
        }
        if oldest < below {
            if tight && !timed.iter().any(|event| event.at == Some(below)) && self.shown_any() {
                // Two answers contradict each other on this second: look at it closely.
                return Ok(self.enter_dense(below, self.upper, &[]));
            }
            self.count(timed, |at| at > oldest);
            return Ok(Some(oldest + 1));
        }
        // Nothing whole is on the page: it ends inside the second just below the bound, or above it.
        let displaced = timed.iter().any(|event| event.at.is_some_and(|at| at >= self.upper));
        if tight || !displaced {
            return Ok(self.enter_dense(below, asked.before, &timed));
        }
        let shown = timed.into_iter().filter(|event| event.at == Some(below)).collect();
        self.state = State::Tight { shown };
        Ok(None)
    }

    fn shown_any(&self) -> bool {
        matches!(&self.state, State::Tight { shown } if !shown.is_empty())
    }

    /// The walk begins anew: a token belongs to the bounds it was given for.
    fn enter_dense(&mut self, at: Second, before: Second, shown: &[Event]) -> Option<Second> {
        self.state = State::Dense(Box::new(Dense::new(at, before, shown)));
        None
    }

    /// Counts the page's seconds that are whole on it, and not counted yet; in a tight answer, of the second below the bound the
    /// larger count is believed.
    fn count(&mut self, timed: Vec<Event>, whole: impl Fn(Second) -> bool) {
        let upper = self.upper;
        let fresh = |event: &Event| event.at.is_some_and(|at| at < upper && whole(at));
        let page: Vec<Event> = timed.into_iter().filter(fresh).collect();
        if let State::Tight { shown } = std::mem::replace(&mut self.state, State::Wide) {
            let below = upper - 1;
            let (here, rest): (Vec<Event>, Vec<Event>) =
                page.into_iter().partition(|event| event.at == Some(below));
            let mut believed = Believed::default();
            believed.believe_page(&here);
            believed.believe_page(&shown);
            self.events.extend(believed.into_events());
            self.events.extend(rest);
        } else {
            self.events.extend(page);
        }
    }

    fn reading(&mut self) -> Reading {
        self.damaged.sort_unstable();
        Reading {
            events: std::mem::take(&mut self.events),
            timeless: std::mem::take(&mut self.timeless).into_events(),
            damaged: std::mem::take(&mut self.damaged),
            requests: self.requests,
            read: self.read,
        }
    }
}

fn held<'a>(events: impl IntoIterator<Item = &'a Event>) -> usize {
    events.into_iter().map(|event| event.raw.len()).sum()
}

fn in_bounds(timed: &[Event], asked: &Query) -> Result<(), Stuck> {
    let outside = |at: &Second| *at < asked.after || *at > asked.before;
    match timed.iter().filter_map(|event| event.at).find(outside) {
        Some(at) => Err(Stuck::OutOfBounds { at, after: asked.after, before: asked.before }),
        None => Ok(()),
    }
}

fn newest_first(timed: &[Event]) -> Result<(), Stuck> {
    if timed.windows(2).all(|pair| pair[0].at >= pair[1].at) { Ok(()) } else { Err(Stuck::NotNewestFirst) }
}

/// A second that fills a page alone: its token is followed, then every event type seen is asked for alone, and of each identity
/// the largest count on any single page is believed. Nothing is summed over pages unless the reading proves itself complete: the
/// walk came to its end over at least two pages, every type's answer was whole on one page, and both agree on every type.
///
/// A guard that trips inside a dense second ends only that second, as damaged.
#[derive(Debug)]
struct Dense {
    at: Second,
    before: Second,
    phase: Phase,
    believed: Believed,
    /// Events of this second on the walk, by type, and how many of its pages had any.
    walked: BTreeMap<Arc<str>, u64>,
    walked_pages: usize,
    walk_ended: bool,
    tokens: HashSet<PageToken>,
    /// Count on the one whole page of a type.
    whole_kinds: BTreeMap<Arc<str>, u64>,
}

#[derive(Debug)]
enum Phase {
    Walk { token: Option<PageToken> },
    Kind { kind: Arc<str>, rest: Vec<Arc<str>>, token: Option<PageToken>, pages: u32 },
}

enum DenseStep {
    Ask,
    Done { events: Vec<Event>, whole: bool },
}

impl Dense {
    fn new(at: Second, before: Second, shown: &[Event]) -> Dense {
        let mut dense = Dense {
            at,
            before,
            phase: Phase::Walk { token: None },
            believed: Believed::default(),
            walked: BTreeMap::new(),
            walked_pages: 0,
            walk_ended: false,
            tokens: HashSet::new(),
            whole_kinds: BTreeMap::new(),
        };
        dense.believed.believe_page(shown);
        dense
    }

    fn query(&self) -> Query {
        let (token, kind) = match &self.phase {
            Phase::Walk { token } => (token.clone(), None),
            Phase::Kind { kind, token, .. } => (token.clone(), Some(kind.clone())),
        };
        Query { after: self.at - 1, before: self.before, token, kind }
    }

    fn answer(&mut self, timed: Vec<Event>, next: Option<PageToken>, limits: &Limits) -> DenseStep {
        let fits = in_bounds(&timed, &self.query()).is_ok();
        let older = timed.iter().any(|event| event.at.is_some_and(|at| at < self.at));
        let here: Vec<Event> = timed.into_iter().filter(|event| event.at == Some(self.at)).collect();
        let ended = older || next.is_none();
        match &mut self.phase {
            Phase::Walk { token } => {
                let fresh = next.as_ref().is_none_or(|next| self.tokens.insert(next.clone()));
                let room = self.walked_pages < limits.dense_pages_max
                    && held(&here) + self.believed.bytes() <= HELD_BYTES_MAX;
                let go_on = fits && fresh && !ended && room;
                if go_on {
                    *token = next;
                }
                if fits {
                    self.walk_page(&here);
                }
                if go_on {
                    return DenseStep::Ask;
                }
                self.walk_ended = fits && ended;
                let mut kinds: Vec<Arc<str>> =
                    self.walked.keys().filter(|kind| !kind.is_empty()).cloned().collect();
                kinds.truncate(limits.dense_kinds_max);
                self.next_kind(kinds)
            }
            Phase::Kind { kind, rest, token, pages } => {
                *pages += 1;
                if fits && here.is_empty() && !ended && *pages <= limits.empty_pages_max && *token != next {
                    *token = next;
                    return DenseStep::Ask;
                }
                if fits {
                    self.believed.believe_page(&here);
                    // A server that ignores the filter answers with other types: that proves nothing about this one.
                    if ended && here.iter().all(|event| event.kind == *kind) {
                        self.whole_kinds.insert(kind.clone(), here.len() as u64);
                    }
                }
                let rest = std::mem::take(rest);
                self.next_kind(rest)
            }
        }
    }

    fn walk_page(&mut self, here: &[Event]) {
        if here.is_empty() {
            return;
        }
        self.walked_pages += 1;
        self.believed.believe_page(here);
        for event in here {
            *self.walked.entry(event.kind.clone()).or_default() += 1;
        }
    }

    fn next_kind(&mut self, mut kinds: Vec<Arc<str>>) -> DenseStep {
        let room = self.believed.bytes() <= HELD_BYTES_MAX;
        if let Some(kind) = kinds.pop().filter(|_| room) {
            self.phase = Phase::Kind { kind, rest: kinds, token: None, pages: 0 };
            return DenseStep::Ask;
        }
        let whole = room && self.walk_ended && self.walked_pages >= 2 && self.walked == self.whole_kinds;
        DenseStep::Done { events: std::mem::take(&mut self.believed).into_events(), whole }
    }
}

/// For each identity the page that showed most of it, believed over the others; of several that showed as many, the one told first.
#[derive(Debug, Default)]
struct Believed(HashMap<Identity, Vec<Event>>);

impl Believed {
    fn believe_page(&mut self, page: &[Event]) {
        let mut counts: HashMap<Identity, Vec<&Event>> = HashMap::new();
        for event in page {
            counts.entry(event.identity).or_default().push(event);
        }
        for (identity, events) in counts {
            let known = self.0.entry(identity).or_default();
            if events.len() > known.len() {
                *known = events.into_iter().cloned().collect();
            }
        }
    }

    fn bytes(&self) -> usize {
        self.0.values().map(held).sum()
    }

    fn into_events(self) -> Vec<Event> {
        let mut events: Vec<Event> = self.0.into_values().flatten().collect();
        events.sort_unstable_by_key(|event| (event.at, event.identity, event.payload));
        events
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Odd, Payload};

    /// A list API as slow and plain as can be, with every semantics that is unknown as a switch.
    #[derive(Clone, Debug)]
    struct Server {
        /// Second and type of each event, any order.
        events: Vec<(i64, u8)>,
        page_size: usize,
        lower_inclusive: bool,
        upper_inclusive: bool,
        token_inclusive: bool,
        honours_kind: bool,
        seed: u64,
    }

    fn event(at: i64, kind: u8, index: usize) -> Event {
        // Every third event is a twin of its neighbours of the same type.
        let twin = (index / 3) as u64;
        let mut identity = [0; 32];
        identity[..8].copy_from_slice(&at.to_be_bytes());
        identity[8] = kind;
        identity[9..17].copy_from_slice(&twin.to_be_bytes());
        Event {
            raw: Bytes::new(),
            at: Some(Second(at)),
            identity: Identity(identity),
            payload: Payload(identity),
            kind: Arc::from(format!("kind-{kind}")),
            odd: Odd::default(),
        }
    }

    impl Server {
        fn all(&self) -> Vec<Event> {
            self.events.iter().enumerate().map(|(index, (at, kind))| event(*at, *kind, index)).collect()
        }

        fn answer(&mut self, query: &Query) -> Page {
            let token = query.token.as_ref().map(|token| {
                let text = format!("{token:?}");
                text.chars().filter(char::is_ascii_digit).collect::<String>().parse::<i64>().unwrap()
            });
            let mut events: Vec<Event> = self
                .all()
                .into_iter()
                .filter(|event| {
                    let at = event.at.unwrap();
                    (at > query.after || self.lower_inclusive && at == query.after)
                        && (at < query.before || self.upper_inclusive && at == query.before)
                        && token.is_none_or(|token| at.0 < token || self.token_inclusive && at.0 == token)
                        && (!self.honours_kind || query.kind.as_ref().is_none_or(|kind| *kind == event.kind))
                })
                .collect();
            // Another order inside each second at every request.
            let seed = &mut self.seed;
            let mut keyed: Vec<(i64, u64, Event)> = events
                .drain(..)
                .map(|event| {
                    *seed =
                        seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (-event.at.unwrap().0, *seed >> 20, event)
                })
                .collect();
            keyed.sort_by_key(|(at, chance, _)| (*at, *chance));
            let more = keyed.len() > self.page_size;
            keyed.truncate(self.page_size);
            let next = more.then(|| PageToken::new(keyed.last().unwrap().2.at.unwrap().0.to_string()));
            Page { events: keyed.into_iter().map(|(_, _, event)| event).collect(), next }
        }
    }

    /// No list of these tests takes nearly so many.
    const QUESTIONS_MAX: u32 = 10_000;

    fn read(mut answer: impl FnMut(&Query) -> Page, window: Window) -> Result<Reading, Step> {
        let (mut sweep, mut query) = Sweep::new(window, Limits::default());
        for _ in 0..QUESTIONS_MAX {
            match sweep.answer(answer(&query)) {
                Step::Ask(next) => query = next,
                Step::Complete(reading) => return Ok(reading),
                other => return Err(other),
            }
        }
        panic!("it asks without an end");
    }

    fn identities(events: impl IntoIterator<Item = Event>) -> Vec<Identity> {
        let mut identities: Vec<Identity> = events.into_iter().map(|event| event.identity).collect();
        identities.sort_unstable();
        identities
    }

    fn server(events: Vec<(i64, u8)>) -> Server {
        Server {
            events,
            page_size: 5,
            lower_inclusive: false,
            upper_inclusive: false,
            token_inclusive: false,
            honours_kind: true,
            seed: 1,
        }
    }

    fn window(from: i64, until: i64) -> Window {
        Window::new(Second(from), Second(until))
    }

    fn page(events: Vec<Event>, token: Option<&str>) -> Page {
        Page { events, next: token.map(PageToken::new) }
    }

    fn large(at: i64, index: usize) -> Event {
        Event { raw: Bytes::from_static(&[b' '; 1 << 20]), ..event(at, 0, 3 * index) }
    }

    #[test]
    fn more_bytes_than_fit_into_memory_halve_a_window() {
        let (mut sweep, mut query) = Sweep::new(Window::new(Second(0), Second(1_000)), Limits::default());
        for page in 0..40 {
            let newest = query.before.0 - 1;
            let events = (0..4).map(|n| large(newest - n, 0)).collect();
            match sweep.answer(Page { events, next: Some(PageToken::new(page.to_string())) }) {
                Step::Ask(next) => query = next,
                Step::Halve => return assert!((4..8).contains(&page), "at page {page}"),
                other => panic!("{other:?}"),
            }
        }
        panic!("it held 40 pages");
    }

    #[test]
    fn a_window_is_halved_by_the_first_byte_that_does_not_fit_and_not_by_the_last_that_does() {
        let ask = |bytes: usize| {
            let (mut sweep, _) = Sweep::new(window(0, 1_000), Limits::default());
            let counted = Event { raw: Bytes::from(vec![b' '; bytes]), ..event(900, 0, 0) };
            sweep.answer(page(vec![counted, event(800, 0, 0)], Some("a")))
        };
        assert_eq!(asked(ask(16 << 20)), bounds(-1, 801));
        assert!(matches!(ask((16 << 20) + 1), Step::Halve));
    }

    #[test]
    fn more_bytes_in_one_second_than_fit_into_memory_make_it_damaged_and_what_was_read_is_kept() {
        let (mut sweep, _) = Sweep::new(Window::new(Second(100), Second(101)), Limits::default());
        for page in 0..100 {
            let events = (0..4).map(|n| large(100, 4 * page + n)).collect();
            match sweep.answer(Page { events, next: Some(PageToken::new(page.to_string())) }) {
                Step::Ask(_) => {}
                Step::Complete(reading) => {
                    assert_eq!(reading.damaged, [Second(100)]);
                    assert!((16..30).contains(&reading.events.len()), "{}", reading.events.len());
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it held 100 pages");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_500))]
        /// The slow model is the list of events itself.
        #[test]
        fn every_second_is_read_whole_or_declared_damaged(
            counts in prop::collection::vec((0usize..13).prop_map(|n| if n > 8 { 0 } else { n }), 1..14),
            bounds in any::<(bool, bool, bool, bool)>(),
            page_size in 2usize..7,
            seed in any::<u64>(),
            cut in (0i64..3, 0i64..3),
        ) {
            let mut events = Vec::new();
            for (at, count) in counts.iter().enumerate() {
                events.extend((0..*count).map(|n| (100 + at as i64, (n % 3) as u8)));
            }
            let mut server = Server {
                events,
                page_size,
                lower_inclusive: bounds.0,
                upper_inclusive: bounds.1,
                token_inclusive: bounds.2,
                honours_kind: bounds.3,
                seed,
            };
            let window = window(100 + cut.0, 100 + counts.len() as i64 - cut.1);
            prop_assume!(!window.is_empty());
            let reading = match read(|query| server.answer(query), window) {
                Ok(reading) => reading,
                Err(step) => return Err(TestCaseError::fail(format!("{step:?}"))),
            };
            for at in window.from.0..window.until.0 {
                let of = |events: &[Event]| identities(events.iter().filter(|e| e.at == Some(Second(at))).cloned());
                let (expected, got) = (of(&server.all()), of(&reading.events));
                if reading.damaged.contains(&Second(at)) {
                    prop_assert!(expected.len() >= page_size, "only a second that fills a page may be damaged");
                    let mut rest = expected.clone();
                    for identity in got {
                        let place = rest.iter().position(|known| *known == identity);
                        prop_assert!(place.is_some(), "nothing is invented");
                        rest.remove(place.unwrap());
                    }
                } else {
                    prop_assert_eq!(expected, got, "second {}", at);
                }
            }
            prop_assert!(reading.events.iter().all(|e| window.contains(e.at.unwrap())));
        }
    }

    #[test]
    fn a_quiet_window_costs_one_request() {
        let mut server = server(vec![(100, 0), (101, 1)]);
        assert_eq!(read(|query| server.answer(query), window(90, 110)).unwrap().requests, 1);
    }

    #[test]
    fn an_empty_page_with_a_token_is_not_the_end() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let Step::Ask(query) = sweep.answer(page(vec![], Some("a"))) else { panic!("there is more") };
        assert_eq!(query.token, Some(PageToken::new("a")));
        let Step::Complete(reading) = sweep.answer(page(vec![event(105, 0, 0)], None)) else {
            panic!("all is here")
        };
        assert_eq!(reading.events.len(), 1);
    }

    #[test]
    fn endless_empty_pages_are_an_error() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        for n in 0..10 {
            assert!(matches!(sweep.answer(page(vec![], Some(&n.to_string()))), Step::Ask(_)));
        }
        assert!(matches!(sweep.answer(page(vec![], Some("x"))), Step::Stuck(Stuck::EmptyPages(11))));
    }

    #[test]
    fn an_event_outside_the_asked_bounds_is_an_error() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let step = sweep.answer(page(vec![event(98, 0, 0)], None));
        assert!(matches!(step, Step::Stuck(Stuck::OutOfBounds { .. })));
    }

    #[test]
    fn a_list_that_is_oldest_first_is_an_error() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let step = sweep.answer(page(vec![event(101, 0, 0), event(105, 0, 0)], Some("a")));
        assert!(matches!(step, Step::Stuck(Stuck::NotNewestFirst)));
    }

    #[test]
    fn events_without_a_time_are_kept_and_not_doubled_by_the_next_page() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let timeless = Event { at: None, ..event(0, 0, 0) };
        let first = page(vec![event(105, 0, 0), timeless.clone(), event(104, 0, 0)], Some("a"));
        assert!(matches!(sweep.answer(first), Step::Ask(_)));
        let second = page(vec![timeless.clone(), event(104, 0, 0)], None);
        let Step::Complete(reading) = sweep.answer(second) else { panic!("all is here") };
        assert_eq!(reading.timeless, [timeless]);
        assert_eq!(reading.events.len(), 2);
    }

    #[test]
    fn a_window_of_too_many_events_is_halved() {
        let limits = Limits { events_max: 3, ..Limits::default() };
        let mut server = server((0..20).map(|n| (100 + n, 0)).collect());
        let (mut sweep, query) = Sweep::new(window(100, 120), limits);
        assert!(matches!(sweep.answer(server.answer(&query)), Step::Halve));
    }

    fn bounds(after: i64, before: i64) -> Query {
        Query { after: Second(after), before: Second(before), token: None, kind: None }
    }

    fn asked(step: Step) -> Query {
        match step {
            Step::Ask(query) => query,
            other => panic!("{other:?}"),
        }
    }

    fn complete(step: Step) -> Reading {
        match step {
            Step::Complete(reading) => reading,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bound_moves_down_to_the_second_that_may_be_cut() {
        let (mut sweep, query) = Sweep::new(window(100, 110), Limits::default());
        assert_eq!(query, bounds(99, 110));
        let first = page(vec![event(109, 0, 0), event(107, 0, 0), event(105, 0, 0)], Some("a"));
        assert_eq!(asked(sweep.answer(first)), bounds(99, 106));
        let second = page(vec![event(105, 0, 0), event(105, 0, 3), event(100, 0, 0)], Some("b"));
        assert_eq!(asked(sweep.answer(second)), bounds(99, 101));
        let reading = complete(sweep.answer(page(vec![event(100, 0, 0), event(99, 0, 0)], Some("c"))));
        assert_eq!((reading.requests, reading.read, reading.events.len()), (3, 8, 5));
        assert!(
            reading.events.iter().all(|event| event.at >= Some(Second(100))),
            "nothing from before the window"
        );
    }

    #[test]
    fn an_event_above_the_asked_bounds_is_an_error() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let step = sweep.answer(page(vec![event(111, 0, 0)], None));
        assert!(matches!(step, Step::Stuck(Stuck::OutOfBounds { at: Second(111), .. })));
    }

    #[test]
    fn an_empty_page_that_gives_its_own_token_again_is_an_error() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        asked(sweep.answer(page(vec![], Some("a"))));
        assert!(matches!(sweep.answer(page(vec![], Some("a"))), Step::Stuck(Stuck::SameToken)));
    }

    #[test]
    fn a_page_with_events_ends_the_count_of_empty_ones() {
        let (mut sweep, _) = Sweep::new(window(0, 110), Limits::default());
        for round in (1..=3).rev() {
            for n in 0..10 {
                asked(sweep.answer(page(vec![], Some(&n.to_string()))));
            }
            let at = round * 20;
            let query = asked(sweep.answer(page(vec![event(at + 1, 0, 0), event(at, 0, 0)], Some("x"))));
            assert_eq!(query, bounds(-1, at + 1), "the token is not followed once there are events");
        }
    }

    #[test]
    fn a_window_is_halved_beyond_its_bounds_and_a_single_second_never() {
        let events = |range: std::ops::Range<i64>| range.rev().map(|at| event(at, 0, 0)).collect::<Vec<_>>();
        let limits = Limits { events_max: 3, ..Limits::default() };
        let (mut sweep, _) = Sweep::new(window(100, 120), limits);
        assert!(matches!(sweep.answer(page(events(116..120), Some("a"))), Step::Ask(_)), "three are counted");
        assert!(matches!(sweep.answer(page(events(115..117), Some("a"))), Step::Halve), "a fourth");

        let limits = Limits { requests_max: 2, ..Limits::default() };
        let (mut sweep, _) = Sweep::new(window(100, 120), limits);
        assert!(matches!(sweep.answer(page(events(115..120), Some("a"))), Step::Ask(_)));
        assert!(matches!(sweep.answer(page(events(110..116), Some("a"))), Step::Halve), "a third request");
        let (mut sweep, _) = Sweep::new(window(100, 102), limits);
        assert!(matches!(sweep.answer(page(vec![], Some("a"))), Step::Ask(_)));
        assert!(matches!(sweep.answer(page(vec![], Some("b"))), Step::Halve));
        let (mut sweep, _) = Sweep::new(window(100, 101), limits);
        for token in ["a", "b", "c"] {
            assert!(matches!(sweep.answer(page(vec![], Some(token))), Step::Ask(_)), "{token}");
        }
    }

    #[test]
    fn a_second_shown_beside_the_bound_is_asked_for_by_itself_and_the_larger_count_believed() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let wide = page(vec![event(110, 0, 0), event(109, 0, 0), event(109, 0, 1)], Some("a"));
        assert_eq!(asked(sweep.answer(wide)), bounds(99, 109));
        let reading = complete(sweep.answer(page(vec![event(109, 0, 0), event(105, 0, 0)], None)));
        assert_eq!(
            identities(reading.events),
            identities([event(109, 0, 0), event(109, 0, 1), event(105, 0, 0)])
        );
    }

    #[test]
    fn of_two_answers_that_count_as_many_the_closer_look_is_believed() {
        let reads = |payload| Event { payload: Payload([payload; 32]), ..event(109, 0, 0) };
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        asked(sweep.answer(page(vec![event(110, 0, 0), reads(1)], Some("a"))));
        let reading = complete(sweep.answer(page(vec![reads(2)], None)));
        assert_eq!(reading.events, [reads(2)]);
    }

    #[test]
    fn two_answers_that_contradict_each_other_on_a_second_make_it_a_dense_one() {
        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let wide = page(vec![event(110, 0, 0), event(109, 0, 0)], Some("a"));
        assert_eq!(asked(sweep.answer(wide)), bounds(99, 109));
        let without = page(vec![event(108, 0, 0), event(107, 0, 0)], Some("b"));
        assert_eq!(asked(sweep.answer(without)), bounds(108, 110), "looked at alone");

        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        let above = page(vec![event(110, 0, 0), event(110, 0, 3)], Some("a"));
        assert_eq!(asked(sweep.answer(above)), bounds(99, 109));
        let without = page(vec![event(108, 0, 0), event(107, 0, 0)], Some("b"));
        assert_eq!(
            asked(sweep.answer(without)),
            bounds(99, 108),
            "nothing was shown of it: no contradiction"
        );

        let (mut sweep, _) = Sweep::new(window(100, 110), Limits::default());
        asked(sweep.answer(page(vec![event(110, 0, 0), event(109, 0, 0)], Some("a"))));
        let with = page(vec![event(109, 0, 0), event(107, 0, 0)], Some("b"));
        assert_eq!(asked(sweep.answer(with)), bounds(99, 108), "shown by both: no contradiction");
    }

    /// A sweep of one dense second, after the page that showed it.
    fn dense(kinds: &[u8], limits: Limits) -> (Sweep, Query) {
        let (mut sweep, _) = Sweep::new(window(105, 106), limits);
        let query =
            asked(sweep.answer(page(kinds.iter().map(|kind| event(105, *kind, 0)).collect(), Some("first"))));
        (sweep, query)
    }

    fn of_kind(query: &Query) -> Option<&str> {
        query.kind.as_deref()
    }

    #[test]
    fn the_walk_through_a_dense_second_ends_at_a_token_seen_before_and_after_so_many_pages() {
        let (mut sweep, query) = dense(&[0], Limits::default());
        assert_eq!(query, bounds(104, 106));
        let query = asked(sweep.answer(page(vec![event(105, 0, 0)], Some("a"))));
        assert_eq!((query.token, query.kind), (Some(PageToken::new("a")), None));
        let query = asked(sweep.answer(page(vec![event(105, 0, 3)], Some("a"))));
        assert_eq!(
            (of_kind(&query), &query.token),
            (Some("kind-0"), &None),
            "now by type, from the beginning"
        );
        let whole = page(vec![event(105, 0, 0), event(105, 0, 3)], None);
        let reading = complete(sweep.answer(whole));
        assert_eq!((reading.damaged, reading.events.len()), (vec![Second(105)], 2), "the walk had no end");

        let limits = Limits { dense_pages_max: 3, ..Limits::default() };
        let (mut sweep, _) = dense(&[0], limits);
        let walked = (0..).take_while(|n: &usize| {
            of_kind(&asked(sweep.answer(page(vec![event(105, 0, n * 3)], Some(&n.to_string()))))).is_none()
        });
        assert_eq!(walked.count(), 3);
    }

    #[test]
    fn what_the_page_held_that_showed_a_dense_second_counts_also_when_no_later_page_shows_it() {
        for before in [106, 105] {
            let (mut sweep, _) = Sweep::new(window(105, 106), Limits::default());
            let shown = || vec![event(105, 0, 0), event(105, 1, 0)];
            if before == 105 {
                asked(sweep.answer(page(vec![event(106, 0, 0), event(105, 0, 0)], Some("wide"))));
            }
            assert_eq!(asked(sweep.answer(page(shown(), Some("first")))), bounds(104, before));
            asked(sweep.answer(page(vec![event(105, 0, 0)], None)));
            let reading = complete(sweep.answer(page(vec![event(105, 0, 0)], None)));
            assert_eq!(identities(reading.events), identities(shown()));
            assert_eq!(reading.damaged, [Second(105)]);
        }
    }

    #[test]
    fn types_of_a_dense_second_are_asked_for_within_a_bound_and_one_without_a_type_never() {
        let limits = Limits { dense_kinds_max: 2, ..Limits::default() };
        let (mut sweep, _) = dense(&[0], limits);
        let untyped = Event { kind: Arc::from(""), ..event(105, 9, 0) };
        let shown = vec![event(105, 0, 0), event(105, 1, 0), event(105, 2, 0), untyped.clone()];
        let mut query = asked(sweep.answer(page(shown, None)));
        let mut kinds = Vec::new();
        let reading = loop {
            let kind = of_kind(&query).expect("a type").to_owned();
            let number = kind.trim_start_matches("kind-").parse().unwrap();
            kinds.push(kind);
            assert!(kinds.len() <= 4, "it asks without an end: {kinds:?}");
            match sweep.answer(page(vec![event(105, number, 0)], None)) {
                Step::Ask(next) => query = next,
                step => break complete(step),
            }
        };
        assert_eq!(kinds.len(), 2);
        assert!(kinds.iter().all(|kind| !kind.is_empty()));
        assert_eq!((reading.damaged, reading.events.len()), (vec![Second(105)], 4));
    }

    #[test]
    fn a_type_whose_answer_begins_with_empty_pages_is_read_on_within_a_bound() {
        let (mut sweep, _) = dense(&[0], Limits::default());
        asked(sweep.answer(page(vec![event(105, 0, 0)], Some("a"))));
        let mut query = asked(sweep.answer(page(vec![event(105, 0, 3)], None)));
        for n in 0..10 {
            assert_eq!(of_kind(&query), Some("kind-0"));
            query = asked(sweep.answer(page(vec![], Some(&format!("k{n}")))));
            assert_eq!(query.token, Some(PageToken::new(format!("k{n}"))));
        }
        let whole = complete(sweep.answer(page(vec![event(105, 0, 0), event(105, 0, 3)], None)));
        assert_eq!((whole.damaged, whole.events.len()), (vec![], 2), "walk and type agree");

        let after = |pages: &[Option<&str>]| {
            let (mut sweep, _) = dense(&[0], Limits { empty_pages_max: 1, ..Limits::default() });
            asked(sweep.answer(page(vec![event(105, 0, 0)], Some("a"))));
            asked(sweep.answer(page(vec![event(105, 0, 3)], None)));
            let mut answers = pages.iter().map(|token| sweep.answer(page(vec![], *token)));
            answers.position(|step| matches!(step, Step::Complete(_)))
        };
        assert_eq!(after(&[Some("a"), Some("b"), Some("c")]), Some(1), "more empty pages than allowed");
        assert_eq!(after(&[None, Some("b")]), Some(0), "the answer's end");
    }

    #[test]
    fn a_dense_second_that_does_not_add_up_is_damaged() {
        let by = |walk: Vec<Event>, end: Vec<Event>, kind: Vec<Event>, token: Option<&str>| {
            let (mut sweep, _) = dense(&[0], Limits::default());
            asked(sweep.answer(page(walk, Some("a"))));
            asked(sweep.answer(page(end, None)));
            complete(sweep.answer(page(kind, token))).damaged
        };
        let (one, two) = (|| event(105, 0, 0), || event(105, 0, 3));
        let damaged = vec![Second(105)];
        assert_eq!(by(vec![one()], vec![two()], vec![one(), two()], None), vec![]);
        assert_eq!(
            by(vec![one()], vec![two()], vec![one(), two()], Some("k")),
            damaged,
            "the type's page is not the last"
        );
        assert_eq!(by(vec![one()], vec![two()], vec![one()], None), damaged, "the counts differ");
        assert_eq!(
            by(vec![one()], vec![two()], vec![one(), event(105, 1, 0)], None),
            damaged,
            "the filter is ignored"
        );
        assert_eq!(by(vec![one()], vec![], vec![one()], None), damaged, "a single page proves nothing");
        let (mut sweep, _) = dense(&[0], Limits::default());
        asked(sweep.answer(page(vec![one()], Some("a"))));
        let query = asked(sweep.answer(page(vec![two(), event(104, 0, 0)], Some("b"))));
        assert_eq!(of_kind(&query), Some("kind-0"), "an older event ends the walk, whatever is promised");
        let whole = complete(sweep.answer(page(vec![one(), two()], None)));
        assert_eq!(whole.damaged, []);
        let beside = vec![event(106, 0, 0), one()];
        assert_eq!(by(beside, vec![two()], vec![one(), two()], None), vec![], "a newer event does not");
        let strange = vec![two(), event(120, 0, 0)];
        assert_eq!(
            by(vec![one()], strange, vec![one(), two()], None),
            damaged,
            "events outside of what was asked"
        );
    }

    #[test]
    fn a_dense_second_of_several_types_is_whole_when_the_walk_and_the_types_agree() {
        // A keyset token that goes on inside the second: the one kind of server that can prove a dense second whole.
        let all: Vec<Event> = (0..12).map(|n| event(105, (n % 4) as u8, n as usize * 3)).collect();
        let answer = |query: &Query| {
            let matching: Vec<Event> = all
                .iter()
                .filter(|e| query.kind.as_ref().is_none_or(|kind| *kind == e.kind))
                .cloned()
                .collect();
            let skip = query.token.as_ref().map_or(0, |token| {
                format!("{token:?}").chars().filter(char::is_ascii_digit).collect::<String>().parse().unwrap()
            });
            let shown: Vec<Event> = matching.iter().skip(skip).take(5).cloned().collect();
            let end = skip + shown.len();
            let token = (end < matching.len()).then(|| end.to_string());
            page(shown, token.as_deref())
        };
        let reading = read(answer, window(105, 106)).unwrap();
        assert_eq!(reading.damaged, []);
        assert_eq!(identities(reading.events), identities(all));
    }
}
