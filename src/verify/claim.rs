//! One claim by itself: whether it says what a claim under this key can say.

use std::fmt;

use super::finding::{Findings, Kind, Wrong};
use crate::chunk::{CLAIM_VERSION, Claim, claim_key, object_key};
use crate::clock::{Second, Window};
use crate::event::OrgId;

/// A claim, and what its texts mean.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    pub(crate) claim: Claim,
    pub(crate) window: Option<Window>,
    pub(crate) first: Option<Second>,
    pub(crate) last: Option<Second>,
    /// Midnight of the date its object lies under; `None` where its times do not say.
    pub(crate) day: Option<Second>,
}

impl Read {
    /// Where the object must lie, whatever `key` says.
    pub(crate) fn object_key(&self, id: &OrgId, number: u64) -> Option<String> {
        self.day.map(|day| object_key(id, &day.date(), number))
    }
}

pub(crate) fn check(bytes: &[u8], id: &OrgId, number: u64, wrong: &mut Findings) -> Option<Read> {
    let place = claim_key(id, number);
    let claim = match serde_json::from_slice::<Claim>(bytes) {
        Ok(claim) => claim,
        Err(error) => {
            let found =
                format!("{:?} error at line {} column {}", error.classify(), error.line(), error.column());
            let unreadable = Wrong::new(Kind::ClaimUnreadable, number, &place, "the file");
            wrong.push(unreadable.differs("a claim as one JSON object", found));
            return None;
        }
    };
    let mut differs = |what: &str, expected: &dyn fmt::Display, found: &dyn fmt::Display| {
        wrong.push(Wrong::new(Kind::Claim, number, &place, what).differs(expected, found));
    };
    if claim.version != CLAIM_VERSION {
        differs("`version`", &CLAIM_VERSION, &claim.version);
    }
    if claim.id != *id {
        differs("`id`", id, &claim.id);
    }
    if claim.chunk != number {
        differs("`chunk`", &number, &claim.chunk);
    }
    if claim.count == 0 {
        differs("`count`", &"at least 1", &0);
    }
    let window = window(&claim.window);
    match window {
        None => differs("`window`", &"from/until in RFC 3339", &claim.window),
        Some(window) if window.is_empty() => differs("`window`", &"a span that is not empty", &claim.window),
        Some(_) => {}
    }
    let mut time = |what: &str, text: &Option<String>| {
        let at = text.as_deref().and_then(second);
        if let (Some(text), None) = (text, at) {
            differs(what, &"a time in RFC 3339 or null", text);
        }
        at
    };
    let first = time("`first_time`", &claim.first_time);
    let last = time("`last_time`", &claim.last_time);
    let is_whole =
        first.is_some() == claim.first_time.is_some() && last.is_some() == claim.last_time.is_some();
    if is_whole {
        match (first, last) {
            (Some(first), Some(last)) if last < first => {
                differs("`last_time`", &format!("{first} or later"), &last);
            }
            (Some(first), Some(last)) if last.midnight() != first.midnight() => {
                differs("`last_time`", &format!("on {}", first.date()), &last);
            }
            (Some(first), Some(last)) => {
                if let Some(window) =
                    window.filter(|window| !(window.contains(first) && window.contains(last)))
                {
                    differs("`window`", &format!("a span with {first} and {last} in it"), &window);
                }
            }
            (None, None) => {}
            _ => differs("`first_time`", &"a time where `last_time` is one", &"another"),
        }
    }
    let day = match (&claim.first_time, first) {
        (Some(_), first) => first,
        (None, _) => window.map(|window| window.from),
    };
    let day = day.map(Second::midnight);
    if let Some(day) = day {
        let key = object_key(id, &day.date(), number);
        if claim.key != key {
            differs("`key`", &key, &claim.key);
        }
    }
    Some(Read { claim, window, first, last, day })
}

/// Reads a time as it is written here, and in no other form.
pub(crate) fn second(text: &str) -> Option<Second> {
    Second::parse_rfc3339(text).filter(|at| at.to_string() == text)
}

fn window(text: &str) -> Option<Window> {
    let (from, until) = text.split_once('/')?;
    Some(Window::new(second(from)?, second(until)?))
}

/// Any bytes under a claim's key: named as wrong, or read as they stand.
#[cfg(any(test, fuzzing))]
#[expect(clippy::expect_used, reason = "a property: it panics where it does not hold")]
pub(crate) fn property(bytes: &[u8]) {
    let mut wrong = Findings::default();
    match check(bytes, &crate::hostile::given::org(), 7, &mut wrong) {
        None => assert!(!wrong.is_empty()),
        Some(read) => {
            let written = serde_json::to_vec(&read.claim).expect("a claim has a JSON form");
            assert_eq!(serde_json::from_slice::<Claim>(&written).ok(), Some(read.claim.clone()));
            let key = read.object_key(&crate::hostile::given::org(), 7);
            assert!(!wrong.is_empty() || key.as_ref() == Some(&read.claim.key));
        }
    }
    if let Some(wrong) = wrong.first {
        assert!(wrong.to_string().chars().count() < 2_000);
    }
}
