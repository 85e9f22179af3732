//! What is found wrong, in words a person can act on: where, what was expected, what is there, what it means.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// Most characters shown of what stands in an archive: it may be anybody's.
const SHOWN_MAX: usize = 120;

/// Kinds of what can be wrong, one for each thing that it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    ClaimUnreadable,
    Claim,
    Chain,
    ClaimMissing,
    ObjectMissing,
    ObjectUnreadable,
    Object,
    Line,
    EventKey,
    Repeated,
    Stray,
    Head,
    Tail,
    Ahead,
}

impl Kind {
    /// For a count: `3 × line`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::ClaimUnreadable => "unreadable claim",
            Kind::Claim => "claim",
            Kind::Chain => "broken link",
            Kind::ClaimMissing => "missing claims",
            Kind::ObjectMissing => "missing object",
            Kind::ObjectUnreadable => "unreadable object",
            Kind::Object => "object",
            Kind::Line => "line",
            Kind::EventKey => "event key",
            Kind::Repeated => "repeated event",
            Kind::Stray => "unclaimed file",
            Kind::Head => "noted head",
            Kind::Tail => "missing tail",
            Kind::Ahead => "unknown tail",
        }
    }

    pub fn meaning(self) -> &'static str {
        match self {
            Kind::ClaimUnreadable => "the claim was damaged or replaced",
            Kind::Claim => "the claim was changed, or is not of this place",
            Kind::Chain => "the claim before it, or this one, was changed or replaced after it was written",
            Kind::ClaimMissing => "claims were removed, and what they claimed cannot be told",
            Kind::ObjectMissing => "the events of this chunk were removed, or never arrived",
            Kind::ObjectUnreadable => "the object was damaged, cut off or replaced",
            Kind::Object => "the object does not hold the events that were claimed",
            Kind::Line => "the line was changed, moved or added after it was written",
            Kind::EventKey => "the event was changed, or its key was",
            Kind::Repeated => "the event is archived twice",
            Kind::Stray => "it was added by somebody else, or its claim was removed",
            Kind::Head => "the newest chunks were removed, or the chain was written anew",
            Kind::Tail => "the newest chunks were removed after they were archived",
            Kind::Ahead => {
                "somebody else has written the newest chunks, or the state directory is an older copy"
            }
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wrong {
    pub kind: Kind,
    /// The chunk it is about.
    pub chunk: u64,
    /// The claim's or object's key; as a person would look it up once it leaves the walk.
    pub place: String,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    pub what: String,
    pub expected: String,
    pub found: String,
    pub meaning: &'static str,
}

impl Wrong {
    pub(super) fn new(kind: Kind, chunk: u64, place: &str, what: &str) -> Wrong {
        Wrong {
            kind,
            chunk,
            place: shown(place),
            line: None,
            what: what.to_owned(),
            expected: String::new(),
            found: String::new(),
            meaning: kind.meaning(),
        }
    }

    pub(super) fn differs(self, expected: impl fmt::Display, found: impl fmt::Display) -> Wrong {
        Wrong { expected: shown(&expected.to_string()), found: shown(&found.to_string()), ..self }
    }

    pub(super) fn on(self, line: u64) -> Wrong {
        Wrong { line: Some(line), ..self }
    }
}

/// `place, line 3: the key is X, where Y was expected: the event was changed, or its key was`.
impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {} is {}, where {} was expected: {}", self.what, self.found, self.expected, self.meaning)
    }
}

/// Without control characters, and cut: it is printed on terminals.
pub(super) fn shown(text: &str) -> String {
    let mut shown: String =
        text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(SHOWN_MAX).is_some() {
        shown.push('…');
    }
    shown
}

/// The first thing that is wrong, and how many of each kind: bounded, however much is wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Of the lowest chunk, and there the one found first.
    pub first: Option<Wrong>,
    pub counts: BTreeMap<Kind, u64>,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    pub(super) fn push(&mut self, wrong: Wrong) {
        *self.counts.entry(wrong.kind).or_default() += 1;
        if self.first.as_ref().is_none_or(|first| wrong.chunk < first.chunk) {
            self.first = Some(wrong);
        }
    }

    pub(super) fn take(&mut self, more: Findings) {
        for (kind, count) in more.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        if let Some(wrong) = more.first
            && self.first.as_ref().is_none_or(|first| wrong.chunk < first.chunk)
        {
            self.first = Some(wrong);
        }
    }
}
