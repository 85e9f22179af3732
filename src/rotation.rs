//! Two places for one secret, so that secrets can be exchanged with overlap: which value is in use, which is tried next.
//!
//! It reads the places and keeps the value in use in memory until another one has been accepted: whatever a file holds meanwhile
//! (half of a secret, none, a wrong one) replaces nothing that works. It asks nobody: whoever sends the value says what came of it
//! ([`Rotation::accepted`], [`Rotation::refused`]). It prints nothing and no value; what there is to say of it is its [`Standing`].
//!
//! *Why a changed value is tried rather than taken:* the service alone knows whether it is right, and whoever made a mistake
//! should hear of it while the old one still works. *Why a value counts only when it was read twice the same:* not everybody
//! renames a file into its place, and half a secret that is sent is a refused call in somebody's audit log.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::clock::Second;
use crate::secret::{Fingerprint, Freshness, SecretError};

/// Between the two readings of a place that changed.
const SETTLE: Duration = Duration::from_millis(100);
/// Values beside the one in use, or changed ones in a pause, that may be refused within [`REFUSALS_WITHIN`]; no more are tried before that has passed.
const REFUSALS_MAX: usize = 4;
const REFUSALS_WITHIN: Duration = Duration::from_secs(60);
/// The same for those that may not do what they are for: such calls are recorded as authentication failures.
const FORBIDDEN_WITHIN: Duration = Duration::from_secs(3_600);
/// Values that one question is asked with at most: a place may change while it is asked.
const TRIED_MAX: usize = 6;

/// Which of the two places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    First,
    Next,
}

impl Slot {
    pub const ALL: [Slot; 2] = [Slot::First, Slot::Next];

    pub fn as_str(self) -> &'static str {
        match self {
            Slot::First => "first",
            Slot::Next => "next",
        }
    }

    pub fn parse(text: &str) -> Option<Slot> {
        Slot::ALL.into_iter().find(|slot| slot.as_str() == text)
    }

    fn other(self) -> Slot {
        match self {
            Slot::First => Slot::Next,
            Slot::Next => Slot::First,
        }
    }
}

/// Where the two values are.
pub trait Places: Send + Sync {
    type Value: Clone + Send + Sync;

    /// A value that ends within this time gives way to the other one, if that is accepted.
    const BEFORE_EXPIRY_SECONDS: i64 = 15 * 60;

    /// The configuration's names of the two.
    fn keys(&self) -> [&'static str; 2];

    /// What a place holds, as far as can be told without asking anybody; `None` where it is not configured.
    fn seen(&self, slot: Slot) -> Option<Result<Self::Value, SecretError>>;

    /// What a place holds now, also where somebody has to be asked.
    fn read(
        &self,
        slot: Slot,
        _: Freshness,
    ) -> impl Future<Output = Option<Result<Self::Value, SecretError>>> + Send {
        std::future::ready(self.seen(slot))
    }

    fn fingerprint(value: &Self::Value) -> Fingerprint;

    /// When a value ends, where it says so itself.
    fn expires(_: &Self::Value) -> Option<Second> {
        None
    }
}

/// What both places hold, as one and without asking anybody; `None` when neither can be told.
pub fn present<P: Places>(places: &P) -> Option<Fingerprint> {
    let found = Slot::ALL.map(|slot| places.seen(slot)?.ok().map(|value| P::fingerprint(&value)));
    match found {
        [None, None] => None,
        [Some(only), None] | [None, Some(only)] => Some(only),
        [Some(first), Some(next)] => Some(Fingerprint::of_all([first, next])),
    }
}

/// Why a value was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is not known, or not any more.
    Unknown,
    /// It is known, and lives longer than its organization allows.
    TooLong,
    /// It is known, and may not do what it is for.
    Forbidden,
}

/// A value to ask with.
#[derive(Clone)]
pub struct Choice<V> {
    slot: Slot,
    value: V,
    fingerprint: Fingerprint,
    /// What was refused within the same question.
    tried: Vec<Fingerprint>,
}

impl<V> Choice<V> {
    pub fn value(&self) -> &V {
        &self.value
    }

    pub fn slot(&self) -> Slot {
        self.slot
    }
}

/// What there is to say of a rotation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    pub in_use: Option<InUse>,
    /// Why the one before was given up, where it was refused.
    pub given_up: Option<String>,
    /// What is wrong beside the value in use.
    pub warning: Option<String>,
    /// How often another value was taken over, and how often one was refused.
    pub taken: u64,
    pub refused: u64,
}

/// The value that was accepted last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InUse {
    pub slot: Slot,
    /// The configuration's name of its place.
    pub key: &'static str,
    pub fingerprint: Fingerprint,
    pub expires: Option<Second>,
}

/// One place, as far as it is known.
struct Seat<V> {
    /// What it held at the last look; `None` before the first, and where it is not configured.
    seen: Option<Result<(V, Fingerprint), SecretError>>,
    /// The value of this place that was accepted or refused last.
    judged: Option<Fingerprint>,
    /// What it holds is to be tried.
    due: bool,
    /// The value that was tried before the one in use ended.
    tried_before_expiry: Option<Fingerprint>,
    /// Why its value is not in use.
    trouble: Option<String>,
}

impl<V> Default for Seat<V> {
    fn default() -> Seat<V> {
        Seat { seen: None, judged: None, due: false, tried_before_expiry: None, trouble: None }
    }
}

/// See the module.
pub struct Rotation<P: Places> {
    places: P,
    seats: [Seat<P::Value>; 2],
    current: Option<(Slot, P::Value, Fingerprint)>,
    /// Every value was refused, or none can be read: one question at a time, in turn.
    stuck: bool,
    turn: Slot,
    refusals: VecDeque<Instant>,
    forbidden: VecDeque<Instant>,
    given_up: Option<String>,
    taken: u64,
    refused: u64,
}

impl<P: Places> Rotation<P> {
    pub fn new(places: P) -> Rotation<P> {
        Rotation {
            places,
            seats: Default::default(),
            current: None,
            stuck: false,
            turn: Slot::First,
            refusals: VecDeque::new(),
            forbidden: VecDeque::new(),
            given_up: None,
            taken: 0,
            refused: 0,
        }
    }

    pub fn places(&self) -> &P {
        &self.places
    }

    /// Which place to begin with: the one in use before a restart.
    pub fn begin_with(&mut self, slot: Slot) {
        if self.current.is_none() && !self.stuck {
            self.turn = slot;
        }
    }

    /// Looks at both places and asks nobody. What has changed is to be tried.
    pub async fn look(&mut self, now: Second) {
        self.look_at(None, now).await;
    }

    async fn look_at(&mut self, freshness: Option<Freshness>, now: Second) {
        let first = self.readings(freshness).await;
        let changed = |seat: &Seat<P::Value>, found: &Reading<P::Value>| !same(&seat.seen, found);
        if self.seats.iter().zip(&first).any(|(seat, found)| changed(seat, found)) {
            let begun = self.seats.iter().any(|seat| seat.seen.is_some());
            let second = if begun {
                sleep(SETTLE).await;
                self.readings(None).await
            } else {
                first.clone()
            };
            for ((slot, was), found) in Slot::ALL.into_iter().zip(first).zip(second) {
                if same(&was, &found) && changed(&self.seats[at(slot)], &found) {
                    self.see(slot, found, begun);
                }
            }
        }
        self.look_ahead(now);
    }

    fn see(&mut self, slot: Slot, found: Reading<P::Value>, begun: bool) {
        let current = self.current.as_ref().map(|(_, _, fingerprint)| *fingerprint);
        let key = self.places.keys()[at(slot)];
        let seat = &mut self.seats[at(slot)];
        match &found {
            Some(Ok((_, fingerprint))) => {
                seat.due = begun && Some(*fingerprint) != current && Some(*fingerprint) != seat.judged;
                // One that was refused keeps its trouble.
                if Some(*fingerprint) == current || Some(*fingerprint) != seat.judged {
                    seat.trouble = None;
                }
            }
            Some(Err(error)) => {
                seat.due = false;
                seat.trouble = Some(format!("{key}: {error}; the one in memory stays in use"));
            }
            None => seat.due = false,
        }
        seat.seen = found;
        self.settle_slot();
    }

    /// The value in use may have moved from the second place to the first, as at the end of an exchange.
    fn settle_slot(&mut self) {
        if let (Some((slot @ Slot::Next, _, fingerprint)), Some(Ok((_, first)))) =
            (&mut self.current, &self.seats[0].seen)
            && fingerprint == first
        {
            *slot = Slot::First;
            self.seats[0].judged = Some(*first);
        }
    }

    /// Before the value in use ends, the other one is tried, once.
    fn look_ahead(&mut self, now: Second) {
        let Some((slot, value, current)) = &self.current else { return };
        if P::expires(value).is_none_or(|end| end - now > P::BEFORE_EXPIRY_SECONDS) {
            return;
        }
        let seat = &mut self.seats[at(slot.other())];
        if let Some(Ok((_, fingerprint))) = &seat.seen
            && fingerprint != current
            && seat.tried_before_expiry != Some(*fingerprint)
        {
            seat.tried_before_expiry = Some(*fingerprint);
            seat.due = true;
        }
    }

    /// A person said that something changed: a value that nobody has tried is tried now.
    pub fn nudged(&mut self) {
        let current = self.current.as_ref().map(|(_, _, fingerprint)| *fingerprint);
        if current.is_none() && !self.stuck {
            return;
        }
        for seat in &mut self.seats {
            if let Some(Ok((_, fingerprint))) = &seat.seen {
                seat.due |= Some(*fingerprint) != current && Some(*fingerprint) != seat.judged;
            }
        }
    }

    /// Whether a value waits to be tried, and may be.
    pub fn is_due(&mut self) -> bool {
        self.seats.iter().any(|seat| seat.due) && self.may_try()
    }

    fn may_try(&mut self) -> bool {
        let now = Instant::now();
        for (list, within) in [(&mut self.refusals, REFUSALS_WITHIN), (&mut self.forbidden, FORBIDDEN_WITHIN)]
        {
            list.retain(|at| now.duration_since(*at) < within);
        }
        self.refusals.len() < REFUSALS_MAX && self.forbidden.len() < REFUSALS_MAX
    }

    /// The value to ask with, as of the places now.
    ///
    /// # Errors
    /// When none is in use and none can be read.
    pub async fn choose(&mut self, now: Second) -> Result<Choice<P::Value>, SecretError> {
        // Where nothing works, what was read before is what was refused.
        let freshness = if self.stuck { Freshness::Renewed } else { Freshness::Kept };
        self.look_at(Some(freshness), now).await;
        if let Some(choice) = self.untried() {
            return Ok(choice);
        }
        if let Some((slot, value, fingerprint)) = self.current.clone() {
            return Ok(Choice { slot, value, fingerprint, tried: Vec::new() });
        }
        for slot in [self.turn, self.turn.other()] {
            if let Some(Ok((value, fingerprint))) = self.seats[at(slot)].seen.clone() {
                return Ok(Choice { slot, value, fingerprint, tried: Vec::new() });
            }
        }
        self.stuck = true;
        match &self.seats[0].seen {
            Some(Err(error)) => Err(error.clone()),
            // Both readings of the first look differed: it is being written.
            _ => Err(SecretError::Unreadable {
                place: self.places.keys()[0].to_owned(),
                cause: "it is being written".into(),
            }),
        }
    }

    /// A value that waits to be tried.
    fn untried(&mut self) -> Option<Choice<P::Value>> {
        if !self.is_due() {
            return None;
        }
        Slot::ALL.into_iter().find_map(|slot| match &self.seats[at(slot)] {
            Seat { due: true, seen: Some(Ok((value, fingerprint))), .. } => {
                let (value, fingerprint) = (value.clone(), *fingerprint);
                Some(Choice { slot, value, fingerprint, tried: Vec::new() })
            }
            _ => None,
        })
    }

    /// Whether another value is in use, so that this one is only being tried.
    pub fn is_spare(&self, choice: &Choice<P::Value>) -> bool {
        self.current.as_ref().is_some_and(|(_, _, fingerprint)| *fingerprint != choice.fingerprint)
    }

    /// It was accepted, and is in use from now on.
    pub fn accepted(&mut self, choice: &Choice<P::Value>) {
        let Choice { slot, value, fingerprint, .. } = choice;
        if self.current.as_ref().is_some_and(|(_, _, current)| current == fingerprint) {
            return;
        }
        // The first one of all is not an exchange.
        let known = self.current.is_some() || self.refused > 0;
        self.taken += u64::from(known);
        if self.current.is_some() {
            self.given_up = None;
        }
        self.current = Some((*slot, value.clone(), *fingerprint));
        self.stuck = false;
        self.turn = *slot;
        let seat = &mut self.seats[at(*slot)];
        seat.judged = Some(*fingerprint);
        seat.due &= !seat.holds(*fingerprint);
        seat.trouble = None;
        self.settle_slot();
    }

    /// It was refused, `why` in words. Answers what is to be tried at once instead: the value in use where this one was only
    /// tried; another one where this one was in use. `None` when a person has to act.
    pub async fn refused(
        &mut self,
        choice: Choice<P::Value>,
        refusal: Refusal,
        why: &str,
    ) -> Option<Choice<P::Value>> {
        let spare = self.is_spare(&choice);
        let Choice { slot, fingerprint, mut tried, .. } = choice;
        tried.push(fingerprint);
        self.refused += 1;
        let now = Instant::now();
        let key = self.places.keys()[at(slot)];
        let seat = &mut self.seats[at(slot)];
        seat.judged = Some(fingerprint);
        seat.trouble = spare
            .then(|| format!("the value now in {key} is refused ({why}); the one in memory stays in use"));
        if std::mem::take(&mut seat.due) || spare {
            seat.due = !seat.holds(fingerprint);
            match refusal {
                Refusal::Unknown => self.refusals.push_back(now),
                Refusal::TooLong | Refusal::Forbidden => self.forbidden.push_back(now),
            }
        }
        if spare {
            let other = self.untried().filter(|other| !tried.contains(&other.fingerprint));
            let back = || {
                let (slot, value, fingerprint) = self.current.clone()?;
                Some(Choice { slot, value, fingerprint, tried: Vec::new() })
            };
            return other.or_else(back).map(|other| Choice { tried, ..other });
        }
        self.current = None;
        self.given_up = Some(why.to_owned());
        if !self.stuck && refusal != Refusal::Forbidden && tried.len() < TRIED_MAX {
            for slot in Slot::ALL {
                if let Some(Ok(value)) = self.places.read(slot, Freshness::Renewed).await {
                    let fingerprint = P::fingerprint(&value);
                    if !tried.contains(&fingerprint) {
                        return Some(Choice { slot, value, fingerprint, tried });
                    }
                }
            }
        }
        self.stuck = true;
        let other = slot.other();
        self.turn = if matches!(self.seats[at(other)].seen, Some(Ok(_))) { other } else { slot };
        None
    }

    pub fn slot(&self) -> Option<Slot> {
        self.current.as_ref().map(|(slot, ..)| *slot)
    }

    /// How often another value was taken over.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    pub fn standing(&self) -> Standing {
        let keys = self.places.keys();
        let in_use = self.current.as_ref().map(|(slot, value, fingerprint)| InUse {
            slot: *slot,
            key: keys[at(*slot)],
            fingerprint: *fingerprint,
            expires: P::expires(value),
        });
        // Where nothing is in use there is a pause, which says what is wrong.
        let warning = in_use.and_then(|_| self.seats.iter().find_map(|seat| seat.trouble.clone()));
        let given_up = self.given_up.clone();
        Standing { in_use, given_up, warning, taken: self.taken, refused: self.refused }
    }

    async fn readings(&self, freshness: Option<Freshness>) -> [Reading<P::Value>; 2] {
        let mut readings = [None, None];
        for slot in Slot::ALL {
            let found = match freshness {
                Some(freshness) => self.places.read(slot, freshness).await,
                None => self.places.seen(slot),
            };
            let seat = &self.seats[at(slot)];
            readings[at(slot)] = match found {
                // It is not here, and nobody can be asked now: that is no news of what was read before.
                Some(Err(SecretError::Unavailable { .. })) if matches!(seat.seen, Some(Ok(_))) => {
                    seat.seen.clone()
                }
                found => found.map(|found| {
                    found.map(|value| {
                        let fingerprint = P::fingerprint(&value);
                        (value, fingerprint)
                    })
                }),
            };
        }
        readings
    }
}

impl<V> Seat<V> {
    fn holds(&self, fingerprint: Fingerprint) -> bool {
        matches!(&self.seen, Some(Ok((_, seen))) if *seen == fingerprint)
    }
}

type Reading<V> = Option<Result<(V, Fingerprint), SecretError>>;

fn at(slot: Slot) -> usize {
    match slot {
        Slot::First => 0,
        Slot::Next => 1,
    }
}

fn same<V>(one: &Reading<V>, other: &Reading<V>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some(Ok((_, one))), Some(Ok((_, other)))) => one == other,
        (Some(Err(one)), Some(Err(other))) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
